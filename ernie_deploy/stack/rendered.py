"""What the first line of a rendered file says: the command that made it."""

import shlex
from pathlib import Path

from msgspec import Struct

from ernie_deploy.safe_io.reading import first_line

RENDERED = "# ernie-deploy render "


class Rendered(Struct, frozen=True):
    """A file of the kit's, and the words that it was rendered with."""

    file: Path
    words: tuple[str, ...]

    def named(self, sentence: str) -> str:
        """A sentence of the kit's with this file's target in it."""
        return sentence.replace(" TARGET", f" {self.words[0]}") if self.words else sentence

    def again(self, options: str) -> str:
        """The command that renders it anew with some options more; later ones win over earlier."""
        words, dashes, extra = shlex.join(self.words).partition(" -- ")
        return (
            f"ernie-deploy render {words} {options} -o {shlex.quote(str(self.file))} --force{dashes}{extra}"
        )


def rendered(file: Path) -> Rendered | None:
    """What rendered a file; None where the kit did not, or the file cannot be read."""
    try:
        head = first_line(file)
        if head.startswith(RENDERED):
            return Rendered(file, tuple(shlex.split(head.removeprefix(RENDERED))))
    except (OSError, ValueError):
        return None
    return None
