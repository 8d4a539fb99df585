"""The dashboard as Grafana reads it, made with the types of grafana-foundation-sdk from the queries of this stack."""

from itertools import groupby
from string import ascii_uppercase
from typing import Any

from ernie_deploy.errors import ExtraMissing
from ernie_deploy.monitoring.queries import Panel, Query, panels
from ernie_deploy.plan.plan import Plan

UID, DATASOURCE = "ernie-deploy", "prometheus"
EXTRA = "pip install 'ernie-deploy[monitoring]'"
# Grafana's names of units.
UNITS = {
    "none": "none", "short": "short", "s": "s", "percentunit": "percentunit", "reqps": "reqps", "bytes": "bytes",
    "tokens/s": "suffix: tokens/s", "tokens": "suffix: tokens", "watt": "watt", "celsius": "celsius",
    "J/token": "suffix: J/token", "USD": "currencyUSD",
}  # fmt: skip
# A dashboard is 24 wide; three panels stand beside each other.
WIDTH, HEIGHT = 8, 7
CALM, LOUD = "green", "red"


def dashboard(plan: Plan) -> str:
    """The JSON of the stack's one dashboard; raises `ExtraMissing` without the library."""
    try:
        from grafana_foundation_sdk.builders import dashboard as build
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
    except ImportError as fault:
        raise ExtraMissing(
            "The library that makes the dashboard is missing.",
            cause=f"--monitoring needs grafana-foundation-sdk: {fault}",
            next_step=EXTRA,
        ) from fault
    made = (
        build.Dashboard(f"{plan.model.title} on {plan.target.title}")
        .uid(UID)
        .tags(["ernie-deploy", "vllm"])
        .readonly()
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
    )
    for row, group in groupby(panels(plan), key=lambda panel: panel.row):
        made = made.with_row(build.Row(row))
        for panel in group:
            made = made.with_panel(_panel(panel))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build())) + "\n"


def _panel(panel: Panel) -> Any:
    """One panel as a builder of the library."""
    from grafana_foundation_sdk.models.dashboard import DataSourceRef

    if panel.kind == "text":
        from grafana_foundation_sdk.builders.text import Panel as Text

        return Text().title(panel.title).content(panel.why).height(HEIGHT).span(WIDTH)
    made = _kind(panel).title(panel.title).description(_description(panel)).height(HEIGHT).span(WIDTH)
    made = made.datasource(DataSourceRef(type_val="prometheus", uid=DATASOURCE)).unit(UNITS[panel.unit])
    made = made.thresholds(_thresholds(panel.limits))
    for number, query in enumerate(panel.queries):
        made = made.with_target(_target(ascii_uppercase[number], query, instant=panel.kind == "table"))
    return made


def _kind(panel: Panel) -> Any:
    """The builder of its kind; a graph draws its limits as lines."""
    from grafana_foundation_sdk.builders import common, stat, table, timeseries

    # Spelled so in Grafana's own schema.
    from grafana_foundation_sdk.models.common import BigValueGraphMode, GraphTresholdsStyleMode

    if panel.kind == "table":
        return table.Panel()
    if panel.kind == "number":
        return stat.Panel().graph_mode(BigValueGraphMode.NONE)
    graph = timeseries.Panel().min(0).fill_opacity(10)
    if not panel.limits:
        return graph
    style = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.LINE)
    return graph.thresholds_style(style)


def _thresholds(limits: tuple[float, ...]) -> Any:
    """The steps in the order of their values, which Grafana asks for."""
    from grafana_foundation_sdk.builders.dashboard import ThresholdsConfig
    from grafana_foundation_sdk.models.dashboard import Threshold, ThresholdsMode

    steps = [
        Threshold(color=CALM),
        *(Threshold(value=limit, color=LOUD) for limit in sorted(set(limits))),
    ]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _target(letter: str, query: Query, *, instant: bool) -> Any:
    from grafana_foundation_sdk.builders.prometheus import Dataquery
    from grafana_foundation_sdk.models.prometheus import PromQueryFormat

    made = Dataquery().expr(query.expr).ref_id(letter)
    if instant:
        return made.instant().format(PromQueryFormat.TABLE)
    return made.range().legend_format(query.legend)


def _description(panel: Panel) -> str:
    return f"{panel.why} No data {panel.quiet}." if panel.quiet else panel.why
