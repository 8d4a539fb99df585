"""Two vLLM versions compared: images, drivers, flags, open routes, and which of the kit's stacks that touches."""

from collections.abc import Iterable, Iterator

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine, Image
from ernie_deploy.diff.between import moved_defaults, of_engines
from ernie_deploy.diff.change import Change, Differences, Kind, Section
from ernie_deploy.diff.compare import in_order
from ernie_deploy.diff.matrix import touched
from ernie_deploy.plan.words import Flag, table


def compare_engines(catalog: Catalog, old: str, new: str) -> Differences:
    """What moves between two versions of the catalog, for each of the kit's stacks too."""
    one, other = catalog.engine(old), catalog.engine(new)
    changes = in_order(
        [
            *of_engines(one, other, catalog),
            *_images(catalog, one, other),
            *_routes(one, other),
            *_all_flags(one, other),
        ]
    )
    matrix, stacks = touched(catalog, old, new) if old != new else ((), ())
    return Differences(
        old=f"vLLM {old}, {one.status}", new=f"vLLM {new}, {other.status}", changes=tuple(changes),
        touched=stacks, matrix=matrix,
    )  # fmt: skip


def _changes(section: Section, service: str, old: dict[str, str], new: dict[str, str]) -> Iterator[Change]:
    """One change for each name whose text is another one."""
    for name in dict.fromkeys([*old, *new]):
        before, after = old.get(name), new.get(name)
        if before != after:
            kind: Kind = "added" if before is None else "removed" if after is None else "changed"
            yield Change(
                section=section, service=service, name=name, kind=kind, old=before or "", new=after or ""
            )


def _images(catalog: Catalog, one: Engine, other: Engine) -> Iterator[Change]:
    for vendor in one.images:
        driver = catalog.vendor(vendor).driver
        platform = driver.platform if driver else ""
        old, new = (_of_image(engine.images[vendor], platform) for engine in (one, other))
        yield from _changes("image", vendor, old, new)


def _of_image(image: Image, platform: str) -> dict[str, str]:
    """What is said of a vendor's images; `platform` is CUDA or ROCm."""
    facts = {
        "image": image.reference,
        "user": image.user,
        platform: image.platform,
        "driver at least": image.min_driver,
    }
    older = {f"for {platform} {version}": variant.reference for version, variant in image.older.items()}
    return {name: text for name, text in (facts | older).items() if text}


def _routes(one: Engine, other: Engine) -> Iterator[Change]:
    """Paths that ask for no API key."""
    old, new = ({route.path: route.does for route in engine.api_key.open} for engine in (one, other))
    yield from _changes("security", "without a key", old, new)


def _all_flags(one: Engine, other: Engine) -> Iterator[Change]:
    for command in ("serve", "bench"):
        yield from _flags(command, table(one.version, command), table(other.version, command))
        yield from moved_defaults(command, one.version, other.version)
    yield from _lifetimes(one, other)


def _flags(command: str, old: dict[str, Flag], new: dict[str, Flag]) -> Iterator[Change]:
    yield from _changes(
        "flags", command,
        {f"--{name}": "" for name in old if name not in new}, {f"--{name}": "" for name in new if name not in old},
    )  # fmt: skip
    for name in (name for name in old if name in new):
        yield from _changes("flags", command, _parts(name, old[name]), _parts(name, new[name]))
        yield from _choices(command, name, old[name], new[name])
    yield from _opposites(command, old, new)


def _parts(name: str, flag: Flag) -> dict[str, str]:
    """What a flag takes and what else it is called."""
    facts = {"takes": f"{flag.kind} {flag.type}", "short": _listed(flag.short), "also": _listed(flag.aliases)}
    return {f"--{name}, {what}": text for what, text in facts.items() if text}


def _choices(command: str, name: str, old: Flag, new: Flag) -> Iterator[Change]:
    """Values that come or go."""
    before, after = set(map(str, old.choices)), set(map(str, new.choices))
    label = f"--{name}, choices"
    if gone := _listed(before - after):
        yield Change(section="flags", service=command, name=label, kind="removed", old=gone)
    if came := _listed(after - before):
        yield Change(section="flags", service=command, name=label, kind="added", new=came)


def _opposites(command: str, old: dict[str, Flag], new: dict[str, Flag]) -> Iterator[Change]:
    """Names that switch a flag off: one change for all of them, as they come in pairs of a kind."""
    before, after = ({word for flag in flags.values() for word in flag.negatives} for flags in (old, new))
    if gone := sorted(before - after):
        yield Change(section="flags", service=command, name="opposites", kind="removed", old=_counted(gone))
    if came := sorted(after - before):
        yield Change(section="flags", service=command, name="opposites", kind="added", new=_counted(came))


def _counted(names: list[str]) -> str:
    return f"{len(names)} of them, such as {names[0]} and {names[-1]}" if names[2:] else ", ".join(names)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


def _lifetimes(one: Engine, other: Engine) -> Iterator[Change]:
    """Flags that one of the two still takes and advises against."""
    before = {(lifetime.flag, lifetime.value) for lifetime in one.lifetimes}
    for lifetime in other.lifetimes:
        if (lifetime.flag, lifetime.value) not in before:
            why = f"deprecated since vLLM {lifetime.since}: {lifetime.remedy}"
            yield Change(section="flags", service="serve", name=f"--{lifetime.flag}", kind="changed", why=why)
