"""Connections are the gateway's to give: clients cannot take those of its health check and metrics, strangers keep none."""

import urllib.request
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import planned
from gateway.front_door import FrontDoor, front_door, request
from gateway.haproxy import until

from ernie_deploy.render.gateway import configuration

GRANTS = {"alice": "100000:1000:0"}
# Of the clients, where a plan has thousands; the gateway's own are as many as it has.
MOST = 20


def page(door: FrontDoor, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{door.gateway.own_port}{path}", timeout=5) as answer:
        return str(answer.read().decode())


def current(door: FrontDoor, what: str) -> int:
    name = f'haproxy_frontend_{what}_sessions{{proxy="front"}} '
    return int(page(door, "/metrics").split(name)[1].split()[0])


def scaled() -> dict[str, str]:
    """Both limits of the configuration, with MOST for the clients' and the difference between them as it is."""
    words = configuration(planned("h100", gateway=True)).split("frontend front")
    every, clients = (int(part.split("    maxconn ")[1].split()[0]) for part in words[:2])
    return {
        f"maxconn {every}\n": f"maxconn {MOST + every - clients}\n",
        f"maxconn {clients}\n": f"maxconn {MOST}\n",
    }


def test_metrics_and_health_answer_while_clients_have_taken_every_connection(tmp_path: Path) -> None:
    times = scaled() | {"timeout http-request 10s": "timeout http-request 60s"}
    with front_door(tmp_path, GRANTS, times=times) as door, ExitStack() as held:
        for _ in range(MOST + 200):
            held.enter_context(door.connect())
        until(lambda: current(door, "current") == MOST)
        assert current(door, "limit") == MOST
        assert page(door, "/healthz") == "ok"
        with pytest.raises(TimeoutError), door.connect() as late:
            late.settimeout(1)
            late.sendall(request())
            late.recv(1)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request(method="GET", path="/healthz", by=None), 200),
        (request(method="GET", path="/docs"), 404),
        (request(by=None), 401),
        (request(by="nobody"), 401),
    ],
)
def test_whoever_shows_no_key_keeps_no_connection(tmp_path: Path, asked: bytes, status: int) -> None:
    with front_door(tmp_path, GRANTS, times={"http-keep-alive 60s": "http-keep-alive 61s"}) as door:
        answer = door.ask(asked, wait_s=10)
        assert (answer.status, answer.ended) == (status, "closed")
        assert answer.headers["connection"] == "close"


def test_a_key_keeps_its_connection(tmp_path: Path) -> None:
    with front_door(tmp_path, GRANTS) as door:
        answer = door.ask(request() + request(), wait_s=1)
    assert answer.statuses == [200, 200]
    assert answer.ended == "silent"
