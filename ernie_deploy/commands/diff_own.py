"""A rendered file against its own first line: what its user changed, and what the kit would write otherwise today."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ernie_deploy.commands.diff_operand import (
    Operand,
    label_of,
    plan_of,
    rendered_side,
    side_of_operand,
    text_of,
    written,
)
from ernie_deploy.plan.request import Request

if TYPE_CHECKING:
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.diff import Differences
    from ernie_deploy.diff.side import Side
    from ernie_deploy.plan.plan import Plan

UNTOLD = "so that its user's changes and the kit's cannot be told apart"
OF_ANOTHER_KIT = f"the file was edited after another version of the kit wrote it, {UNTOLD}"
WITHOUT_CHECKSUM = f"the file does not end with the checksum of what the kit wrote, {UNTOLD}"


def own_differences(one: Operand, request: Request, catalog: "Catalog") -> "Differences":
    """The user's changes since the rendering, then the kit's from there to today's rendering of `request`."""
    from ernie_deploy.diff.compare import compare
    from ernie_deploy.render.checksum import is_original, stated

    label = f"today's rendering: {label_of(request)}"
    file = side_of_operand(one, catalog)
    today = rendered_side(request, label, catalog, one)
    base = _original(one, catalog)
    if base is None and is_original(one.text) and len(one.files) <= 1:
        return compare(file, today, by="kit")
    if base is None:
        whole = compare(file, today)
        note = OF_ANOTHER_KIT if stated(one.text) else WITHOUT_CHECKSUM
        return replace(whole, notes=(note,)) if whole.changes else whole
    edits, kits = compare(base, file, by="user"), compare(base, today, by="kit")
    return replace(compare(file, today), old=one.label, new=label, changes=(*edits.changes, *kits.changes))


def _original(one: Operand, catalog: "Catalog") -> "Side | None":
    """The rendering that the file was made from; None where no vLLM of the catalog gives the bytes it states."""
    from ernie_deploy.render.checksum import stated

    for plan in _plans(one, catalog):
        text = text_of(plan, catalog, one)
        if stated(one.text) == stated(text):
            return written(plan, text, "the file as it was rendered", catalog, one)
    return None


def _plans(one: Operand, catalog: "Catalog") -> "Iterator[Plan]":
    """What today's kit decides for the first line, on each vLLM: the default may have moved since."""
    if one.request is None:
        return
    versions = [one.request.engine] if one.request.engine else ["", *catalog.ids("engines")]
    for version in versions:
        if plan := plan_of(replace(one.request, engine=version), catalog):
            yield plan
