"""Checks that compute every printed aggregate again from the lists of single requests."""

import math
import statistics
from collections.abc import Sequence
from itertools import accumulate, chain

from ernie_deploy.bench.journal.record import Check, Evidence, InterTokenLatency
from ernie_deploy.bench.journal.rows import Row
from ernie_deploy.bench.quantiles import edges_ms, histogram_quantile_ms, quantile
from ernie_deploy.bench.validity.basis import hard, listed, number, rows_of, same, statistics_of

# A bin's middle is off by half of its hundredth.
BIN_ERROR = 0.006


def ttft(evidence: Evidence) -> Check | None:
    """Statistics of TTFT."""
    return _recomputed(evidence, "ttft", [row.ttft_s for row in rows_of(evidence)])


def tpot(evidence: Evidence) -> Check | None:
    """Statistics of TPOT, of the answers with more than one token."""
    tpots_s = [row.tpot_s for row in rows_of(evidence)]
    return _recomputed(evidence, "tpot", [value for value in tpots_s if value is not None])


def latency(evidence: Evidence) -> Check | None:
    """Statistics of the end-to-end latency."""
    return _recomputed(evidence, "e2el", [row.latency_s for row in rows_of(evidence)])


def queue(evidence: Evidence) -> Check | None:
    """Statistics of the time the client held requests back."""
    return _recomputed(evidence, "client_queue_time", [row.queue_s for row in rows_of(evidence)])


def latency_with_queue(evidence: Evidence) -> Check | None:
    """Statistics of the latency with that time."""
    values = [row.latency_s + row.queue_s for row in rows_of(evidence)]
    return _recomputed(evidence, "e2el_including_client_queue", values)


def _recomputed(evidence: Evidence, metric: str, values_s: Sequence[float]) -> Check | None:
    printed = list(statistics_of(evidence, metric))
    if not values_s or not printed:
        return None
    ordered = sorted(1000 * value for value in values_s)
    expected = {kind: _statistic(ordered, kind) for _, kind, _ in printed}
    faults = [
        f"{key} is {value:.4f} and computes to {expected[kind]:.4f}"
        for key, kind, value in printed
        if not same(value, expected[kind])
    ]
    good = f"{len(printed)} statistics of {len(ordered)} requests compute to the same"
    return listed(f"recomputed-{metric.replace('_', '-')}", faults, good)


def _statistic(ordered: Sequence[float], kind: str) -> float:
    if kind == "mean":
        return statistics.fmean(ordered)
    if kind == "std":
        return statistics.pstdev(ordered)
    return quantile(ordered, 0.5 if kind == "median" else float(kind[1:]) / 100)


def itl(evidence: Evidence) -> Check | None:
    """Statistics of ITL, from what is kept of the gaps: the mean exactly, the others within a bin of 1 %."""
    if not (kept := evidence.itl) or not sum(kept.counts):
        return None
    printed = list(statistics_of(evidence, "itl"))
    bounds = {kind: _itl_bounds(kept, kind) for _, kind, _ in printed}
    faults = [
        f"{key} is {value:.4f} and lies between {bounds[kind][0]:.4f} and {bounds[kind][1]:.4f}"
        for key, kind, value in printed
        if not bounds[kind][0] <= value <= bounds[kind][1]
    ]
    return listed("recomputed-itl", faults, f"{len(printed)} statistics of {sum(kept.counts):,} gaps agree")


def _itl_bounds(kept: InterTokenLatency, kind: str) -> tuple[float, float]:
    if kind == "mean":
        mean = 1000 * math.fsum(kept.sums_s) / sum(kept.counts)
        return mean * (1 - 1e-6), mean * (1 + 1e-6)
    if kind == "std":
        return _std_bounds(kept)
    low, high = histogram_quantile_ms(kept.histogram, 0.5 if kind == "median" else float(kind[1:]) / 100)
    return low * (1 - 1e-6), high * (1 + 1e-6)


def _std_bounds(kept: InterTokenLatency) -> tuple[float, float]:
    """Each gap moved to its bin's middle moves the deviation by no more than their root mean square."""
    middles = {k: sum(edges_ms(k)) / 2 for k in kept.histogram}
    count = sum(kept.histogram.values())
    mean = math.fsum(middles[k] * times for k, times in kept.histogram.items()) / count
    square = math.fsum(middles[k] ** 2 * times for k, times in kept.histogram.items()) / count
    std, error = math.sqrt(max(0.0, square - mean**2)), BIN_ERROR * math.sqrt(square)
    return std - error, std + error


def max_concurrent_requests(evidence: Evidence) -> Check | None:
    """vLLM's own peak: requests that touch one second, more than were ever in flight at once."""
    printed, done = number(evidence, "max_concurrent_requests"), rows_of(evidence)
    if printed is None or not done:
        return None
    computed = _most_in_a_second(done)
    text = f"{printed:g} requests touch one second, computed {computed}"
    return hard("max-concurrent-requests", text, ok=printed == computed)


def _most_in_a_second(done: Sequence[Row]) -> int:
    """Sweeps over the seconds in which requests begin and after which they end."""
    origin = min(row.start_s for row in done)
    begun = ((int(row.start_s - origin), 1) for row in done)
    ended = ((int(row.end_s - origin) + 1, -1) for row in done)
    return max(accumulate(change for _, change in sorted(chain(begun, ended))))


def max_output_tokens(evidence: Evidence) -> Check | None:
    """The best second: at least the average one, at most what its requests can give with the shortest gap."""
    printed, done, kept = number(evidence, "max_output_tokens_per_s"), rows_of(evidence), evidence.itl
    if printed is None or not done or not kept:
        return None
    chunks = sum(kept.counts) + len(done)
    seconds = math.ceil(max(row.end_s for row in done) - min(row.start_s for row in done)) + 1
    gap_ms = edges_ms(min(kept.histogram, default=0))[0]
    most = _most_in_a_second(done) * (1000 / gap_ms + 2) if gap_ms else chunks
    low, high = chunks / seconds, min(chunks, most)
    text = f"{printed:g} stream events in the best second, possible are {low:,.0f} to {high:,.0f}"
    return hard("max-output-tokens", text, ok=low <= printed <= high)


def goodput(evidence: Evidence) -> Check | None:
    """Requests/s that met every SLO of the cell."""
    printed, duration_s = number(evidence, "request_goodput"), number(evidence, "duration")
    done, slos = rows_of(evidence), evidence.cell.goodput
    if not slos or not done or not duration_s:
        return None
    good = sum(all(_took_ms(row, name) <= limit for name, limit in slos.items()) for row in done)
    text = f"goodput {printed} requests/s, {good} of {len(done)} requests met {slos}"
    return hard("goodput", text, ok=printed is not None and same(printed, good / duration_s))


def _took_ms(row: Row, name: str) -> float:
    seconds = {"ttft": row.ttft_s, "tpot": row.tpot_s or 0.0, "e2el": row.latency_s}
    return 1000 * seconds[name]
