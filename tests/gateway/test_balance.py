"""Two servers behind the real HAProxy: one that stops, hangs or dies leaves at once, and nothing is sent twice."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway import haproxy
from gateway.haproxy import Running
from gateway.upstream import EVENT, Upstream, exchange, head, status_of, whole

KEYS = {f"ek_{name * 43}": f"{name}:100000:1000:0" for name in "abcdefghijkl"}
ALICE = f"Authorization: Bearer ek_{'a' * 43}"
PATH = "/v1/completions"
STOPS, DOWN, OK = 404, 503, 200
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# Two checks that fail, each for as long as it may take: only a hang is meant.
LEFT_S = 20


class Stream:
    """An answer that goes on until the test ends it."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(HEAD)
        while not self.over.wait(0.1):
            connection.sendall(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        connection.sendall(b"0\r\n\r\n")


@pytest.fixture
def servers() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream() as first, Upstream() as second:
        yield first, second


def running(folder: Path, servers: tuple[Upstream, ...], **options: object):  # type: ignore[no-untyped-def]
    addresses = " ".join(server.address for server in servers)
    return haproxy.running(folder, addresses, KEYS, {"queue_timeout_s": 2}, replicas=len(servers), **options)


def send(front: Running, limit_s: float = 40) -> bytes:
    return exchange(front.port, head("POST", PATH, ALICE, body="{}"), limit_s)


def asked(*servers: Upstream) -> list[int]:
    return [len([one for one in server.arrived if one.line.startswith("POST")]) for server in servers]


def on_one_of(front: Running, servers: tuple[Upstream, Upstream], pool: ThreadPoolExecutor):  # type: ignore[no-untyped-def]
    """A stream that is open, the server that has it, and the other one."""
    stream = Stream()
    for server in servers:
        server.answer = stream
    answer = pool.submit(send, front)
    haproxy.until(lambda: sum(asked(*servers)) == 1)
    has, other = servers if asked(servers[0]) == [1] else servers[::-1]
    for server in servers:
        server.answer = whole
    return stream, answer, has, other


def timed(front: Running) -> tuple[bytes, float]:
    """An answer, and after how many seconds it was there."""
    begun = time.monotonic()
    return send(front), time.monotonic() - begun


def shares(ask: Callable[[], bytes], servers: tuple[Upstream, Upstream]) -> list[int]:
    """How many of five requests each server got."""
    before = asked(*servers)
    assert {status_of(ask()) for _ in range(5)} == {OK}
    return [now - then for now, then in zip(asked(*servers), before, strict=True)]


def all_at(front: Running, server: Upstream) -> bool:
    """Whether four requests all come to one server."""
    before = asked(server)[0]
    statuses = [status_of(send(front)) for _ in range(4)]
    return statuses == [OK] * 4 and asked(server)[0] == before + 4


def test_one_that_stops_keeps_its_stream_and_gets_no_other(
    tmp_path: Path, servers: tuple[Upstream, Upstream]
) -> None:
    # By its key, which leastconn would keep away from a busy server anyway.
    with running(tmp_path, servers, balance="sticky") as front, ThreadPoolExecutor(1) as pool:
        stream, answer, has, other = on_one_of(front, servers, pool)
        has.health = STOPS
        begun = time.monotonic()
        haproxy.until(lambda: all_at(front, other), LEFT_S)
        print(f"stops: left after {time.monotonic() - begun:.1f} s")
        time.sleep(3)
        assert not answer.done()
        stream.over.set()
        stream_text = answer.result(60)
        assert stream_text.endswith(b"0\r\n\r\n")
        assert stream_text.count(EVENT) > 10
        has.health = OK
        before = asked(has)[0]
        haproxy.until(lambda: send(front) and asked(has)[0] > before, LEFT_S)


def test_one_that_is_down_loses_its_stream_visibly(
    tmp_path: Path, servers: tuple[Upstream, Upstream]
) -> None:
    # By its key, which leastconn would keep away from a busy server anyway.
    with running(tmp_path, servers, balance="sticky") as front, ThreadPoolExecutor(1) as pool:
        stream, answer, has, other = on_one_of(front, servers, pool)
        has.health = DOWN
        begun = time.monotonic()
        try:
            cut = answer.result(LEFT_S)
        finally:
            stream.over.set()
        print(f"down: its stream was cut after {time.monotonic() - begun:.1f} s")
        assert status_of(cut) == OK
        assert not cut.endswith(b"0\r\n\r\n")
        assert all_at(front, other)


def test_one_that_is_gone_costs_no_request(tmp_path: Path, servers: tuple[Upstream, Upstream]) -> None:
    second = servers[1]
    with running(tmp_path, servers) as front:
        assert [status_of(send(front)) for _ in range(6)] == [OK] * 6
        assert min(asked(*servers)) > 0
        second.__exit__()
        # Before the first check has seen it.
        assert [status_of(send(front)) for _ in range(20)] == [OK] * 20
        ids = [
            one.headers["x-request-id"]
            for server in servers
            for one in server.arrived
            if one.line.startswith("POST")
        ]
        assert len(ids) == len(set(ids)) == 26


def test_what_a_server_took_is_never_sent_again(tmp_path: Path, servers: tuple[Upstream, Upstream]) -> None:
    for server in servers:
        server.answer = socket.socket.close
    with running(tmp_path, servers) as front:
        answer = send(front)
        assert status_of(answer) == 502
        assert b'"error"' in answer
        assert sum(asked(*servers)) == 1


def test_without_a_server_the_answer_is_503_and_comes_at_once(
    tmp_path: Path, servers: tuple[Upstream, Upstream]
) -> None:
    with running(tmp_path, servers) as front:
        for server in servers:
            server.health = DOWN
        haproxy.until(lambda: status_of(send(front)) == DOWN, LEFT_S)
        answer, took_s = timed(front)
        assert b"retry-after" in answer.lower()
        assert b'"error"' in answer
        # Not after the 2 s of the queue; what a busy machine adds is not added each time.
        assert took_s < 1 or min(timed(front)[1] for _ in range(10)) < 1
        servers[0].health = OK
        haproxy.until(lambda: status_of(send(front)) == OK, LEFT_S)


def test_sticky_sends_a_key_to_one_server_while_that_has_room(
    tmp_path: Path, servers: tuple[Upstream, Upstream]
) -> None:
    def by(key: str, front: Running) -> bytes:
        return exchange(front.port, head("POST", PATH, f"Authorization: Bearer {key}", body="{}"), 40)

    with running(tmp_path, servers, balance="sticky") as front, ThreadPoolExecutor(16) as pool:
        homes: dict[str, int] = {}
        for key in KEYS:
            # Some may go elsewhere, where HAProxy still counts those before them: on a busy machine many, not each time.
            tries = (shares(lambda key=key: by(key, front), servers) for _ in range(10))
            got = next((one for one in tries if max(one) >= 4), None)
            assert got, "a key's requests went to both"
            homes[key] = got.index(max(got))
        assert set(homes.values()) == {0, 1}, Counter(homes.values())
        # Twelve at once of one key are more than half again the average: the other server helps.
        stream = Stream()
        for server in servers:
            server.answer = stream
        before = asked(*servers)
        answers = [pool.submit(by, next(iter(KEYS)), front) for _ in range(12)]
        haproxy.until(lambda: sum(asked(*servers)) == sum(before) + 12)
        got = [now - then for now, then in zip(asked(*servers), before, strict=True)]
        print(f"twelve of one key at once: {max(got)} and {min(got)}")
        assert min(got) >= 2
        stream.over.set()
        assert all(answer.result(60).endswith(b"0\r\n\r\n") for answer in answers)
        # Without its server a key goes to the other, and comes back to it.
        for server in servers:
            server.answer = whole
        home = servers[homes[next(iter(KEYS))]]
        home.health = DOWN
        haproxy.until(lambda: all_at(front, servers[1 - homes[next(iter(KEYS))]]), LEFT_S)
        home.health = OK
        haproxy.until(lambda: all_at(front, home), LEFT_S)
