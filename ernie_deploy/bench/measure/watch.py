"""Follows one run of the client: samples the server, shows progress, and ends what is stuck or dead."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from ernie_deploy.bench.journal.record import Cell, Sample, Server
from ernie_deploy.bench.journal.samples import thinned
from ernie_deploy.bench.measure.deployment import Deployment
from ernie_deploy.bench.measure.server import ServerMetrics, moved_only_by_canary

# A scrape costs the server's event loop 15 ms: four a second made a small model's TPOT a third longer.
SAMPLE_S = 2.0
SETTLE_S = 10.0
MOST_SAMPLES = 300
# No token, no finished request, no cache block for so long while requests are in the server.
STALL_S = 180.0
# No answer at all: the kit's own restarts are waited for elsewhere.
SILENT_S = 30.0
# The client imports, makes prompts and ends: with nothing in the server for so long it is stuck.
CLIENT_S = 900.0
BLIND_S = 4 * 3600.0
STILL, SILENT = "no token", "the server has not answered"
LOST = "the server was lost before the cell was over"


# The cell, seconds since its client was started, the counters before it and now.
Progress = Callable[[Cell, float, ServerMetrics | None, ServerMetrics | None], None]


class Job(Struct, frozen=True, kw_only=True):
    """One run of the client: its arguments, the folder for its result, and who hears of its progress."""

    deployment: Deployment
    cell: Cell
    words: Sequence[str]
    folder: Path
    dataset: Path | None
    progress: Progress


TAIL_BYTES = 1 << 16


class Seen(Struct, kw_only=True):
    """What the watcher has seen so far."""

    begun: float
    before: ServerMetrics | None = None
    last: ServerMetrics | None = None
    moved_at: float = 0.0
    answered_at: float = 0.0
    samples: list[Sample] = []


class Watched(Struct, frozen=True, kw_only=True):
    """How a client ended: its exit code, why it was killed (or ''), and the server's side."""

    returncode: int
    fault: str
    server: Server | None
    log: tuple[str, ...]


def _last_lines(log: IO[str]) -> tuple[str, ...]:
    """The last lines of a log, which may be of any length."""
    data = os.pread(log.fileno(), TAIL_BYTES, max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
    return tuple(data.decode(errors="replace").splitlines()[-20:])


def watch(job: Job) -> Watched:
    """Run the client on one cell to its end, or to the moment the server is lost."""
    log = job.folder.parent / f"{job.folder.name}.log"
    now = time.monotonic()
    seen = Seen(begun=now, before=job.deployment.endpoint.current_metrics(), moved_at=now, answered_at=now)
    try:
        with (
            log.open("w+") as file,
            job.deployment.client(job.words, job.folder, job.dataset, file) as process,
        ):
            fault = _follow(job, process, seen)
            fault = fault or _settle(job, seen)
            returncode = process.poll()
            log_lines = _last_lines(file)
    finally:
        log.unlink(missing_ok=True)
    return Watched(
        returncode=-1 if returncode is None else returncode,
        fault=fault,
        server=_server(seen, job.cell),
        log=log_lines,
    )


def _follow(job: Job, process: "subprocess.Popen[str]", seen: Seen) -> str:
    """Sample until the client ends; returns why it had to be given up, or ''."""
    while not _ended(process, SAMPLE_S):
        metrics = job.deployment.endpoint.current_metrics()
        _note(seen, metrics)
        job.progress(job.cell, time.monotonic() - seen.begun, seen.before, metrics)
        if fault := _fault(job.deployment, seen, metrics):
            return fault
    return ""


def _ended(process: "subprocess.Popen[str]", pause_s: float) -> bool:
    try:
        process.wait(pause_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _note(seen: Seen, metrics: ServerMetrics | None) -> None:
    now = time.monotonic()
    if metrics is None:
        return
    seen.answered_at = now
    # The health check asks an idle server for a token; what it did before the client's first request is no
    # part of the cell, and neither are the samples of that time.
    if seen.before and seen.before.started == metrics.started and moved_only_by_canary(seen.before, metrics):
        seen.before = metrics
        seen.samples.clear()
    if seen.last is None or metrics.work != seen.last.work or metrics.idle != seen.last.idle:
        seen.moved_at = now
    seen.last = metrics
    seen.samples.append(_sample(seen, metrics, now))


def _sample(seen: Seen, metrics: ServerMetrics, now: float) -> Sample:
    return Sample(
        elapsed_s=round(now - seen.begun, 3),
        running=metrics.running,
        waiting=metrics.waiting,
        kv_cache_use=round(metrics.kv_cache_use, 5),
        generation_tokens=metrics.counters.get("generation_tokens", 0.0),
    )


def _fault(deployment: Deployment, seen: Seen, metrics: ServerMetrics | None) -> str:
    """Why the run is lost: the server restarted, is silent, or stands still."""
    now = time.monotonic()
    if seen.before is None:
        # A server without counters: only the clock is left.
        return "the client did not end" if now - seen.begun > BLIND_S else ""
    if metrics is None:
        silent = now - seen.answered_at
        return f"{SILENT} for {silent:.0f} s" if silent > SILENT_S or not deployment.alive() else ""
    if metrics.started != seen.before.started or _fell(seen.before, metrics):
        return "the server was restarted"
    still = now - seen.moved_at
    if not metrics.idle and still > STALL_S:
        return f"{STILL} for {still:.0f} s with {metrics.running:g} requests running and {metrics.waiting:g} waiting"
    if metrics.idle and still > CLIENT_S:
        return f"the client has sent nothing for {still:.0f} s"
    return ""


def _fell(before: ServerMetrics, now: ServerMetrics) -> bool:
    """Several API processes tell no start time, but no counter falls while a server runs."""
    return any(now.counters.get(name, 0.0) < value for name, value in before.counters.items())


def is_stuck(reasons: Sequence[str]) -> bool:
    """Whether an attempt was given up because the server stood still or said nothing."""
    return any(STILL in reason or SILENT in reason for reason in reasons)


def _settle(job: Job, seen: Seen) -> str:
    """Wait for the last counters: the engine counts a request a moment after it answered.

    A dead engine's server says goodbye to every stream with 200 and goes a moment later: where requests are
    missing, that is waited for. Docker calls one that starts anew alive, and may have given it another port: one
    that says nothing to the last is lost too. Returns what was lost, or ''.
    """
    end, silent = time.monotonic() + SETTLE_S, False
    while seen.before and time.monotonic() < end:
        metrics = job.deployment.endpoint.current_metrics()
        _note(seen, metrics)
        if (metrics is None and not job.deployment.alive()) or (
            metrics and metrics.started != seen.before.started
        ):
            return LOST
        if metrics and metrics.idle and _finished(seen.before, metrics) >= job.cell.num_prompts:
            return ""
        silent = metrics is None
        time.sleep(0.1)
    return LOST if silent else ""


def _finished(before: ServerMetrics, now: ServerMetrics) -> float:
    return now.counters.get("request_success", 0.0) - before.counters.get("request_success", 0.0)


def _server(seen: Seen, cell: Cell) -> Server | None:
    if seen.before is None or seen.last is None:
        return None
    server = Server(
        before=seen.before.counters,
        after=seen.last.counters,
        samples=thinned(seen.samples, MOST_SAMPLES),
    )
    return msgspec.structs.replace(server, canary_requests=_canary_requests(server, cell))


def _canary_requests(server: Server, cell: Cell) -> int:
    """One request too many is the health check's; more are somebody else's, and no check forgives them."""
    return int(server.delta("request_success") == cell.num_prompts + 1)
