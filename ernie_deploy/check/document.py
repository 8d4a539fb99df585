"""One stack taken apart into services, and judged by every rule."""

from collections.abc import Iterator

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.assemble import Assembly, no_compose_file
from ernie_deploy.check.findings import RULES, SEVERITIES, Finding
from ernie_deploy.check.input_rules import spot_of
from ernie_deploy.check.interpolate import NOTHING_SET
from ernie_deploy.check.line import file_of
from ernie_deploy.check.project import Project
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.tree import MAX_VALUES, Table, Word, too_many_values
from ernie_deploy.check.values import shown
from ernie_deploy.errors import UsageError

MAX_SERVICES = 500


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


def judge_project(project: Project, catalog: Catalog) -> Verdict:
    """Everything to say about the stack that Compose would start; raises `UsageError`."""
    assembly = Assembly(project.variables, exact=project.exact)
    top = assembly.stack(project.files)
    stack = _stack(top, assembly, catalog)
    return Verdict(stack, findings_of(stack))


def findings_of(stack: Stack) -> list[Finding]:
    """What every rule finds, by file, line and weight."""
    found = [
        finding
        for service in stack.services.values()
        for rule in RULES.values()
        for finding in rule.findings(service, stack.name)
    ]
    found += [
        RULES[remark.rule].finding(spot_of(remark), "", stack.name)
        for remark in stack.remarks
        if remark.service not in stack.services
    ]
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
