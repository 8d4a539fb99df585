"""Why a difference matters: what a flag's release history, the engine's facts and Docker Compose make of it."""

from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from ernie_deploy.check.service import Service
from ernie_deploy.check.values import Version
from ernie_deploy.check.versions import spelled, standing
from ernie_deploy.diff.change import Change
from ernie_deploy.diff.flags import default_of
from ernie_deploy.diff.side import Side
from ernie_deploy.plan.flag_history import history
from ernie_deploy.plan.words import table

LOOPBACK = ("127.", "[::1]", "localhost")


class ChangeContext(NamedTuple):
    """A change between two sides."""

    change: Change
    old: Side
    new: Side


Reason = Callable[[ChangeContext], str]


def explained(change: Change, old: Side, new: Side) -> Change:
    """The change with the first reason that holds."""
    if change.why:
        return change
    context = ChangeContext(change, old, new)
    reasons = (reason(context) for reason in REASONS.get(change.section, ()))
    return replace(change, why=next((why for why in reasons if why), ""))


def _engine(side: Side, service: str) -> Version | None:
    found = side.stack.services.get(service)
    return found.engine if found else None


def _serves(side: Side, service: str) -> Service | None:
    found = side.stack.services.get(service)
    return found if found and found.serve else None


def _not_of_this_engine(context: ChangeContext) -> str:
    """A flag that the new side's vLLM does not take."""
    if not _serves(context.new, context.change.service) or not (
        version := _engine(context.new, context.change.service)
    ):
        return ""
    name = context.change.name.removeprefix("--")
    if (state := standing(name, version)) == "there":
        return ""
    past, release = history(), spelled(version)
    if context.change.kind == "removed":
        return f"vLLM {release} has it no longer" if state == "gone" else ""
    remedy = f": {past.remedy(name)}" if past.remedy(name) else ""
    if state == "gone":
        return f"vLLM {release} refuses it, it was removed in {past.end(name, version)}{remedy}"
    return f"vLLM {release} refuses it" + (f", it came with {past.first(name)}" if state == "later" else "")


def _deprecated(context: ChangeContext) -> str:
    service = _serves(context.new, context.change.service)
    if not service or context.change.kind == "removed":
        return ""
    lives = service.engine_facts.lifetimes
    name = context.change.name.removeprefix("--")
    lifetime = next(
        (
            lifetime
            for lifetime in lives
            if lifetime.flag == name and lifetime.value in ("", context.change.new)
        ),
        None,
    )
    return f"deprecated since vLLM {lifetime.since}: {lifetime.remedy}" if lifetime else ""


def _default(context: ChangeContext) -> str:
    """What holds without a flag, or that it says no more than that."""
    service = context.new.stack.services.get(context.change.service)
    if service is None or service.argv is None or context.change.kind not in ("added", "removed"):
        return ""
    argv, name = service.argv, context.change.name.removeprefix("--")
    flag = table(argv.table, argv.tool).get(name)
    default = default_of(flag) if flag else ""
    if context.change.kind == "added":
        return (
            f"that is the default of vLLM {argv.table}" if default and default == context.change.new else ""
        )
    return f"the default of vLLM {argv.table} is {default}" if default else ""


def _opened(context: ChangeContext) -> str:
    name, old, new = context.change.name, context.change.old, context.change.new
    closed = old.startswith(LOOPBACK) or not old
    opened = name.startswith("port ") and closed and new and not new.startswith(LOOPBACK)
    return "other hosts reach it" if opened else ""


def _downloaded(context: ChangeContext) -> str:
    if context.change.service != "fetch" or context.new.plan is None or context.new.plan.request.weights:
        return ""
    return f"fetch downloads {context.new.plan.weight_bytes / 1e9:.1f} GB, unless this host has it already"


def _kept_elsewhere(context: ChangeContext) -> str:
    name = context.change.name
    if name == "volume engine-cache.name" and context.change.kind == "changed":
        return "compiled kernels of another version stay; the first start compiles"
    entry = name.removeprefix("volume ").partition(".")[0]
    kept = all(side.stack.entry("volumes", entry) for side in (context.old, context.new))
    if name.startswith("volume ") and not name.endswith(".name") and kept:
        return "Compose asks whether to delete the volume and make it anew"
    return ""


def _less_confined(context: ChangeContext) -> str:
    match context.change.name, context.change.kind:
        case "user", "removed":
            return "it runs as the image's own user"
        case "cap_drop", "removed":
            return "it keeps Docker's default capabilities"
        case "privileged", _ if context.change.new == "true":
            return "the container is root on the host"
        case "read_only", _ if context.change.new != "true":
            return "what breaks in can write to the container's files"
    return ""


def _another_project(context: ChangeContext) -> str:
    if context.change.name == "name" and context.change.kind == "changed":
        return f"containers of the old one run on until: docker compose -p {context.change.old} down"
    return ""


REASONS: dict[str, tuple[Reason, ...]] = {
    "flags": (_not_of_this_engine, _deprecated, _default),
    "model": (_downloaded,),
    "ports": (_opened,),
    "security": (_less_confined,),
    "volumes": (_kept_elsewhere,),
    "other": (_another_project,),
}
