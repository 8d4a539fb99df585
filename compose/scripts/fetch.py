"""Downloads the weights if they are missing, verifies each file once, and hands them to the serving user."""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent))
from common import STACK, KnownError, run, say, token
from serve import Stamp, differences, hashed, load_json, read_stamp, wanted, wanted_files, watched

CACHE = Path("/cache/hf")
ENGINE = Path("/cache/engine")
# What mkfs leaves at the top of a disk, and what huggingface_hub, its relatives and the kit leave in HF_HOME.
NOTHING = re.compile(r"lost\+found")
HF_HOME = re.compile(
    r"lost\+found|ernie|hub|xet|assets|token|stored_tokens|datasets|modules|metrics|evaluate|accelerate"
    r"|\.check_for_(skill_)?update_done|\.agent_harnesses\.json"
)
HANDED_MODE = 0o2775
# Of a commit or a small file, and of a large one.
HASH = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# Beside what the hub lists: its own notes, and files that arrive twice.
SPARE_BYTES = 64 << 20
DISK_MARGIN = 1.05
PARTIAL_KEPT_S = 600
# Exit codes, and by HTTP status and errno what ends in them: huggingface_hub's classes differ between versions.
REFUSED, NOT_FOUND, UNREACHABLE, DISK_FULL, DAMAGED, NOT_WRITABLE, UNFIT = range(20, 27)
CAUSES: dict[object, tuple[int, str]] = {
    **dict.fromkeys((401, 403), (REFUSED, "the hub refuses the model or the token")),
    404: (NOT_FOUND, "the hub has no such model or revision"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), (DISK_FULL, "the disk is full")),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), (NOT_WRITABLE, "a folder is closed")),
}
# Who gets a token over http: this host, and the one that a rehearsal names. No proxy shall read it.
PRIVATE = {"localhost", "127.0.0.1", "::1", os.environ.get("HF_TOKEN_HTTP_HOST") or "localhost"}


class Volumes:
    """What `fetch` makes fit for the serving user."""

    def __init__(self, words: list[str]) -> None:
        self.options = dict(word.removeprefix("--").split("=", 1) for word in words)
        self.uid, self.gid = map(int, self.options["owner"].split(":"))

    def require_own(self, folder: Path, variable: str, ours: "re.Pattern[str]") -> None:
        """Refuse root's folder of other things, such as /etc: its new owner could replace them."""
        if not folder.exists() or not (info := folder.stat()).st_uid == os.geteuid() == 0:
            return
        # A serving user that is root gets what looks like root's; so does whoever comes after it.
        handed = info.st_mode & 0o7777 == HANDED_MODE and info.st_gid in (0, self.gid)
        others = sorted(path.name for path in folder.iterdir() if not ours.fullmatch(path.name))
        if others and not handed:
            reason = f"{variable} names a folder of root's that holds {others[0]!r:.80}"
            raise KnownError(NOT_WRITABLE, f"{reason}, so it is not handed to the serving user")

    def prepare(self, folders: Iterable[Path], need: int) -> None:
        """Give fresh volumes (root's) to the serving user; the folder of somebody else stays theirs."""
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            if folder.stat().st_uid == os.geteuid() == 0:
                os.chown(folder, self.uid, self.gid)
                folder.chmod(HANDED_MODE)
            info = folder.stat()
            shift = 6 if info.st_uid == self.uid else 3 if info.st_gid == self.gid else 0
            if info.st_mode >> shift & need != need:
                whose = f"{folder} of user {info.st_uid} is closed to the serving user"
                raise KnownError(NOT_WRITABLE, f"{whose} {self.uid}:{self.gid}")

    def prepare_engine(self) -> None:
        """Prepare what the engine writes to."""
        os.umask(0o002)
        self.require_own(ENGINE, "ENGINE_CACHE_DIR", NOTHING)
        self.prepare((ENGINE, STACK), need=7)

    def hand_over(self, *tops: Path) -> None:
        """Give the serving user what this process, running as root, created."""
        for path in (path for top in tops if top.exists() for path in (top, *top.rglob("*"))):
            info = path.lstat()
            if info.st_uid == os.geteuid() == 0 and (info.st_uid, info.st_gid) != (self.uid, self.gid):
                os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def end_waits(self) -> None:
        """Let a server start that waits after failed ones: somebody ran `up`, and the weights are well by now."""
        for count in STACK.glob("starts-*"):
            count.unlink(missing_ok=True)


