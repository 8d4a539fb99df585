"""A real vLLM behind the real HAProxy is upgraded with a stream open: the gateway ends first, and the stream whole."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import CATALOG, ENGINE, FULL, kit, planned, rendered
from integration.stack import recovered, require_haproxy, signals_and_ends

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.client import Answer, chat
from ernie_deploy.rehearsal.group import address, members
from ernie_deploy.rehearsal.override import Rehearsal, cpu_image, decide
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.rehearsal.stage import until
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand
from ernie_deploy.stack.metrics import scrape
from ernie_deploy.stack.servers import servers

full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800), full]
OPTIONS: dict[str, Any] = {
    "gateway": True,
    "tls": "self-signed",
    "pairs": ("enforce-eager=true", "shutdown-timeout=60"),
}
TOKENS, LIMIT_S, START_S = 1200, 180, 900
# The image of another version cannot be had on a machine without a registry: the same vLLM stands for it.
OTHER = next(engine for engine in CATALOG.ids("engines") if engine != ENGINE)
OTHER_IMAGE = f"ernie-deploy/engine-cpu:stands-for-{OTHER}"


class Front(NamedTuple):
    """The running stack: its folder and Compose's words for it."""

    rehearsal: Rehearsal
    stack: Stack
    planted: Planted

    def ask(self, tokens: int = TOKENS) -> Answer:
        name = self.rehearsal.plan.served_name
        return chat(address(self.rehearsal), name, max_tokens=tokens, stream=True, timeout_s=LIMIT_S, api_key=self.planted.api_key)  # fmt: skip

    def running(self) -> float:
        engine = containers.client()
        asked = servers(engine, {}, containers.states(engine, self.stack.project))
        return scrape(asked).get("vllm:num_requests_running", 0)

    def image(self) -> str:
        engine = containers.client()
        state = containers.of_service(containers.states(engine, self.stack.project), "serve")
        assert state
        return str(engine.containers.get(state.id).attrs["Config"]["Image"])


def write_images(rehearsal: Rehearsal, image: str) -> Path:
    """The override that gives the stack its images, as those of the rendering would come from a registry."""
    path = rehearsal.folder / "images.json"
    path.write_text(json.dumps({"services": {name: {"image": image} for name in ("serve", "fetch")}}))
    return path


@pytest.fixture(scope="module")
def front(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    require_haproxy()
    rehearsal = decide(
        planned("cpu", **OPTIONS), tmp_path_factory.mktemp("upgrade") / "stack", "ernie-upgrade"
    )
    rehearsal.folder.mkdir()
    # Put back at the end: this process trusts the certificate that is made.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("SSL_CERT_FILE", "")
    planted = runner.lay_out(rehearsal, rendered("cpu", **OPTIONS))
    first = members(rehearsal)[0].stack
    images = write_images(rehearsal, cpu_image(ENGINE))
    stack = Stack(files=(*first.files, images), project=first.project, env_file=first.env_file)
    demand(["docker", "tag", cpu_image(ENGINE), OTHER_IMAGE])
    try:
        demand(stack.up(START_S), timeout_s=START_S + 100)
        yield Front(rehearsal, stack, planted)
    finally:
        print(ask(stack.logs(tail="30"), timeout_s=60).stdout)
        ask(stack.words("--profile", "*", "down", "--volumes", "--timeout", "5"), timeout_s=120)
        ask(["docker", "image", "rm", OTHER_IMAGE])
        monkeypatch.undo()


def test_an_upgrade_ends_the_gateway_first_and_a_stream_whole(front: Front) -> None:
    assert front.ask(16).ending == "complete"
    folder = front.rehearsal.folder
    done = kit("upgrade", str(folder), "--engine", OTHER)
    assert done.returncode == 0, done.stderr
    assert f"v{OTHER}" in (folder / "compose.yml").read_text()
    # What it says comes next, with the images that stand for the new ones.
    assert f"next: cd {folder} && docker compose up -d --wait" in done.stderr
    write_images(front.rehearsal, OTHER_IMAGE)
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(front.ask)
        until(lambda: bool(front.running()) or stream.done(), 30)
        assert not stream.done(), stream.result()
        begun = time.monotonic()
        with signals_and_ends(front.stack.project) as events:
            demand(front.stack.up(START_S), timeout_s=START_S + 100)
        answer = stream.result(60)
    recovered("upgraded with a stream open", time.monotonic() - begun)
    print(events)
    assert (answer.ending, answer.tokens) == ("complete", TOKENS), answer
    # The gateway is closed and empty before the server gets its signal.
    assert events.index(("die", "gateway")) < events.index(("kill", "serve")), events
    assert front.image() == OTHER_IMAGE
    assert front.ask(16).ending == "complete"
