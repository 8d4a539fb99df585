"""Names the cause of a failure from what the host, the kit's scripts and the engine printed.

The most specific line wins over the generic ones that follow it (every log of vLLM ends in the same sentence), and
among equals the last one: a log may tell of several starts.
"""

import re
from collections.abc import Iterator, Sequence
from functools import cache

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.failure_schema import Failure
from ernie_deploy.stack.evidence import Evidence, Line

PLACEHOLDER = re.compile(r"\{(\w{1,40})(?::([^{}]{0,300}))?\}")
# A group's text in a sentence.
MOST_OF_VALUE = 300
# How far from a line its `near` may be found.
NEAR_LINES = 60
RANK = {"cause": 2, "consequence": 1}


class Known(Struct, frozen=True, kw_only=True):
    """A failure that a line proves, its sentences filled in; `kit` has `{render:...}` yet."""

    id: str
    what: str
    next: str
    kit: str
    line: Line
    weight: str


def recognise(evidence: Evidence, catalog: Catalog) -> Known | None:
    """The failure that these lines prove, its sentence filled in; None for an unknown one."""
    known = every(evidence, catalog)
    return max(known, key=rank, default=None)


def rank(known: Known) -> tuple[bool, int]:
    """How much a failure explains, the larger the more: one after which the server came to serve is the least."""
    return not known.line.survived, RANK[known.weight]


def every(evidence: Evidence, catalog: Catalog) -> list[Known]:
    """Each known failure once, by its last line, the last line first."""
    made: dict[str, Known] = {}
    for index in range(len(evidence.lines) - 1, -1, -1):
        failure, match = _first(evidence.lines[index], catalog) or (None, None)
        if failure is None or match is None or failure.id in made or failure.weight == "generic":
            continue
        if _confirmed(failure, evidence.lines) and not _refuted(failure, evidence.lines, index):
            made[failure.id] = _filled(failure, match, evidence.lines, index)
    return list(made.values())


def is_generic(line: Line, catalog: Catalog) -> bool:
    """Whether a line only says that something failed, or is known to be harmless."""
    known = _first(line, catalog)
    return bool(known and known[0].weight == "generic")


def _first(line: Line, catalog: Catalog) -> "tuple[Failure, re.Match[str]] | None":
    for failure in catalog.failures:
        if (match := _match(failure, line)) is not None:
            return failure, match
    return None


def _match(failure: Failure, line: Line) -> "re.Match[str] | None":
    """The match in a line of those who print it; a container's line is matched from its beginning."""
    if line.served and failure.until_serving:
        return None
    if failure.host and line.by in ("host", "any") and (match := compiled(failure.host).search(line.text)):
        return match
    if (
        failure.script
        and line.by in ("script", "any")
        and (match := compiled(failure.script).match(line.text))
    ):
        return match
    if failure.engine and line.by in ("engine", "any") and not line.quiet:
        return compiled(failure.engine).match(line.text)
    return None


@cache
def compiled(pattern: str) -> "re.Pattern[str]":
    """A pattern of the catalog, compiled once; `re` itself keeps too few."""
    return re.compile(pattern)


def _confirmed(failure: Failure, lines: Sequence[Line]) -> bool:
    pattern = failure.confirmed_by
    return not pattern or any(
        compiled(pattern).match(line.text) for line in lines if line.by in ("engine", "any")
    )


def _refuted(failure: Failure, lines: Sequence[Line], index: int) -> bool:
    """Whether what stands before a line says that it is over: the conditions of a pod above its events."""
    if not failure.refuted_by:
        return False
    before = lines[max(0, index - NEAR_LINES) : index]
    return any(compiled(failure.refuted_by).match(line.text) for line in before)


def _filled(failure: Failure, match: "re.Match[str]", lines: Sequence[Line], index: int) -> Known:
    values = {**_nearby(failure, lines, index), **_values(match)}
    return Known(
        id=failure.id,
        what=_with(failure.what, values),
        next=_with(failure.next, values),
        kit=_with(failure.kit or failure.next, values),
        line=lines[index],
        weight=failure.weight,
    )


def _values(match: "re.Match[str]") -> dict[str, str]:
    """The groups that have text, by their names without the digits that tell alternatives apart."""
    groups = match.groupdict().items()
    # What is printed must not be taken for a place that the table leaves for a command.
    texts = (
        (name, text.strip().rstrip(" .,:;")[:MOST_OF_VALUE].replace("{render", "{ render"))
        for name, text in groups
        if text
    )
    return {name.rstrip("0123456789"): text for name, text in texts}


def _nearby(failure: Failure, lines: Sequence[Line], index: int) -> dict[str, str]:
    if not failure.near:
        return {}
    around = range(max(0, index - NEAR_LINES), min(len(lines), index + NEAR_LINES))
    pattern, values = compiled(failure.near), dict[str, str]()
    for place in sorted(around, key=lambda place: abs(place - index)):
        if match := pattern.search(lines[place].text):
            values = {**_values(match), **values}
    return values


def _with(sentence: str, values: dict[str, str]) -> str:
    def text(place: "re.Match[str]") -> str:
        name, otherwise = place.groups()
        return (
            place[0]
            if name == "render"
            else values.get(name, otherwise if otherwise is not None else "(unnamed)")
        )

    return PLACEHOLDER.sub(text, sentence)


def placeholders(sentence: str) -> Iterator[str]:
    """The names that a sentence wants."""
    return (place[1] for place in PLACEHOLDER.finditer(sentence))
