"""Container images: which hold vLLM, what their entrypoint does, and which vLLM their tag names."""

import re
from functools import cache
from typing import Literal, TypeAlias

from msgspec import Struct

from ernie_deploy.catalog.image_schema import ImageKind, ImageKinds
from ernie_deploy.catalog.load import load
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.values import NEWEST, Version
from ernie_deploy.paths import CATALOG

TagKind: TypeAlias = Literal["release", "newest", "commit", "dated", "variable", "digest", "own"]

_POST = r"(?:\.\d{1,4}|\.?(?:post|rc|dev|a|b)\d{1,6}){0,2}"
_NUMBERS = rf"(\d{{1,4}})\.(\d{{1,4}})(?:\.(\d{{1,4}}))?{_POST}(?![\d.a-z])"
_RELEASE = re.compile(rf"(?<![\w.])v?{_NUMBERS}")
_INSIDE = re.compile(rf"vllm[_-]v?{_NUMBERS}")
_FLOATING = re.compile(r"(?:latest|nightly|main|master|edge)(?![a-z0-9])")
_COMMIT = re.compile(r"(?<![a-z0-9])(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,40}(?![a-z0-9])")
_DATE = re.compile(r"(?<!\d)20\d\d[-_.]?[01]\d[-_.]?[0-3]\d(?!\d)")
_HARDWARE = (
    ("amd", re.compile(r"rocm|amd|gfx\d|mi3\d\d")),
    ("intel", re.compile(r"xpu|intel|gaudi|hpu|habana")),
    ("cpu", re.compile(r"(?<![a-z])cpu(?![a-z])")),
    ("nvidia", re.compile(r"cuda|nvidia|(?<![a-z])cu1\d\d")),
)


@cache
def kinds() -> tuple[tuple[re.Pattern[str], ImageKind], ...]:
    """The catalog's kinds of images, each with its compiled name."""
    rows = load(CATALOG / "images.toml", ImageKinds).images
    patterns = [(row.image, row) for row in rows]
    return tuple((re.compile(pattern), row) for pattern, row in patterns)


@cache
def kind_of(name: str) -> ImageKind | None:
    """The kind of the image `name` (without a tag); None where nothing says that it holds vLLM."""
    return next((row for pattern, row in kinds() if pattern.search(name.lower())), None)


class Image(Struct, frozen=True):
    """An image reference taken apart."""

    name: str = ""
    tag: str = ""
    digest: str = ""

    @property
    def reference(self) -> str:
        """The whole of it again."""
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def kind(self) -> ImageKind | None:
        """What the catalog knows of it; None where nothing says that it holds vLLM."""
        return kind_of(self.name) if self.name else None

    @property
    def variant(self) -> str | None:
        """`rocm`, `cpu`, `xpu`, or empty for CUDA; None where it is not vLLM's own image."""
        return self.kind.variant if self.kind else None

    @property
    def hardware(self) -> str:
        """`nvidia`, `amd`, `cpu` or `intel`, as its name or tag says; empty where neither does."""
        if self.kind and self.kind.hardware:
            return self.kind.hardware
        words = f"{self.name}:{self.tag}".lower()
        return next((name for name, pattern in _HARDWARE if pattern.search(words)), "")

    @property
    def tag_kind(self) -> TagKind:
        """What sort of name the tag is."""
        if not known(self.name + self.tag):
            return "variable"
        if self.floats:
            return "newest"
        if not self.tag or _FLOATING.match(self.tag) or not _RELEASE.match(self.tag):
            return _unversioned(self.tag, self.digest)
        return "release"

    @property
    def engine(self) -> Version | None:
        """vLLM's version in it: that of the tag, the newest for vLLM's own `latest`, else unknown."""
        kind = self.kind
        if kind is None or not known(self.tag):
            return None
        if self.floats:
            return NEWEST if kind.variant is not None else None
        if kind.tags == "own":
            tags = (kind.versions[tag] for tag in kind.versions if self.tag.startswith(tag))
            return version_of(next(tags, ""))
        return version_of(self.tag) if kind.tags == "release" else _version(_INSIDE.search(self.tag))

    @property
    def floats(self) -> bool:
        """Whether the reference is another image tomorrow."""
        if self.digest or not known(self.tag):
            return False
        if not self.tag:
            return True
        fixed = _DATE.search(self.tag) or _COMMIT.search(self.tag)
        return bool(_FLOATING.match(self.tag)) and not fixed

    @property
    def serves(self) -> bool:
        """Whether its entrypoint takes the command for the server's words."""
        return self.kind is not None and self.kind.entrypoint == "server" and not self.bare

    @property
    def bare(self) -> bool:
        """Whether it runs the command as it stands, so that flags alone start nothing."""
        kind, engine = self.kind, self.engine
        if kind is None:
            return False
        since = version_of(kind.since)
        return kind.entrypoint == "bare" or bool(since and engine and engine < since)

    @property
    def module(self) -> bool:
        """Whether its entrypoint is the module, which has no positional model."""
        before = version_of(self.kind.module_before) if self.kind else None
        return bool(before and self.engine and self.engine < before)


def image_of(reference: str) -> Image:
    """Take `registry:5000/name:tag@digest` apart."""
    rest, _, digest = reference.partition("@")
    head, slash, last = rest.rpartition("/")
    # A variable may hold a colon: `vllm-openai:${TAG}` and `${IMAGE}` both.
    name, _, tag = last.partition(":")
    return Image(name=f"{head}{slash}{name}", tag=tag, digest=digest)


def version_of(tag: str) -> Version | None:
    """vLLM's version at the beginning of a tag: `v0.8.5.post1-cu128` -> (0, 8, 5)."""
    return _version(_RELEASE.match(tag))


def _version(match: re.Match[str] | None) -> Version | None:
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def _unversioned(tag: str, digest: str) -> TagKind:
    if _COMMIT.search(tag):
        return "commit"
    if _DATE.search(tag):
        return "dated"
    return "digest" if digest else "own"
