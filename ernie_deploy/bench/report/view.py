"""What a report shows, decided in one place: text, Markdown, CSV, JUnit and HTML only write it down."""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct, structs

from ernie_deploy.bench.compare.baseline import LocalBaseline, stale
from ernie_deploy.bench.compare.comparison import Comparison, Tolerance, compare
from ernie_deploy.bench.compare.repeats import Group, Series, plain_name, series
from ernie_deploy.bench.journal.figures import METRICS, P99_REQUESTS, Figure, figure
from ernie_deploy.bench.journal.record import Attempt, Check, Journal, Sample, Status
from ernie_deploy.bench.journal.samples import thinned
from ernie_deploy.bench.report.published import Published, published
from ernie_deploy.bench.report.setup import Fact, commands, environment_facts, other_series, title
from ernie_deploy.bench.report.verdict import Highlight, Verdict, highlights, verdict
from ernie_deploy.bench.validity.across import across
from ernie_deploy.errors import NotComparable, UsageError

# What the sides of a comparison are called in a report.
SIDES = ("the baseline", "this run")
# Of a drawing as wide as the page.
MOST_POINTS = 60


class Row(Struct, frozen=True, kw_only=True):
    """One cell: the figures over its usable repeats, and how good they are."""

    name: str
    load: str
    num_prompts: int
    status: Status
    # Repeats by status, valid first.
    tally: dict[Status, int]
    figures: dict[str, Figure]

    @property
    def repeats(self) -> str:
        """`3`, or `2 of 3` where a repeat has no figures."""
        used, whole = self.tally.get(self.status, 0), sum(self.tally.values())
        return str(whole) if used == whole else f"{used} of {whole}"

    @property
    def tail(self) -> str:
        """What stands for the slowest: a p99 takes 459 requests to mean anything."""
        return "p99" if self.num_prompts >= P99_REQUESTS else "slowest"

    def figure(self, key: str) -> Figure | None:
        """A figure by its metric; `tail_ttft_ms` is the p99 or the slowest."""
        return self.figures.get(key.replace("tail", self.tail))


class Load(Struct, frozen=True, kw_only=True):
    """Cells that differ in num-prompts alone: a line in a plot, a block in a table."""

    name: str
    lengths: str
    rows: tuple[Row, ...]


class CrossCellWarning(Struct, frozen=True, kw_only=True):
    """A check across cells that failed: it makes no measurement invalid, but somebody should look."""

    cell: str
    check: Check


class FailedAttempt(Struct, frozen=True, kw_only=True):
    """One attempt that is not valid, with every failed check; `row` is its cell without the repeat."""

    cell: str
    row: str
    attempt: int
    status: Status
    superseded: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    log_tail: tuple[str, ...]


class Timeline(Struct, frozen=True, kw_only=True):
    """The server during the largest cell of a load."""

    load: str
    cell: str
    samples: tuple[Sample, ...]


class Baseline(Struct, frozen=True, kw_only=True):
    """How the benchmark stands against the local baseline."""

    stale: tuple[str, ...]
    comparison: Comparison | None
    not_comparable: str = ""


class View(Struct, frozen=True, kw_only=True):
    """A whole report."""

    title: str
    subtitle: str
    rehearsal: bool
    verdict: Verdict
    highlights: tuple[Highlight, ...]
    loads: tuple[Load, ...]
    published: tuple[Published, ...]
    baseline: Baseline | None
    # Every check of every measurement that counts, passed or not.
    checks_run: int
    across: tuple[CrossCellWarning, ...]
    troubles: tuple[FailedAttempt, ...]
    timelines: tuple[Timeline, ...]
    facts: tuple[Fact, ...]
    commands: tuple[Fact, ...]
    others: tuple[str, ...]
    torn: int

    @property
    def rows(self) -> list[Row]:
        """Every row, load by load."""
        return [row for load in self.loads for row in load.rows]


