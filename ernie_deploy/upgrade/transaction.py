"""Replaces several files of a folder as one: killed at any moment, it is all old, or the next command finishes it.

Everything is written below `.ernie/` first. One rename to `.ernie/pending` decides; after it, each file moves into its
place, which may be repeated. What was there stays as the record that `rollback` reads.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ernie_deploy.errors import UsageError
from ernie_deploy.paths import folder_to_disk
from ernie_deploy.upgrade.history import (
    AFTER,
    BEFORE,
    OWN,
    PENDING,
    PREVIOUS,
    RECORD,
    Cause,
    Record,
    Replaced,
    bytes_of,
    digest,
    read,
)

STAGING = "staging-"
OWNERS_FOLDER = 0o700
OPEN, PRIVATE = 0o644, 0o600


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder against other commands that would change it; raises `UsageError` where one does."""
    import fcntl

    if (folder / OWN).is_symlink():
        raise UsageError(
            f"{folder / OWN} is a link.", cause="what is there may not belong to this folder alone"
        )
    try:
        (folder / OWN).mkdir(exist_ok=True)
        handle = os.open(folder / OWN, os.O_DIRECTORY)
    except OSError as fault:
        raise _not_written(folder / OWN, fault) from fault
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UsageError(
            f"Another command changes {folder} just now.", next_step="wait for it, then repeat the command"
        ) from None
    finally:
        os.close(handle)
        with suppress(OSError):
            (folder / OWN).rmdir()


def replace_files(folder: Path, files: Mapping[str, bytes | None], cause: Cause) -> Record | None:
    """Make each file say this, None removing it, and keep what it said; all or none. None where nothing differs.

    Raises `UsageError` where the folder cannot be written; then nothing has changed.
    """
    old = {name: bytes_of(folder / name) for name in files}
    changed = {name: data for name, data in files.items() if data != old[name]}
    # A rollback that nets nothing still takes its records back.
    if not (changed or cause.undoes):
        return None
    now = datetime.now(UTC)
    record = Record(
        name=_free_name(folder, f"{now:%Y-%m-%dT%H-%M-%SZ}-{cause.engine}"),
        date=now.isoformat(),
        cause=cause,
        files=tuple(Replaced(name, digest(old[name]), digest(data)) for name, data in changed.items()),
    )
    try:
        staged = _stage(folder, record, old, changed)
        staged.rename(folder / PENDING)
        folder_to_disk(folder / OWN)
    except OSError as fault:
        _sweep(folder)
        raise _not_written(folder, fault) from fault
    _carry_out(folder)
    return record


def finish(folder: Path) -> Record | None:
    """Carry out what a killed command had decided; None where there is nothing of the kind."""
    _sweep(folder)
    return _carry_out(folder) if is_pending(folder) else None


def is_pending(folder: Path) -> bool:
    """Whether a command was killed while it replaced the files, so that some are old and some new."""
    return (folder / PENDING).is_dir()


def _free_name(folder: Path, name: str) -> str:
    taken = {path.name for path in (folder / PREVIOUS).glob("*")}
    return next(one for one in (name, *(f"{name}.{n}" for n in range(1, 10_000))) if one not in taken)


def _stage(
    folder: Path, record: Record, old: Mapping[str, bytes | None], new: Mapping[str, bytes | None]
) -> Path:
    """Old and new bytes and the record on the disk, in a folder that counts for nothing yet."""
    (folder / PREVIOUS).mkdir(parents=True, exist_ok=True)
    (folder / PREVIOUS).chmod(OWNERS_FOLDER)
    staged = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder / OWN))
    for part, files in ((BEFORE, old), (AFTER, new)):
        for name in new:
            if (data := files[name]) is not None:
                _write(staged / part / name, data, like=folder / name)
    for name in new:
        _require_place(folder / name)
    _write(staged / RECORD, msgspec.json.format(msgspec.json.encode(record)) + b"\n", like=Path())
    for place in [staged, *(path for path in staged.rglob("*") if path.is_dir())]:
        folder_to_disk(place)
    return staged


def _write(path: Path, data: bytes, *, like: Path) -> None:
    """A new file with the owner and mode of `like`, or of its own kind where that is no file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        before = like.stat() if like.is_file() else None
        if before:
            # Only root may give a file to its owner.
            with suppress(PermissionError):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
        fresh = PRIVATE if like.name in ("", ".env") else OPEN
        os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode) if before else fresh)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _require_place(path: Path) -> None:
    """Make the folder that a file goes to, and find out before anything moves whether it can be written."""
    if path.parent.is_symlink():
        raise NotADirectoryError(20, "it is a link, and no folder", str(path.parent))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def _carry_out(folder: Path) -> Record:
    """Move each file into its place, then the record to its own; may be repeated from any point."""
    pending = folder / PENDING
    record = read(pending / RECORD)
    try:
        for file in record.files:
            _move(pending / AFTER / file.name, folder / file.name, file)
        shutil.rmtree(pending / AFTER, ignore_errors=True)
        (folder / PREVIOUS).mkdir(mode=OWNERS_FOLDER, exist_ok=True)
        pending.rename(folder / PREVIOUS / record.name)
        folder_to_disk(folder / OWN)
    except OSError as fault:
        raise UsageError(
            f"The files of {folder} could not all be replaced: {fault.strerror}: {fault.filename}.",
            cause="some are new and some are old",
            next_step=f"free space or set the permissions, then: ernie-deploy upgrade {folder}, which finishes it",
        ) from fault
    return record


def _move(fresh: Path, path: Path, file: Replaced) -> None:
    current = digest(bytes_of(path))
    if current == file.after:
        return
    if current != file.before:
        raise UsageError(
            f"{path} was edited after a command that replaces it was interrupted.",
            cause=f"it matches neither the old version nor the new one: {path.parent / PENDING} has both",
            next_step=f"move your version away (mv {path} {path}.mine), then repeat the command",
        )
    if file.after is None:
        path.unlink()
    else:
        fresh.replace(path)
    folder_to_disk(path.parent)


def _sweep(folder: Path) -> None:
    """Remove what a killed command had prepared and not decided."""
    for path in (folder / OWN).glob(f"{STAGING}*"):
        shutil.rmtree(path, ignore_errors=True)
    for name in (PREVIOUS, OWN):
        with suppress(OSError):
            (folder / name).rmdir()


def _not_written(place: Path, fault: OSError) -> UsageError:
    return UsageError(
        f"{fault.filename or place} could not be written: {fault.strerror}. Nothing was changed.",
        cause="the folder is full, read-only or not yours",
        next_step=f"check it with: ls -ld {place}",
    )
