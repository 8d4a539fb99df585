"""Quantiles of a histogram's buckets, by the very arithmetic of Prometheus' `histogram_quantile`."""

import math
from collections.abc import Mapping

Buckets = Mapping[float, float]


def quantile(share: float, buckets: Buckets) -> float | None:
    """The quantile of cumulative counts by upper bound, `+Inf` among them; None where nothing was observed.

    As `bucketQuantile` of Prometheus' promql/quantile.go: linear within a bucket, the first from 0, and the last
    finite bound for what lies beyond it. A count that falls, as torn reads have it, is taken for the one before.
    """
    if not 0 < share <= 1:
        raise ValueError(f"{share} is no share of the observations above 0")
    bounds = sorted(buckets)
    if len(bounds) < 2 or bounds[-1] != math.inf:  # noqa: PLR2004 - a finite one and +Inf
        return None
    counts = _monotonic([buckets[bound] for bound in bounds])
    if not counts[-1]:
        return None
    rank = share * counts[-1]
    place = next((at for at, count in enumerate(counts[:-1]) if count >= rank), len(counts) - 1)
    if place == len(counts) - 1:
        return bounds[-2]
    if not place and bounds[0] <= 0:
        return bounds[0]
    start, before = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    return start + (bounds[place] - start) * ((rank - before) / (counts[place] - before))


def _monotonic(counts: list[float]) -> list[float]:
    highest, kept = -math.inf, []
    for count in counts:
        highest = max(highest, count)
        kept.append(highest)
    return kept
