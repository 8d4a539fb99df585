"""Downloads and verifies model weights (`fetch`), or checks them and becomes the engine (`serve`)."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatch
from http import HTTPStatus
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

CACHE_DIR = Path("/cache/hf")
ENGINE_DIR = Path("/cache/engine")
# What belongs to this stack alone: the stamp of a folder of the user's, and the counts of starts.
STACK_DIR = Path("/stack")
WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.py", "*.ttf")
# vLLM prefers consolidated*.safetensors where there is one, so it is wanted too.
UNWANTED = ("original/*", ".*")
# What arrives last, where a command of --before looks at the rest first.
WEIGHTS = "*.safetensors"
GIT_HASH_DIGITS = 40
# Of a commit or a small file, and of a large one.
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# What mkfs leaves at the top of a disk, and what huggingface_hub, its relatives and the kit leave in HF_HOME.
NOTHING = re.compile(r"lost\+found")
HF_HOME = re.compile(
    r"lost\+found|ernie|hub|xet|assets|token|stored_tokens|datasets|modules|metrics|evaluate|accelerate"
    r"|\.check_for_(skill_)?update_done|\.agent_harnesses\.json"
)
HANDED_MODE = 0o2775
# Beside what the hub lists: its own notes, and files that arrive twice.
SPARE_BYTES = 64 << 20
DISK_MARGIN = 1.05
# The limit of the safetensors library for a header; every other JSON here is smaller.
MOST_JSON_BYTES = 100_000_000
PARTIAL_KEPT_S = 600
PROGRESS_S = 10.0
CHUNK_BYTES = 8 << 20
FAILED_STARTS = 3
BACK_OFF_S = 600.0
# Kubernetes sets it in every pod, which it starts again by itself.
AGAIN = (
    "let Kubernetes start the pod again"
    if "KUBERNETES_SERVICE_HOST" in os.environ
    else "run `docker compose up -d`"
)

# Exit codes.
REFUSED, NOT_FOUND, UNREACHABLE, DISK_FULL, DAMAGED, NOT_WRITABLE, UNFIT, NOT_FETCHED = range(20, 28)


class KnownError(Exception):
    """A failure with a known cause: its exit code, what happened, why, and what to do before the next start."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(f"{sentence}, then {AGAIN}")
        self.code = code


class FileStamp(NamedTuple):
    """What a file looked like just before its hash was computed."""

    size: int
    mtime_ns: int
    inode: int
    # No program sets it: it tells of a change behind which the time of the content was put back.
    ctime_ns: int
    hash: str

    def fits(self, path: Path) -> bool:
        """Tell whether the file looks as it did then."""
        return looks(path.stat()) == self[:4]


def looks(info: os.stat_result) -> tuple[int, int, int, int]:
    """Return what tells of a change without a look at the content."""
    return info.st_size, info.st_mtime_ns, info.st_ino, info.st_ctime_ns


class Stamp(NamedTuple):
    """The verified files of one revision; `folder` is seen from the stamp's own folder."""

    repo: str
    revision: str
    commit: str
    folder: str
    files: dict[str, FileStamp]

    def moved(self, folder: Path) -> bool:
        """Tell whether somebody updated the cache, so that the revision names another commit by now."""
        ref = folder.parent.parent / "refs" / self.revision
        return bool(self.commit) and ref.is_file() and ref.read_text().strip() != self.commit


class Options(argparse.Namespace):
    """The arguments of `fetch` and the places that follow from them."""

    model: str
    revision: str
    owner: tuple[int, int]
    weights: Path | None
    architecture: str | None
    cache_dir: Path
    engine_dir: Path
    stack_dir: Path
    before: list[str]
    # The folder on which the command of --before has ended well.
    approved: Path | None = None

    @property
    def stamp(self) -> Path:
        """The stamp, beside what it describes; a folder of the user's is read-only, so its stamp is the stack's."""
        if self.weights:
            return self.stack_dir / "weights.json"
        name = f"{self.model.replace('/', '--')}@{self.revision.replace('/', '-')}.json"
        return self.cache_dir / "ernie" / name

    @property
    def record(self) -> Path:
        """What the command of --before knows about the remote code."""
        return self.stamp.with_suffix(".code.json")

    @property
    def storage(self) -> Path:
        """Where huggingface_hub keeps all revisions of the model."""
        return self.cache_dir / "hub" / f"models--{self.model.replace('/', '--')}"


