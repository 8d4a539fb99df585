"""Where the kit's own files are, and how it writes files: whole or not at all."""

import os
from pathlib import Path

from ernie_deploy.errors import UsageError

PACKAGE = Path(__file__).parent
CATALOG = PACKAGE / "catalog"

# A wheel carries the top-level folders inside the package; in a checkout (an editable
# install too) they lie beside it and are read live.
_SHIPPED = PACKAGE / "_shipped"
ROOT = _SHIPPED if _SHIPPED.is_dir() else PACKAGE.parent
TEMPLATES = ROOT / "templates"
DOCKER = ROOT / "docker"


def write_whole(path: Path, text: str, *, force: bool = False) -> None:
    """Write `text` to `path` atomically; a file that says something else needs `force`."""
    if not force:
        refuse_overwrite(path, text)
    try:
        _replace(path, text)
    except OSError as fault:
        raise UsageError(
            f"{path} could not be written: {fault.strerror}.",
            cause="the folder is missing, full or not yours",
            next_step=f"check it with: ls -ld {path.parent}",
        ) from fault


def write_all(folder: Path, files: dict[str, str], *, force: bool = False) -> None:
    """Write every file or, where one of them may not be overwritten, none."""
    for name, text in files.items():
        if not force:
            refuse_overwrite(folder / name, text)
    for name, text in files.items():
        write_whole(folder / name, text, force=True)


def refuse_overwrite(path: Path, text: str) -> None:
    """Raise `UsageError` where `path` holds anything but `text`."""
    if not path.exists() or (path.is_file() and path.read_bytes() == text.encode()):
        return
    raise UsageError(
        f"{path} exists and was not overwritten.",
        cause="the kit never replaces a file of yours unasked",
        next_step="choose another path, or repeat the command with --force",
    )


def _replace(path: Path, text: str) -> None:
    import tempfile

    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    made = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        # mkstemp makes files private; a compose file is read by whoever may read the folder.
        made.chmod(0o644)
        made.replace(path)
    except BaseException:
        made.unlink()
        raise
