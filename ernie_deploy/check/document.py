"""One compose file taken apart into services, and judged by every rule."""

from collections.abc import Iterator

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.findings import RULES, SEVERITIES, Finding
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.tree import MAX_VALUES, Items, Table, Value, Word, read, too_many_values
from ernie_deploy.check.values import shown
from ernie_deploy.errors import UsageError

# An extending service replaces these whole; other lists are appended to.
REPLACED = ("command", "entrypoint")
MAX_EXTENDS = 20
MAX_SERVICES = 500


def judge(data: bytes, name: str, catalog: Catalog) -> list[Finding]:
    """Everything to say about the compose file `data`, by line; raises `UsageError` if it is none."""
    stack = load(data, name, catalog)
    found = [
        finding
        for service in stack.services.values()
        for rule in RULES.values()
        for finding in rule.findings(service, name)
    ]
    return sorted(found, key=lambda f: (f.line, SEVERITIES.index(f.severity), f.id))


def load(data: bytes, name: str, catalog: Catalog) -> Stack:
    """The services of a compose file; raises `UsageError` with the line."""
    top = read(data, name)
    services = top.values.get("services") if isinstance(top, Table) else None
    if not isinstance(top, Table) or not isinstance(services, Table):
        line = services.line if services else top.line
        raise UsageError(
            f"{name}:{line}: this is not a compose file: it has no table of `services`.",
            next_step="make one with: ernie-deploy render TARGET -o compose.yml",
        )
    stack = Stack(top, catalog)
    for service in _services(services, name, stack):
        stack.services[service.name] = service
    return stack


def _services(services: Table, name: str, stack: Stack) -> Iterator[Service]:
    if len(services.values) > MAX_SERVICES:
        raise UsageError(f"{name}:{services.line}: the file has more than {MAX_SERVICES} services.")
    size = 0
    for key, value in services.values.items():
        if isinstance(value, Word) and value.null:
            continue
        if not isinstance(value, Table):
            raise UsageError(f"{name}:{value.line}: the service {shown(key)} is not a table.")
        table, partial = _extended(value, services, MAX_EXTENDS)
        size += sum(1 if isinstance(part, Word) else len(part.values) for part in table.values.values())
        if size > MAX_VALUES:
            raise too_many_values(name)
        yield Service(key, table, services.lines[key], stack, partial=partial)


def _extended(table: Table, services: Table, depth: int) -> tuple[Table, bool]:
    """The service with what it extends, and whether a part of it stands in another file."""
    extends = table.values.get("extends")
    if extends is None:
        return table, False
    wanted = extends.values.get("service") if isinstance(extends, Table) else extends
    elsewhere = isinstance(extends, Table) and "file" in extends.values
    base = services.values.get(wanted.text) if isinstance(wanted, Word) else None
    if elsewhere or not isinstance(base, Table) or not depth:
        return table, True
    whole, partial = _extended(base, services, depth - 1)
    return _merged(whole, table), partial


def _merged(base: Table, over: Table) -> Table:
    """Compose's merge: tables key by key, lists appended, the rest replaced."""
    values = dict(base.values)
    for key, value in over.values.items():
        values[key] = value if key in REPLACED else _joined(values.get(key), value)
    return Table(values=values, lines={**base.lines, **over.lines}, line=over.line, repeated=over.repeated)


def _joined(base: Value | None, over: Value) -> Value:
    if isinstance(base, Table) and isinstance(over, Table):
        return _merged(base, over)
    if isinstance(base, Items) and isinstance(over, Items):
        return Items(values=base.values + over.values, line=over.line)
    return over
