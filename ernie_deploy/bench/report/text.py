"""The report for a terminal: a coloured table where there is one, plain columns elsewhere."""

import sys
from collections.abc import Callable, Iterator, Sequence

from ernie_deploy.bench.compare.comparison import Comparison, Difference
from ernie_deploy.bench.journal.figures import METRICS
from ernie_deploy.bench.report.view import Row, View
from ernie_deploy.bench.report.wording import counted, figure, number, percent, ratio, spread
from ernie_deploy.safe_io import terminal

# Heading, and what stands below it; numbers are set to the right.
Column = tuple[str, Callable[[Row], str]]
COLUMNS: tuple[Column, ...] = (
    ("cell", lambda row: row.name),
    ("status", lambda row: row.status),
    ("repeats", lambda row: row.repeats),
    ("out tok/s", lambda row: figure(row.figure("output_throughput"), "output_throughput")),
    ("95 %", lambda row: spread(row.figure("output_throughput"))),
    ("tok/s/user", lambda row: figure(row.figure("tok_s_user"), "tok_s_user")),
    ("TTFT ms", lambda row: figure(row.figure("median_ttft_ms"), "median_ttft_ms")),
    ("TPOT ms", lambda row: figure(row.figure("mean_tpot_ms"), "mean_tpot_ms")),
    ("ITL ms", lambda row: figure(row.figure("median_itl_ms"), "median_itl_ms")),
    ("in flight", lambda row: figure(row.figure("peak_concurrency"), "peak_concurrency")),
    ("KV %", lambda row: figure(row.figure("kv_peak_percent"), "kv_peak_percent")),
)
LEFT = 2
COLOURS = {"valid": "green", "suspect": "yellow", "invalid": "red", "failed": "red", "interrupted": "dim"}


def show(view: View) -> None:
    """Print the report to standard output."""
    if terminal.in_colour(sys.stdout):
        _rich(view)
    else:
        terminal.say(text(view))


def text(view: View) -> str:
    """The report as plain lines."""
    return "\n".join([*_head(view), "", *_aligned(_cells(view)), "", *_tail(view)]).rstrip()


def _head(view: View) -> Iterator[str]:
    yield view.title
    yield view.subtitle
    if view.rehearsal:
        yield "REHEARSAL: random weights on whatever was there; the speeds mean nothing."
    yield ""
    yield view.verdict.headline
    yield view.verdict.sentence


def _cells(view: View) -> list[list[str]]:
    return [[heading for heading, _ in COLUMNS]] + [[of(row) for _, of in COLUMNS] for row in view.rows]


def _aligned(rows: Sequence[Sequence[str]], left: int = LEFT) -> Iterator[str]:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _tail(view: View) -> Iterator[str]:
    yield "TTFT and ITL are medians, TPOT a mean; of several repeats the median is shown, 95 % is of their mean."
    yield from _published(view)
    yield from _baseline(view)
    yield from _troubles(view)
    yield from (f"not known: {said}" for said in view.verdict.unknown)
    yield from (f"left out: {said}" for said in view.others)
    if view.torn:
        yield f"left out: {counted(view.torn, 'torn line')} of the journal"


def _published(view: View) -> Iterator[str]:
    for block in view.published:
        yield ""
        yield f"{block.cell} beside {block.id} ({block.source}); not a gate, unknown: {', '.join(block.unknown)}"
        rows = [["", "measured", "published", "ratio"]]
        for side in block.sides:
            decimals = METRICS[side.key].decimals
            rows.append(
                [
                    side.heading,
                    number(side.measured.median, decimals),
                    number(side.published, 2),
                    ratio(side.ratio),
                ]
            )
        yield from _aligned(rows, left=1)
        yield ""


def _baseline(view: View) -> Iterator[str]:
    if not view.baseline:
        return
    yield from (f"the baseline is stale: {said}" for said in view.baseline.stale)
    if view.baseline.comparison:
        yield comparison(view.baseline.comparison)
    else:
        yield f"no comparison with the baseline: {view.baseline.not_comparable}"
    yield ""


def _troubles(view: View) -> Iterator[str]:
    for trouble in view.troubles:
        superseded = ", superseded" if trouble.superseded else ""
        yield f"{trouble.status}: {trouble.cell}, attempt {trouble.attempt}{superseded}"
        yield from (f"    {check.id} ({check.level}): {check.text}" for check in trouble.checks)
        if not trouble.checks:
            yield from (f"    {reason}" for reason in trouble.reasons)
    yield from (f"odd: {odd.cell}: {odd.check.id}: {odd.check.text}" for odd in view.across)


def comparison(found: Comparison) -> str:
    """B against A, a line a figure, and what it comes to."""
    rows = [["cell", "figure", "A", "B", "change", "verdict"]]
    rows += [[pair.cell, *_difference(d)] for pair in found.pairs for d in pair.differences]
    lines = [f"under test: {said}" for said in found.under_test] or ["the same configuration on both sides"]
    lines += ["", *_aligned(rows, left=2), ""] if found.pairs else []
    lines += [f"not judged: {said}" for said in found.unjudged]
    marked = any(d.marked for pair in found.pairs for d in pair.differences)
    return "\n".join([*lines, conclusion(found) + (" * differs by more than 2 %." if marked else "")])


def _difference(found: Difference) -> list[str]:
    metric = METRICS[found.metric]
    sides = [f"{number(side.median, metric.decimals)} {spread(side)}".rstrip() for side in (found.a, found.b)]
    mark = "*" if found.marked else ""
    return [metric.title, *sides, percent(found.change_percent) + (mark or " "), found.verdict]


def conclusion(found: Comparison) -> str:
    """The last line: what somebody reads who reads nothing else."""
    judged = counted(len(found.pairs), "cell")
    if not found.pairs:
        return "No cell is valid on both sides, so nothing was judged."
    if found.regressions:
        return f"{counted(len(found.regressions), 'regression')} in {judged}."
    return f"No regression in {judged}."


def _rich(view: View) -> None:
    from rich.table import Table
    from rich.text import Text

    console, table = terminal.console(sys.stdout), Table(box=None, pad_edge=False, header_style="bold")
    for at, (heading, _) in enumerate(COLUMNS):
        table.add_column(heading, justify="left" if at < LEFT else "right", no_wrap=at < LEFT)
    for row in view.rows:
        cells = [Text(of(row)) for _, of in COLUMNS]
        cells[1].stylize(COLOURS[row.status])
        table.add_row(*cells)
    # Text is printed as it is: what a journal says is no markup.
    console.print(Text("\n".join(_head(view)) + "\n"))
    console.print(table)
    console.print(Text("\n" + "\n".join(_tail(view))))
