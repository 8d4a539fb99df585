"""The one way out to standard output and error: what is not the kit's own cannot steer the terminal that shows it."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

from ernie_deploy.safe_io.redaction import redacted

if TYPE_CHECKING:
    from rich.console import Console

# Line ends and tabs, and the spaces that `str.isprintable` refuses: they hide and steer nothing.
KEPT = frozenset("\n\t\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}\N{THIN SPACE}\N{IDEOGRAPHIC SPACE}")
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
COLOURS = {"red": "\x1b[31m", "green": "\x1b[32m", "yellow": "\x1b[33m", "cyan": "\x1b[36m"}


class _Shown(dict[int, str]):
    """A table for `str.translate`, filled as characters come: the printable stay, the others are spelt out."""

    def __init__(self, spell: Callable[[str], str]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, code: int) -> str:
        character = chr(code)
        printable = character.isprintable() or character in KEPT
        self[code] = character if printable else self._spell(character)
        return self[code]


def _as_python(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _as_json(character: str) -> str:
    import json

    # json leaves DEL as it is.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


_TEXT, _JSON = _Shown(_as_python), _Shown(_as_json)


def clean(text: str) -> str:
    r"""`text` with every control, bidi mark, invisible character and lone surrogate spelt out, as in `\x1b[2J`.

    Line feeds and tabs stay; text without any of these comes back unchanged.
    """
    return text if text.isprintable() else text.translate(_TEXT)


def say(
    text: str, *, err: bool = False, end: str = "\n", stream: TextIO | None = None, as_json: bool = False
) -> None:
    """Print `text`, cleaned, to standard output, to standard error or to `stream`.

    Standard error is for people, so a password in a URL is blanked out there.
    A JSON document is cleaned by escapes of JSON's own, so that it reads back the same.
    """
    out = stream or (sys.stderr if err else sys.stdout)
    text = redacted(text) if out is sys.stderr else text
    cleaned = text.translate(_JSON) if as_json else clean(text)
    _write(out, _encodable(cleaned, out, _as_json if as_json else _as_python) + end)


def confirm(question: str) -> None:
    """Ask on standard error; raises `click.Abort` unless the answer is yes."""
    import click

    click.confirm(clean(question), abort=True, err=True)


def say_coloured(text: str, colours: Mapping[str, str]) -> None:
    """Print `text`; on a terminal, lines that begin with a word of `colours` have it in that colour (COLOURS)."""
    shown = _encodable(clean(redacted(text)), sys.stdout, _as_python)
    if in_colour(sys.stdout):
        shown = "\n".join(_coloured(line, colours) for line in shown.split("\n"))
    _write(sys.stdout, f"{shown}\n")


def say_table(text: str) -> None:
    """Print a table; on a terminal its first line is bold."""
    shown = _encodable(clean(text), sys.stdout, _as_python)
    first, _, rest = shown.partition("\n")
    _write(sys.stdout, f"{BOLD}{first}{PLAIN}\n{rest}\n" if in_colour(sys.stdout) else f"{shown}\n")


def in_colour(stream: TextIO) -> bool:
    """Whether `stream` is a terminal whose user wants colour."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def console(stream: TextIO) -> "Console":
    """A console of rich's whose own sequences reach the terminal, and no others."""
    from rich.console import Console
    from rich.segment import Segment

    class Clean(Console):
        def _render_buffer(self, buffer: Iterable[Segment]) -> str:
            return super()._render_buffer(
                segment if segment.control else segment._replace(text=clean(segment.text))
                for segment in buffer
            )

    return Clean(file=stream, highlight=False)


def _coloured(line: str, colours: Mapping[str, str]) -> str:
    word, space, rest = line.partition(" ")
    return f"{COLOURS[colours[word]]}{word}{PLAIN}{space}{rest}" if word in colours else line


def _encodable(text: str, out: TextIO, spell: Callable[[str], str]) -> str:
    encoding = out.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(c if c.isascii() else spell(c) for c in text)
    return text


def _write(out: TextIO, text: str) -> None:
    try:
        out.write(text)
        out.flush()
    except OSError:
        # Nobody can be told that standard error is full or closed, and the work itself may go on.
        if out is not sys.stderr:
            raise
        # What stays in its buffer would fail once more at the end, and change the exit code.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())
