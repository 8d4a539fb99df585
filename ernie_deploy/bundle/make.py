"""Makes a bundle: brings what this host lacks, asks whether all of it fits, and writes it part by part."""

import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from ernie_deploy.bundle import contents, images, manifest, weights, wheels
from ernie_deploy.bundle.contents import TABLE, Contents
from ernie_deploy.bundle.parts import Part, Show, of_bytes
from ernie_deploy.bundle.stacks import Packed, pack
from ernie_deploy.bundle.store import Store, claimed, full_disk_in_words
from ernie_deploy.bundle.weights import CACHE, PACKAGES
from ernie_deploy.errors import ToolFailed, UsageError
from ernie_deploy.safe_io.terminal import say
from ernie_deploy.stack.compose import Stack, relay, require_compose

# Notes, the manifest and what a file system needs for itself.
SPARE_BYTES = 64 << 20


class Made(Struct, frozen=True, kw_only=True):
    """A bundle that is complete."""

    folder: str
    files: int
    size_bytes: int
    written: tuple[str, ...]
    kept: tuple[str, ...]
    removed: tuple[str, ...]
    left_out: dict[str, tuple[str, ...]]
    sha256: str


def make(stacks: Sequence[Stack], folder: Path, *, split_bytes: int, with_wheels: bool, show: Show) -> Made:
    """Write the bundle of some stacks; what a former run completed is kept.

    Raises `Refused` where another run writes there, `UsageError` for a folder of other things, and `ToolFailed`
    where it does not fit or a tool fails.
    """
    with claimed(folder, split_bytes) as store:
        require_compose()
        packed = tuple(pack(stack) for stack in stacks)
        _require_distinct(packed)
        whole = _contents(packed)
        parts = whole.parts()
        missing = [part for part in parts if not store.is_complete(part.path, part.key)]
        wheels_missing = with_wheels and not store.is_complete(wheels.WHEELS, wheels.key())
        require_space(folder, [part.size_bytes for part in missing], wheels_missing=wheels_missing)
        with full_disk_in_words(folder):
            for part in missing:
                store.put(part, show)
            if wheels_missing:
                _put_wheels(store, show)
            return _finished(store, whole, parts, missing, with_wheels=with_wheels)


def _require_distinct(packed: Sequence[Packed]) -> None:
    names = [stack.name for stack in packed]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UsageError(
            f"Two of the stacks are named {min(twice)}.",
            next_step="render one of them with another name: -p NAME",
        )


def _contents(packed: tuple[Packed, ...]) -> Contents:
    """All of it, with images pulled and weights fetched where this host lacked them."""
    known = {reference: images.bring(reference) for stack in packed for reference in stack.images()}
    for stack in packed:
        _bring_weights(stack, known)
    return Contents(stacks=packed, images=tuple(known.values()), stores=contents.gathered(packed, known))


def _bring_weights(stack: Packed, known: dict[str, images.Image]) -> None:
    """Run the stack's own `fetch` where its cache has no stamp, or lacks a package; raises `ToolFailed`."""
    want = weights.wanted(stack.fetch())
    if want is None or _has_all(stack, known):
        return
    say(f"{want.model} at {want.revision} is not on this host yet: {stack.name}'s fetch brings it", err=True)
    # Compose 2.40 ends `run` with 0 whatever its container did, on Docker Engine 20.10.
    relay(stack.fetching(), err=True)
    if not _has_all(stack, known):
        raise ToolFailed(
            f"The weights of {stack.name} could not be brought.",
            cause="its service `fetch` left no stamp; the lines above say why",
            next_step="correct that, then repeat the same command",
        )


def _has_all(stack: Packed, known: dict[str, images.Image]) -> bool:
    want, image = weights.wanted(stack.fetch()), known[stack.fetch()["image"]]
    cache, packages = contents.here(stack, CACHE, image), contents.here(stack, PACKAGES, image)
    assert want, "asked of stacks with a hub's model alone"
    if cache and not weights.read_stamp(cache, want):
        return False
    return not (packages and want.archives) or weights.has_packages(packages, want)


