"""Checks of the files a stack reads from the host: token, API key, caches, weights; by owner and mode, the key by its form too."""

import re
from collections.abc import Iterator
from shlex import quote

from ernie_deploy.host.examination import CACHE_VOLUME, Examination, is_path
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.probes import Stat

NO_FILE = "/dev/null"
READ, READ_AND_ENTER = 0o4, 0o5
WRITE_TOO = 0o7
OTHERS = 0o4
# As in docker/scripts/fetch.py: what does not hinder it from handing a folder of root's over.
LOST_AND_FOUND = "lost+found"
HF_HOME = re.compile(
    r"lost\+found|ernie|hub|xet|assets|token|stored_tokens|datasets|modules|metrics|evaluate|accelerate"
    r"|\.check_for_(skill_)?update_done|\.agent_harnesses\.json"
)
HANDED_MODE = 0o2775
# By variable: the name of its check, what the server needs there, and the word for it.
FOLDERS = {
    "HF_CACHE_DIR": ("cache", READ_AND_ENTER, "read"),
    "ENGINE_CACHE_DIR": ("engine-cache", WRITE_TOO, "write to"),
}


def token(examination: Examination) -> Iterator[Finding]:
    """The token file is there and private; without one the hub is asked anonymously."""
    path, stat = examination.values["HF_TOKEN_FILE"], examination.files.token
    if examination.plan.request.weights:
        return
    if path == NO_FILE:
        yield ok("token", "No token: the ERNIE checkpoints need none.")
    elif stat is None:
        yield error(
            "token",
            f"HF_TOKEN_FILE={path} does not exist; Compose refuses to start.",
            "correct the path in .env, or remove the line",
        )
    elif stat.kind == "closed":
        yield unknown("token", f"This user has no access to {path}.", f"sudo ls -l {quote(path)}")
    elif stat.kind == "folder":
        yield error("token", f"HF_TOKEN_FILE={path} is a folder.", "remove it and write the token to a file")
    elif not stat.size:
        yield ok("token", f"{path} is empty: the hub is asked anonymously.")
    elif stat.mode & OTHERS:
        yield warning(
            "token", f"Everybody on this host can read {path} ({stat.mode:04o}).", f"chmod 600 {quote(path)}"
        )
    else:
        yield ok("token", f"{path} is private ({stat.mode:04o}).")


def api_key(examination: Examination) -> Iterator[Finding]:
    """The server can read the key: Compose mounts the file with the host's owner and mode."""
    if not examination.plan.request.api_key_file:
        return
    path, stat, (uid, gid) = examination.values["API_KEY_FILE"], examination.files.api_key, examination.owner
    if stat is None:
        yield error(
            "api-key", f"API_KEY_FILE={path} does not exist; Compose refuses to start.",
            f"write the line `api-key: YOUR-KEY` to {path}",
        )  # fmt: skip
    elif stat.kind == "closed" or examination.facts.docker.other_users:
        yield unknown("api-key", f"Whether the server can read {path} could not be seen.")
    elif stat.kind != "file":
        yield error(
            "api-key", f"API_KEY_FILE={path} is not a file.", f"name one in .env, or write it to {path}"
        )
    elif not stat.size:
        yield error("api-key", f"{path} is empty.", f"write the line `api-key: YOUR-KEY` to {path}")
    elif examination.files.key_fault:
        what, remedy = examination.files.key_fault
        yield error("api-key", f"{path} {what}.", remedy)
    elif not stat.allows(uid, gid, READ):
        yield error(
            "api-key",
            f"{path} belongs to {stat.uid}:{stat.gid} ({stat.mode:04o}); the server, {uid}:{gid}, may not read it.",
            f"sudo chown {uid} {quote(path)} && sudo chmod 400 {quote(path)}",
        )
    elif stat.mode & OTHERS:
        remedy = f"sudo chown {uid} {quote(path)} && sudo chmod 400 {quote(path)}"
        yield warning("api-key", f"Everybody on this host can read {path} ({stat.mode:04o}).", remedy)
    else:
        yield ok("api-key", f"{path} is readable by the server, {uid}:{gid}.")


