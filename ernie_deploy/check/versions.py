"""By which of the catalog's flag tables an engine is judged, and how sure that is."""

from functools import cache
from typing import Literal, TypeAlias

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.check.values import NEWEST, Version
from ernie_deploy.plan.flag_history import history, numbers
from ernie_deploy.plan.words import names, tabled

Standing: TypeAlias = Literal["there", "never", "gone", "later"]


def table_of(engine: Version | None) -> str:
    """The version whose table is nearest: the last one up to `engine`, else the first; the newest if unknown."""
    if engine is None:
        return tabled()[-1]
    return next((name for name in reversed(tabled()) if numbers(name) <= engine), tabled()[0])


def nearest(catalog: Catalog, engine: Version | None) -> Engine:
    """The catalog's last engine up to `engine`, else its first; the newest if unknown."""
    known = catalog.ids("engines")
    if engine is None:
        return catalog.engine(known[-1])
    return catalog.engine(next((name for name in reversed(known) if numbers(name) <= engine), known[0]))


def exact(engine: Version | None) -> bool:
    """Whether the catalog has the flag table of this very version."""
    return engine is not None and numbers(table_of(engine)) == engine


def read_by_table(engine: Version | None) -> bool:
    """Whether the engine is one of the tables' or later: what kind of value a flag takes has not changed since."""
    return engine is not None and engine >= numbers(tabled()[0])


def judges(engine: Version | None) -> str:
    """The tables that speak for `engine`, in words: `0.32.0 and 0.33.0`."""
    if engine is None or engine > numbers(tabled()[-1]):
        return tabled()[-1]
    return table_of(engine) if exact(engine) else " and ".join(tabled())


def spelled(engine: Version) -> str:
    """(0, 29, 1) -> `0.29.1`."""
    return ".".join(map(str, engine))


@cache
def standing(name: str, engine: Version | None) -> Standing:
    """Whether `engine` has the flag `name` of `vllm serve`; an unknown engine is taken for the newest."""
    past, version = history(), engine or NEWEST
    if past.run(name) is None:
        return "there" if _tabled(name) else "never"
    if past.has(name, version) or version < numbers(past.oldest):
        return "there"
    return "gone" if past.end(name, version) else "later"


def _tabled(name: str) -> bool:
    """Whether a table has it under a name that the history lacks: short forms, and those of its parser alone."""
    return any(f"--{name}" in names(version, "serve") for version in tabled())