def require_space(folder: Path, sizes: Sequence[int], *, wheels_missing: bool) -> None:
    """Raise `ToolFailed` with the numbers where the bundle would fill the disk, before its first byte."""
    needed = sum(sizes) + (wheels.SIZE_BYTES if wheels_missing else 0) + (SPARE_BYTES if sizes else 0)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ToolFailed(
            f"The bundle needs {needed / 1e9:,.1f} GB more, and {folder} has {free / 1e9:,.1f} GB free.",
            cause=f"it would write {len(sizes)} parts; nothing was written",
            next_step="free space there, or choose a folder on a larger disk with -o",
        )


def _put_wheels(store: Store, show: Show) -> None:
    with wheels.made() as parts:
        store.put_all(wheels.WHEELS, wheels.key(), parts, show)


def _finished(
    store: Store, whole: Contents, parts: Sequence[Part], missing: Sequence[Part], *, with_wheels: bool
) -> Made:
    remarks = [*whole.remarks(), *([wheels.remark()] if with_wheels else [])]
    table = of_bytes(TABLE, whole.table(store.notes, remarks).encode())
    if not store.is_complete(table.path, table.key):
        store.put(table, lambda *_: None)
    paths = [*(part.path for part in parts), TABLE, *([wheels.WHEELS] if with_wheels else [])]
    removed, written = store.finish(paths), [part.path for part in missing]
    return Made(
        folder=str(store.folder),
        files=sum(len(note.files) for note in store.notes.values()),
        size_bytes=sum(note.size_bytes for note in store.notes.values()),
        written=tuple(written),
        kept=tuple(part.path for part in parts if part.path not in written),
        removed=tuple(removed),
        left_out={stack.name: stack.left_out for stack in whole.stacks if stack.left_out},
        sha256=manifest.read(store.folder)[1],
    )


def commands(stacks: Sequence[Stack], folder: Path, *, with_wheels: bool) -> Iterator[str]:
    """What `make` runs, as a shell takes it; it asks Compose what the stacks are, and no engine."""
    require_compose()
    packed = [pack(stack) for stack in stacks]
    for reference in dict.fromkeys(reference for stack in packed for reference in stack.images()):
        yield f"{shlex.join(images.inspection(reference))} || {shlex.join(images.pulling(reference))}"
        image = images.Image(reference=reference, name=images.name_of(reference), id="", size_bytes=0)
        yield f"docker save {shlex.quote(image.name)} >{_quoted(folder, images.path_of(image))}"
    for stack in packed:
        yield from _commands_of_weights(stack, folder)
    if with_wheels:
        yield from (shlex.join(words) for words in wheels.commands(folder / wheels.WHEELS))


def _commands_of_weights(stack: Packed, folder: Path) -> Iterator[str]:
    if not (want := weights.wanted(stack.fetch())):
        return
    image = images.Image(reference=stack.fetch()["image"], name="", id="", size_bytes=0)
    cache, packages = contents.here(stack, CACHE, image), contents.here(stack, PACKAGES, image)
    assert cache, "a fetch that brings a model has a place for it"
    stamp, blob = f"{want.stamp}.json", f"{want.storage}/blobs/"
    yield f"{shlex.join(cache.reading(stamp))} || {shlex.join(stack.fetching())}"
    yield f"# each file that the stamp names, by its hash:\n{shlex.join(cache.reading(blob))}HASH >{_quoted(folder, 'weights/' + blob)}HASH"
    for file in want.archives if packages else ():
        assert packages, "asked above"
        archive = f"archives/{file}"
        yield f"{shlex.join(packages.reading(archive))} >{_quoted(folder, 'packages/' + archive)}"


def _quoted(folder: Path, name: str) -> str:
    return shlex.quote(f"{folder}/{name}")
