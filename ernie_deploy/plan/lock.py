"""What `ernie.lock` says: the digest of each image, and the commit and files of each model, as they were seen."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, field

from ernie_deploy.errors import UsageError

if TYPE_CHECKING:
    import re

NAME = "ernie.lock"
# Of a digest or a commit, as much as people compare.
SHOWN = 12
MOST_BYTES = 4 << 20
UPGRADE = "make it anew with: ernie-deploy lock --upgrade"

HEAD = "# Written by `ernie-deploy lock`: what the stack beside it was seen to be. `ernie-deploy lock --upgrade` moves it.\n"


class LockedFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of a model as its hub lists it; `digest` is `sha256:...`, or `git:...` of a small file."""

    size: int
    digest: str


class LockedModel(Struct, frozen=True, forbid_unknown_fields=True):
    """One model: the commit that is served, with its files, and the commit of each revision that the stack names."""

    commit: str
    revisions: dict[str, str]
    files: dict[str, LockedFile]


class Lock(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A lock: image reference -> digest, and hub id -> model; `kit` and `engine` are the versions that it was made with."""

    format: Literal[1] = 1
    kit: str
    engine: str
    images: dict[str, str]
    models: dict[str, LockedModel] = field(default_factory=dict)

    def image(self, reference: str) -> str:
        """`name:tag@sha256:...`; what names a digest itself stays. Raises `UsageError` for an image that is not locked."""
        if "@" in reference:
            return reference
        if reference not in self.images:
            raise _of_another_stack(f"the image {reference}", self.images)
        return f"{reference}@{self.images[reference]}"

    def commit(self, hf_id: str, revision: str) -> str:
        """The commit of a revision; raises `UsageError` for one that is not locked."""
        from ernie_deploy.plan.references import COMMIT

        if COMMIT.fullmatch(revision):
            return revision
        model = self.models.get(hf_id)
        if model is None or revision not in model.revisions:
            raise _of_another_stack(f"{hf_id} at {revision}", self.models)
        return model.revisions[revision]


class LockFile(Struct, frozen=True):
    """A lock and the path by which the rendered file names it, from the file's own folder."""

    path: str
    lock: Lock


def _of_another_stack(wanted: str, held: Mapping[str, object]) -> UsageError:
    return UsageError(
        f"The lock does not hold {wanted[:160]}.",
        cause=f"it belongs to another stack; it holds {', '.join(sorted(held))[:200] or 'nothing of the kind'}",
        next_step="render with --lock none, then: ernie-deploy lock",
    )


def read_lock(path: Path) -> Lock:
    """The lock in a file; raises `UsageError` where it is missing, damaged or holds what no lock holds."""
    from ernie_deploy.safe_io.reading import read_bounded

    try:
        return parsed(read_bounded(path, MOST_BYTES).decode())
    except OSError as fault:
        raise UsageError(
            f"The lock {path} cannot be read: {fault.strerror}.", next_step="make one with: ernie-deploy lock"
        ) from fault
    except ValueError as fault:
        # What TOML and msgspec quote is the file's own.
        words = "".join(c if c.isprintable() else "?" for c in str(fault))[:200]
        raise UsageError(
            f"{path} is no lock: {words}.", cause="it was edited or damaged", next_step=UPGRADE
        ) from fault


def parsed(text: str) -> Lock:
    """A lock from its text; raises ValueError with the first thing that no lock holds."""
    import tomllib

    import msgspec

    try:
        lock = msgspec.convert(tomllib.loads(text), Lock)
    except RecursionError as fault:
        raise ValueError("it is nested too deeply") from fault
    if wrong := next(_faults(lock), ""):
        raise ValueError(wrong)
    return lock


def _faults(lock: Lock) -> Iterator[str]:
    """What is wrong with the values: all of them come to stand in a compose file."""
    from ernie_deploy.plan.references import COMMIT, DIGEST, FILE_DIGEST, IMAGE, MODEL, REVISION, VERSION

    yield from _unlike(VERSION, "version", [lock.kit, lock.engine])
    yield from _unlike(IMAGE, "image", lock.images)
    yield from _unlike(DIGEST, "digest (sha256: and 64 hex digits)", lock.images.values())
    yield from _unlike(MODEL, "model", lock.models)
    for model in lock.models.values():
        yield from _unlike(REVISION, "revision", model.revisions)
        yield from _unlike(COMMIT, "commit (40 hex digits)", [model.commit, *model.revisions.values()])
        yield from (f"{name[:60]!r} is no file's name" for name in model.files if not is_file_name(name))
        yield from _unlike(FILE_DIGEST, "file's digest", [file.digest for file in model.files.values()])
        yield from (f"{file.size} is no size" for file in model.files.values() if file.size < 0)


def _unlike(pattern: "re.Pattern[str]", kind: str, words: Any) -> Iterator[str]:
    return (f"{word[:90]!r} is no {kind}" for word in words if not pattern.fullmatch(word))


def is_file_name(name: str) -> bool:
    """Whether a hub may name a file so: a path below the model's folder, printable."""
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))


def text_of(lock: Lock) -> str:
    """The lock as TOML, sorted: the same lock is the same bytes."""
    lines = [f"format = {lock.format}", f"kit = {_quoted(lock.kit)}", f"engine = {_quoted(lock.engine)}"]
    lines += ["", "[images]", *_pairs(lock.images)]
    for hf_id, model in sorted(lock.models.items()):
        table = f"models.{_quoted(hf_id)}"
        lines += ["", f"[{table}]", f"commit = {_quoted(model.commit)}"]
        lines += ["", f"[{table}.revisions]", *_pairs(model.revisions), "", f"[{table}.files]"]
        lines += [
            f"{_quoted(name)} = {{ size = {file.size}, digest = {_quoted(file.digest)} }}"
            for name, file in sorted(model.files.items())
        ]
    return HEAD + "\n".join(lines) + "\n"


def _pairs(table: Mapping[str, str]) -> list[str]:
    return [f"{_quoted(name)} = {_quoted(value)}" for name, value in sorted(table.items())]


def _quoted(text: str) -> str:
    """A TOML string: that of JSON is one."""
    return json.dumps(text, ensure_ascii=False)


def short(digest: str) -> str:
    """The beginning of a digest or a commit."""
    algorithm, colon, digits = digest.rpartition(":")
    return f"{algorithm}{colon}{digits[:SHOWN]}"


def unlocked_image(reference: str, lock: Lock) -> str:
    """Why an image of a stack is not what the lock holds; empty where it is, by whatever registry."""
    name, _, digest = reference.partition("@")
    if not digest:
        return f"{name[:160]} names no digest" if name in lock.images else f"{name[:160]} is not in the lock"
    held = digest in lock.images.values() or name not in lock.images
    return "" if held else f"{name[:160]} is at {short(digest)}, and the lock at {short(lock.images[name])}"


def unlocked_revision(hf_id: str, revision: str, lock: Lock) -> str:
    """Why a revision of a model is not what the lock holds; empty where it is, or the lock knows no such model."""
    model = lock.models.get(hf_id)
    if model is None or revision in (model.commit, *model.revisions.values()):
        return ""
    return f"{hf_id} is at {revision[:60]!r}, and the lock at {short(model.commit)}"