def say(text: str, file: TextIO = sys.stdout) -> None:
    """Print one line of the container's log, without secrets and without what steers a terminal."""
    print("".join(c if c.isprintable() else "?" for c in redact(text)), file=file, flush=True)


def token() -> str:
    """Read the user's token; empty means anonymous."""
    with contextlib.suppress(OSError):
        return Path(os.environ.get("HF_TOKEN_PATH", os.devnull)).read_text().strip()
    return ""


def redact(text: str) -> str:
    """Blank out whatever may be a token, or a name and password in a URL: they may hold slashes and signs."""
    text = re.sub(r"hf_[A-Za-z0-9]{8,}", "***", text.replace(token() or "\0", "***"))
    return "".join(map(redact_word, re.split(r"(\s)", text)))


def redact_word(word: str) -> str:
    """Blank out all from `//` to the last `@`."""
    before, slashes, rest = word.partition("//")
    _, at, host = rest.rpartition("@")
    return f"{before}{slashes}***{at}{host}" if at else word


# --- hashing, and the line that shows how far a long step got ---


def progress_line(step: str, done: int, total: int, bytes_per_s: float) -> str:
    """One line that people and programs read."""
    line = f"{step}: {done / 1e9:.1f} of {total / 1e9:.1f} GB, {bytes_per_s / 1e6:.0f} MB/s"
    return f"{line}, about {(total - done) / bytes_per_s:.0f} s left" if bytes_per_s > 0 else line


