"""The report's first screen: how much of it holds, one sentence for everybody, and what nobody knows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from ernie_deploy.bench.compare.repeats import Group, Series
from ernie_deploy.bench.journal.figures import P99_REQUESTS, figure
from ernie_deploy.bench.journal.record import Environment, Status
from ernie_deploy.bench.report.wording import TIMES, counted, listed, number

STATUSES: tuple[Status, ...] = ("valid", "suspect", "invalid", "failed", "interrupted")
# What a reader must know to believe a figure, by the name a reader knows it by.
TELLING = {
    "image_digest": "image digest",
    "vllm_version": "vLLM version",
    "client_version": "client version",
    "argv": "served command",
    "gpus": "GPU model",
    "driver": "GPU driver",
    "revision": "revision of the weights",
    "coherence": "whether the answers made sense",
}


class Verdict(Struct, frozen=True, kw_only=True):
    """How many measurements hold, in numbers and in words."""

    level: Literal["good", "mixed", "bad"]
    counts: dict[Status, int]
    headline: str
    sentence: str
    unknown: tuple[str, ...]


class Highlight(Struct, frozen=True, kw_only=True):
    """One figure that a reader takes away."""

    heading: str
    figure: str
    unit: str
    context: str


def verdict(measured: Series, odd: int) -> Verdict:
    """The verdict on what one configuration measured, `odd` checks across cells having failed."""
    counts = _counts(measured)
    return Verdict(
        level=_level(counts, odd),
        counts=counts,
        headline=_headline(counts, odd),
        sentence=_sentence(measured),
        unknown=tuple(_unknown(measured)),
    )


def _counts(measured: Series) -> dict[Status, int]:
    counts = Counter(attempt.status for attempt in measured.attempts)
    counts["interrupted"] += sum(len(group.cut) for group in measured.groups)
    return {status: counts[status] for status in STATUSES}


def _level(counts: dict[Status, int], odd: int) -> Literal["good", "mixed", "bad"]:
    if counts["invalid"] or counts["failed"] or not counts["valid"]:
        return "bad"
    return "mixed" if counts["suspect"] or counts["interrupted"] or odd else "good"


def _headline(counts: dict[Status, int], odd: int) -> str:
    total = sum(counts.values())
    across = f" {counted(odd, 'check')} across cells failed." if odd else ""
    if counts["valid"] == total:
        sentence = "The measurement is valid." if total == 1 else f"All {total} measurements are valid."
        return sentence + across
    others = [f"{counts[status]} {status}" for status in STATUSES[1:] if counts[status]]
    return f"{counts['valid']} of {total} measurements valid, {listed(others)}." + across


def _sentence(measured: Series) -> str:
    """What a machine delivers, for somebody who pays for it."""
    if measured.environment.rehearsal:
        return "This was a rehearsal: it shows that the measuring works, and nothing about what a server delivers."
    valid = [group for group in measured.groups if group.standing == "valid"]
    best = max(valid, key=lambda group: _median(group, "output_throughput"), default=None)
    if best is None:
        return "No measurement is valid, so nothing can be said about what this server delivers."
    sentence = (
        f"{machine(measured.environment)} writes up to {number(_median(best, 'output_throughput'), 0)} tokens a second "
        f"({best.name})"
    )
    lone = _quickest(valid)
    if lone is None:
        return f"{sentence}."
    return (
        f"{sentence}; a user alone on it gets {number(_median(lone, 'tok_s_user'), 0)} a second, "
        f"and at that highest output each user gets {number(_median(best, 'tok_s_user'), 0)}."
    )


def _quickest(valid: Sequence[Group]) -> Group | None:
    alone = [group for group in valid if group.cell.num_prompts == 1 and _median(group, "tok_s_user")]
    return max(alone, key=lambda group: _median(group, "tok_s_user"), default=None)


def machine(environment: Environment) -> str:
    """`2 x NVIDIA H200`, or what is known instead."""
    names = sorted(set(environment.gpus))
    count = environment.gpu_count or len(environment.gpus)
    if names and count:
        return f"{count} {TIMES} {' and '.join(names)}"
    if environment.target:
        return f"The node {environment.target}" if environment.target != "cpu" else "The processor"
    return "This server"


def _median(group: Group, key: str) -> float:
    measured = figure(group.usable, key)
    return measured.median if measured else 0.0


def _unknown(measured: Series) -> Iterator[str]:
    """What the figures do not say, the gravest first."""
    hidden = [what for name, what in TELLING.items() if not getattr(measured.environment, name)]
    if hidden:
        yield f"Not seen from here: {listed(hidden, 8)}."
    if all(group.cell.repeat == 1 and len(group.usable) <= 1 for group in measured.groups):
        yield "Each cell was measured once, so how much of a difference is noise is not known."
    if any(group.cell.dataset == "random" for group in measured.groups):
        yield (
            "The prompts are random tokens: real text repeats itself, routes to other experts, ends when it is done "
            "and is accepted more often by speculative decoding."
        )
    if any(group.cell.num_prompts < P99_REQUESTS for group in measured.groups):
        yield f"A p99 takes {P99_REQUESTS} requests to be stated; smaller cells give the slowest request instead."


def highlights(measured: Series) -> Iterator[Highlight]:
    """At most four figures, of valid measurements only; none of a rehearsal."""
    if measured.environment.rehearsal:
        return
    valid = [group for group in measured.groups if group.standing == "valid"]
    if best := max(valid, key=lambda group: _median(group, "output_throughput"), default=None):
        yield _highlight("Highest output", best, "output_throughput", "tok/s", 0)
    if lone := _quickest(valid):
        yield _highlight("A user alone", lone, "tok_s_user", "tok/s", 0)
    alone = [group for group in valid if group.cell.num_prompts == 1]
    if longest := max(alone, key=lambda group: group.cell.input_len, default=None):
        heading = f"First token of {longest.cell.input_len:,} alone"
        yield _highlight(heading, longest, "median_ttft_ms", "ms", 0)
    near = [group for group in valid if _median(group, "bandwidth_percent")]
    if near:
        top = max(near, key=lambda group: _median(group, "bandwidth_percent"))
        yield _highlight(
            "Closest to the decode floor", top, "bandwidth_percent", "% of bandwidth, estimated", 0
        )


def _highlight(heading: str, group: Group, key: str, unit: str, decimals: int) -> Highlight:
    return Highlight(
        heading=heading, figure=number(_median(group, key), decimals), unit=unit, context=group.name
    )
