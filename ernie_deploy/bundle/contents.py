"""Everything that goes into a bundle, and the table by which load.sh finds it again."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from ernie_deploy.bundle import weights
from ernie_deploy.bundle.images import Image, part_of, path_of, require_distinct
from ernie_deploy.bundle.parts import Note, Part, of_bytes
from ernie_deploy.bundle.stacks import Packed
from ernie_deploy.bundle.weights import CACHE, PACKAGES, Mount, Stamp, Wanted
from ernie_deploy.errors import UsageError
from ernie_deploy.paths import DOCKER
from ernie_deploy.safe_io.reading import read_bounded
from ernie_deploy.stack.volumes import HOLDS

TABLE, LOADER = "CONTENTS", "load.sh"
Row = tuple[object, ...]


class Store(Struct, frozen=True, kw_only=True):
    """Files for one volume of a stack: where each lies there, its part, and what leads to them."""

    row: Row
    files: tuple[tuple[str, Part], ...]
    links: Part | None = None
    owners: tuple[Row, ...] = ()


class Contents(Struct, frozen=True, kw_only=True):
    """What one bundle holds, besides the wheels of the kit."""

    stacks: tuple[Packed, ...]
    images: tuple[Image, ...]
    stores: tuple[Store, ...]

    def parts(self) -> list[Part]:
        """Every part, each once, small ones first: load.sh and the stacks, images, then weights."""
        large = [part_of(image) for image in {image.name: image for image in self.images}.values()]
        large += [part for store in self.stores for _, part in store.files]
        small = [of_bytes(LOADER, read_bounded(DOCKER / "bundle" / LOADER))]
        small += [store.links for store in self.stores if store.links]
        small += [
            of_bytes(f"stacks/{stack.name}/{name}", data)
            for stack in self.stacks
            for name, data in stack.texts.items()
        ]
        return list({part.path: part for part in [*small, *large]}.values())

    def table(self, notes: Mapping[str, Note], remarks: Iterable[str]) -> str:
        """The rows of load.sh, in the order of its work; raises `UsageError` on what no row can hold."""
        rows = [*self._image_rows(notes), *self._store_rows(notes), *self._stack_rows()]
        rows += [("note", remark) for remark in remarks]
        return "".join(_line(row) for row in rows)

    def remarks(self) -> list[str]:
        """What a person has to do there because no bundle can."""
        return [
            f"{stack.name} serves {folder}: copy that folder to the same place"
            for stack in self.stacks
            if (folder := weights.folder_of(stack.fetch()))
        ]

    def _image_rows(self, notes: Mapping[str, Note]) -> Iterator[Row]:
        for image in {image.name: image for image in self.images}.values():
            path = path_of(image)
            yield "image", image.name, image.id, path, len(notes[path].files)

    def _store_rows(self, notes: Mapping[str, Note]) -> Iterator[Row]:
        for store in self.stores:
            yield store.row
            for target, part in store.files:
                note = notes[part.path]
                yield "file", target, note.size_bytes, part.path, len(note.files)
            if store.links:
                yield "links", store.links.path
            yield from store.owners

    def _stack_rows(self) -> Iterator[Row]:
        for stack in self.stacks:
            yield "stack", stack.name, next(iter(stack.texts))
            for name, file in stack.secrets():
                yield "secret", stack.name, name, file


def _line(row: Row) -> str:
    words = [str(word) or "-" for word in row]
    if odd := [word for word in words if not word.isprintable()]:
        raise UsageError(f"{odd[0]!r:.120} cannot stand in the table of a bundle.")
    return "\t".join(words) + "\n"


def mount_of(
    project: Mapping[str, Any], service: Mapping[str, Any], target: str
) -> tuple[str, str, str] | None:
    """What a service has under a path: `volume` or `bind`, its name or folder, and the volume's key in the file."""
    for mount in service.get("volumes") or ():
        if mount["target"] == target:
            declared = (project.get("volumes") or {}).get(mount["source"]) or {}
            return str(mount["type"]), str(declared.get("name") or mount["source"]), str(mount["source"])
    return None


def here(stack: Packed, target: str, image: Image) -> Mount | None:
    """The volume or folder of this host behind a path of `fetch`, to be read with its image."""
    if not (mount := mount_of(stack.here, stack.fetch(), target)):
        return None
    return Mount(kind=mount[0], source=mount[1], image=image.reference)


def store_of_weights(stack: Packed, want: Wanted, stamp: Stamp, mount: Mount, image: Image) -> Store:
    """The weights of a stack's revision."""
    owners = [("owner", want.owner, want.storage), ("owner", want.owner, "ernie")]
    return Store(
        row=_row(stack, "weights", CACHE, image),
        files=tuple(weights.blobs(mount, want, stamp)),
        links=weights.links(mount, want, stamp),
        owners=tuple(owners) if want.owner.split(":")[0] != "0" else (),
    )


def store_of_packages(stack: Packed, want: Wanted, mount: Mount, image: Image) -> Store:
    """The packages of a VL model's code."""
    return Store(row=_row(stack, "packages", PACKAGES, image), files=tuple(weights.packages(mount, want)))


def _row(stack: Packed, kind: str, target: str, image: Image) -> Row:
    """The volume as the stack names it there, without this host's folders."""
    found = mount_of(stack.there, stack.there["services"]["fetch"], target)
    assert found, f"the service has {target} here, so it has there"
    _, name, key = found
    if name.startswith("."):
        raise UsageError(
            f"{stack.name} keeps {target} in {name}, a folder beside its compose file, which no bundle fills.",
            next_step="name a volume or an absolute path there, or leave it to HF_CACHE_DIR and PACKAGES_DIR in .env",
        )
    declared = (stack.there.get("volumes") or {}).get(key) or {}
    holds = (declared.get("labels") or {}).get(HOLDS) or "weights from the hub"
    return "volume", kind, name, stack.name, key, holds, image.name


def gathered(stacks: Iterable[Packed], images: Mapping[str, Image]) -> tuple[Store, ...]:
    """The stores of all stacks; every stamp and archive is there by now."""
    stores: list[Store] = []
    for stack in stacks:
        want = weights.wanted(stack.fetch())
        if want is None:
            continue
        image = images[stack.fetch()["image"]]
        mount, packages = here(stack, CACHE, image), here(stack, PACKAGES, image)
        if mount and (stamp := weights.read_stamp(mount, want)):
            stores.append(store_of_weights(stack, want, stamp, mount, image))
        if packages and want.archives:
            stores.append(store_of_packages(stack, want, packages, image))
    require_distinct(images.values())
    return tuple(stores)