@contextlib.contextmanager
def progress(step: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Print a line every PROGRESS_S while the block runs."""
    finished = threading.Event()

    def report() -> None:
        before = done()
        while not finished.wait(PROGRESS_S):
            now = done()
            say(progress_line(step, now, total, max(0, now - before) / PROGRESS_S))
            before = now

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def examine(path: Path, expected: str, counts: list[int]) -> FileStamp:
    """Hash one file: SHA-256, or git's blob id where that is expected."""
    info = path.stat()
    git = hashlib.sha1(b"blob %d\0" % info.st_size, usedforsecurity=False)
    state = git if len(expected) == GIT_HASH_DIGITS else hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            counts.append(len(chunk))
    return FileStamp(*looks(info), state.hexdigest())


def examine_all(folder: Path, expected: Mapping[str, str]) -> dict[str, FileStamp]:
    """Hash the named files in threads: hashlib releases the interpreter lock."""
    counts: list[int] = []
    total = sum((folder / name).stat().st_size for name in expected)
    with (
        progress("verify", total, lambda: sum(counts)),
        ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool,
    ):
        found = pool.map(lambda name: examine(folder / name, expected[name], counts), expected)
        return dict(zip(expected, found, strict=True))


# --- the stamp ---


def read_stamp(path: Path) -> Stamp | None:
    """Return the stamp; one that cannot be parsed counts as none."""
    try:
        data = load_json(path)
        files = {name: FileStamp(**entry) for name, entry in data.pop("files").items()}
        return Stamp(files=files, **data)
    except (FileNotFoundError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Replace the stamp in one step."""
    files = {name: entry._asdict() for name, entry in sorted(stamp.files.items())}
    fresh = path.with_suffix(".new")
    # `serve` may write to the stack's own folder: what it left under the name is taken away, and never written to.
    fresh.unlink(missing_ok=True)
    with fresh.open("x") as file:
        file.write(json.dumps({**stamp._asdict(), "files": files}, indent=1) + "\n")
    fresh.replace(path)


def recheck(folder: Path, files: Mapping[str, FileStamp]) -> tuple[dict[str, FileStamp], dict[str, str]]:
    """Return the files as they are now, hashing only what changed, and what is wrong with which."""
    wrong: dict[str, str] = {}
    touched: dict[str, str] = {}
    for name, entry in files.items():
        path = folder / name
        if not path.exists():
            wrong[name] = "is missing"
        elif not os.access(path, os.R_OK):
            wrong[name] = f"is not readable for user {os.geteuid()}"
        elif path.stat().st_size != entry.size:
            wrong[name] = f"has {path.stat().st_size} bytes instead of {entry.size}"
        elif not entry.fits(path):
            touched[name] = entry.hash
    now = dict(files) | (examine_all(folder, touched) if touched else {})
    wrong |= {name: "has the wrong hash" for name in touched if now[name].hash != touched[name]}
    return now, wrong


def added(folder: Path, files: Mapping[str, FileStamp]) -> dict[str, str]:
    """Return what the engine would read beside the verified files, such as another chat template."""
    return {name: "is not among the verified files" for name in wanted_files(folder) if name not in files}


def summary(wrong: Mapping[str, str]) -> str:
    """Name the first of what is wrong."""
    name, what = next(iter(wrong.items()))
    return f"{name} {what}" + (f" (and {len(wrong) - 1} more)" if wrong.keys() - {name} else "")


# --- what a folder of weights must hold ---


def wanted(name: str) -> bool:
    """Tell whether the engine reads a file of this name."""
    return any(fnmatch(name, mask) for mask in WANTED) and not any(fnmatch(name, mask) for mask in UNWANTED)


def wanted_files(folder: Path) -> list[str]:
    """Name the files in a folder that the engine reads."""
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(filter(wanted, names))


def odd_files(folder: Path) -> list[str]:
    """Name what is called like a file that the engine reads and is none: it would be waited for, or is not there."""
    odd = (path for path in folder.rglob("*") if not path.is_file() and not path.is_dir())
    return sorted(filter(wanted, (str(path.relative_to(folder)) for path in odd)))


def load_json(path: Path) -> Any:
    """Read a JSON file; raises OSError, or ValueError, also where it is a pipe, too large or nested too deeply."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    with path.open("rb") as file:
        return read_json(file, path.stat().st_size)


def read_json(file: BinaryIO, size: int) -> Any:
    """Read so many bytes as JSON; raises ValueError."""
    if size > MOST_JSON_BYTES:
        raise ValueError(f"{size} bytes of JSON")
    try:
        return json.loads(file.read(size))
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None


def is_whole(path: Path) -> bool:
    """Tell whether a safetensors file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        try:
            header = read_json(file, header_bytes)
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
            return bool(size == 8 + header_bytes + max(ends, default=0))
        except (ValueError, LookupError, TypeError, AttributeError):
            return False


def folder_fault(folder: Path, architecture: str | None) -> str | None:
    """Say what makes a folder unfit to be served, if anything does."""
    index = folder / "model.safetensors.index.json"
    shards = {path.name for path in folder.glob("*.safetensors")}
    if odd := odd_files(folder):
        return f"has {odd[0]}, a pipe, a device or a link to nothing"
    try:
        found = load_json(folder / "config.json")["architectures"][0]
        listed = set(load_json(index)["weight_map"].values()) if index.exists() else shards
        lacking = sorted(listed - shards)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "has no config.json that names an architecture, or a broken index"
    if architecture not in (None, found):
        return f"holds {found!s:.80} instead of {architecture}"
    if not shards or lacking:
        return f"lacks {(*lacking, '*.safetensors')[0]!s:.80}"
    broken = sorted(name for name in shards if not is_whole(folder / name))
    return f"has a truncated or damaged {broken[0]}" if broken else None


# --- the serving user ---


def allows(info: os.stat_result, owner: tuple[int, int], need: int) -> bool:
    """Tell whether the mode lets a user without capabilities in."""
    shift = 6 if info.st_uid == owner[0] else 3 if info.st_gid == owner[1] else 0
    return info.st_mode >> shift & need == need


def prepare(folder: Path, owner: tuple[int, int], need: int) -> None:
    """Give a fresh volume (root's) to the serving user; the folder of somebody else stays theirs."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_uid == os.geteuid() == 0:
        os.chown(folder, *owner)
        folder.chmod(HANDED_MODE)
    if not allows(folder.stat(), owner, need):
        raise KnownError(
            NOT_WRITABLE,
            f"{folder} is closed to the serving user {owner[0]}:{owner[1]}, because it belongs to "
            f"user {folder.stat().st_uid}: give it to {owner[0]} with chown",
        )


def require_own(folder: Path, variable: str, ours: re.Pattern[str], owner: tuple[int, int]) -> None:
    """Refuse root's folder of other things, such as /etc: its new owner could replace them."""
    if not folder.exists() or not (info := folder.stat()).st_uid == os.geteuid() == 0:
        return
    # A serving user that is root gets what looks like root's; so does whoever comes after it.
    handed = stat.S_IMODE(info.st_mode) == HANDED_MODE and info.st_gid in (0, owner[1])
    others = sorted(path.name for path in folder.iterdir() if not ours.fullmatch(path.name))
    if others and not handed:
        raise KnownError(
            NOT_WRITABLE,
            f"{variable} names a folder of root's that holds {others[0]!r:.80}, which is nothing of the kit's, so it "
            f"is not handed to the serving user: set {variable} to an empty folder, such as a new one in it",
        )


def prepare_folders(options: Options) -> None:
    """Prepare what the engine writes to and what it only reads."""
    require_own(options.engine_dir, "ENGINE_CACHE_DIR", NOTHING, options.owner)
    if not options.weights:
        require_own(options.cache_dir, "HF_CACHE_DIR", HF_HOME, options.owner)
    for folder in (options.engine_dir, options.stack_dir):
        prepare(folder, options.owner, need=7)
    if not options.weights:
        for folder in (options.cache_dir, options.cache_dir / "hub", options.stamp.parent):
            prepare(folder, options.owner, need=5)


def hand_over(options: Options) -> None:
    """Give the serving user what this process, running as root, created."""
    hub = options.cache_dir / "hub"
    tops = [
        options.stamp.parent,
        options.storage,
        options.cache_dir / "xet",
        hub / ".locks",
        hub / "CACHEDIR.TAG",
    ]
    for path in (path for top in tops if top.exists() for path in (top, *top.rglob("*"))):
        info = path.lstat()
        if info.st_uid == os.geteuid() == 0 and (info.st_uid, info.st_gid) != options.owner:
            os.chown(path, *options.owner, follow_symlinks=False)


# --- the hub ---


def prepare_environment(options: Options) -> None:
    """Set what huggingface_hub reads once, on import."""
    for name, value in list(os.environ.items()):
        # Compose passes a variable that the host did not set as an empty one, an unset CA bundle as /dev/null.
        if not value or (name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE") and not Path(value).is_file()):
            del os.environ[name]
    if bundle := os.environ.get("REQUESTS_CA_BUNDLE"):
        os.environ.setdefault("SSL_CERT_FILE", bundle)
    os.environ |= {"HF_HOME": str(options.cache_dir), "HF_HUB_VERBOSITY": "error"}
    os.environ |= dict.fromkeys(("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_SHARED_BLOBS"), "1")
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "localhost,127.0.0.1,::1")))


def require_private_way() -> None:
    """Refuse to send a token unencrypted, but to this host or to the one that a rehearsal names."""
    from urllib.parse import urlsplit

    address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    host = address.hostname or ""
    at_home = host in ("localhost", os.environ.get("HF_TOKEN_HTTP_HOST")) or is_loopback(host)
    if token() and address.scheme != "https" and not at_home:
        raise KnownError(
            REFUSED,
            f"HF_ENDPOINT is {address.scheme}://{host}, so whoever is on the way could read the token in "
            "HF_TOKEN_FILE: use https, or name no token",
        )


def is_loopback(host: str) -> bool:
    """Tell an address of this host from a name that looks like one."""
    import ipaddress

    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def mistrust_hub() -> None:
    """Check what the hub names before huggingface_hub makes paths of it: commits, hashes and files."""
    from huggingface_hub import HfApi, file_download

    model_info, tree, metadata = HfApi.model_info, HfApi.list_repo_tree, file_download.get_hf_file_metadata

    def checked_info(*args: Any, **options: Any) -> Any:
        info = model_info(*args, **options)
        require_hash(info.sha)
        for file in info.siblings or ():
            require_inside(file.rfilename)
        return info

    def checked_tree(*args: Any, **options: Any) -> Iterator[Any]:
        for entry in tree(*args, **options):
            require_inside(entry.path)
            require_hash(*filter(None, [lfs.sha256 if (lfs := getattr(entry, "lfs", None)) else None]))
            yield entry

    def checked_metadata(*args: Any, **options: Any) -> Any:
        try:
            found = metadata(*args, **options)
        except Exception as error:
            # A file that is missing at a commit leaves a mark below that commit's name.
            headers = getattr(getattr(error, "response", None), "headers", {})
            require_hash(*filter(None, [headers.get("X-Repo-Commit")]))
            raise
        require_hash(*filter(None, (found.commit_hash, found.etag)))
        return found

    HfApi.model_info, HfApi.list_repo_tree = checked_info, checked_tree
    file_download.get_hf_file_metadata = checked_metadata


def require_hash(*names: object) -> None:
    """Raise unless each is the hash of a commit or of a file."""
    for name in names:
        if not (isinstance(name, str) and HASH.fullmatch(name)):
            raise distrust(f"a hash {name!r:.80}")


def require_inside(name: str) -> None:
    """Raise unless a file's name stays below its folder."""
    if not name.isprintable() or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise distrust(f"a file {name!r:.80}")


def require_weights(names: Iterable[str]) -> None:
    """Raise where there is nothing to serve among the files."""
    if not any(name.endswith(".safetensors") for name in names):
        raise distrust("no weights (*.safetensors)")


def distrust(what: str) -> KnownError:
    """Make the error for an answer that no hub gives."""
    reason = f"the hub names {what}, likely because HF_ENDPOINT is not a Hugging Face hub, or a proxy changed its answer"
    return KnownError(UNFIT, f"{reason}: check both, and the model's name and revision")


def snapshot(options: Options, *, local_files_only: bool, skip: tuple[str, ...] = ()) -> Path:
    """Return the folder of the snapshot, complete as far as huggingface_hub knows, but for what is skipped."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        options.model,
        revision=options.revision,
        cache_dir=options.cache_dir / "hub",
        allow_patterns=list(WANTED),
        ignore_patterns=[*UNWANTED, *skip],
        local_files_only=local_files_only,
        # A file that is broken off by a kill starts again from nothing, so few are under way at a time.
        max_workers=4,
    )
    return Path(folder)


def download(options: Options) -> Path:
    """Download what is missing, if it fits on the disk."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(options.model, revision=options.revision, files_metadata=True, timeout=30)
    files = [file for file in info.siblings or () if wanted(file.rfilename)]
    require_weights(file.rfilename for file in files)
    for file in files:
        if file.size is None:
            raise distrust(f"no size for {file.rfilename!r:.80}")
    sizes = {file.lfs.sha256 if file.lfs else str(file.blob_id): file.size for file in files}
    blobs = options.storage / "blobs"
    drop_partials(blobs)
    missing = sum(size for name, size in sizes.items() if not (blobs / name).exists())
    require_space(options.cache_dir, missing)
    say(f"fetch: {missing / 1e9:.1f} GB of {options.model} at {options.revision} to download")
    there, stored = sum(sizes.values()) - missing, stored_bytes(blobs)
    most = stored + DISK_MARGIN * missing + SPARE_BYTES

    def arrive(*skip: str) -> Path:
        with (
            progress("fetch", there + missing, lambda: there + stored_bytes(blobs) - stored),
            at_most(most, blobs),
        ):
            folder = snapshot(options, local_files_only=False, skip=skip)
        require_sizes(folder, {file.rfilename: file.size for file in files})
        return folder

    if options.before:
        approve(options, arrive(WEIGHTS))
    return arrive()


@contextlib.contextmanager
def alone(options: Options) -> Iterator[None]:
    """Wait for another stack's fetch of this model: what it brings would count as sent without end."""
    with (options.stamp.parent / f"{options.model.replace('/', '--')}.lock").open("a") as file:
        # A file system without locks, as some networks' are, is no reason not to download.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"fetch: another stack downloads {options.model} into this cache: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def at_most(most_bytes: float, blobs: Path) -> Iterator[None]:
    """End the process where more arrives than was listed: a thread of a library cannot be ended alone."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(1):
            if stored_bytes(blobs) > most_bytes:
                for path in blobs.glob("*.incomplete"):
                    path.unlink(missing_ok=True)
                say(f"fetch: {distrust('sizes, and sends more')}", sys.stderr)
                os._exit(UNFIT)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        finished.set()


def require_sizes(folder: Path, sizes: Mapping[str, int | None]) -> None:
    """Raise where a file is not as long as the hub lists it."""
    for name, size in sizes.items():
        path = folder / name
        if size is not None and path.exists() and path.stat().st_size != size:
            raise distrust(f"{size} bytes for {name} and sent {path.stat().st_size}")


def drop_partials(blobs: Path) -> None:
    """Delete what killed downloads left: huggingface_hub 2 never takes such a file up again."""
    for path in blobs.glob("*.????????.incomplete"):
        if time.time() - path.stat().st_mtime > PARTIAL_KEPT_S:
            path.unlink(missing_ok=True)


def require_space(folder: Path, missing_bytes: int) -> None:
    """Refuse a download that would fill the disk, before its first byte."""
    needed, free = DISK_MARGIN * missing_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise KnownError(
            DISK_FULL,
            f"the download needs {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB free: "
            "free space or set HF_CACHE_DIR to a larger disk",
        )


def stored_bytes(blobs: Path) -> int:
    """Count what is on the disk; a file given its full length ahead of its content has holes."""
    total = 0
    for path in blobs.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            total += min(info.st_size, info.st_blocks * 512)
    return total


def download_or_reuse(options: Options) -> Path:
    """Return the folder of the snapshot; without the hub, of one that is already complete."""
    require_private_way()
    try:
        with known_errors(options), alone(options):
            mistrust_hub()
            return download(options)
    except KnownError as error:
        folder = complete_snapshot(options) if error.code == UNREACHABLE else None
        if folder is None:
            raise
        say("fetch: the hub is out of reach; going on with the complete snapshot in the cache")
        return folder


def complete_snapshot(options: Options) -> Path | None:
    """Return the folder of a snapshot that lacks nothing, if there is one."""
    try:
        folder = snapshot(options, local_files_only=True)
    except FileNotFoundError:
        return None
    return None if folder_fault(folder, None) else folder


def verify(folder: Path) -> dict[str, FileStamp]:
    """Hash a snapshot once against the names of its blobs, which are the hashes that the hub gave."""
    expected = {name: blob_name(folder / name) for name in wanted_files(folder)}
    require_weights(expected)
    found = examine_all(folder, expected)
    wrong = [name for name, entry in found.items() if entry.hash != expected[name]]
    for name in wrong:
        remove(folder / name)
    if wrong:
        raise KnownError(
            DAMAGED,
            f"{', '.join(wrong)} arrived with a wrong hash, likely from a faulty proxy or disk, and was "
            "deleted to be downloaded again: check both",
        )
    return found


def blob_name(path: Path) -> str:
    """Return the hash of a file in a snapshot, which is a link to its blob."""
    name = path.readlink().name if path.is_symlink() else ""
    if not HASH.fullmatch(name):
        raise KnownError(
            UNFIT,
            f"the cache keeps no hash for {path.name}, likely because somebody put it there, its file "
            "system has no symbolic links or HF_ENDPOINT sends no hashes: remove it, or change that",
        )
    return name


def remove(path: Path) -> None:
    """Delete a blob; huggingface_hub takes the dangling link that is left for a file to download."""
    path.resolve().unlink(missing_ok=True)


def known_error(error: BaseException, options: Options) -> KnownError | None:
    """Translate by status and errno what huggingface_hub raised: its classes differ between versions."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    cache, model = options.cache_dir, options.model
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return KnownError(DISK_FULL, f"{cache} is full: free space or set HF_CACHE_DIR to a larger disk")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) and file:
        reason = f"{file} cannot be written ({os.strerror(number or 0)})"
        return KnownError(NOT_WRITABLE, f"{reason}: check its mount and its owner")
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        given = "the token in HF_TOKEN_FILE was refused" if token() else "HF_TOKEN_FILE names no token"
        reason = f"the hub answers {status} for {model}: {given}, or the model is gated or misspelt"
        return KnownError(REFUSED, f"{reason}: set HF_TOKEN_FILE to the file of a token with access")
    if status == HTTPStatus.NOT_FOUND:
        return KnownError(
            NOT_FOUND, f"the hub has no {model} at revision {options.revision}: correct the name"
        )
    if (
        status
        or type(error).__module__.startswith(("httpx", "huggingface_hub"))
        or "Consistency" in str(error)
    ):
        reason = (
            f"the hub is out of reach or broke off ({f'HTTP {status}' if status else type(error).__name__})"
        )
        advice = "check HF_ENDPOINT, HTTPS_PROXY, NO_PROXY and CA_BUNDLE; complete files are kept"
        return KnownError(UNREACHABLE, f"{reason}: {advice}")
    return None


