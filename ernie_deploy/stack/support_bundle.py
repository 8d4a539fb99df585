"""One archive for a ticket: text parts without secrets and prompts, written whole or not at all."""

import base64
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ernie_deploy.errors import KitError, ToolFailed, UsageError
from ernie_deploy.safe_io.reading import read_bounded
from ernie_deploy.safe_io.secret_masks import TOKEN, masked
from ernie_deploy.stack.evidence import SCRIPTS, SERVING, is_access
from ernie_deploy.stack.log_prefixes import message

OWNER_ONLY = 0o600
MOST_OF_PART_CHARACTERS = 8 << 20
# Shorter ones would be found anywhere.
SHORTEST_SECRET = 6
SECRET_FILES = (
    "HF_TOKEN_FILE",
    "API_KEY_FILE",
    "GROUP_SECRET_FILE",
    "PIP_CONFIG_FILE",
    "GRAFANA_PASSWORD_FILE",
)
SECRET_NAMES = re.compile(r"(?i)(?:^|_)(?:token|key|password|passwd|secret|credentials?)$")
SECRET_FLAGS = ("--api-key", "--hf-token")
PASSWORD = re.compile(r"//[^/@\s:]{0,200}:(?P<password>[^@\s/]{1,500})@")
# Where vLLM writes what a client sent or was sent.
PROMPTS = re.compile(
    r"(?i)^(?:Received request|Generated response|Added request)|\b(?:prompt|prompt_token_ids|messages|output|content)['\"]?: ?['\"\[{]"
)
LEFT_OUT = "(left out: a client's words)"
MANIFEST = "MANIFEST.txt"
Make = Callable[[], str]


def secrets_of(values: Mapping[str, str], folder: Path) -> set[str]:
    """What must not be in the archive: the content of the stack's secret files, and secrets among its variables."""
    known = {value for name, value in values.items() if SECRET_NAMES.search(name)}
    known |= {match["password"] for value in values.values() for match in PASSWORD.finditer(value)}
    for name in SECRET_FILES:
        known |= _in_file(folder / values[name]) if values.get(name) else set()
    return {word for word in known if len(word) >= SHORTEST_SECRET}


def in_services(services: Mapping[str, Any]) -> set[str]:
    """Secrets that a resolved file itself holds: variables of containers, and the words after --api-key."""
    known = set()
    for service in services.values():
        variables = service.get("environment") or {}
        known |= {str(value) for name, value in variables.items() if value and SECRET_NAMES.search(name)}
        words = [str(word) for word in service.get("command") or ()]
        known |= {after for word, after in pairwise(words) if word in SECRET_FLAGS}
        known |= {word.partition("=")[2] for word in words if word.partition("=")[0] in SECRET_FLAGS}
    return {word for word in known if len(word) >= SHORTEST_SECRET}


def in_secret_files(secrets: Mapping[str, Any]) -> set[str]:
    """What is in the files of a resolved file's `secrets`, which a default may name as well as .env."""
    known = {word for one in secrets.values() if one.get("file") for word in _in_file(Path(one["file"]))}
    return {word for word in known if len(word) >= SHORTEST_SECRET}


def _in_file(path: Path) -> set[str]:
    """The words of a secret's file: a line may be `api-key: KEY`; of pip's, the passwords in its URLs."""
    try:
        text = read_bounded(path).decode("utf-8", "replace")
    except OSError:
        return set()
    passwords = {match["password"] for match in PASSWORD.finditer(text)}
    if passwords or "://" in text:
        return passwords
    words = {word.strip("\"'[],") for word in text.split()}
    return {word for word in words if word and not word.endswith(":")}


def collect(parts: Mapping[str, Make], secrets: Iterable[str]) -> dict[str, str]:
    """Each part as a text without secrets, and a list of all that says why one is missing."""
    known, texts, lines = sorted(secrets), dict[str, str](), list[str]()
    for name, make in parts.items():
        try:
            texts[name] = masked(make()[-MOST_OF_PART_CHARACTERS:], known)
            lines.append(f"{name}: {len(texts[name].encode())} bytes")
        except (KitError, OSError, ValueError) as fault:
            lines.append(f"{name}: missing: {masked(' '.join(str(fault).split()), known)[:400]}")
    texts[MANIFEST] = "\n".join(
        [*lines, "Secrets are blanked out as ***, and what clients wrote is left out.", ""]
    )
    return texts


def write(path: Path, texts: Mapping[str, str], secrets: Iterable[str], *, force: bool = False) -> None:
    """Write the archive; raises `ToolFailed` where a secret is in a part, and `UsageError` where it cannot be written."""
    refuse_secrets(texts, secrets)
    data = archive(texts, path.name.removesuffix(".tar.gz") or "support")
    spare = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    if path.exists() and not force:
        raise UsageError(
            f"{path} exists and was not overwritten.",
            next_step="choose another name with -o, or repeat it with --force",
        )
    try:
        handle = os.open(spare, os.O_CREAT | os.O_EXCL | os.O_WRONLY, OWNER_ONLY)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        spare.replace(path)
    except OSError as fault:
        spare.unlink(missing_ok=True)
        raise UsageError(
            f"{path} could not be written: {fault.strerror}.",
            next_step=f"check it with: ls -ld {path.parent}",
        ) from fault


def refuse_secrets(texts: Mapping[str, str], secrets: Iterable[str]) -> None:
    """Raise `ToolFailed` with the names of the parts in which a secret stands, in any of its forms."""
    if leaks := secret_parts(texts, secrets):
        raise ToolFailed(
            f"Nothing was written: a secret stands in {', '.join(leaks)}.",
            cause="the bundle is searched for the stack's own secrets before it is written",
            next_step="report this as a fault of the kit, without the part that is named",
        )


def secret_parts(texts: Mapping[str, str], secrets: Iterable[str]) -> list[str]:
    """The names of the texts in which a secret stands, in any of its forms, or what looks like a token."""
    forms = {form for secret in secrets for form in _forms(secret)}
    return sorted(
        name for name, text in texts.items() if TOKEN.search(text) or any(form in text for form in forms)
    )


def _forms(secret: str) -> set[str]:
    """A secret as it is, as in a URL, and in base64 of its own."""
    return {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}


def archive(texts: Mapping[str, str], folder: str) -> bytes:
    """The texts as files of one folder; the same texts give the same bytes."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, text in sorted(texts.items()):
            data = text.encode("utf-8", "replace")
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    import gzip

    return gzip.compress(raw.getvalue(), mtime=0)


def without_prompts(log: str) -> str:
    """A container's log without what its clients wrote: their lines, and vLLM's lines that quote them."""
    kept, serves = [], False
    for line in log.splitlines():
        one = message(line)
        own = one.engine or line.startswith(SCRIPTS)
        if is_access(line):
            kept.append(re.sub(r"\?[^ \"]{0,2000}", "?...", line))
        elif (serves and not own) or PROMPTS.search(one.text):
            if kept[-1:] != [LEFT_OUT]:
                kept.append(LEFT_OUT)
        else:
            kept.append(line)
        serves = serves or one.text.endswith(SERVING)
    return "\n".join(kept)
