"""Compares two benchmarks cell by cell: what became worse, by how much, and whether noise could explain it."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ernie_deploy.bench.compare.repeats import Group, Series, series
from ernie_deploy.bench.journal.cells import changes
from ernie_deploy.bench.journal.figures import METRICS, P99_REQUESTS, Figure, figure
from ernie_deploy.bench.journal.record import Environment, Journal
from ernie_deploy.errors import BenchInvalid, KitError, NotComparable, UsageError
from ernie_deploy.safe_io.reading import read_bounded

# What MLPerf calls materially different.
MARKED_PERCENT = 2.0

Percent = Annotated[float, Meta(ge=0)]
Verdict = Literal["same", "better", "regression", "within noise", "not gated"]
GATED = ("output_throughput", "mean_tpot_ms", "median_ttft_ms", "p99_ttft_ms", "p99_tpot_ms")
SHOWN = ("median_itl_ms", "request_goodput")


class Tolerance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By how many percent a figure may become worse; None: shown, never a regression."""

    output_throughput: Percent | None = 5.0
    mean_tpot_ms: Percent | None = 5.0
    median_ttft_ms: Percent | None = 15.0
    # From 459 requests on: below, a p99 is one request.
    p99_ttft_ms: Percent | None = None
    p99_tpot_ms: Percent | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """One figure on both sides; `change_percent` of A, positive where B is greater."""

    metric: str
    a: Figure
    b: Figure
    change_percent: float
    verdict: Verdict

    @property
    def marked(self) -> bool:
        """Whether the two differ materially, whatever the tolerance."""
        return abs(self.change_percent) > MARKED_PERCENT


class Pair(Struct, frozen=True, kw_only=True):
    """One cell that both sides measured."""

    cell: str
    num_prompts: int
    differences: tuple[Difference, ...]


class Comparison(Struct, frozen=True, kw_only=True):
    """B against A: the pairs, what is different about the servers, and what could not be judged."""

    a: Environment
    b: Environment
    under_test: tuple[str, ...]
    pairs: tuple[Pair, ...]
    # A sentence for each cell that is missing or not valid on a side.
    unjudged: tuple[str, ...]
    # Those of A's valid cells that B does not have valid or suspect.
    lost: tuple[str, ...] = ()

    @property
    def regressions(self) -> list[tuple[str, Difference]]:
        """Each regression with its cell."""
        return [(p.cell, d) for p in self.pairs for d in p.differences if d.verdict == "regression"]

    @property
    def exit_code(self) -> int:
        """1 where something became worse, 11 where a cell of A is not proven in B, 13 where nothing was judged."""
        if self.regressions:
            return KitError.exit_code
        if self.lost:
            return BenchInvalid.exit_code
        return 0 if self.pairs else NotComparable.exit_code


def compare(a: Journal, b: Journal, tolerance: Tolerance, names: tuple[str, str] = ("A", "B")) -> Comparison:
    """B against A, by the configuration that each measured last; raises `NotComparable`.

    `names` is what the sides are called where a cell cannot be judged.
    """
    first, second = _newest(a, names[0]), _newest(b, names[1])
    _must_ask_the_same(first.environment, second.environment)
    groups = {_key(group): group for group in first.groups}, {_key(group): group for group in second.groups}
    if not groups[0].keys() & groups[1].keys():
        raise _no_common_cell(first, second)
    judged = [key for key in groups[0] if key in groups[1] and _valid(groups[0][key], groups[1][key])]
    return Comparison(
        a=first.environment,
        b=second.environment,
        under_test=tuple(changes(first.environment, second.environment)),
        pairs=tuple(_pair(groups[0][key], groups[1][key], tolerance) for key in judged),
        unjudged=tuple(_unjudged(groups, names)),
        lost=tuple(_lost(groups)),
    )


def tolerance_of(path: Path | None) -> Tolerance:
    """The tolerances in a TOML file; raises `UsageError` where it has a key that nobody reads."""
    if path is None:
        return Tolerance()
    try:
        return msgspec.convert(tomllib.loads(read_bounded(path).decode()), Tolerance)
    except (
        OSError,
        UnicodeDecodeError,
        tomllib.TOMLDecodeError,
        msgspec.ValidationError,
        RecursionError,
    ) as fault:
        raise UsageError(
            f"{path} is no tolerance file: {fault}",
            next_step=f"write percentages such as output_throughput = 5; known are {', '.join(GATED)}",
        ) from fault