@contextlib.contextmanager
def known_errors(options: Options) -> Iterator[None]:
    """Translate what is raised inside, beginning with its deepest cause."""
    try:
        yield
    except KnownError:
        raise
    except Exception as error:
        for cause in reversed(list(causes(error))):
            if known := known_error(cause, options):
                raise known from None
        raise


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# --- fetch ---


def fetch(arguments: list[str]) -> None:
    """Make the weights ready for the serving user, and stamp them."""
    options = parse(arguments)
    os.umask(0o002)
    prepare_environment(options)
    with known_errors(options):
        prepare_folders(options)
        hand_over(options)
        try:
            (fetch_folder if options.weights else fetch_snapshot)(options)
        finally:
            hand_over(options)
    end_waits(options)


def end_waits(options: Options) -> None:
    """Let a server start that waits after failed ones: somebody ran `up`, and the weights are well by now."""
    for count in options.stack_dir.glob("starts-*"):
        count.unlink(missing_ok=True)


def parse(arguments: list[str]) -> Options:
    """Read the command line of `fetch`; after --before stands the command that must approve FOLDER, RECORD."""
    parser = argparse.ArgumentParser("fetch")
    parser.add_argument("--model", required=True)
    parser.add_argument("--revision", default="main")
    parser.add_argument("--owner", required=True, type=lambda text: tuple(map(int, text.split(":"))))
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--architecture")
    parser.add_argument("--cache-dir", type=Path, default=CACHE_DIR)
    parser.add_argument("--engine-dir", type=Path, default=ENGINE_DIR)
    parser.add_argument("--stack-dir", type=Path, default=STACK_DIR)
    # Split by hand, because argparse looks for its own options in the words of the command too.
    at = arguments.index("--before") if "--before" in arguments else len(arguments)
    options = parser.parse_args(arguments[:at], Options())
    options.before = arguments[at + 1 :]
    return options


