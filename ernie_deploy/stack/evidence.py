"""What of a log may prove why a start failed: short lines that no client of the server can have written.

The API opens its port when uvicorn says so. From then on a client's words may stand anywhere in the log, at the
beginning of a line too (a traceback prints what was raised as it is), so a start's evidence ends there.
"""

import re
from collections.abc import Iterable, Iterator

from msgspec import Struct

MOST_CHARACTERS = 2_000
# uvicorn's last words before it listens.
SERVING = "Application startup complete."
SCRIPTS = (
    "api-key: ", "fetch: ", "packages: ", "judge: ", "import: ", "serve: ", "node: ", "beacon: ", "canary: ",
)  # fmt: skip
# The access log of uvicorn, and of what may stand before it: an address, then the quoted request.
ACCESS = re.compile(r'^(?:INFO: {1,9})?\S{1,100} -[^"]{0,100} "(?:[A-Z]{1,20}|-)[ "]')
# vLLM writes `(EngineCore pid=212) ERROR 11-22 03:31:57 [core.py:1136] ` before each line of a message.
PREFIX = re.compile(
    r"^(?:\([\w -]{1,80} pid=\d{1,10}\) ?)?"
    r"(?:(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) (?:\d\d-\d\d \d\d:\d\d:\d\d )?(?:\[[\w./-]{1,100}:\d{1,6}\] )?)?"
)
COLOUR = re.compile(r"\x1b\[[\d;]{0,20}m")


class Evidence(Struct, frozen=True):
    """Lines by who printed them: Docker and Compose, the scripts that the kit inlines, the engine."""

    docker: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    engine: tuple[str, ...] = ()


def gathered(docker: str = "", logs: Iterable[str] = ()) -> Evidence:
    """The evidence in what Docker printed and in containers' logs of one start each."""
    lines = [line for log in logs for line in before_serving(log)]
    return Evidence(
        docker=tuple(cut(docker)),
        scripts=tuple(line for line in lines if line.startswith(SCRIPTS)),
        engine=tuple(message(line) for line in lines if not line.startswith(SCRIPTS)),
    )


def before_serving(log: str) -> Iterator[str]:
    """The lines of a start until its API opens, without those of an access log."""
    for line in cut(log):
        if message(line).endswith(SERVING):
            return
        if not is_access(line):
            yield line


def cut(text: str) -> Iterator[str]:
    """Each line that says something, without colours and no longer than MOST_CHARACTERS."""
    for line in text.splitlines():
        if short := COLOUR.sub("", line[:MOST_CHARACTERS]).strip():
            yield short


def is_access(line: str) -> bool:
    """Whether a line tells of a request, which a client words."""
    return bool(ACCESS.match(message(line)))


def message(line: str) -> str:
    """A line without the prefix of vLLM's logger."""
    match = PREFIX.match(line)
    return line[match.end() :].strip() if match else line


def last(lines: Iterable[str]) -> str:
    """The last of some lines, for a failure that nobody knows yet."""
    return next(reversed(list(lines)), "it said nothing")
