"""Checks of Docker and Compose."""

import re
from collections.abc import Iterator

from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning

OLDEST_DOCKER = (20, 10)
# The first with `!override`, which a user's own override files need.
OLDEST_COMPOSE = (2, 24, 4)
INSTALL = (
    "install Docker Engine 20.10 or newer with its Compose plugin, from your distribution or Docker itself"
)


def version_of(text: str) -> tuple[int, ...]:
    """`20.10.24+dfsg1` as numbers."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


def engine(examination: Examination) -> Iterator[Finding]:
    """Docker is there, new enough, and answers this user."""
    docker = examination.facts.docker
    if not docker.installed:
        yield error("docker", "Docker is not installed.", INSTALL)
    elif docker.fault:
        yield _silent(docker.fault)
    elif version_of(docker.version) < OLDEST_DOCKER:
        yield error("docker", f"Docker Engine {docker.version} is older than 20.10.", INSTALL)
    else:
        yield ok("docker", f"Docker Engine {docker.version} answers.")


def _silent(fault: str) -> Finding:
    if "permission denied" in fault.lower():
        remedy = 'sudo usermod -aG docker "$USER", then log in again; or repeat this with sudo'
        return error("docker-api", "This user may not talk to Docker's engine.", remedy)
    if "cannot connect" in fault.lower():
        return error("docker-api", "Docker's engine does not run.", "sudo systemctl start docker")
    return error("docker-api", f"Docker's engine does not answer: {fault}", "docker info")


def compose(examination: Examination) -> Iterator[Finding]:
    """Compose is there as a plugin, and new enough."""
    docker = examination.facts.docker
    if not docker.installed:
        return
    if not docker.compose:
        yield error(
            "compose", "`docker compose` is missing.",
            "install the Compose plugin: the package docker-compose-plugin or docker-compose-v2",
        )  # fmt: skip
    elif version_of(docker.compose) < OLDEST_COMPOSE:
        yield error("compose", f"Compose {docker.compose} is older than 2.24.4.", "update the Compose plugin")
    else:
        yield ok("compose", f"Compose {docker.compose}.")


def place(examination: Examination) -> Iterator[Finding]:
    """The engine is on the host that is looked at."""
    if examination.remote:
        yield warning(
            "docker-host",
            f"DOCKER_HOST is {examination.remote}: containers run there, while files and devices were checked here.",
            "run doctor on that host",
        )


def cgroup(examination: Examination) -> Iterator[Finding]:
    """Which control groups hold the limits; both versions do."""
    docker = examination.facts.docker
    if docker.cgroup:
        note = ", which Docker calls deprecated since 29" if docker.cgroup == "1" else ""
        yield ok("cgroup", f"cgroup v{docker.cgroup} ({docker.cgroup_driver}){note}.")
    elif docker.version:
        yield unknown("cgroup", "Docker does not say which cgroup version it uses.")


def stack_name(examination: Examination) -> Iterator[Finding]:
    """No stack of another folder has this one's name, and none is left under the name it had before."""
    plan, containers = examination.plan, examination.facts.docker.containers
    elsewhere = sorted({c.folder for c in containers if c.project == plan.project} - {"", examination.folder})
    if elsewhere:
        yield warning(
            "stack-name",
            f"A stack named {plan.project} runs from {elsewhere[0]}: `up` here would replace its containers.",
            f"name this one otherwise: {examination.command('render', name=f'{plan.project[:38]}-b')}",
        )
    if not plan.request.name and any(c.project == plan.former_project for c in containers):
        yield warning(
            "stack-name",
            f"A stack under the former name {plan.former_project} runs beside this one.",
            f"docker compose --project-name {plan.former_project} down",
        )


CHECKS = (engine, compose, place, cgroup, stack_name)