def fetch_snapshot(options: Options) -> None:
    """Bring the snapshot into the cache and stamp it; where the stamp still holds, touch no network."""
    stamp = read_stamp(options.stamp)
    if stamp is not None and still_holds(options, stamp):
        approve(options, options.stamp.parent / stamp.folder)
    else:
        folder = download_or_reuse(options)
        approve(options, folder)
        # Before the stamp, for which a new owner is a change.
        hand_over(options)
        place = os.path.relpath(folder, options.stamp.parent)
        stamp = Stamp(options.model, options.revision, folder.name, place, verify(folder))
        write_stamp(options.stamp, stamp)
        say(f"fetch: {len(stamp.files)} files of {options.model} verified")
    link(options.stamp.parent / options.model.rpartition("/")[2], stamp.folder)


def approve(options: Options, folder: Path) -> None:
    """Run the command of --before on a folder, once; where it fails, end with its exit code, after its words."""
    if not options.before or folder == options.approved:
        return
    command = [*options.before, str(folder), str(options.record)]
    code = subprocess.run(command, check=False).returncode  # noqa: S603 - the stack's own words
    if code < 0:
        say(f"fetch: {options.before[0]} was ended by signal {-code} before the weights", sys.stderr)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)
    options.approved = folder


def still_holds(options: Options, stamp: Stamp) -> bool:
    """Tell whether the stamped files are what they were; delete those that are not."""
    folder = options.stamp.parent / stamp.folder
    if stamp.moved(folder):
        say(f"fetch: {options.revision} is another commit by now")
        return False
    if more := added(folder, stamp.files):
        say(f"fetch: {summary(more)}")
        return False
    now, wrong = recheck(folder, stamp.files)
    for name in wrong:
        remove(folder / name)
    if wrong:
        say(f"fetch: {summary(wrong)}: deleted, to be downloaded again")
        return False
    if now != stamp.files:
        write_stamp(options.stamp, stamp._replace(files=now))
    say(f"fetch: {len(now)} files of {options.model} are as verified before")
    return True


