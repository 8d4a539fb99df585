"""`bench`: the recipe's matrix measured, every number proven, resumable."""

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands import bench_report
from ernie_deploy.commands.bench_options import HOW, SLOS, WHAT, WHERE, slo, with_options
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.bench.journal.cells import Choice
    from ernie_deploy.bench.journal.record import Attempt, Cell
    from ernie_deploy.bench.measure.run import RunOptions
    from ernie_deploy.plan.plan import Plan

EXAMPLE = """\b
Example:
  ernie-deploy bench plan
  ernie-deploy bench run
  ernie-deploy bench report --html report.html"""

RUN_EXAMPLE = """\b
Examples:
  ernie-deploy bench run                                  # the stack of this folder, the whole matrix
  ernie-deploy bench run --shapes balanced --num-prompts 16,64 --repeat 3
  ernie-deploy bench run --attach http://10.0.0.5:8000 --model 21b --target h100"""


# Where the commands of --dry-run leave their results.
BY_HAND = "by-hand"


class InOrder(click.Group):
    """Lists the commands as they are used, one after the other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order they were added."""
        return list(self.commands)


@click.group(cls=InOrder, epilog=EXAMPLE)
def bench() -> None:
    """Measure a stack with vLLM's own client, and prove each number."""


@bench.command(epilog="Example: ernie-deploy bench plan --shapes balanced")
@click.option("--json", "as_json", is_flag=True, help="Print the cells as JSON.")
@with_options(WHERE, WHAT)
def plan(as_json: bool, **options: Any) -> None:
    """List the cells, their estimated duration, and those that cannot run."""
    from ernie_deploy.commands.bench_plan import as_data, as_text, rows_of
    from ernie_deploy.commands.bench_stack import plan_of

    decided = plan_of(options)
    rows = rows_of(_cells(options, decided), decided)
    say(json.dumps(as_data(rows), indent=2) if as_json else as_text(rows), as_json=as_json)


@bench.command(epilog=RUN_EXAMPLE)
@click.option("--dry-run", is_flag=True, help="Print the exact command of each cell and run none.")
@click.option("--json", "as_json", is_flag=True, help="Print the attempts as JSON.")
@with_options(WHERE, WHAT, HOW)
def run(dry_run: bool, as_json: bool, **options: Any) -> None:
    """Measure every cell that has no valid result yet."""
    from ernie_deploy.commands.bench_stack import plan_of

    plan = plan_of(options)
    cells = feasible(_cells(options, plan), plan)
    if dry_run:
        _print_commands(cells, options)
        return
    done = _measured(cells, plan, options)
    _conclude(done, as_json=as_json)


@bench.command(epilog="Example: ernie-deploy bench search --slo ttft:1000,tpot:50 --shape balanced")
@click.option(
    "--slo",
    "slo_ms",
    required=True,
    callback=slo,
    metavar="ttft:MS,tpot:MS",
    help=f"Limits: {', '.join(SLOS)}.",
)
@click.option(
    "--shape", default="balanced", show_default=True, help="A shape of the recipe, or tokens: 2000/500."
)
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=0.99, show_default=True,
              help="Share of the requests that must meet every limit.")  # fmt: skip
