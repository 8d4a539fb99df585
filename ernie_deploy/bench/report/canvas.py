"""matplotlib, tamed: SVG for a page, its colours the page's own, the same bytes for the same numbers."""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Any

from ernie_deploy.errors import ExtraMissing

Limits = tuple[tuple[float, float], tuple[float, float]]

# matplotlib wants colours, the page has variables: each of these stands for one.
INK, MUTED, LINE, PAPER, FLOOR = "#010101", "#010102", "#010103", "#010104", "#010105"
SERIES = ("#010201", "#010202", "#010203", "#010204", "#010205", "#010206")
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper", FLOOR: "--floor",
    **{one: f"--series-{at}" for at, one in enumerate(SERIES, 1)},
}  # fmt: skip
COLOUR = re.compile("|".join(VARIABLES))
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH_IN = 5.6
STYLE = {
    # Text stays text: it can be searched, copied and read aloud.
    "svg.fonttype": "none",
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.titlecolor": MUTED,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
}


def require() -> None:
    """Raise `ExtraMissing` where there is no matplotlib."""
    try:
        import matplotlib  # noqa: F401, ICN001 - the question is whether it is there
    except ImportError as fault:
        raise ExtraMissing(
            "The HTML report needs matplotlib, which is not installed.",
            cause="the plots are an extra: text, Markdown, CSV, JUnit and JSON do not need them",
            next_step="pip install 'ernie-deploy[report]'",
        ) from fault


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn within looks alike, whatever the user's own matplotlibrc says."""
    import matplotlib as mpl

    with mpl.rc_context({**mpl.rcParamsDefault, "backend": "svg", **STYLE}):
        yield


def one(height_in: float = 3.7) -> tuple[Any, Any]:
    """A figure with one pair of axes; margins are fixed, for measuring text takes most of the time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in))
    below, above = 0.52 / height_in, 1 - 0.12 / height_in
    return figure, figure.add_axes((0.135, below, 0.84, above - below))


def two() -> tuple[Any, tuple[Any, Any]]:
    """A figure with two pairs of axes above one another."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, 4.2))
    above = figure.add_axes((0.105, 0.59, 0.87, 0.33))
    return figure, (above, figure.add_axes((0.105, 0.125, 0.87, 0.33), sharex=above))


def limits(points: Sequence[tuple[float, float]]) -> Limits:
    """Logarithmic limits around all points, with some air."""
    pairs = [(min(values), max(values)) for values in zip(*points, strict=True)] or [(1.0, 10.0)] * 2
    return _air(*pairs[0]), _air(*pairs[1])


def _air(low: float, high: float) -> tuple[float, float]:
    # At least a factor of 4, so that a single point stands on an axis with ticks.
    spread = max(high / low, 4.0)
    middle, half = math.sqrt(low * high), math.sqrt(spread) * spread**0.09
    return middle / half, middle * half


def log_log(axes: Any, bounds: Limits) -> None:
    """Logarithmic axes whose ticks read as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*bounds[0])
    axes.set_ylim(*bounds[1])
    for axis, (low, high) in ((axes.xaxis, bounds[0]), (axes.yaxis, bounds[1])):
        subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)  # noqa: PLR2004 - three decades of 1, 2, 5 crowd
        axis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))


def tick(value: float) -> str:
    """A number on an axis: `0.5`, `2,000`, `100k`, `1M`, never wider than the margin."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * unit or value >= 1e6:  # noqa: PLR2004 - 2,000 reads better than 2k
            return f"{value / unit:g}{name}"
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def label_points(axes: Any, points: Sequence[tuple[float, float, str]]) -> None:
    """Write beside each point what it is; a label that would lie on another is left to the table."""
    taken: list[tuple[float, float]] = []
    # The ends first: they tell which way the line goes.
    for x, y, text in [*points[:1], *points[-1:], *points[1:-1]]:
        across, up = axes.transData.transform((x, y))
        if all(abs(across - a) > 8 + 8 * len(text) or abs(up - b) > 16 for a, b in taken):  # noqa: PLR2004 - pixels
            axes.annotate(text, (x, y), xytext=(6, 5), textcoords="offset points", color=MUTED, fontsize=10)
            taken.append((across, up))


def name_axes(axes: Any, across: str, up: str) -> None:
    """Name both axes with their units."""
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def svg(figure: Any, name: str, title: str) -> str:
    """The figure as an `svg` element for a page: no width, no namespace, ids of its own, colours by variable."""
    import matplotlib as mpl

    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata=nothing)
    return _inlined(out.getvalue(), identifier(name), title)


def identifier(name: str) -> str:
    """`name` as an id of HTML."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _inlined(text: str, name: str, title: str) -> str:
    """What matplotlib wrote as an element of a page, told from its other drawings by `name`."""
    text, _, rest = text[text.index("<svg") :].partition("<metadata>")
    text += rest.partition("</metadata>")[2]
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box
    body = text[text.index(">") + 1 :].replace("xlink:href", "href").strip()
    for mark in (' id="', 'href="#', "url(#"):
        body = body.replace(mark, f"{mark}{name}-")
    # The page's own font, which is narrower than the one that matplotlib measures with.
    body = re.sub(r"font: ([\d.]+)px[^;\"]*", r"font-size: \1px", body)
    body = COLOUR.sub(lambda match: f"var({VARIABLES[match[0]]})", body)
    label = f'<title id="{name}-title">{escape(title)}</title>'
    return f'<svg {view_box[0]} role="img" aria-labelledby="{name}-title">{label}{body}'
