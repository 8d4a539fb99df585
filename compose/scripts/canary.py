"""Healthcheck: each engine moved since the last probe, or answers one token; a hang ends the container."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterable, Iterator
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
# An API that shows its metrics so soon has passed a token on: what stays silent then is the engine.
PROMPT_S = 0.5
# A busy API would use up the whole probe, which Docker ends at its own limit where the host is busy too.
BUSY_ANSWER_S = 3.5
LOOK_EVERY_S = 1.0
HANG_MISSES = 3
HANG_S = 60.0
PROC = Path("/proc")
ENGINE, WORKER, API = "VLLM::EngineCore", "VLLM::Worker", "VLLM::APIServer"
# Stopped by a signal or a debugger, or waiting in the kernel: no thread that waits for work is in one of these.
STOPPED = "TtD"
STATE = Path(os.environ.get("TMPDIR", "/tmp"), "canary.json")  # noqa: S108 - a tmpfs, which a restart clears
# The launcher counts here the starts that never became healthy.
STARTS = Path("/stack", f"starts-{os.uname().nodename}")

METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:iteration_tokens_total_count": "iterations",
    "vllm:kv_cache_usage_perc": "cache_usage",
}
SAMPLE = re.compile(rf"^({'|'.join(METRICS)})(\{{.*\}})? (\S+)", re.MULTILINE)
SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)
ENGINE_LABEL = re.compile(r'[{,]engine="([^"]*)"')

# Of each engine that was asked: its HTTP status, 0 for silence, and what is wrong with its answer.
Answers = dict[str, tuple[int, str]]


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


class Process(NamedTuple):
    """A process of vLLM by its main thread: how far that ran, and when it was last seen to run."""

    title: str
    state: str
    parent: str
    # Processor time in ticks, and how often it gave the processor up or lost it: an idle API adds ten a second.
    progress: list[int]
    moved_at: float


class State(NamedTuple):
    """What a probe leaves to the next one; the container's restart clears it."""

    engines: dict[str, Engine]
    healthy_at: float | None
    misses: int
    processes: dict[str, Process]
    stuck: list[str]


class View(NamedTuple):
    """The engines now, compared with the previous probe; prompt says whether the API showed them soon."""

    engines: dict[str, Engine]
    moved: set[str]
    stuck: list[str]
    prompt: bool


class Verdict(NamedTuple):
    """What the probe found; `since` is when what stands still was last seen to move."""

    healthy: bool
    reason: str
    stuck: list[str] = []  # noqa: RUF012 - never written to
    since: float | None = None
    may_hang: bool = True


class Server(NamedTuple):
    """Whom to ask for what, and when the probe must be over."""

    address: str
    model: str
    api_key: str
    deadline: float

    def send(self, path: str, limit_s: float, body: str | None = None, rank: str = "") -> HTTPConnection:
        """Ask, and leave the answer to `receive`; http.client asks no proxy."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        headers |= {"X-data-parallel-rank": rank} if rank else {}
        connection = HTTPConnection(self.address)
        with within(min(limit_s, self.left_s())):
            connection.request(
                "POST" if body else "GET", path, body, headers | {"Content-Type": "application/json"}
            )
        return connection

    def receive(self, connection: HTTPConnection, limit_s: float) -> tuple[int, str]:
        """Return status and text."""
        with within(min(limit_s, self.left_s())), contextlib.closing(connection):
            response = connection.getresponse()
            content = response.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise HTTPException("an answer without end")
            return response.status, content.decode(errors="replace")

    def left_s(self) -> float:
        """How long this probe may go on."""
        return self.deadline - time.monotonic()


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


# --- the first witness: the engines' counters, and one token of each ---


def number(word: str) -> float:
    """Read a sample's value; NaN where it is none."""
    try:
        return float(word)
    except ValueError:
        return math.nan


def read_engines(server: Server, limit_s: float) -> dict[str, Engine] | None:
    """Sum the metrics by engine; None where the API does not show them in time."""
    try:
        text = server.receive(server.send("/metrics", limit_s), limit_s)[1]
    except (OSError, HTTPException, ValueError):
        return None
    sums: dict[str, dict[str, float]] = {}
    for metric, labels, word in SAMPLE.findall(text):
        value = number(word)
        if not math.isfinite(value):
            continue
        label = ENGINE_LABEL.search(labels)
        engine = sums.setdefault(label[1] if label else "", dict.fromkeys(METRICS.values(), 0.0))
        engine[METRICS[metric]] += value
    return {label: Engine(**engine, moved_at=time.monotonic()) for label, engine in sums.items()}


def look(server: Server, before: dict[str, Engine], limit_s: float = METRICS_S) -> View:
    """Stuck is an engine that has requests running and stands where it stood at the previous probe."""
    begun = time.monotonic()
    engines = read_engines(server, limit_s)
    prompt = engines is not None and time.monotonic() - begun < PROMPT_S
    known = (engines or {}).keys() & before.keys()
    engines = engines or before
    moved = {label for label in known if not engines[label].stands_where(before[label])}
    return View(engines, moved, sorted(label for label in known - moved if engines[label].running), prompt)


