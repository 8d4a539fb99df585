"""The evidence that a stack's containers hold: how they ended, and what those printed that are not well."""

from typing import TYPE_CHECKING

from ernie_deploy.errors import UsageError
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, require_compose
from ernie_deploy.stack.evidence import Evidence, Line, of_text

if TYPE_CHECKING:
    from docker import DockerClient

LINES = 4_000


def evidence_of(stack: Stack) -> Evidence:
    """The evidence of a stack's containers; raises `KitError`."""
    from ernie_deploy.stack.lifecycle import resolve

    require_compose()
    return evidence_of_project(resolve(stack)["name"])


def evidence_of_project(project: str) -> Evidence:
    """The evidence of a project that the engine knows by name; raises `KitError`."""
    engine = containers.client()
    states = containers.states(engine, project)
    if not states:
        raise UsageError(
            f"There are no containers of {project[:60]}.",
            cause="it was never started here, or was taken down",
            next_step="start it with: ernie-deploy up; or name a log: ernie-deploy explain FILE",
        )
    return of_containers(engine, states)


def of_containers(engine: "DockerClient", states: list[containers.State]) -> Evidence:
    """How containers ended, and the logs of those that are not well."""
    lines = [Line(text=text, by="host") for text in containers.ends(states)]
    for state in states:
        if not is_well(state):
            lines += named(_log(engine, state), state.service)
    return Evidence(tuple(lines))


def named(log: str, service: str) -> list[Line]:
    """The lines of a container's log, with the container's name."""
    from msgspec.structs import replace

    return [
        replace(line, name=line.name or service, by="engine" if line.by == "any" else line.by)
        for line in of_text(log).lines
    ]


def _log(engine: "DockerClient", state: containers.State) -> str:
    """What it printed since it was started; the starts before too, where it was started again by itself."""
    if state.restarts:
        return containers.log(engine, state.id, LINES)
    return containers.log_of_start(engine, state)


def is_well(state: containers.State) -> bool:
    """Whether a container runs and is healthy, or has done its work."""
    if state.status == "exited":
        return not state.exit_code
    return state.status == "running" and state.health in ("", "healthy") and not state.error
