"""What is no request, for it is no HTTP or no TLS: HAProxy ends it before any rule, it fills no log, and it is counted."""

import re
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from gateway import haproxy
from gateway.authority import Authority
from gateway.haproxy import Running, until
from gateway.upstream import Upstream, exchange, head, status_of

KEY = "ek_" + "n" * 43
ASKED = head("GET", "/v1/models", f"Authorization: Bearer {KEY}")
ERRORS = r'^haproxy_frontend_request_errors_total\{proxy="front"\} (\d+)$'
MANY, MOST_LINES = 80, 31
# What a test need not wait for: how long a client may be silent.
PATIENCE = {"timeout client 60s": "timeout client 8s"}


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


def counted(front: Running) -> int:
    """What was no request, as Prometheus reads it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{front.own_port}/metrics", timeout=10) as answer:
        match = re.search(ERRORS, answer.read().decode(), re.MULTILINE)
    assert match
    return int(match[1])


def lines(front: Running) -> list[str]:
    return (front.folder / "stdout").read_text(encoding="utf-8").splitlines()


def secured(front: Running, ca: Authority) -> bytes:
    """What a client that speaks TLS is answered."""
    context = ssl.create_default_context(cafile=str(ca.root.cert))
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(ASKED)
        return tls.recv(65536)


def silent(front: Running) -> socket.socket:
    """A client that does not begin its handshake."""
    return socket.create_connection(("127.0.0.1", front.port), timeout=20)


def is_refused(front: Running, ca: Authority) -> bool:
    """Whether a client that speaks TLS is reset, or cut within its handshake."""
    try:
        secured(front, ca)
    except OSError:
        return True
    return False


def test_what_is_no_http_is_refused_and_counted_and_soon_no_longer_logged(
    tmp_path: Path, upstream: Upstream
) -> None:
    with haproxy.running(tmp_path, upstream.address, {KEY: "alice:0:0:0"}) as front:
        assert all(status_of(exchange(front.port, b"\x00\r\n\r\n")) == 400 for _ in range(MANY))
        assert counted(front) == MANY
        # Whoever has a key is served and logged from the same address.
        assert status_of(exchange(front.port, ASKED)) == 200
        until(lambda: any(line["status"] == 200 for line in front.log()))
        strange = front.log()[:-1]
        assert MOST_LINES - 1 <= len(strange) <= MOST_LINES
        assert len(lines(front)) == len(front.log())
    assert {(one["status"], one["key"], one["route"], one["ended"]) for one in strange} == {
        (0, "-", "-", "PR")
    }
    assert {one["client"] for one in strange} == {"127.0.0.1"}
    assert abs(strange[0]["time"] - time.time()) < 120


def test_what_is_no_tls_is_soon_no_longer_logged(tmp_path: Path, upstream: Upstream, ca: Authority) -> None:
    pair = ca.issue()
    with haproxy.running(
        tmp_path, upstream.address, {KEY: "alice:0:0:0"}, certificate=(pair.cert, pair.key), tls="files"
    ) as front:
        # Those who speak TLS are no such clients, however many they are.
        for _ in range(MANY):
            assert secured(front, ca).startswith(b"HTTP/1.1 200")
        for _ in range(MANY):
            with socket.create_connection(("127.0.0.1", front.port), timeout=20) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                while peer.recv(4096):
                    pass
        assert secured(front, ca).startswith(b"HTTP/1.1 200")
        until(lambda: sum(line["status"] == 200 for line in front.log()) == MANY + 1)
        assert len(lines(front)) == len(front.log())
        assert MOST_LINES - 1 <= sum(line["status"] == 0 for line in front.log()) <= MOST_LINES


def test_handshakes_that_never_end_take_no_more_places_than_any_other_client(
    tmp_path: Path, upstream: Upstream, ca: Authority
) -> None:
    """A place is one of its address from the first packet on, and free when the client was silent for long enough."""
    pair = ca.issue()
    with haproxy.running(
        tmp_path, upstream.address, {KEY: "alice:0:0:0"}, {"connections_per_address": 20},
        certificate=(pair.cert, pair.key), tls="files", times=PATIENCE,
    ) as front:  # fmt: skip
        with ExitStack() as held:
            for _ in range(19):
                held.enter_context(silent(front))
            # Two threads that look at the same moment may both refuse, and so one more is tried each time.
            until(lambda: bool(held.enter_context(silent(front))) and is_refused(front, ca))
            # Nobody has gone, and there is room again.
            until(lambda: not is_refused(front, ca))
        assert len(lines(front)) == len(front.log())