@click.option(
    "--most", type=click.IntRange(min=1), default=512, show_default=True, help="Highest concurrency to try."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@with_options(WHERE, HOW)
def search(
    slo_ms: dict[str, float], shape: str, share: float, most: int, as_json: bool, **options: Any
) -> None:
    """Find the highest concurrency that still meets latency limits."""
    from ernie_deploy.commands.bench_search import searched

    outcome = searched(slo_ms, shape, share, most, options)
    say(json.dumps(outcome, indent=2) if as_json else outcome["sentence"], as_json=as_json)


for _command in (bench_report.report, bench_report.compare, bench_report.baseline):
    bench.add_command(_command)


def _cells(options: dict[str, Any], plan: "Plan | None") -> "list[Cell]":
    from ernie_deploy.bench.journal.cells import cells_of
    from ernie_deploy.catalog import Catalog

    return cells_of(_choice(options, plan), Catalog().matrix)


def _choice(options: dict[str, Any], plan: "Plan | None") -> "Choice":
    from ernie_deploy.bench.journal.cells import Choice
    from ernie_deploy.commands.bench_stack import rate_of, recipe_rate
    from ernie_deploy.errors import UsageError

    if (options["dataset"] in ("sharegpt", "custom")) != bool(options["dataset_path"]):
        raise UsageError(
            "--dataset sharegpt and custom take a file, and only they do.",
            next_step="name it with --dataset-path FILE",
        )
    names = ("shapes", "num_prompts", "max_concurrency", "repeat", "cold", "dataset", "dataset_path", "goodput", "seed")  # fmt: skip
    return Choice(
        **{name: options[name] for name in names},
        request_rate=rate_of(options, plan),
        recipe_rate=recipe_rate(plan),
        preset=options["preset"] or "",
    )


def feasible(cells: "list[Cell]", plan: "Plan | None") -> "list[Cell]":
    """Every cell that can be; those that cannot are named on stderr. Raises `Refused` where none is left."""
    from ernie_deploy.commands.bench_plan import rows_of
    from ernie_deploy.errors import Refused

    rows = rows_of(cells, plan)
    for row in rows:
        if row.refused:
            say(f"refused   {row.cell.name}: {row.refused}", err=True)
    if all(row.refused for row in rows):
        raise Refused(
            "No cell of this matrix can run on this stack.",
            cause=rows[0].refused,
            next_step="choose shorter --shapes, or render with a longer --max-model-len",
        )
    return [row.cell for row in rows if not row.refused]


def _print_commands(cells: "list[Cell]", options: dict[str, Any]) -> None:
    import shlex

    from ernie_deploy.bench.journal.cells import seed_of
    from ernie_deploy.bench.measure import client
    from ernie_deploy.commands.bench_stack import deployment_of

    deployment, dataset = deployment_of(options), options["dataset_path"]
    folder = options["results"].absolute() / BY_HAND
    # A stack's client runs as another user than this one.
    say(shlex.join(["install", "-d", "-m", "777", str(folder)]))
    for number, cell in enumerate(cells, 1):
        seed, place = seed_of(BY_HAND, cell, 1), deployment.place(folder, dataset)
        words = client.words(deployment.base_words(), cell, seed, f"cell-{number}.json", place)
        say(shlex.join(deployment.command(words, folder, dataset)))


def _measured(cells: "list[Cell]", plan: "Plan | None", options: dict[str, Any]) -> "list[Attempt]":
    from ernie_deploy.bench.journal import store
    from ernie_deploy.bench.measure.run import Runner
    from ernie_deploy.commands.bench_progress import reporting
    from ernie_deploy.commands.bench_stack import deployment_of

    end_as_ctrl_c_does()
    path = options["results"] / store.NAME
    deployment = deployment_of(options)
    with store.writing(path) as writer, reporting(sys.stderr) as reporter:
        return list(
            Runner(deployment, run_options_of(plan, options), writer, store.read(path), reporter).measure(
                cells
            )
        )


def run_options_of(plan: "Plan | None", options: dict[str, Any]) -> "RunOptions":
    """What a run of these options is to do."""
    from ernie_deploy.bench.measure.run import RunOptions
    from ernie_deploy.commands.bench_plan import coherence_of
    from ernie_deploy.commands.bench_stack import known_of

    return RunOptions(
        folder=options["results"],
        dataset=options.get("dataset_path"),
        known=known_of(plan, options),
        coherence=None if options["skip_coherence"] else coherence_of(plan, options),
        warms_up=not options["no_warm_up"],
        fail_fast=options["fail_fast"],
    )


def end_as_ctrl_c_does() -> None:
    """Let SIGTERM and a lost terminal end a run as Ctrl-C does: the journal gets its line, the client its end.

    What the caller had ignored stays so: under nohup a run outlives its terminal.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, signal.default_int_handler)


def _conclude(attempts: "list[Attempt]", *, as_json: bool) -> None:
    """Say how it went; raises what the exit code stands for."""
    from collections import Counter

    import msgspec

    from ernie_deploy.bench.measure.run import outcome

    counts = Counter(attempt.status for attempt in attempts)
    if as_json:
        say(msgspec.json.encode(attempts).decode(), as_json=True)
    else:
        say(", ".join(f"{count} {status}" for status, count in counts.items()))
    if fault := outcome(attempts):
        raise fault
