"""The folder of a bundle: claimed by one run, its parts written whole, and what is complete noted as it goes."""

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from ernie_deploy.bundle.manifest import SUMS, text_of
from ernie_deploy.bundle.parts import File, Note, Part, Show, damaged
from ernie_deploy.errors import Refused, ToolFailed, UsageError
from ernie_deploy.paths import folder_to_disk
from ernie_deploy.safe_io.reading import read_bounded

# A bundle's folder has it from its first moment on; each line is the note of a complete part.
NOTES = ".ernie-bundle.jsonl"
UNDER_WAY = ".part"
CHUNK_BYTES = 4 << 20
MOST_NOTES_BYTES = 64 << 20
FRESH = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Store:
    """A claimed folder; `split_bytes` is the most that one of its files may have, 0 for no limit."""

    def __init__(self, folder: Path, split_bytes: int = 0) -> None:
        self.folder, self.split_bytes = folder, split_bytes
        self.notes = _read_notes(folder / NOTES)

    def is_complete(self, path: str, key: str) -> bool:
        """Whether a former run, or this one, wrote a part of this very content."""
        note = self.notes.get(path)
        return note is not None and note.key == self._key(key) and all(map(self._is_there, note.files))

    def put(self, part: Part, show: Show) -> None:
        """Write one part and note it; raises `ToolFailed` where its bytes have another hash than they must."""
        self.put_all(part.path, part.key, [part], show)

    def put_all(self, path: str, key: str, parts: Iterable[Part], show: Show) -> None:
        """Write parts that are complete together, such as a folder of wheels."""
        self.begin(path)
        settled: list[File] = []
        for part in parts:
            with part.open() as source:
                written = _Written(self, part, show)
                written.copy(source)
            # Before they have their names: what a kill leaves of them is known to the next run.
            self._append(Note(path=path, key="", files=(*settled, *written.files())))
            settled += written.settle()
        self.note(path, key, settled)

    def begin(self, path: str) -> None:
        """A bundle that is being changed has no manifest, and no note of what is about to be replaced."""
        (self.folder / SUMS).unlink(missing_ok=True)
        if note := self.notes.pop(path, None):
            for file in note.files:
                self.place(file.name).unlink(missing_ok=True)
            self._append(Note(path=path, key="", files=()))

    def note(self, path: str, key: str, files: Iterable[File]) -> None:
        """Note a complete part, after its bytes are on the disk."""
        self.notes[path] = Note(path=path, key=self._key(key), files=tuple(files))
        self._append(self.notes[path])

    def finish(self, paths: Iterable[str]) -> list[str]:
        """Remove what is of no part any more, write the manifest last, and return what was removed."""
        kept = set(paths)
        old = [path for path in self.notes if path not in kept]
        for path in old:
            self.begin(path)
        for place in self.folder.rglob(f"*.[0-9][0-9][0-9][0-9]{UNDER_WAY}"):
            place.unlink()
        text = text_of(file for note in self.notes.values() for file in note.files)
        self.write(SUMS, text.encode())
        return old

    def write(self, name: str, data: bytes) -> None:
        """Replace one small file in one step, unless it says that already."""
        place = self.place(name)
        with suppress(OSError):
            if read_bounded(place, len(data)) == data:
                return
        fresh = place.with_name(place.name + UNDER_WAY)
        fresh.unlink(missing_ok=True)
        with _writable(fresh) as file:
            file.write(data)
            _to_disk(file)
        fresh.replace(place)

    def place(self, name: str) -> Path:
        """Where a name of the bundle lies, its folders made; raises `UsageError` where a link leads elsewhere."""
        path = self.folder
        for word in name.split("/")[:-1]:
            path /= word
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise UsageError(
                    f"{path} is a link, so nothing was written through it.", next_step=f"rm {path}"
                )
        return path / name.rpartition("/")[2]

    def _key(self, key: str) -> str:
        return f"{key} split {self.split_bytes}"

    def _is_there(self, file: File) -> bool:
        with suppress(OSError):
            info = (self.folder / file.name).lstat()
            return stat.S_ISREG(info.st_mode) and info.st_size == file.size_bytes
        return False

    def _append(self, note: Note) -> None:
        path = self.folder / NOTES
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb+", buffering=0) as file:
            # What a kill left of a line ends here.
            torn = file.seek(0, os.SEEK_END) and os.pread(handle, 1, file.tell() - 1) != b"\n"
            file.write(b"\n" * bool(torn) + msgspec.json.encode(note) + b"\n")
            os.fsync(handle)


