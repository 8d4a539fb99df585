"""A host's `.env` under a newer rendering: its values stand, what the new version reads besides is added as comments."""

import re
from collections.abc import Iterator

from ernie_deploy.upgrade.three_way import merge

VARIABLE = re.compile(rb"[ \t]*#?[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")


def merged(base: bytes, user: bytes, new: bytes) -> bytes:
    """The user's file, its unedited comments renewed, and behind it each variable that only `new` has.

    A value never conflicts: where a line was edited, the edit stands.
    """
    data = merge(base, user, new).data
    known = names(data)
    added = [block for name, block in _blocks(new) if name not in known and name not in names(base)]
    ending = b"\r\n" if b"\r\n" in data else b"\n"
    for block in added:
        gap = b"" if data.endswith(b"\n") or not data else ending
        data += gap + ending + ending.join(block) + ending
    return data


def names(data: bytes) -> set[bytes]:
    """Every variable that a line sets or shows as a comment."""
    return {match[1] for line in data.split(b"\n") if (match := VARIABLE.match(line))}


def _blocks(data: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each variable with its comment above it, as the kit writes them: `# What it is.` and `#NAME=default`."""
    block: list[bytes] = []
    for line in data.split(b"\n"):
        block = [*block, line] if line else []
        if line and (match := VARIABLE.match(line)):
            yield match[1], block
            block = []
