"""Which checkpoint a command names: an id on a hub, a folder, or a place in a hub's own cache."""

import re
from collections.abc import Iterable

from ernie_deploy.catalog.schema import Model

# On ModelScope the publisher is called so.
PUBLISHERS = ("baidu", "paddlepaddle")
SNAPSHOTS, CACHED = "snapshots", "models--"
# ModelScope's cache writes a dot of a folder's name so.
DOT = "___"


def repository(text: str) -> str:
    """The name of the repository without its owner: `ERNIE-4.5-21B-A3B-PT` for each way to name it."""
    parts = _parts(text)
    if SNAPSHOTS in parts[1:]:
        # .../models--owner--name/snapshots/COMMIT
        parts = parts[: parts.index(SNAPSHOTS, 1)]
    last = parts[-1] if parts else ""
    return last.rpartition("--")[2].replace(DOT, ".") if last.startswith(CACHED) else last.replace(DOT, ".")


def model_named(text: str, models: Iterable[Model]) -> Model | None:
    """The catalog's model that `text` names."""
    name = repository(text).lower()
    return next((model for model in models if model.hf_id.rpartition("/")[2].lower() == name), None)


def as_published(text: str, model: Model) -> bool:
    """Whether `text` names the publisher's files as they are, which a folder of any name need not hold."""
    if not text.startswith(("/", ".", "~")):
        return text.lower() in {f"{owner}/{model.hf_id.rpartition('/')[2]}".lower() for owner in PUBLISHERS}
    owners = {part.lower() for part in _parts(text)[:-1]} | {_owner(part) for part in _parts(text)}
    return bool(owners & set(PUBLISHERS)) or DOT in text


def _owner(part: str) -> str:
    return part.split("--")[1].lower() if part.startswith(CACHED) and part.count("--") > 1 else ""


def _parts(text: str) -> list[str]:
    return [part for part in re.split(r"[\\/]+", text) if part]
