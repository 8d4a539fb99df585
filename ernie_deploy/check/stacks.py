"""A merged compose file taken apart into services."""

from collections.abc import Iterator

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.assemble import Assembly, no_compose_file
from ernie_deploy.check.line import file_of
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.tree import MAX_VALUES, Table, Word, too_many_values
from ernie_deploy.check.values import shown
from ernie_deploy.errors import UsageError

MAX_SERVICES = 500


def stack_of(top: Table, assembly: Assembly, catalog: Catalog) -> Stack:
    """The services of a merged compose file; raises `UsageError` with the line."""
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
