"""What a server is held to of an accepted benchmark: a time per token at its load, and how far it may be left."""

from pathlib import Path

from ernie_deploy.bench.compare.baseline import load
from ernie_deploy.bench.compare.comparison import Tolerance
from ernie_deploy.bench.compare.repeats import Group, series
from ernie_deploy.bench.journal.figures import figure
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.request import Baseline

NAME = "baseline.json"


def bound_of(folder: Path, name: str) -> Baseline:
    """The bound in a baseline's file, of its cell with most requests at once; raises `UsageError` where none has one."""
    groups = series(load(folder / name).journal)[-1].groups
    tolerance = Tolerance().mean_tpot_ms
    bounds = [
        (group, _load(group)) for group in groups if group.standing == "valid" and group.cell.lengths_fixed
    ]
    measured = [
        (concurrency, group, tpot.median)
        for group, concurrency in bounds
        if concurrency and (tpot := figure(group.usable, "mean_tpot_ms"))
    ]
    if not measured or tolerance is None:
        raise UsageError(
            f"{folder / name} has no valid cell with prompts of one length.",
            cause="the alert compares the time per token at the load that was measured",
            next_step="measure with: ernie-deploy bench run, and accept with: ernie-deploy bench baseline accept",
        )
    concurrency, group, tpot_ms = max(measured, key=lambda one: one[0])
    return Baseline(
        path=name,
        cell=group.name,
        mean_tpot_s=tpot_ms / 1000,
        concurrency=concurrency,
        prompt_tokens=float(group.cell.input_len),
        tolerance_percent=tolerance,
    )


def _load(group: Group) -> float:
    """The most requests that ran at once in every repeat; 0 where it is not known."""
    peaks = [attempt.derived.peak_concurrency for attempt in group.usable if attempt.derived]
    return float(min(peaks, default=0))
