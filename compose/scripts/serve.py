"""Verifies the weights against their stamp, then execs vLLM; after failed starts it waits first."""

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import STARTS, KnownError, run, say

# What vLLM reads; it prefers consolidated*.safetensors where there is one.
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.ttf")
UNWANTED = ("original/*", ".*")
# The limit of the safetensors library for a header; every other JSON here is smaller.
MOST_JSON_BYTES = 100_000_000
PROGRESS_S = 10.0
FAILED_STARTS = 3
BACK_OFF_S = 600.0
# Exit codes.
DAMAGED, NOT_FETCHED = 24, 27
# Of each verified file its size, times, inode and hash.
Files = dict[str, dict[str, Any]]
# These "files", their "repo", its "revision" and "commit", and the "folder" as seen from the stamp.
Stamp = dict[str, Any]
PARTS = {"repo", "revision", "commit", "folder", "files"}


def main(words: list[str]) -> None:
    """Check the weights of the stamp that is named first, and become the command behind it."""
    path = Path(words[0])
    back_off()
    stamp = read_stamp(path)
    if stamp is None:
        raise KnownError(NOT_FETCHED, f"{path} is missing, so nobody verified the weights")
    if fault := differences(path, stamp)[2]:
        raise KnownError(DAMAGED, f"{fault}, so these are not the verified weights")
    os.execvp(words[1], words[1:])


def back_off() -> None:
    """Count this start and wait before a fourth; the health check ends the count, and so does `fetch`."""
    starts, first = 0, datetime.now(UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(OSError, ValueError):
        count, *noted = STARTS.read_text().split()
        starts, first = int(count), next(iter(noted), first)
    with contextlib.suppress(OSError):
        STARTS.write_text(f"{starts + 1} {first}\n")
    if starts >= FAILED_STARTS:
        failed = f"{starts} starts in a row never became healthy, the first of them at {first}"
        say(f"serve: {failed}, for the reason in the log above: waiting {BACK_OFF_S:.0f} s")
        end = time.monotonic() + BACK_OFF_S
        while STARTS.exists() and time.monotonic() < end:
            time.sleep(0.5)


# --- the stamp, which `fetch` writes ---


def load_json(path: Path) -> Any:
    """The content of a file; raises ValueError where it is a pipe, too large or nested too deeply."""
    if path.exists() and not (path.is_file() and path.stat().st_size <= MOST_JSON_BYTES):
        raise ValueError(f"{path} is no file of JSON")
    try:
        return json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def read_stamp(path: Path) -> Stamp | None:
    """The stamp; one that cannot be parsed counts as none."""
    with contextlib.suppress(FileNotFoundError, ValueError, AttributeError):
        stamp: Stamp = load_json(path)
        entry = {*looks(path), "hash"}
        if stamp.keys() == PARTS and all(known.keys() == entry for known in stamp["files"].values()):
            return stamp
    return None


def wanted_files(folder: Path) -> list[str]:
    """The files of a folder that vLLM reads."""
    return sorted(filter(wanted, (str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())))


def wanted(name: str) -> bool:
    """Whether vLLM reads a file of this name."""
    return any(fnmatch(name, mask) for mask in WANTED) and not any(fnmatch(name, mask) for mask in UNWANTED)


def looks(path: Path) -> dict[str, int]:
    """What tells of a change without a look at the content: no program sets the ctime."""
    info = path.stat()
    times = {"mtime_ns": info.st_mtime_ns, "ctime_ns": info.st_ctime_ns}
    return {"size": info.st_size, "inode": info.st_ino, **times}


def differences(path: Path, stamp: Stamp) -> tuple[Files, list[str], str]:
    """The stamped files as they are, hashing only what changed; which of them are wrong; and a fault, if any."""
    folder, files, faults, touched = path.parent / stamp["folder"], stamp["files"], {}, {}
    for name, entry in files.items():
        file = folder / name
        if not file.exists():
            faults[name] = "is missing"
        elif not os.access(file, os.R_OK):
            faults[name] = f"is not readable for user {os.geteuid()}"
        elif (size := file.stat().st_size) != entry["size"]:
            faults[name] = f"has {size} bytes instead of {entry['size']}"
        elif entry != looks(file) | {"hash": entry["hash"]}:
            touched[name] = entry["hash"]
    now = files | (hashed(folder, touched) if touched else {})
    faults |= {name: "has the wrong hash" for name in touched if now[name]["hash"] != touched[name]}
    wrong = list(faults)
    faults |= {name: "is not among the verified files" for name in wanted_files(folder) if name not in files}
    ref = folder.parent.parent / "refs" / stamp["revision"]
    if stamp["commit"] and ref.is_file() and ref.read_text().strip() != stamp["commit"]:
        faults[stamp["revision"]] = "is another commit by now"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return now, wrong, next((f"{name} {fault}{more}" for name, fault in faults.items()), "")


def hashed(folder: Path, expected: dict[str, str]) -> Files:
    """Hash the named files, in threads: hashlib releases the interpreter lock."""
    counts = [0]

    def examine(name: str) -> dict[str, Any]:
        look = looks(folder / name)
        # Git's blob id where one is expected, else SHA-256.
        git = hashlib.sha1(b"blob %d\0" % look["size"], usedforsecurity=False)
        state = git if len(expected[name]) == git.digest_size * 2 else hashlib.sha256()
        with (folder / name).open("rb") as file:
            while chunk := file.read(8 << 20):
                state.update(chunk)
                counts.append(len(chunk))
        return look | {"hash": state.hexdigest()}

    total = sum((folder / name).stat().st_size for name in expected)
    with (
        watched("verify", total, lambda: sum(counts)),
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
    ):
        return dict(zip(expected, pool.map(examine, expected), strict=True))


@contextlib.contextmanager
def watched(step: str, total: int, progress: Callable[[], int]) -> Iterator[None]:
    """Ask for the progress of a long step while the block runs, and print it every PROGRESS_S."""
    over, counts = threading.Event(), [progress()]

    def watch() -> None:
        while not over.wait(PROGRESS_S / 10):
            counts.append(progress())
            if len(counts) % 10 == 0:
                speed = max(0, counts[-1] - counts[-10]) / PROGRESS_S
                left = f", about {(total - counts[-1]) / speed:.0f} s left" if speed else ""
                done = f"{counts[-1] / 1e9:.1f} of {total / 1e9:.1f} GB"
                say(f"{step}: {done}, {speed / 1e6:.0f} MB/s{left}")

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


if __name__ == "__main__":
    sys.exit(run("serve", main))
