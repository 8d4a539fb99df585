"""Keeps nodes alive and dead together: the head's beacon tells whether it serves, a worker's probe asks it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

START = Path("/stack/head-start")
STATE = Path(os.environ.get("TMPDIR", "/tmp"), "group.json")  # noqa: S108 - a tmpfs, which a restart clears
# The launcher leaves it when the head lets this rank in.
JOINS = STATE.with_name("joins")
# The launcher counts here the starts that never became healthy.
STARTS = Path("/stack", f"starts-{os.uname().nodename}")
HEALTH_S = 3.0
PROBE_S = 8.0
MISSES = 3
MOST_BYTES = 1024
# A node that says nothing for so long is gone, and another may have its rank.
CLAIM_S = 60.0
# Exit code, beside those of node.py.
NOT_LISTENING = 37
ENGINES = {b"vllm", b"ray"}


# --- the head's beacon ---


class Beacon(ThreadingHTTPServer):
    """Answers the workers alone, so that the API may stay on the loopback interface."""

    daemon_threads = True

    def __init__(self, address: str, port: int, api: str) -> None:
        self.api = api
        self.claims: dict[str, tuple[str, float]] = {}
        self.address_family = socket.getaddrinfo(address, port)[0][0]
        super().__init__((address, port), Answer)

    def other_claimant(self, rank: str, host: str) -> str:
        """Note who has the rank; return the host that had it just now, if another."""
        known, seen = self.claims.get(rank, ("", 0.0))
        if known not in ("", host) and time.monotonic() - seen < CLAIM_S:
            return known
        self.claims[rank] = (host, time.monotonic())
        return ""

    def start_time(self) -> str:
        """When the head was started, in nanoseconds since 1970; empty while it does not serve."""
        connection = HTTPConnection(self.api, timeout=HEALTH_S)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == HTTPStatus.OK:
                return START.read_text().strip()
        return ""


class Answer(BaseHTTPRequestHandler):
    """One line a request."""

    timeout = PROBE_S
    server: Beacon

    def do_GET(self) -> None:
        """Answer 200 with the head's start time, 503 while it does not serve, 409 to a rank that is taken."""
        asked = parse_qs(urlsplit(self.path).query)
        rank, host = (asked.get(name, [""])[0] for name in ("rank", "host"))
        if taken := self.is_rank(rank) and self.server.other_claimant(rank, host):
            self.reply(HTTPStatus.CONFLICT, f"the rank {rank} is {taken}'s")
        elif start := self.server.start_time():
            self.reply(HTTPStatus.OK, start)
        else:
            self.reply(HTTPStatus.SERVICE_UNAVAILABLE, "the head does not serve")

    def is_rank(self, word: str) -> bool:
        """Tell a rank from what somebody else may ask; few enough that nobody can fill the memory."""
        return word.isascii() and word.isdigit() and len(word) <= len("1024")

    def reply(self, status: HTTPStatus, line: str) -> None:
        """Send one line of text."""
        body = f"{line}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet: each worker asks every ten seconds."""


def beacon(address: str, port: str, api: str) -> int:
    """Answer until the container ends."""
    try:
        server = Beacon(address, int(port), api)
    except OSError as error:
        print(
            f"beacon: {address or 'HEAD_ADDR'}:{port} cannot be listened on ({error.strerror}), likely because "
            "HEAD_ADDR in .env is not this host's or the port is taken: correct it, then run "
            "`docker compose --profile head up -d`",
            file=sys.stderr,
        )
        return NOT_LISTENING
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"beacon: the workers may ask at {address}:{port}", flush=True)
    server.serve_forever()
    return 0


# --- a worker's probe ---


class State(NamedTuple):
    """What a probe leaves to the next one: the head's start time, empty before it ever served."""

    start: str = ""
    misses: int = 0


def load_state() -> State:
    """Return what the previous probe left, if anything."""
    try:
        start, misses = json.loads(STATE.read_text())
        return State(str(start), int(misses))
    except (OSError, ValueError, TypeError):
        return State()


def save_state(state: State) -> None:
    """Replace the state in one step; without it the next probe is as the first."""
    with contextlib.suppress(OSError):
        fresh = STATE.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(STATE)


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError at the limit, however slowly somebody answers."""

    def expire(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def plain(content: bytes) -> str:
    """Return a stranger's line without what would steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in content.decode("ascii", "replace").strip())


def ask(head: str, port: str, rank: str, host: str) -> tuple[int, str]:
    """Ask the beacon; return its status (0: silence) and its line."""
    try:
        with within(PROBE_S), contextlib.closing(HTTPConnection(head, int(port))) as connection:
            connection.request("GET", f"/?rank={rank}&host={host}")
            answer = connection.getresponse()
            return answer.status, plain(answer.read(MOST_BYTES))
    except (OSError, HTTPException, ValueError) as error:
        return 0, f"no answer from the head ({type(error).__name__})"


def probe(head: str, port: str, rank: str, host: str) -> int:
    """Be healthy while the head serves; end the container where the group it belonged to is gone."""
    if not JOINS.exists():
        print("not healthy yet: this rank waits to be let in")
        return 1
    before, (status, line) = load_state(), ask(head, port, rank, host)
    if status == HTTPStatus.OK:
        if before.start and before.start != line:
            return end_container("the head was started anew, and this rank belongs to the group before")
        return report_healthy(before, line)
    misses = before.misses + 1 if before.start else 0
    save_state(State(before.start, misses))
    if misses >= MISSES:
        return end_container(f"{line}, {misses} probes in a row: its group is gone")
    print(f"{'unhealthy' if before.start else 'not healthy yet'}: {line}")
    return 1


def report_healthy(before: State, start: str) -> int:
    """Note the head's start; for the first time also to the launcher."""
    if not before.start:
        with contextlib.suppress(OSError):
            STARTS.unlink()
    save_state(State(start))
    print("healthy: the head serves")
    return 0


def end_container(reason: str) -> int:
    """Kill every process but PID 1, whose end the restart policy answers."""
    print(f"unhealthy: {reason}", flush=True)
    if not ENGINES & set(Path("/proc/1/cmdline").read_bytes().split(b"\0")):
        print("PID 1 did not start vllm or ray, so this is not its container: nothing is killed")
        return 1
    with contextlib.suppress(OSError), within(1.0):
        Path("/proc/1/fd/2").write_text(f"group: {reason}: every process is killed for a new start\n")
    os.kill(-1, signal.SIGKILL)
    return 1


def main(mode: str, *words: str) -> int:
    """Run one mode."""
    if mode == "beacon":
        return beacon(*words)
    return probe(*words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
