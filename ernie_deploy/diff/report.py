"""Differences as lines for people and as JSON for programs."""

import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from msgspec import to_builtins

from ernie_deploy.diff.change import SECTIONS, By, Change, Differences
from ernie_deploy.diff.flags import ON

SIGNS = {"added": "+", "removed": "-", "changed": "~", "renamed": "~", "default": "="}
COLOURS = {
    "+": "green", "-": "red", "~": "yellow", "=": "cyan", "+++": "green", "---": "red", "!": "yellow", "##": "cyan",
}  # fmt: skip
OWNERS: dict[By, str] = {
    "user": "## yours: edited since the file was rendered",
    "kit": "## the kit's: what it writes otherwise today",
}
INDENT = "    "


def as_json(differences: Differences) -> str:
    """The whole as one JSON object."""
    data: dict[str, Any] = {"equal": differences.equal, **to_builtins(differences)}
    return json.dumps(data, indent=2, ensure_ascii=False)


def as_text(differences: Differences) -> str:
    """Sections of lines, one a change: `+` added, `-` removed, `~` another value, `=` another default."""
    if differences.equal and not differences.recreated:
        return f"{differences.old} and {differences.new} mean the same."
    head = [f"--- {differences.old}", f"+++ {differences.new}"]
    return "\n".join([*head, *_body(differences)])


def _body(differences: Differences) -> Iterator[str]:
    for by, changes in groupby(differences.changes, key=lambda change: change.by):
        if by:
            yield from ("", OWNERS[by])
        yield from lines(changes)
    yield from _touched(differences)
    if differences.equal:
        yield from ("", "Both mean the same, in other words.")
    if differences.recreated:
        yield from ("", _recreated(differences))
    yield from (f"note: {note}" for note in differences.notes)


def _recreated(differences: Differences) -> str:
    at_once = [name for name in differences.recreated if name not in differences.on_demand]
    later = f"at its next run: {', '.join(differences.on_demand)}" if differences.on_demand else ""
    parts = [f"docker compose up recreates: {', '.join(at_once)}" if at_once else "", later]
    return f"! {'; '.join(part for part in parts if part)}"


def lines(changes: Iterable[Change]) -> Iterator[str]:
    """The changes below the title of their section, each followed by why it matters."""
    for section, group in groupby(changes, key=lambda change: change.section):
        yield from ("", SECTIONS[section])
        for change in group:
            yield line(change)
            if change.why and (change.old or change.new or change.kind != "changed"):
                yield f"{INDENT}{change.why}"


def _touched(differences: Differences) -> Iterator[str]:
    """What another engine does to the kit's own stacks, and to how many of them."""
    if not differences.matrix:
        return
    yield ""
    yield f"the kit's {len(differences.matrix)} stacks, as `render` writes them"
    for each in differences.touched:
        yield line(each.change)
        yield f"{INDENT}{len(each.stacks)} stacks: {each.where}"
    if not differences.touched:
        yield "none of them is another one"


def line(change: Change) -> str:
    """`~ serve --max-model-len: 131072 -> 32768`."""
    name = f"{change.name} -> {change.new_name}" if change.new_name else change.name
    subject = " ".join(part for part in (change.service, name) if part)
    return f"{SIGNS[change.kind]} {subject}{_values(change)}"


def _values(change: Change) -> str:
    if change.kind == "changed" and not change.old and not change.new:
        return f": {change.why}"
    if change.kind not in ("added", "removed") and change.old != change.new:
        absent = "unset" if change.kind == "default" else "any" if change.section == "engine" else '""'
        return f": {change.old or absent} -> {change.new or absent}"
    value = change.old or change.new
    return "" if value in ("", ON) else f": {value}"
