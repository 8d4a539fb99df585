"""Compares the facts of two stacks, pairs what was renamed, and says why each difference matters."""

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec.structs import replace

from ernie_deploy.check.interpolate import is_secret
from ernie_deploy.diff.between import between
from ernie_deploy.diff.change import SECTIONS, By, Change, Differences, Key
from ernie_deploy.diff.facts import CLIENT, SERVER, Facts
from ernie_deploy.diff.recreate import on_demand, recreated
from ernie_deploy.diff.side import Side
from ernie_deploy.diff.why import explained
from ernie_deploy.plan.flag_history import history
from ernie_deploy.safe_io.redaction import MASK
from ernie_deploy.safe_io.secret_masks import masked

# Services that can be told from others whatever they are called.
ROLES = (SERVER, CLIENT)
SECRET_FLAGS = ("--api-key", "--hf-token")


def compare(old: Side, new: Side, by: By = "") -> Differences:
    """What differs between two stacks by meaning; `by` says whose changes they are."""
    before, after, renamed = aligned(old.facts, new.facts)
    of_files = [*renamed, *_of_one_volume(with_renames(changes_of(before, after)))]
    every = [*of_files, *between(old, new, new.stack.catalog)]
    changes = [replace(explained(change, old, new), by=by) for change in in_order(every)]
    made_anew = recreated(old.stack, new.stack)
    return Differences(
        old=old.label, new=new.label, changes=tuple(changes), recreated=made_anew,
        on_demand=on_demand(made_anew, new.stack),
    )  # fmt: skip


def in_order(changes: Iterable[Change]) -> list[Change]:
    """The changes by section, otherwise as they come."""
    order = list(SECTIONS)
    return sorted(changes, key=lambda change: order.index(change.section))


def aligned(old: Facts, new: Facts) -> tuple[Facts, Facts, list[Change]]:
    """Both with the names of the new one, where each has one server (or client) and calls it otherwise."""
    if not {key.section for key in old} & {key.section for key in new} & {"memory"}:
        # Known of one side alone, the memory would be no difference.
        old, new = (
            {key: text for key, text in facts.items() if key.section != "memory"} for facts in (old, new)
        )
    renamed = [pair for role in ROLES if (pair := _renamed_service(role, old, new))]
    names = dict(renamed)
    changes = [
        Change(section="services", service="", name=before, kind="renamed", new_name=after)
        for before, after in renamed
    ]
    return {_with_names(key, names): text for key, text in old.items()}, new, changes


def _renamed_service(role: str, old: Facts, new: Facts) -> tuple[str, str] | None:
    before, after = (
        [key.name for key, text in facts.items() if key.section == "services" and text == role]
        for facts in (old, new)
    )
    unique = len(before) == len(after) == 1
    return (before[0], after[0]) if unique and before != after else None


def _with_names(key: Key, names: dict[str, str]) -> Key:
    if key.section == "services":
        return key._replace(name=names.get(key.name, key.name))
    return key._replace(service=names.get(key.service, key.service))


def changes_of(old: Facts, new: Facts) -> Iterator[Change]:
    """Every fact that is another one; a service that only one side has is one change."""
    services = [{key.service for key in facts} for facts in (old, new)]
    both = services[0] & services[1] | {""}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if before != after and key.service in both:
            yield _change(key, before, after)


def _change(key: Key, old: str | None, new: str | None) -> Change:
    kind: Literal["added", "removed", "changed"] = "changed"
    if old is None or new is None:
        kind = "added" if old is None else "removed"
    before, after = hidden(key, old or ""), hidden(key, new or "")
    if kind == "changed" and before == after:
        after = f"{after} (another)"
    return Change(section=key.section, service=key.service, name=key.name, kind=kind, old=before, new=after)


def hidden(key: Key, value: str) -> str:
    """A value without what nobody may print."""
    secret = key.name in SECRET_FLAGS or (
        key.section in ("variables", "flags") and is_secret(key.name, value)
    )
    return MASK if secret and value and not value.startswith("$") else masked(value)


def _of_one_volume(changes: list[Change]) -> list[Change]:
    """Without what else a volume declares where it is another volume: its name tells that."""
    others = {
        change.name for change in changes if change.section == "volumes" and change.name.endswith(".name")
    }
    return [
        change
        for change in changes
        if change.section != "volumes" or change.name in others
        or f"{change.name.partition('.')[0]}.name" not in others
    ]  # fmt: skip


def with_renames(changes: Iterable[Change]) -> list[Change]:
    """A flag that is gone and the one that took its place as one change."""
    listed = list(changes)
    added = {(change.service, change.name): change for change in listed if change.kind == "added"}
    pairs = [
        (gone, came)
        for gone in listed
        if gone.section == "flags" and gone.kind == "removed" and (came := _successor(gone, added))
    ]
    joined = {
        id(gone): replace(gone, kind="renamed", new=came.new, new_name=came.name) for gone, came in pairs
    }
    taken = {id(came) for _, came in pairs}
    return [joined.get(id(change), change) for change in listed if id(change) not in taken]


def _successor(gone: Change, added: dict[tuple[str, str], Change]) -> Change | None:
    """The flag among the added ones that stands for a removed one, on the way forward or back."""
    for (service, name), change in added.items():
        if service == gone.service and (_names(gone.name, name) or _names(name, gone.name)):
            return change
    return None


def _names(old: str, new: str) -> bool:
    """Whether the advice for a removed flag is to write another."""
    remedy = history().remedy(old.removeprefix("--"))
    return remedy.startswith("--") and remedy.split()[0].strip(",:") == new
