"""The gateway attacked: what the server received is held byte by byte against what it may receive."""

import re
import socket
from collections.abc import Iterator

import pytest
from gateway.attacks import ALL, AUTH, BODY, COMMON, INNER, LENGTH, POST, Attack, heard, statuses
from gateway.front_door import WHOLE, FrontDoor, front_door, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

GRANTS = {"alice": "100000:1000:0"}
# Everything that a server ever sees of a client: a route of the list, a length, a body.
MAY_RECEIVE = re.compile(
    rb"(?:GET /v1/models|POST /v1/(?:completions|messages)) HTTP/1\.[01]\r\n"
    rb"(?:content-length: (?P<length>\d+)\r\n)?host: vllm\r\n(?:content-type: application/json\r\n)?"
    rb"x-request-id: [0-9a-f-]{36}\r\n(?:connection: close\r\n)?\r\n(?P<body>.*)",
    re.DOTALL,
)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    # The guesses among the attacks are not to be stopped for their number.
    unhindered = {"sc_gpc0_rate(2) gt 30": "sc_gpc0_rate(2) gt 100000"}
    with front_door(tmp_path_factory.mktemp("door"), GRANTS, times=unhindered) as running:
        yield running


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_the_server_receives_what_it_may_and_nothing_else(door: FrontDoor, attack: Attack) -> None:
    before = len(door.upstream.seen)
    answers = heard(door.gateway.port, attack)
    received = door.upstream.seen[before:]
    assert statuses(answers) == attack.statuses
    assert len(received) == attack.most
    assert not door.upstream.unparsed
    for one in received:
        match = MAY_RECEIVE.fullmatch(one.raw)
        assert match, one.raw
        assert match["body"] in {b"", BODY, INNER}
        assert int(match["length"] or 0) == len(match["body"])


@given(
    line=st.binary(max_size=40), header=st.binary(max_size=40), length=st.integers(0, 30), body=st.binary(max_size=60)
)  # fmt: skip
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_stands_in_a_request_the_server_receives_no_more_than_the_list(
    door: FrontDoor, line: bytes, header: bytes, length: int, body: bytes
) -> None:
    before = len(door.upstream.seen)
    data = (
        POST.replace(b" HTTP", line + b" HTTP")
        + COMMON
        + AUTH
        + header
        + b"\r\nContent-Length: %d\r\n\r\n" % length
    )
    with door.connect() as peer:
        peer.sendall(data + body)
        peer.shutdown(socket.SHUT_WR)
        peer.settimeout(30)
        try:
            while peer.recv(65536):
                pass
        except OSError:
            pass
    for one in door.upstream.seen[before:]:
        match = MAY_RECEIVE.fullmatch(one.raw)
        assert match, one.raw
        assert int(match["length"] or 0) == len(match["body"])


def test_a_body_is_asked_for_only_when_the_request_may_have_one(door: FrontDoor) -> None:
    """`Expect: 100-continue` is answered after the key, the length and the limits have been seen."""
    refused = POST + COMMON + AUTH + b"Expect: 100-continue\r\nContent-Length: 99999999999\r\n\r\n"
    assert door.ask(refused, until=WHOLE).statuses == [413]


def test_the_metrics_are_not_behind_the_front_door(door: FrontDoor) -> None:
    for path in ("/metrics", "/stats", "/haproxy?stats"):
        assert door.post(path=path, method="GET").status == 404
    own = socket.create_connection(("127.0.0.1", door.gateway.own_port), timeout=30)
    with own:
        own.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + AUTH + b"\r\n")
        assert own.recv(1000).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("mood", ["die", "fail"])
def test_a_server_that_fails_is_visible_and_not_asked_again(door: FrontDoor, mood: str) -> None:
    answer = door.ask(request({"id": mood, "mood": mood}), until=WHOLE)
    assert door.upstream.times(mood) == 1
    assert answer.status == {"die": 200, "fail": 500}[mood]
    assert b"[DONE]" not in answer.raw
    if mood == "die":
        assert answer.ended in {"closed", "reset"}
        assert not answer.raw.endswith(b"0\r\n\r\n")


def test_what_the_server_is_stays_its_own_affair(door: FrontDoor) -> None:
    answer = door.post()
    assert "server" not in answer.headers
    assert re.fullmatch("[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert door.upstream.seen[-1].headers["x-request-id"] == answer.headers["x-request-id"]


def test_an_attack_in_pieces_is_the_same_attack(door: FrontDoor) -> None:
    """A parser that looks at what one read() brought must not see another request."""
    before = len(door.upstream.seen)
    with door.connect() as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in POST + COMMON + AUTH + LENGTH + b"\r\n" + BODY:
            peer.sendall(bytes([byte]))
        assert peer.recv(1000).startswith(b"HTTP/1.1 200")
    assert len(door.upstream.seen) == before + 1
