"""Reads files that a user names: only regular ones and no more than is asked for, so that nothing is waited for."""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MIB = 1 << 20
# What a shell's `<(...)` and a pipe to /dev/stdin are: open already, with somebody who writes.
HANDED_OVER = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")


def read_bounded(path: Path, most_bytes: int = MIB) -> bytes:
    """All of a file; raises `OSError` where it is larger, or no regular file."""
    data = read_head(path, most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EINVAL, f"it is larger than {most_bytes // MIB or 1} MiB", str(path))
    return data


def read_head(path: Path, most_bytes: int) -> bytes:
    """The beginning of a file; raises `OSError` where it is no regular file."""
    with opened(path) as file:
        return file.read(most_bytes)


def first_line(path: Path) -> str:
    """The first line of a text, '' where it is longer than any that the kit writes; raises `OSError`."""
    with opened(path) as file:
        line = file.readline(MIB + 1)
    return "" if len(line) > MIB else line.decode(errors="replace").rstrip("\r\n")


def opened(path: Path) -> BufferedReader:
    """A regular file, /dev/null or what the shell hands over, to read from; raises `OSError` for anything else."""
    handle = descriptor(path, os.O_RDONLY)
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def descriptor(path: Path, flags: int) -> int:
    """A file opened with these flags, under the conditions of `opened`; a pipe is not waited for."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except FileNotFoundError as fault:
        if not path.is_symlink():
            raise
        raise FileNotFoundError(fault.errno, "it is a link to a file that is not there", str(path)) from fault
    if reason := _unreadable(path, os.fstat(handle)):
        os.close(handle)
        raise OSError(errno.EINVAL, reason, str(path))
    return handle


def _unreadable(path: Path, info: os.stat_result) -> str:
    null = stat.S_ISCHR(info.st_mode) and info.st_rdev == Path(os.devnull).stat().st_rdev
    if stat.S_ISREG(info.st_mode) or null or str(path).startswith(HANDED_OVER):
        return ""
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return f"it is {kinds.get(stat.S_IFMT(info.st_mode), 'a device')} and no file"
