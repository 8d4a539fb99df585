"""Which gateway a command means: the folder that a stack's gateway reads, and how its files are taken up."""

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from ernie_deploy.errors import KitError, ToolMissing, UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.stack.compose import Stack

FOLDER = "gateway"
# What of the folder a cluster has as a Secret of its own.
Kind: TypeAlias = Literal["keys", "certificate"]


def gateway_folder(stack: "Stack") -> Path:
    """The folder of keys and certificate: GATEWAY_DIR of the shell or of .env, else `gateway` beside the file.

    Raises `UsageError` where the kit has rendered the file without a gateway.
    """
    from ernie_deploy.check.project import with_env

    file, made_by = stack.files[0], stack.made_by
    if made_by and "--gateway" not in made_by.words:
        raise UsageError(
            f"{file} has no gateway.",
            cause="without one nothing uses these keys and certificates",
            next_step=made_by.again("--gateway"),
        )
    named = (str(stack.env_file),) if stack.env_file else ()
    values = with_env({**os.environ}, named, file.parent)
    return file.parent / (values.get("GATEWAY_DIR") or FOLDER)


def tls_folder(stack: "Stack") -> Path:
    """The gateway's folder, for a command about its certificate.

    Raises `UsageError` too where the kit has rendered a gateway that speaks no TLS.
    """
    folder, made_by = gateway_folder(stack), stack.made_by
    if made_by and not made_by.has("--tls"):
        raise UsageError(
            f"The gateway of {stack.files[0]} speaks no TLS.",
            cause="it was rendered without --tls, so it speaks plain HTTP whatever certificate lies beside it",
            next_step=made_by.again("--tls files"),
        )
    return folder


def utc_text(epoch_s: int) -> str | None:
    """A time in seconds since 1970 as ISO 8601 in UTC; None for 0, which is no time."""
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if epoch_s else None


def in_kubernetes(stack: "Stack") -> bool:
    """Whether the stack is a file of manifests."""
    return stack.made_by is not None and "kubernetes" in stack.made_by.words


def take_up(stack: "Stack", *kinds: Kind, must: bool = False) -> bool:
    """Have a running gateway read its files anew, and say what came of it; whether one did.

    In Kubernetes it says the commands for what has changed, the files of these `kinds`.
    Where nobody can say whether one runs, that is said too, or an error where it `must` be known.
    """
    if in_kubernetes(stack):
        say(f"next: {kubectl(stack, kinds)}", err=True)
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


def reload_words(stack: "Stack", *kinds: Kind) -> str:
    """The command behind `reload`, as a shell takes it."""
    from ernie_deploy.stack.reload import command

    return kubectl(stack, kinds) if in_kubernetes(stack) else shlex.join(command(stack))


def every_kind(stack: "Stack") -> tuple[Kind, ...]:
    """What of its folder the stack's gateway reads."""
    with_tls = stack.made_by is not None and stack.made_by.has("--tls")
    return ("keys", "certificate") if with_tls else ("keys",)


def kubectl(stack: "Stack", kinds: Sequence[Kind]) -> str:
    """The commands that bring files of the folder to the cluster, and the gateway's pods to read them."""
    from ernie_deploy.gateway import key_file, tls_files

    name, folder = _kubernetes_name(stack.files[0]), gateway_folder(stack)
    place = folder / tls_files.FOLDER
    files = folder / key_file.NAME, place / tls_files.CERTIFICATE, place / tls_files.KEY
    keys, cert, key = (shlex.quote(str(file)) for file in files)
    secrets: dict[Kind, str] = {
        "keys": f"generic {name}-gateway-keys --from-file={key_file.NAME}={keys}",
        "certificate": f"tls {name}-gateway-tls --cert={cert} --key={key}",
    }
    create = "kubectl create secret {} --dry-run=client -o yaml | kubectl apply -f -"
    restart = f"kubectl rollout restart deployment/{name}-gateway"
    return " && ".join([*(create.format(secrets[kind]) for kind in kinds), restart])


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