def ask(server: Server, engines: list[str], ranks: dict[str, str], *, prompt: bool) -> tuple[Answers, bool]:
    """Ask each engine one token; return status (0: silence) and fault, and whether the API is prompt to the end."""
    # As a token: text would wait for the one thread that tokenizes whatever anybody sends.
    question = json.dumps({"model": server.model, "prompt": [1], "max_tokens": 1, "temperature": 0})
    answers: Answers = dict.fromkeys(engines, (0, "no answer to one token (TimeoutError)"))
    waiting, begun = {}, time.monotonic()
    for engine in engines:
        try:
            sent = server.send("/v1/completions", ANSWER_S, question, ranks.get(engine, ""))
            waiting[sent.sock] = engine, sent
        except (OSError, HTTPException) as error:
            answers[engine] = 0, f"no answer to one token ({type(error).__name__})"
    while waiting:
        left_s = begun + (ANSWER_S if prompt else BUSY_ANSWER_S) - time.monotonic()
        if (left_s := min(left_s, server.left_s())) <= 0:
            break
        answered = select.select(list(waiting), [], [], min(LOOK_EVERY_S, left_s))[0]
        for engine, sent in map(waiting.pop, answered):
            answers[engine] = read_answer(server, sent)
        prompt = prompt and (bool(answered) or read_engines(server, PROMPT_S) is not None)
    return answers, prompt


def ranks_of(engines: Iterable[str]) -> dict[str, str]:
    """Return the rank by which the API passes a question on to each engine; it counts those that it has."""
    ordered = sorted(engines, key=lambda label: (len(label), label))
    return {label: str(rank) for rank, label in enumerate(ordered)} if len(ordered) > 1 else {}


def read_answer(server: Server, sent: HTTPConnection) -> tuple[int, str]:
    """Return the status of an answer (0: none) and what is wrong with it."""
    try:
        status, text = server.receive(sent, ANSWER_S)
        reply = json.loads(text) if status == HTTPStatus.OK else {}
    except (OSError, HTTPException, ValueError) as error:
        return 0, f"no answer to one token ({type(error).__name__})"
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return status, f"the server refuses the API key (HTTP {status}): it was started with another one"
    if status != HTTPStatus.OK:
        return status, f"HTTP {status} to one token"
    fine = isinstance(reply, dict) and reply.get("choices") and not reply.get("error")
    return status, "" if fine else "an error instead of one token"


# --- the second witness, where the API does not answer: the kernel ---


def read_processes(before: dict[str, Process]) -> dict[str, Process]:
    """Return the API's and the engines' processes by process id."""
    every = {}
    for folder in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            every[folder.name] = read_process(folder, before.get(folder.name))
    ours = {pid: one for pid, one in every.items() if one.title.startswith((ENGINE, WORKER, API))}
    if not any(one.title.startswith(API) for one in ours.values()):
        # A single API server has no title, and is the engines' parent.
        parents = {one.parent for one in ours.values() if one.title.startswith(ENGINE)} & every.keys()
        ours |= {pid: every[pid]._replace(title=API) for pid in parents}
    return ours


def read_process(folder: Path, before: Process | None) -> Process:
    """Return a process as it is now."""
    title = (folder / "cmdline").read_text(errors="replace").split("\0")[0]
    # The main thread's alone: in the process's own file stand the sums over its threads.
    fields = (folder / "task" / folder.name / "stat").read_text(errors="replace").rpartition(")")[2].split()
    switches = SWITCHES.findall((folder / "status").read_text(errors="replace"))
    progress = [int(fields[11]) + int(fields[12]), *map(int, switches)]
    still = before is not None and before.progress == progress
    moved_at = before.moved_at if before and still else time.monotonic()
    return Process(title, fields[0], fields[1], progress, moved_at)


def judge_processes(before: State, processes: list[Process], fault: str, begun: float) -> Verdict:
    """Judge where the API is silent or slow: what cannot be read is no hang, what the kernel shows may be one."""
    still = [one for one in processes if one.moved_at < begun]
    stopped = [one for one in still if one.state in STOPPED]
    api = [one for one in processes if one.title.startswith(API)]
    engines_run = any(one not in still for one in processes if one not in api)
    if stopped:
        return stands(f"{stopped[0].title} does not run (state {stopped[0].state})", stopped)
    if api and all(one in still for one in api):
        return stands(f"{fault}, and the API's process does nothing", api)
    if engines_run and not before.stuck:
        return Verdict(healthy=True, reason="the engine works, the API is too busy to answer")
    if before.stuck and not engines_run:
        return Verdict(
            healthy=False,
            reason=f"engine {', '.join(before.stuck)} stood still and does not run",
            stuck=before.stuck,
        )
    # An engine at rest looks like one that waits for ever: only one that had work is known to hang.
    return Verdict(
        healthy=False, reason=f"{fault}: the API is too busy to answer (not a hang)", may_hang=False
    )


