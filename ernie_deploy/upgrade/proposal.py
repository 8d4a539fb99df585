"""What an upgrade of one stack would do, found out before anything is written."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Change
from ernie_deploy.check import Finding
from ernie_deploy.check.document import load
from ernie_deploy.check.versions import spelled
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.upgrade import breaks
from ernie_deploy.upgrade.history import bytes_of
from ernie_deploy.upgrade.outcome import Outcome, outcomes
from ernie_deploy.upgrade.renderings import kept_renderings, renderings


class Proposal(Struct, frozen=True, kw_only=True):
    """An upgrade of the stack in `path`, from one engine to another, which may be the same by a newer kit.

    `exact` says whether the rendering that the user began with is known; `errors` are what `check` finds in the
    result alone.
    """

    path: Path
    old_engine: str
    plan: Plan
    outcomes: tuple[Outcome, ...]
    kept: Mapping[str, bytes | None]
    exact: bool
    errors: tuple[Finding, ...]
    changes: tuple[Change, ...]

    @property
    def changed(self) -> list[Outcome]:
        """The files about which there is anything to do."""
        return [outcome for outcome in self.outcomes if outcome.changes]

    @property
    def stack(self) -> Outcome:
        """What becomes of the compose file."""
        return next(outcome for outcome in self.outcomes if outcome.name == self.path.name)

    @property
    def conflicting(self) -> list[Outcome]:
        """The files that cannot be merged."""
        return [outcome for outcome in self.outcomes if outcome.conflicts]

    @property
    def files(self) -> dict[str, bytes | None]:
        """Name -> what it is to say, with the renderings that are kept for the next time."""
        return {outcome.name: outcome.after for outcome in self.changed} | dict(self.kept)


def propose(path: Path, request: Request, engine: str, catalog: Catalog) -> Proposal:
    """The upgrade of a compose file that `request` rendered to `engine`, by default the newest that was served.

    Raises `KitError` where the new stack cannot be rendered, `Refused` where the result is no compose file.
    """
    text = bytes_of(path) or b""
    has = request.engine or engine_of(text, path.name, catalog)
    old = replace(request, engine=has if has in catalog.ids("engines") else "")
    found = renderings(path, old, _wanted(request, has, engine, catalog), catalog)
    each = outcomes(found.versions, path.name)
    after = next(outcome.after for outcome in each if outcome.name == path.name) or text
    conflicting = any(outcome.conflicts for outcome in each)
    return Proposal(
        path=path,
        old_engine=has,
        plan=found.new,
        outcomes=tuple(each),
        kept=kept_renderings({name: versions.new for name, versions in found.versions.items()}),
        exact=found.exact,
        errors=() if conflicting else tuple(breaks.new_errors(path, after, catalog)),
        changes=tuple(breaks.changes(has, found.new.engine, catalog)),
    )


def _wanted(request: Request, has: str, engine: str, catalog: Catalog) -> Request:
    """The request to render: an engine that was asked for stands in the first line, the default does not."""
    if engine:
        return replace(request, engine=engine)
    versions, default = catalog.ids("engines"), catalog.engine().version
    if has in versions and versions.index(has) > versions.index(default):
        return replace(request, engine=has)
    return replace(request, engine=default if request.engine else "")


def engine_of(text: bytes, name: str, catalog: Catalog) -> str:
    """The version of vLLM that a compose file serves, by its images; empty where they do not say."""
    try:
        services = load(text, name, catalog).services.values()
    except UsageError:
        return ""
    return next((spelled(service.engine) for service in services if service.serve and service.engine), "")
