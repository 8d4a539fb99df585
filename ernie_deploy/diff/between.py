"""What lies between two vLLM versions and stands in no file: drivers, defaults, and what the same words do otherwise."""

from collections.abc import Iterator

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Change as EngineChange
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.check.images import Image
from ernie_deploy.diff.change import Change
from ernie_deploy.diff.flags import default_of, meanings
from ernie_deploy.diff.side import Side
from ernie_deploy.plan.flag_history import numbers
from ernie_deploy.plan.words import table


def between(old: Side, new: Side, catalog: Catalog) -> Iterator[Change]:
    """What comes with another image: the driver it needs, and with another engine the defaults and the rest."""
    one, other = _engine_of(old, catalog), _engine_of(new, catalog)
    if one is None or other is None:
        return
    yield from _driver(_platform(one, old), _platform(other, new))
    if one.version == other.version:
        return
    yield from of_engines(one, other, catalog, new)
    yield from _defaults(old, new)


def of_engines(one: Engine, other: Engine, catalog: Catalog, side: Side | None = None) -> Iterator[Change]:
    """What the same command line does otherwise between two versions; of a side's own stack where one is given."""
    first, last = sorted((numbers(one.version), numbers(other.version)))
    for version in catalog.ids("engines"):
        if first < numbers(version) <= last:
            for change in catalog.engine(version).changes:
                if side is None or _concerns(change, side):
                    what = f"{change.what} (since vLLM {version})"
                    yield Change(section="engine", service="", name=change.of, kind="changed", why=what)


def _concerns(change: EngineChange, side: Side) -> bool:
    """Whether a change of the engine is one for this stack: by its hardware, its model and its flags."""
    server = side.server
    argv, vision = (server.serve, server.model and server.model.vision) if server else (None, None)
    drafts = argv is not None and argv.has("speculative-config")
    hardware = server.image.hardware if server else ""
    return (
        (not change.vendors or hardware in change.vendors)
        and (not change.vision or bool(vision))
        and (not change.speculative or drafts)
    )


def _defaults(old: Side, new: Side) -> Iterator[Change]:
    """Flags that neither side gives, and whose default is another one."""
    for name, service in new.stack.services.items():
        before, after = old.stack.services.get(name), service.argv
        if before and before.argv and after and before.argv.tool == after.tool:
            given = meanings(before.argv).keys() | meanings(after).keys()
            for change in moved_defaults(after.tool, before.argv.table, after.table):
                if change.name not in given:
                    yield replace(change, service=name)


def moved_defaults(tool: str, old: str, new: str) -> Iterator[Change]:
    """Flags of `vllm serve` or `bench` whose default moved between two flag tables."""
    before, after = table(old, tool), table(new, tool)
    for name in (name for name in before if name in after):
        one, other = (default_of(flags[name]) for flags in (before, after))
        if one != other:
            yield Change(
                section="flags", service=tool, name=f"--{name}", kind="default", old=one, new=other,
                why=f"its default moved from vLLM {old} to {new}",
            )  # fmt: skip


def _engine_of(side: Side, catalog: Catalog) -> Engine | None:
    """The engine of the server's image, where the catalog has that very version."""
    server = side.server
    version = ".".join(map(str, server.engine)) if server and server.engine else ""
    return catalog.engine(version) if version in catalog.ids("engines") else None


def _platform(engine: Engine, side: Side) -> tuple[str, str]:
    """The vendor of the server's image and the oldest driver that it runs on; empty where it is not the catalog's."""
    image = side.server.image if side.server else Image()
    reference = f"/{image.name}:{image.tag}"
    variants = ((vendor, each) for vendor, image in engine.images.items() for each in image.variants.values())
    known = ((v, each.min_driver) for v, each in variants if reference.endswith(f"/{each.reference}"))
    return next(known, ("", ""))


def _driver(old: tuple[str, str], new: tuple[str, str]) -> Iterator[Change]:
    """The driver that the host needs; that of another vendor's is another host."""
    if old[0] == new[0] and old[1] != new[1]:
        yield Change(
            section="engine", service="", name="driver of the host, at least", kind="changed", old=old[1], new=new[1],
            why="ernie-deploy doctor says whether this host has it",
        )  # fmt: skip
