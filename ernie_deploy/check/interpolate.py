"""Compose's `${VAR:-default}`, resolved by the defaults alone: the host's environment is never read.

A variable without a default stays in the text as `${VAR}`; whoever reads the text takes
whatever holds a `$` (a shell's variable too, written `$$VAR`) for unknown.
"""

import re
from functools import lru_cache

MAX_NESTING = 20
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACE = re.compile(r"\$\{|\}")
_OPERATOR = re.compile(r":?[-?+]")


@lru_cache(maxsize=4096)
def resolved(text: str, depth: int = 0) -> str:
    """`text` with its defaults filled in and `$$` undoubled."""
    if "$" not in text or depth > MAX_NESTING:
        return text
    parts, at = [], 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        part, at = _variable(text, dollar, depth)
        parts.append(part)
    return "".join(parts) + text[at:]


def _variable(text: str, dollar: int, depth: int) -> tuple[str, int]:
    """What stands for the `$` at `dollar`, and where the text goes on."""
    if text.startswith("$$", dollar):
        return "$", dollar + 2
    if text.startswith("${", dollar):
        return _braced(text, dollar, depth)
    if name := _NAME.match(text, dollar + 1):
        return f"${{{name[0]}}}", name.end()
    return "$", dollar + 1


def _braced(text: str, dollar: int, depth: int) -> tuple[str, int]:
    name = _NAME.match(text, dollar + 2)
    end = _closing(text, dollar + 2)
    if not name or end < 0:
        # Compose refuses the whole text, so none of it is known.
        return text[dollar:], len(text)
    operator = _OPERATOR.match(text, name.end(), end)
    if not operator or operator[0].endswith("?"):
        return f"${{{name[0]}}}", end + 1
    if operator[0].endswith("+"):
        return "", end + 1
    return resolved(text[operator.end() : end], depth + 1), end + 1


def _closing(text: str, start: int) -> int:
    """Where the brace opened before `start` closes; -1 if nowhere."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "${" else -1
        if not depth:
            return brace.start()
    return -1


def known(text: str) -> bool:
    """Whether the text is the same on every host."""
    return "$" not in text
