"""Shared by the scripts: redacted logging, and one-line exits for known errors."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

# This stack's own volume. `serve` counts there the starts of its container; the health check ends the count.
STACK = Path("/stack")
STARTS = STACK / f"starts-{os.uname().nodename}"


class KnownError(Exception):
    """A failure whose cause is known: an exit code and a line for the log."""


def token() -> str:
    """The user's token for the hub; empty without one."""
    with contextlib.suppress(OSError):
        return Path(os.environ.get("HF_TOKEN_PATH", os.devnull)).read_text().strip()
    return ""


def redact(text: str) -> str:
    """Blank out what may be a token, and all from `//` to the last `@` of a word: a password may hold both."""
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "***", text.replace(token() or "\0", "***"))
    words = re.split(r"(\s)", text)
    for place, word in enumerate(words):
        before, slashes, rest = word.partition("//")
        if "@" in rest:
            words[place] = f"{before}{slashes}***@{rest.rpartition('@')[2]}"
    return "".join(words)


def say(text: str, file: TextIO = sys.stdout) -> None:
    """Print one line of the log, without secrets and without what steers a terminal."""
    print("".join(c if c.isprintable() else "?" for c in redact(text)), file=file, flush=True)


def run(name: str, main: Callable[[list[str]], None]) -> int:
    """Run a script and return its exit code; what nobody expected ends in a traceback below its name."""
    try:
        main(sys.argv[1:])
    except KnownError as error:
        code, line = error.args
        say(f"{name}: {line}", sys.stderr)
        return int(code)
    except Exception:
        for line in traceback.format_exc().splitlines():
            say(f"{name}: {line}", sys.stderr)
        return 1
    return 0
