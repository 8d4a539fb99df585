"""Weights and packages as they lie on a stack's volumes: the files of its revision alone, each with its hash."""

import io
import os.path
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ernie_deploy.bundle.manifest import is_name
from ernie_deploy.bundle.parts import Part, of_bytes
from ernie_deploy.errors import ToolFailed
from ernie_deploy.stack.compose import ask, bytes_of

CACHE, PACKAGES = "/cache/hf", "/packages"
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
COMMIT = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
ARCHIVE = re.compile(r"\A(?P<file>[A-Za-z0-9_.+-]{1,200})#sha256=(?P<sha256>[0-9a-f]{64})")
# Packages are wheels of some megabytes, and only their archives say how many.
PACKAGE_BYTES = 16_000_000


class Wanted(Struct, frozen=True, kw_only=True):
    """What a stack's `fetch` is told to bring."""

    model: str
    revision: str
    owner: str
    archives: Mapping[str, str]

    @property
    def flat(self) -> str:
        """The model's name as the hub's cache has it."""
        return self.model.replace("/", "--")

    @property
    def storage(self) -> str:
        """The model's folder in the hub's cache."""
        return f"hub/models--{self.flat}"

    @property
    def stamp(self) -> str:
        """The stamp that `fetch` left in the cache, without its suffix."""
        return f"ernie/{self.flat}@{self.revision.replace('/', '-')}"


class Stamped(Struct, frozen=True):
    """One file of a stamp, as far as a bundle needs it."""

    size: int
    hash: str


class Stamp(Struct, frozen=True):
    """What `fetch` verified."""

    commit: str
    folder: str
    files: dict[str, Stamped]


class Mount(Struct, frozen=True, kw_only=True):
    """A volume or a folder of the host, and the image whose `cat` reads it."""

    kind: str
    source: str
    image: str

    def reading(self, path: str, program: str = "cat") -> list[str]:
        """The command that prints a file of it, or what another program says of the file."""
        return [
            "docker", "run", "--rm", "--pull", "never", "--network", "none", "--log-driver", "none", "--user", "0:0",
            "--read-only", "--cap-drop", "ALL", "--cap-add", "DAC_READ_SEARCH", "--security-opt", "no-new-privileges",
            "--mount", f"type={self.kind},source={self.source},target=/in,readonly", "--entrypoint", program,
            self.image, f"/in/{path}",
        ]  # fmt: skip

    def is_there(self) -> bool:
        """Whether there is such a volume; a look into a missing one would make it."""
        return self.kind != "volume" or not ask(["docker", "volume", "inspect", self.source]).returncode

    def read(self, path: str, program: str = "cat") -> bytes | None:
        """The bytes of a small file; None where it is missing."""
        if not self.is_there():
            return None
        try:
            with bytes_of(self.reading(path, program)) as pipe:
                return pipe.read()
        except ToolFailed as fault:
            if "No such file" in fault.cause or "does not exist" in fault.cause:
                return None
            raise


def wanted(fetch: Mapping[str, Any]) -> Wanted | None:
    """What a `fetch` service brings from a hub; None where the stack serves a folder of the user's."""
    words = [str(word) for key in ("entrypoint", "command") for word in fetch.get(key) or ()]
    options = dict(re.findall(r"^--(model|revision|owner)=(.+)$", "\n".join(reversed(words)), re.MULTILINE))
    if options.keys() != {"model", "revision", "owner"} or any(w.startswith("--weights=") for w in words):
        return None
    archives = {match["file"]: match["sha256"] for word in words if (match := ARCHIVE.fullmatch(word))}
    return Wanted(**options, archives=archives)


def folder_of(fetch: Mapping[str, Any]) -> str:
    """The folder of the host that a stack serves in place of a hub's model; '' where it serves none."""
    words = [str(word) for word in fetch.get("command") or ()]
    inside = next((word.partition("=")[2] for word in words if word.startswith("--weights=")), "")
    mounts = {mount["target"]: str(mount["source"]) for mount in fetch.get("volumes") or ()}
    return mounts.get(inside, inside)


