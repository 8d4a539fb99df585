"""SHA256SUMS, as coreutils writes and checks it, and a folder held against it."""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from msgspec import Struct

from ernie_deploy.bundle.parts import File
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import opened, read_bounded

SUMS = "SHA256SUMS"
# The kit's own notes, which say nothing to who loads the bundle.
UNLISTED = (SUMS, ".ernie-bundle.jsonl")
# Plain to a shell, to FAT, and between the lines of a table.
WORD = re.compile(r"[A-Za-z0-9_.+@-]{1,255}")
LINE = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>.+)")
MOST_BYTES = 64 << 20
CHUNK_BYTES = 4 << 20
# Called with the bytes of one file that are hashed.
Tell = Callable[[int], None]


class Verdict(Struct, frozen=True, kw_only=True):
    """What is wrong with a bundle: names of files, each with the reason where it is not plain."""

    files: int
    size_bytes: int
    sha256: str
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    wrong: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether everything is there, as it was written, and nothing else."""
        return not (self.missing or self.extra or self.wrong)


def is_name(name: str) -> bool:
    """Whether a name is of plain characters and stays inside the folder."""
    return all(WORD.fullmatch(word) and word not in (".", "..") for word in name.split("/"))


def text_of(files: Iterable[File]) -> str:
    """The manifest, sorted; raises `UsageError` for a name that no shell would take as it is."""
    lines = sorted(files, key=lambda file: file.name)
    if odd := [file.name for file in lines if not is_name(file.name)]:
        raise UsageError(
            f"{odd[0]!r:.120} cannot be the name of a file in a bundle.",
            cause="it has characters besides letters, digits and . _ + @ -",
            next_step="rename that file of the stack",
        )
    return "".join(f"{file.sha256}  {file.name}\n" for file in lines)


def parse(text: str) -> dict[str, str]:
    """SHA-256 by name; raises `UsageError` on a line that is none, or that names a file outside the folder."""
    known: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = LINE.fullmatch(line)
        if not match or not is_name(match["name"]) or match["name"] in known:
            raise UsageError(
                f"Line {number} of {SUMS} is not one that the kit wrote: {line[:120]!r}.",
                cause="it is damaged, or was made to have other files read",
                next_step="have the bundle made again; load nothing from this one",
            )
        known[match["name"]] = match["sha256"]
    return known


def read(folder: Path) -> tuple[dict[str, str], str]:
    """The manifest of a bundle and its own SHA-256; raises `UsageError` where it has none."""
    import hashlib

    try:
        data = read_bounded(folder / SUMS, MOST_BYTES)
        return parse(data.decode("ascii")), hashlib.sha256(data).hexdigest()
    except UnicodeDecodeError as fault:
        raise UsageError(f"{folder / SUMS} is no text that the kit wrote.") from fault
    except OSError as fault:
        raise UsageError(
            f"{folder} is no complete bundle: {SUMS}: {fault.strerror}.",
            cause="it is written last, so an interrupted bundle has none",
            next_step=f"repeat the command that made it, which continues where it stopped: ernie-deploy bundle -o {folder}",
        ) from fault


def verify(folder: Path, show: Callable[[str, int, int], None]) -> Verdict:
    """Hold every file against the manifest; nothing outside the folder is read, links are not followed."""
    known, own = read(folder)
    there = dict(_entries(folder))
    total, done, wrong = sum(there[name].st_size for name in known if name in there), 0, []
    for name in sorted(set(known) & set(there)):
        tell = partial(_tell, show, name, done, total)
        if fault := _fault(folder / name, there[name], known[name], tell):
            wrong.append(f"{name}: {fault}")
        done += there[name].st_size
    return Verdict(
        files=len(known),
        size_bytes=total,
        sha256=own,
        missing=tuple(sorted(set(known) - set(there))),
        extra=tuple(sorted(set(there) - set(known) - set(UNLISTED))),
        wrong=tuple(wrong),
    )


def _tell(show: Callable[[str, int, int], None], name: str, before: int, total: int, size: int) -> None:
    show(name, before + size, total)


def _fault(path: Path, info: os.stat_result, sha256: str, tell: Tell) -> str:
    if not stat.S_ISREG(info.st_mode):
        return "it is a link or a device, and no file"
    try:
        return "" if _sha256(path, tell) == sha256 else "its bytes are not those that were written"
    except OSError as fault:
        return f"it cannot be read: {fault.strerror}"


def _sha256(path: Path, tell: Tell) -> str:
    import hashlib

    state = hashlib.sha256()
    with opened(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            tell(file.tell())
    return state.hexdigest()


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below a folder that is no folder itself, with what it is; a link to a folder is a link."""
    for at, folders, files in os.walk(folder):
        for name in [*files, *(name for name in folders if (Path(at) / name).is_symlink())]:
            path = Path(at) / name
            yield str(path.relative_to(folder)), path.lstat()
