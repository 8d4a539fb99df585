"""Compares the facts of two stacks."""

from collections.abc import Iterator
from typing import Literal

from ernie_deploy.check.interpolate import is_secret
from ernie_deploy.diff.change import SECTIONS, Change, Differences, Key
from ernie_deploy.diff.facts import Facts
from ernie_deploy.diff.recreate import recreated
from ernie_deploy.diff.side import Side
from ernie_deploy.safe_io.redaction import MASK
from ernie_deploy.safe_io.secret_masks import masked

SECRET_FLAGS = ("--api-key", "--hf-token")


def compare(old: Side, new: Side) -> Differences:
    """What differs between two stacks by meaning."""
    order = list(SECTIONS)
    changes = sorted(_changes(old.facts, new.facts), key=lambda change: order.index(change.section))
    made_anew = recreated(old.stack, new.stack)
    return Differences(old=old.label, new=new.label, changes=tuple(changes), recreated=made_anew)


def _changes(old: Facts, new: Facts) -> Iterator[Change]:
    services = [{key.service for key in facts} for facts in (old, new)]
    both = services[0] & services[1] | {""}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        # A service that only one side has is one change.
        if before != after and (key.service in both or key.section == "services"):
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
