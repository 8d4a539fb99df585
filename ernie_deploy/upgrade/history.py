"""What a folder was before each upgrade: records of the files that it replaced, with their bytes.

`.ernie/previous/DATE-ENGINE/` holds `record.json`, and `before/` with each file as it was. `.ernie/rendered/` holds
what the kit wrote last, which is what the user's edits are told from.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import read_bounded

OWN = ".ernie"
RENDERED = f"{OWN}/rendered"
PREVIOUS = f"{OWN}/previous"
PENDING = f"{OWN}/pending"
BEFORE, AFTER, RECORD = "before", "after", "record.json"
# A compose file that is larger is refused everywhere.
MOST_BYTES = 4 << 20

Kind: TypeAlias = Literal["upgrade", "init", "rollback"]


class Replaced(Struct, frozen=True):
    """One file and the SHA-256 of what it said before and after; None where there was or is no file."""

    name: str
    before: str | None
    after: str | None


class Cause(Struct, frozen=True, kw_only=True):
    """Why a folder changes: `engine` is the version that it had before, `undoes` the records that are taken back."""

    kind: Kind
    command: str
    engine: str
    undoes: tuple[str, ...] = ()


class Record(Struct, frozen=True, kw_only=True):
    """One change of a folder, with the files that it replaced."""

    name: str
    date: str
    cause: Cause
    files: tuple[Replaced, ...]


def digest(data: bytes | None) -> str | None:
    """SHA-256 of a file's bytes; None stands for no file."""
    return None if data is None else hashlib.sha256(data).hexdigest()


def bytes_of(path: Path) -> bytes | None:
    """What a file holds; None where there is none. Raises `UsageError` for a link, a pipe, and what is not readable."""
    if not os.path.lexists(path):
        return None
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link to {path.readlink()}.",
            cause="the file that it points to may belong to other folders too, and is not replaced",
            next_step=f"put the file itself in its place: cp --remove-destination {path.resolve()} {path}",
        )
    try:
        return read_bounded(path, MOST_BYTES)
    except OSError as fault:
        raise UsageError(
            f"{path} cannot be read: {fault.strerror}.", next_step=f"look at it with: ls -ld {path}"
        ) from fault


def records(folder: Path) -> list[Record]:
    """Every change that is kept, the newest first; raises `UsageError` for a record that was damaged."""
    paths = sorted((folder / PREVIOUS).glob(f"[0-9]*/{RECORD}"), reverse=True)
    kept = [read(path) for path in paths]
    return sorted(kept, key=lambda record: (record.date, record.name), reverse=True)


def read(path: Path) -> Record:
    """One record; raises `UsageError` where it is none."""
    try:
        record = msgspec.json.decode(read_bounded(path, MOST_BYTES), type=Record)
        for name in (record.name, *(file.name for file in record.files)):
            _require_inside(name)
    except (OSError, ValueError) as fault:
        raise UsageError(
            f"{path} is no record of an upgrade.",
            cause=f"it was edited or damaged: {fault}",
            next_step=f"the previous files are in {path.parent / BEFORE}; move the folder away to continue without it",
        ) from fault
    return record


def _require_inside(name: str) -> None:
    """Raise ValueError for a name that leads out of the folder: whoever wrote the record chose it."""
    if Path(name).is_absolute() or ".." in Path(name).parts or not name.isprintable():
        raise ValueError(f"{name[:80]!r} is no file of the folder")


def standing(folder: Path) -> list[Record]:
    """The changes that can be taken back, the newest first: neither a rollback nor undone by one."""
    every = records(folder)
    undone = {name for record in every for name in record.cause.undoes}
    return [record for record in every if record.cause.kind != "rollback" and record.name not in undone]


def edited_since(folder: Path, changes: Iterable[Record]) -> Iterator[str]:
    """The files that say something else than the newest of these changes left in them."""
    left: dict[str, str | None] = {}
    for record in changes:
        left = {**{file.name: file.after for file in record.files}, **left}
    for name, expected in left.items():
        if digest(bytes_of(folder / name)) != expected:
            yield name


def before(folder: Path, changes: Iterable[Record]) -> dict[str, bytes | None]:
    """Name -> bytes of each file as it was before all of these changes, given the newest first."""
    old: dict[str, bytes | None] = {}
    for record in changes:
        kept = folder / PREVIOUS / record.name / BEFORE
        old |= {file.name: _kept(kept / file.name, file) for file in record.files}
    return old


def _kept(path: Path, file: Replaced) -> bytes | None:
    data = bytes_of(path) if file.before is not None else None
    if digest(data) != file.before:
        raise UsageError(
            f"{path} is not what was kept there.",
            cause="its SHA-256 differs from the record's: it was edited or damaged since",
            next_step=f"compare it with yours: diff {path} {file.name}",
        )
    return data