def link(path: Path, target: str) -> None:
    """Give the snapshot a name that does not change, for clients that take no revision."""
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)


def fetch_folder(options: Options) -> None:
    """Stamp a folder of the user's: no hash to compare with is known, so this start vouches for it."""
    folder = options.weights or Path()
    if fault := folder_fault(folder, options.architecture):
        raise KnownError(
            UNFIT, f"{folder} {fault}, likely from an incomplete copy: copy the model there again"
        )
    approve(options, folder)
    stamp, names = read_stamp(options.stamp), wanted_files(folder)
    known = stamp.files if stamp else {}
    kept = {name: known[name] for name in names if name in known and known[name].fits(folder / name)}
    fresh = examine_all(folder, {name: "" for name in names if name not in kept})
    if kept != known or fresh:
        stamp = Stamp(options.model, options.revision, "", str(folder), kept | fresh)
        write_stamp(options.stamp, stamp)
    say(f"fetch: {len(names)} files in {folder} stamped, {len(fresh)} of them new or changed")


# --- serve ---


def serve(arguments: list[str]) -> None:
    """Refuse weights that are not the verified ones, else become the engine."""
    path, command = Path(arguments[0]), arguments[1:]
    back_off(STACK_DIR / f"starts-{os.uname().nodename}")
    stamp = read_stamp(path)
    if stamp is None:
        raise KnownError(NOT_FETCHED, f"{path} is missing, so nobody verified the weights: `fetch` does it")
    folder = path.parent / stamp.folder
    _, wrong = recheck(folder, stamp.files)
    wrong |= added(folder, stamp.files)
    if stamp.moved(folder):
        wrong[stamp.revision] = "is another commit by now"
    if wrong:
        reason = f"{summary(wrong)}, likely from a failing disk or another writer"
        raise KnownError(DAMAGED, f"{reason}: copy a folder of your own again, `fetch` repairs a download")
    os.execvp(command[0], command)


