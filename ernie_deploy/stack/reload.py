"""Has a running gateway read its files anew: a new HAProxy takes over the listeners, the old one ends its streams."""

import re
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ernie_deploy.errors import ToolFailed
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, require_compose

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

SERVICE = "gateway"
# PID 1 hands it to HAProxy's master. By exec: after `docker kill` the engine would not start the container again.
SIGNAL = ("sh", "-c", "kill -USR2 1")
# The image has neither curl nor Python; the port is the one of the health check.
ASK = (
    "bash",
    "-c",
    r"exec 3<>/dev/tcp/127.0.0.1/8405; printf 'GET /metrics?scope=global HTTP/1.0\r\n\r\n' >&3; cat <&3",
)
GLOBAL = re.compile(r"^haproxy_process_(start_time|uptime)_seconds (\d{1,12})\s*$", re.MULTILINE)
# Words of HAProxy's master that name what a configuration is read with.
OF_CONFIGURATION = ("-f", "-L", "-C")
ALERT = re.compile(r"^\[ALERT\]\s{0,20}\(\d{1,10}\) : (.{1,2000})$", re.MULTILINE)
TAKES_OVER_S = 30.0
# HAProxy gives the time of its start in whole seconds: one that is younger could not be told from the next.
YOUNGEST_S = 2


class Worker(Struct, frozen=True):
    """The HAProxy that serves: when it started, in seconds since 1970, and for how long it has run."""

    start_s: int
    uptime_s: int


def command(stack: Stack) -> list[str]:
    """What `reload` runs, as Compose's own command line."""
    return stack.words("exec", "--no-TTY", SERVICE, *SIGNAL)


def reload(stack: Stack) -> bool:
    """Have the gateway's files taken up; False where none runs. Raises `KitError`, and then the old ones count.

    Raises `ToolMissing` without Docker, `ToolFailed` where HAProxy refuses a file or did not take over in time.
    """
    from ernie_deploy.stack.lifecycle import resolve

    require_compose()
    return reload_project(containers.client(), resolve(stack)["name"])


def reload_project(engine: "DockerClient", project: str) -> bool:
    """The same of a project that the engine knows by name."""
    state = containers.of_service(containers.states(engine, project), SERVICE)
    if state is None or state.status != "running":
        return False
    container = engine.containers.get(state.id)
    _refuse_faulty(container)
    before = _old_enough(container)
    _demand(container, SIGNAL)
    _wait_for_another(container, before)
    return True


def _refuse_faulty(container: "Container") -> None:
    """Raise `ToolFailed` with HAProxy's words where it would refuse a file: its master would only log them."""
    code, output = _run(container, ["haproxy", "-c", *configuration_words(container.attrs)])
    if code:
        raise ToolFailed(
            "The gateway refuses its files as they are now; those it has read before still count.",
            cause="; ".join(ALERT.findall(output))[:600] or output[-300:],
            next_step="correct what it names, then: ernie-deploy reload",
        )


def configuration_words(attrs: dict[str, Any]) -> list[str]:
    """The words of a container's command line that say which configuration HAProxy reads."""
    words = [str(attrs.get("Path", "")), *map(str, attrs.get("Args") or ())]
    return [word for pair in pairwise(words) if pair[0] in OF_CONFIGURATION for word in pair]


def _old_enough(container: "Container") -> Worker:
    """The worker of today, once the next one's time of start must be another."""
    worker = _worker(container)
    if worker is None:
        raise ToolFailed(
            "The gateway does not answer on its port for metrics.",
            cause="it starts just now, or its configuration has no listener on 8405",
            next_step="look at it with: ernie-deploy logs gateway",
        )
    time.sleep(max(0, YOUNGEST_S - worker.uptime_s))
    return worker


def _wait_for_another(container: "Container", before: Worker) -> None:
    end = time.monotonic() + TAKES_OVER_S
    while time.monotonic() < end:
        now = _worker(container)
        if now and now.start_s != before.start_s:
            return
        time.sleep(0.1)
    raise ToolFailed(
        f"The gateway did not take up its files within {TAKES_OVER_S:g} s; those it has read before still count.",
        cause=_last_alert(container),
        next_step="look at it with: ernie-deploy logs gateway",
    )


def _worker(container: "Container") -> Worker | None:
    code, output = _run(container, ASK)
    values = {name: int(value) for name, value in GLOBAL.findall(output)}
    return None if code or len(values) < 2 else Worker(values["start_time"], values["uptime"])  # noqa: PLR2004 - both


def _last_alert(container: "Container") -> str:
    alerts = ALERT.findall(container.logs(tail=200).decode("utf-8", "replace"))
    return alerts[-1] if alerts else "its log has no alert"


def _demand(container: "Container", words: Sequence[str]) -> None:
    code, output = _run(container, words)
    if code:
        raise ToolFailed(
            f"`{' '.join(words)}` in the gateway ended with {code}.", cause=output.strip()[-300:]
        )


def _run(container: "Container", words: Sequence[str]) -> tuple[int, str]:
    from docker.errors import APIError

    try:
        done = container.exec_run(list(words))
    except APIError as fault:
        raise ToolFailed("The gateway's container is gone.", cause=str(fault)[:300]) from fault
    return done.exit_code or 0, done.output.decode("utf-8", "replace")
