"""Brings a stack up with a live view, and names the cause if it fails."""

import queue
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import NotReady, ToolFailed
from ernie_deploy.stack import containers, evidence, gateway
from ernie_deploy.stack.address import api_address
from ernie_deploy.stack.compose import Stack, demand, require_compose, started
from ernie_deploy.stack.failures import recognise
from ernie_deploy.stack.progress import Phase, phase
from ernie_deploy.stack.rendered import Rendered, rendered
from ernie_deploy.stack.unknown import unknown
from ernie_deploy.stack.verdict import next_step, shown

if TYPE_CHECKING:
    import subprocess

    from docker import DockerClient

POLL_S = 1.0
Show = Callable[[float, Phase], None]


class Started(Struct, frozen=True, kw_only=True):
    """A stack that became healthy, how long that took, and where its API is, '' where it has none here.

    `address` is `HOST:PORT` and `url` the whole of it; `keyless` says that its gateway has no key yet, so that it
    lets nobody in.
    """

    project: str
    address: str
    url: str = ""
    keyless: bool = False
    elapsed_s: float
    states: list[containers.State]


def up(stack: Stack, wait_timeout_s: int, show: Show, options: Sequence[str] = ()) -> Started:
    """Run `docker compose up --wait` and show each phase; raises `ToolFailed` or `NotReady`.

    `options` are further ones of Compose's `up`.
    """
    require_compose()
    resolved = resolve(stack)
    engine, project = containers.client(), resolved["name"]
    begun = time.monotonic()
    printed: list[str] = []
    with started(stack.up(wait_timeout_s, *options)) as process:
        lines = _read(process)
        while process.poll() is None:
            show(time.monotonic() - begun, _phase(engine, project))
            _drain(lines, printed, POLL_S)
        elapsed_s = time.monotonic() - begun
        _drain(lines, printed, POLL_S)
    states = containers.states(engine, project)
    # Compose 2.40 ends with 0 although the engine refused a port.
    if process.returncode or not _stands(states):
        raise failure(engine, project, "\n".join(printed), elapsed_s, wait_timeout_s, rendered_file(stack))
    show(elapsed_s, _phase(engine, project))
    url = url_of_api(stack, resolved["services"], states)
    return Started(
        project=project, address=url.partition("://")[2], url=url, keyless=_keyless(resolved["services"]),
        elapsed_s=elapsed_s, states=states,
    )  # fmt: skip


def url_of_api(stack: Stack, services: Mapping[str, Any], states: Sequence[containers.State]) -> str:
    """Where clients of this host reach the API, through the gateway where there is one; '' where they cannot."""
    if gateway.SERVICE in services:
        made_by = rendered_file(stack)
        return gateway.url_of(services, states, made_by.words if made_by else ())
    address = api_address(services, states)
    return f"http://{address}" if address else ""


def _keyless(services: Mapping[str, Any]) -> bool:
    folder = gateway.folder_of(services)
    return folder is not None and gateway.has_keys(folder) is False


def _stands(states: list[containers.State]) -> bool:
    """Whether every container but those that were to end is running and healthy."""
    ended = [state for state in states if state.status == "exited" and not state.exit_code]
    return bool(states) and all(
        state in ended or (state.status == "running" and state.health in ("", "healthy")) for state in states
    )


def resolve(stack: Stack) -> dict[str, Any]:
    """The files as Compose itself resolves them, every profile's services; raises `ToolFailed` on a faulty one."""
    import json

    resolved: dict[str, Any] = json.loads(demand(stack.resolved()))
    return resolved


def own_volumes(resolved: dict[str, Any]) -> list[str]:
    """Names of the volumes that are a stack's alone: Compose named them after it, and not the file."""
    project, declared = resolved["name"], resolved.get("volumes") or {}
    return [
        volume["name"]
        for key, volume in declared.items()
        if volume["name"] == f"{project}_{key}" and not volume.get("external")
    ]


def rendered_file(stack: Stack) -> Rendered | None:
    """What rendered the stack's first file; None where the kit did not."""
    return rendered(stack.files[0])


def failure(  # noqa: PLR0913, PLR0917 - what is known of the start
    engine: "DockerClient",
    project: str,
    printed: str,
    elapsed_s: float,
    wait_timeout_s: int,
    made_by: Rendered | None,
) -> ToolFailed | NotReady:
    """The cause of a failed start, from the table of known ones or from the last line of the log."""
    states = containers.states(engine, project)
    logs = {state.service: containers.log_of_start(engine, state) for state in states}
    ends = "\n".join(containers.ends(states))
    seen = evidence.gathered(f"{printed}\n{ends}", logs.values())
    if known := recognise(seen, Catalog()):
        return ToolFailed(
            known.what, cause=f"the log says: {shown(known.line)}", next_step=next_step(known, made_by)
        )
    exception = unknown(seen.lines, Catalog()).exception
    last = shown(exception) if exception else evidence.last(_own(logs) or evidence.cut(printed))
    if elapsed_s >= wait_timeout_s - 1:
        return NotReady(
            f"The server was not ready after {elapsed_s:.0f} s.",
            cause=last,
            next_step="watch it with: ernie-deploy logs --follow; ENGINE_READY_TIMEOUT_S in .env allows more",
        )
    return ToolFailed(
        "The stack did not come up.",
        cause=last,
        next_step="read the whole log with: ernie-deploy logs",
    )


def _phase(engine: "DockerClient", project: str) -> Phase:
    states = containers.states(engine, project)
    return phase(states, lambda state: containers.last_line(engine, state.id))


def _read(process: "subprocess.Popen[str]") -> "queue.Queue[str]":
    """Collect a process's lines beside the main loop, so that its pipe never fills."""
    lines: queue.Queue[str] = queue.Queue()

    def pump() -> None:
        assert process.stdout, "started with a pipe"
        # The reader closes the pipe at its end; from outside it would be closed under a read.
        with process.stdout as pipe:
            for line in pipe:
                lines.put(line.rstrip("\n"))

    threading.Thread(target=pump, daemon=True).start()
    return lines


def _drain(lines: "queue.Queue[str]", printed: list[str], for_s: float) -> None:
    end = time.monotonic() + for_s
    while (left := end - time.monotonic()) > 0:
        try:
            printed.append(lines.get(timeout=left))
        except queue.Empty:
            return


def _own(logs: dict[str, str]) -> list[str]:
    """The server's own words, without those of its clients."""
    return [line for _, line in evidence.before_serving(logs.get("serve") or logs.get("worker") or "")]


def commands(stack: Stack, wait_timeout_s: int) -> str:
    """What `up` runs, as a shell would take it."""
    return shlex.join(stack.up(wait_timeout_s))


def compose_path(file: Path | None) -> Path:
    """The file a lifecycle command means: the one named, or compose.yml here."""
    return file or Path("compose.yml")
