"""Which gateway a command means: the folder that a stack's gateway reads, and how its files are taken up."""

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_deploy.errors import KitError, ToolMissing, UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack

FOLDER = "gateway"


def gateway_folder(stack: "Stack") -> Path:
    """The folder of keys and certificate: GATEWAY_DIR of the shell or of .env, else `gateway` beside the file.

    Raises `UsageError` where the kit has rendered the file without a gateway.
    """
    from ernie_deploy.check.project import with_env
    from ernie_deploy.stack.rendered import rendered

    file = stack.files[0]
    made_by = rendered(file)
    if made_by and "--gateway" not in made_by.words:
        raise UsageError(
            f"{file} has no gateway.",
            cause="without one nobody asks for these keys and certificates",
            next_step=made_by.again("--gateway"),
        )
    named = (str(stack.env_file),) if stack.env_file else ()
    values = with_env({**os.environ}, named, file.parent)
    return file.parent / (values.get("GATEWAY_DIR") or FOLDER)


def in_kubernetes(stack: "Stack") -> bool:
    """Whether the stack is a file of manifests."""
    from ernie_deploy.stack.rendered import rendered

    made_by = rendered(stack.files[0])
    return made_by is not None and "kubernetes" in made_by.words


def take_up(stack: "Stack", *, must: bool = False) -> bool:
    """Have a running gateway read its files anew, and say what came of it; whether one did.

    Where nobody can say whether one runs, that is said too, or an error where it `must` be known.
    """
    if in_kubernetes(stack):
        say(f"next: {kubectl(stack)}", err=True)
        return False
    from ernie_deploy.stack.reload import reload

    try:
        taken = reload(stack)
    except ToolMissing as fault:
        if must:
            raise
        say(
            f"note: {fault.what} No gateway was asked to read its files; one that starts reads them.",
            err=True,
        )
        return False
    say(
        "the gateway has taken it up; open streams go on"
        if taken
        else "note: no gateway runs here; one that starts reads it",
        err=True,
    )
    return taken


def reload_words(stack: "Stack") -> str:
    """The command behind `reload`, as a shell takes it."""
    from ernie_deploy.stack.reload import command

    return kubectl(stack) if in_kubernetes(stack) else shlex.join(command(stack))


def kubectl(stack: "Stack") -> str:
    """The commands that bring the folder's keys to the cluster, and the gateway's pods to read them."""
    name = _kubernetes_name(stack.files[0])
    keys = shlex.quote(str(gateway_folder(stack) / "keys.map"))
    return (
        f"kubectl create secret generic {name}-gateway-keys --from-file=keys.map={keys} --dry-run=client -o yaml"
        f" | kubectl apply -f - && kubectl rollout restart deployment/{name}-gateway"
    )


def _kubernetes_name(file: Path) -> str:
    """The name of a manifests' stack; NAME where its first line tells none."""
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.commands.preflight import request_of_file
    from ernie_deploy.plan.resolve import resolve
    from ernie_deploy.render.kubernetes import short_name

    with suppress(KitError):
        if request := request_of_file(file):
            return short_name(resolve(Catalog(), request).project)
    return "NAME"
