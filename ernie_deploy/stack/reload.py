"""Has a running gateway read its files anew: a new HAProxy takes over the listeners, the old one ends its streams."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct

from ernie_deploy.errors import ToolFailed
from ernie_deploy.plan.gateway import OWN_PORT
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, require_compose
from ernie_deploy.stack.container_exec import run_inside
from ernie_deploy.stack.gateway import SERVICE, asking

if TYPE_CHECKING:
    from docker import DockerClient

# PID 1 hands it to HAProxy's master. By exec: after `docker kill` the engine would not start the container again.
SIGNAL = ("sh", "-c", "kill -USR2 1")
GLOBAL = re.compile(r"^haproxy_process_(start_time|uptime)_seconds (\d{1,12})\s*$", re.MULTILINE)
# Words of HAProxy's master that name what a configuration is read with.
OF_CONFIGURATION = ("-f", "-L", "-C")
ALERT = re.compile(r"^\[ALERT\]\s{0,20}\(\d{1,10}\) : (.{1,2000})$", re.MULTILINE)
TAKES_OVER_S = 30.0
# Standard error with the rest, and the exit code in a line of its own.
WITH_CODE = ("sh", "-c", 'exec 2>&1; "$@"; printf "\\n%s" "$?"', "sh")
Inside: TypeAlias = Callable[[Sequence[str]], str]
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
    attrs = engine.containers.get(state.id).attrs

    def inside(words: Sequence[str]) -> str:
        return run_inside(engine, state.id, words, limit_s=TAKES_OVER_S).decode("utf-8", "replace")

    reload_running(inside, configuration_words(attrs), lambda: containers.log(engine, state.id, 200))
    return True


def configuration_words(attrs: dict[str, Any]) -> list[str]:
    """The words of a container's command line that say which configuration HAProxy reads."""
    words = [str(attrs.get("Path", "")), *map(str, attrs.get("Args") or ())]
    return [word for pair in pairwise(words) if pair[0] in OF_CONFIGURATION for word in pair]


def reload_running(inside: Inside, configuration: Sequence[str], log: Callable[[], str]) -> None:
    """Reload the gateway that `inside` runs commands beside; raises `ToolFailed`, and then the old files count."""
    _refuse_faulty(inside, configuration)
    before = _old_enough(inside)
    code, output = _ended(inside, SIGNAL)
    if code:
        raise ToolFailed("The gateway could not be signalled.", cause=output[-300:])
    _wait_for_another(inside, before, log)


def _refuse_faulty(inside: Inside, configuration: Sequence[str]) -> None:
    """Raise `ToolFailed` with HAProxy's words where it would refuse a file: its master would only log them."""
    code, output = _ended(inside, ["haproxy", "-c", *configuration])
    if code:
        raise ToolFailed(
            "The gateway refuses its files as they are now; those it has read before still count.",
            cause="; ".join(ALERT.findall(output))[:600] or output[-300:],
            next_step="correct what it names, then: ernie-deploy reload",
        )


def _old_enough(inside: Inside) -> Worker:
    """The worker of today, once the next one's time of start must be another."""
    worker = _worker(inside)
    if worker is None:
        raise ToolFailed(
            "The gateway does not answer on its port for metrics.",
            cause=f"it is just starting, or its configuration has no listener on {OWN_PORT}",
            next_step="look at it with: ernie-deploy logs gateway",
        )
    time.sleep(max(0, YOUNGEST_S - worker.uptime_s))
    return worker


def _wait_for_another(inside: Inside, before: Worker, log: Callable[[], str]) -> None:
    end = time.monotonic() + TAKES_OVER_S
    while time.monotonic() < end:
        now = _worker(inside)
        if now and now.start_s != before.start_s:
            return
        time.sleep(0.1)
    alerts = ALERT.findall(log())
    raise ToolFailed(
        f"The gateway did not take up its files within {TAKES_OVER_S:g} s; those it has read before still count.",
        cause=alerts[-1] if alerts else "its log has no alert",
        next_step="look at it with: ernie-deploy logs gateway",
    )


def _worker(inside: Inside) -> Worker | None:
    """The HAProxy that answers now; None where none does."""
    with suppress(OSError):
        values = {name: int(value) for name, value in GLOBAL.findall(inside(asking("/metrics?scope=global")))}
        if values.keys() == {"start_time", "uptime"}:
            return Worker(values["start_time"], values["uptime"])
    return None


def _ended(inside: Inside, words: Sequence[str]) -> tuple[int, str]:
    """A command's exit code and all that it printed; raises `ToolFailed` where the container is gone."""
    try:
        output, _, code = inside([*WITH_CODE, *words]).rstrip().rpartition("\n")
    except OSError as fault:
        raise ToolFailed("The gateway's container does not answer.", cause=str(fault)[:300]) from fault
    return int(code), output