def stands(reason: str, processes: list[Process]) -> Verdict:
    """Return a verdict on processes that do nothing, since the first of them stopped."""
    return Verdict(healthy=False, reason=reason, since=min(one.moved_at for one in processes))


# --- the verdict ---


def judge_engines(view: View, answers: Answers, silent: dict[str, str]) -> Verdict:
    """Judge by what the API shows and passes on."""
    if view.stuck:
        reason = f"engine {', '.join(view.stuck)} has requests and stands still"
        return Verdict(healthy=False, reason=reason, stuck=view.stuck)
    if silent:
        whose = f"engine {', '.join(sorted(silent))}: " if len(view.engines) > 1 else ""
        return Verdict(healthy=False, reason=whose + next(iter(silent.values())), stuck=sorted(silent))
    if faults := {status: fault for status, fault in answers.values() if status and fault}:
        # A question that is refused was understood: the key or the name is wrong, the engine may be well.
        refused = all(status in range(400, 500) for status in faults)
        return Verdict(healthy=False, reason=faults[max(faults)], may_hang=not refused)
    if any(not status for status, _ in answers.values()):
        return Verdict(healthy=True, reason="the engine works and is too busy to answer")
    return Verdict(healthy=True, reason="one token answered" if answers else "the engine works")


def judge(server: Server, before: State) -> tuple[State, Verdict]:
    """Judge by the metrics where they suffice: an engine that moves is never asked."""
    begun, view = time.monotonic(), look(server, before.engines)
    answers: Answers = {}
    prompt = view.prompt
    if not view.engines or view.engines.keys() != view.moved:
        quiet = sorted(view.engines.keys() - view.moved) or [""]
        answers, prompt = ask(server, quiet, ranks_of(view.engines), prompt=prompt)
        view = look(server, before.engines, METRICS_S if prompt else PROMPT_S)
        prompt = prompt and view.prompt
    silent = {label: answers[label][1] for label in answers.keys() - view.moved if not answers[label][0]}
    processes = read_processes(before.processes)
    if silent and not (prompt or view.stuck) and processes and before.healthy_at is not None:
        verdict = judge_processes(before, list(processes.values()), next(iter(silent.values())), begun)
    else:
        verdict = judge_engines(view, answers, silent)
    engines = keep_times(view.engines, before.engines, verdict.stuck)
    return before._replace(engines=engines, processes=processes, stuck=verdict.stuck), verdict


def keep_times(engines: dict[str, Engine], before: dict[str, Engine], stuck: list[str]) -> dict[str, Engine]:
    """Return the engines; those that stand still were last seen to move when they were before."""
    still = {label: before[label].moved_at for label in stuck if label in before}
    return {label: one._replace(moved_at=still.get(label, one.moved_at)) for label, one in engines.items()}


def load_state() -> State:
    """Return what the previous probe left, if anything."""
    try:
        engines, healthy_at, misses, *more = json.loads(STATE.read_text())
        processes, stuck = more or ({}, [])
        return State(
            {label: Engine(*values) for label, values in engines.items()},
            healthy_at,
            misses,
            {pid: Process(*values) for pid, values in processes.items()},
            stuck,
        )
    except (OSError, ValueError, TypeError, AttributeError):
        return State({}, None, 0, {}, [])


def save_state(state: State) -> None:
    """Replace the state in one step; without it the next probe is as the first."""
    with contextlib.suppress(OSError):
        fresh = STATE.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(STATE)


def read_api_key(path: str) -> str:
    """Return the first key of the configuration that docker/scripts/with_api_key.py wrote for vLLM."""
    return str(json.loads(Path(path).read_text())["api-key"][0])


def is_hang(state: State, since: float | None) -> bool:
    """Tell a hang from loading and from one slow step."""
    if state.healthy_at is None or state.misses < HANG_MISSES:
        return False
    engines = [state.engines[label].moved_at for label in state.stuck if label in state.engines]
    return time.monotonic() - (since or min(engines, default=state.healthy_at)) >= HANG_S


def report_healthy(state: State, verdict: Verdict) -> None:
    """Note that the engine is healthy; for the first time also to the launcher."""
    if state.healthy_at is None:
        with contextlib.suppress(OSError):
            STARTS.unlink()
    save_state(state._replace(healthy_at=time.monotonic(), misses=0))
    print(f"healthy: {verdict.reason}")


def report_unhealthy(state: State, verdict: Verdict) -> None:
    """Note a failure; end the container where it is a hang."""
    state = state._replace(misses=state.misses + 1 if verdict.may_hang else 0)
    save_state(state)
    if is_hang(state, verdict.since):
        end_container(
            f"{verdict.reason}, {state.misses} probes in a row: a hang, every process is killed for a new start"
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
    state, verdict = judge(Server(url.removeprefix("http://"), model, api_key, deadline), state)
    (report_healthy if verdict.healthy else report_unhealthy)(state, verdict)
    return 0 if verdict.healthy else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
