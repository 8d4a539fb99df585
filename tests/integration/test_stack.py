"""Real Docker, real vLLM: a rehearsal of the very rendering, and what breaks at night done to a stack.

One file, because xdist gives a file to one worker and two stacks at once would starve two cores.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import FULL, kit, planned

from ernie_deploy import containers, metrics
from ernie_deploy.catalog import Catalog
from ernie_deploy.compose import Stack, ask, demand
from ernie_deploy.errors import ToolFailed
from ernie_deploy.lifecycle import up
from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.client import Answer, chat
from ernie_deploy.rehearsal.override import Rehearsal, decide
from ernie_deploy.render import compose_file

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")


class Running:
    """One rehearsed stack that the faults of this file are done to."""

    def __init__(self, rehearsal: Rehearsal, stack: Stack) -> None:
        self.rehearsal, self.stack = rehearsal, stack
        self.engine = containers.client()

    def serve(self) -> containers.State:
        found = containers.states(self.engine, self.rehearsal.project)
        return next(state for state in found if state.service == "serve")

    def url(self) -> str:
        return f"http://{demand(self.stack.words('port', 'serve', '8000')).strip()}"

    def pids(self, word: str) -> list[str]:
        """Process ids on the host of the serving container's processes that carry `word`."""
        rows = self.engine.containers.get(self.serve().id).top()["Processes"]
        return [row[1] for row in rows if word in row[-1]]

    def signal(self, name: str, word: str) -> None:
        pids = self.pids(word)
        assert pids, f"no process with {word}"
        subprocess.run(["kill", f"-{name}", *pids], check=True)

    def ask(self, max_tokens: int = 16, *, stream: bool = True, timeout_s: float = 120) -> Answer:
        name = self.rehearsal.plan.served_name
        return chat(self.url(), name, max_tokens=max_tokens, stream=stream, timeout_s=timeout_s)

    def healthy_again(self, restarts: int, limit_s: float) -> float:
        begun = time.monotonic()
        while not ((now := self.serve()).restarts > restarts and now.health == "healthy"):
            assert time.monotonic() - begun < limit_s, f"not healthy after {limit_s} s: {now}"
            time.sleep(0.5)
        return time.monotonic() - begun

    def busy(self) -> None:
        """Wait until a request is being worked on."""
        url, end = self.url(), time.monotonic() + 30
        while not metrics.scrape(url).get("vllm:num_requests_running"):
            assert time.monotonic() < end, "no request is running"
            time.sleep(0.2)


@pytest.fixture(scope="session")
def rehearsal(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    plan = planned("cpu")
    made = decide(plan, tmp_path_factory.mktemp("faults"), "ernie-faults")
    runner.lay_out(made, compose_file(plan, Catalog().defaults))
    return made


# The fixtures of pytest-docker: its compose files, project, start and end.
@pytest.fixture(scope="session")
def docker_compose_file(rehearsal: Rehearsal) -> list[str]:
    return [str(file) for file in runner.stack_of(rehearsal).files]


@pytest.fixture(scope="session")
def docker_compose_project_name(rehearsal: Rehearsal) -> str:
    return rehearsal.project


@pytest.fixture(scope="session")
def docker_setup(rehearsal: Rehearsal) -> list[str]:
    return [f"--env-file {rehearsal.folder}/.env up --detach --wait --wait-timeout 900"]


@pytest.fixture(scope="session")
def docker_cleanup(rehearsal: Rehearsal) -> list[str]:
    return [f"--env-file {rehearsal.folder}/.env --profile '*' down --volumes --timeout 5"]


@pytest.fixture(scope="session")
def running(rehearsal: Rehearsal, docker_services: object) -> Running:
    return Running(rehearsal, runner.stack_of(rehearsal))


@pytest.fixture(autouse=True)
def _log_where_it_failed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "running" in request.fixturenames:
        print(ask(request.getfixturevalue("running").stack.logs(tail="40"), timeout_s=60).stdout)


def test_engine_killed_while_streaming(running: Running) -> None:
    before = running.serve().restarts
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, 4000, timeout_s=60)
        running.busy()
        running.signal("KILL", "EngineCore")
        answer = asked.result()
    assert answer.ending in ("error", "cut"), answer
    print(f"engine killed while streaming: healthy after {running.healthy_again(before, 300):.0f} s")
    assert running.ask().ending == "complete"


