"""The file `keys.map` of a gateway's folder: read with line numbers, changed as a whole by one writer at a time."""

import fcntl
import os
import shlex
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.errors import UsageError
from ernie_deploy.gateway.keys import FORM, Key, parse, replaced, without
from ernie_deploy.paths import write_whole
from ernie_deploy.safe_io.reading import read_bounded

NAME = "keys.map"
HEAD = f"""\
# Who may use the API: `ernie-deploy key` writes it, and after edits of yours `ernie-deploy reload` has it taken up.
# {FORM}.
"""
# The gateway is another user than the one who writes, and a hash of 256 random bits tells nothing.
FILE_MODE, FOLDER_MODE = 0o644, 0o755
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
# Of 130 bytes a line these are 30,000 keys; HAProxy holds them in memory.
MOST_BYTES = 4 << 20
LOCK_S = 10.0
# Of the names of all keys, what a refusal lists.
MOST_NAMES = 20


class KeyFile(Struct, frozen=True):
    """A map's path, its text and its keys; a map that is not there is empty."""

    path: Path
    text: str
    keys: tuple[Key, ...]

    def key(self, name: str) -> Key | None:
        """The key of this name."""
        return next((key for key in self.keys if key.name == name), None)

    def known(self, name: str) -> Key:
        """The same; raises `UsageError` with the names that there are."""
        if key := self.key(name):
            return key
        raise UsageError(
            f"There is no key named {name[:80]!r}.",
            cause=f"{self.path} has {self._names()}",
            next_step="ernie-deploy key list",
        )

    def _names(self) -> str:
        names = [key.name for key in self.keys[:MOST_NAMES]]
        more = len(self.keys) - len(names)
        return (", ".join(names) or "no key") + (f" and {more} more" if more else "")


def read(folder: Path) -> KeyFile:
    """The map of a gateway's folder; raises `UsageError` with the number of each faulty line."""
    path = folder / NAME
    text = _text(path)
    keys, faults = parse(text)
    if faults:
        shown = "\n  ".join(faults[:10])
        raise UsageError(
            f"{path} has {len(faults)} faulty line{'s' if faults[1:] else ''}:\n  {shown}",
            cause=f"a line is {FORM}",
            next_step=f"correct it: ${{EDITOR:-vi}} {shlex.quote(str(path))}",
        )
    return KeyFile(path, text, tuple(keys))


def _text(path: Path) -> str:
    try:
        if path.is_symlink():
            name = shlex.quote(str(path))
            raise UsageError(f"{path} is a link, which leads nowhere inside the gateway's container.",
                             next_step=f'put the file itself there: cp --remove-destination "$(readlink -f {name})" {name}')  # fmt: skip
        return read_bounded(path, MOST_BYTES).decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(
            f"{path} cannot be read: {getattr(fault, 'strerror', None) or 'it is not UTF-8'}.",
            next_step=f"check it with: ls -l {shlex.quote(str(path))}",
        ) from fault


def add(folder: Path, key: Key) -> None:
    """Append a key to the map, whose folder is `locked`; raises `UsageError` where the name is taken."""
    current = read(folder)
    if current.key(key.name):
        raise UsageError(
            f"There is a key named {key.name} already.",
            cause="the log and the limits identify a client by its name",
            next_step=f"choose another name, or first: ernie-deploy key revoke {key.name}",
        )
    text = current.text or HEAD
    _write(current.path, f"{text}{'' if text.endswith(chr(10)) else chr(10)}{key.line()}\n")


def revoke(folder: Path, name: str) -> Key:
    """Take a key out of the map, whose folder is `locked`; raises `UsageError` where there is none of the name."""
    current = read(folder)
    key = current.known(name)
    _write(current.path, without(current.text, name))
    return key


def limit(folder: Path, name: str, limits: Mapping[str, int]) -> Key:
    """Give a key of the map, whose folder is `locked`, other limits by the names of `Key`'s fields; the rest stays.

    Raises `UsageError` where there is none of the name.
    """
    current = read(folder)
    key = replace(current.known(name), **limits)
    _write(current.path, replaced(current.text, key))
    return key


def _write(path: Path, text: str) -> None:
    """Replace the map; a mode that is tighter already stays, and nobody but the owner may write."""
    mode = stat.S_IMODE(path.stat().st_mode) & ~OTHERS_WRITE if path.is_file() else FILE_MODE
    write_whole(path, text, force=True, mode=mode)


@contextmanager
def locked(folder: Path, limit_s: float = LOCK_S) -> Iterator[None]:
    """Hold a gateway's folder, made where it is missing, against other writers; raises `UsageError`."""
    try:
        if not folder.exists():
            folder.mkdir()
            folder.chmod(FOLDER_MODE)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        raise UsageError(
            f"{folder} could not be written: {fault.strerror}.",
            cause="the folder is missing or not yours, or the disk is full",
            next_step=f"check it with: ls -ld {shlex.quote(str(folder))}",
        ) from fault
    try:
        _refuse_open(folder, os.fstat(handle))
        _wait_for(handle, folder, limit_s)
        yield
    finally:
        os.close(handle)


def _refuse_open(folder: Path, info: os.stat_result) -> None:
    if info.st_mode & stat.S_IWOTH:
        raise UsageError(
            f"{folder} is open to writing by everybody.",
            cause="anyone who can write there can grant themselves a key",
            next_step=f"chmod o-w {shlex.quote(str(folder))}",
        )


def _wait_for(handle: int, folder: Path, limit_s: float) -> None:
    end = time.monotonic() + limit_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise UsageError(
                    f"Another command has been changing {folder} for {limit_s:g} s.",
                    next_step="wait for it, then repeat the command",
                ) from None
            time.sleep(0.05)
        else:
            return
