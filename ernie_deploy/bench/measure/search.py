"""Finds the highest concurrency that still meets a promise: doubling, then bisection."""

from collections.abc import Callable

from ernie_deploy.bench.journal.record import Attempt, Cell

# A search ends when the two sides are this close, in parts of the lower one.
RESOLUTION = 0.05
REQUESTS_PER_SLOT = 4
FEWEST_PROMPTS = 16


def highest(meets: Callable[[int], bool], most: int) -> int:
    """The highest n up to `most` that meets, within 5 %; 0 where 1 does not. `meets` may only fall with n."""
    if not meets(1):
        return 0
    low = 1
    while low < most and meets(high := min(2 * low, most)):
        low = high
    return low if low == most else _between(meets, low, high)


def _between(meets: Callable[[int], bool], low: int, high: int) -> int:
    """Halve the gap between one that meets and one that does not."""
    while high - low > max(1, int(low * RESOLUTION)):
        middle = (low + high) // 2
        low, high = (middle, high) if meets(middle) else (low, middle)
    return low


def probe(shape: tuple[str, int, int], concurrency: int, slo_ms: dict[str, float]) -> Cell:
    """The cell that tries a concurrency: all requests at once, so many in flight."""
    name, input_len, output_len = shape
    return Cell(
        shape=name, input_len=input_len, output_len=output_len, request_rate=None, max_concurrency=concurrency,
        num_prompts=max(FEWEST_PROMPTS, REQUESTS_PER_SLOT * concurrency), goodput=slo_ms,
    )  # fmt: skip


def share_met(attempt: Attempt) -> float:
    """Of a cell's requests, how many met every SLO; from vLLM's own goodput."""
    good, all_of_them = attempt.result.get("request_goodput"), attempt.result.get("request_throughput")
    return float(good) / float(all_of_them) if good and all_of_them else 0.0