class Fetch(Volumes):
    """One revision of a model in the cache; `approve` gets its folder without weights, and a place for notes."""

    def __init__(self, words: list[str], approve: Callable[[Path, Path], None]) -> None:
        super().__init__(words)
        self.model, self.revision = self.options["model"], self.options["revision"]
        flat = self.model.replace("/", "--")
        self.hub, self.storage = CACHE / "hub", CACHE / "hub" / f"models--{flat}"
        self.stamp = CACHE / "ernie" / f"{flat}@{self.revision.replace('/', '-')}.json"
        self.lock = self.stamp.with_name(f"{flat}.lock")
        self.approve: Callable[[Path], None] = lambda folder: approve(
            folder, self.stamp.with_suffix(".code.json")
        )

    def run(self) -> None:
        """Make the weights ready and stamp them; where the stamp still holds, without the network."""
        self.require_own(CACHE, "HF_CACHE_DIR", HF_HOME)
        self.prepare_engine()
        self.prepare((CACHE, self.hub, self.stamp.parent), need=5)
        hub, xet = self.hub, CACHE / "xet"
        made = (self.stamp.parent, self.storage, xet, hub / ".locks", hub / "CACHEDIR.TAG")
        self.hand_over(*made)
        try:
            stamp = read_stamp(self.stamp)
            if stamp is None or not self.still_holds(stamp):
                folder = self.download_or_reuse()
                # Before the stamp, for which a new owner is a change.
                self.hand_over(*made)
                stamp = self.verified(folder)
            # A name that does not change, for clients that take no revision.
            fresh = self.stamp.with_name(f".{self.stamp.name}")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(stamp["folder"])
            fresh.replace(self.stamp.with_name(self.model.rpartition("/")[2]))
        finally:
            self.hand_over(*made)
        self.end_waits()

    def still_holds(self, stamp: Stamp) -> bool:
        """Whether the stamped files are what they were; those that are not are deleted."""
        files, wrong, fault = differences(self.stamp, stamp)
        folder = self.stamp.parent / stamp["folder"]
        remove(folder, wrong)
        if fault:
            say(f"fetch: {fault}{': deleted, to be downloaded again' if wrong else ''}")
            return False
        if files != stamp["files"]:
            write_stamp(self.stamp, stamp | {"files": files})
        say(f"fetch: {len(files)} files of {self.model} are as verified before")
        self.approve(folder)
        return True

    def verified(self, folder: Path) -> Stamp:
        """Hash a snapshot once against the names of its blobs, which are the hashes that the hub gave."""
        expected = {name: (folder / name).resolve().name for name in wanted_files(folder)}
        if unknown := [name for name, blob in expected.items() if not HASH.fullmatch(blob)]:
            raise KnownError(
                UNFIT, f"the cache keeps no hash for {unknown[0]}, so it did not come from a hub"
            )
        files = hashed(folder, expected)
        if wrong := [name for name, entry in files.items() if entry["hash"] != expected[name]]:
            remove(folder, wrong)
            raise KnownError(DAMAGED, f"{', '.join(wrong)} arrived with a wrong hash and was deleted")
        stamp = {"repo": self.model, "revision": self.revision, "commit": folder.name, "files": files}
        stamp |= {"folder": os.path.relpath(folder, self.stamp.parent)}
        write_stamp(self.stamp, stamp)
        say(f"fetch: {len(files)} files of {self.model} verified")
        return stamp

    def download_or_reuse(self) -> Path:
        """The folder of the snapshot; without the hub, of one that is already complete."""
        address = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
        if token() and address.scheme != "https" and address.hostname not in PRIVATE:
            reason = f"HF_ENDPOINT is {address.scheme}://{address.hostname}, where others could read the"
            raise KnownError(REFUSED, f"{reason} token in HF_TOKEN_FILE: use https, or name no token")
        try:
            with known_errors(), self.lock.open("a") as lock:
                self.wait_for(lock.fileno())
                return self.download()
        except KnownError as error:
            folder = self.complete_snapshot() if error.args[0] == UNREACHABLE else None
            if folder is None:
                raise
        say("fetch: the hub is out of reach; going on with the complete snapshot in the cache")
        self.approve(folder)
        return folder

    def wait_for(self, lock: int) -> None:
        """Wait for another stack's fetch of this model: what it brings would count as sent without end."""
        # A file system without locks, as some networks' are, is no reason not to download.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"fetch: another stack downloads {self.model} into this cache: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)

    def complete_snapshot(self) -> Path | None:
        """The folder of a snapshot that lacks no weights, if there is one."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
            ref = self.storage / "refs" / self.revision
            folder = self.storage / "snapshots" / (ref.read_text().strip() if ref.exists() else self.revision)
            index = folder / "model.safetensors.index.json"
            names = load_json(index)["weight_map"].values() if index.exists() else ["model.safetensors"]
            if all((folder / name).exists() for name in {"config.json", *names}):
                return folder
        return None

    def download(self) -> Path:
        """Download what is missing, weights last, if it fits on the disk."""
        from huggingface_hub import HfApi, hf_hub_download

        info = HfApi().model_info(self.model, revision=self.revision, files_metadata=True, timeout=30)
        files = [file for file in info.siblings or () if wanted(file.rfilename)]
        require_honest(info.sha or "", files)
        mistrust_headers(info.sha)
        blobs, folder = self.storage / "blobs", self.storage / "snapshots" / str(info.sha)
        drop_partials(blobs)
        sizes = {file.lfs.sha256 if file.lfs else str(file.blob_id): int(file.size or 0) for file in files}
        missing = sum(size for name, size in sizes.items() if not (blobs / name).exists())
        require_space(CACHE, missing)
        say(f"fetch: {missing / 1e9:.1f} GB of {self.model} at {self.revision} to download")
        total, stored = sum(sizes.values()), stored_bytes(blobs)

        def bring(file: Any) -> None:
            hf_hub_download(self.model, file.rfilename, revision=info.sha, cache_dir=self.hub)
            if (size := (folder / file.rfilename).stat().st_size) != file.size:
                raise distrust(f"{file.size} bytes for {file.rfilename} and sent {size}")

        def progress() -> int:
            now = stored_bytes(blobs)
            if now > stored + DISK_MARGIN * missing + SPARE_BYTES:
                for path in blobs.glob("*.incomplete"):
                    path.unlink(missing_ok=True)
                say(f"fetch: {distrust('sizes, and sends more').args[1]}", sys.stderr)
                # A thread of a library cannot be ended alone.
                os._exit(UNFIT)
            return total - missing + now - stored

        # A file that is broken off by a kill starts again from nothing, so few are under way at a time.
        with watched("fetch", total, progress), ThreadPoolExecutor(4) as pool:
            weights = [file for file in files if file.rfilename.endswith(".safetensors")]
            list(pool.map(bring, [file for file in files if file not in weights]))
            self.approve(folder)
            list(pool.map(bring, weights))
        if info.sha != self.revision:
            ref = self.storage / "refs" / self.revision
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(str(info.sha))
        return folder


def remove(folder: Path, names: Iterable[str]) -> None:
    """Delete blobs; huggingface_hub takes the dangling links that are left for files to download."""
    for name in names:
        (folder / name).resolve().unlink(missing_ok=True)


def write_stamp(path: Path, stamp: Stamp) -> None:
    """Replace the stamp in one step."""
    fresh = path.with_suffix(".new")
    # `serve` may write to the stack's own folder: what it left under the name is never written to.
    fresh.unlink(missing_ok=True)
    with fresh.open("x") as file:
        file.write(json.dumps(stamp, indent=1) + "\n")
    fresh.replace(path)


def drop_partials(blobs: Path) -> None:
    """Delete what killed downloads left: huggingface_hub never takes such a file up again."""
    for path in blobs.glob("*.????????.incomplete"):
        if time.time() - path.stat().st_mtime > PARTIAL_KEPT_S:
            path.unlink(missing_ok=True)


def require_space(folder: Path, missing_bytes: int) -> None:
    """Refuse a download that would fill the disk, before its first byte."""
    needed, free = DISK_MARGIN * missing_bytes / 1e9, shutil.disk_usage(folder).free / 1e9
    if free < needed:
        raise KnownError(DISK_FULL, f"the download needs {needed:.1f} GB and {folder} has {free:.1f} GB free")


def stored_bytes(blobs: Path) -> int:
    """Count what is on the disk; a file given its full length ahead of its content has holes."""
    total = 0
    for path in blobs.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            info = path.stat()
            total += min(info.st_size, info.st_blocks * 512)
    return total


# --- a hub that lies or fails ---


def require_honest(sha: str, files: Iterable[Any]) -> None:
    """Check what the hub lists, before paths are made of it."""
    require_hash(sha)
    for file in files:
        name = file.rfilename
        if not name.isprintable() or "\\" in name or {"", ".", ".."} & set(name.split("/")):
            raise distrust(f"a file {name!r:.80}")
        if file.size is None:
            raise distrust(f"no size for {name:.80}")
        require_hash(file.lfs and file.lfs.sha256)
    if not any(file.rfilename.endswith(".safetensors") for file in files):
        raise distrust("no weights (*.safetensors)")


def mistrust_headers(commit: str | None) -> None:
    """Check the commit and the hash in the headers of each file, of which huggingface_hub makes paths."""
    from huggingface_hub import file_download

    ask = file_download.get_hf_file_metadata

    def checked(*args: Any, **options: Any) -> Any:
        try:
            answer = ask(*args, **options)
        except Exception as error:
            # A file that is missing at a commit leaves a mark below that commit's name.
            require_hash(getattr(getattr(error, "response", None), "headers", {}).get("X-Repo-Commit"))
            raise
        require_hash(answer.commit_hash, answer.etag)
        if answer.commit_hash not in (None, commit):
            raise distrust(f"a file of {answer.commit_hash} at {commit}")
        return answer

    file_download.get_hf_file_metadata = checked


def require_hash(*names: str | None) -> None:
    """Raise unless each that there is can be the hash of a commit or of a file."""
    for name in names:
        if name is not None and not HASH.fullmatch(name):
            raise distrust(f"a hash {name!r:.80}")


def distrust(what: str) -> KnownError:
    """The error for an answer that no hub gives."""
    return KnownError(UNFIT, f"the hub names {what}, as no Hugging Face hub does")


@contextlib.contextmanager
def known_errors() -> Iterator[None]:
    """Give what is raised inside an exit code by the deepest of its causes that is known, and keep its words."""
    try:
        yield
    except KnownError:
        raise
    except Exception as error:
        causes: list[BaseException] = [error]
        while cause := causes[0].__cause__ or causes[0].__context__:
            causes.insert(0, cause)
        for cause in causes:
            status, module = getattr(cause, "response", None), type(cause).__module__
            status = getattr(status, "status_code", None) or getattr(cause, "errno", None)
            # OpenSSL has numbers of its own, and a firewall closes sockets: a folder has a name. Rust gives none.
            if CAUSES.get(status, (0,))[0] == NOT_WRITABLE and not getattr(cause, "filename", None):
                continue
            status = errno.ENOSPC if "No space left" in str(cause) else status
            code, line = CAUSES.get(status, (UNREACHABLE, "the hub is out of reach"))
            broken = module.startswith(("httpx", "huggingface_hub")) or "Consistency" in str(cause)
            if status in CAUSES or broken:
                raise KnownError(code, f"{line}: {type(cause).__name__}: {cause}".splitlines()[0]) from None
        raise


def prepare_environment() -> None:
    """Set what huggingface_hub reads once, on import."""
    for name, value in list(os.environ.items()):
        # Compose passes a variable that the host did not set as an empty one, an unset CA bundle as /dev/null.
        if not value or (name == "SSL_CERT_FILE" and not Path(value).is_file()):
            del os.environ[name]
    os.environ |= {"HF_HOME": str(CACHE), "HF_HUB_VERBOSITY": "error"}
    os.environ |= dict.fromkeys(("HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_SHARED_BLOBS"), "1")
    if (around := os.environ.get("NO_PROXY", "")) != "*":
        os.environ["NO_PROXY"] = ",".join([*filter(None, [around]), *sorted(PRIVATE)])


def main(words: list[str], approve: Callable[[Path, Path], None] = lambda *_: None) -> None:
    """Make the weights of a model ready for the serving user, and stamp them for `serve`."""
    prepare_environment()
    with known_errors():
        Fetch(words, approve).run()


if __name__ == "__main__":
    sys.exit(run("fetch", main))
