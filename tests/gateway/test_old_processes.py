"""Processes that reloads left to their streams are few, and the container's memory has room for them."""

import subprocess
from contextlib import ExitStack
from pathlib import Path

from conftest import planned
from gateway import haproxy
from gateway.front_door import front_door, request
from gateway.haproxy import until

from ernie_deploy.plan.gateway import MOST_RELOADS
from ernie_deploy.render.gateway import configuration

MOST = 2


def test_reloads_leave_a_bounded_number_of_processes(tmp_path: Path) -> None:
    """Each has a stream that does not end; the newest ones keep theirs."""
    times = {f"mworker-max-reloads {MOST_RELOADS}\n": f"mworker-max-reloads {MOST}\n"}
    with front_door(tmp_path, {"alice": "100000:1000:0"}, times=times) as door, ExitStack() as held:
        for number in range(MOST + 3):
            peer = held.enter_context(door.connect())
            peer.sendall(request({"id": f"held-{number}", "mood": "hang"}))
            door.upstream.one(f"held-{number}")
            haproxy.taken_over(door.gateway.process, door.gateway.folder / "stderr")
        until(lambda: _workers(door.gateway.process.pid) == MOST + 1)
        assert not door.upstream.one(f"held-{MOST + 2}").ended


def test_the_configuration_bounds_them() -> None:
    assert f"    mworker-max-reloads {MOST_RELOADS}\n" in configuration(planned("h100", gateway=True))


def _workers(master: int) -> int:
    done = subprocess.run(
        ["ps", "--ppid", str(master), "-o", "pid="], capture_output=True, text=True, timeout=30
    )
    return len(done.stdout.split())