def back_off(path: Path) -> None:
    """Count this start, and note the first; the healthcheck deletes both for an engine that became healthy."""
    starts, first = 0, datetime.now(UTC).isoformat(timespec="milliseconds")
    with contextlib.suppress(OSError, ValueError):
        count, *noted = path.read_text().split()
        starts, first = int(count), next(iter(noted), first)
    with contextlib.suppress(OSError):
        path.write_text(f"{starts + 1} {first}\n")
    if starts >= FAILED_STARTS:
        say(
            f"serve: {starts} starts in a row never became healthy, the first of them at {first}, "
            f"likely for the reason in the log above: waiting {BACK_OFF_S:.0f} s; after a repair, {AGAIN}"
        )
        end = time.monotonic() + BACK_OFF_S
        # `fetch` deletes the counts at its end.
        while path.exists() and time.monotonic() < end:
            time.sleep(0.5)


def main(mode: str = "", *arguments: str) -> int:
    """Run one mode; a known cause ends in a one-line error, anything else in a traceback."""
    try:
        {"fetch": fetch, "serve": serve}[mode](list(arguments))
    except KnownError as error:
        say(f"{mode}: {error}", sys.stderr)
        return error.code
    except Exception:
        for line in traceback.format_exc().splitlines():
            say(f"{mode}: {line}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
