"""The volumes of the kit's stacks on one engine: what each holds, how large it is, and whose containers refer to it."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.stack.containers import PROJECT, SERVICE

if TYPE_CHECKING:
    from docker import DockerClient

# The label that a rendered file gives to its volumes.
HOLDS = "ernie-deploy.holds"
# Without that label: Compose offers to recreate a volume whose declaration changed, and this one is costly.
WEIGHTS = "ernie-hf-cache"
# Compiled kernels, by model, vendor and version: an upgrade makes another one, and this one stays.
KERNELS = re.compile(r"(?P<of>ernie-engine-[a-z0-9.-]{1,80}?)-\d{1,4}\.\d{1,4}\.\d{1,4}(?:-[a-z0-9.]{1,40})?")
# The engine reads whole volumes to measure them.
MEASURE_S = 20


class User(Struct, frozen=True, kw_only=True):
    """A container that refers to a volume, running or not; `project` is empty where Compose did not make it."""

    container: str
    project: str
    service: str
    status: str


class Volume(Struct, frozen=True, kw_only=True):
    """One volume; `size_bytes` is None where the engine did not say in time.

    `replaced_by` names the volume in use that holds the same of another vLLM: this one is there for the way back.
    """

    name: str
    holds: str
    size_bytes: int | None
    users: tuple[User, ...]
    replaced_by: str = ""


def list_volumes(engine: "DockerClient") -> list[Volume]:
    """The volumes that the kit's stacks made, by name."""
    sizes, containers = _sizes(engine), engine.api.containers(all=True)
    made = [(volume["Name"], _holds(volume)) for volume in engine.api.volumes()["Volumes"] or ()]
    found = [
        Volume(name=name, holds=holds, size_bytes=sizes.get(name), users=tuple(_users(name, containers)))
        for name, holds in sorted(made)
        if holds
    ]
    return [replace(volume, replaced_by=_replaced_by(volume, found)) for volume in found]


def _replaced_by(volume: Volume, every: Iterable[Volume]) -> str:
    """The volume in use that holds compiled kernels of another version; '' where this one is used or is none such."""
    kernels = KERNELS.fullmatch(volume.name)
    if volume.users or kernels is None:
        return ""
    others = ((KERNELS.fullmatch(other.name), other) for other in every if other.users)
    return next((other.name for match, other in others if match and match["of"] == kernels["of"]), "")


def names(engine: "DockerClient") -> list[str]:
    """The names alone, which take no time."""
    return sorted(volume["Name"] for volume in engine.api.volumes()["Volumes"] or () if _holds(volume))


def remove(engine: "DockerClient", name: str) -> None:
    """Remove one that nobody refers to; raises `UsageError` for another's, `Refused` with the users' names."""
    from docker.errors import APIError

    require_free(engine, name)
    try:
        engine.api.remove_volume(name)
    except APIError as fault:
        raise Refused(f"Docker kept {name}.", cause=str(fault.explanation)) from fault


def require_free(engine: "DockerClient", name: str) -> None:
    """Raise `UsageError` where the kit made no such volume, `Refused` where a container refers to it."""
    known = names(engine)
    if name not in known:
        raise UsageError(
            f"There is no volume {name[:80]!r} of this kit here.",
            cause=f"there are: {', '.join(known) or 'none'}",
            next_step="see them all with: ernie-deploy volumes",
        )
    if users := _users(name, engine.api.containers(all=True)):
        raise Refused(
            f"{name} is in use.",
            cause=f"these containers refer to it: {'; '.join(map(in_words, users))}",
            next_step="take their stacks down first, with `ernie-deploy down` in the folder of each",
        )


def in_words(user: User) -> str:
    """`serve of ernie-21b-h100 (running)`."""
    where = f"{user.service} of {user.project}" if user.project else user.container
    return f"{where} ({user.status})"


def _holds(volume: dict[str, Any]) -> str:
    label: str = (volume["Labels"] or {}).get(HOLDS, "")
    return label or ("weights from the hub" if volume["Name"] == WEIGHTS else "")


def _users(name: str, containers: Iterable[dict[str, Any]]) -> list[User]:
    return [
        User(
            container=container["Names"][0].lstrip("/"),
            project=container["Labels"].get(PROJECT, ""),
            service=container["Labels"].get(SERVICE, ""),
            status=container["State"],
        )
        for container in containers
        if any(mount.get("Name") == name for mount in container["Mounts"])
    ]


def _sizes(engine: "DockerClient") -> dict[str, int]:
    """Bytes by name; -1 stands for a driver that does not count."""
    from docker.errors import APIError
    from requests.exceptions import RequestException

    before, engine.api.timeout = engine.api.timeout, MEASURE_S
    try:
        measured = engine.df()["Volumes"] or ()
    except (APIError, RequestException):
        return {}
    finally:
        engine.api.timeout = before
    return {v["Name"]: v["UsageData"]["Size"] for v in measured if v["UsageData"]["Size"] >= 0}


def as_text(volumes: Iterable[Volume]) -> str:
    """For people: a line each, and a line for each container that refers to it."""
    return "\n".join(line for volume in volumes for line in _lines(volume))


def _lines(volume: Volume) -> list[str]:
    size = "size unknown" if volume.size_bytes is None else f"{volume.size_bytes / 1e9:,.2f} GB"
    unused = "in use by no container"
    if volume.replaced_by:
        unused += f": kept so that a stack of {volume.replaced_by} can go back to this version warm"
    users = [f"  {in_words(user)}" for user in volume.users] or [f"  {unused}"]
    return [f"{volume.name}: {volume.holds}, {size}", *users]
