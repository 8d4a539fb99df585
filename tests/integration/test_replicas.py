"""Two data-parallel engines of real vLLM behind one API: one that hangs at rest is found while the other works."""

import json
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException

import pytest
from conftest import FULL, planned, rendered
from integration.stack import Running, recovered
from msgspec.structs import replace

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.override import decide
from ernie_deploy.stack.compose import ask, demand

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]
FOUND_S = 180


@pytest.fixture(scope="module")
def replicas(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The stack of the cpu target, whose plan has one engine, with a second one."""
    rehearsal = decide(planned("cpu"), tmp_path_factory.mktemp("replicas"), "ernie-replicas")
    runner.lay_out(rehearsal, rendered("cpu"))
    stack = members(rehearsal)[0].stack
    command = json.loads(demand(stack.resolved()))["services"]["serve"]["command"]
    more = rehearsal.folder / "more.json"
    # Compose would take a `$` for a variable.
    text = json.dumps({"services": {"serve": {"command": [*command, "--data-parallel-size=2"]}}})
    more.write_text(text.replace("$", "$$"))
    stack = replace(stack, files=(*stack.files, more))
    try:
        demand(stack.words("up", "--detach", "--wait", "--wait-timeout", "900"), timeout_s=1000)
        yield Running(rehearsal, stack)
    finally:
        print(ask(stack.logs(tail="60"), timeout_s=60).stdout)
        ask(stack.words("--profile", "*", "down", "--volumes", "--timeout", "5"), timeout_s=60)


def keep_busy(running: Running, rank: int, over: threading.Event) -> None:
    """Let one engine generate until the test is over."""
    body = {
        "model": running.rehearsal.plan.served_name,
        "prompt": [1],
        "max_tokens": 4000,
        "ignore_eos": True,
    }
    headers = {"Content-Type": "application/json", "X-data-parallel-rank": str(rank)}
    while not over.is_set():
        try:
            connection = HTTPConnection(running.url().removeprefix("http://"), timeout=120)
            connection.request("POST", "/v1/completions", json.dumps(body), headers)
            connection.getresponse().read()
            connection.close()
        except (OSError, HTTPException):
            over.wait(1)


@pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
def test_an_engine_that_hangs_at_rest_is_found_while_the_other_works(replicas: Running) -> None:
    before, over = replicas.serve(), threading.Event()
    worker = threading.Thread(target=keep_busy, args=(replicas, 0, over), daemon=True)
    worker.start()
    try:
        replicas.busy()
        # Time for both engines to be seen well: the one at work and the one that answers its token.
        time.sleep(30)
        assert replicas.serve().restarts == before.restarts
        replicas.signal("STOP", "EngineCore_DP1")
        killed_s = replicas.started_anew(before.restarts, FOUND_S)
    finally:
        over.set()
    recovered("one of two engines stopped at rest: killed", killed_s)
    served_s = killed_s + replicas.healthy_again(before.restarts, 400)
    recovered("one of two engines stopped at rest: served again", served_s)
