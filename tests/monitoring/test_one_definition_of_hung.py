"""The canary and the alert ErnieHung call the same thing hung: one reads two probes, the other two minutes of samples."""

from typing import NamedTuple

import pytest
from conftest import planned
from container_scripts import loaded
from monitoring.promtool import PER_MINUTE, Case, Series, judged, question

from ernie_deploy.monitoring import serving_alerts
from ernie_deploy.monitoring.rules import rules

MINUTES = 10


CANARY = loaded("canary")


class Engine(NamedTuple):
    """What an engine's metrics do from sample to sample: the running requests, and by how much the others rise."""

    running: float
    steps: float
    kv: float
    label: str = "0"

    def series(self) -> Series:
        labels = f'{{job="vllm",instance="serve:8000",engine="{self.label}",model_name="ernie"}}'
        last = MINUTES * PER_MINUTE
        names = dict(
            zip(CANARY.METRICS, (f"{self.running:g}+0", f"5+{self.steps:g}", f"0.2+{self.kv:g}"), strict=True)
        )
        return {f"vllm:{name}{labels}": f"{rise}x{last}" for name, rise in names.items()}

    def metrics(self, number: int) -> str:
        """What /metrics prints at the sample of this number."""
        labels = f'{{engine="{self.label}",model_name="ernie"}}'
        values = (self.running, 5 + number * self.steps, 0.2 + number * self.kv)
        lines = zip(CANARY.METRICS, values, strict=True)
        return "".join(f"vllm:{name}{labels} {value:.6f}\n" for name, value in lines)


STUCK, IDLE = Engine(3, 0, 0), Engine(0, 0, 0)
SITUATIONS = {
    "idle": [IDLE],
    "one request, and nothing moves": [Engine(1, 0, 0)],
    "many requests, and nothing moves": [STUCK],
    "iterations": [Engine(3, 7, 0)],
    "a long prompt: room in the cache, and no iteration": [Engine(1, 0, 0.001)],
    "both": [Engine(3, 7, 0.001)],
    "an engine of two": [STUCK, Engine(2, 7, 0, "1")],
    "both engines": [STUCK, STUCK._replace(label="1")],
    "one idle, one at work": [IDLE, Engine(2, 7, 0, "1")],
}  # fmt: skip


def test_both_read_the_same_metrics_for_as_long():
    assert {f"vllm:{name}" for name in CANARY.METRICS} == {serving_alerts.RUNNING, *serving_alerts.PROGRESS}
    assert CANARY.HANG_S == serving_alerts.HANG_S


@pytest.mark.parametrize("name", SITUATIONS)
def test_both_call_the_same_engines_hung(name, tmp_path, monkeypatch):
    engines, probe = (
        SITUATIONS[name],
        CANARY.Probe("http://127.0.0.1:9", "ernie", "", CANARY.State({}, None, 0, {}, [])),
    )
    monkeypatch.setattr(CANARY.Probe, "send", lambda *_: None)
    text = {"now": ""}
    monkeypatch.setattr(CANARY.Probe, "receive", lambda *_: (200, text["now"]))
    text["now"] = "".join(engine.metrics(10) for engine in engines)
    probe.before = probe.before._replace(engines=probe.read_engines(1.0))
    # The next probe is 30 s later: two samples.
    text["now"] = "".join(engine.metrics(12) for engine in engines)
    _, _, stuck = probe.compare_with_last_probe(1.0)
    series = {key: values for engine in engines for key, values in engine.series().items()}
    alert = Case("ErnieHung", f"{MINUTES - 1}m", series, series)
    asked = question(alert, fires=True)
    count = len(stuck)
    asked["promql_expr_test"][0]["exp_samples"] = [{"labels": "{}", "value": count}] if count else []
    done = judged(tmp_path, rules(planned("h100"), ("vllm",)), [asked])
    assert done.returncode == 0, f"the canary says {stuck}; {done.stdout}{done.stderr}"
