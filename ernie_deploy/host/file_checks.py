"""Checks of the files a stack reads from the host: token, API key, caches, weights; by owner and mode, the key by its form too."""

from collections.abc import Iterator
from shlex import quote

from ernie_deploy.host.case import CACHE_VOLUME, Case, is_path
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning

NO_FILE = "/dev/null"
READ, READ_AND_ENTER = 0o4, 0o5
OTHERS = 0o4


def token(case: Case) -> Iterator[Finding]:
    """The token file is there and private; without one the hub is asked anonymously."""
    path, stat = case.values["HF_TOKEN_FILE"], case.files.token
    if case.plan.request.weights:
        return
    if path == NO_FILE:
        yield ok("token", "No token: the ERNIE checkpoints need none.")
    elif stat is None:
        yield error(
            "token",
            f"HF_TOKEN_FILE={path} does not exist; Compose refuses to start.",
            "mend or remove it in .env",
        )
    elif stat.kind == "closed":
        yield unknown("token", f"This user may not look at {path}.", f"sudo ls -l {quote(path)}")
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


def api_key(case: Case) -> Iterator[Finding]:
    """The server can read the key: Compose mounts the file with the host's owner and mode."""
    if not case.plan.request.api_key_file:
        return
    path, stat, (uid, gid) = case.values["API_KEY_FILE"], case.files.api_key, case.owner
    if stat is None:
        yield error(
            "api-key", f"API_KEY_FILE={path} does not exist; Compose refuses to start.",
            f"write the line `api-key: YOUR-KEY` to {path}",
        )  # fmt: skip
    elif stat.kind == "closed" or case.facts.docker.other_users:
        yield unknown("api-key", f"Whether the server can read {path} could not be seen.")
    elif stat.kind != "file":
        yield error(
            "api-key", f"API_KEY_FILE={path} is not a file.", f"name one in .env, or write it to {path}"
        )
    elif not stat.size:
        yield error("api-key", f"{path} is empty.", f"write the line `api-key: YOUR-KEY` to {path}")
    elif case.files.key_fault:
        what, remedy = case.files.key_fault
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


def cache(case: Case) -> Iterator[Finding]:
    """A cache folder of the host lets the server in; root's is handed over by `fetch`."""
    path, stat, (uid, gid) = case.values["HF_CACHE_DIR"], case.files.cache, case.owner
    if case.plan.request.weights:
        return
    if not is_path(path):
        yield _volume(path)
    elif stat is None:
        yield ok("cache", f"{path} will be made, and handed to {uid}:{gid}.")
    elif stat.kind == "closed" or case.facts.docker.other_users:
        yield unknown("cache", f"Whether the server can read {path} could not be seen.")
    elif stat.kind != "folder":
        yield error("cache", f"HF_CACHE_DIR={path} is not a folder.", "name a folder in .env")
    elif stat.uid == 0:
        yield ok("cache", f"{path} belongs to root; fetch hands it to {uid}:{gid}.")
    elif stat.allows(uid, gid, READ_AND_ENTER):
        yield ok("cache", f"{path} belongs to {stat.uid}:{stat.gid}; the server, {uid}:{gid}, can read it.")
    else:
        sentence = f"{path} belongs to {stat.uid}:{stat.gid} ({stat.mode:04o}) and is closed to the server, {uid}:{gid}."
        yield error("cache", sentence, f"sudo chown {uid} {quote(path)}, or chmod o+rx {quote(path)}")


def _volume(name: str) -> Finding:
    if name == CACHE_VOLUME:
        return ok("cache", f"Weights are kept in the volume ernie-{CACHE_VOLUME}.")
    sentence = f"HF_CACHE_DIR={name} is neither a path nor the volume {CACHE_VOLUME}; Compose refuses it."
    return error("cache", sentence, f"write ./{name} in .env for a folder here")


def weights(case: Case) -> Iterator[Finding]:
    """A folder of weights is there and open to the server."""
    path, stat, (uid, gid) = case.plan.request.weights, case.files.weights, case.owner
    if not path:
        return
    if stat is None or stat.kind not in ("folder", "closed"):
        yield error(
            "weights",
            f"--weights {path} is not a folder of this host.",
            "name the folder that holds config.json",
        )
    elif stat.kind == "closed" or case.facts.docker.other_users:
        yield unknown("weights", f"Whether the server can read {path} could not be seen.")
    elif not stat.allows(uid, gid, READ_AND_ENTER):
        sentence = f"{path} belongs to {stat.uid}:{stat.gid} ({stat.mode:04o}) and is closed to the server, {uid}:{gid}."
        yield error("weights", sentence, f"chmod -R o+rX {quote(path)}")
    else:
        yield ok("weights", f"{path} is readable by the server, {uid}:{gid}.")


CHECKS = (token, api_key, cache, weights)