def view(journal: Journal, baseline: LocalBaseline | None = None) -> View:
    """What is shown of the configuration measured last; raises `UsageError` where nothing was measured."""
    all_series = series(journal)
    if not all_series:
        raise UsageError("The journal holds no attempt.", next_step="measure with: ernie-deploy bench run")
    newest = all_series[-1]
    ladders = across(newest.usable)
    odd = tuple(_odd(newest, ladders))
    return View(
        **dict(zip(("title", "subtitle"), title(newest), strict=True)),
        rehearsal=newest.environment.rehearsal,
        verdict=verdict(newest, len(odd)),
        highlights=tuple(highlights(newest)),
        loads=tuple(_loads(newest)),
        published=tuple(published(newest)),
        baseline=_against(baseline, newest, journal) if baseline else None,
        checks_run=sum(map(len, [*(attempt.checks for attempt in newest.attempts), *ladders.values()])),
        across=odd,
        troubles=tuple(_troubles(newest)),
        timelines=tuple(_timelines(newest)),
        facts=tuple(environment_facts(newest)),
        commands=tuple(commands(newest)),
        others=tuple(other_series(all_series)),
        torn=journal.torn,
    )


def _loads(measured: Series) -> Iterator[Load]:
    by_load: dict[str, list[Group]] = {}
    for group in measured.groups:
        by_load.setdefault(load_name(group), []).append(group)
    for name, groups in by_load.items():
        lengths = f"{groups[0].cell.input_len:,} in / {groups[0].cell.output_len:,} out"
        yield Load(name=name, lengths=lengths, rows=tuple(_row(group) for group in groups))


def load_name(group: Group) -> str:
    """`prompt-heavy`, with what differs from the recipe's settings."""
    return re.sub(r" n=\d+", "", group.name, count=1)


def _row(group: Group) -> Row:
    return Row(
        name=group.name,
        load=load_name(group),
        num_prompts=group.cell.num_prompts,
        status=group.standing,
        tally=_tally(group),
        figures={key: made for key in METRICS if (made := figure(group.usable, key))},
    )


def _tally(group: Group) -> dict[Status, int]:
    statuses: list[Status] = [attempt.status for attempt in group.attempts]
    statuses += ["interrupted"] * len(group.cut)
    order: tuple[Status, ...] = ("valid", "suspect", "invalid", "failed", "interrupted")
    return {status: statuses.count(status) for status in order if status in statuses}


def _against(baseline: LocalBaseline, newest: Series, journal: Journal) -> Baseline:
    changed = tuple(stale(baseline, newest.environment))
    try:
        return Baseline(stale=changed, comparison=compare(baseline.journal, journal, Tolerance(), SIDES))
    except NotComparable as fault:
        return Baseline(stale=changed, comparison=None, not_comparable=fault.what)


def _odd(measured: Series, ladders: dict[str, tuple[Check, ...]]) -> Iterator[CrossCellWarning]:
    names = {attempt.identity: attempt.cell.name for attempt in measured.usable}
    for identity, checks in ladders.items():
        yield from (CrossCellWarning(cell=names[identity], check=check) for check in checks if not check.ok)


def _troubles(measured: Series) -> Iterator[FailedAttempt]:
    for group in measured.groups:
        yield from (_trouble(attempt) for attempt in group.attempts if attempt.status != "valid")
        yield from (
            _trouble(attempt, superseded=True) for attempt in group.superseded if attempt.status != "valid"
        )
        yield from (_never_ended(group, repeat) for repeat in group.cut)


def _trouble(attempt: Attempt, *, superseded: bool = False) -> FailedAttempt:
    return FailedAttempt(
        cell=attempt.cell.name,
        row=plain_name(attempt.cell),
        attempt=attempt.attempt,
        status=attempt.status,
        superseded=superseded,
        reasons=attempt.reasons,
        checks=tuple(check for check in attempt.checks if not check.ok),
        log_tail=attempt.log_tail,
    )


def _never_ended(group: Group, repeat: int) -> FailedAttempt:
    return FailedAttempt(
        cell=structs.replace(group.cell, repeat=repeat).name,
        row=group.name,
        attempt=0,
        status="interrupted",
        superseded=False,
        reasons=("It began and never ended: the run was killed, or the power went.",),
        checks=(),
        log_tail=(),
    )


def _timelines(measured: Series) -> Iterator[Timeline]:
    """Of each load the largest cell: there the KV cache fills and the queue grows."""
    largest = {load_name(group): group for group in measured.groups if _sampled(group)}
    for load, group in largest.items():
        attempt = _sampled(group)[-1]
        assert attempt.server
        yield Timeline(
            load=load, cell=plain_name(attempt.cell), samples=thinned(attempt.server.samples, MOST_POINTS)
        )


def _sampled(group: Group) -> Sequence[Attempt]:
    return [a for a in group.usable if a.server and len(a.server.samples) > 1]
