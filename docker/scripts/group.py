"""Makes all nodes of a group stop and restart together: a worker's probe asks the head's beacon whether it serves."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import signal
import socket
import sys
import time
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from canary import end_container, save_state, within
from common import STACK, STARTS

# Whoever has it may ask: a line that it did not sign, with a nonce of the asker, has no meaning on either side.
SECRET = Path("/run/secrets/group_secret")
SHORTEST_SECRET = 32
# Of the head, which notes here when it was started: one that was started anew has another group.
START = STACK / "head-start"
STATE = Path(os.environ.get("TMPDIR", "/tmp"), "group.json")  # noqa: S108 - a tmpfs, which a restart clears
# The launcher leaves it when the head lets this rank in.
JOINS = STATE.with_name("joins")
HEALTH_S = 3.0
ASK_S = 8.0
MISSES = 3
MOST_BYTES = 1024
# A question is one line, sent at once; who is slower, or opens more, makes room for others.
QUESTION_S = 2.0
MOST_CONNECTIONS, MOST_OF_ONE_HOST = 256, 8
# A node that says nothing for so long is gone, and another may have its rank.
CLAIM_S = 60.0
# Exit codes, beside those of node.py.
NOT_LISTENING, NO_SECRET = 37, 38
# No HTTP statuses: nobody answers, or somebody whose answer the secret did not sign.
SILENCE, STRANGER = 0, 1
# Rank, host, start of the head that the rank serves with, nonce, signature.
QUESTION_WORDS = 5


def sign(secret: bytes, *words: str) -> str:
    """Return what only who has the secret can say of these words, none of which has a line break."""
    return hmac.new(secret, "\n".join(words).encode(), "sha256").hexdigest()


def read_secret() -> bytes:
    """Return the group's secret; empty where there is none, or none worth the name."""
    try:
        secret = SECRET.read_bytes().strip()
    except OSError:
        return b""
    return secret if len(secret) >= SHORTEST_SECRET else b""


# --- the head's beacon ---


class Claim(NamedTuple):
    """Who has a rank, and when it last said so."""

    host: str
    at: float


class Beacon:
    """Answers the workers alone, so that the API may stay on the loopback interface."""

    def __init__(self, api: str, secret: bytes) -> None:
        self.api, self.secret = api, secret
        self.claims: dict[str, Claim] = {}
        self.connections: dict[asyncio.StreamWriter, str] = {}

    async def handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one line of a connection and answer it; a stranger's gets no word."""
        peer = str((writer.get_extra_info("peername") or ("",))[0])
        self.make_room(writer, peer)
        try:
            line = await asyncio.wait_for(reader.readline(), QUESTION_S)
            if answer := await self.answer(line.decode("ascii").split(), peer):
                writer.write(answer.encode())
        except (OSError, TimeoutError, ValueError):
            pass
        finally:
            self.connections.pop(writer, None)
            writer.close()

    def make_room(self, writer: asyncio.StreamWriter, peer: str) -> None:
        """Close the oldest connection where there are too many, of this host or of all."""
        of_peer = [known for known, host in self.connections.items() if host == peer]
        oldest = of_peer[:1] if len(of_peer) >= MOST_OF_ONE_HOST else []
        if not oldest and len(self.connections) >= MOST_CONNECTIONS:
            oldest = [next(iter(self.connections))]
        for known in oldest:
            del self.connections[known]
            known.transport.abort()
        self.connections[writer] = peer

    async def answer(self, words: list[str], peer: str) -> str:
        """Return the signed answer to a signed question; empty to any other."""
        if len(words) != QUESTION_WORDS:
            return ""
        rank, host, start, nonce, signature = words
        if not hmac.compare_digest(signature, sign(self.secret, "ask", rank, host, start, nonce)):
            return ""
        status, text = await self.judge(rank, host, start, peer)
        return f"{status:d} {sign(self.secret, 'answer', nonce, f'{status:d}', text)} {text}\n"

    async def judge(self, rank: str, host: str, start: str, peer: str) -> tuple[HTTPStatus, str]:
        """Say 200 and the head's start, 403 to another host than it says, 409 to a rank that is taken, else 503."""
        if not is_same(host, peer):
            return HTTPStatus.FORBIDDEN, f"it is reached from {peer} and not from HOST_IP {host}"
        now = await asyncio.get_running_loop().run_in_executor(None, self.start_time)
        if taken := self.other_claimant(rank, host, of_this_group=bool(now) and start == now):
            return HTTPStatus.CONFLICT, f"the rank {rank} is {taken}'s"
        return (HTTPStatus.OK, now) if now else (HTTPStatus.SERVICE_UNAVAILABLE, "the head does not serve")

    def other_claimant(self, rank: str, host: str, *, of_this_group: bool) -> str:
        """Note who has the rank; return the host that had it just now, if another."""
        known = self.claims.get(rank)
        fresh = known is not None and time.monotonic() - known.at < CLAIM_S
        # Who serves with this head keeps its rank, although another asked first since the beacon started.
        if known and fresh and known.host != host and not of_this_group:
            return known.host
        self.claims[rank] = Claim(host, time.monotonic())
        return ""

    def start_time(self) -> str:
        """When the head was started, in nanoseconds since 1970; empty while it does not serve."""
        connection = HTTPConnection(self.api, timeout=HEALTH_S)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == HTTPStatus.OK:
                return START.read_text().strip()
        return ""


