"""The report for a terminal: a coloured table where there is one, plain columns elsewhere."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from ernie_deploy.bench.compare.comparison import Comparison, Difference
from ernie_deploy.bench.journal.figures import METRICS
from ernie_deploy.bench.report.view import Row, View
from ernie_deploy.bench.report.wording import counted, figure, number, percent, ratio, spread
from ernie_deploy.safe_io import terminal
from ernie_deploy.safe_io.columns import Column, folded, table, width_of

# Heading, and what stands below it; numbers are set to the right. What comes later goes first where it is narrow.
Cell = tuple[str, Callable[[Row], str]]
COLUMNS: tuple[Cell, ...] = (
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
    width = width_of(sys.stdout)
    if terminal.in_colour(sys.stdout):
        _rich(view, width)
    else:
        terminal.say(text(view, width))


def text(view: View, width: int | None = None) -> str:
    """The report as plain lines, of at most `width` columns where one is given."""
    parts = [*_head(view), "", *_table(_cells(view), LEFT, width, kept=2), "", *_tail(view, width)]
    return "\n".join(_folded(parts, width)).rstrip()


def _folded(lines: Iterable[str], width: int | None) -> Iterator[str]:
    for line in lines:
        yield from [line] if width is None else folded(line, width, "    ")


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


def _table(rows: Sequence[Sequence[str]], left: int, width: int | None, kept: int = 1) -> list[str]:
    """The rows below their headings; where they are too wide, columns are dropped from the right."""
    columns = [
        Column(heading=heading, right=at >= left, drop=at if at >= kept else 0)
        for at, heading in enumerate(rows[0])
    ]
    return table(columns, rows[1:], width)


def _tail(view: View, width: int | None = None) -> Iterator[str]:
    yield "TTFT and ITL are medians, TPOT a mean; of several repeats the median is shown, 95 % is of their mean."
    yield from _published(view, width)
    yield from _baseline(view, width)
    yield from _troubles(view)
    yield from (f"not known: {sentence}" for sentence in view.verdict.unknown)
    yield from (f"left out: {sentence}" for sentence in view.others)
    if view.torn:
        yield f"left out: {counted(view.torn, 'torn line')} of the journal"


def _published(view: View, width: int | None) -> Iterator[str]:
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
        yield from _table(rows, 1, width, kept=3)
        yield ""


def _baseline(view: View, width: int | None) -> Iterator[str]:
    if not view.baseline:
        return
    yield from (f"the baseline is stale: {sentence}" for sentence in view.baseline.stale)
    if view.baseline.comparison:
        yield comparison(view.baseline.comparison, width)
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


def comparison(compared: Comparison, width: int | None = None) -> str:
    """B against A, a line a figure, and what it comes to; with a `width` no line is longer."""
    rows = [["cell", "figure", "A", "B", "change", "verdict"]]
    rows += [[pair.cell, *_difference(d)] for pair in compared.pairs for d in pair.differences]
    lines = [f"under test: {sentence}" for sentence in compared.under_test] or [
        "the same configuration on both sides"
    ]
    lines += ["", *_comparison_table(rows, width), ""] if compared.pairs else []
    lines += [f"not judged: {sentence}" for sentence in compared.unjudged]
    marked = any(d.marked for pair in compared.pairs for d in pair.differences)
    lines.append(conclusion(compared) + (" * differs by more than 2 %." if marked else ""))
    return "\n".join(_folded(lines, width))


# Of a comparison: what is dropped first where it is narrow.
NARROW_COMPARISON = {"A": 2, "B": 1}


def _comparison_table(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    columns = [
        Column(heading=heading, right=at >= LEFT, drop=NARROW_COMPARISON.get(heading, 0))
        for at, heading in enumerate(rows[0])
    ]
    return table(columns, rows[1:], width)


def _difference(difference: Difference) -> list[str]:
    metric = METRICS[difference.metric]
    sides = [
        f"{number(side.median, metric.decimals)} {spread(side)}".rstrip()
        for side in (difference.a, difference.b)
    ]
    mark = "*" if difference.marked else ""
    return [metric.title, *sides, percent(difference.change_percent) + (mark or " "), difference.verdict]


def conclusion(compared: Comparison) -> str:
    """The last line: what somebody reads who reads nothing else."""
    judged = counted(len(compared.pairs), "cell")
    if not compared.pairs:
        return "No cell is valid on both sides, so nothing was judged."
    if compared.regressions:
        return f"{counted(len(compared.regressions), 'regression')} in {judged}."
    return f"No regression in {judged}."


def _rich(view: View, width: int | None) -> None:
    """The same lines, the headings bold and each status in its colour."""
    from rich.text import Text

    cells = Text("\n".join(_table(_cells(view), LEFT, width, kept=2)))
    cells.stylize("bold", 0, cells.plain.find("\n"))
    for status, colour in COLOURS.items():
        cells.highlight_regex(rf"(?m)(?<=  ){status}(?=  )", colour)
    # Text is printed as it is: what a journal says is no markup.
    head, tail = (Text("\n".join(_folded(lines, width))) for lines in (_head(view), _tail(view, width)))
    console = terminal.console(sys.stdout)
    for part in (head, Text(), cells, Text(), tail):
        console.print(part, soft_wrap=True)