def _newest(journal: Journal, side: str) -> Series:
    all_series = series(journal)
    if not all_series:
        raise NotComparable(f"{side} holds no attempt.", next_step="measure with: ernie-deploy bench run")
    return all_series[-1]


def _must_ask_the_same(a: Environment, b: Environment) -> None:
    faults = [
        f"{what}: {getattr(a, name) or 'unknown'} against {getattr(b, name) or 'unknown'}"
        for name, what in (("hf_id", "model"), ("client_version", "client"), ("rehearsal", "rehearsal"))
        if getattr(a, name) != getattr(b, name)
    ]
    if faults:
        raise NotComparable(
            f"A and B answer different questions: {'; '.join(faults)}.",
            cause="figures are only compared between the same model, measured by the same client",
            next_step="measure both sides with: ernie-deploy bench run",
        )


def _no_common_cell(a: Series, b: Series) -> NotComparable:
    sides = [f"{side} has {_names(measured)}" for side, measured in (("A", a), ("B", b))]
    return NotComparable(
        "A and B have no cell in common.",
        cause="; ".join(sides),
        next_step="measure the same shapes and num-prompts on both sides",
    )


def _names(measured: Series) -> str:
    names = [group.name for group in measured.groups]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")  # noqa: PLR2004


def _key(group: Group) -> str:
    """The same load; an SLO only counts, and repeats are put together."""
    cell = msgspec.structs.replace(group.cell, repeat=1, goodput={})
    return msgspec.json.encode(cell, order="sorted").decode()


def _valid(a: Group, b: Group) -> bool:
    return a.standing == b.standing == "valid"


def _lost(sides: tuple[dict[str, Group], dict[str, Group]]) -> Iterator[str]:
    """Cells that A has valid and B neither valid nor suspect."""
    for key, group in sides[0].items():
        other = sides[1].get(key)
        if group.standing == "valid" and (other is None or other.standing not in ("valid", "suspect")):
            yield group.name


def _unjudged(sides: tuple[dict[str, Group], dict[str, Group]], names: tuple[str, str]) -> Iterator[str]:
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        values = [side.get(key) for side in sides]
        faults = [
            f"{group.standing if group else 'missing'} in {name}"
            for name, group in zip(names, values, strict=True)
            if group is None or group.standing != "valid"
        ]
        if faults:
            yield f"{next(filter(None, values)).name}: {', '.join(faults)}"


def _pair(a: Group, b: Group, tolerance: Tolerance) -> Pair:
    differences = []
    for key in (*GATED, *SHOWN):
        if key.startswith("p99") and a.cell.num_prompts < P99_REQUESTS:
            continue
        sides = figure(a.usable, key), figure(b.usable, key)
        if sides[0] and sides[1] and sides[0].median:
            differences.append(difference(key, sides[0], sides[1], getattr(tolerance, key, None)))
    return Pair(cell=a.name, num_prompts=a.cell.num_prompts, differences=tuple(differences))


def difference(key: str, a: Figure, b: Figure, limit_percent: float | None) -> Difference:
    """What changed in one figure, and whether that is a regression."""
    change = 100.0 * (b.median - a.median) / a.median
    worse = -change if METRICS[key].better == "higher" else change
    return Difference(
        metric=key, a=a, b=b, change_percent=change, verdict=_verdict(worse, limit_percent, a, b)
    )


def _verdict(worse: float, limit: float | None, a: Figure, b: Figure) -> Verdict:
    if limit is None:
        return "not gated"
    if abs(worse) <= limit:
        return "same"
    if _overlap(a, b):
        return "within noise"
    return "regression" if worse > limit else "better"


def _overlap(a: Figure, b: Figure) -> bool:
    """Whether the 95 % intervals meet; without repeats on both sides there is no such excuse."""
    return bool(a.interval and b.interval and not a.interval.disjoint(b.interval))