class _Written:
    """One part under way: its pieces, and the hashes of each and of all."""

    def __init__(self, store: Store, part: Part, show: Show) -> None:
        self.store, self.part, self.show = store, part, show
        self.pieces: list[File] = []
        self.size_bytes = 0
        git = b"blob %d\0" % part.size_bytes
        self.whole = hashlib.sha1(git, usedforsecurity=False) if len(part.digest) == 40 else hashlib.sha256()  # noqa: PLR2004 - SHA-1's digits

    def copy(self, source: IO[bytes]) -> None:
        """Write the pieces under names of their own; an empty part is one empty piece."""
        chunk = source.read(self._room(0))
        while chunk or not self.pieces:
            chunk = self._piece(source, chunk)

    def _piece(self, source: IO[bytes], chunk: bytes) -> bytes:
        """Write one piece that begins with `chunk`, and return the beginning of the next."""
        place = self._fresh(len(self.pieces))
        digest, size = hashlib.sha256(), 0
        with _writable(place) as file:
            while chunk:
                file.write(chunk)
                digest.update(chunk)
                self.whole.update(chunk)
                size += len(chunk)
                self.size_bytes += len(chunk)
                self.show(self.part.path, self.size_bytes, self.part.size_bytes)
                if not (room := self._room(size)):
                    break
                chunk = source.read(room)
            _to_disk(file)
        self.pieces.append(File(name=place.name, size_bytes=size, sha256=digest.hexdigest()))
        return source.read(self._room(0)) if chunk else b""

    def _room(self, size: int) -> int:
        limit = self.store.split_bytes
        return min(CHUNK_BYTES, limit - size) if limit else CHUNK_BYTES

    def _fresh(self, number: int) -> Path:
        place = self.store.place(f"{self.part.path}.{number:04d}{UNDER_WAY}")
        place.unlink(missing_ok=True)
        return place

    def files(self) -> list[File]:
        """The pieces under the names that they will have; raises `ToolFailed` where they are not what the digest says."""
        if self.part.digest and self.whole.hexdigest() != self.part.digest:
            raise damaged(self.part)
        names = [piece.name.removesuffix(UNDER_WAY) for piece in self.pieces]
        folder, _, last = self.part.path.rpartition("/")
        names = names if names[1:] else [last]
        return [
            msgspec.structs.replace(piece, name=f"{folder}/{name}".lstrip("/"))
            for piece, name in zip(self.pieces, names, strict=True)
        ]

    def settle(self) -> list[File]:
        """Give the pieces their names."""
        files = self.files()
        for piece, file in zip(self.pieces, files, strict=True):
            place = self.store.place(file.name)
            place.with_name(piece.name).replace(place)
        folder_to_disk(self.store.place(self.part.path).parent)
        return files


@contextmanager
def claimed(folder: Path, split_bytes: int = 0) -> Iterator[Store]:
    """A folder that is new, empty or a bundle's, for this run alone; raises `UsageError` or `Refused`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        raise UsageError(
            f"{folder} could not be made: {fault.strerror}.",
            cause="a file has that name, or the folder around it is full or not yours",
            next_step="choose another with -o",
        ) from fault
    try:
        _lock(handle, folder)
        require_ours(folder)
        with full_disk_in_words(folder):
            os.close(os.open(folder / NOTES, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644))
            yield Store(folder, split_bytes)
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as fault:
        raise Refused(
            f"Another run writes a bundle into {folder}.",
            cause="its folder is locked until that run ends, even if it is killed",
            next_step="wait for it, or choose another folder with -o",
        ) from fault
    except OSError:
        # Some network file systems have no locks.
        return


def require_ours(folder: Path) -> None:
    """Raise `UsageError` where a folder holds something, and is no bundle's."""
    entries = sorted(path.name for path in folder.iterdir())
    notes = folder / NOTES
    if (entries and NOTES not in entries) or (os.path.lexists(notes) and not is_regular(notes)):
        raise UsageError(
            f"{folder} holds {entries[0]!r:.80} and is no bundle, so nothing was written.",
            cause="the kit never mixes a bundle with your files",
            next_step="choose a new folder with -o",
        )


def is_regular(path: Path) -> bool:
    """Whether a path is a file itself, and no link to one."""
    return stat.S_ISREG(path.lstat().st_mode)


@contextmanager
def full_disk_in_words(folder: Path) -> Iterator[None]:
    """Say in one sentence what the file system refuses."""
    try:
        yield
    except OSError as fault:
        raise ToolFailed(
            f"{fault.filename or folder} could not be written: {fault.strerror}.",
            cause="the disk is full, is gone, or does not support files this large (FAT32: 4 GB, see --split)",
            next_step="repeat the same command: complete parts are kept",
        ) from fault


def _read_notes(path: Path) -> dict[str, Note]:
    """The last note of each part; a line that a kill tore is none."""
    notes: dict[str, Note] = {}
    for line in read_bounded(path, MOST_NOTES_BYTES).splitlines():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):
            note = msgspec.json.decode(line, type=Note)
            notes[note.path] = note
    return {path: note for path, note in notes.items() if note.files}


def _writable(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, FRESH, 0o644), "wb")


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
