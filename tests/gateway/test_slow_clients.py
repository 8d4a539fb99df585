"""Bodies, queues and slow or absent clients: none holds a place of the server for longer than it has to."""

import json
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from gateway.front_door import WHOLE, Answer, FrontDoor, front_door, read, request
from gateway.haproxy import until

GRANTS = {"alice": "100000:1000:0"}
MOST_BYTES = 300_000
# How much later than it was sent an event may arrive on a busy machine: half of the time to the next. 0.4 ms alone.
LATE_S = 0.1


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    folder = tmp_path_factory.mktemp("door")
    with front_door(folder, GRANTS, times={"tcp-ut 30s": "tcp-ut 2s"}, max_body_bytes=MOST_BYTES) as running:
        yield running


def padded(size: int, **order: object) -> bytes:
    """An order to the fake vLLM of that many bytes."""
    short = json.dumps({**order, "pad": ""})
    return json.dumps({**order, "pad": "x" * (size - len(short))}).encode()


def test_a_body_at_the_limit_arrives_whole(door: FrontDoor) -> None:
    body = padded(MOST_BYTES, id="largest")
    assert door.post(body).status == 200
    assert door.upstream.one("largest").body == body


def test_a_larger_body_is_refused_before_it_is_sent(door: FrontDoor) -> None:
    head = request(padded(MOST_BYTES + 1))[: -MOST_BYTES - 1]
    answer = door.ask(head, until=WHOLE)
    assert (answer.status, answer.error["type"]) == (413, "invalid_request_error")


