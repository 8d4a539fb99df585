"""The journal: one JSON line per attempt, appended and synced, so that nothing but the torn last line is ever lost."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import msgspec

from ernie_deploy.bench.journal.record import SCHEMA, Attempt, Journal, Line
from ernie_deploy.bench.journal.result_types import type_fault
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import MIB, descriptor, read_bounded

NAME = "journal.jsonl"
MOST_BYTES = 256 * MIB


class Writer:
    """Appends lines to an open journal; each is on the disk when `write` returns."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, line: Line) -> None:
        """Append one line whole, or leave the journal as it was and raise `UsageError`."""
        before = os.fstat(self._file.fileno()).st_size
        try:
            _append(self._file, msgspec.json.encode(line) + b"\n")
        except OSError as fault:
            with suppress(OSError):
                self._file.truncate(before)
            raise _unwritable(self._path, fault) from fault


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Open a journal to append to; raises `UsageError` where another run holds it."""
    with _opened(path) as file:
        _lock(file, path)
        if _is_torn(file):
            # The power went in the middle of a line: it stays, apart from the lines to come.
            try:
                _append(file, b"\n")
            except OSError as fault:
                raise _unwritable(path, fault) from fault
        yield Writer(file, path)


def read(path: Path) -> Journal:
    """Every whole line of a journal; raises `UsageError` where there is none or it is of another schema."""
    try:
        raw = read_bounded(path, MOST_BYTES)
    except OSError as fault:
        raise UsageError(
            f"There is no journal at {path}: {fault.strerror}.",
            next_step="make one with: ernie-deploy bench run",
        ) from fault
    lines, torn = [], 0
    for text in filter(None, raw.split(b"\n")):
        try:
            lines.append(_decoded(text, path))
        except (msgspec.DecodeError, RecursionError):
            torn += 1
    return Journal(lines=tuple(lines), torn=torn)


def read_if_any(path: Path) -> Journal:
    """A journal, or an empty one where the file does not exist yet."""
    return read(path) if path.exists() else Journal(lines=())


def _decoded(text: bytes, path: Path) -> Line:
    try:
        line = _DECODER.decode(text)
    except msgspec.ValidationError as fault:
        table = msgspec.json.decode(text)
        if isinstance(table, dict) and table.get("schema") == SCHEMA:
            # Of this version, and unreadable: one bad line must not take the others with it.
            raise msgspec.DecodeError(str(fault)) from fault
        raise _of_another_schema(path, str(fault)) from fault
    if line.schema != SCHEMA:
        raise _of_another_schema(path, line.schema)
    if isinstance(line, Attempt) and (reason := type_fault(line.result)):
        raise msgspec.DecodeError(reason)
    return line


def _of_another_schema(path: Path, detail: str) -> UsageError:
    return UsageError(
        f"{path} holds a line that is not of schema {SCHEMA}: {detail}.",
        cause="it was written by another version of the kit, or edited",
        next_step="read it with the version that wrote it, or use another folder with --results",
    )


def _opened(path: Path) -> FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OSError(0, "it is a folder, a pipe or a device, and no file")  # noqa: TRY301 - one sentence for both
        # Without a buffer, which would be written again when the file is closed on a full disk.
        return FileIO(descriptor(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+")
    except OSError as fault:
        raise _unwritable(path, fault) from fault


def _unwritable(path: Path, fault: OSError) -> UsageError:
    return UsageError(
        f"{path} cannot be written: {fault.strerror}.",
        cause="the folder belongs to another user, is full or is read-only",
        next_step="free space, or name another with --results DIR; existing lines are kept",
    )


def _append(file: FileIO, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]
    os.fsync(file.fileno())


def _lock(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        raise UsageError(
            f"{path} is being written by another run.",
            cause="two runs against one server would measure each other",
            next_step="wait for it, or stop it with Ctrl-C: it can be resumed",
        ) from fault


def _is_torn(file: FileIO) -> bool:
    end = file.seek(0, os.SEEK_END)
    if not end:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"


_DECODER: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)
