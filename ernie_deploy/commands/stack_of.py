"""Which stack a command means: the files that it names, or those that Compose takes in this folder of itself."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack

RENDERED = Path("compose.yml")
OF_FOLDER = "without a file the command means the stack that Compose would take in this folder"


def stack_of(files: Sequence[Path], name: str = "", *, env_file: Path | None = None) -> "Stack":
    """The stack of these files, as with Compose's own --file, or else of this folder; raises `UsageError`."""
    from ernie_deploy.stack.compose import Stack

    named = tuple(existing(file, "--file names it") for file in files) or of_folder()
    if len(named) == 1 and files:
        _tell_what_is_left_out(named[0])
    return Stack(files=named, implicit=not files, project=name, env_file=env_file)


def of_folder() -> tuple[Path, ...]:
    """What `docker compose` reads here where no file is named: an override beside it too, or COMPOSE_FILE."""
    from ernie_deploy.check.project import here

    project = here(os.environ)
    return tuple(existing(Path(file)) for file in project.files) if project else (existing(RENDERED),)


def _tell_what_is_left_out(file: Path) -> None:
    """Name the override that Compose would have taken with this very file, had it not been named."""
    from ernie_deploy.check.project import here

    project = here(os.environ)
    if project and len(project.files) > 1 and Path(project.files[0]) == file:
        left = ", ".join(project.files[1:])
        say(f"note: {left} is left out, as with Compose's own --file; without a file it counts", err=True)


def stack_to_render(name: str = "") -> "Stack":
    """The stack of compose.yml here, which is about to be written; alone where Compose would take another file."""
    from ernie_deploy.check.project import here
    from ernie_deploy.stack.compose import Stack

    project = here(os.environ)
    files = [Path(file) for file in project.files] if project else []
    # A file of a folder above is no longer taken once there is one here.
    if not files or files[0].parts[0] == "..":
        return Stack(files=(RENDERED,), implicit=True, project=name)
    if files[0] == RENDERED:
        return Stack(files=tuple(files), implicit=True, project=name)
    say(f"note: Compose would take {', '.join(map(str, files))} here; {RENDERED} is started alone", err=True)
    return Stack(files=(RENDERED,), project=name)


def existing(path: Path, cause: str = OF_FOLDER) -> Path:
    """The file, which is there; raises `UsageError` with what made the command look for it."""
    if path.is_file():
        return path
    raise UsageError(
        f"There is no {path} here.",
        cause=cause,
        next_step="make one with: ernie-deploy render TARGET -o compose.yml",
    )
