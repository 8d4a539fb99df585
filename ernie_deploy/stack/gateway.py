"""What the gateway of a stack is doing: its own counters, read from inside, and its log of requests."""

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.gateway import key_file, keys
from ernie_deploy.plan.gateway import FILES, shell_request
from ernie_deploy.safe_io.reading import read_bounded
from ernie_deploy.stack import containers
from ernie_deploy.stack.address import published
from ernie_deploy.stack.container_exec import run_inside
from ernie_deploy.stack.metrics import LABEL, samples

if TYPE_CHECKING:
    from docker import DockerClient

SERVICE = "gateway"
ASK_S = 5.0
FRONT, SERVERS = "front", "serve"
CLASSES = ("2xx", "4xx", "5xx")
# What a gateway refuses: no key, too much of one, no room or no server.
REFUSALS = (401, 429, 503)
RECENT_S = 300
MOST_MAP_BYTES = 16 << 20


class Requests(Struct, frozen=True, kw_only=True):
    """What the log has of some time: requests by the name of their key, and those that were refused.

    Not all of them: of an address that is refused on and on the gateway logs no more, and a long log is `cut`.
    """

    by_key: dict[str, int]
    refused: dict[int, int]
    limited_by_key: dict[str, int]
    cut: bool = False


class Counts(Struct, frozen=True, kw_only=True):
    """HAProxy's own counts since its process started, in seconds since 1970: answers by class, requests over a key's limit."""

    start_s: int
    answers: dict[str, int]
    limited: int

    def since(self, before: "Counts | None") -> "Counts":
        """What was counted after `before`; all of it where another process counted then."""
        if before is None or before.start_s != self.start_s:
            return self
        answers = {name: count - before.answers.get(name, 0) for name, count in self.answers.items()}
        return replace(self, answers=answers, limited=self.limited - before.limited)


class Gateway(Struct, frozen=True, kw_only=True):
    """A gateway at work: servers that are up of all, requests that wait, its counts, and its log of the last minutes."""

    url: str
    up: int
    servers: int
    queue: int
    counts: Counts
    recent: Requests


def inspect_gateway(
    engine: "DockerClient", states: Sequence[containers.State], url: str, since_unix_s: float | None = None
) -> Gateway | None:
    """The gateway now, and its log since then or of the last minutes; None where there is none, or it is silent."""
    state = containers.of_service(states, SERVICE)
    if state is None or state.status != "running":
        return None
    try:
        text = counters_of(engine, state)
    except OSError:
        return None
    up, count, queue = load(text)
    since = time.time() - RECENT_S if since_unix_s is None else since_unix_s
    logged = recent(engine, state, since)
    return Gateway(url=url, up=up, servers=count, queue=queue, counts=counts_in(text), recent=logged)


def as_data(seen: Gateway, before: Gateway | None = None) -> dict[str, Any]:
    """The same as plain data; of HAProxy's counts what has come since `before`, or all."""
    counts, recent = seen.counts.since(before.counts if before else None), seen.recent
    return {
        "url": seen.url,
        "servers_up": seen.up,
        "servers": seen.servers,
        "queue": seen.queue,
        "started": counts.start_s,
        "answers": counts.answers,
        "limited": counts.limited,
        "logged": {
            "refused": {str(status): count for status, count in recent.refused.items()},
            "requests_by_key": recent.by_key,
            "limited_by_key": recent.limited_by_key,
            "cut": recent.cut,
        },
    }


def counters_of(engine: "DockerClient", state: containers.State) -> str:
    """What HAProxy prints for Prometheus; raises OSError."""
    printed = run_inside(engine, state.id, asking("/metrics"), limit_s=ASK_S)
    return printed.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")


def asking(path: str) -> tuple[str, ...]:
    """The command in the gateway's container that prints its reply to a request for a path of its own port."""
    return "bash", "-c", f"{shell_request(path)}; cat <&3"


def load(text: str) -> tuple[int, int, int]:
    """Servers that are up, all servers, and requests that wait for one, from HAProxy's counters."""
    up = count = queue = 0
    for name, words, value in samples(text):
        labels = dict(LABEL.findall(words))
        if labels.get("proxy") != SERVERS:
            continue
        if name == "haproxy_server_status" and labels.get("state") == "UP":
            count += 1
            up += int(value)
        queue += int(value) if name == "haproxy_backend_current_queue" else 0
    return up, count, queue


def counts_in(text: str) -> Counts:
    """HAProxy's own counts; what it does not print is 0."""
    answers, limited, start_s = dict.fromkeys(CLASSES, 0), 0, 0
    for name, words, value in samples(text):
        labels = dict(LABEL.findall(words))
        if name == "haproxy_process_start_time_seconds":
            start_s = int(value)
        elif labels.get("proxy") != FRONT:
            continue
        elif name == "haproxy_frontend_requests_denied_total":
            limited = int(value)
        elif name == "haproxy_frontend_http_responses_total" and labels.get("code") in answers:
            answers[labels["code"]] = int(value)
    return Counts(start_s=start_s, answers=answers, limited=limited)


def recent(engine: "DockerClient", state: containers.State, since_unix_s: float) -> Requests:
    """What the gateway's log has of the time since then."""
    log = containers.log_since(engine, state.id, since_unix_s)
    return replace(requests_in(log.text.splitlines()), cut=log.cut)


def requests_in(lines: Iterable[str]) -> Requests:
    """The requests in lines of the gateway's log; what is no such line is HAProxy's own."""
    by_key, refused, limited = Counter[str](), Counter[int](), Counter[str]()
    for entry in filter(None, map(_entry, lines)):
        status, name = entry
        if name:
            by_key[name] += 1
            limited[name] += status == 429  # noqa: PLR2004 - too many requests
        if status in REFUSALS:
            refused[status] += 1
    return Requests(
        by_key=dict(sorted(by_key.items())),
        refused={status: refused[status] for status in REFUSALS},
        limited_by_key={name: count for name, count in sorted(limited.items()) if count},
    )


def _entry(line: str) -> tuple[int, str] | None:
    """Status and name of the key of one request."""
    if not line.startswith("{"):
        return None
    try:
        entry = json.loads(line)
        status, name = int(entry["status"]), str(entry.get("key") or "")
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError):
        return None
    return status, name if keys.NAME.fullmatch(name) else ""


def url_of(services: Mapping[str, Any], states: Sequence[containers.State], words: Sequence[str]) -> str:
    """Where the gateway is published; '' where there is none. `words` are those that rendered the stack."""
    state = containers.of_service(states, SERVICE) if SERVICE in services else None
    address = published(state) if state else ""
    return f"{'https' if '--tls' in words else 'http'}://{address}" if address else ""


def folder_of(services: Mapping[str, Any]) -> Path | None:
    """The folder of this host that the gateway reads; None where it is not to be seen."""
    mounts = services.get(SERVICE, {}).get("volumes") or ()
    sources = (mount["source"] for mount in mounts if mount.get("target") == FILES)
    return next(map(Path, sources), None)


def has_keys(folder: Path) -> bool | None:
    """Whether its keys.map has a key; None where it is not ours to read."""
    try:
        lines = read_bounded(folder / key_file.NAME, MOST_MAP_BYTES).decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return False
    except OSError:
        return None
    return any(line.strip() and not line.startswith("#") for line in lines)
