"""Healthcheck: the engine moved since the last probe, or answers one token; a hang ends the container."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

# Docker gives a probe 10 s, and one that it kills cannot note its failure.
PROBE_S = 9.0
METRICS_S = 3.0
ANSWER_S = 8.0
# /metrics of 16 engines has about one.
MOST_BYTES = 16 << 20
HANG_MISSES = 3
HANG_S = 60.0
STATE = Path(os.environ.get("TMPDIR", "/tmp"), "canary.json")  # noqa: S108 - a tmpfs, which a restart clears
# The launcher counts here the starts that never became healthy.
STARTS = Path("/stack", f"starts-{os.uname().nodename}")

METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:iteration_tokens_total_count": "iterations",
    "vllm:kv_cache_usage_perc": "cache_usage",
}
SAMPLE = re.compile(rf"^({'|'.join(METRICS)})(\{{.*\}})? (\S+)", re.MULTILINE)
ENGINE_LABEL = re.compile(r'[{,]engine="([^"]*)"')
API_KEY = re.compile(r"""^api[-_]key:\s*(?:-\s+|\[\s*)?("[^"]*"|'[^']*'|[^\s,\]]+)""", re.MULTILINE)


class Engine(NamedTuple):
    """An engine in its metrics, and when it was last seen to move or to have nothing to do."""

    running: float
    iterations: float
    # Moves with each part of a long prompt, which counts as no iteration before its first token.
    cache_usage: float
    moved_at: float

    def stands_where(self, before: Engine) -> bool:
        """Tell whether nothing happened in between."""
        return self[1:3] == before[1:3]


class State(NamedTuple):
    """What a probe leaves to the next one; the container's restart clears it."""

    engines: dict[str, Engine]
    healthy_at: float | None
    misses: int


class View(NamedTuple):
    """The engines now, compared with the previous probe."""

    engines: dict[str, Engine]
    moved: bool
    stuck: list[str]


class Verdict(NamedTuple):
    """What the probe found."""

    view: View
    healthy: bool
    reason: str
    may_hang: bool = True


