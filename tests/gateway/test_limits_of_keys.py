"""What one key may ask, how often and how much at once, to the request; the others do not notice."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway.front_door import WHOLE, Answer, FrontDoor, front_door, key, read, request
from gateway.haproxy import until

RATE = 5
PLACES = 3
UNLIMITED = "100000:1000:0"
GRANTS = {
    "alice": UNLIMITED,
    "rated": f"{RATE}:1000:0",
    "refused": f"{RATE}:1000:0",
    "narrow": f"100000:{PLACES}:0",
    "knocking": "100000:1:0",
    "usual": "0:0:0",
    "expired": "0:0:1000",
}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    folder = tmp_path_factory.mktemp("door")
    with front_door(folder, GRANTS, rate_per_minute=7) as running:
        yield running


def test_a_rate_is_exact_and_touches_no_other_key(door: FrontDoor) -> None:
    answers = [door.post({"id": f"rated-{number}"}, by="rated") for number in range(RATE + 3)]
    assert [answer.status for answer in answers] == [200] * RATE + [429] * 3
    assert [door.upstream.times(f"rated-{number}") for number in range(RATE + 3)] == [1] * RATE + [0] * 3
    refusal = answers[-1]
    assert int(refusal.headers["retry-after"]) > 0
    assert refusal.error["type"] == "rate_limit_error"
    assert refusal.error["code"] == "rate_limit_exceeded"
    assert door.post({"id": "other"}).status == 200


def test_refused_requests_do_not_extend_the_ban(tmp_path: Path) -> None:
    """Asking on and on, the key gets what its rate allows, 5 in 2 s, and not only the first 5."""
    statuses: list[int] = []
    with front_door(tmp_path, GRANTS, times={"gpc0_rate(1m)": "gpc0_rate(2s)"}) as door:
        begun = time.monotonic()
        while statuses.count(200) < 2 * RATE:
            assert time.monotonic() - begun < 60, statuses
            statuses.append(door.post(by="refused").status)
            time.sleep(0.01)
        took_s = time.monotonic() - begun
    assert set(statuses) == {200, 429}
    assert RATE * (took_s / 2 + 1) >= 2 * RATE


def test_a_rate_of_zero_is_the_default(door: FrontDoor) -> None:
    assert [door.post(by="usual").status for _ in range(9)] == [200] * 7 + [429] * 2


def test_concurrency_is_exact_and_touches_no_other_key(door: FrontDoor) -> None:
    held = [door.connect() for _ in range(PLACES)]
    for number, peer in enumerate(held):
        peer.sendall(request({"id": f"held-{number}", "mood": "hang"}, by="narrow"))
        door.upstream.one(f"held-{number}")
    refusal = door.post({"id": "one more"}, by="narrow")
    assert (refusal.status, refusal.error["type"]) == (429, "rate_limit_error")
    assert int(refusal.headers["retry-after"]) > 0
    assert door.upstream.times("one more") == 0
    assert door.post().status == 200
    held.pop().close()
    until(lambda: door.post(by="narrow").status == 200)
    for peer in held:
        peer.close()


def test_who_knocks_on_and_on_takes_no_place(door: FrontDoor) -> None:
    """A refused request counts as running at no time: with 1 place, whoever comes after the running one gets it."""
    with door.connect() as running:
        running.sendall(request({"id": "running", "mood": "hang"}, by="knocking"))
        door.upstream.one("running")
        refused = len(door.lines())
        # Refused, and neither closed nor read.
        knocking = [door.connect() for _ in range(20)]
        for peer in knocking:
            peer.sendall(request(by="knocking") * 5)
        until(lambda: len(door.lines()) >= refused + 100)
    # While they are still there.
    until(lambda: door.post(by="knocking").status == 200)
    for peer in knocking:
        peer.close()


def test_requests_of_one_connection_are_counted_one_by_one(door: FrontDoor) -> None:
    """Keep-alive saves nobody the count, nor does the next request have the place of the one before."""
    with door.connect() as peer:
        statuses = []
        for _ in range(PLACES + 2):
            peer.sendall(request(by="narrow"))
            statuses.append(Answer(*read(peer, 30, WHOLE), 0).status)
    assert statuses == [200] * (PLACES + 2)


def test_an_unknown_and_an_expired_key_look_alike(door: FrontDoor) -> None:
    unknown, expired = door.post(by="nobody"), door.post(by="expired")
    assert unknown.status == expired.status == 401
    assert unknown.error == expired.error
    assert set(unknown.headers) == set(expired.headers)


def test_who_guesses_keys_is_refused_and_no_longer_logged(tmp_path: Path) -> None:
    with front_door(tmp_path, {"alice": UNLIMITED}) as door:
        statuses = [door.post(by=f"guess{number}").status for number in range(60)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        assert sorted(statuses) == statuses
        # A valid key is served from the same address: whoever guesses locks nobody out.
        assert door.post({"id": "valid"}).status == 200
        answer = door.ask(request(by="guess").replace(key("guess").encode(), b"x" * 5000), until=WHOLE)
        assert (answer.status, answer.error["code"]) == (429, "too_many_refusals")
        # 30 of them, what came before the count was seen, and the valid one.
        until(lambda: 200 in {entry["status"] for entry in door.lines()})
        assert len(door.lines()) <= 31 + 2


@pytest.mark.parametrize("line", ["GET /x HTTP/1.1", "GET /v1/models HTTP/1.7"])
def test_who_asks_for_what_is_not_there_is_no_longer_logged(tmp_path: Path, line: str) -> None:
    with front_door(tmp_path, {"alice": UNLIMITED}) as door:
        answers = [door.ask(f"{line}\r\nHost: x\r\n\r\n".encode(), until=WHOLE) for _ in range(200)]
        assert {answer.status for answer in answers} == {404 if "/x" in line else 505}
        # Neither the right path nor a missing key is another answer than before.
        assert door.post({"id": "valid"}).status == 200
        assert door.post(by=None).status == 401
        until(lambda: {200, 401} <= {entry["status"] for entry in door.lines()})
        assert len(door.lines()) <= 31 + 2


def test_a_network_of_ipv6_is_one_client(tmp_path: Path) -> None:
    """Its addresses come by the header that a reloaded process sends before what it passes on."""
    with front_door(tmp_path, {"alice": UNLIMITED}):
        text = (tmp_path / "haproxy.cfg").read_text()
        port = int(text.split(" name passed_on")[0].rpartition("bind 127.0.0.1:")[2].split()[0])

        def status(source: str) -> int:
            with socket.create_connection(("127.0.0.1", port), 30) as peer:
                peer.sendall(f"PROXY TCP6 {source} ::1 1000 1000\r\n".encode() + request(by=None))
                return Answer(*read(peer, 30, WHOLE), 0).status

        statuses = [status(f"2001:db8::{number:x}") for number in range(1, 41)]
        assert statuses == [401] * 30 + [429] * 10
        assert status("2001:db8:0:1::1") == 401
