"""What of a log may prove why something failed, line by line, with who printed it.

The API opens its port when uvicorn says so. From then on a client's words may stand anywhere in the log, at the
beginning of a line too (a traceback prints what was raised as it is), so a start's evidence ends there. A text that
a user hands over may tell of a later death: of that part, only what vLLM's own logger wrote counts.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.stack.log_prefixes import ESCAPES, MOST_CHARACTERS, Peeled, message, peeled

Source = Literal["host", "script", "engine", "any"]
# uvicorn's last words before it listens.
SERVING = "Application startup complete."
# vLLM's first words in a process: the same log may have several starts.
STARTS = re.compile(
    r"^(?:vLLM API server version |non-default args: |serve: \S|Automatically detected platform )"
)
SCRIPTS = (
    "api-key: ", "fetch: ", "packages: ", "judge: ", "import: ", "serve: ", "node: ", "beacon: ", "canary: ",
)  # fmt: skip
# The access log of uvicorn, and of what may stand before it: an address, then the quoted request; and the gateway's
# (templates/gateway/log.cfg.j2), an object a request.
ACCESS = re.compile(
    r'^(?:(?:INFO: {1,9})?\S{1,100} -[^"]{0,100} "(?:[A-Z]{1,20}|-)[ "]'
    r'|\{"time": ?\d{1,12}\.\d{3}, ?"request_id": ?")'
)
# What Python raised or warned of is no line of Docker's.
RAISED = re.compile(r"^[\w.]{1,200}(?:Error|Exception|Warning|Interrupt|Exit): ")
# What no error is logged at.
QUIET = {"DEBUG", "INFO", "TRACE"}
# Of a text: its end is what counts.
MOST_LINES = 20_000


class Line(Struct, frozen=True, kw_only=True):
    """One line as it was printed, without what others wrote before it; `number` counts from 1.

    `level` is what its logger calls it, `served` what came after the API had opened, and `survived` what the same
    container printed before it opened its API.
    """

    text: str
    by: Source
    number: int = 0
    name: str = ""
    level: str = ""
    served: bool = False
    survived: bool = False

    @property
    def quiet(self) -> bool:
        """Whether its own logger calls it no more than information."""
        return self.level in QUIET


class Evidence(Struct, frozen=True):
    """Lines in the order they were printed."""

    lines: tuple[Line, ...] = ()

    @property
    def served(self) -> bool:
        """Whether a server's API had opened before the text ends."""
        return any(line.served or line.text.endswith(SERVING) for line in self.lines)


def gathered(docker: str = "", logs: Iterable[str] = ()) -> Evidence:
    """The evidence in what Docker printed and in containers' logs of one start each."""
    own = tuple(Line(text=text, by="host") for text in cut(docker))
    return Evidence(own + tuple(line for log in logs for line in _of_start(log)))


def _of_start(log: str) -> Iterator[Line]:
    for number, raw in before_serving(log):
        one = message(raw)
        yield Line(text=one.text.strip(), by=_author(raw, "engine"), number=number, level=one.level)


def _author(text: str, otherwise: Source) -> Source:
    return "script" if text.startswith(SCRIPTS) else otherwise


def of_text(text: str) -> Evidence:
    """The evidence in a text that anybody hands over, whoever printed its lines; of a huge one, of its end."""
    served: dict[str, bool] = {}
    lines = text.splitlines()
    skipped = max(0, len(lines) - MOST_LINES)
    parts = (
        line
        for number, raw in enumerate(lines[skipped:], skipped + 1)
        for part in peeled(raw)
        if (line := _of_part(part, number, served))
    )
    return Evidence(_with_survived(list(parts)))


def _with_survived(lines: list[Line]) -> tuple[Line, ...]:
    """The lines with those marked after which the same container opened its API; a client cannot word that one."""
    opened = set[str]()
    for index in range(len(lines) - 1, -1, -1):
        line = lines[index]
        if line.name in opened:
            lines[index] = replace(line, survived=True)
        elif line.text.endswith(SERVING) and not line.served:
            opened.add(line.name)
    return tuple(lines)


def _of_part(part: Peeled, number: int, served: dict[str, bool]) -> Line | None:
    """One line with its author; None where a client wrote it, or nothing stands in it."""
    text = part.text.strip()
    if not text or ACCESS.match(text):
        return None
    if STARTS.match(text):
        served[part.name] = False
    late = served.get(part.name, False)
    by = _author(text, "engine" if part.engine or part.name or RAISED.match(text) else "any")
    if late and not part.engine and by != "script":
        # A client may have worded it, unless it is Docker's or the kernel's between a container's lines.
        if by == "engine":
            return None
        by = "host"
    if text.endswith(SERVING):
        served[part.name] = True
    # A line within a traceback is what stands in a file, and no error by itself.
    level = part.level if not part.text[:1].isspace() or part.level in QUIET else ""
    return Line(text=text, by=by, number=number, name=part.name, level=level, served=late)


def before_serving(log: str) -> Iterator[tuple[int, str]]:
    """The lines of a start until its API opens, with their numbers, without those of an access log."""
    for number, line in _cut(log):
        if message(line).text.endswith(SERVING):
            return
        if not is_access(line):
            yield number, line


def cut(text: str) -> Iterator[str]:
    """Each line that says something, without colours and no longer than MOST_CHARACTERS."""
    return (line for _, line in _cut(text))


def _cut(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if short := ESCAPES.sub("", line[:MOST_CHARACTERS]).strip():
            yield number, short


def is_access(line: str) -> bool:
    """Whether a line tells of a request, which a client words."""
    return bool(ACCESS.match(message(line).text)) or bool(ACCESS.match(line))


def last(lines: Iterable[str]) -> str:
    """The last of some lines, for a failure that nobody knows yet."""
    return next(reversed(list(lines)), "it printed nothing")
