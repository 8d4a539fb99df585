"""The gateway of a plan as a process of its own on free ports, before the fake vLLM of recording.py; and its raw client."""

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway import haproxy
from gateway.haproxy import Running
from gateway.recording import FakeUpstream

COMPLETIONS = "/v1/completions"
# What a test need not wait for. Each must stand in the configuration.
QUICK = {
    "timeout http-request 10s": "timeout http-request 1s",
    "timeout client 60s": "timeout client 2s",
    "wait-for-body time 30s": "wait-for-body time 1s",
    "inter 1s fall": "inter 100ms fall",
}
# What an H100 computes at once.
SEQUENCES = 1024


def key(name: str) -> str:
    """The key of that name, of the shape that `key add` makes."""
    return "ek_" + (name * 43)[:43]


def request(
    body: bytes | Mapping[str, Any] = b"{}", *, path: str = COMPLETIONS, by: str | None = "alice",
    method: str = "POST", headers: bytes = b"",
) -> bytes:  # fmt: skip
    """A plain request of that key's owner."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    bearer = f"Authorization: Bearer {key(by)}\r\n" if by else ""
    head = f"{method} {path} HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n{bearer}Content-Length: {len(data)}\r\n"
    return head.encode() + headers + b"\r\n" + data


@dataclass
class Answer:
    """What came back until `ended`: closed, reset, or silent."""

    raw: bytes
    ended: str
    after_s: float

    @property
    def status(self) -> int:
        """Of the last answer; 0 if there was none."""
        return self.statuses[-1] if self.statuses else 0

    @property
    def statuses(self) -> list[int]:
        return [int(code) for code in re.findall(rb"^HTTP/1\.[01] (\d{3})", self.raw, re.MULTILINE)]

    @property
    def headers(self) -> dict[str, str]:
        head = self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head)}

    @property
    def error(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        error: dict[str, Any] = json.loads(self.raw.partition(b"\r\n\r\n")[2])["error"]
        return error


@dataclass
class FrontDoor:
    """A running gateway."""

    gateway: Running
    upstream: FakeUpstream

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.gateway.port), timeout=30)

    def ask(self, data: bytes, *, wait_s: float = 30, until: bytes = b"") -> Answer:
        """Send bytes as they are, and read to the end of the connection, of one answer, or of patience."""
        started = time.monotonic()
        with self.connect() as peer:
            with suppress(OSError):
                peer.sendall(data)
            raw, ended = read(peer, wait_s, until)
        return Answer(raw, ended, time.monotonic() - started)

    def post(self, body: Mapping[str, Any] | bytes = b"{}", **options: Any) -> Answer:
        """One request, whole answer."""
        return self.ask(request(body, **options), until=WHOLE)

    def lines(self) -> list[dict[str, Any]]:
        """The log: each line must parse."""
        return [json.loads(line) for line in haproxy.whole_lines(self.gateway.folder / "stdout")]

    def line(self, request_id: str) -> dict[str, Any]:
        """The log's one line of a request, which is written when it ended."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if match := [one for one in self.lines() if one["request_id"] == request_id]:
                assert len(match) == 1
                return match[0]
            time.sleep(0.02)
        raise AssertionError(f"{request_id} is not in the log")


# The end of one answer, for `until`.
WHOLE = b"<one answer>"
LAST_CHUNK = b"0\r\n\r\n"


def read(peer: socket.socket, wait_s: float, until: bytes = b"") -> tuple[bytes, str]:
    """What comes until `until`, the end, or silence of `wait_s`."""
    raw = b""
    peer.settimeout(wait_s)
    try:
        while part := peer.recv(1 << 16):
            raw += part
            if until and (is_whole(raw) if until == WHOLE else until in raw):
                return raw, "read"
    except TimeoutError:
        return raw, "silent"
    except OSError:
        return raw, "reset"
    return raw, "closed"


def is_whole(raw: bytes) -> bool:
    """Whether an answer, chunked or of a length, is complete."""
    head, end, body = raw.partition(b"\r\n\r\n")
    if end and head.split()[1] == b"100":
        return is_whole(body)
    if length := re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE):
        return len(body) >= int(length[1])
    # Of the body: a head may end in the same bytes, with a request id whose last digit is 0.
    return body == LAST_CHUNK or body.endswith(b"\r\n" + LAST_CHUNK)


@contextmanager
def front_door(
    folder: Path, grants: Mapping[str, str], *, times: Mapping[str, str] | None = None, places: int = 0, **limits: int
) -> Iterator[FrontDoor]:  # fmt: skip
    """A gateway with these keys; `limits` are its variables in small letters, `places` the server's maxconn."""
    pieces = {
        **QUICK,
        **(times or {}),
        **({f"maxconn {SEQUENCES}\n": f"maxconn {places}\n"} if places else {}),
    }
    keys = {key(name): f"{name}:{grant}:1" for name, grant in grants.items()}
    upstream = FakeUpstream()
    try:
        with haproxy.running(
            folder, f"127.0.0.1:{upstream.port}", keys, dict(limits), times=pieces
        ) as gateway:
            yield FrontDoor(gateway, upstream)
    finally:
        upstream.close()