def read_stamp(mount: Mount, want: Wanted) -> Stamp | None:
    """The stamp in a cache; None where nothing was verified there; raises `ToolFailed` on one that is no stamp."""
    data = mount.read(f"{want.stamp}.json")
    if data is None:
        return None
    try:
        stamp = msgspec.json.decode(data, type=Stamp)
    except msgspec.MsgspecError:
        return None
    names = [*stamp.files, stamp.commit]
    if not all(map(is_name, names)) or not all(HASH.fullmatch(file.hash) for file in stamp.files.values()):
        raise ToolFailed(
            f"The stamp {want.stamp}.json names files that are none of a hub's cache.",
            cause="it did not come from this kit's `fetch`",
            next_step="remove it, and let `fetch` write it again: docker compose run --rm fetch",
        )
    return stamp


def blobs(mount: Mount, want: Wanted, stamp: Stamp) -> Iterator[tuple[str, Part]]:
    """Each file of the revision: where it lies in the cache, and the part of a bundle that holds it."""
    for file in {file.hash: file for file in stamp.files.values()}.values():
        place = f"{want.storage}/blobs/{file.hash}"
        words = mount.reading(place)
        yield (
            place,
            Part(
                path=f"weights/{place}",
                key=f"blob {file.hash}",
                size_bytes=file.size,
                open=lambda words=words: bytes_of(words),  # type: ignore[misc]
                digest=file.hash,
            ),
        )


def packages(mount: Mount, want: Wanted) -> Iterator[tuple[str, Part]]:
    """The archives of a VL stack's packages; `fetch` unpacks them, which needs no network."""
    for file, sha256 in want.archives.items():
        words = mount.reading(f"archives/{file}")
        yield (
            f"archives/{file}",
            Part(
                path=f"packages/archives/{file}",
                key=f"archive {sha256}",
                size_bytes=PACKAGE_BYTES,
                open=lambda words=words: bytes_of(words),  # type: ignore[misc]
                digest=sha256,
            ),
        )


def has_packages(mount: Mount, want: Wanted) -> bool:
    """Whether the volume has every archive."""
    listed = (mount.read("archives", "ls") or b"").decode("utf-8", "replace").split()
    return set(want.archives) <= set(listed)


def links(mount: Mount, want: Wanted, stamp: Stamp) -> Part:
    """What leads to the files: the snapshot's links, the revision's ref, and the stamps of `fetch`."""
    raw = io.BytesIO()
    owner = want.owner.split(":")
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in sorted(_texts(mount, want, stamp).items()):
            info = _member(name, owner)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target in sorted(_symlinks(want, stamp).items()):
            info = _member(name, owner)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return of_bytes(f"weights/{want.stamp.removeprefix('ernie/')}.tar", raw.getvalue())


def _member(name: str, owner: list[str]) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.uid, info.gid = map(int, owner)
    return info


def _texts(mount: Mount, want: Wanted, stamp: Stamp) -> dict[str, bytes]:
    texts = {f"{want.stamp}.json": mount.read(f"{want.stamp}.json") or b""}
    if code := mount.read(f"{want.stamp}.code.json"):
        texts[f"{want.stamp}.code.json"] = code
    if want.revision != stamp.commit:
        texts[f"{want.storage}/refs/{want.revision}"] = stamp.commit.encode()
    return texts


def _symlinks(want: Wanted, stamp: Stamp) -> dict[str, str]:
    """Of each file, from its name in the snapshot to its blob, as huggingface_hub makes them."""
    snapshot = f"{want.storage}/snapshots/{stamp.commit}"
    made = {f"ernie/{want.model.rpartition('/')[2]}": os.path.relpath(snapshot, "ernie")}
    for name, file in stamp.files.items():
        at = f"{snapshot}/{name}"
        made[at] = os.path.relpath(f"{want.storage}/blobs/{file.hash}", os.path.dirname(at))  # noqa: PTH120 - of the volume
    return made
