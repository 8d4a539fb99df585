"""Tables that fit the terminal: columns are dropped until the rest fits, and no cell is ever cut."""

import os
import shutil
import textwrap
from collections.abc import Sequence
from typing import TextIO

from msgspec import Struct

GAP = "  "
# Below this a sentence is a word a line.
NARROWEST_TEXT = 24


class Column(Struct, frozen=True, kw_only=True):
    """A heading and how its cells stand; columns with the highest `drop` go first, those with 0 stay.

    A column that `wraps` holds sentences, which may go over several lines.
    """

    heading: str
    right: bool = False
    drop: int = 0
    wraps: bool = False


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal behind `stream`, or those that COLUMNS says; None where nobody reads on a screen."""
    if not (stream.isatty() or os.environ.get("COLUMNS", "").isdigit()):
        return None
    return shutil.get_terminal_size((80, 24)).columns


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """The lines of a table, its headings first; what does not fit `width` is named in a last line."""
    kept = _kept(columns, rows, width)
    dropped = [column.heading for at, column in enumerate(columns) if at not in kept]
    lines = _lines([columns[at] for at in kept], [[row[at] for at in kept] for row in rows], width)
    return [*lines, *_dropped(dropped, width)]


def _kept(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[int]:
    """The columns that fit: those that stay, then each other one that there is room for, the dearest first."""
    kept = [at for at, column in enumerate(columns) if not column.drop]
    others = sorted((at for at, column in enumerate(columns) if column.drop), key=lambda at: columns[at].drop)
    for at in others:
        tried = sorted([*kept, at])
        if width is None or _least_width(columns, rows, tried) <= width:
            kept = tried
    return kept


def _least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    """What these columns take when their sentences are as narrow as may be."""
    widths = [_width(columns[at], [row[at] for row in rows]) for at in kept]
    least = [
        min(width, NARROWEST_TEXT) if columns[at].wraps else width
        for at, width in zip(kept, widths, strict=True)
    ]
    return sum(least) + len(GAP) * (len(least) - 1)


def _width(column: Column, cells: Sequence[str]) -> int:
    return max(len(column.heading), *(len(cell) for cell in cells)) if cells else len(column.heading)


def _lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    widths = [_width(column, [row[at] for row in rows]) for at, column in enumerate(columns)]
    if width is not None:
        over = sum(widths) + len(GAP) * (len(widths) - 1) - width
        for at, column in enumerate(columns):
            if column.wraps and over > 0:
                widths[at] = max(NARROWEST_TEXT, widths[at] - over)
    headings = [column.heading for column in columns]
    return [line for row in [headings, *rows] for line in _row(columns, row, widths)]


def _row(columns: Sequence[Column], row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row; of a cell that wraps each further line stands below the first."""
    cells = [
        folded(cell, size) if column.wraps else [cell]
        for column, cell, size in zip(columns, row, widths, strict=True)
    ]
    return [
        GAP.join(
            text.rjust(size) if column.right else text.ljust(size)
            for column, text, size in zip(columns, _nth(cells, at), widths, strict=True)
        ).rstrip()
        for at in range(max(map(len, cells)))
    ]


def _nth(cells: Sequence[Sequence[str]], at: int) -> list[str]:
    return [cell[at] if at < len(cell) else "" for cell in cells]


def folded(text: str, width: int, indent: str = "") -> list[str]:
    """`text` in lines of at most `width`, broken at spaces alone; a longer word stays whole."""
    if len(text) <= width:
        return [text]
    lines = textwrap.wrap(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return lines or [""]


def _dropped(headings: Sequence[str], width: int | None) -> list[str]:
    if not headings or width is None:
        return []
    return folded(f"(too narrow for {', '.join(headings)}; --json has everything)", width)
