"""What the first line of a rendered file says: the command that made it."""

import shlex
from pathlib import Path

from ernie_deploy.safe_io.reading import first_line

RENDERED = "# ernie-deploy render "


def words_of(file: Path) -> list[str] | None:
    """The words that rendered a file; None where the kit did not, or the file cannot be read."""
    try:
        head = first_line(file)
        return shlex.split(head.removeprefix(RENDERED)) if head.startswith(RENDERED) else None
    except (OSError, ValueError):
        return None
