"""The figures of an attempt by name: where each one is found, its unit, and which way is better."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

from msgspec import Struct

from ernie_deploy.bench.journal.record import Attempt
from ernie_deploy.bench.stats import Interval, interval

# To state a p99 with 99 % confidence takes 459 requests with none slower.
P99_REQUESTS = 459
MS_PER_S = 1000.0


class Metric(Struct, frozen=True):
    """One figure: its key is vLLM's where vLLM has it."""

    key: str
    heading: str
    unit: str
    better: Literal["higher", "lower", ""]
    decimals: int = 1

    @property
    def title(self) -> str:
        """`Median TTFT, ms`."""
        return f"{self.heading}, {self.unit}" if self.unit else self.heading


METRICS = {
    metric.key: metric
    for metric in (
        Metric("output_throughput", "Output", "tok/s", "higher"),
        Metric("total_token_throughput", "Input and output", "tok/s", "higher"),
        Metric("request_throughput", "Requests", "req/s", "higher", 2),
        Metric("request_goodput", "Requests within the SLO", "req/s", "higher", 2),
        Metric("tok_s_gpu", "Output per GPU", "tok/s/GPU", "higher"),
        Metric("tok_s_user", "Output per user", "tok/s/user", "higher"),
        Metric("median_ttft_ms", "Median TTFT", "ms", "lower"),
        Metric("mean_ttft_ms", "Mean TTFT", "ms", "lower"),
        Metric("p99_ttft_ms", "p99 TTFT", "ms", "lower"),
        Metric("slowest_ttft_ms", "Slowest TTFT", "ms", "lower"),
        Metric("median_tpot_ms", "Median TPOT", "ms", "lower", 2),
        Metric("mean_tpot_ms", "Mean TPOT", "ms", "lower", 2),
        Metric("p99_tpot_ms", "p99 TPOT", "ms", "lower", 2),
        Metric("slowest_tpot_ms", "Slowest TPOT", "ms", "lower", 2),
        Metric("median_itl_ms", "Median ITL", "ms", "lower", 2),
        Metric("mean_itl_ms", "Mean ITL", "ms", "lower", 2),
        Metric("duration_s", "Duration", "s", ""),
        Metric("mean_concurrency", "Mean in flight", "requests", ""),
        Metric("peak_concurrency", "Most in flight", "requests", "", 0),
        Metric("waiting_peak", "Most waiting", "requests", "", 0),
        Metric("kv_peak_percent", "Most KV cache used", "%", ""),
        Metric("preemptions", "Preemptions", "", "", 0),
        Metric("prefix_hit_percent", "Prefix cache hits", "%", "", 2),
        Metric("acceptance_length", "Acceptance length", "tokens", "higher", 2),
        Metric("floor_ms", "Decode floor", "ms", "", 2),
        Metric("bandwidth_percent", "Bandwidth reached", "%", ""),
    )
}


def value(attempt: Attempt, key: str) -> float | None:
    """One figure of an attempt, or None where it has none."""
    figure_value = FOUND[key](attempt) if key in FOUND else attempt.result.get(key)
    return (
        float(figure_value)
        if isinstance(figure_value, int | float) and not isinstance(figure_value, bool)
        else None
    )


def _slowest_ttft_ms(attempt: Attempt) -> float | None:
    times = [t for t in attempt.result.get("ttfts") or () if isinstance(t, int | float)]
    if times:
        return max(times) * MS_PER_S
    return (
        attempt.derived.ttft_deciles_ms[-1] if attempt.derived and attempt.derived.ttft_deciles_ms else None
    )


def _slowest_tpot_ms(attempt: Attempt) -> float | None:
    lengths = attempt.result.get("output_lens") or ()
    if not attempt.itl or len(lengths) != len(attempt.itl.sums_s):
        return None
    each = [
        s * MS_PER_S / (length - 1)
        for s, length in zip(attempt.itl.sums_s, lengths, strict=True)
        if length > 1
    ]
    return max(each, default=None)


def _derived(key: str) -> Callable[[Attempt], Any]:
    return lambda attempt: getattr(attempt.derived, key, None)


def _peak(key: str, factor: float = 1.0) -> Callable[[Attempt], float | None]:
    def of(attempt: Attempt) -> float | None:
        samples = attempt.server.samples if attempt.server else ()
        return max((getattr(sample, key) * factor for sample in samples), default=None)

    return of


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100.0


FOUND: dict[str, Callable[[Attempt], Any]] = {
    "duration_s": lambda attempt: attempt.result.get("duration"),
    "slowest_ttft_ms": _slowest_ttft_ms,
    "slowest_tpot_ms": _slowest_tpot_ms,
    "waiting_peak": _peak("waiting"),
    "kv_peak_percent": _peak("kv_cache_use", 100.0),
    "preemptions": lambda attempt: attempt.server.delta("num_preemptions") if attempt.server else None,
    "prefix_hit_percent": lambda a: _percent(a.derived.prefix_hit_share if a.derived else None),
    "floor_ms": lambda attempt: attempt.floor.uniform_ms if attempt.floor else None,
    "bandwidth_percent": lambda a: _percent(a.floor.bandwidth_share if a.floor else None),
    **{
        key: _derived(key)
        for key in ("tok_s_gpu", "tok_s_user", "mean_concurrency", "peak_concurrency", "acceptance_length")
    },
}


class Figure(Struct, frozen=True, kw_only=True):
    """One figure over the repeats of a cell; a single repeat has no interval."""

    median: float
    count: int
    interval: Interval | None

    @property
    def half_width_percent(self) -> float | None:
        """Half of the 95 % interval, in percent of the mean."""
        if self.interval is None or not self.interval.mean:
            return None
        return 100.0 * self.interval.half_width_share


def figure(attempts: Sequence[Attempt], key: str) -> Figure | None:
    """The figure `key` over attempts that are repeats of one another."""
    values = [measured for attempt in attempts if (measured := value(attempt, key)) is not None]
    if not values:
        return None
    return Figure(median=statistics.median(values), count=len(values), interval=interval(values))
