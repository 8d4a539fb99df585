"""The report as one HTML file: nothing is loaded, nothing runs, everything that a journal says is escaped."""

from functools import cache
from typing import TYPE_CHECKING

from ernie_deploy.bench.journal.figures import METRICS
from ernie_deploy.bench.report import wording
from ernie_deploy.bench.report.canvas import identifier
from ernie_deploy.bench.report.plots import Plot, plots
from ernie_deploy.bench.report.text import conclusion
from ernie_deploy.bench.report.verdict import STATUSES
from ernie_deploy.bench.report.view import Row, View
from ernie_deploy.render.templates import jinja

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# The columns of the table of cells, by what they tell about.
BLOCKS = (
    ("Throughput", ("output_throughput", "tok_s_gpu", "tok_s_user", "request_throughput", "request_goodput")),
    ("Time to first token, ms", ("median_ttft_ms", "tail_ttft_ms")),
    ("Time per token, ms", ("mean_tpot_ms", "tail_tpot_ms", "median_itl_ms")),
    ("Load on the server", ("mean_concurrency", "peak_concurrency", "waiting_peak", "kv_peak_percent", "preemptions")),
    ("Proof", ("prefix_hit_percent",)),
)  # fmt: skip
HEADINGS = {
    "output_throughput": "Output tok/s",
    "tok_s_gpu": "per GPU",
    "tok_s_user": "per user",
    "request_throughput": "req/s",
    "request_goodput": "req/s within SLO",
    "median_ttft_ms": "TTFT median",
    "tail_ttft_ms": "TTFT slowest",
    "mean_tpot_ms": "TPOT mean",
    "tail_tpot_ms": "TPOT slowest",
    "median_itl_ms": "ITL median",
    "mean_concurrency": "In flight, mean",
    "peak_concurrency": "most",
    "waiting_peak": "Waiting, most",
    "kv_peak_percent": "KV cache, most %",
    "preemptions": "Preempted",
    "prefix_hit_percent": "Cache hits %",
}


def html(view: View) -> str:
    """The page; raises `KitError` where matplotlib is missing."""
    drawn = plots(view)
    return environment().get_template("report.html.j2").render(
        view=view, plots=drawn, blocks=_blocks(view), headings=HEADINGS, metrics=METRICS, statuses=STATUSES
    )  # fmt: skip


@cache
def environment() -> "Environment":
    """Jinja for HTML: everything is escaped, unlike in the environment that writes YAML."""
    made = jinja(autoescape=True)
    names = ("number", "figure", "spread", "ratio", "percent", "counted", "listed")
    made.filters |= {name: getattr(wording, name) for name in names}
    made.filters |= {"drawing": drawing, "cell_figure": cell_figure, "identifier": identifier}
    made.globals["conclusion"] = conclusion
    return made


def drawing(plot: Plot) -> "Markup":
    """The plot as an element: the only text that is not escaped, since `canvas` made it."""
    from markupsafe import Markup

    return Markup(plot.svg)  # noqa: S704 - its words are escaped where they enter


def cell_figure(row: Row, key: str) -> str:
    """A figure of the table of cells."""
    return wording.figure(row.figure(key), key.replace("tail", row.tail))


def _blocks(view: View) -> list[tuple[str, list[str]]]:
    """The columns that tell something: without SLOs there is no goodput."""
    blocks = []
    for name, keys in BLOCKS:
        used = [key for key in keys if any(_telling(row, key) for row in view.rows)]
        blocks += [(name, used)] if used else []
    return blocks


def _telling(row: Row, key: str) -> bool:
    """Whether a row has the figure, and it is worth a column: preemptions where there were any."""
    measured = row.figure(key)
    if key == "tok_s_gpu":
        return measured != row.figure("output_throughput")
    return measured is not None and (key != "preemptions" or measured.median > 0)
