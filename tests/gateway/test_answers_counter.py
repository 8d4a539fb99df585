"""The answers that alerts count are those of requests with a key and within its limits: strangers raise no share of errors."""

import re
import socket
import urllib.request
from pathlib import Path

from gateway.front_door import WHOLE, Answer, FrontDoor, front_door, read, request
from gateway.haproxy import until

COUNTER = r'^haproxy_backend_http_responses_total\{proxy="serve",code="(\w+)"\} (\d+)$'
WAITING = 'haproxy_backend_current_queue{proxy="serve"} 1'
GRANTS = {"alice": "100000:1000:0", "rated": "1:1000:0"}


def metrics(door: FrontDoor) -> str:
    """What Prometheus reads of the gateway."""
    with urllib.request.urlopen(f"http://127.0.0.1:{door.gateway.own_port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def whole(peer: socket.socket) -> int:
    """The status of the answer on a connection, once it is complete."""
    return Answer(*read(peer, 30, WHOLE), 0).status


def counted(door: FrontDoor) -> dict[str, int]:
    """Answers by class as `backend serve` counted them, without the classes that had none."""
    lines = re.findall(COUNTER, metrics(door), re.MULTILINE)
    assert lines
    return {code: int(number) for code, number in lines if int(number)}


def test_who_has_no_key_or_is_over_its_limit_counts_as_no_answer(tmp_path: Path) -> None:
    with front_door(tmp_path, GRANTS) as door:
        assert [door.post(by="rated").status for _ in range(3)] == [200, 429, 429]
        for _ in range(5):
            assert door.ask(b"GET /x HTTP/1.7\r\nHost: x\r\n\r\n", wait_s=1).status == 505
        assert door.post(by=None).status == 401
        assert door.post(path="/docs").status == 404
        door.upstream.healthy = False
        probe = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        until(lambda: door.ask(probe).status == 503)
        assert counted(door) == {"2xx": 1}
        # A request with a key that finds no server is one that failed.
        assert door.post().status == 503
        assert counted(door) == {"2xx": 1, "5xx": 1}


def test_a_full_queue_counts_as_a_failed_request_and_not_towards_the_rate(tmp_path: Path) -> None:
    with (
        front_door(tmp_path, GRANTS, places=1, queue=1) as door,
        door.connect() as first,
        door.connect() as second,
    ):
        first.sendall(request({"id": "first", "mood": "held"}))
        door.upstream.one("first")
        second.sendall(request({"id": "second"}))
        until(lambda: WAITING in metrics(door))
        refusal = door.post(by="rated")
        assert (refusal.status, refusal.error["code"]) == (503, "queue_full")
        assert int(refusal.headers["retry-after"]) > 0
        assert counted(door) == {"5xx": 1}
        door.upstream.release.set()
        assert whole(first) == whole(second) == 200
        # Its one request a minute is still to come.
        assert [door.post(by="rated").status for _ in range(2)] == [200, 429]
