"""Where a starting stack stands, judged from its containers and the newest line of their logs."""

import re
from collections.abc import Callable, Sequence

from msgspec import Struct

from ernie_deploy.stack.containers import State
from ernie_deploy.stack.evidence import is_access

# What vLLM 0.32.0 logs on its way, newest wins.
LOADING = re.compile(
    r"Loading (?:safetensors|weights|model)|Starting to load|Loading checkpoint", re.IGNORECASE
)
COMPILING = re.compile(
    r"torch\.compile|Compiling|Dynamo|inductor|Capturing (?:CUDA|HIP)? ?graphs?|warm", re.IGNORECASE
)


class Phase(Struct, frozen=True):
    """One word for where the start is, and the line that shows it."""

    name: str
    detail: str = ""


def phase(states: Sequence[State], newest: Callable[[State], str]) -> Phase:
    """Judge a start; `newest` gives the last log line of a container."""
    by_service = {state.service: state for state in states}
    # A worker node has no `serve`.
    serve, fetch = by_service.get("serve") or by_service.get("worker"), by_service.get("fetch")
    if serve and serve.status == "running":
        return _serving(serve, newest(serve), by_service.get("gateway"))
    if fetch and fetch.status == "running":
        return Phase("fetching", newest(fetch).removeprefix("fetch: "))
    if fetch and fetch.status == "exited" and fetch.exit_code:
        return Phase("failed", newest(fetch))
    if serve and serve.status == "restarting":
        return Phase("restarting", newest(serve))
    return Phase("preparing" if states else "pulling")


def _serving(serve: State, line: str, gateway: State | None) -> Phase:
    if serve.health == "healthy":
        if gateway and gateway.health != "healthy":
            return Phase("opening", gateway.last_probe)
        return Phase("healthy", serve.last_probe)
    if is_access(line):
        # A client words it.
        return Phase("starting")
    if LOADING.search(line):
        return Phase("loading", line)
    if COMPILING.search(line):
        return Phase("compiling", line)
    return Phase("starting", line)
