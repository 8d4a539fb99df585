"""Quantiles as numpy's linear interpolation has them, so that they equal the ones vLLM prints."""

import math
from collections.abc import Mapping, Sequence

BIN_RATIO = 1.01


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted values, `share` from 0 to 1; 0 where there are none, as vLLM prints it."""
    if not ordered:
        return 0.0
    at = share * (len(ordered) - 1)
    low = ordered[math.floor(at)]
    return low + (ordered[math.ceil(at)] - low) * (at - math.floor(at))


def bin_of(gap_s: float) -> int:
    """Bin of a gap in seconds: k where it lies in [1.01**k, 1.01**(k+1)) us."""
    gap_us = gap_s * 1e6
    return math.floor(math.log(gap_us) / LOG_RATIO) if gap_us > 1.0 else 0


LOG_RATIO = math.log(BIN_RATIO)


def edges_ms(k: int) -> tuple[float, float]:
    """The limits of a bin in ms; the first begins at 0."""
    return (0.0 if k == 0 else BIN_RATIO**k / 1000, BIN_RATIO ** (k + 1) / 1000)


def histogram_quantile_ms(histogram: Mapping[int, int], share: float) -> tuple[float, float]:
    """Between which two figures in ms the quantile of binned gaps lies."""
    at = share * (sum(histogram.values()) - 1)
    return edges_ms(_bin_at(histogram, math.floor(at)))[0], edges_ms(_bin_at(histogram, math.ceil(at)))[1]


def _bin_at(histogram: Mapping[int, int], rank: int) -> int:
    """The bin that holds the gap of this rank, counted from 0."""
    passed = 0
    for k in sorted(histogram):
        passed += histogram[k]
        if rank < passed:
            return k
    return max(histogram, default=0)
