"""What the checks share: reading a figure, comparing two, and putting a verdict with its numbers."""

import math
import re
from collections.abc import Callable, Iterator, Mapping

from ernie_deploy.bench.journal.record import Check, Evidence, Level
from ernie_deploy.bench.journal.rows import Row, completed

Judgement = Callable[[Evidence], Check | None]

# JSON keeps every digit; what is left is the order of summation.
EXACT = 1e-6
# Share of the KV cache above which vLLM may keep requests waiting or preempt them.
KV_FULL = 0.9
STATISTIC = re.compile(r"(mean|median|std|p[\d.]{1,8})_([a-z0-9_]{1,40})_ms")


def number(evidence: Evidence, name: str) -> float | None:
    """A figure of the result as a number, or None where it is absent or none."""
    value = evidence.figures.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def numbers(evidence: Evidence, *names: str) -> tuple[float, ...] | None:
    """All of these figures, or None where one is absent."""
    values = [number(evidence, name) for name in names]
    present = tuple(value for value in values if value is not None)
    return present if len(present) == len(values) else None


def statistics_of(evidence: Evidence, metric: str) -> Iterator[tuple[str, str, float]]:
    """Every printed statistic of one metric: its key, its kind (mean, median, std, p99) and its ms."""
    for key in evidence.figures:
        match = STATISTIC.fullmatch(key)
        if match and match[2] == metric and (value := number(evidence, key)) is not None:
            yield key, match[1], value


def rows_of(evidence: Evidence) -> list[Row]:
    """The completed requests; empty where the lists are not there."""
    return completed(evidence.figures)


def same(one: float, other: float, *, absolute: float = EXACT) -> bool:
    """Whether two figures are equal but for the rounding of their computation."""
    return math.isclose(one, other, rel_tol=EXACT, abs_tol=absolute)


def rate_bounds(count: float, duration_s: float, rounding: float) -> tuple[float, float]:
    """Between which figures count / duration is printed, when both are rounded so."""
    low = count / (duration_s + rounding) - rounding
    high = count / (duration_s - rounding) + rounding if duration_s > rounding else math.inf
    return low - EXACT * abs(low), high + EXACT * abs(high)


def hard(name: str, text: str, *, ok: bool) -> Check:
    """A verdict that makes a record invalid where it fails."""
    return Check(id=name, level="hard", ok=bool(ok), text=text)


def soft(name: str, text: str, *, ok: bool) -> Check:
    """A verdict that makes a record suspect where it fails."""
    return Check(id=name, level="soft", ok=bool(ok), text=text)


def listed(name: str, faults: list[str], good: str, *, level: Level = "hard") -> Check:
    """A verdict on many figures: the first three faults, or what was found good."""
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""  # noqa: PLR2004 - as many as a reader takes in
    text = "; ".join(faults[:3]) + more if faults else good
    return Check(id=name, level=level, ok=not faults, text=text)


def speculative(evidence: Evidence) -> bool:
    """Whether the server drafted tokens during the cell, so that one chunk may hold several."""
    drafts = evidence.server.delta("spec_decode_num_drafts") if evidence.server else None
    return bool(drafts) or bool(evidence.figures.get("spec_decode_num_drafts"))


def extra_chunks(evidence: Evidence) -> int:
    """Stream events of an answer that hold no token: in chat the first one tells the role alone."""
    return 1 if evidence.figures.get("backend") == "openai-chat" else 0


def rehearsed(evidence: Evidence) -> bool:
    """Whether this is a rehearsal, where client and server share few cores and no speed means anything."""
    return evidence.environment is not None and evidence.environment.rehearsal


def differing(recorded: Mapping[str, object], computed: Mapping[str, object]) -> list[str]:
    """Which figures of two tables differ, each with both values."""
    return [
        f"{name} is {recorded[name]} and computes to {computed[name]}"
        for name in recorded
        if not _equal(recorded[name], computed[name])
    ]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return same(float(one), float(other))
    return one == other
