"""One stack for all these tests, started once: two at a time would starve two cores."""

from collections.abc import Iterator

import pytest
from conftest import planned, rendered
from integration.stack import Running

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.override import Rehearsal, decide
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.stack.compose import ask


@pytest.fixture(scope="session")
def rehearsal(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Rehearsal:
    return decide(planned("cpu"), tmp_path_factory.mktemp("faults"), "ernie-faults")


@pytest.fixture(scope="session")
def planted(rehearsal: Rehearsal) -> Planted:
    """The token that was planted where the stack reads it."""
    return runner.lay_out(rehearsal, rendered("cpu"))


# The fixtures of pytest-docker: its compose files, project, start and end.
@pytest.fixture(scope="session")
def docker_compose_file(rehearsal: Rehearsal, planted: Planted) -> list[str]:
    return [str(file) for file in members(rehearsal)[0].stack.files]


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
    return Running(rehearsal, members(rehearsal)[0].stack)


@pytest.fixture(autouse=True)
def _log_where_it_failed(request: pytest.FixtureRequest) -> Iterator[None]:
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed and "running" in request.fixturenames:
        print(ask(request.getfixturevalue("running").stack.logs(tail="40"), timeout_s=60).stdout)
