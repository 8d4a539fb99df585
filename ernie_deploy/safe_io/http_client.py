"""Asks HTTP servers that need not be honest: bounded in bytes and time, without proxies, following no redirect."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

MIB = 1 << 20
# /metrics of a node with 16 engines has less than one.
MOST_TEXT_BYTES = 16 * MIB
MOST_JSON_BYTES = MIB
# A rehearsal's longest stream has one.
MOST_STREAM_BYTES = 64 * MIB


class BadStatus(OSError):
    """An answer that is none of 2xx; a redirect is one, for a key must not follow it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP {code}")
        self.code = code


def ask(
    url: str, body: Any = None, *, key: str = "", limit_s: float = 10.0, most_bytes: int = MOST_TEXT_BYTES
) -> bytes:
    """The answer to a GET, or to a POST of `body` as JSON; raises OSError, `BadStatus` among them.

    `limit_s` is for the whole answer, however slowly it comes.
    """
    with opened(url, body, key=key, limit_s=limit_s) as answer:
        content = answer.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(f"an answer of more than {most_bytes / MIB:g} MiB")
    return content


def ask_json(
    url: str, body: Any = None, *, key: str = "", limit_s: float = 10.0, most_bytes: int = MOST_JSON_BYTES
) -> Any:
    """The same as JSON; raises ValueError too."""
    return read_json(ask(url, body, key=key, limit_s=limit_s, most_bytes=most_bytes))


def read_json(text: str | bytes) -> Any:
    """JSON of a stranger's; raises ValueError, also where it is nested beyond Python's recursion."""
    try:
        return json.loads(text)
    except RecursionError as fault:
        raise ValueError("JSON that is nested too deeply") from fault


def lines(url: str, body: Any, *, key: str = "", silence_s: float, limit_s: float) -> Iterator[bytes]:
    """The lines of a streamed answer as they come; raises OSError."""
    left = MOST_STREAM_BYTES
    with opened(url, body, key=key, limit_s=limit_s, silence_s=silence_s) as answer:
        while line := answer.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise OSError(f"a stream of more than {MOST_STREAM_BYTES / MIB:g} MiB")
            yield line


@contextmanager
def opened(
    url: str, body: Any = None, *, key: str = "", limit_s: float, silence_s: float | None = None
) -> Iterator[HTTPResponse]:
    """An answer to read from, cut off at the limit; every fault of the exchange is an OSError."""
    connection, path = _connection(url, min(limit_s, silence_s or limit_s))
    content = None if body is None else json.dumps(body).encode()
    try:
        connection.connect()
        with cut_at(limit_s, connection.sock):
            connection.request("GET" if content is None else "POST", path, content, _headers(key))
            with connection.getresponse() as answer:
                if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
                    raise BadStatus(answer.status)
                yield answer
    except HTTPException as fault:
        raise OSError(f"no HTTP answer: {fault!r}") from fault
    finally:
        connection.close()


def _connection(url: str, timeout_s: float) -> tuple[HTTPConnection, str]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return kind(parts.netloc, timeout=timeout_s), path


def _headers(key: str) -> Mapping[str, str]:
    if not key:
        return {"Content-Type": "application/json"}
    if not (key.isascii() and key.isprintable()):
        # http.client would quote it in its error.
        raise OSError("the API key holds a character that no header can carry")
    return {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}


@contextmanager
def cut_at(limit_s: float, sock: socket.socket) -> Iterator[None]:
    """End the exchange at the limit: a socket's own timeout starts anew with each byte that comes."""
    late = threading.Event()

    def cut() -> None:
        late.set()
        # It may have ended by itself.
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, ValueError, HTTPException) as fault:
        if late.is_set():
            raise TimeoutError(f"no whole answer within {limit_s:g} s") from fault
        raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError(f"no whole answer within {limit_s:g} s")
