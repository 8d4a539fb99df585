"""What lies between two vLLM versions and stands in no file: drivers, defaults, and what the same words do otherwise."""

from collections.abc import Iterator

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.schema import Vendor
from ernie_deploy.diff.change import Change
from ernie_deploy.diff.side import Side
from ernie_deploy.plan.flag_history import numbers


def between(old: Side, new: Side, catalog: Catalog) -> Iterator[Change]:
    """The changes that come with another engine; none where both sides have one, or one is not in the catalog."""
    one, other = _engine_of(old, catalog), _engine_of(new, catalog)
    if one is None or other is None or one.version == other.version:
        return
    yield from _driver(one, other, new)
    yield from of_engines(one, other, catalog)


def of_engines(one: Engine, other: Engine, catalog: Catalog) -> Iterator[Change]:
    """What the same command line does otherwise, on the way from one version to the other."""
    first, last = sorted((numbers(one.version), numbers(other.version)))
    for version in catalog.ids("engines"):
        if first < numbers(version) <= last:
            for change in catalog.engine(version).changes:
                what = f"{change.what} (since vLLM {version})"
                yield Change(section="engine", service="", name=change.of, kind="changed", why=what)


def _engine_of(side: Side, catalog: Catalog) -> Engine | None:
    """The engine of the server's image, where the catalog has that very version."""
    server = side.server
    version = ".".join(map(str, server.engine)) if server and server.engine else ""
    return catalog.engine(version) if version in catalog.ids("engines") else None


def _driver(one: Engine, other: Engine, side: Side) -> Iterator[Change]:
    vendor = _vendor(side)
    if not vendor or one.images[vendor].min_driver == other.images[vendor].min_driver:
        return
    yield Change(
        section="engine", service="", name="driver of the host, at least", kind="changed",
        old=one.images[vendor].min_driver, new=other.images[vendor].min_driver,
        why="ernie-deploy doctor says whether this host has it",
    )  # fmt: skip


def _vendor(side: Side) -> Vendor | None:
    hardware = side.server.image.hardware if side.server else ""
    return next((vendor for vendor in ("nvidia", "amd", "cpu") if vendor == hardware), None)
