"""Prometheus' rules: promtool's own verdict, series for each alert at its edge, and a page for whom it wakes."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from conftest import CATALOG, ROOT, planned
from monitoring import cases
from monitoring.cases import CASES
from monitoring.forms import FORMS
from monitoring.promtool import Case, judged, question, run

from ernie_deploy.errors import UsageError
from ernie_deploy.monitoring import rules as made
from ernie_deploy.monitoring.queries import queries
from ernie_deploy.monitoring.rule import Alert
from ernie_deploy.plan.objectives import max_num_seqs
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Baseline, command_words
from ernie_deploy.render.monitoring import monitoring_files

JOBS = ("vllm", "gateway", "certificate", "gpu", "node", "prometheus")
BASELINE = Baseline(
    path="baseline.json", cell="prompt-heavy n=16", mean_tpot_s=cases.BASELINE_S, concurrency=16, prompt_tokens=8000,
    tolerance_percent=5,
)  # fmt: skip
PAGES = ROOT / "docs" / "alerts"
TARGETS = {"nvidia": "h100", "amd": "mi300x"}


@cache
def plan_of(vendor: str) -> Plan:
    return planned(TARGETS[vendor], monitoring=True, slo=cases.SLO, baseline=BASELINE)


@cache
def text_of(vendor: str) -> str:
    return made.rules(plan_of(vendor), JOBS)


def every_alert() -> Iterator[Alert]:
    for vendor in TARGETS:
        yield from made.alerts(plan_of(vendor), JOBS)


NAMES = sorted({alert.name for alert in every_alert()})


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.alert}" for number, case in enumerate(CASES)])
def test_an_alert_fires_beyond_its_edge_and_not_before(case: Case, tmp_path: Path):
    done = judged(tmp_path, text_of(case.plan), [question(case, fires=True), question(case, fires=False)])
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_alert_lacks_its_series():
    assert sorted({case.alert for case in CASES}) == NAMES


def test_the_numbers_of_the_cases_are_the_plans():
    plan = plan_of("nvidia")
    assert max_num_seqs(plan) == cases.SEQUENCES
    assert round(1.1 * plan.weight_bytes) == cases.WEIGHTS


def test_every_alert_has_its_page_and_every_page_its_alert():
    assert sorted(path.stem for path in PAGES.glob("*.md")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_it_means_what_to_look_at_and_what_to_do(name):
    page = (PAGES / f"{name}.md").read_text()
    assert re.findall("^#+ .*", page, re.MULTILINE) == [
        f"# {name}", "## What it means", "## What to look at", "## What to do",
    ]  # fmt: skip
    assert "ernie-deploy " in page
    assert len(page.splitlines()) < 60


@pytest.mark.parametrize("alert", list(every_alert()), ids=lambda alert: f"{alert.name}")
def test_an_alert_says_what_a_person_needs(alert):
    entry = alert.entry()
    assert entry["annotations"]["runbook_url"] == f"docs/alerts/{alert.name}.md"
    assert entry["labels"]["severity"] in ("critical", "warning")
    assert alert.summary
    assert re.search(r"\d", alert.description), "a number from the plan, or of the rule"


@pytest.mark.parametrize("url", ["https://wiki.example.org/ernie", "http://10.0.0.4:8080/docs/alerts/"])
def test_the_page_of_an_alert_is_where_the_user_keeps_it(url):
    plan = planned("h100", monitoring=True, runbooks=url)
    groups = yaml.safe_load(made.rules(plan, JOBS))["groups"]
    pages = {rule["alert"]: rule["annotations"]["runbook_url"] for rule in groups[1]["rules"]}
    assert pages["ErnieDown"] == f"{url.rstrip('/')}/ErnieDown.md"
    assert {page.rpartition("/")[0] for page in pages.values()} == {url.rstrip("/")}
    # The stack is rendered again as it is.
    assert command_words(plan.request)[-2:] == ["--runbooks", url]


@pytest.mark.parametrize(
    "url",
    ["wiki", "javascript:alert(1)", "https://x/{{ $value }}", "https://x/ y", "https://", "https://x\n"],
)
def test_what_is_no_address_of_pages_is_refused(url):
    with pytest.raises(UsageError, match="no address of pages"):
        planned("h100", monitoring=True, runbooks=url)


@pytest.mark.parametrize("target", [target.id for target in CATALOG.targets()])
@pytest.mark.parametrize("jobs", [("vllm", "prometheus"), JOBS])
def test_promtool_takes_the_rules_of_every_target(target, jobs, tmp_path):
    if target == "cpu":
        jobs = tuple(job for job in jobs if job != "gpu")
    (tmp_path / "rules.yml").write_text(made.rules(planned(target), jobs))
    done = run("check", "rules", tmp_path / "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_no_exporter_of_the_stack_shows_is_not_rendered():
    bare = {alert.name for alert in made.alerts(planned("h100"), ("vllm", "prometheus"))}
    assert not {
        name for name in bare if re.search("Gateway|Gpu|Disk|Room|Exporter|Certificate|Baseline", name)
    }
    # A processor has no bandwidth to derive objectives from.
    assert "ErnieSlowAnswers" not in made.rules(planned("cpu"), ("vllm",))
    # Weights of the host's own are not downloaded.
    local = made.rules(planned("h100", weights="/srv/ernie"), JOBS)
    assert "ErnieDiskFull" in local
    assert "ErnieNoRoomForWeights" not in local


@pytest.mark.parametrize(
    ("target", "options", "matcher"),
    [
        ("mi300x", {"gpus": (2, 3)}, 'gpu_id=~"2|3"'),
        ("mi300x", {"gpus": (2, 3), "gpus_cdi": True}, ""),
        ("mi300x", {"model": "300b", "gateway": True, "replicas": 2}, ""),
        ("h100", {"gpus": (2, 3)}, ""),
    ],
)
def test_a_gpu_of_another_stack_is_not_this_stacks(target, options, matcher):
    plan = planned(target, monitoring=True, **options)
    alert = next(one for one in made.alerts(plan, JOBS) if one.name == "ErnieGpuError")
    of_gpus = [query.expr for query in queries(plan) if re.search("DCGM_|gpu_", query.expr)]
    assert len(of_gpus) == 5
    for expr in (alert.expr, *of_gpus):
        assert re.findall(r'gpu_id=~"[^"]*"', expr) == ([matcher] if matcher else [])


def test_a_gpu_error_names_the_card_and_how_many_the_stack_takes():
    texts = {
        target: next(
            one for one in made.alerts(planned(target, gpus=gpus), JOBS) if one.name == "ErnieGpuError"
        ).description
        for target, gpus in (("h100", (1,)), ("mi300x", (2, 3)))
    }
    assert "$labels.UUID" in texts["h100"]
    assert "takes 1 GPU," in texts["h100"]
    assert "$labels.serial_number" in texts["mi300x"]
    assert "takes 2 GPUs," in texts["mi300x"]


def test_a_recorded_query_is_asked_by_an_alert():
    text = text_of("nvidia")
    names = [
        rule["record"]
        for group in yaml.safe_load(text)["groups"]
        for rule in group["rules"]
        if "record" in rule
    ]
    exprs = " ".join(
        rule["expr"] for group in yaml.safe_load(text)["groups"] for rule in group["rules"] if "alert" in rule
    )
    assert names
    assert [name for name in names if name not in exprs] == []
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("percentile", [50, 90, 95, 99])
def test_a_burn_rate_of_every_percentile_can_fire(percentile):
    plan = planned("h100", monitoring=True, slo=(f"ttft_p{percentile}=2s",))
    text = made.rules(plan, ("vllm",))
    quantiles = [float(one) for one in re.findall(r"histogram_quantile\(([0-9.]+),", text)]
    assert quantiles
    assert all(0 < one < 1 for one in quantiles)


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_promtool_takes_the_whole_configuration_of_a_folder(target, options, tmp_path):
    for name, text in monitoring_files(planned(target, monitoring=True, **options)).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = run("check", "config", tmp_path / "monitoring" / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rule files found" in done.stdout
