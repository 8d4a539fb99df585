"""A fake vLLM that keeps every byte it receives, streams events at a given pace, and hangs, dies or fails as told."""

from __future__ import annotations

import itertools
import json
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

HEADERS_END = b"\r\n\r\n"


@dataclass
class Seen:
    """One request as it came over the wire, and what became of it."""

    raw: bytes
    head: bytes
    body: bytes
    started: float = 0.0
    ended: float = 0.0
    answered: bool = False
    gone: bool = False  # the other side had closed before the answer was complete
    sent: list[float] = field(default_factory=list)

    @property
    def order(self) -> dict[str, Any]:
        """What the body asks of the fake."""
        with suppress(ValueError):
            if isinstance(order := json.loads(self.body), dict):
                return order
        return {}

    @property
    def id(self) -> str:
        return str(self.order.get("id", ""))

    @property
    def line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        """Names in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


class FakeUpstream:
    """Listens on a free port; a body such as {"id": "a", "events": 3, "pace_s": 0.05, "mood": "hang"} says how it answers.

    Moods: "" (a stream), held (one that goes on until `release`), hang (no answer), die (closed in the middle of the stream), fail (500), slow (an answer at once
    after `after_s`), long (an answer of `bytes` bytes as fast as it goes).
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.unparsed: list[bytes] = []
        self.connections = 0
        self.healthy = True
        self.running = self.most_running = 0
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No connection outlives it."""
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def times(self, name: str) -> int:
        """How often a request was received."""
        return sum(one.id == name for one in self.seen)

    def one(self, name: str, within_s: float = 30.0) -> Seen:
        """The request with that id, which may be on its way."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if match := [one for one in self.seen if one.id == name]:
                return match[0]
            time.sleep(0.005)
        raise AssertionError(f"request {name} was not received")

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(peer)
            self.connections += 1
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        rest = b""
        with suppress(OSError), peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                seen, rest = self._receive(peer, rest)
                if seen is None:
                    break
                self._answer(peer, seen)
        self._open.discard(peer)

    def _receive(self, peer: socket.socket, data: bytes) -> tuple[Seen | None, bytes]:
        while HEADERS_END not in data:
            if not (part := peer.recv(65536)):
                if data:
                    self.unparsed.append(data)
                return None, b""
            data += part
        head, _, rest = data.partition(HEADERS_END)
        seen = Seen(head + HEADERS_END, head, b"")
        seen.body, rest = self._body(peer, seen, rest)
        if not seen.line.startswith(("GET /health ", "GET /ready ")):
            self.seen.append(seen)
        return seen, rest

    def _body(self, peer: socket.socket, seen: Seen, data: bytes) -> tuple[bytes, bytes]:
        if "chunked" in seen.headers.get("transfer-encoding", ""):
            return self._chunks(peer, seen, data)
        length = int(seen.headers.get("content-length", 0))
        while len(data) < length:
            if not (part := peer.recv(1 << 20)):
                self.unparsed.append(seen.raw + data)
                raise OSError
            data += part
        seen.raw += data[:length]
        return data[:length], data[length:]

    def _chunks(self, peer: socket.socket, seen: Seen, data: bytes) -> tuple[bytes, bytes]:
        body = b""
        while True:
            while b"\r\n" not in data:
                data += self._more(peer)
            size_line, _, data = data.partition(b"\r\n")
            size = int(size_line, 16)
            while len(data) < size + 2:
                data += self._more(peer)
            seen.raw += size_line + b"\r\n" + data[: size + 2]
            body, data = body + data[:size], data[size + 2 :]
            if size == 0:
                return body, data

    @staticmethod
    def _more(peer: socket.socket) -> bytes:
        if not (part := peer.recv(1 << 20)):
            raise OSError
        return part

    def _answer(self, peer: socket.socket, seen: Seen) -> None:
        if seen.line.startswith(("GET /health ", "GET /ready ")):
            peer.sendall(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\n\r\n" % (200 if self.healthy else 503))
            return
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        seen.started = time.monotonic()
        try:
            self._mood(peer, seen)
        except OSError:
            seen.gone = True
            raise
        finally:
            seen.ended = time.monotonic()
            self._has_answered(seen)

    def _has_answered(self, seen: Seen) -> None:
        """Counted no longer: before the last bytes go, for whoever has them may send the next request at once."""
        with self._lock:
            self.running -= not seen.answered
            seen.answered = True

    def _mood(self, peer: socket.socket, seen: Seen) -> None:
        order = seen.order
        match order.get("mood", ""):
            case "hang":
                self._wait(peer, 3600)
            case "fail":
                self._whole(peer, seen, 500, b'{"error":{"message":"EngineCore died"}}')
            case "slow":
                self._wait(peer, float(order.get("after_s", 1)))
                self._whole(peer, seen, 200, b'{"id":"x"}')
            case "long":
                self._whole(peer, seen, 200, b"x" * int(order["bytes"]))
            case mood:
                self._stream(peer, seen, dies=mood == "die")

    def _whole(self, peer: socket.socket, seen: Seen, status: int, body: bytes) -> None:
        self._has_answered(seen)
        head = f"HTTP/1.1 {status} x\r\nserver: uvicorn\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)

    def _stream(self, peer: socket.socket, seen: Seen, *, dies: bool) -> None:
        events, pace_s = int(seen.order.get("events", 3)), float(seen.order.get("pace_s", 0))
        pad = "x" * seen.order["pad"] if isinstance(seen.order.get("pad"), int) else ""
        peer.sendall(
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        held = seen.order.get("mood") == "held"
        for number in itertools.count():
            if self.release.is_set() if held else number >= events:
                break
            if pace_s:
                self._wait(peer, pace_s)
            seen.sent.append(time.monotonic())
            self._chunk(peer, f'data: {{"n":{number}}}{pad}\n\n'.encode())
        if dies:
            peer.shutdown(socket.SHUT_RDWR)
            raise OSError
        self._chunk(peer, b"data: [DONE]\n\n")
        self._has_answered(seen)
        peer.sendall(b"0\r\n\r\n")

    @staticmethod
    def _chunk(peer: socket.socket, data: bytes) -> None:
        peer.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    @staticmethod
    def _wait(peer: socket.socket, seconds: float) -> None:
        """As long as the other side stays, as uvicorn does; raises OSError when it goes."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select([peer], [], [], left)
            if readable and not peer.recv(1, socket.MSG_PEEK):
                raise OSError
            if readable:
                time.sleep(min(left, 0.005))
