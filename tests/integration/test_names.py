"""Two stacks of one model on one engine, told apart by `--name` alone, and one of them rendered anew in place."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FULL, planned, rendered
from integration.stack import Running

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.override import decide, override_file
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand

# Three starts of vLLM, four minutes: beyond the forty that `.ci/run` may take.
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500), full]
# Those of the stack of the other tests: its weights are verified, its kernels compiled.
CACHES = "ernie-faults"
UP_S = 600


class Named(Running):
    """A stack whose project is the name that its own file gives."""

    def __init__(self, name: str, folder: Path) -> None:
        # The project of a rehearsal names the weights' volume, which all stacks of a host share.
        rehearsal = decide(planned("cpu", name=name), folder, CACHES)
        runner.lay_out(rehearsal, rendered("cpu", name=name))
        files = (folder / "compose.yml", folder / "rehearsal.yml")
        super().__init__(rehearsal, Stack(files=files, env_file=folder / ".env"))
        self.name, self.folder = name, folder

    def serve(self) -> containers.State:
        return next(state for state in containers.states(self.engine, self.name) if state.service == "serve")

    def url(self) -> str:
        return f"http://{self.serve().ports['8000/tcp']}"

    def up(self) -> None:
        demand(self.stack.words("up", "--detach", "--wait", "--wait-timeout", str(UP_S)), timeout_s=UP_S + 60)

    def down(self) -> None:
        demand(self.stack.down(), timeout_s=120)

    def projects(self) -> set[str]:
        """The projects of every container that serves from this folder."""
        label = f"com.docker.compose.project.working_dir={self.folder}"
        found = self.engine.containers.list(all=True, filters={"label": label})
        return {container.labels[containers.PROJECT] for container in found}


@pytest.fixture(scope="module")
def pair(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Named, Named]]:
    base = tmp_path_factory.mktemp("names")
    stacks = Named("ernie-north", base / "north"), Named("ernie-south", base / "south")
    try:
        for stack in stacks:
            stack.up()
        yield stacks
    finally:
        for stack in stacks:
            print(ask(stack.stack.logs(tail="40"), timeout_s=60).stdout)
            ask(stack.stack.words("--profile", "*", "down", "--volumes", "--timeout", "5"), timeout_s=60)
        shutil.rmtree(base, ignore_errors=True)


def test_two_names_run_side_by_side(pair: tuple[Named, Named]) -> None:
    for stack in pair:
        assert stack.serve().health == "healthy"
        assert stack.projects() == {stack.name}
        assert stack.ask().ending == "complete"
    assert len({stack.url() for stack in pair}) == 2


def test_another_profile_replaces_the_stack_in_place(pair: tuple[Named, Named]) -> None:
    north, south = pair
    before, neighbour = south.serve(), north.serve()
    plan = planned("cpu", name=south.name, profiles=("no-prefix-cache",))
    (south.folder / "compose.yml").write_text(rendered("cpu", name=south.name, profiles=("no-prefix-cache",)))
    (south.folder / "rehearsal.yml").write_text(override_file(decide(plan, south.folder, CACHES)))
    south.up()
    after = south.serve()
    assert after.id != before.id
    assert after.health == "healthy"
    assert south.projects() == {south.name}
    assert south.pids("--no-enable-prefix-caching")
    assert (north.serve().id, north.serve().started_at) == (neighbour.id, neighbour.started_at)


def test_one_is_taken_down_and_the_other_does_not_notice(pair: tuple[Named, Named]) -> None:
    north, south = pair
    neighbour = south.serve()
    north.down()
    assert north.projects() == set()
    now = south.serve()
    assert (now.id, now.started_at, now.restarts) == (neighbour.id, neighbour.started_at, neighbour.restarts)
    assert south.ask().ending == "complete"
