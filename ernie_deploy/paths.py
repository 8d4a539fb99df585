"""Where the kit's own files are, and how it writes files: whole or not at all."""

import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.redaction import redacted

PACKAGE = Path(__file__).parent
CATALOG = PACKAGE / "catalog"

# A wheel carries the top-level folders inside the package; in a checkout (an editable
# install too) they lie beside it and are read live.
_SHIPPED = PACKAGE / "_shipped"
ROOT = _SHIPPED if _SHIPPED.is_dir() else PACKAGE.parent
TEMPLATES = ROOT / "templates"
DOCKER = ROOT / "docker"
# What runs inside containers without the package.
SCRIPTS = DOCKER / "scripts"

OWNERS = 0o600


def write_whole(
    path: Path, text: str, *, force: bool = False, private: bool = False, mode: int | None = None
) -> None:
    """Write `text` to `path` atomically; a file that says something else needs `force`.

    With a `mode` the file has exactly that one, whatever the umask, and never another for a moment.
    """
    write_all({path: text}, force=force, private=[path] if private else [], mode=mode)


def write_all(
    files: Mapping[Path, str],
    *,
    force: bool = False,
    ours: Callable[[Path], bool] | None = None,
    private: Collection[Path] = (),
    mode: int | None = None,
) -> None:
    """Write every file or none; what is there, says something else and is not `ours` needs `force`.

    Of the `private` ones, a new file is for its owner alone, and so is any that holds a password.
    With a `mode` every file that is written has exactly that one.
    """
    fresh = {path: text for path, text in files.items() if not says(path, text)}
    _refuse(path for path in fresh if os.path.lexists(path) and not (force or (ours and ours(path))))
    _require_files(fresh)
    at = Path()
    try:
        with ExitStack() as stack:
            staged = {}
            for at, text in fresh.items():
                staged[at] = stack.enter_context(_staged(at, text, private=at in private, mode=mode))
            for put in staged.values():
                put()
    except OSError as fault:
        raise UsageError(
            f"{at} could not be written: {fault.strerror}.",
            cause="the folder is missing or not yours, or the disk is full",
            next_step=f"check it with: ls -ld {at.parent}",
        ) from fault


def _refuse(in_the_way: Iterable[Path]) -> None:
    """Raise `UsageError` that names each of these files, if there is any."""
    if blocked := list(in_the_way):
        raise UsageError(
            "\n".join(f"{path} exists and was not overwritten." for path in blocked),
            cause="the kit never replaces your files unasked, and has written none of the others either"
            if blocked[1:] else "the kit never replaces your files unasked",
            next_step="choose another path, or repeat the command with --force",
        )  # fmt: skip


def _require_files(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.exists() and not path.is_file():
            raise UsageError(
                f"{path} is a folder, a pipe or a device, not a file.", next_step="choose another path"
            )


def says(path: Path, text: str) -> bool:
    """Whether there is such a file and it says exactly that."""
    data = text.encode()
    try:
        # A pipe would be waited for, and a disk image read.
        return path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


@contextmanager
def _staged(path: Path, text: str, *, private: bool, mode: int | None = None) -> Iterator[Callable[[], None]]:
    """The text on the disk, and the function that gives it the name; a file that is there keeps its owner and mode."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def protect(handle: int) -> None:
        _protect(handle, path, text, private=private)
        if mode is not None:
            os.fchmod(handle, mode)

    with spare(path, text.encode(), protect) as put:
        yield put


@contextmanager
def spare(
    path: Path, data: bytes, protect: Callable[[int], None], *, mode: int = 0o666, to_disk: bool = False
) -> Iterator[Callable[[], None]]:
    """The bytes in a file beside `path`, gone at the end, and the function that gives it the name; raises `OSError`.

    `protect` gives the descriptor its owner and mode before a byte is in it, for the file may have a name that others
    know: with `mode` less the umask it is made.
    """
    handle, place = _opened_beside(path, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            protect(handle)
            file.write(data)
            file.flush()
            if to_disk:
                os.fsync(handle)
            yield lambda: _put(handle, place, path)
    finally:
        place.unlink(missing_ok=True)


def _protect(handle: int, path: Path, text: str, *, private: bool) -> None:
    before = path.stat() if path.is_file() and not path.is_symlink() else None
    if before:
        # Only root may give a file to its owner.
        with suppress(PermissionError):
            os.fchown(handle, before.st_uid, before.st_gid)
    if before or private:
        os.fchmod(handle, _mode_for(text, before.st_mode if before else OWNERS, private=private))


def _mode_for(text: str, mode: int, *, private: bool) -> int:
    """The permissions of `mode`, without those of others where a private file's text holds a password."""
    return stat.S_IMODE(mode) & (OWNERS if private and redacted(text) != text else ~0)


def _opened_beside(path: Path, mode: int) -> tuple[int, Path]:
    """A file without a name, of which no kill leaves a part, and the name it may have for a moment.

    Where the file system has no such files, or this is not Linux, it has that name at once.
    """
    place = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    with suppress(AttributeError, OSError):
        return os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, mode), place
    return os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode), place


def _put(handle: int, place: Path, path: Path) -> None:
    if not place.exists():
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            # Only with a folder's descriptor does Python ask the kernel to follow the link of /proc.
            os.link(f"/proc/self/fd/{handle}", place.name, dst_dir_fd=folder)
        finally:
            os.close(folder)
    place.replace(path)


def folder_to_disk(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; raises `OSError`."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
