"""Differences as lines for people and as JSON for programs."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from msgspec import to_builtins

from ernie_deploy.diff.change import SECTIONS, Change, Differences
from ernie_deploy.diff.flags import ON

SIGNS = {"added": "+", "removed": "-", "changed": "~", "renamed": "~", "default": "="}
COLOURS = {"+": "green", "-": "red", "~": "yellow", "=": "cyan"}
INDENT = "    "


def as_json(differences: Differences) -> str:
    """The whole as one JSON object."""
    data: dict[str, Any] = {"equal": differences.equal, **to_builtins(differences)}
    return json.dumps(data, indent=2, ensure_ascii=False)


def as_text(differences: Differences) -> str:
    """Sections of lines, one a change: `+` added, `-` removed, `~` another value, `=` another default."""
    head = [f"--- {differences.old}", f"+++ {differences.new}"]
    return "\n".join([*head, *_body(differences)])


def _body(differences: Differences) -> Iterator[str]:
    yield from lines(differences.changes)
    yield from _recreated(differences)
    for note in differences.notes:
        yield f"note: {note}"


def lines(changes: tuple[Change, ...]) -> Iterator[str]:
    """The changes below the title of their section, each followed by why it matters."""
    for section, group in groupby(changes, key=lambda change: change.section):
        yield ""
        yield SECTIONS[section]
        for change in group:
            yield line(change)
            if change.why:
                yield f"{INDENT}{change.why}"


def line(change: Change) -> str:
    """`~ serve --max-model-len: 131072 -> 32768`."""
    name = change.new_name and f"{change.name} -> {change.new_name}"
    subject = " ".join(part for part in (change.service, name or change.name) if part)
    return f"{SIGNS[change.kind]} {subject}{_values(change)}"


def _values(change: Change) -> str:
    if change.kind in ("changed", "default", "renamed") and change.old != change.new:
        return f": {change.old or 'none'} -> {change.new or 'none'}"
    value = change.old or change.new
    return "" if value in ("", ON) else f": {value}"


def _recreated(differences: Differences) -> Iterator[str]:
    if not differences.recreated:
        return
    yield ""
    yield "docker compose up"
    yield f"! makes anew: {', '.join(differences.recreated)}"
