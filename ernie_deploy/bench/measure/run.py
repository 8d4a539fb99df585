"""Runs cell after cell: skips what is proven, warms up, measures, brings a dead server back, and goes on."""

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from ernie_deploy.bench.journal import cells
from ernie_deploy.bench.journal.record import Attempt, Cell, Environment, Journal, Start
from ernie_deploy.bench.journal.store import Writer
from ernie_deploy.bench.measure import environment
from ernie_deploy.bench.measure.attempt import CLIENT_FAILED, RunContext, attempt, interrupted, warm_up
from ernie_deploy.bench.measure.deployment import Deployment
from ernie_deploy.bench.measure.watch import Progress, is_stuck
from ernie_deploy.errors import Interrupted, KitError, ServerDied, ToolFailed

MOST_ATTEMPTS = 2
MOST_WARM_UPS = 3
SETTLED = 0.05
COME_BACK_S = 1800.0
# What a client is working on; a killed run leaves something there.
RUNNING = "running"

Known = dict[str, Any]
# Asked before a server's first cell; returns what it showed or raises `BenchInvalid`.
Coherence = Callable[[Deployment, Environment], str]


class RunOptions(Struct, frozen=True, kw_only=True):
    """What a run is to do, beside the cells themselves."""

    folder: Path
    dataset: Path | None = None
    known: Known = {}
    coherence: Coherence | None = None
    warms_up: bool = True
    fail_fast: bool = False
    run: str = ""


class Reporter(Struct, frozen=True, kw_only=True):
    """How a run speaks: a sentence, a cell that ended, and the progress within one."""

    say: Callable[[str], None]
    ended: Callable[[Attempt, int, int], None]
    progress: Progress


