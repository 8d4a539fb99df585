"""Health check: each engine progressed since the last probe, or answers one token; a hang ends the container."""

import contextlib
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from common import STARTS

# Docker gives a probe 10 s, and one that it kills cannot note its failure.
PROBE_S = 9.0
METRICS_S = 3.0
ANSWER_S = 8.0
# A busy API would use up the whole probe, which Docker ends at its own limit where the host is busy too.
BUSY_ANSWER_S = 3.5
# An API that shows its metrics so soon has passed a token on: what stays silent then is the engine.
PROMPT_S = 0.5
# /metrics of 16 engines has about one.
MOST_BYTES = 16 << 20
HANG_MISSES = 3
HANG_S = 60.0
PROC = Path("/proc")
ENGINE, WORKER, API = "VLLM::EngineCore", "VLLM::Worker", "VLLM::APIServer"
# A tmpfs, which a restart clears.
STATE = Path(os.environ.get("TMPDIR", "/tmp"), "canary.json")  # noqa: S108

METRICS = ("num_requests_running", "iteration_tokens_total_count", "kv_cache_usage_perc")
NUMBER = r"\d+(?:\.\d+)?(?:e[+-]?\d{1,3})?"
SAMPLE = re.compile(rf"^vllm:({'|'.join(METRICS)})(\{{.*\}})? ({NUMBER})(?!\S)", re.MULTILINE)
ENGINE_LABEL = re.compile(r'[{,]engine="([^"]*)"')
SWITCHES = re.compile(r"^(?:non)?voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)

# Of each engine that was asked: its HTTP status, 0 for silence, and what is wrong with its answer.
Answers = dict[str, tuple[int, str]]


class Engine(NamedTuple):
    """An engine in its metrics: a part of a long prompt is no iteration, but takes room in the cache."""

    running: float
    progress: list[float]
    moved_at: float


class Process(NamedTuple):
    """A process by its main thread: its processor time, and how often it gave the processor up or lost it."""

    title: str
    state: str
    parent: str
    progress: list[int]
    moved_at: float


class State(NamedTuple):
    """What a probe leaves to the next one."""

    engines: dict[str, Engine]
    healthy_at: float | None
    misses: int
    processes: dict[str, Process]
    stuck: list[str]


class Verdict(NamedTuple):
    """What the probe saw; `since` is when what stands still was last seen to move."""

    healthy: bool
    reason: str
    stuck: list[str] = []  # noqa: RUF012 - never written to
    since: float | None = None
    may_hang: bool = True


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Raise TimeoutError at the limit, however slowly somebody sends."""

    def expire(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Probe:
    """One look at a server, compared with the look before."""

    def __init__(self, url: str, model: str, api_key: str, before: State) -> None:
        self.address, self.model, self.before = url.removeprefix("http://"), model, before
        self.headers = {"Content-Type": "application/json"}
        self.headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.begun = time.monotonic()
        self.end = self.begun + PROBE_S
        # Whether the API passes on what it is asked, as far as seen.
        self.prompt = True

    # The first witness: the engines' counters, and one token of each.

    def send(self, path: str, limit_s: float, body: str | None = None, rank: str = "") -> HTTPConnection:
        """Ask, and leave the answer to `receive`; http.client asks no proxy."""
        headers = self.headers | ({"X-data-parallel-rank": rank} if rank else {})
        connection = HTTPConnection(self.address)
        with within(min(limit_s, self.end - time.monotonic())):
            connection.request("POST" if body else "GET", path, body, headers)
        return connection

    def receive(self, connection: HTTPConnection, limit_s: float) -> tuple[int, str]:
        with within(min(limit_s, self.end - time.monotonic())), contextlib.closing(connection):
            response = connection.getresponse()
            content = response.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise HTTPException("an answer without end")
        return response.status, content.decode(errors="replace")

    def read_engines(self, limit_s: float) -> dict[str, Engine]:
        """Sum the metrics by engine; none where the API does not show them in time."""
        begun, sums, text = time.monotonic(), dict[str, list[float]](), ""
        try:
            text = self.receive(self.send("/metrics", limit_s), limit_s)[1]
            self.prompt = self.prompt and time.monotonic() - begun < PROMPT_S
        except (OSError, HTTPException, ValueError):
            self.prompt = False
        for metric, labels, value in SAMPLE.findall(text):
            label = ENGINE_LABEL.search(labels)
            sums.setdefault(label[1] if label else "", [0.0] * 3)[METRICS.index(metric)] += float(value)
        return {
            label: Engine(running, progress, time.monotonic()) for label, (running, *progress) in sums.items()
        }

    def compare_with_last_probe(self, limit_s: float) -> tuple[dict[str, Engine], set[str], list[str]]:
        """The engines; those that moved since the last probe; those that have requests and did not."""
        seen, before = self.read_engines(limit_s), self.before.engines
        known = seen.keys() & before.keys()
        moved = {label for label in known if seen[label].progress != before[label].progress}
        return seen or before, moved, sorted(label for label in known - moved if seen[label].running)

    def ask(self, rank: str) -> Iterator[tuple[int, str]]:
        """Ask an engine one token at the first step, and wait for its answer at the second."""
        # As a token: text would wait for the one thread that tokenizes whatever anybody sends.
        question = json.dumps({"model": self.model, "prompt": [1], "max_tokens": 1, "temperature": 0})
        begun = time.monotonic()
        try:
            sent = self.send("/v1/completions", ANSWER_S, question, rank)
            yield 0, ""
            while True:
                end = begun + (ANSWER_S if self.prompt else BUSY_ANSWER_S)
                left_s = min(end, self.end) - time.monotonic()
                if select.select([sent.sock], [], [], min(1.0, max(left_s, 0.0)))[0]:
                    break
                if left_s <= 0:
                    raise TimeoutError
                if self.prompt:
                    self.read_engines(PROMPT_S)
            status, text = self.receive(sent, ANSWER_S)
            reply = json.loads(text) if status == 200 else {}
        except (OSError, HTTPException, ValueError) as error:
            yield 0, f"no answer to one token ({type(error).__name__})"
            return
        fine = isinstance(reply, dict) and reply.get("choices") and not reply.get("error")
        fault = f"HTTP {status} to one token" if status != 200 else "an error instead of one token"
        if status in (401, 403):
            fault = f"the server refuses the API key (HTTP {status}): it was started with another one"
        yield status, "" if fine else fault

    def judge(self) -> tuple[State, Verdict]:
        """Judge by the metrics where they suffice: an engine that moves is never asked."""
        engines, moved, stuck = self.compare_with_last_probe(METRICS_S)
        # The API passes a question on by an engine's rank, and counts those that it has.
        ranks = sorted(engines, key=lambda label: (len(label), label))
        quiet = sorted(engines.keys() - moved) if engines else [""]
        # All before one is waited for: those at rest take the long steps of one at work with it.
        asked = {label: self.ask(str(ranks.index(label)) if len(ranks) > 1 else "") for label in quiet}
        sent = {label: next(one) for label, one in asked.items()}
        answers: Answers = {label: next(one, sent[label]) for label, one in asked.items()}
        if answers:
            engines, moved, stuck = self.compare_with_last_probe(METRICS_S if self.prompt else PROMPT_S)
        silent = {
            label: fault for label, (status, fault) in answers.items() if not status and label not in moved
        }
        processes = read_processes(self.before.processes)
        if silent and not (self.prompt or stuck) and processes and self.before.healthy_at is not None:
            verdict = self.judge_processes([*processes.values()], next(iter(silent.values())))
        else:
            verdict = judge_engines(len(engines), stuck, answers, silent)
        # Those that stand still were last seen to move when they were before.
        still = {
            label: self.before.engines[label].moved_at
            for label in verdict.stuck
            if label in self.before.engines
        }
        engines = {
            label: one._replace(moved_at=still.get(label, one.moved_at)) for label, one in engines.items()
        }
        return self.before._replace(engines=engines, processes=processes, stuck=verdict.stuck), verdict

    def judge_processes(self, processes: list[Process], fault: str) -> Verdict:
        """Judge where the API is silent or slow: what cannot be read is no hang, what the kernel shows may be one."""
        stuck, still = self.before.stuck, [one for one in processes if one.moved_at < self.begun]
        # By a signal or a debugger, or in the kernel: no thread that waits for work is in one of these states.
        stopped = [one for one in still if one.state in "TtD"]
        api = [one for one in processes if one.title.startswith(API)]
        engines_run = any(one not in still and one not in api for one in processes)
        if stopped or (api and all(one in still for one in api)):
            idle = f"{fault}, and the API's process does nothing"
            reason = f"{stopped[0].title} does not run (state {stopped[0].state})" if stopped else idle
            return Verdict(False, reason, since=min(one.moved_at for one in stopped or api))
        if stuck and not engines_run:
            return Verdict(False, f"engine {', '.join(stuck) or '?'} stood still and does not run", stuck)
        if engines_run and not stuck:
            return Verdict(True, "the engine works, the API is too busy to answer")
        # An engine at rest looks like one that waits for ever: only one that had work is known to hang.
        return Verdict(False, f"{fault}: the API is too busy to answer (not a hang)", may_hang=False)


def judge_engines(count: int, stuck: list[str], answers: Answers, silent: dict[str, str]) -> Verdict:
    """Judge by what the API shows and passes on."""
    if stuck:
        return Verdict(False, f"engine {', '.join(stuck) or '?'} has requests and stands still", stuck)
    if silent:
        whose = f"engine {', '.join(silent)}: " if count > 1 else ""
        return Verdict(False, whose + next(iter(silent.values())), [*silent])
    if faults := {status: fault for status, fault in answers.values() if status and fault}:
        # A question that is refused was understood: the key or the name is wrong, the engine may be well.
        return Verdict(False, faults[max(faults)], may_hang=max(faults) >= 500 or min(faults) < 400)
    if any(not status for status, _ in answers.values()):
        return Verdict(True, "the engine works and is too busy to answer")
    return Verdict(True, "one token answered" if answers else "the engine works")


# The second witness, where the API does not answer: the kernel.


def read_processes(before: dict[str, Process]) -> dict[str, Process]:
    """The API's and the engines' processes by process id."""
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
    title = (folder / "cmdline").read_text(errors="replace").split("\0")[0]
    # The main thread's alone: in the process's own file stand the sums over its threads.
    fields = (folder / "task" / folder.name / "stat").read_text(errors="replace").rpartition(")")[2].split()
    switches = SWITCHES.findall((folder / "status").read_text(errors="replace"))
    progress = [int(fields[11]) + int(fields[12]), *map(int, switches)]
    moved_at = before.moved_at if before and before.progress == progress else time.monotonic()
    return Process(title, fields[0], fields[1], progress, moved_at)


def is_hang(state: State, since: float | None) -> bool:
    """Tell a hang from loading and from one slow step."""
    if state.healthy_at is None or state.misses < HANG_MISSES:
        return False
    engines = [state.engines[label].moved_at for label in state.stuck if label in state.engines]
    return time.monotonic() - (since or min(engines, default=state.healthy_at)) >= HANG_S


def end_container(reason: str, script: str = "canary", /) -> None:
    """Kill every process but PID 1, whose end the restart policy answers."""
    reason = f"{reason}, every process is killed for a new start"
    print(f"unhealthy: {reason}", flush=True)
    if not {b"vllm", b"ray"} & {*Path("/proc/1/cmdline").read_bytes().split(b"\0")}:
        print("PID 1 did not start vllm or ray, so this is not its container: nothing is killed")
        return
    with contextlib.suppress(OSError), within(1.0):
        Path("/proc/1/fd/2").write_text(f"{script}: {reason}\n")
    os.kill(-1, signal.SIGKILL)


def load_state() -> State:
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        state = State(*json.loads(STATE.read_text()))
        engines = {label: Engine(*values) for label, values in state.engines.items()}
        processes = {pid: Process(*values) for pid, values in state.processes.items()}
        return state._replace(engines=engines, processes=processes)
    return State({}, None, 0, {}, [])


def save_state(path: Path, state: Any) -> None:
    """Replace the state in one step; without it the next probe is as the first."""
    with contextlib.suppress(OSError):
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.replace(path)


def main(url: str, model: str, config: str = "") -> int:
    """Probe once: print one line, return 0 when healthy. CONFIG is what with_api_key.py wrote for vLLM."""
    before = load_state()
    try:
        api_key = json.loads(Path(config).read_text())["api-key"][0] if config else ""
    except OSError as error:
        print(f"unhealthy: the API key cannot be read: {error}")
        return 1
    state, verdict = Probe(url, model, api_key, before).judge()
    if verdict.healthy:
        if before.healthy_at is None:
            with contextlib.suppress(OSError):
                STARTS.unlink()
        save_state(STATE, state._replace(healthy_at=time.monotonic(), misses=0))
        print(f"healthy: {verdict.reason}")
        return 0
    state = state._replace(misses=state.misses + 1 if verdict.may_hang else 0)
    save_state(STATE, state)
    if is_hang(state, verdict.since):
        end_container(f"{verdict.reason}, {state.misses} probes in a row: a hang")
    else:
        print(f"{'unhealthy' if before.healthy_at is not None else 'not healthy yet'}: {verdict.reason}")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
