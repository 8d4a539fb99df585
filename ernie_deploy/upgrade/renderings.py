"""The files of a stack's folder in three versions: as the kit rendered them, as the user has them, rendered anew."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.render.checksum import is_unedited, stated
from ernie_deploy.render.compose import compose_file
from ernie_deploy.render.folder import env_example, files, is_of_folder
from ernie_deploy.upgrade.history import RENDERED, bytes_of
from ernie_deploy.upgrade.outcome import Versions

COMPOSE = "compose.yml"
EXAMPLE = ".env.example"


class Renderings(Struct, frozen=True):
    """The versions by name of file; `exact` is whether the base is what the kit had really written."""

    versions: dict[str, Versions]
    exact: bool


def renderings(path: Path, old: Request, new: Plan, catalog: Catalog) -> Renderings:
    """Every file that belongs to the stack of this compose file, which `old` had rendered; raises `KitError`."""
    folder, name = path.parent, path.name
    fresh = rendered_files(path, new, catalog)
    base, exact = _base(path, old, catalog)
    user = {one: bytes_of(folder / one) for one in {**base, **fresh}}
    if EXAMPLE in fresh:
        base = {**base, EXAMPLE: user[EXAMPLE] or b""}
    return Renderings(
        {one: Versions(base.get(one), user[one], fresh.get(one)) for one in {name: None, **base, **fresh}},
        exact,
    )


def rendered_files(path: Path, plan: Plan, catalog: Catalog) -> dict[str, bytes]:
    """What the kit writes for a plan beside this compose file: it alone, or the folder as `init` makes it."""
    if not is_of_folder(path):
        texts = {path.name: compose_file(plan, catalog.defaults)}
    else:
        texts = files(plan, catalog, {})
        texts = {path.name: texts.pop(COMPOSE), **texts}
    if is_unedited(path.with_name(EXAMPLE)):
        texts[EXAMPLE] = env_example(catalog)
    return {name: text.encode() for name, text in texts.items()}


def kept_renderings(new: Mapping[str, bytes | None]) -> dict[str, bytes | None]:
    """The same files as they are kept, so that the next upgrade can tell the user's edits."""
    return {f"{RENDERED}/{name}": data for name, data in new.items()}


def _base(path: Path, old: Request, catalog: Catalog) -> tuple[dict[str, bytes], bool]:
    """What was rendered, and whether that is certain: an older kit may have rendered other bytes."""
    user, kept = bytes_of(path) or b"", _kept(path)
    if kept and _stated(user) in ("", _stated(kept[path.name])):
        return kept, True
    by_this_kit = rendered_files(path, resolve(catalog, old), catalog)
    if is_unedited(path):
        return {**by_this_kit, path.name: user.replace(b"\r\n", b"\n")}, True
    return by_this_kit, _stated(user) == _stated(by_this_kit[path.name])


def _kept(path: Path) -> dict[str, bytes]:
    """The renderings that are kept in the folder; empty where the compose file is not among them."""
    place = path.parent / RENDERED
    names = [str(one.relative_to(place)) for one in sorted(place.rglob("*")) if one.is_file()]
    found = {name: bytes_of(place / name) or b"" for name in names}
    return found if path.name in found else {}


def _stated(data: bytes) -> str:
    return stated(data.decode(errors="replace"))
