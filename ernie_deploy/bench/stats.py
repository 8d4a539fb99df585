"""Mean, 95 % interval and coefficient of variation of a few repeats."""

import math
import statistics
from collections.abc import Sequence

from msgspec import Struct

# Two-sided 95 %: the 0.975 quantile of Student's t for 1 to 30 degrees of freedom.
# Source: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2, column 0.975.
T_975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Interval(Struct, frozen=True, kw_only=True):
    """A mean with its 95 % confidence interval, in the values' own unit; `cv` is standard deviation over mean."""

    mean: float
    low: float
    high: float
    cv: float
    count: int

    @property
    def half_width_share(self) -> float:
        """Half the interval over the mean: below 0.025 more repeats tell little."""
        return (self.high - self.low) / 2 / abs(self.mean) if self.mean else math.inf

    def disjoint(self, other: "Interval") -> bool:
        """Whether the two intervals have nothing in common."""
        return self.high < other.low or other.high < self.low


def interval(values: Sequence[float]) -> Interval | None:
    """The interval of two or more values; one value has none."""
    if len(values) <= 1:
        return None
    mean, deviation = statistics.fmean(values), statistics.stdev(values)
    half = t_975(len(values) - 1) * deviation / math.sqrt(len(values))
    cv = deviation / abs(mean) if mean else math.inf
    return Interval(mean=mean, low=mean - half, high=mean + half, cv=cv, count=len(values))


def t_975(freedom: int) -> float:
    """Student's t; beyond the table by its expansion around the normal distribution (A&S 26.7.5)."""
    if freedom <= len(T_975):
        return T_975[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