def test_engine_stopped_with_a_stream_open(running: Running) -> None:
    before = running.serve().restarts
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, 4000, timeout_s=200)
        running.busy()
        running.signal("STOP", "EngineCore")
        recovered_s = running.healthy_again(before, 400)
        assert asked.result().ending in ("error", "cut")
    print(f"engine stopped with a client waiting: healthy after {recovered_s:.0f} s")
    assert running.ask().ending == "complete"


def test_a_second_start_downloads_nothing_again(running: Running) -> None:
    fetched = demand(running.stack.words("run", "--rm", "--no-deps", "-T", "fetch"), timeout_s=60)
    assert "as verified before" in fetched


FLIP = (
    "import pathlib, sys; p = next(pathlib.Path('/cache/hf/hub').rglob('snapshots/*/*.safetensors')).resolve();"
    "b = bytearray(p.read_bytes()); b[-64:] = bytes(255 - x for x in b[-64:]); p.chmod(0o644); p.write_bytes(b)"
)


@full
def test_flipped_weights_are_refused_and_fetched_again(running: Running) -> None:
    demand(running.stack.words("stop", "serve"), timeout_s=120)
    flip = running.stack.words(
        "run", "--rm", "--no-deps", "-T", "--entrypoint", "python3", "fetch", "-c", FLIP
    )
    demand(flip, timeout_s=60)
    # Not by Compose, which would run fetch first.
    running.engine.containers.get(running.serve().id).start()
    end = time.monotonic() + 60
    while (
        "differs" not in (log := containers.log(running.engine, running.serve().id, 5)) and "hash" not in log
    ):
        assert time.monotonic() < end, log
        time.sleep(1)
    demand(running.stack.words("stop", "serve"), timeout_s=120)
    started = up(running.stack, 600, lambda elapsed_s, phase: None)
    print(f"flipped weights: refused, fetched again, healthy after {started.elapsed_s:.0f} s")
    assert running.ask().ending == "complete"


def test_a_busy_port_is_a_sentence(running: Running, tmp_path: Path) -> None:
    port = running.url().rpartition(":")[2]
    other = tmp_path / "compose.yml"
    other.write_text(
        json.dumps({"name": "ernie-port", "services": {"serve": {
            "image": "ernie-deploy/engine-cpu:0.32.0", "entrypoint": ["sleep", "60"],
            "ports": [f"127.0.0.1:{port}:8000"]}}})
    )  # fmt: skip
    stack = Stack(files=(other,))
    try:
        with pytest.raises(ToolFailed, match=f"port 127.0.0.1:{port} of this host is taken"):
            up(stack, 60, lambda elapsed_s, phase: None)
    finally:
        ask(stack.down(), timeout_s=60)


@full
def test_engine_killed_while_idle(running: Running) -> None:
    before = running.serve().restarts
    running.signal("KILL", "EngineCore")
    print(f"engine killed while idle: healthy after {running.healthy_again(before, 300):.0f} s")


@full
def test_api_process_killed(running: Running) -> None:
    before = running.serve().restarts
    running.signal("KILL", "vllm serve")
    print(f"API process killed: healthy after {running.healthy_again(before, 300):.0f} s")


@full
def test_a_saturated_server_is_left_alone(running: Running) -> None:
    before = running.serve()
    with ThreadPoolExecutor(30) as pool:
        asked = [pool.submit(running.ask, 3000, timeout_s=900) for _ in range(30)]
        end = time.monotonic() + 300
        while time.monotonic() < end and not all(request.done() for request in asked):
            now = running.serve()
            assert (now.restarts, now.started_at) == (before.restarts, before.started_at)
            time.sleep(5)
        assert all(request.result().ending == "complete" for request in asked)


CASES = [["h100", "--profile", "mtp"]]
MORE = [["mi300x"], ["h100"], ["h200"], ["cpu"], ["mi300x", "--profile", "mtp"], ["h100", "--model", "300b"],
        ["h100", "--model", "vl-28b"]]  # fmt: skip


@pytest.mark.parametrize("words", CASES + (MORE if FULL else []), ids=" ".join)
def test_rehearsal(docker_engine: None, words: list[str]) -> None:
    done = kit("rehearse", *words, "--json", timeout=1400)
    verdict = json.loads(done.stdout)
    print(done.stderr)
    assert [proof["what"] for proof in verdict["proofs"] if not proof["holds"]] == []
    assert done.returncode == 0
    assert len(verdict["proofs"]) >= 11
