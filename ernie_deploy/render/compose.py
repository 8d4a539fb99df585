"""Writes a plan down as a compose file: pure, so the same request gives the same bytes."""

from typing import Literal, TypeAlias

from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.checksum import with_checksum
from ernie_deploy.render.launch import Launch
from ernie_deploy.render.scripts import MOUNT, read, scripts_of
from ernie_deploy.render.settings import command, variables
from ernie_deploy.render.volumes import Volumes
from ernie_deploy.render.yaml import environment, variable

# What carries the scripts: `fetch` in a file that stands alone, or a folder beside it.
Carrier: TypeAlias = Literal["fetch", "folder"]


def compose_file(plan: Plan, defaults: dict[str, str], carrier: Carrier = "fetch") -> str:
    """The text of one compose file; `defaults` are the variables' (catalog)."""
    alone = bool(plan.request.upstreams)
    template = environment().get_template("gateway-alone.yml.j2" if alone else "compose.yml.j2")
    host = {name: variable(name, default) for name, default in defaults_of(plan, defaults).items()}
    scripts = scripts_of(plan)
    launch = Launch(plan=plan, scripts=scripts, host=host)
    mount = f"./scripts:{scripts.folder}:ro" if carrier == "folder" else f"scripts:{MOUNT}:ro"
    if alone and carrier == "fetch":
        mount = ""
    texts = {
        "plan": plan, "host": host, "launch": launch, "carrier": carrier,
        "scripts": scripts, "scripts_mount": mount, "unpack": read("unpack.py"),
        "volumes": Volumes(plan=plan, host=host, scripts=mount), "command": command, "variables": variables,
    }  # fmt: skip
    return with_checksum(template.render(texts))


def defaults_of(plan: Plan, defaults: dict[str, str]) -> dict[str, str]:
    """The catalog's defaults, with those that this plan decides."""
    decided = {s.variable: str(s.value) for s in (*plan.environment, *plan.bench) if s.variable}
    decided |= plan.gateway.defaults if plan.gateway else {}
    decided |= {"BIND_ADDR": plan.request.bind, "SERVE_MEMORY": plan.serve_memory}
    return {**defaults, **decided, "IMAGE_REGISTRY": plan.request.registry, "ENGINE_IMAGE": plan.image}
