"""Two real vLLM behind the real HAProxy, with clients on them: killed, stopped, hung, drained, and taken down."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import ENGINE, FULL, planned, rendered
from docker.errors import APIError
from gateway.haproxy import key_line
from integration.gateway_pair import CLIENTS, KEY, LIMIT_S, Pair, changed, load, until
from integration.stack import HAPROXY, recovered, require_haproxy, signals_and_ends

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.override import cpu_image, decide
from ernie_deploy.stack.compose import Stack, ask, demand

# Five starts of vLLM on two cores, two at a time: a quarter of an hour.
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), full]
OPTIONS: dict[str, Any] = {
    "gateway": True, "replicas": 2, "pairs": ("enforce-eager=true", "enable-log-requests=true", "shutdown-timeout=60"),
}  # fmt: skip
UP = "UP"
# What a client sees of a fault ends within this time, and a start of vLLM on two cores takes so long.
LEFT_S, BACK_S = 5, 500
SERVER = """
  {service}:
    image: {image}
    environment: {{VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: "1", VLLM_USE_AOT_COMPILE: "0"}}
    ports: !reset []
"""
OVERRIDE = """
services:
  gateway:
    image: {haproxy}
    ports: !override ["127.0.0.1::8443"]
"""


@pytest.fixture(scope="module")
def folder(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_haproxy()
    return tmp_path_factory.mktemp("pair")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[Pair]:
    plan = planned("cpu", **OPTIONS)
    rehearsal = decide(plan, folder / "stack", "ernie-pair")
    rehearsal.folder.mkdir()
    runner.lay_out(rehearsal, rendered("cpu", **OPTIONS))
    keys = rehearsal.folder / "gateway"
    keys.mkdir(exist_ok=True)
    keys.chmod(0o755)
    (keys / "keys.map").write_text(key_line(KEY, "tester:100000:1000:0"))
    (keys / "keys.map").chmod(0o644)
    more = rehearsal.folder / "more.yml"
    servers = "".join(SERVER.format(service=one.service, image=cpu_image(ENGINE)) for one in plan.replicas)
    more.write_text(OVERRIDE.format(haproxy=HAPROXY) + servers)
    first = members(rehearsal)[0].stack
    stack = Stack(files=(*first.files, more), project=first.project, env_file=first.env_file)
    try:
        demand(stack.words("up", "--detach", "--wait", "--wait-timeout", "900"), timeout_s=1000)
        made = Pair(stack, plan.served_name)
        for service in ("serve", "serve-2"):
            until(lambda s=service: made.at_gateway(s) == UP, 400, f"{service} up")  # type: ignore[misc]
        yield made
    finally:
        print(ask(stack.logs(tail="30"), timeout_s=60).stdout)
        ask(stack.words("--profile", "*", "down", "--volumes", "--timeout", "5"), timeout_s=120)


def back(pair: Pair, service: str, begun: float, fault: str) -> None:
    until(lambda: pair.at_gateway(service) == UP, BACK_S, f"{service} back")
    recovered(f"{fault}: back in rotation by itself", time.monotonic() - begun)


def test_a_replica_that_is_stopped_ends_what_it_has(pair: Pair) -> None:
    running = load(pair)
    begun = time.monotonic()
    stop = ThreadPoolExecutor(1).submit(demand, ["docker", "stop", pair.state("serve-2").id], timeout_s=200)
    left_s = until(lambda: pair.at_gateway("serve-2") != UP, LEFT_S, "serve-2 left")
    recovered("replica stopped: out of rotation", left_s)
    stop.result(200)
    recovered("replica stopped: ended", time.monotonic() - begun)
    begun = time.monotonic()
    demand(["docker", "start", pair.state("serve-2").id])
    back(pair, "serve-2", begun, "replica started again")
    endings = running.end()
    print(f"stopped with {CLIENTS} clients: {dict(endings)}")
    assert set(endings) == {"complete"}


def test_a_replica_whose_engine_is_killed_leaves_and_comes_back(pair: Pair) -> None:
    running = load(pair)
    before = pair.state("serve").restarts
    begun = time.monotonic()
    pair.signal("serve", "KILL", "EngineCore")
    recovered("engine killed: out of rotation", until(lambda: pair.at_gateway("serve") != UP, LEFT_S, "left"))
    lost = [one for one in running.results if one.answer.ending != "complete"]
    back(pair, "serve", begun, "engine killed")
    endings = running.end()
    print(f"engine killed with {CLIENTS} clients: {dict(endings)}, {len(lost)} of them at once")
    assert pair.state("serve").restarts > before
    # Those that were on it, and those that came in the second until the gateway saw it.
    assert endings["complete"] > endings["error"] + endings["cut"]
    assert pair.ask().answer.ending == "complete"


def test_a_replica_whose_api_is_killed_leaves_at_once(pair: Pair) -> None:
    running = load(pair)
    begun = time.monotonic()
    pair.signal("serve-2", "KILL", "/vllm serve")
    recovered("API killed: out of rotation", until(lambda: pair.at_gateway("serve-2") != UP, LEFT_S, "left"))
    back(pair, "serve-2", begun, "API killed")
    print(f"API killed with {CLIENTS} clients: {dict(running.end())}")
    assert pair.ask().answer.ending == "complete"


def test_a_replica_that_hangs_leaves_and_its_streams_are_cut(pair: Pair) -> None:
    running = load(pair)
    begun = time.monotonic()
    pair.signal("serve", "STOP", "EngineCore")
    left_s = until(lambda: pair.at_gateway("serve") != UP, 40, "left")
    recovered("engine stopped still: out of rotation, its streams cut", left_s)
    assert left_s > 10
    back(pair, "serve", begun, "engine stopped still")
    endings = running.end()
    print(f"hung with {CLIENTS} clients: {dict(endings)}")
    assert all(one.elapsed_s < LIMIT_S for one in running.results)
    assert pair.ask().answer.ending == "complete"


def test_a_replica_that_is_made_anew_loses_no_request(pair: Pair) -> None:
    """`docker compose up` with a change of one server: the other and the gateway stay as they are."""
    running = load(pair)
    old, front = pair.state("serve-2"), pair.container("gateway").attrs["State"]["StartedAt"]
    with ThreadPoolExecutor(1) as pool, signals_and_ends(pair.stack.project) as events:
        up = pool.submit(demand, changed(pair, "serve-2").words("up", "--detach"), timeout_s=300)
        until(lambda: pair.at_gateway("serve-2") != UP, 120, "serve-2 left")
        # vLLM has not ended yet, and what it has goes on.
        assert pair.engine.containers.get(old.id).status == "running"
        while not up.done():
            # Its log goes with it.
            with suppress(APIError):
                pair.note("serve-2", old.id)
            time.sleep(1)
        up.result(300)
    begun = time.monotonic()
    assert ("die", "serve-2") in events
    assert not {"gateway", "serve"} & {service for _, service in events}, events
    assert pair.state("serve-2").id != old.id
    back(pair, "serve-2", begun, "replica made anew")
    endings = running.end()
    print(f"made anew with {CLIENTS} clients: {dict(endings)}")
    assert set(endings) == {"complete"}
    assert pair.container("gateway").attrs["State"]["StartedAt"] == front


# The last that asks: it takes the stack down.
def test_down_stops_the_gateway_first_and_a_stream_ends_whole(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        before = pair.noted()
        stream = pool.submit(pair.ask, 400)
        until(lambda: pair.noted() > before, 30, "a stream")
        began_at = time.time()
        with signals_and_ends(pair.stack.project) as events:
            demand(pair.stack.words("down"), timeout_s=300)
        asked = stream.result(60)
    recovered("down with a stream open", time.time() - began_at)
    died = [service for action, service in events if action == "die"]
    signalled = [service for action, service in events if action == "kill"]
    assert asked.answer.ending == "complete", asked
    assert died[0] == "gateway", events
    # Not before it had ended did a server get the signal.
    assert events.index(("die", "gateway")) < min(events.index(("kill", one)) for one in ("serve", "serve-2"))
    assert {"serve", "serve-2"} <= set(signalled)
    assert len(died) >= 3


def test_no_request_was_taken_twice_short_or_hung(pair: Pair) -> None:
    """Over all requests of this file: the gateway's ids at the servers, and what each client saw."""
    taken = Counter(one for ids in pair.taken.values() for one in ids)
    sent = [one for ids in pair.sent.values() for one in ids]
    complete = sum(one.answer.ending == "complete" for one in pair.asked)
    print(f"{len(pair.asked)} requests, {len(taken)} taken by a server, {complete} complete")
    # No server's log is missing.
    assert len(taken) >= complete > CLIENTS
    assert [one for one, count in taken.items() if count > 1] == []
    assert len(sent) == len(set(sent))
    assert [one for one in pair.asked if one.fault()] == []