def cache(examination: Examination) -> Iterator[Finding]:
    """A cache folder of the host lets the server in; a fresh one of root's is handed over by `fetch`."""
    path = examination.values["HF_CACHE_DIR"]
    if examination.plan.request.weights:
        return
    if not is_path(path):
        yield _volume(path)
    else:
        others = [name for name in examination.files.cache_names if not HF_HOME.fullmatch(name)]
        yield _folder(examination, "HF_CACHE_DIR", examination.files.cache, others)


def engine_cache(examination: Examination) -> Iterator[Finding]:
    """The same for a folder of compiled kernels, in which the server also writes."""
    if is_path(examination.values["ENGINE_CACHE_DIR"]):
        others = [name for name in examination.files.engine_cache_names if name != LOST_AND_FOUND]
        yield _folder(examination, "ENGINE_CACHE_DIR", examination.files.engine_cache, others)


def _folder(examination: Examination, variable: str, stat: Stat | None, others: list[str]) -> Finding:
    """Judge a folder as docker/scripts/fetch.py does before it hands one over."""
    path, (uid, gid) = examination.values[variable], examination.owner
    name, need, verb = FOLDERS[variable]
    if stat is None:
        return ok(name, f"{path} will be made, and handed to {uid}:{gid}.")
    if stat.kind == "closed" or examination.facts.docker.other_users:
        return unknown(name, f"Whether the server can {verb} {path} could not be seen.")
    if stat.kind != "folder":
        return error(name, f"{variable}={path} is not a folder.", "name a folder in .env")
    if stat.uid == 0:
        return _folder_of_root(examination, variable, stat, others)
    owner = f"{path} belongs to {stat.uid}:{stat.gid}"
    if stat.allows(uid, gid, need):
        return ok(name, f"{owner}; the server, {uid}:{gid}, can {verb} it.")
    sentence = f"{owner} ({stat.mode:04o}) and is closed to the server, {uid}:{gid}."
    opened = f", or chmod o+rx {quote(path)}" if need == READ_AND_ENTER else ""
    return error(name, sentence, f"sudo chown {uid} {quote(path)}{opened}")


def _folder_of_root(examination: Examination, variable: str, stat: Stat, others: list[str]) -> Finding:
    name, path, (uid, gid) = FOLDERS[variable][0], examination.values[variable], examination.owner
    handed = stat.mode == HANDED_MODE and stat.gid in (0, gid)
    if not others or handed:
        return ok(name, f"{path} belongs to root; fetch hands it to {uid}:{gid}.")
    return error(
        name,
        f"{variable}={path} belongs to root and holds {min(others)}, which the kit did not create: fetch refuses it.",
        f"name an empty folder in .env, such as {path.rstrip('/')}/ernie-{name}",
    )


def _volume(name: str) -> Finding:
    if name == CACHE_VOLUME:
        return ok("cache", f"Weights are kept in the volume ernie-{CACHE_VOLUME}.")
    sentence = f"HF_CACHE_DIR={name} is neither a path nor the volume {CACHE_VOLUME}; Compose refuses it."
    return error("cache", sentence, f"write ./{name} in .env for a folder here")


def weights(examination: Examination) -> Iterator[Finding]:
    """A folder of weights is there and open to the server."""
    path, stat, (uid, gid) = examination.plan.request.weights, examination.files.weights, examination.owner
    if not path:
        return
    if stat is None or stat.kind not in ("folder", "closed"):
        yield error(
            "weights",
            f"--weights {path} is not a folder of this host.",
            "name the folder that holds config.json",
        )
    elif stat.kind == "closed" or examination.facts.docker.other_users:
        yield unknown("weights", f"Whether the server can read {path} could not be seen.")
    elif not stat.allows(uid, gid, READ_AND_ENTER):
        sentence = f"{path} belongs to {stat.uid}:{stat.gid} ({stat.mode:04o}) and is closed to the server, {uid}:{gid}."
        yield error("weights", sentence, f"chmod -R o+rX {quote(path)}")
    else:
        yield ok("weights", f"{path} is readable by the server, {uid}:{gid}.")


CHECKS = (token, api_key, cache, engine_cache, weights)
