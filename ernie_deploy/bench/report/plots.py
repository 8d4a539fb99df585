"""The plots of a report: what is drawn, and the same numbers as a table beneath."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from ernie_deploy.bench.journal.figures import METRICS
from ernie_deploy.bench.report import canvas
from ernie_deploy.bench.report.canvas import FLOOR, INK, MARKERS, MUTED, PAPER, SERIES
from ernie_deploy.bench.report.view import Load, Row, Timeline, View
from ernie_deploy.bench.report.wording import number, ratio

Point = tuple[Row, float, float]


class Plot(Struct, frozen=True, kw_only=True):
    """One drawing; `table` has its headings first, and every number that is drawn."""

    id: str
    title: str
    svg: str
    table: tuple[tuple[str, ...], ...]


class Plots(Struct, frozen=True, kw_only=True):
    """Every drawing of a report; a kind without points has none."""

    trade_off: tuple[Plot, ...]
    against_concurrency: tuple[Plot, ...]
    floor: tuple[Plot, ...]
    over_time: tuple[Plot, ...]


def plots(view: View) -> Plots:
    """Draw everything; raises `KitError` where matplotlib is missing."""
    canvas.require()
    with canvas.style():
        return Plots(
            trade_off=tuple(_trade_offs(view.loads)),
            against_concurrency=tuple(_against_concurrency(view.loads)),
            floor=tuple(_floors(view.loads)),
            over_time=tuple(map(_over_time, view.timelines)),
        )


def colour(at: int) -> str:
    """The colour of the load at this place."""
    return SERIES[at % len(SERIES)]


def points(rows: Sequence[Row], x: str, y: str) -> list[Point]:
    """The rows that have both figures; what is not positive has no place on a logarithmic axis."""
    drawn_points = []
    for row in rows:
        across, up = row.figure(x), row.figure(y)
        if across and up and across.median > 0 and up.median > 0:
            drawn_points.append((row, across.median, up.median))
    return drawn_points


def dominated(point: Point, others: Sequence[Point]) -> bool:
    """Whether another point is better for the user and for the owner of the GPU."""
    _, x, y = point
    return any(a >= x and b >= y and (a > x or b > y) for _, a, b in others)


def _trade_offs(loads: Sequence[Load]) -> Iterator[Plot]:
    per_gpu = any(row.figure("tok_s_gpu") for load in loads for row in load.rows)
    up = "tok_s_gpu" if per_gpu else "output_throughput"
    curves = [points(load.rows, "tok_s_user", up) for load in loads]
    limits = canvas.limits([p[1:] for each in curves for p in each])
    for at, (load, drawn) in enumerate(zip(loads, curves, strict=True)):
        if drawn:
            yield _trade_off(at, load, drawn, up, limits)


def _trade_off(at: int, load: Load, drawn: list[Point], up: str, limits: canvas.Limits) -> Plot:
    figure, axes = canvas.one()
    canvas.log_log(axes, limits)
    axes.plot([x for _, x, _ in drawn], [y for _, _, y in drawn], color=colour(at), alpha=0.35, linewidth=1.5)
    for k, point in enumerate(drawn):
        hollow = dominated(point, drawn)
        axes.plot(
            *[[value] for value in point[1:]], color=colour(at), linestyle="none", gid=f"point-{k}",
            **_marker(at, hollow=hollow),
        )  # fmt: skip
    canvas.label_points(axes, [(x, y, f"{row.num_prompts}") for row, x, y in drawn])
    canvas.name_axes(axes, METRICS["tok_s_user"].title, METRICS[up].title)
    headings = ("num-prompts", METRICS["tok_s_user"].title, METRICS[up].title, "dominated")
    return Plot(
        id=f"trade-off-{at}",
        title=load.name,
        svg=canvas.svg(figure, f"trade-off-{at}", f"Throughput over interactivity, {load.name}"),
        table=(headings, *(
            (str(p[0].num_prompts), number(p[1]), number(p[2]), "yes" if dominated(p, drawn) else "no") for p in drawn
        )),
    )  # fmt: skip


def _marker(at: int, *, hollow: bool = False) -> dict[str, Any]:
    return {
        "marker": MARKERS[at % len(MARKERS)],
        "markersize": 6.5,
        "markerfacecolor": PAPER if hollow else colour(at),
        "markeredgewidth": 1.4,
    }


def _against_concurrency(loads: Sequence[Load]) -> Iterator[Plot]:
    in_flight = METRICS["mean_concurrency"].title
    yield from _lines("ttft", "Median TTFT", loads, "median_ttft_ms", in_flight)
    yield from _lines("tpot", "Mean TPOT", loads, "mean_tpot_ms", in_flight)
    yield from _lines("in-flight", "Requested and reached", loads, "peak_concurrency", "num-prompts")


def _lines(name: str, title: str, loads: Sequence[Load], key: str, across: str) -> Iterator[Plot]:
    """One line a load, logarithmic both ways; what is on the x axis follows from `across`."""
    take = _requested if across == "num-prompts" else partial(points, x="mean_concurrency")
    curves = [take(load.rows, y=key) for load in loads]
    if not any(curves):
        return
    figure, axes = canvas.one()
    limits = canvas.limits([p[1:] for each in curves for p in each])
    canvas.log_log(axes, limits)
    if across == "num-prompts":
        ends = max(limits[0][0], limits[1][0]), min(limits[0][1], limits[1][1])
        axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    for at, drawn in enumerate(curves):
        axes.plot(
            [x for _, x, _ in drawn], [y for _, _, y in drawn], color=colour(at), linewidth=1.5,
            gid=f"points-{at}", **_marker(at),
        )  # fmt: skip
    canvas.name_axes(axes, across, METRICS[key].title)
    table: list[tuple[str, ...]] = [
        (load.name, str(row.num_prompts), number(x), number(y, METRICS[key].decimals))
        for load, drawn in zip(loads, curves, strict=True)
        for row, x, y in drawn
    ]
    table.insert(0, ("load", "num-prompts", across, METRICS[key].title))
    if across == "num-prompts":
        table = [(*line[:2], line[3]) for line in table]
    label = f"{METRICS[key].title} against {across}"
    yield Plot(id=name, title=title, svg=canvas.svg(figure, name, label), table=tuple(table))


def _requested(rows: Sequence[Row], y: str) -> list[Point]:
    return [
        (row, float(row.num_prompts), measured.median)
        for row in rows
        if (measured := row.figure(y)) and measured.median > 0
    ]


def _floors(loads: Sequence[Load]) -> Iterator[Plot]:
    for at, load in enumerate(loads):
        if drawn := points(load.rows, "floor_ms", "median_itl_ms"):
            yield _floor(at, load, drawn)


def _floor(at: int, load: Load, drawn: list[Point]) -> Plot:
    """A bar for what was measured, and within it how much of it no GPU of this kind can avoid."""
    figure, axes = canvas.one(height_in=0.75 + 0.32 * len(drawn))
    places = list(range(len(drawn)))
    axes.barh(places, [itl for _, _, itl in drawn], height=0.62, color=colour(at), alpha=0.3)
    axes.barh(places, [floor for _, floor, _ in drawn], height=0.3, color=FLOOR)
    axes.set_yticks(places, [f"{row.num_prompts}" for row, _, _ in drawn])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * max(max(p[1:]) for p in drawn))
    for place, (_, floor, itl) in zip(places, drawn, strict=True):
        axes.annotate(
            ratio(itl / floor), (max(itl, floor), place), xytext=(5, 0), textcoords="offset points",
            va="center", color=INK,
        )  # fmt: skip
    axes.grid(visible=False, axis="y")
    canvas.name_axes(axes, "ms per token", "num-prompts")
    headings = ("num-prompts", "Floor, ms (estimated)", "Median ITL, ms", "ITL over floor")
    rows = [(str(r.num_prompts), number(x, 2), number(y, 2), ratio(y / x)) for r, x, y in drawn]
    return Plot(
        id=f"floor-{at}",
        title=load.name,
        svg=canvas.svg(figure, f"floor-{at}", f"Median ITL against the estimated decode floor, {load.name}"),
        table=(headings, *rows),
    )


def _over_time(timeline: Timeline) -> Plot:
    """KV cache above, requests below, on one time axis."""
    figure, (above, below) = canvas.two()
    times = [sample.elapsed_s for sample in timeline.samples]
    used = [100 * sample.kv_cache_use for sample in timeline.samples]
    above.fill_between(times, used, color=SERIES[0], alpha=0.18, linewidth=0)
    above.plot(times, used, color=SERIES[0], linewidth=1.5, gid="kv")
    above.set_ylim(0, 105)
    above.set_title("KV cache used, %", loc="left")
    below.plot(
        times, [sample.running for sample in timeline.samples], color=INK, linewidth=1.5, gid="running"
    )
    below.plot(
        times, [sample.waiting for sample in timeline.samples], color=SERIES[1], linewidth=1.5,
        linestyle=(0, (4, 2)), gid="waiting",
    )  # fmt: skip
    below.set_title("Requests: running (line), waiting (dashes)", loc="left")
    below.set_ylim(bottom=0)
    below.set_xlim(times[0], times[-1])
    below.set_xlabel("s since the cell began")
    above.tick_params(labelbottom=False)
    figure.align_ylabels()
    name = f"over-time-{timeline.load}"
    rows = [
        (number(s.elapsed_s), number(100 * s.kv_cache_use), number(s.running, 0), number(s.waiting, 0))
        for s in timeline.samples
    ]
    return Plot(
        id=canvas.identifier(name),
        title=timeline.cell,
        svg=canvas.svg(figure, name, f"KV cache use and requests over time, {timeline.cell}"),
        table=(("s", "KV cache used, %", "Running", "Waiting"), *rows),
    )
