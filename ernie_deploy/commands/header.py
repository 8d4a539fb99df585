"""The request behind a rendered file, read back from its first line."""

import shlex
from pathlib import Path

from ernie_deploy.plan.request import Request
from ernie_deploy.stack.rendered import RENDERED, lock_option


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
