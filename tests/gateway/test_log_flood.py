"""Whoever has many addresses pushes nobody's requests out of the log: refusals of all together end in it too."""

import socket
from pathlib import Path

import pytest
from gateway.front_door import WHOLE, FrontDoor, front_door, read, request
from gateway.haproxy import until

GRANTS = {"alice": "100000:1000:0"}
# Of 600 in a minute, to have few addresses do.
MOST = 40
TIMES = {"gt 600": f"gt {MOST}"}
ADDRESSES = 200


def send(door: FrontDoor, number: int, data: bytes) -> bytes:
    """What comes back for bytes from an address of its own."""
    source = (f"127.0.{1 + number // 200}.{1 + number % 200}", 0)
    with socket.create_connection(("127.0.0.1", door.gateway.port), 30, source_address=source) as peer:
        peer.sendall(data)
        return read(peer, 30, WHOLE)[0]


@pytest.mark.parametrize(
    "data",
    [request(by="nobody"), request(method="GET", path="/docs")],
    ids=["no key", "no route"],
)
def test_refusals_of_many_addresses_are_few_lines(tmp_path: Path, data: bytes) -> None:
    with front_door(tmp_path, GRANTS, times=TIMES) as door:
        for number in range(ADDRESSES):
            assert send(door, number, data)[9:12] in (b"401", b"404")
        assert send(door, 0, request())[9:12] == b"200"
        until(lambda: 200 in {line["status"] for line in door.lines()})
        assert MOST <= len(door.lines()) <= MOST + 3


def test_requests_with_a_key_are_always_logged(tmp_path: Path) -> None:
    with front_door(tmp_path, GRANTS, times=TIMES) as door:
        for number in range(ADDRESSES):
            send(door, number, request(b"no JSON", headers=b"Content-Encoding: x\r\n"))
        until(lambda: len(door.lines()) == ADDRESSES)
