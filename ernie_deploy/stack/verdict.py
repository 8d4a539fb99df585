"""What `explain` says of a text or a stack: the cause with its evidence and the next step, or that it is unknown."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.safe_io.secret_masks import masked
from ernie_deploy.stack.evidence import Evidence, Line
from ernie_deploy.stack.failures import Known, compiled, every, rank
from ernie_deploy.stack.rendered import Rendered
from ernie_deploy.stack.unknown import Unknown, unknown

RENDER = r"\{render:([^{}]{0,300})\}"
MOST_OF_EVIDENCE = 400
SURVIVED = "an earlier start: the server went on to serve after this line"
KIT_ERROR, KIT_NEXT, KIT_CAUSE = "error: ", "next:", "cause:"


class Verdict(Struct, frozen=True, kw_only=True):
    """A known cause, or what is known of an unknown one; `also` are other causes in the same text, `empty` is one without a line."""

    known: Known | None
    next: str
    also: tuple[Known, ...]
    unknown: Unknown | None
    served: bool
    empty: bool = False


def judge(evidence: Evidence, catalog: Catalog, rendered: Rendered | None = None) -> Verdict:
    """The verdict on some lines; `rendered` is the stack's file where the kit made it."""
    named = sorted(every(evidence, catalog), key=rank, reverse=True)
    known = _of_kit(evidence.lines, named) or (named[0] if named else None)
    return Verdict(
        known=known,
        next=next_step(known, rendered) if known else "",
        also=tuple(one for one in named if one is not known and one.weight == "cause"),
        unknown=None if known else unknown(evidence.lines, catalog),
        served=evidence.served,
        empty=not evidence.lines,
    )


def next_step(known: Known, rendered: Rendered | None) -> str:
    """What to do, in the words of the rendered file where there is one."""
    if rendered is None:
        return known.next
    return compiled(RENDER).sub(lambda place: rendered.again(place[1]), rendered.named(known.kit))


def _of_kit(lines: Sequence[Line], named: Sequence[Known]) -> Known | None:
    """The kit's own error, which names its next step itself, where no known cause comes after it."""
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        after = [one.text for one in lines[index + 1 : index + 4]]
        step = next((text for text in after if text.startswith(KIT_NEXT)), "")
        if line.text.startswith(KIT_ERROR) and step:
            if any(one.weight == "cause" and one.line.number > line.number for one in named):
                return None
            what, step = line.text.removeprefix(KIT_ERROR), step.removeprefix(KIT_NEXT).strip()
            return Known(id="kit", what=what, next=step, kit=step, line=line, weight="cause")
    return None


def as_data(verdict: Verdict) -> dict[str, Any]:
    """The verdict as plain data."""
    known, other = verdict.known, verdict.unknown
    return {
        "recognised": known is not None,
        "id": known.id if known else None,
        "what": masked(known.what) if known else None,
        "evidence": _evidence(known.line if known else other.exception if other else None),
        "next": masked(verdict.next) if known else None,
        "also": [
            {"id": one.id, "what": masked(one.what), "evidence": _evidence(one.line)} for one in verdict.also
        ],
        "search": list(other.search) if other else [],
        "served": verdict.served,
        "survived": bool(known and known.line.survived),
    }


def _evidence(line: Line | None) -> dict[str, Any] | None:
    if line is None:
        return None
    return {"line": line.number or None, "container": line.name or None, "text": shown(line)}


def shown(line: Line) -> str:
    """A line as it may be shown: no secrets, and no longer than a few lines of a terminal."""
    text = masked(line.text)
    return text if len(text) <= MOST_OF_EVIDENCE else f"{text[:MOST_OF_EVIDENCE]}..."


def as_text(verdict: Verdict) -> str:
    """The verdict as a few lines."""
    if verdict.known is None:
        return "\n".join(_unknown(verdict))
    known = verdict.known
    lines = [
        f"{known.id}: {masked(known.what)}",
        f"  {_place(known.line)}: {shown(known.line)}",
        f"  next: {masked(verdict.next)}",
    ]
    if known.line.survived:
        lines.insert(2, f"  {SURVIVED}")
    lines += [f"  also: {one.id} ({_place(one.line)})" for one in verdict.also[:3]]
    return "\n".join(lines)


def _place(line: Line) -> str:
    number = f"line {line.number}" if line.number else "Docker"
    return f"{line.name}, {number}" if line.name else number


def _unknown(verdict: Verdict) -> list[str]:
    other = verdict.unknown
    if verdict.empty:
        return ["nothing to explain: every container is well, or the text is empty"]
    if other is None or other.exception is None:
        served = "; the server did start" if verdict.served else ""
        return [f"unknown: no failure that the table knows, and no exception, stands in this text{served}"]
    lines = [
        "unknown: the table has no failure for this text",
        f"  last exception, {_place(other.exception)}: {shown(other.exception)}",
        "  worth searching for:",
    ]
    return lines + [f"    {text}" for text in other.search]
