"""The requests of a result, one row each, from the lists that vLLM's client saves."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

from msgspec import Struct

LISTS = ("input_lens", "output_lens", "ttfts", "latencies", "start_times", "errors")


class Row(Struct, frozen=True, kw_only=True):
    """One request; times in seconds, `start_s` on the client's monotonic clock.

    `index` is its place in every list. `queue_s` is how long the client itself held it back.
    """

    index: int
    start_s: float
    ttft_s: float
    latency_s: float
    queue_s: float
    input_tokens: int
    output_tokens: int
    error: str

    @property
    def arrival_s(self) -> float:
        """When the client wanted to send it."""
        return self.start_s - self.queue_s

    @property
    def first_s(self) -> float:
        """When its first token came."""
        return self.start_s + self.ttft_s

    @property
    def end_s(self) -> float:
        """When its last token came."""
        return self.start_s + self.latency_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token after the first; None where there is but one."""
        return (self.latency_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None


def rows(result: Mapping[str, Any]) -> list[Row]:
    """Every request, or nothing where a list is missing or as long as no other."""
    lists = [result.get(name) for name in LISTS]
    if not all(isinstance(values, list) and len(values) == len(lists[0] or ()) for values in lists):
        return []
    inputs, outputs, ttfts, latencies, starts, errors = (values or [] for values in lists)
    queues = result.get("queue_times") or [0.0] * len(starts)
    return [
        Row(index=i, start_s=start, ttft_s=ttft, latency_s=latency, queue_s=queue,
            input_tokens=tokens_in, output_tokens=tokens_out, error=error)
        for i, (start, ttft, latency, queue, tokens_in, tokens_out, error) in enumerate(
            zip(starts, ttfts, latencies, queues, inputs, outputs, errors, strict=False)
        )
    ]  # fmt: skip


def completed(result: Mapping[str, Any]) -> list[Row]:
    """The requests that gave a token: vLLM gives a failed one the length 0."""
    return [row for row in rows(result) if row.output_tokens and not row.error]


def peak_concurrency(done: Sequence[Row]) -> int:
    """The most requests in flight at once, by a sweep over sends and ends; an end comes before a send."""
    events = sorted(chain(((r.start_s, 1) for r in done), ((r.end_s, -1) for r in done)))
    return max(accumulate(change for _, change in events), default=0)


def mean_decoding(done: Iterable[Row], duration_s: float) -> float:
    """How many requests were past their first token, averaged over the cell."""
    return sum(row.latency_s - row.ttft_s for row in done) / duration_s if duration_s > 0 else 0.0
