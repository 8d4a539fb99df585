"""What a bundle is made of: parts with an identity, a size and a way to their bytes."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO

from msgspec import Struct

from ernie_deploy.errors import ToolFailed

Open = Callable[[], AbstractContextManager[IO[bytes]]]
# Called with the path of a part, the bytes of it that are written, and those that are expected.
Show = Callable[[str, int, int], None]


class Part(Struct, frozen=True, kw_only=True):
    """One thing in a bundle, which is written whole or made again.

    `key` is what it was made of: the same key stands for the same content. `digest` is what its bytes must hash to:
    64 digits of SHA-256, 40 of Git's blob id, or '' where nobody knows it beforehand. A size is an estimate where
    there is no digest.
    """

    path: str
    key: str
    size_bytes: int
    open: Open
    digest: str = ""


class File(Struct, frozen=True, kw_only=True):
    """A file of a part as it lies in the bundle: a part that was split has several."""

    name: str
    size_bytes: int
    sha256: str


class Note(Struct, frozen=True, kw_only=True):
    """A part that is complete."""

    path: str
    key: str
    files: tuple[File, ...]

    @property
    def size_bytes(self) -> int:
        """The bytes of all its files."""
        return sum(file.size_bytes for file in self.files)


def of_bytes(path: str, data: bytes) -> Part:
    """A part whose bytes are known."""
    import hashlib
    import io
    from contextlib import closing

    digest = hashlib.sha256(data).hexdigest()
    return Part(
        path=path,
        key=digest,
        size_bytes=len(data),
        open=lambda: closing(io.BytesIO(data)),
        digest=digest,
    )


def damaged(part: Part) -> ToolFailed:
    """The error for bytes that are not what their hash says."""
    return ToolFailed(
        f"{part.path} has a wrong hash, so it is not in the bundle.",
        cause="the weights or packages on this host's volume were changed or are damaged",
        next_step="let `fetch` repair them: docker compose run --rm fetch; then repeat the same command",
    )
