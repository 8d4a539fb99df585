"""A host's `.env` under a newer rendering: its values stand, what the new version reads besides is added as comments."""

from collections.abc import Iterator

from ernie_deploy.upgrade.three_way import merge


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
    return {name for line in data.split(b"\n") if (name := _variable(line))}


def _variable(line: bytes) -> bytes:
    """The name in `NAME=value`, with `#` or `export` before it or not; empty where the line has none."""
    name, equals, _ = line.lstrip(b" \t#").removeprefix(b"export ").partition(b"=")
    name = name.strip()
    return name if equals and name.replace(b"_", b"").isalnum() and not name[:1].isdigit() else b""


def _blocks(data: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
    """Each variable with its comment above it, as the kit writes them: `# What it is.` and `#NAME=default`."""
    block: list[bytes] = []
    for line in data.split(b"\n"):
        block = [*block, line] if line else []
        if name := _variable(line):
            yield name, block
            block = []
