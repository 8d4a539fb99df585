"""Which part of a file for several nodes this host runs, as its .env says."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_deploy.errors import UsageError

if TYPE_CHECKING:
    from ernie_deploy.plan.request import Request


def profiles(request: "Request | None", folder: Path) -> tuple[str, ...]:
    """The compose profile of this node; none for a stack of one node. Raises `UsageError` without a rank."""
    if request is None or request.nodes == 1:
        return ()
    from ernie_deploy.plan.nodes import profile_of

    rank = rank_of(folder)
    if rank.isascii() and rank.isdigit():
        return (profile_of(int(rank)),)
    from shlex import join

    from ernie_deploy.plan.request import command_words

    raise UsageError(
        f"NODE_RANK is {f'{rank!r}' if rank else 'not set'} in {folder / '.env'}.",
        cause="a file for several nodes has a part for the head, rank 0, and one for the others",
        next_step=join(["ernie-deploy", "doctor", *command_words(request)])
        + " --write-env --node-rank R --head ADDR",
    )


def rank_of(folder: Path) -> str:
    """NODE_RANK as Compose reads it: this shell's, empty or not, else that of .env; '' where neither has one."""
    from io import StringIO

    from dotenv import dotenv_values

    from ernie_deploy.host.examine import read_env

    values = {**dotenv_values(stream=StringIO(read_env(folder / ".env"))), **os.environ}
    return values.get("NODE_RANK") or ""
