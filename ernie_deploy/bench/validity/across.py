"""Checks across the cells of one shape: more load makes no token and no first token come sooner."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import msgspec

from ernie_deploy.bench.journal.record import Attempt, Check
from ernie_deploy.bench.validity.basis import KV_FULL

TOLERANCE = 0.03
# A first token of a short prompt comes in tens of ms, which vary more.
TTFT_TOLERANCE = 0.10

Pairwise = Callable[[Attempt, Attempt], Check | None]


def across(attempts: Iterable[Attempt]) -> dict[str, tuple[Check, ...]]:
    """For each identity what is odd against the next smaller num-prompts of its shape and repeat.

    An attempt without figures is left out; the smallest of each shape has nothing to be compared with.
    """
    by_identity: dict[str, tuple[Check, ...]] = {}
    for ladder in _ladders(attempts):
        for smaller, larger in pairwise(ladder):
            checks = (compare(smaller, larger) for compare in COMPARISONS)
            by_identity[larger.identity] = tuple(check for check in checks if check is not None)
    return by_identity


def _ladders(attempts: Iterable[Attempt]) -> list[list[Attempt]]:
    """Attempts that differ in num-prompts alone, fewest first; of several of one identity the last."""
    ladders: dict[bytes, dict[int, Attempt]] = {}
    for attempt in attempts:
        if attempt.status in ("valid", "suspect"):
            key = msgspec.json.encode(msgspec.structs.replace(attempt.cell, num_prompts=0), order="sorted")
            ladders.setdefault(key, {})[attempt.cell.num_prompts] = attempt
    return [[ladder[n] for n in sorted(ladder)] for ladder in ladders.values()]


def tpot(smaller: Attempt, larger: Attempt) -> Check | None:
    """TPOT does not fall: a larger batch reads more experts and more KV cache in each step."""
    return _not_below(smaller, larger, "mean_tpot_ms", TOLERANCE)


def output_throughput(smaller: Attempt, larger: Attempt) -> Check | None:
    """Output throughput does not fall, until requests wait for KV cache or a place in the batch."""
    return None if _limited(larger) else _not_below(smaller, larger, "output_throughput", TOLERANCE)


def ttft(smaller: Attempt, larger: Attempt) -> Check | None:
    """TTFT does not fall; where it does, prompts were cached, kernels were cold, or another server answered."""
    return _not_below(smaller, larger, "median_ttft_ms", TTFT_TOLERANCE)


def server_start(smaller: Attempt, larger: Attempt) -> Check | None:
    """Both were measured in one start of the server, unless each cell was to have its own."""
    if larger.cell.cold == "restart":
        return None
    one = smaller.environment == larger.environment
    text = f"n={smaller.cell.num_prompts} and n={larger.cell.num_prompts} of {larger.cell.shape} were measured in "
    return _soft(
        "across-server-start", text + ("one start" if one else "different starts") + " of the server", ok=one
    )


COMPARISONS: Sequence[Pairwise] = (tpot, output_throughput, ttft, server_start)


def _not_below(smaller: Attempt, larger: Attempt, figure: str, tolerance: float) -> Check | None:
    before, after = smaller.result.get(figure), larger.result.get(figure)
    if not before or not after:
        return None
    low, high = smaller.cell.num_prompts, larger.cell.num_prompts
    text = f"{larger.cell.shape} {figure}: {before:.2f} at n={low}, {after:.2f} at n={high} ({after / before - 1:+.1%})"
    name = "across-" + figure.removesuffix("_ms").replace("_", "-")
    return _soft(name, text, ok=after >= before * (1 - tolerance))


def _limited(attempt: Attempt) -> bool:
    """Whether the KV cache was full or requests waited while others ran."""
    seen = attempt.server.samples if attempt.server else ()
    return any(sample.kv_cache_use >= KV_FULL or sample.waiting > sample.running for sample in seen)


def _soft(name: str, text: str, *, ok: bool) -> Check:
    return Check(id=name, level="soft", ok=ok, text=text)
