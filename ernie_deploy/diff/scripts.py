"""The scripts beside a compose file, which its containers run: each is a fact by its checksum."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ernie_deploy.diff.change import Key
from ernie_deploy.diff.facts import Facts
from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.scripts import scripts_of
from ernie_deploy.safe_io.reading import read_bounded

FOLDER = "scripts"


def of_folder(folder: Path) -> Facts:
    """The scripts that lie in a stack's folder; one that cannot be read is told as that."""
    return _facts({path.name: _read(path) for path in sorted((folder / FOLDER).glob("*.py"))})


def of_plan(plan: Plan) -> Facts:
    """The scripts that the kit puts there."""
    return _facts({name: text.encode() for name, text in scripts_of(plan).texts.items()})


def _read(path: Path) -> bytes | None:
    try:
        return read_bounded(path)
    except OSError:
        return None


def _facts(texts: Mapping[str, bytes | None]) -> Facts:
    return {
        Key("start", "", f"{FOLDER}/{name}"): "cannot be read" if data is None else f"sha256 {_digest(data)}"
        for name, data in texts.items()
    }


def _digest(data: bytes) -> str:
    return sha256(data).hexdigest()[:12]
