"""The request behind a rendered file, read back from its first line."""

import shlex
from pathlib import Path

from ernie_deploy.plan.lock import NAME
from ernie_deploy.plan.request import Request
from ernie_deploy.safe_io.reading import first_line
from ernie_deploy.stack.rendered import RENDERED


def request_of_header(head: str, folder: Path = Path(), *, locked: bool = True) -> Request:
    """The request that the first line of a file in `folder` names, with the lock that it names unless told without.

    Raises `KitError`, click's errors or ValueError where it is none.
    """
    from ernie_deploy.commands.options import request_of
    from ernie_deploy.commands.render import render

    words = shlex.split(head.removeprefix(RENDERED))
    if not locked and (at := lock_option(words)) is not None:
        del words[at : at + 2]
    # An eager option such as --help would print, and end the command that only reads the line.
    options = render.make_context("render", words, help_option_names=[], obj=folder).params
    return request_of({name: options[name] for name in Request.__struct_fields__})


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