class Runner:
    """One run over the cells of one deployment; `journal` is what earlier runs left."""

    def __init__(
        self,
        deployment: Deployment,
        options: RunOptions,
        writer: Writer,
        journal: Journal,
        reporter: Reporter,
    ) -> None:
        self.deployment, self.options, self.writer, self.reporter = deployment, options, writer, reporter
        self.run = options.run or secrets.token_hex(4)
        self.journal = journal
        self.environment: Environment | None = None
        self._warm: set[str] = set()
        self._generation = ""

    def measure(self, wanted: Sequence[Cell]) -> Iterator[Attempt]:
        """Every cell's final attempt, those that were valid already among them.

        Raises `ServerDied` where the server does not come back, `Interrupted` on Ctrl-C and SIGTERM.
        """
        if self.environment is None:
            self.deployment.clear_leftovers()
            shutil.rmtree(self.options.folder / RUNNING, ignore_errors=True)
            self._inspect_server()
            self._say_what_changed()
        for number, cell in enumerate(wanted, start=1):
            done = self._proven(cell) or self._measure_cell(cell)
            self.reporter.ended(done, number, len(wanted))
            yield done
            if self.options.fail_fast and done.status in ("failed", "invalid"):
                return

    def context(self) -> RunContext:
        """What an attempt needs, of the server as it runs now."""
        assert self.environment, "met before the first attempt"
        return RunContext(
            run=self.run, deployment=self.deployment, environment=self.environment, folder=self.options.folder / RUNNING,
            dataset=self.options.dataset, progress=self.reporter.progress,
        )  # fmt: skip

    def _inspect_server(self) -> None:
        """Capture the environment of this start of the server; a known one keeps its coherence answer."""
        self.deployment.endpoint.wait_idle()
        captured = environment.capture(self.deployment, self.options.known)
        shown = self.environment.coherence if self.environment else ""
        if not shown and self.options.coherence:
            shown = self.options.coherence(self.deployment, captured)
            self.reporter.say(f"coherence: {shown}")
        if self.environment:
            environment.require_same(self.environment, captured)
        self.environment = msgspec.structs.replace(captured, coherence=shown or "skipped: as asked")
        self.writer.write(self.environment)
        self._generation, self._warm = environment.generation(self.deployment), set()

    def _say_what_changed(self) -> None:
        """Tell why cells of an earlier environment are measured again."""
        earlier = list(self.journal.environments.values())
        if earlier and self.environment and (changed := cells.changes(earlier[-1], self.environment)):
            self.reporter.say(f"a new series, since the journal's last server differs: {'; '.join(changed)}")

    def _identity(self, cell: Cell) -> str:
        assert self.environment, "met before the first attempt"
        return cells.identity(cell, self.environment)

    def _proven(self, cell: Cell) -> Attempt | None:
        known = self.journal.best().get(self._identity(cell))
        return known if known and known.status == "valid" else None

    def _measure_cell(self, cell: Cell) -> Attempt:
        """Measure a cell; once more where the server or the client failed."""
        done = self._once(cell, 1)
        for number in range(2, MOST_ATTEMPTS + 1):
            if done.status != "failed":
                break
            self.reporter.ended(done, 0, 0)
            self._restart_server(stuck=is_stuck(done.reasons))
            done = self._once(cell, number)
        return done

    def _once(self, cell: Cell, number: int) -> Attempt:
        self._make_cold(cell)
        self._warm_up(cell)
        if cell.cold == "reset":
            self.deployment.endpoint.reset_caches()
        self.deployment.endpoint.wait_idle()
        start = self._start(cell, number)
        self.writer.write(start)
        try:
            done = attempt(self.context(), start)
        except KeyboardInterrupt as stop:
            self.writer.write(interrupted(start))
            raise self._interruption() from stop
        self.writer.write(done)
        if done.status == "failed" and done.reasons[0].startswith(CLIENT_FAILED) and self.deployment.alive():
            raise ToolFailed(
                f"vLLM's client failed at {cell.name}.",
                cause=done.reasons[0].removeprefix(CLIENT_FAILED),
                next_step="the journal has its last output; with --attach, --tokenizer names the model's tokenizer",
            )
        return done

    def _start(self, cell: Cell, number: int) -> Start:
        assert self.environment, "met before the first attempt"
        return Start(
            run=self.run, identity=self._identity(cell), attempt=number, cell=cell,
            seed=cells.seed_of(self.run, cell, number), environment=self.environment.id, start_unix_s=time.time(),
        )  # fmt: skip

    def _make_cold(self, cell: Cell) -> None:
        """A start of its own for each cell, or the notice that the server restarted by itself."""
        if cell.cold == "restart":
            self.reporter.say(f"restarting the server for {cell.name}")
            self.deployment.restart()
            self._inspect_server()
        elif self._is_lost():
            self._restart_server()

    def _is_lost(self) -> bool:
        """Whether this server is gone, or going: it answers questions while its engine is dead."""
        deployment = self.deployment
        return not (
            deployment.alive()
            and deployment.endpoint.server.is_healthy()
            and environment.generation(deployment) == self._generation
        )

    def _warm_up(self, cell: Cell) -> None:
        """Once a server start and shape; a start's first until two TPOTs agree. The published replay had none."""
        if not self.options.warms_up or cell.preset == "published" or cell.shape in self._warm:
            return
        times = 1 if self._warm else MOST_WARM_UPS
        before = 0.0
        for number in range(times):
            now = warm_up(
                self.context(),
                cell,
                cells.derived_seed(self.run, "warm-up", self._generation, cell.shape, number),
            )
            if not now:
                self.reporter.say(f"the warm-up for {cell.shape} left no result")
            if before and abs(now - before) <= SETTLED * before:
                break
            before = now
        self._warm.add(cell.shape)

    def _restart_server(self, *, stuck: bool = False) -> None:
        """Wait for the restart policy, or start the server; then look whether it is the same one.

        One that stands still is healthy to Docker for a while: it is not waited for.
        """
        self.reporter.say("the server is lost; waiting for it to come back")
        try:
            if stuck and self.deployment.can_restart:
                self.deployment.restart()
            else:
                self.deployment.wait_healthy(COME_BACK_S)
            self._inspect_server()
        except ServerDied:
            if not self.deployment.can_restart:
                raise
            self.deployment.restart()
            self._inspect_server()

    def _interruption(self) -> Interrupted:
        return Interrupted(
            "Stopped.", cause="Ctrl-C or SIGTERM", next_step="the same command continues from here"
        )


def outcome(attempts: Sequence[Attempt]) -> KitError | None:
    """What a finished run ends with: nothing where every cell is valid or suspect."""
    from ernie_deploy.errors import BenchInvalid

    bad = {kind: [a for a in attempts if a.status == kind] for kind in ("failed", "invalid")}
    if bad["failed"]:
        return _verdict(ServerDied, "could not be measured", bad["failed"])
    if bad["invalid"]:
        return _verdict(BenchInvalid, "invalid", bad["invalid"])
    return None


def _verdict(kind: type[KitError], word: str, attempts: Sequence[Attempt]) -> KitError:
    reason = ""
    with suppress(IndexError):
        reason = attempts[0].reasons[0]
    return kind(
        f"{len(attempts)} of the cells {word}: {cells.names([a.cell for a in attempts])}.",
        cause=reason,
        next_step="see each failed check with: ernie-deploy bench report",
    )
