"""One stack taken apart into services, and judged by every rule."""

import re
from collections.abc import Iterator

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.assemble import Assembly, no_compose_file
from ernie_deploy.check.findings import RULES, SEVERITIES, Finding
from ernie_deploy.check.input_rules import spot_of
from ernie_deploy.check.interpolate import NOTHING_SET
from ernie_deploy.check.line import Line, file_of
from ernie_deploy.check.project import Project
from ernie_deploy.check.remark import Remark
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.tree import MAX_VALUES, Table, Value, Word, too_many_values
from ernie_deploy.check.values import shown
from ernie_deploy.errors import UsageError

MAX_SERVICES = 500
MAX_REFUSAL = 400
# Rules that know themselves what Compose refuses.
SAY_THE_SAME = ("ED320", "ED401")
# How Compose names the place that it means.
YAML_LINE = re.compile(r"(\S+): line (\d{1,9})\b")
PATH = re.compile(r"services[.\[]([^:\s]+)|service [\"']([^\"']+)")
EXTRA_KEY = re.compile(r"additional propert\S+ '([^']+)'")


class Verdict(Struct, frozen=True):
    """What was found in a stack, and what is to be said beside it."""

    stack: Stack
    findings: list[Finding]
    asides: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The files that the stack was read from."""
        return self.stack.files


def judge(data: bytes, name: str, catalog: Catalog) -> list[Finding]:
    """Everything to say about the compose file `data`, by line; raises `UsageError` if it is none."""
    return findings_of(load(data, name, catalog))


def judge_text(data: bytes, name: str, catalog: Catalog) -> Verdict:
    """As `judge`, with the stack that it was found in."""
    stack = load(data, name, catalog)
    return Verdict(stack, findings_of(stack))


def judge_project(project: Project, catalog: Catalog, *, ask_compose: bool = False) -> Verdict:
    """Everything to say about the stack that Compose would start, Compose's own words too; raises `UsageError`."""
    assembly = Assembly(project.variables, exact=project.exact)
    top, aside = assembly.stack(project.files), ""
    if ask_compose:
        top, aside = _by_compose(project, assembly, top)
    stack = _stack(top, assembly, catalog)
    return Verdict(stack, findings_of(stack), (aside,) if aside else ())


def _by_compose(project: Project, assembly: Assembly, top: Table) -> tuple[Table, str]:
    """The stack as Compose merges it, and what it could not be asked."""
    from ernie_deploy.check.compose_config import REMOTE, configured
    from ernie_deploy.check.reconcile import reconciled

    if assembly.remote:
        return top, REMOTE
    answer = configured(project, uncertain=bool(assembly.unset))
    if answer.refusal and not (assembly.unset and "required variable" in answer.refusal):
        line, value = _spoken_of(answer.refusal, top)
        if project.exact or not (isinstance(value, Word) and "$" in value.raw):
            sentence = f"Compose refuses it: {shown(answer.refusal, MAX_REFUSAL)}"
            assembly.remarks.append(Remark("ED401", line, sentence))
    return top if answer.services is None else reconciled(top, answer.services), answer.unasked


def _spoken_of(refusal: str, top: Table) -> tuple[int, Value | None]:
    """The line and the value that Compose's words speak of: as much of their path as the stack has."""
    if of_yaml := YAML_LINE.search(refusal):
        return Line(int(of_yaml[2]), of_yaml[1]), None
    path, extra = PATH.search(refusal), EXTRA_KEY.search(refusal)
    keys = re.split(r"[.\[\]']+", path[1] or path[2]) if path else []
    line, value = top.line, top.values.get("services")
    for key in [*keys, *([extra[1]] if extra else [])]:
        if not isinstance(value, Table) or key not in value.values:
            break
        line, value = value.lines[key], value.values[key]
    return line, value


def findings_of(stack: Stack) -> list[Finding]:
    """What every rule finds, by file, line and weight."""
    found = [
        finding
        for service in stack.services.values()
        for rule in RULES.values()
        for finding in rule.findings(service, stack.name)
    ]
    errors = {(f.file, f.line) for f in found if f.id in SAY_THE_SAME}
    of_stack = (remark for remark in stack.remarks if remark.service not in stack.services)
    of_stack_found = [RULES[remark.rule].finding(spot_of(remark), "", stack.name) for remark in of_stack]
    found += [f for f in of_stack_found if f.id != "ED401" or (f.file, f.line) not in errors]
    places = {name: at for at, name in enumerate(stack.files)}
    return sorted(
        found, key=lambda f: (places.get(f.file, len(places)), f.line, SEVERITIES.index(f.severity), f.id)
    )


def load(data: bytes, name: str, catalog: Catalog) -> Stack:
    """The services of a compose file; raises `UsageError` with the line."""
    assembly = Assembly(NOTHING_SET)
    return _stack(assembly.file(data, name, None), assembly, catalog)


def _stack(top: Table, assembly: Assembly, catalog: Catalog) -> Stack:
    name = assembly.files[0]
    services = top.values.get("services")
    if not isinstance(services, Table):
        raise no_compose_file(services or top, name)
    stack = Stack(top, catalog)
    stack.name, stack.files, stack.remarks = name, assembly.files, assembly.remarks
    for service in _services(services, name, stack, assembly.partial):
        stack.services[service.name] = service
    return stack


def _services(services: Table, name: str, stack: Stack, partial: set[str]) -> Iterator[Service]:
    if len(services.values) > MAX_SERVICES:
        raise UsageError(f"{name}:{services.line}: the file has more than {MAX_SERVICES} services.")
    size = 0
    for key, table in services.values.items():
        if isinstance(table, Word) and table.null:
            continue
        if not isinstance(table, Table):
            where = file_of(table.line, name)
            raise UsageError(f"{where}:{table.line}: the service {shown(key)} is not a table.")
        size += sum(1 if isinstance(part, Word) else len(part.values) for part in table.values.values())
        if size > MAX_VALUES:
            raise too_many_values(name)
        yield Service(key, table, services.lines[key], stack, partial=key in partial)
