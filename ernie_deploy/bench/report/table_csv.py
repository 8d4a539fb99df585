"""The report as CSV: a row for each figure of each cell, so that new figures need no new columns."""

import csv as writer
import io
from collections.abc import Iterator

from ernie_deploy.bench.journal.figures import METRICS
from ernie_deploy.bench.report.view import Row, View

HEADINGS = (
    "cell", "load", "num_prompts", "status", "repeats", "figure", "unit", "median", "mean_low_95", "mean_high_95",
    "cv_percent",
)  # fmt: skip
# A spreadsheet takes a text that begins so for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv(view: View) -> str:
    """Every figure at full precision; a cell without figures has one row with none."""
    out = io.StringIO()
    made = writer.writer(out, lineterminator="\n")
    made.writerow(HEADINGS)
    made.writerows([_safe(item) for item in line] for row in view.rows for line in _lines(row))
    return out.getvalue()


def _lines(row: Row) -> Iterator[list[object]]:
    cell: list[object] = [row.name, row.load, row.num_prompts, row.status]
    if not row.figures:
        yield [*cell, 0, "", "", "", "", "", ""]
    for key, measured in row.figures.items():
        interval = measured.interval
        spread = [interval.low, interval.high, 100 * interval.cv] if interval else ["", "", ""]
        yield [*cell, measured.count, key, METRICS[key].unit, measured.median, *spread]


def _safe(item: object) -> object:
    return f"'{item}" if isinstance(item, str) and item.startswith(FORMULA) else item
