"""Stamps a folder of the user's instead of downloading: with no hash to compare with, it trusts the files as they are."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from common import STACK, KnownError, run, say
from fetch import UNFIT, Volumes, known_errors, write_stamp
from serve import MOST_JSON_BYTES, hashed, load_json, looks, read_stamp, wanted, wanted_files


def main(words: list[str], approve: Callable[[Path, Path], None] = lambda *_: None) -> None:
    """Look at the folder, and stamp it for `serve`."""
    volumes, path = Volumes(words), STACK / "weights.json"
    with known_errors():
        volumes.prepare_engine()
        volumes.hand_over(STACK)
        try:
            stamp_folder(volumes.options, path, approve)
        finally:
            volumes.hand_over(STACK)
    volumes.end_waits()


def stamp_folder(options: dict[str, str], path: Path, approve: Callable[[Path, Path], None]) -> None:
    """Stamp the folder, hashing what is new or changed in it."""
    folder = Path(options["weights"])
    if fault := folder_fault(folder, options["architecture"]):
        raise KnownError(UNFIT, f"{folder} {fault}")
    approve(folder, path.with_suffix(".code.json"))
    stamp, names = read_stamp(path), wanted_files(folder)
    known = stamp["files"] if stamp else {}
    kept = {
        name: known[name]
        for name in names
        if name in known and looks(folder / name).items() <= known[name].items()
    }
    fresh = hashed(folder, {name: "" for name in names if name not in kept})
    if kept != known or fresh:
        source = {"repo": options["model"], "revision": options["revision"], "commit": ""}
        write_stamp(path, source | {"folder": str(folder), "files": kept | fresh})
    say(f"fetch: {len(names)} files in {folder} stamped, {len(fresh)} of them new or changed")


def folder_fault(folder: Path, architecture: str | None) -> str | None:
    """What makes a folder unfit to be served, if anything does."""
    index = folder / "model.safetensors.index.json"
    shards = {path.name for path in folder.glob("*.safetensors")}
    odd = (path for path in folder.rglob("*") if not path.is_file() and not path.is_dir())
    if waited_for := sorted(filter(wanted, (str(path.relative_to(folder)) for path in odd))):
        return f"has {waited_for[0]}, a pipe, a device or a link to nothing"
    try:
        its_own = load_json(folder / "config.json")["architectures"][0]
        listed = set(load_json(index)["weight_map"].values()) if index.exists() else shards
        lacking = sorted(listed - shards)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "has no config.json that names an architecture, or a broken index"
    if architecture not in (None, its_own):
        return f"holds {its_own!s:.80} instead of {architecture}"
    if not shards or lacking:
        return f"lacks {(*lacking, '*.safetensors')[0]!s:.80}"
    broken = sorted(name for name in shards if not is_whole(folder / name))
    return f"has a truncated or damaged {broken[0]}" if broken else None


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(header_bytes) if header_bytes <= MOST_JSON_BYTES else "")
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            return bool(path.stat().st_size == 8 + header_bytes + max(ends, default=0))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False


if __name__ == "__main__":
    sys.exit(run("fetch", main))