def is_same(host: str, peer: str) -> bool:
    """Tell whether both name one address."""
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False


async def serve(address: str, port: int, beacon: Beacon) -> None:
    """Listen until SIGTERM."""
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    async with await asyncio.start_server(
        beacon.handle_connection, address, port, limit=MOST_BYTES, backlog=MOST_CONNECTIONS
    ):
        print(f"beacon: the workers may ask at {address}:{port}", flush=True)
        await over.wait()


def beacon(address: str, port: str, api: str) -> int:
    """Answer until the container ends."""
    secret = read_secret()
    if not secret:
        print(
            "beacon: GROUP_SECRET_FILE names no secret that can be read: make one with `ernie-deploy doctor TARGET "
            "--nodes N --write-env --node-rank 0 --head ADDR`, then run `docker compose --profile head up -d`",
            file=sys.stderr,
        )
        return NO_SECRET
    try:
        asyncio.run(serve(address, int(port), Beacon(api, secret)))
    except OSError as error:
        print(
            f"beacon: {address or 'HEAD_ADDR'}:{port} cannot be listened on ({os.strerror(error.errno or 0)}), likely "
            "because HEAD_ADDR in .env is not this host's or the port is taken: correct it, then run "
            "`docker compose --profile head up -d`",
            file=sys.stderr,
        )
        return NOT_LISTENING
    return 0


# --- a worker's probe ---


class State(NamedTuple):
    """What a probe leaves to the next one: the head's start time, empty before it ever served."""

    start: str = ""
    misses: int = 0


def load_state() -> State:
    """Return what the previous probe left, if anything."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return State(*json.loads(STATE.read_text()))
    return State()


def ask(head: str, port: str, rank: str, host: str, start: str = "") -> tuple[int, str]:
    """Ask the beacon whether the head serves, and claim the rank; return its status and its line."""
    secret, nonce = read_secret(), secrets.token_hex(16)
    asked = (rank, host, start or "-", nonce)
    try:
        with (
            within(ASK_S),
            socket.create_connection((head, int(port)), source_address=(host, 0)) as connection,
        ):
            connection.sendall(" ".join([*asked, sign(secret, "ask", *asked)]).encode() + b"\n")
            line = connection.makefile("rb").readline(MOST_BYTES).decode("ascii")
    except (OSError, ValueError) as error:
        return SILENCE, f"no answer from the head ({type(error).__name__})"
    status, signature, text = (*line.rstrip("\n").split(" ", 2), "", "", "")[:3]
    if not hmac.compare_digest(signature, sign(secret, "answer", nonce, status, text)):
        return STRANGER, "no answer from the head that its secret signed"
    return int(status), text


def probe(head: str, port: str, rank: str, host: str) -> int:
    """Be healthy while the head serves; end the container where the group it belonged to is gone."""
    if not JOINS.exists():
        print("not healthy yet: this rank waits to be let in")
        return 1
    if not read_secret():
        print("unhealthy: GROUP_SECRET_FILE names no secret that can be read")
        return 1
    before = load_state()
    status, line = ask(head, port, rank, host, before.start)
    if status == HTTPStatus.OK:
        if before.start and before.start != line:
            end_container("the head was started anew, and this rank belongs to the group before", "group")
            return 1
        return report_healthy(before, line)
    misses = before.misses + 1 if before.start else 0
    save_state(STATE, State(before.start, misses))
    if misses >= MISSES:
        end_container(f"{line}, {misses} probes in a row: its group is gone", "group")
    else:
        print(f"{'unhealthy' if before.start else 'not healthy yet'}: {line}")
    return 1


def report_healthy(before: State, start: str) -> int:
    """Note the head's start; for the first time also to the launcher."""
    if not before.start:
        with contextlib.suppress(OSError):
            STARTS.unlink()
    save_state(STATE, State(start))
    print("healthy: the head serves")
    return 0


def main(mode: str, *words: str) -> int:
    """Run one mode."""
    if mode == "beacon":
        return beacon(*words)
    return probe(*words)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
