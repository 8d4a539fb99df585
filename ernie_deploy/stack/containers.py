"""What the Docker engine knows of a stack's containers, read through its API."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from ernie_deploy.errors import ToolMissing

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

PROJECT = "com.docker.compose.project"
SERVICE = "com.docker.compose.service"
ONE_OFF = "com.docker.compose.oneoff"
# What the launcher says before it waits (docker/scripts/serve.py): the engine's own words are those of starts before. Only
# scripts have printed until then, so a client, whose words come into the log once the API serves, cannot say it.
WAITS = re.compile(
    r"\A(?:(?:api-key|node|serve): .{0,2000}\n){0,100}?"
    r"serve: \d{1,9} starts in a row never became healthy, the first of them at ([\dT:.+-]{1,40}), "
)
# A start of several GPUs prints less than a megabyte; what a server prints later has no end.
MOST_OF_START_BYTES = 8 << 20
# The engine notes a start only after the process runs, on a busy machine some tenths of a second after its first words.
NOTED_LATE_S = 5.0
# For `top`: without it the daemon's COLUMNS may cut the arguments off.
WIDE = "-efww"


class State(Struct, frozen=True, kw_only=True):
    """One container as the engine sees it; `health` is empty without a health check."""

    service: str
    id: str
    status: str
    health: str
    exit_code: int
    restarts: int
    started_at: str
    last_probe: str
    ports: dict[str, str]
    oom_killed: bool = False
    error: str = ""


def client() -> "DockerClient":
    """Connect to the engine of this shell; raises `ToolMissing` with the reason."""
    from docker.errors import DockerException

    import docker

    try:
        made = docker.from_env()
        made.ping()
    except DockerException as fault:
        raise ToolMissing(
            "The Docker engine does not answer.",
            cause=str(fault).splitlines()[0][:200],
            next_step="start it, or add yourself to the group docker: sudo usermod -aG docker $USER",
        ) from fault
    return made


def states(engine: "DockerClient", project: str) -> list[State]:
    """Every container of a project, by service; one-off runs left out."""
    # Compose renames and removes what it makes anew meanwhile.
    listed = engine.containers.list(all=True, filters={"label": f"{PROJECT}={project}"}, ignore_removed=True)
    return sorted(
        (_state(c) for c in listed if c.labels.get(ONE_OFF, "False") == "False"), key=lambda s: s.service
    )


def of_service(states: Iterable[State], service: str) -> State | None:
    """The container of a service among these; None where it has none."""
    return next((state for state in states if state.service == service), None)


def described(engine: "DockerClient", state: State) -> dict[str, Any]:
    """A container as a ticket needs it: its image, how it runs or ended, and its last health probes."""
    container = engine.containers.get(state.id)
    data = container.attrs
    return {
        "service": state.service,
        "image": data["Config"]["Image"],
        "image_id": data["Image"],
        "created": data["Created"],
        "state": data["State"],
        "restarts": state.restarts,
        "ports": state.ports,
        "mounts": [
            f"{mount.get('Name') or mount.get('Source')} -> {mount['Destination']}"
            for mount in data["Mounts"]
        ],
        "memory_limit_bytes": data["HostConfig"].get("Memory"),
        "shm_size_bytes": data["HostConfig"].get("ShmSize"),
        "networks": list(data["NetworkSettings"]["Networks"]),
    }


def ends(states: Iterable[State]) -> list[str]:
    """How containers ended that did not end well, each in a line as Docker words it."""
    lines = []
    for state in states:
        if state.error:
            lines.append(state.error)
        elif state.status == "exited" and state.exit_code:
            killed = ", OOMKilled" if state.oom_killed else ""
            lines.append(f"{state.service} exited with code {state.exit_code}{killed}")
    return lines


def last_line(engine: "DockerClient", container_id: str) -> str:
    """The newest line of a container's log; empty where it is gone or silent."""
    from docker.errors import APIError

    try:
        text: bytes = engine.containers.get(container_id).logs(tail=1)
    except APIError:
        return ""
    return text.decode("utf-8", "replace").strip()


