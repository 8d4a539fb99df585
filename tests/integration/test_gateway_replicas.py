"""Two real vLLM behind the real HAProxy, with clients on them: killed, stopped, hung, drained, and taken down."""

import json
import re
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import ENGINE, FULL, planned, rendered
from gateway.haproxy import key_line
from integration.stack import HAPROXY, Asked, recovered, require_haproxy, signals_and_ends

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.client import chat
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.override import cpu_image, decide
from ernie_deploy.safe_io.http_client import ask as get
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand

# Five starts of vLLM on two cores, two at a time: a quarter of an hour.
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), full]
KEY = f"ek_{secrets.token_urlsafe(32)}"
OPTIONS: dict[str, Any] = {
    "gateway": True, "replicas": 2, "pairs": ("enforce-eager=true", "enable-log-requests=true", "shutdown-timeout=60"),
}  # fmt: skip
CLIENTS, TOKENS, LIMIT_S = 6, 60, 180
UP = "UP"
# What a client sees of a fault ends within this time, and a start of vLLM on two cores takes so long.
LEFT_S, BACK_S = 5, 500
# Of a request that vLLM took, by its own log; the gateway gave it the id.
TAKEN = re.compile(r"Received request (?:chatcmpl-)([0-9a-f-]{36})")
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


class Pair:
    """The running stack, and every request that was sent to it."""

    def __init__(self, stack: Stack, model: str) -> None:
        self.stack, self.model, self.engine = stack, model, containers.client()
        self.asked: list[Asked] = []

    def state(self, service: str) -> containers.State:
        return next(
            one for one in containers.states(self.engine, self.stack.project) if one.service == service
        )

    def container(self, service: str) -> Any:
        return self.engine.containers.get(self.state(service).id)

    def url(self) -> str:
        return f"http://{self.state('gateway').ports['8443/tcp']}"

    def ask(self, tokens: int = TOKENS, question: str = "Count to ten.") -> Asked:
        begun = time.monotonic()
        answer = chat(
            self.url(),
            self.model,
            max_tokens=tokens,
            stream=True,
            timeout_s=LIMIT_S,
            api_key=KEY,
            question=question,
        )
        self.asked.append(Asked(answer, tokens, time.monotonic() - begun, LIMIT_S))
        return self.asked[-1]

    def metrics(self) -> str:
        """HAProxy's own, by its address on the internal network: it is published nowhere."""
        networks = self.container("gateway").attrs["NetworkSettings"]["Networks"]
        address = next(one["IPAddress"] for name, one in networks.items() if name.endswith("_back"))
        return get(f"http://{address}:8405/metrics").decode()

    def at_gateway(self, service: str) -> str:
        """What the gateway thinks of a server: UP, DOWN, NOLB."""
        match = re.search(
            rf'^haproxy_server_status{{proxy="serve",server="{service}",state="(\w+)"}} 1',
            self.metrics(),
            re.MULTILINE,
        )
        assert match
        return match[1]

    def running(self, service: str) -> int:
        match = re.search(
            rf'^haproxy_server_current_sessions{{proxy="serve",server="{service}"}} (\d+)',
            self.metrics(),
            re.MULTILINE,
        )
        assert match
        return int(match[1])

    def pids(self, service: str, word: str) -> list[str]:
        rows = self.container(service).top(ps_args=containers.WIDE)["Processes"]
        return [row[1] for row in rows if word in row[-1]]

    def signal(self, service: str, name: str, word: str) -> None:
        pids = self.pids(service, word)
        assert pids, f"no process with {word}"
        subprocess.run(["kill", f"-{name}", *pids], check=True)


def until(met: Callable[[], bool], limit_s: float, what: str) -> float:
    """Seconds until it was met."""
    begun = time.monotonic()
    while not met():
        assert time.monotonic() - begun < limit_s, f"{what}: not within {limit_s} s"
        time.sleep(0.1)
    return time.monotonic() - begun


class Load(NamedTuple):
    """Clients that ask without a pause until they are told to end."""

    over: threading.Event
    results: list[Asked]
    pool: ThreadPoolExecutor
    futures: list[Any]

    def end(self) -> Counter[str]:
        self.over.set()
        for future in self.futures:
            future.result(LIMIT_S + 60)
        self.pool.shutdown()
        return Counter(one.answer.ending for one in self.results)


def load(pair: Pair, tokens: int = TOKENS) -> Load:
    made = Load(threading.Event(), [], ThreadPoolExecutor(CLIENTS), [])

    def keep_asking() -> None:
        while not made.over.is_set():
            made.results.append(pair.ask(tokens))
            if made.results[-1].answer.ending != "complete":
                time.sleep(0.5)

    made.futures.extend(made.pool.submit(keep_asking) for _ in range(CLIENTS))
    for service in ("serve", "serve-2"):
        until(lambda s=service: pair.running(s) > 0, 60, f"requests at {service}")  # type: ignore[misc]
    return made


def changed(pair: Pair, service: str) -> Stack:
    """The same stack with another variable in the environment of one server."""
    path = pair.stack.files[0].parent / "changed.yml"
    path.write_text(f'services: {{{service}: {{environment: {{CHANGED: "1"}}}}}}\n')
    return Stack(files=(*pair.stack.files, path), project=pair.stack.project, env_file=pair.stack.env_file)


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


def test_no_request_was_taken_twice_short_or_hung(pair: Pair) -> None:
    """Over all requests of this file: the gateway's ids at the servers, and what each client saw."""
    taken: Counter[str] = Counter()
    for service in ("serve", "serve-2"):
        taken.update(TAKEN.findall(pair.container(service).logs().decode(errors="replace")))
    log = pair.container("gateway").logs().decode(errors="replace")
    sent = [json.loads(line)["request_id"] for line in log.splitlines() if line.startswith("{")]
    print(f"{len(pair.asked)} requests, {len(taken)} taken by a server")
    assert len(taken) > CLIENTS
    assert [one for one, count in taken.items() if count > 1] == []
    assert len(sent) == len(set(sent))
    assert [one for one in pair.asked if one.fault()] == []


def test_a_replica_that_is_made_anew_loses_no_request(pair: Pair) -> None:
    """`docker compose up` with a change of one server: the other and the gateway stay as they are."""
    running = load(pair)
    old, front = pair.state("serve-2"), pair.container("gateway").attrs["State"]["StartedAt"]
    with ThreadPoolExecutor(1) as pool, signals_and_ends(pair.stack.project) as events:
        up = pool.submit(demand, changed(pair, "serve-2").words("up", "--detach"), timeout_s=300)
        until(lambda: pair.at_gateway("serve-2") != UP, 120, "serve-2 left")
        # vLLM has not ended yet, and what it has goes on.
        assert pair.engine.containers.get(old.id).status == "running"
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


# Last: it takes the stack down.
def test_down_stops_the_gateway_first_and_a_stream_ends_whole(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(pair.ask, 400)
        until(lambda: pair.running("serve") + pair.running("serve-2") > 0, 30, "a stream")
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
