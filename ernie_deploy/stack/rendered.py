"""What the first line of a rendered file says: the command that made it."""

import shlex
from pathlib import Path

from msgspec import Struct

from ernie_deploy.plan.lock import NAME
from ernie_deploy.safe_io.reading import first_line

RENDERED = "# ernie-deploy render "


class Rendered(Struct, frozen=True):
    """A file of the kit's, and the words that it was rendered with."""

    file: Path
    words: tuple[str, ...]

    def has(self, option: str) -> bool:
        """Whether an option of the kit's own is among the words; those after `--` are the engine's."""
        own = self.words[: self.words.index("--")] if "--" in self.words else self.words
        return any(word.partition("=")[0] == option for word in own)

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


def lock_option(words: list[str]) -> int | None:
    """Where `--lock FILE` stands among the words of a first line; None where it does not."""
    options = words[: words.index("--")] if "--" in words else words
    return options.index("--lock") if "--lock" in options[:-1] else None


def lock_path(file: Path) -> Path:
    """The lock of a compose file: the one that its first line names, else the place beside it; raises `OSError`."""
    head = first_line(file)
    try:
        words = shlex.split(head.removeprefix(RENDERED)) if head.startswith(RENDERED) else []
    except ValueError:
        words = []
    at = lock_option(words)
    return file.parent / (NAME if at is None else words[at + 1])


def names_lock(file: Path) -> bool:
    """Whether the file says that it was rendered with a lock."""
    made_by = rendered(file)
    return made_by is not None and lock_option(list(made_by.words)) is not None