@pytest.mark.parametrize("size", [2, MOST_BYTES + 1])
def test_a_body_without_a_length_is_refused(door: FrontDoor, size: int) -> None:
    """Chunks have no length before their end; and no two parsers can disagree on one."""
    head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    answer = door.ask(head + b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n", until=WHOLE)
    assert (answer.status, answer.error["code"]) == (411, "length_required")


def test_slow_headers_are_cut(door: FrontDoor) -> None:
    answer = _trickled(door, request(b"{}"), 10)
    assert answer.status == 408


def test_a_slow_body_is_cut_before_it_has_a_place_of_the_server(door: FrontDoor) -> None:
    body = padded(2000, id="trickled")
    answer = _trickled(door, request(body), len(request(body)) - 1990)
    assert answer.status == 408
    assert door.upstream.times("trickled") == 0


def test_a_client_that_stops_reading_frees_the_servers_place(door: FrontDoor) -> None:
    with _small_window(door) as peer:
        peer.sendall(request({"id": "unread", "mood": "long", "bytes": 50_000_000}))
        unread = door.upstream.one("unread")
        until(lambda: unread.ended)
        assert unread.gone


def test_a_client_that_stops_reading_a_trickle_of_events_is_noticed_too(door: FrontDoor) -> None:
    """Its events would fit into buffers for hours."""
    with _small_window(door) as peer:
        peer.sendall(request({"id": "asleep", "events": 2000, "pace_s": 0.01, "pad": 400}))
        asleep = door.upstream.one("asleep")
        until(lambda: asleep.ended)
        assert asleep.gone


@pytest.mark.parametrize(
    "order", [{"mood": "hang"}, {"events": 1000, "pace_s": 0.2}], ids=["whole", "stream"]
)
def test_a_client_that_goes_away_frees_its_place_at_once(door: FrontDoor, order: dict[str, object]) -> None:
    # A busy machine may be late with it; a gateway that waits is so each time.
    assert any(freed_after_s(door, f"gone {number} {order}", order) < 0.5 for number in range(10))


def freed_after_s(door: FrontDoor, name: str, order: dict[str, object]) -> float:
    """How long after its client's end the server still held a place for a request."""
    with door.connect() as peer:
        peer.sendall(request({"id": name, **order}))
        gone = door.upstream.one(name)
    left = time.monotonic()
    until(lambda: gone.ended)
    assert gone.gone
    return gone.ended - left


def lateness(door: FrontDoor, name: str) -> list[float]:
    """How many seconds after it was sent each event of a stream arrived."""
    arrived: list[float] = []
    with door.connect() as peer:
        peer.sendall(request({"id": name, "events": 15, "pace_s": 0.2}))
        raw = b""
        while b"[DONE]" not in raw:
            part = peer.recv(65536)
            assert part, raw
            raw += part
            arrived += [time.monotonic()] * (raw.count(b'"n"') - len(arrived))
    return [there - here for here, there in zip(door.upstream.one(name).sent, arrived, strict=True)]


def test_each_event_arrives_when_it_is_sent(door: FrontDoor) -> None:
    """No event waits for the next: neither the first, which is the time to the first token."""
    # A busy machine stands still for longer than the pace now and then; a gateway that waits does so in every stream.
    streams = (lateness(door, f"stream-{number}") for number in range(10))
    assert any(statistics.median(late) < LATE_S / 5 and max(late) < LATE_S for late in streams)


def test_a_silent_server_is_waited_for_however_short_the_patience_with_clients(door: FrontDoor) -> None:
    answer = door.post({"mood": "slow", "after_s": 4})
    assert answer.status == 200
    assert answer.after_s > 4


def test_the_only_server_keeps_its_streams_while_its_check_fails(tmp_path: Path) -> None:
    with front_door(tmp_path, GRANTS) as door, door.connect() as peer:
        peer.sendall(request({"id": "stream", "mood": "held", "pace_s": 0.1}))
        door.upstream.one("stream")
        door.upstream.healthy = False
        until(lambda: door.post(path="/healthz", method="GET").status == 503)
        time.sleep(0.5)
        door.upstream.release.set()
        raw, _ = read(peer, 30, WHOLE)
        assert b"[DONE]" in raw


def test_two_hundred_clients_of_two_places_never_pile_up(tmp_path: Path) -> None:
    """The queue has a bound and a deadline: whoever is not served hears so, with a time to come back."""
    answers: list[Answer] = []
    with front_door(tmp_path, GRANTS, places=2, queue=20, queue_timeout_s=2) as door:
        ask = lambda: answers.append(door.post({"mood": "slow", "after_s": 0.6}))  # noqa: E731
        clients = [threading.Thread(target=ask) for _ in range(200)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
        assert door.upstream.most_running <= 2
        # Nothing is left behind, and the next one is served.
        assert door.post().status == 200
        waits = [line["queue_ms"] for line in door.lines()]
    counts = Counter(answer.status for answer in answers)
    assert set(counts) == {200, 503}
    assert 4 <= counts[200] <= 100
    refused = [answer for answer in answers if answer.status == 503]
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    assert {answer.error["type"] for answer in refused} == {"server_error"}
    # Twenty in two places would take 6 s.
    assert max(waits) < 4_000


def test_one_address_cannot_take_all_connections(tmp_path: Path) -> None:
    with front_door(tmp_path, GRANTS, connections_per_address=20) as door:
        with ExitStack() as held:
            answered = [held.enter_context(_answered(door)) for _ in range(40)]
            assert 19 <= sum(answered) <= 20
        until(lambda: door.post().status == 200)


@contextmanager
def _answered(door: FrontDoor) -> Iterator[bool]:
    """Whether a connection that is then kept, for it showed a key, was answered and not refused."""
    raw = b""
    peer = socket.socket()
    with suppress(ConnectionError):
        peer.connect(("127.0.0.1", door.gateway.port))
        peer.sendall(request())
        raw, _ = read(peer, 30, WHOLE)
    with peer:
        yield bool(raw)


def _trickled(door: FrontDoor, data: bytes, at_once: int) -> Answer:
    """Send a part, then a byte every 0.1 s until something comes back, or the end of patience."""
    started = time.monotonic()
    with door.connect() as peer:
        peer.sendall(data[:at_once])
        for byte in data[at_once : at_once + 60]:
            raw, ended = read(peer, 0.1, WHOLE)
            if raw or ended != "silent":
                return Answer(raw, ended, time.monotonic() - started)
            peer.sendall(bytes([byte]))
    return Answer(b"", "silent", time.monotonic() - started)


def _small_window(door: FrontDoor) -> socket.socket:
    """A client whose kernel takes little while it does not read."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    peer.connect(("127.0.0.1", door.gateway.port))
    return peer
