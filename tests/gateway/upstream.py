"""A server behind the gateway that keeps each request as it arrived, and a client that sends bytes as they are."""

import re
import socket
import socketserver
import threading
from collections.abc import Callable
from typing import Self

from msgspec import Struct

EVENT = b"data: {}\n\n"


class Arrived(Struct):
    """One request: its first line, its headers by their small names, and its body."""

    line: str
    headers: dict[str, str]
    body: bytes


class Upstream(socketserver.ThreadingTCPServer):
    """Answers /ready (and /health) with `health`, and everything else by `answer`, which writes to the connection."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.health = 200
        self.arrived: list[Arrived] = []
        self.answer: Callable[[socket.socket], None] = whole
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def __enter__(self) -> Self:
        return self

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""


class _Handler(socketserver.BaseRequestHandler):
    server: Upstream

    def handle(self) -> None:
        stream = self.request.makefile("rb")
        line = stream.readline().decode("latin-1").rstrip()
        headers: dict[str, str] = {}
        while (text := stream.readline().decode("latin-1").rstrip()) and ":" in text:
            name, _, value = text.partition(":")
            headers[name.lower()] = value.strip()
        body = stream.read(int(headers.get("content-length", 0)))
        if line.startswith(("GET /ready ", "GET /health ")):
            self.request.sendall(f"HTTP/1.1 {self.server.health} X\r\ncontent-length: 0\r\n\r\n".encode())
            return
        self.server.arrived.append(Arrived(line, headers, body))
        self.server.answer(self.request)


def whole(connection: socket.socket) -> None:
    """A short answer in one piece."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 2\r\n\r\nok")


def status_of(answer: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    match = re.match(rb"HTTP/1\.[01] (\d{3})", answer)
    return int(match[1]) if match else 0


def exchange(port: int, request: bytes, limit_s: float = 30) -> bytes:
    """All that comes back for these bytes until the gateway closes; what is sent must ask it to."""
    with socket.create_connection(("127.0.0.1", port), limit_s) as connection:
        connection.settimeout(limit_s)
        connection.sendall(request)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


def head(method: str, target: str, *headers: str, body: str | None = None) -> bytes:
    """A request as bytes, which closes its connection; a body has its length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: gateway", "Connection: close", *headers]
    if body is not None:
        lines += (
            []
            if any("content-type:" in line.lower() for line in headers)
            else ["Content-Type: application/json"]
        )
        lines += [f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + (body or "")).encode("latin-1")
