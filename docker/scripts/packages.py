"""Installs the packages that a model's remote code imports (`bring`): pinned by hash, never run; or only looks them up (`find`)."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

sys.path.insert(0, str(Path(__file__).parent))
from common import run, say
from package_index import (
    CHUNK_BYTES,
    DAMAGED,
    MOST_ARCHIVE_BYTES,
    NO_SUCH_MACHINE,
    NOT_STORED,
    Archive,
    Index,
    copy,
    digest,
    failure,
    index_url,
    known_faults,
)

# What is imported later is pip's or Python's own, whatever the stack's scripts are called.
sys.path.pop(0)

MOST_UNPACKED_BYTES = 1 << 30
MOST_FILES = 10_000
SUFFIXES = (".whl", ".tar.gz")


def members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of each file; raises where one is no file, or would leave its folder."""
    left, count = MOST_UNPACKED_BYTES, MOST_FILES
    for name, size, regular, content in of_wheel(path) if path.suffix == ".whl" else of_source(path):
        left, count = left - size, count - 1
        inside = name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))
        if not (regular and inside) or left < 0 or count < 0:
            raise failure(
                DAMAGED,
                f"{path.name} holds {name!r:.80}, which is no file of a package: report it to ernie-deploy",
            )
        with content as file:
            yield name, size, file


def of_wheel(path: Path) -> Iterator[tuple[str, int, bool, Any]]:
    """Yield the files of a zip archive."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if not info.is_dir():
                yield info.filename, info.file_size, kind in (0, stat.S_IFREG), archive.open(info)


def of_source(path: Path) -> Iterator[tuple[str, int, bool, Any]]:
    """Yield the files of a tar archive."""
    with tarfile.open(path, "r:gz") as archive:
        for info in archive:
            if not info.isdir():
                content = archive.extractfile(info) if info.isreg() else contextlib.nullcontext()
                yield info.name, info.size, info.isreg(), content


def is_unpacked(path: Path, folder: Path) -> bool:
    """Tell whether a folder holds what the archive holds, byte for byte, and nothing else."""
    there = {entry for entry in folder.rglob("*") if entry.is_symlink() or not entry.is_dir()}
    for name, size, content in members(path):
        file = folder / name
        if file not in there or file.is_symlink() or not file.is_file() or file.stat().st_size != size:
            return False
        there.remove(file)
        with file.open("rb") as now:
            while chunk := content.read(CHUNK_BYTES):
                if now.read(len(chunk)) != chunk:
                    return False
    return folder.is_dir() and not folder.is_symlink() and not there


def unpack(path: Path, folder: Path) -> None:
    """Make the folder anew beside the old one, and put it in its place."""
    fresh = folder.with_name(f".{folder.name}")
    remove(fresh)
    for name, size, content in members(path):
        file = fresh / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as target:
            copy(content, target, size)
    remove(folder)
    fresh.rename(folder)


def remove(path: Path) -> None:
    """Delete whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def bring(arguments: list[str]) -> None:
    """Make each package ready, then become the command behind `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser("bring")
    parser.add_argument("--into", type=Path, default=Path("/packages"))
    parser.add_argument("archives", nargs="+", type=pinned)
    options, following = parser.parse_args(arguments[:at]), arguments[at + 1 :]
    os.umask(0o022)
    drop_empty_variables()
    for archive in options.archives:
        require_machine(archive)
    with known_errors(options.into):
        for archive in options.archives:
            ready(archive, options.into)
    if following:
        os.execvp(following[0], following)


def find(arguments: list[str]) -> None:
    """Say whether an index lists each archive, and bring nothing: `doctor` asks so."""
    drop_empty_variables()
    index = Index(index_url())
    for archive in map(pinned, arguments):
        with known_faults(archive, index):
            index.link(archive)
    say(f"packages: listed at {index.host}")


def drop_empty_variables() -> None:
    """Take those for unset that are empty: Compose passes a variable so that the host did not set."""
    for name in [name for name, value in os.environ.items() if not value]:
        del os.environ[name]


def pinned(word: str) -> Archive:
    """Read `FILE#sha256=DIGITS`, as a package index writes its links."""
    file, _, digits = word.partition("#sha256=")
    if "/" in file or not file.endswith(SUFFIXES) or not re.fullmatch("[0-9a-f]{64}", digits):
        raise argparse.ArgumentTypeError(f"{word!r:.80} is not FILE#sha256=DIGITS")
    return Archive(file, digits)


def require_machine(archive: Archive) -> None:
    """Refuse a package of another kind of processor, for which there is none to download."""
    machine = os.uname().machine
    if not archive.fits(machine):
        raise failure(
            NO_SUCH_MACHINE,
            f"{archive.folder} is not published for {machine} ({archive.file}): use your own image that has "
            f"{archive.project}, and render with --extra-packages none",
        )


def ready(archive: Archive, into: Path) -> None:
    """See that one package is there and whole; what is needs neither a network nor a folder to write to."""
    path, folder = into / "archives" / archive.file, into / archive.folder
    if is_whole(path, archive) and is_unpacked(path, folder):
        say(f"packages: {archive.folder} is as verified before")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (into / ".lock").open("a") as lock:
        # Two stacks of one host bring the same; a file system without locks has to do without.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(path, archive):
            if path.exists():
                say(f"packages: {path} has the wrong hash, and is replaced")
            remove(path)
            index = Index(index_url())
            with known_faults(archive, index):
                index.download(archive, path)
        if not is_unpacked(path, folder):
            unpack(path, folder)
    say(f"packages: {archive.folder} verified, {path.stat().st_size / 1e6:.1f} MB")


def is_whole(path: Path, archive: Archive) -> bool:
    """Tell whether the archive lies there with its hash."""
    return path.is_file() and path.stat().st_size <= MOST_ARCHIVE_BYTES and digest(path) == archive.sha256


@contextlib.contextmanager
def known_errors(into: Path) -> Iterator[None]:
    """Translate what the disk and a broken archive raise."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as fault:
        raise failure(
            DAMAGED, f"an archive in {into}/archives cannot be unpacked ({type(fault).__name__}): remove it"
        ) from None
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"{into} is full: free space or set PACKAGES_DIR to a folder of a larger disk"
        elif fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            reason = f"{fault.filename} cannot be written ({fault.strerror}): check PACKAGES_DIR, its mount and its owner"
        else:
            raise
        raise failure(NOT_STORED, reason) from None


def main(words: list[str]) -> None:
    """Run one mode; raises `KnownError`."""
    {"bring": bring, "find": find}[words[0]](words[1:])


if __name__ == "__main__":
    sys.exit(run("packages", main))
