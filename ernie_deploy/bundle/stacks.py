"""A stack as it goes to another site: its files without secrets, and what they mean there."""

import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from ernie_deploy.bundle.images import name_of
from ernie_deploy.bundle.manifest import is_name
from ernie_deploy.bundle.settings import carried
from ernie_deploy.bundle.weights import CACHE, PACKAGES
from ernie_deploy.errors import Refused, ToolFailed, UsageError
from ernie_deploy.host.examine import read_env
from ernie_deploy.host.settings import decided
from ernie_deploy.plan.gateway import FILES
from ernie_deploy.safe_io.reading import MIB, read_bounded
from ernie_deploy.stack.compose import Stack, ask
from ernie_deploy.stack.lifecycle import resolve
from ernie_deploy.stack.support_bundle import SECRET_FILES, in_services, secret_parts, secrets_of

# Beside the compose files; the lock says which images and commits they are.
BESIDE = ("ernie.lock", "README.md")
OVERRIDE = "bundle.yml"
DEFAULTS = (
    ["compose.yml"],
    ["compose.yml", "compose.override.yml"],
    ["compose.yaml"],
    ["docker-compose.yml"],
)
MOST_BYTES = 16 * MIB
# What Compose itself needs to run; nothing else of this shell is so on the other side.
KEPT_OF_SHELL = ("PATH", "HOME", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG")
# Weights have parts of their own; a gateway's keys and its certificate's stay here.
STORES = (CACHE, PACKAGES, "/cache/engine", "/stack", FILES)


class Packed(Struct, frozen=True, kw_only=True):
    """One stack: the files of its folder there, and the project as Compose resolves it here and there."""

    stack: Stack
    name: str
    texts: dict[str, bytes]
    here: dict[str, Any]
    there: dict[str, Any]
    left_out: tuple[str, ...]

    def images(self) -> list[str]:
        """The references of all its images, each once."""
        return list(dict.fromkeys(_images(self.here["services"]).values()))

    def fetch(self) -> dict[str, Any]:
        """Its service that brings the weights; empty where it has none."""
        service: dict[str, Any] = self.here["services"].get("fetch") or {}
        return service

    def fetching(self) -> list[str]:
        """The command that runs it alone."""
        return self.stack.words("run", "--rm", "--no-TTY", "fetch")

    def secrets(self) -> list[tuple[str, str]]:
        """The secrets that somebody has to put there: name and file, seen from the stack's folder."""
        declared = self.there.get("secrets") or {}
        files = {name: str(secret.get("file") or "") for name, secret in declared.items()}
        return [
            (name, file.removeprefix("./"))
            for name, file in sorted(files.items())
            if file not in ("", os.devnull)
        ]


def pack(stack: Stack) -> Packed:
    """Everything of a stack but its images and weights; raises `UsageError`, `Refused` where a secret is in a file."""
    here, folder = resolve(stack), stack.files[0].parent
    text = read_env(stack.env_file or folder / ".env")
    env, left = carried(text)
    texts = _files(stack, here)
    names = [file.name for file in stack.files]
    if override := _override(here["services"]):
        texts[OVERRIDE] = override.encode()
        names.append(OVERRIDE)
    if names not in DEFAULTS:
        env = f"COMPOSE_FILE={':'.join(names)}\n{env}"
    texts[".env"] = env.encode()
    _refuse_secrets(here["name"], texts, _secrets(text, folder) | in_services(here["services"]))
    _refuse_names(here["name"], texts)
    return Packed(
        stack=stack,
        name=here["name"],
        texts=texts,
        here=here,
        there=_resolved_there(here["name"], texts),
        left_out=tuple(left),
    )


def _files(stack: Stack, here: Mapping[str, Any]) -> dict[str, bytes]:
    """The compose files, what lies beside them, and what they mount from their own folder."""
    folder = stack.files[0].parent
    texts = {file.name: _read(file) for file in stack.files}
    if len(texts) < len(stack.files):
        raise UsageError("Two compose files of the stack have the same name.", next_step="rename one of them")
    sibling_files = [folder / name for name in BESIDE if (folder / name).is_file()]
    for path in [*sibling_files, *_mounted(here, folder.resolve())]:
        texts.setdefault(str(path.resolve().relative_to(folder.resolve())), _read(path))
    return texts


def _mounted(here: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """The files of the stack's own folder that its containers read, such as its scripts."""
    sources = [
        Path(mount["source"])
        for service in here["services"].values()
        for mount in service.get("volumes") or ()
        if mount["type"] == "bind" and mount.get("read_only") and mount["target"] not in STORES
    ]
    sources += [Path(config["file"]) for config in (here.get("configs") or {}).values() if config.get("file")]
    for source in dict.fromkeys(sources):
        if source.resolve().is_relative_to(folder) and source.resolve() != folder:
            inside = sorted(source.rglob("*")) if source.is_dir() else [source]
            yield from (path for path in inside if path.is_file() and "__pycache__" not in path.parts)


def _read(path: Path) -> bytes:
    try:
        return read_bounded(path, MOST_BYTES)
    except OSError as fault:
        raise UsageError(
            f"{path} cannot be read: {fault.strerror}.", next_step=f"check it with: ls -ld {path}"
        ) from fault


def _images(services: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(service["image"]) for name, service in services.items() if service.get("image")}


def _override(services: Mapping[str, Any]) -> str:
    """Names in place of digests, which no `docker load` brings back; empty where none is needed."""
    lines = [
        f'  {json.dumps(service)}: {{image: "{name_of(image)}", pull_policy: never}}'
        for service, image in _images(services).items()
        if name_of(image) != image
    ]
    head = (
        "# By ernie-deploy bundle: the images of the lock, by the names that load.sh gives them.\nservices:\n"
    )
    return head + "\n".join(lines) + "\n" if lines else ""


def _secrets(env: str, folder: Path) -> set[str]:
    named = {name: os.environ[name] for name in SECRET_FILES if os.environ.get(name)}
    return secrets_of(decided(env, named), folder)


def _refuse_secrets(stack: str, texts: Mapping[str, bytes], secrets: Iterable[str]) -> None:
    """Raise `Refused` with the names of the files in which a secret stands."""
    words = {name: data.decode("utf-8", "replace") for name, data in texts.items()}
    if leaks := secret_parts(words, secrets):
        raise Refused(
            f"Nothing was bundled: a secret stands in {', '.join(leaks)} of {stack}.",
            cause="a bundle passes through many hands, so it must hold no token, key or password",
            next_step="move the secret into a file that HF_TOKEN_FILE or API_KEY_FILE names in .env",
        )


def _refuse_names(stack: str, texts: Iterable[str]) -> None:
    if odd := [name for name in texts if not is_name(name)]:
        raise UsageError(
            f"{odd[0]!r:.120} of {stack} cannot be the name of a file in a bundle.",
            cause="it has characters besides letters, digits and . _ + @ -",
            next_step="rename it",
        )


def _resolved_there(name: str, texts: Mapping[str, bytes]) -> dict[str, Any]:
    """The stack as Compose resolves it in a folder that has these files alone, with nothing of this shell."""
    shell = {word: os.environ[word] for word in KEPT_OF_SHELL if word in os.environ}
    with tempfile.TemporaryDirectory(prefix="ernie-bundle-") as top:
        folder = Path(top) / name
        for at, data in texts.items():
            (folder / at).parent.mkdir(parents=True, exist_ok=True)
            (folder / at).write_bytes(data)
        words = ["docker", "compose", "--profile", "*", "config", "--format", "json"]
        done = ask(words, cwd=str(folder), env=shell)
    if done.returncode:
        raise ToolFailed(
            f"{name} would not start on the other side: Compose refuses it without this host's settings.",
            cause=re.sub(r"\s+", " ", done.stderr)[-300:],
            next_step="set the variable in .env to a value that works there too",
        )
    # Compose makes every path absolute; those below the stack's own folder are its own there too.
    resolved: dict[str, Any] = json.loads(done.stdout.replace(str(folder), "."))
    return resolved