class Server(NamedTuple):
    """Whom to ask for what, and when the probe must be over."""

    address: str
    model: str
    api_key: str
    deadline: float

    def request(self, path: str, limit_s: float, body: str | None = None) -> tuple[int, str]:
        """Return status and text; http.client asks no proxy."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        connection = HTTPConnection(self.address)
        with within(min(limit_s, self.deadline - time.monotonic())), contextlib.closing(connection):
            connection.request(
                "POST" if body else "GET", path, body, headers | {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            content = response.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise HTTPException("an answer without end")
            return response.status, content.decode(errors="replace")


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError at the limit, however slowly a server sends."""

    def expire(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def number(word: str) -> float:
    """Read a sample's value; NaN where it is none."""
    try:
        return float(word)
    except ValueError:
        return math.nan


def read_engines(server: Server) -> dict[str, Engine]:
    """Sum the metrics by engine; none where they are absent or late."""
    try:
        text = server.request("/metrics", METRICS_S)[1]
    except (OSError, HTTPException, ValueError):
        return {}
    sums: dict[str, dict[str, float]] = {}
    for metric, labels, word in SAMPLE.findall(text):
        value = number(word)
        if not math.isfinite(value):
            continue
        label = ENGINE_LABEL.search(labels)
        engine = sums.setdefault(label[1] if label else "", dict.fromkeys(METRICS.values(), 0.0))
        engine[METRICS[metric]] += value
    return {label: Engine(**engine, moved_at=time.monotonic()) for label, engine in sums.items()}


def look(server: Server, before: dict[str, Engine]) -> View:
    """Stuck is an engine that has requests running and stands where it stood at the previous probe."""
    engines = read_engines(server)
    known = engines.keys() & before.keys()
    still = {label for label in known if engines[label].stands_where(before[label])}
    stuck = sorted(label for label in still if engines[label].running)
    engines |= {label: engines[label]._replace(moved_at=before[label].moved_at) for label in stuck}
    return View(engines or before, known != still, stuck)


def ask(server: Server) -> tuple[int, str]:
    """Ask one token; return the HTTP status (0: silence) and what is wrong with the answer."""
    question = {"model": server.model, "prompt": "1", "max_tokens": 1, "temperature": 0}
    try:
        status, text = server.request("/v1/completions", ANSWER_S, json.dumps(question))
    except (OSError, HTTPException) as error:
        return 0, f"no answer to one token ({type(error).__name__})"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return status, f"the server refuses the API key (HTTP {status}): it was started with another one"
    if status != HTTPStatus.OK:
        return status, f"HTTP {status} to one token"
    reply = json.loads(text)
    return status, "" if reply.get("choices") and not reply.get("error") else "an error instead of one token"


def judge(server: Server, before: dict[str, Engine]) -> Verdict:
    """Judge by the metrics where they suffice: an engine that moves is never asked."""
    view = look(server, before)
    if view.moved and not view.stuck:
        return Verdict(view, healthy=True, reason="the engine works")
    status, wrong = ask(server)
    view = look(server, before)
    if view.stuck:
        return Verdict(
            view, healthy=False, reason=f"engine {', '.join(view.stuck)} has requests and stands still"
        )
    if view.moved and not status:
        return Verdict(view, healthy=True, reason="the engine works and is too busy to answer")
    # A question that is refused was understood: the key or the name is wrong, the engine may be well.
    refused = status in range(400, 500)
    return Verdict(view, healthy=not wrong, reason=wrong or "one token answered", may_hang=not refused)


def load_state() -> State:
    """Return what the previous probe left, if anything."""
    try:
        engines, healthy_at, misses = json.loads(STATE.read_text())
        return State({label: Engine(*values) for label, values in engines.items()}, healthy_at, misses)
    except (OSError, ValueError, TypeError, AttributeError):
        return State({}, None, 0)


def save_state(state: State) -> None:
    """Replace the state in one step; without it the next probe is as the first."""
    with contextlib.suppress(OSError):
        fresh = STATE.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(STATE)


def read_api_key(path: str) -> str:
    """Return the first key of vLLM's configuration file."""
    found = API_KEY.search(Path(path).read_text())
    return found[1].strip("\"'") if found else ""


def is_hang(state: State, stuck: list[str]) -> bool:
    """Tell a hang from loading and from one slow step."""
    if state.healthy_at is None or state.misses < HANG_MISSES:
        return False
    since = min((state.engines[label].moved_at for label in stuck), default=state.healthy_at)
    return time.monotonic() - since >= HANG_S


def report_healthy(before: State, verdict: Verdict) -> None:
    """Note that the engine is healthy; for the first time also to the launcher."""
    if before.healthy_at is None:
        with contextlib.suppress(OSError):
            STARTS.unlink()
    save_state(State(verdict.view.engines, time.monotonic(), 0))
    print(f"healthy: {verdict.reason}")


def report_unhealthy(before: State, verdict: Verdict) -> None:
    """Note a failure; end the container where it is a hang."""
    misses = before.misses + 1 if verdict.may_hang else 0
    state = State(verdict.view.engines, before.healthy_at, misses)
    save_state(state)
    if is_hang(state, verdict.view.stuck):
        end_container(
            f"{verdict.reason}, {misses} probes in a row: a hang, every process is killed for a new start"
        )
    else:
        print(f"{'unhealthy' if state.healthy_at is not None else 'not healthy yet'}: {verdict.reason}")


def end_container(reason: str) -> None:
    """Kill every process but PID 1, whose end the restart policy answers."""
    print(f"unhealthy: {reason}", flush=True)
    if b"vllm" not in Path("/proc/1/cmdline").read_bytes().split(b"\0"):
        print("PID 1 did not start vllm, so this is not its container: nothing is killed")
        return
    with contextlib.suppress(OSError), within(1.0):
        Path("/proc/1/fd/2").write_text(f"canary: {reason}\n")
    os.kill(-1, signal.SIGKILL)


def main(url: str, model: str, config: str = "") -> int:
    """Probe once: print one line, return 0 when healthy."""
    state, deadline = load_state(), time.monotonic() + PROBE_S
    try:
        api_key = read_api_key(config) if config else ""
    except OSError as error:
        print(f"unhealthy: the API key cannot be read: {error}")
        return 1
    verdict = judge(Server(url.removeprefix("http://"), model, api_key, deadline), state.engines)
    (report_healthy if verdict.healthy else report_unhealthy)(state, verdict)
    return 0 if verdict.healthy else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
