"""The dashboard is what its library calls a dashboard, asks what the list of queries has, in the on-call's order."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import planned
from monitoring.forms import FORMS
from monitoring.promtool import run

from ernie_deploy.errors import ExtraMissing
from ernie_deploy.monitoring.dashboard import DATASOURCE, dashboard
from ernie_deploy.monitoring.queries import ROWS, panels, queries
from ernie_deploy.plan.objectives import most_tokens_per_s
from ernie_deploy.plan.plan import Plan

FULL: dict[str, Any] = {
    "model": "300b", "profiles": ("mtp",), "gateway": True, "node_exporter": True, "monitoring": True,
    "gpu_price": 2.5, "slo": ("ttft_p95=2s", "itl_p99=50ms"),
}  # fmt: skip


def plans() -> list[Plan]:
    every = [planned(target, monitoring=True, **options) for target, options in FORMS]
    return [*every, planned("h100", **FULL), planned("mi300x", **FULL)]


def test_it_goes_through_the_librarys_types_unchanged() -> None:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    for plan in plans():
        text = dashboard(plan)
        again = JSONEncoder(sort_keys=True, indent=2).encode(Dashboard.from_json(json.loads(text)))
        assert json.loads(again) == json.loads(text)


def test_every_panel_is_whole_and_asks_what_the_list_has() -> None:
    for plan in plans():
        drawn = [panel for panel in json.loads(dashboard(plan))["panels"] if panel["type"] != "row"]
        asked = [target["expr"] for panel in drawn for target in panel.get("targets", [])]
        assert asked == [query.expr for query in queries(plan)]
        assert all(panel["type"] in ("timeseries", "stat", "table", "text") for panel in drawn)
        for panel in drawn:
            if panel["type"] != "text":
                assert panel["datasource"] == {"type": "prometheus", "uid": DATASOURCE}
                assert panel["description"]
            at = panel["gridPos"]
            assert at["x"] + at["w"] <= 24
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in drawn]
        assert len(set(places)) == len(places)


def test_its_rows_are_the_questions_in_order() -> None:
    rows = [
        panel["title"]
        for panel in json.loads(dashboard(planned("h100", **FULL)))["panels"]
        if panel["type"] == "row"
    ]
    assert tuple(rows) == ROWS


def test_objectives_and_the_plans_floor_are_its_lines() -> None:
    plan = planned("h100", **FULL)
    limits = {panel.title: panel.limits for panel in panels(plan)}
    assert limits["Time to first token"] == (2.0,)
    assert limits["Inter-token latency"] == (0.05,)
    assert limits["End to end"] == ()
    assert limits["Tokens a second, generated"] == (round(most_tokens_per_s(plan)),)
    assert most_tokens_per_s(plan) > 0


@pytest.mark.parametrize(
    ("slo", "lines"),
    [
        (("ttft_p99=5s", "ttft_p50=1s", "ttft_p95=2s"), [1.0, 2.0, 5.0]),
        # Nobody keeps a median from being given the longest time, and Grafana wants its steps in order.
        (("ttft_p50=5s", "ttft_p99=1s"), [1.0, 5.0]),
        (("ttft_p50=1s", "ttft_p99=1s"), [1.0]),
        (("tpot_p50=1s",), []),
    ],
)
def test_every_objective_of_a_metric_is_a_line(slo: tuple[str, ...], lines: list[float]) -> None:
    plan = planned("h100", monitoring=True, slo=slo)
    panel = next(
        one for one in json.loads(dashboard(plan))["panels"] if one["title"] == "Time to first token"
    )
    base, *steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert base["color"] == "green"
    assert [step["value"] for step in steps] == lines
    drawn = panel["fieldConfig"]["defaults"].get("custom", {}).get("thresholdsStyle", {}).get("mode")
    assert drawn == ("line" if lines else None)


def test_every_objective_of_a_metric_is_named() -> None:
    plan = planned("h100", monitoring=True, slo=("ttft_p99=5s", "ttft_p50=1s"))
    panel = next(one for one in panels(plan) if one.title == "Time to first token")
    assert "p50 at most 1 s (--slo), p99 at most 5 s (--slo). Each is a line." in panel.why


def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    every = sorted({query.at("1m") for plan in plans() for query in queries(plan)})
    rules = [{"record": f"asked:{number}", "expr": expr} for number, expr in enumerate(every)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = run("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stderr
    assert f"{len(every)} rules found" in done.stdout


def test_money_is_of_all_gpus() -> None:
    expr = next(query.expr for query in queries(planned("h100", **FULL)) if query.legend == "USD")
    assert expr.startswith(f"{2.5 * 8 / 3600 * 1e6:.6g} / ")


def test_without_the_library_the_command_that_brings_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grafana_foundation_sdk.builders", None)
    with pytest.raises(ExtraMissing) as raised:
        dashboard(planned("h100", monitoring=True))
    assert raised.value.next_step == "pip install 'ernie-deploy[monitoring]'"
