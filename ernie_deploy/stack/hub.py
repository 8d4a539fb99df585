"""Asks a Hugging Face hub for the commit of a revision and the digests of its files, and mistrusts the answer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from msgspec import Struct

from ernie_deploy.errors import ToolFailed, UsageError
from ernie_deploy.plan.lock import LockedFile, is_file_name
from ernie_deploy.plan.references import COMMIT, FILE_DIGEST
from ernie_deploy.safe_io import http_client

HUGGING_FACE = "https://huggingface.co"
LIMIT_S = 10.0
MOST_BYTES = 8 << 20
NOT_FOUND = 404
# Who may be given a token over http: nobody else can read it there. As docker/scripts/fetch.py has it.
PRIVATE = ("localhost", "127.0.0.1", "::1")
MOST_FILE_BYTES = 1 << 50


class NotThere(ToolFailed):
    """The hub knows no such model, or no such revision of it."""


class Seen(Struct, frozen=True):
    """One revision as the hub has it now."""

    commit: str
    files: dict[str, LockedFile]


class Hub(Struct, frozen=True, kw_only=True):
    """A hub's address, and the token for it."""

    endpoint: str = HUGGING_FACE
    token: str = ""

    def revision_info(self, hf_id: str, revision: str) -> Seen:
        """A revision and its files; raises `NotThere`, or `ToolFailed` for a hub that does not answer or lies."""
        url = f"{self.endpoint.rstrip('/')}/api/models/{quote(hf_id)}/revision/{quote(revision, safe='')}?blobs=true"
        try:
            answer = http_client.ask_json(url, key=self.token, limit_s=LIMIT_S, most_bytes=MOST_BYTES)
        except (OSError, ValueError) as fault:
            raise _failure(f"{hf_id} at {revision}", self.endpoint, fault) from fault
        return _believed(answer, hf_id)


def hub_of(values: Mapping[str, str], folder: Path) -> Hub:
    """The hub of a stack's variables, as its `fetch` would ask it; raises `UsageError` for a token that others could read."""
    endpoint, token = values.get("HF_ENDPOINT") or HUGGING_FACE, ""
    if named := values.get("HF_TOKEN_FILE"):
        token = _token(folder / named)
    address = urlsplit(endpoint)
    if token and address.scheme != "https" and address.hostname not in PRIVATE:
        raise UsageError(
            f"HF_ENDPOINT is {address.scheme}://{address.hostname}, where others could read the token in HF_TOKEN_FILE.",
            next_step="use https, or name no token",
        )
    return Hub(endpoint=endpoint, token=token)


def _token(path: Path) -> str:
    from ernie_deploy.safe_io.reading import read_bounded

    try:
        return read_bounded(path).decode().strip()
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(
            f"HF_TOKEN_FILE={path} cannot be read: {getattr(fault, 'strerror', None) or 'it is no text'}.",
            next_step="correct it in .env, or leave it out: the ERNIE checkpoints need no token",
        ) from fault


def _failure(what: str, endpoint: str, fault: Exception) -> ToolFailed:
    status = getattr(fault, "code", None)
    host = urlsplit(endpoint).hostname
    if status == NOT_FOUND:
        return NotThere(
            f"The hub {host} has no {what}.", cause="HTTP 404", next_step="check the name and the revision"
        )
    if status in (401, 403):
        return ToolFailed(
            f"The hub {host} refuses {what}.",
            cause=f"HTTP {status}: access to the model was refused",
            next_step="name a token that may read it: HF_TOKEN_FILE in .env",
        )
    return ToolFailed(
        f"The hub {host} does not answer for {what}.",
        cause=str(fault)[:200],
        next_step="check the network, or name a mirror: HF_ENDPOINT in .env",
    )


def _believed(answer: Any, hf_id: str) -> Seen:
    """The answer once nothing in it is what no hub says: names become lines of a lock, and of commands."""
    try:
        commit, files = answer["sha"], dict(map(_file, answer["siblings"]))
    except (LookupError, TypeError, ValueError, AttributeError) as fault:
        raise _distrust(hf_id, str(fault)) from fault
    if not isinstance(commit, str) or not COMMIT.fullmatch(commit):
        raise _distrust(hf_id, f"a commit {commit!r:.80}")
    if not any(name.endswith(".safetensors") for name in files):
        raise _distrust(hf_id, "no weights (*.safetensors)")
    return Seen(commit=commit, files=files)


def _file(entry: Any) -> tuple[str, LockedFile]:
    """A file of the listing; raises ValueError, LookupError or TypeError."""
    name, size, large = entry["rfilename"], entry["size"], entry.get("lfs")
    if not isinstance(name, str) or not is_file_name(name):
        raise ValueError(f"a file {name!r:.80}")
    if type(size) is not int or not 0 <= size < MOST_FILE_BYTES:
        raise ValueError(f"a size {size!r:.40} for {name:.80}")
    digest = f"sha256:{large['sha256']}" if large else f"git:{entry['blobId']}"
    if not FILE_DIGEST.fullmatch(digest):
        raise ValueError(f"a hash {digest!r:.90} for {name:.80}")
    return name, LockedFile(size, digest)


def _distrust(hf_id: str, what: str) -> ToolFailed:
    return ToolFailed(
        f"What the hub says of {hf_id} is not believed: it names {what}, as no Hugging Face hub does.",
        next_step="check HF_ENDPOINT",
    )
