"""One of the two stacks that are compared: its text read by meaning, with the plan behind it where there is one."""

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.assemble import Assembly
from ernie_deploy.check.forms import form_of, stacks
from ernie_deploy.check.interpolate import Variables
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.stacks import stack_of
from ernie_deploy.diff.change import Key
from ernie_deploy.diff.facts import Facts, facts_of
from ernie_deploy.diff.manifests import with_fields
from ernie_deploy.diff.memory import memory_facts
from ernie_deploy.plan.plan import Plan


class Side(Struct, frozen=True):
    """A stack by meaning; `plan` is what its first line asks for, None where it has none."""

    label: str
    stack: Stack
    facts: Facts
    plan: Plan | None = None

    def with_facts(self, facts: Facts) -> "Side":
        """The side with facts that stand beside its text."""
        return replace(self, facts={**self.facts, **facts})

    @property
    def server(self) -> Service | None:
        """The first service that runs `vllm serve`."""
        return next((service for service in self.stack.services.values() if service.serve), None)


def side_of(  # noqa: PLR0913 - a text and what is known of it
    text: str | bytes,
    label: str,
    catalog: Catalog,
    *,
    name: str = "compose.yml",
    env: Mapping[str, str] | None = None,
    plan: Plan | None = None,
) -> Side:
    """A compose text (or manifests, or commands) with the values of `.env`; raises `UsageError` with the line.

    `name` tells what is not YAML, as for `check`.
    """
    data = text.encode() if isinstance(text, str) else text
    form = form_of(data, name)
    if form == "compose":
        assembly = Assembly(Variables(env or {}))
        side = of_stack(stack_of(assembly.file(data, label, None), assembly, catalog), label, plan)
        return side.with_facts(_secrets(assembly.variables, side.facts))
    side = of_stack(stacks(data, name, catalog)[0], label, plan)
    return replace(side, facts=with_fields(side.facts, data, name)) if form == "kubernetes" else side


def of_files(
    files: tuple[str, ...], label: str, catalog: Catalog, env: Mapping[str, str], plan: Plan | None
) -> Side:
    """Files that lie on this host, later ones over earlier ones; raises `UsageError`."""
    assembly = Assembly(Variables(env))
    side = of_stack(stack_of(assembly.stack(files), assembly, catalog), label, plan)
    return side.with_facts(_secrets(assembly.variables, side.facts))


def _secrets(variables: Variables, facts: Facts) -> Facts:
    """The secrets of `.env` that the stack uses, which stand in it as `${NAME}`: compared, and never shown."""
    return {
        Key("variables", "", name): value
        for name, value in variables.secrets().items()
        if any(f"${{{name}}}" in text for text in facts.values())
    }


def of_stack(stack: Stack, label: str, plan: Plan | None) -> Side:
    """A stack that is read already."""
    side = Side(label, stack, facts_of(stack), plan)
    memory = memory_facts(plan, side.server, stack.catalog) if plan else {}
    return replace(side, facts={**side.facts, **memory})
