"""What an upgrade of one stack would do, found out before anything is written."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePath
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import Finding
from ernie_deploy.check.document import load
from ernie_deploy.check.project import with_env
from ernie_deploy.check.versions import spelled
from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.plan.exposure import refuse_open_routes, remedy_of_file
from ernie_deploy.plan.lock import NAME, Lock, LockFile, read_lock, text_of
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.upgrade import breaks
from ernie_deploy.upgrade.history import bytes_of
from ernie_deploy.upgrade.outcome import Outcome, outcomes
from ernie_deploy.upgrade.renderings import kept_renderings, renderings

# Asks registries and hub for what a lock does not hold of a plan that was made without one.
Relock: TypeAlias = Callable[[Plan, Lock], Lock]


class Proposal(Struct, frozen=True, kw_only=True):
    """An upgrade of the stack in `path`, from one engine to another, which may be the same by a newer kit.

    `exact` says whether the rendering that the user began with is known; `errors` are what `check` finds in the
    result alone. The first of `plans` is None where what is there cannot be planned any more.
    """

    path: Path
    old_engine: str
    plans: tuple[Plan | None, Plan]
    outcomes: tuple[Outcome, ...]
    kept: Mapping[str, bytes | None]
    exact: bool
    errors: tuple[Finding, ...]
    env: Mapping[str, str]

    @property
    def engine(self) -> str:
        """The version of vLLM that it goes to."""
        return self.plans[1].engine

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


def propose(path: Path, requests: tuple[Request, Request], engine: str, relock: Relock) -> Proposal:
    """The upgrade of a compose file to `engine`, by default the newest that was served.

    Of the two requests the first had rendered it and the second is to. Raises `KitError` where the new stack cannot
    be rendered, `Refused` where the result is no compose file.
    """
    catalog, text = Catalog(), bytes_of(path) or b""
    has = requests[0].engine or engine_of(text, path.name, catalog)
    old = replace(requests[0], engine=has if has in catalog.ids("engines") else "")
    new, lock = _locked(path, _wanted(requests[1], has, engine, catalog), relock, catalog)
    refuse_open_routes(new, catalog, next_step=remedy_of_file(new.request, str(path.parent)))
    found = renderings(path, old, new, catalog)
    each = [*outcomes(found.versions, path.name), *lock]
    after = next(outcome.after for outcome in each if outcome.name == path.name) or text
    conflicting = any(outcome.conflicts for outcome in each)
    return Proposal(
        path=path,
        old_engine=has,
        plans=(_plan(old, catalog), new),
        outcomes=tuple(each),
        kept=kept_renderings({name: versions.new for name, versions in found.versions.items()}),
        exact=found.exact,
        errors=() if conflicting else tuple(breaks.new_errors(path, after, catalog)),
        env=with_env({}, (), path.parent),
    )


def _plan(request: Request, catalog: Catalog) -> Plan | None:
    with suppress(KitError):
        return resolve(catalog, request)
    return None


def _wanted(request: Request, has: str, engine: str, catalog: Catalog) -> Request:
    """The request to render: an engine that was asked for stands in the first line, the default does not."""
    if engine:
        return replace(request, engine=engine)
    versions, default = catalog.ids("engines"), catalog.engine().version
    if has in versions and versions.index(has) > versions.index(default):
        return replace(request, engine=has)
    return replace(request, engine=default if request.engine else "")


def _locked(path: Path, request: Request, relock: Relock, catalog: Catalog) -> tuple[Plan, list[Outcome]]:
    """The plan by the lock of the stack, which gets what it lacks for it, and what becomes of the lock's file."""
    lock = request.lock
    if lock is None and (path.parent / NAME).is_file():
        lock = LockFile(NAME, read_lock(path.parent / NAME))
    if lock is None:
        return resolve(catalog, request), []
    with suppress(UsageError):
        return resolve(catalog, replace(request, lock=lock)), []
    name = PurePath(lock.path)
    if name.is_absolute() or ".." in name.parts:
        raise UsageError(
            f"{path} is locked by {lock.path}, which does not hold what the upgrade needs.",
            cause="it lies outside the folder, and may belong to other stacks too",
            next_step="lock the stack with a file of its own: --as 'TARGET OPTIONS --lock none', then ernie-deploy lock",
        )
    after = relock(resolve(catalog, replace(request, lock=None)), lock.lock)
    changed = Outcome(lock.path, bytes_of(path.parent / name), text_of(after).encode())
    return resolve(catalog, replace(request, lock=LockFile(lock.path, after))), [changed]


def engine_of(text: bytes, name: str, catalog: Catalog) -> str:
    """The version of vLLM that a compose file serves, by its images; empty where they do not say."""
    try:
        services = load(text, name, catalog).services.values()
    except UsageError:
        return ""
    return next((spelled(service.engine) for service in services if service.serve and service.engine), "")
