"""Two stacks with folders of their own on one engine volume: restarts, an end with `--volumes`, and what may go then."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ENGINE, FULL, ROOT, kit, rendered

from ernie_deploy.rehearsal.client import chat
from ernie_deploy.rehearsal.override import cpu_image
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand
from ernie_deploy.stack.waiting import poll_until

IMAGE = cpu_image(ENGINE)
pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(1500),
    # Two servers at once on two cores: eleven minutes beside other work.
    pytest.mark.skipif(not FULL, reason="only with .ci/run --full"),
]
KERNELS = "ernie-volumes-kernels"
UP_S = 600
CHANGES = f"""
volumes:
  engine-cache: {{name: {KERNELS}}}
services:
  fetch: &image {{image: "{IMAGE}"}}
  bench: *image
  serve:
    image: "{IMAGE}"
    ports: !override ["127.0.0.1::8000"]
    environment: {{VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: "1"}}
"""
# The interpreter's own search for code below HOME, as it was when HOME lay on the engine's volume.
PLANTED = """
import sys
from pathlib import Path
folder = Path("/cache/engine/.local/lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages")
folder.mkdir(parents=True)
(folder / "usercustomize.py").write_text("open('/cache/engine/ran', 'w')")
"""


class Served:
    """One stack that serves a folder of its own."""

    def __init__(self, folder: Path, project: str) -> None:
        self.folder, self.project = folder, project
        self.file = folder / "compose.yml"
        self.stack = Stack(files=(self.file,))
        self.engine = containers.client()

    def lay_out(self) -> None:
        """The rendering for the folder, with the image and the volume of a test, as Compose resolves it."""
        weights = self.folder / "weights"
        words = [sys.executable, ROOT / "docker/rehearsal/checkpoints.py", self.folder, "dense"]
        subprocess.run(words, check=True)
        (self.folder / "dense").rename(weights)
        # The same names and other contents, as two trainings of one model are.
        (weights / "config.json").write_text((weights / "config.json").read_text() + len(self.project) * "\n")
        (self.folder / "rendered.yml").write_text(rendered("cpu", weights=str(weights)))
        (self.folder / "changes.yml").write_text(CHANGES)
        files = (self.folder / "rendered.yml", self.folder / "changes.yml")
        self.file.write_text(
            demand(Stack(files=files, project=self.project).words("--profile", "*", "config"))
        )

    def state(self) -> containers.State:
        states = containers.states(self.engine, self.project)
        return next(state for state in states if state.service == "serve")

    def restart(self) -> None:
        """Start the same container again without a fetch, as the restart policy does."""
        before = self.state().started_at
        self.engine.containers.get(self.state().id).restart(timeout=20)
        assert poll_until(
            lambda: self.state().started_at != before and self.state().health == "healthy", UP_S
        ), containers.log(self.engine, self.state().id, 20)

    def answers(self) -> bool:
        url = "http://" + demand(self.stack.words("port", "serve", "8000")).strip()
        return chat(url, "baidu/ERNIE-4.5-0.3B-PT", max_tokens=8, stream=False).ending == "complete"


def volumes() -> set[str]:
    return set(demand(["docker", "volume", "ls", "--quiet"]).split())


@pytest.fixture(scope="module")
def two(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Served, Served]]:
    folder = tmp_path_factory.mktemp("volumes")
    stacks = Served(folder / "one", "ernie-volumes-one"), Served(folder / "other", "ernie-volumes-other")
    try:
        for served in stacks:
            served.folder.mkdir()
            served.lay_out()
            demand(served.stack.up(UP_S), timeout_s=UP_S + 60)
        yield stacks
    finally:
        for served in stacks:
            ask(served.stack.words("--profile", "*", "down", "--volumes", "--timeout", "5"), timeout_s=120)


def test_each_restarts_with_its_own_weights_and_runs_nothing_that_was_left_behind(
    two: tuple[Served, Served],
) -> None:
    demand(two[0].stack.words("exec", "-T", "serve", "python3", "-c", PLANTED))
    for served in two:
        served.restart()
        assert served.answers()
    seen = demand(
        two[0].stack.words("exec", "-T", "serve", "sh", "-c", "ls /cache/engine; find /tmp -name '*.so*'")
    )
    # What is compiled lies where it may execute, and nothing that was planted below the former HOME ran.
    assert {"vllm", "inductor"} <= set(seen.split())
    assert "ran" not in seen.split()
    assert ".so" not in seen


def test_an_end_with_volumes_leaves_the_other_serving(two: tuple[Served, Served]) -> None:
    one, other = two
    refused = kit("volumes", "remove", KERNELS, "--yes")
    assert refused.returncode == 4
    assert "serve of ernie-volumes-one (running)" in refused.stderr
    done = kit("down", "-f", str(one.file), "--volumes", timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"{one.project}_state" not in volumes()
    assert {KERNELS, f"{other.project}_state"} <= volumes()
    other.restart()
    assert other.answers()


def test_what_stacks_share_goes_when_nobody_refers_to_it(two: tuple[Served, Served]) -> None:
    one, other = two
    demand(other.stack.words("stop", "--timeout", "20"), timeout_s=120)
    listed = {volume["name"]: volume for volume in json.loads(kit("volumes", "--json").stdout)}
    assert {user["project"] for user in listed[KERNELS]["users"]} == {other.project}
    assert listed[KERNELS]["size_bytes"] > 0
    # Compose's own removal is the engine's to refuse, as long as a container is there, even a stopped one.
    demand(one.stack.words("down", "--volumes"), timeout_s=120)
    assert KERNELS in volumes()
    unasked = kit("volumes", "remove", f"{other.project}_state")
    assert unasked.returncode == 4, unasked.stderr
    assert kit("down", "-f", str(other.file), timeout=120).returncode == 0
    unasked = kit("volumes", "remove", KERNELS)
    assert (unasked.returncode, KERNELS in volumes()) == (2, True), unasked.stderr
    for name in (KERNELS, f"{other.project}_state"):
        removed = kit("volumes", "remove", name, "--yes", "--json")
        assert json.loads(removed.stdout) == {"name": name, "removed": True}, removed.stderr
    assert not {KERNELS, f"{other.project}_state"} & volumes()
