"""What an input is (compose file, commands, Kubernetes manifest) and the stacks that it stands for."""

import re
from collections.abc import Iterator

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.assemble import Assembly
from ernie_deploy.check.docker_run import Member, services
from ernie_deploy.check.interpolate import NOTHING_SET
from ernie_deploy.check.kubernetes import containers
from ernie_deploy.check.service import Form, Service, Stack
from ernie_deploy.check.shell_text import commands, is_markdown
from ernie_deploy.check.stacks import MAX_SERVICES, stack_of
from ernie_deploy.check.tree import MAX_BYTES, Table, too_large
from ernie_deploy.errors import UsageError

YAML_NAME = re.compile(r"\.(?:ya?ml|json)\Z", re.IGNORECASE)
COMMANDS = re.compile(
    rb"(?:docker|podman|nerdctl)\s+(?:container\s+)?(?:run|create)\b|vllm\s+serve\b|vllm\.entrypoints\."
)
COMPOSE = re.compile(rb"^[\"']?(?:services|include|name|volumes|networks|x-[\w-]+)[\"']?\s*:", re.MULTILINE)
FENCE = re.compile(rb"^[ \t]{0,8}(?:```|~~~)", re.MULTILINE)
MANIFEST = re.compile(rb"^(?:apiVersion|kind)\s*:", re.MULTILINE)
SHELL_NAME = re.compile(r"\.(?:sh|bash|zsh|md|markdown|rst|txt|service)\Z", re.IGNORECASE)


def form_of(data: bytes, name: str) -> Form:
    """How the text is to be read; a compose file where nothing tells."""
    if len(MANIFEST.findall(data[:MAX_BYTES])) > 1 and not re.search(rb"^services\s*:", data, re.MULTILINE):
        return "kubernetes"
    if YAML_NAME.search(name):
        return "compose"
    if SHELL_NAME.search(name) or data.startswith(b"#!"):
        return "command"
    shown_in_blocks = FENCE.search(data) or not COMPOSE.search(data)
    return "command" if COMMANDS.search(data) and shown_in_blocks else "compose"


def stacks(data: bytes, name: str, catalog: Catalog) -> list[Stack]:
    """The stacks in a text; raises `UsageError` where there is none."""
    form = form_of(data, name)
    if form == "command":
        return list(_of_commands(data, name, catalog))
    if form == "kubernetes":
        return [_gathered(containers(data, name), name, catalog)]
    assembly = Assembly(NOTHING_SET)
    return [stack_of(assembly.file(data, name, None), assembly, catalog)]


def _of_commands(data: bytes, name: str, catalog: Catalog) -> Iterator[Stack]:
    """One stack for a script, whose commands share the host; one a command for a text that shows several ways."""
    if len(data) > MAX_BYTES:
        raise too_large(name)
    each_service = list(services(commands(data.decode("utf-8", "replace"), name)))
    if not each_service:
        raise UsageError(
            f"{name}: there is no `docker run` and no `vllm serve` in it.",
            cause="in text that is not YAML, only such commands are checked",
            next_step="name a compose file, a script or a manifest: ernie-deploy check FILE",
        )
    if len(each_service) > MAX_SERVICES:
        raise UsageError(f"{name}: there are more than {MAX_SERVICES} commands in it.")
    groups = [[each] for each in each_service] if is_markdown(name) else [each_service]
    return (_gathered(group, name, catalog) for group in groups)


def _gathered(members: list[Member], name: str, catalog: Catalog) -> Stack:
    stack = Stack(Table({}, {}, 1), catalog)
    stack.name, stack.files = name, [name]
    for each in members:
        key = each.name if each.name not in stack.services else f"{each.name} (line {int(each.table.line)})"
        stack.services[key] = Service(
            key, each.table, each.table.line, stack, partial=each.form == "command", form=each.form
        )
    return stack