def log(engine: "DockerClient", container_id: str, lines: int = 400) -> str:
    """The end of a container's log."""
    from docker.errors import APIError

    try:
        text: bytes = engine.containers.get(container_id).logs(tail=lines)
    except APIError:
        return ""
    return text.decode("utf-8", "replace")


class Log(NamedTuple):
    """The first megabytes of a container's log; `cut` where it may have more."""

    text: str
    cut: bool = False


def log_since(engine: "DockerClient", container_id: str, since_unix_s: float) -> Log:
    """What a container printed since then; empty where it is gone."""
    from docker.errors import APIError

    try:
        container = engine.containers.get(container_id)
        return _first(container.logs(since=since_unix_s, stream=True, follow=False))
    except APIError:
        return Log("")


def log_of_start(engine: "DockerClient", state: State) -> str:
    """What a container printed first since it was started; where its launcher waits after failed starts, theirs before.

    Nothing older comes with it: of a start that served, the log has a client's words too.
    """
    from docker.errors import APIError

    # Docker says year 1 of one that was never started.
    began = max(0.0, _moment(state.started_at)) or None
    try:
        container = engine.containers.get(state.id)
        # Where the log is no older than this start, no start before it could have served.
        whole = began is not None and _first_words(container) >= began - NOTED_LATE_S
        text = _first(container.logs(since=None if whole else began, stream=True, follow=False)).text
        if waits := WAITS.match(text):
            failed = container.logs(since=_moment(waits[1]), until=began, stream=True, follow=False)
            return _first(failed).text + text
    except APIError:
        return ""
    return text


def _first_words(container: "Container") -> float:
    """When a container printed the first line that its log still has; 0 where it printed none."""
    line = next(iter(container.logs(timestamps=True, stream=True, follow=False)), b"")
    stamp = line.partition(b" ")[0].decode("ascii", "replace")
    return _moment(stamp) if stamp else 0.0


def _first(parts: Iterable[bytes]) -> Log:
    """The first MOST_OF_START_BYTES of a log."""
    read = bytearray()
    for part in parts:
        read += part
        if len(read) >= MOST_OF_START_BYTES:
            break
    return Log(read[:MOST_OF_START_BYTES].decode("utf-8", "replace"), cut=len(read) >= MOST_OF_START_BYTES)


def seconds_until(engine: "DockerClient", state: State, words: str) -> float | None:
    """How long after its start a container first logged these words; None where it never did."""
    printed: bytes = engine.containers.get(state.id).logs(timestamps=True, since=_moment(state.started_at))
    line = next((line for line in printed.decode("utf-8", "replace").splitlines() if words in line), "")
    return _moment(line.partition(" ")[0]) - _moment(state.started_at) if line else None


def seconds_until_probed(engine: "DockerClient", state: State) -> float | None:
    """How long after its start a container first passed a health probe; None where none that is kept did.

    The engine keeps the last five probes.
    """
    kept = (engine.containers.get(state.id).attrs["State"].get("Health") or {}).get("Log") or []
    ended = next((probe["End"] for probe in kept if probe["ExitCode"] == 0), "")
    return _moment(ended) - _moment(state.started_at) if ended else None


def _moment(text: str) -> float:
    """Docker's time, 2026-11-22T03:31:57.123456789Z, or with an offset where the daemon has a zone, as seconds."""
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _state(container: "Container") -> State:
    data = container.attrs
    health = data["State"].get("Health") or {}
    probes = health.get("Log") or [{}]
    return State(
        service=container.labels.get(SERVICE, ""),
        id=container.id or "",
        status=data["State"]["Status"],
        health=health.get("Status", ""),
        exit_code=data["State"]["ExitCode"],
        restarts=data["RestartCount"],
        started_at=data["State"]["StartedAt"],
        last_probe=probes[-1].get("Output", "").strip(),
        ports=_ports(data["NetworkSettings"]["Ports"] or {}),
        oom_killed=data["State"].get("OOMKilled", False),
        error=data["State"].get("Error", ""),
    )


def _ports(bindings: dict[str, list[dict[str, str]] | None]) -> dict[str, str]:
    """Container port -> address of the host."""
    return {port: f"{bound[0]['HostIp']}:{bound[0]['HostPort']}" for port, bound in bindings.items() if bound}
