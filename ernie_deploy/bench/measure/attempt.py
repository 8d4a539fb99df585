"""One attempt at a cell: vLLM's client run and watched, its result reduced, derived from and judged."""

import json
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from ernie_deploy.bench import validity
from ernie_deploy.bench.journal import derive, roofline
from ernie_deploy.bench.journal.record import (
    Attempt,
    Cell,
    Check,
    Derived,
    Environment,
    Evidence,
    Floor,
    InterTokenLatency,
    Server,
    Start,
    Status,
)
from ernie_deploy.bench.journal.result_types import type_fault
from ernie_deploy.bench.measure import client
from ernie_deploy.bench.measure.compose_deployment import fresh_name
from ernie_deploy.bench.measure.deployment import Deployment
from ernie_deploy.bench.measure.secrecy import masked
from ernie_deploy.bench.measure.watch import Job, Progress, Watched, watch
from ernie_deploy.safe_io.reading import MIB, read_bounded
from ernie_deploy.safe_io.redaction import redacted

RESULT = "result.json"
# Per request and token it keeps a number each.
MOST_BYTES = 1024 * MIB
CLIENT_FAILED = "client-failed: "


class RunContext(Struct, frozen=True, kw_only=True):
    """What every attempt of a run shares."""

    run: str
    deployment: Deployment
    environment: Environment
    folder: Path
    dataset: Path | None
    progress: Progress


class Measured(Struct, frozen=True, kw_only=True):
    """What a client's run amounts to."""

    status: Status
    reasons: tuple[str, ...]
    result: dict[str, Any] = {}
    itl: InterTokenLatency | None = None
    derived: Derived | None = None
    floor: Floor | None = None
    checks: tuple[Check, ...] = ()


def attempt(context: RunContext, start: Start) -> Attempt:
    """Measure one cell once; whatever goes wrong with client or server is in the attempt's status."""
    folder = _fresh_folder(context.folder)
    try:
        words = words_of(context, start, folder)
        command = context.deployment.command(words, folder, context.dataset)
        watched = watch(_job(context, start.cell, words, folder, context.dataset))
        measured = _measured(context, start, watched, folder / RESULT)
    finally:
        _clear(folder)
    return ended(
        start,
        measured,
        server=watched.server,
        argv=tuple(masked(command)),
        log_tail=_log_tail(context, watched, measured),
    )


def words_of(context: RunContext, start: Start, folder: Path) -> list[str]:
    """The client's arguments for one attempt."""
    place = context.deployment.place(folder, context.dataset)
    return client.words(context.deployment.base_words(), start.cell, start.seed, RESULT, place)


def warm_up(context: RunContext, cell: Cell, seed: int) -> float:
    """Run the same shape for a moment and return its mean TPOT in ms; 0 where it has none."""
    folder = _fresh_folder(context.folder)
    place = context.deployment.place(folder, context.dataset)
    words = client.warm_up_words(context.deployment.base_words(), cell, seed, RESULT, place)
    short = client.warm_up_cell(cell)
    try:
        watch(_job(context, short, words, folder, None))
        result = _result(folder / RESULT)
    finally:
        _clear(folder)
    return float(result.get("mean_tpot_ms") or 0.0)


def _job(context: RunContext, cell: Cell, words: list[str], folder: Path, dataset: Path | None) -> Job:
    return Job(
        deployment=context.deployment,
        cell=cell,
        words=words,
        folder=folder,
        dataset=dataset,
        progress=context.progress,
    )


def ended(start: Start, measured: Measured, **other: Any) -> Attempt:
    """The journal's line for an attempt that began with `start`."""
    return Attempt(
        run=start.run, identity=start.identity, attempt=start.attempt, cell=start.cell, seed=start.seed,
        environment=start.environment, start_unix_s=start.start_unix_s, end_unix_s=time.time(),
        status=measured.status, reasons=measured.reasons, result=measured.result, itl=measured.itl,
        derived=measured.derived, floor=measured.floor, checks=measured.checks, **other,
    )  # fmt: skip


def interrupted(start: Start) -> Attempt:
    """The line of an attempt that the user stopped."""
    return ended(start, Measured(status="interrupted", reasons=("stopped by the user",)))


def _measured(context: RunContext, start: Start, watched: Watched, path: Path) -> Measured:
    """Judge what the client left; its exit code is no proof of anything, but a bad one is a failure."""
    raw = _result(path)
    if watched.fault or not raw or watched.returncode:
        return Measured(status="failed", reasons=(_failure(watched),))
    # A server without counters is evidence too: of nothing.
    server = watched.server or Server(before={}, after={})
    result, itl = derive.reduce(raw)
    derived = derive.derive(result, itl, server, context.environment, seed=start.seed)
    floor = roofline.of(start.cell, result, context.environment)
    evidence = Evidence(
        cell=start.cell, figures=result, itl=itl, derived=derived, server=server,
        environment=context.environment, floor=floor,
    )  # fmt: skip
    checks = validity.judge(evidence)
    status = validity.status_of(checks)
    reasons = tuple(f"{check.id}: {check.text}" for check in checks if not check.ok)
    return Measured(
        status=status, reasons=reasons, result=result, itl=itl, derived=derived, floor=floor, checks=checks
    )


def _failure(watched: Watched) -> str:
    if watched.fault:
        return f"server-died: {watched.fault}"
    last = next((line.strip() for line in reversed(watched.log) if line.strip()), "its log is empty")
    return (
        f"{CLIENT_FAILED}vLLM's client ended with {watched.returncode} and left no result: {redacted(last)}"
    )


def _log_tail(context: RunContext, watched: Watched, measured: Measured) -> tuple[str, ...]:
    """vLLM's client loses the cause of a failure, so the server's last words are kept, and the client's."""
    if measured.status in ("valid", "suspect"):
        return ()
    lines = (*(f"client: {line}" for line in watched.log[-10:]), *context.deployment.log_tail())
    return tuple(map(redacted, lines))


def _result(path: Path) -> dict[str, Any]:
    try:
        loaded = json.loads(read_bounded(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) and not type_fault(loaded) else {}


def _fresh_folder(parent: Path) -> Path:
    """A folder for one client below one that only this user may enter."""
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = parent / fresh_name()
    folder.mkdir()
    return folder


def _clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
