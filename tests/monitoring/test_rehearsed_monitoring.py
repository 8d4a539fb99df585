"""What a rehearsal with --monitoring shows of the Prometheus that it started, against one that answers as asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from conftest import kit, planned

from ernie_deploy.monitoring.jobs import jobs_of
from ernie_deploy.rehearsal import (
    confined,
    gateway_proofs,
    leaks,
    monitoring_proofs,
    override,
    prometheus_api,
    runner,
)
from ernie_deploy.rehearsal.planted import Planted, plant, variables
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.render.monitoring import RULES, monitoring_files
from ernie_deploy.stack.containers import State

OPTIONS = {"gateway": True, "monitoring": True, "node_exporter": True}
PROOFS = ["monitoring hardened", "Prometheus scrapes the stack", "rules loaded", "panels have data"]
SILENT_GPU = {
    "state": "firing",
    "labels": {"alertname": "ErnieExporterDown", "job": "gpu"},
    "annotations": {},
}
RINGING = {
    "state": "firing",
    "labels": {"alertname": "ErnieDown", "job": "vllm"},
    "annotations": {"summary": "serve:8000 served and does not answer"},
}


class FakePrometheus:
    """Answers as Prometheus' API does: healthy, but for what a test changes."""

    def __init__(self, stage: Stage) -> None:
        self.targets = [
            {"labels": {"job": job.name, "instance": at}, "health": "up", "lastError": ""}
            for job in jobs_of(stage.rehearsal.plan)
            for at in job.targets
        ]
        document = yaml.safe_load((stage.rehearsal.folder / RULES).read_text())
        self.groups = [
            {"name": group["name"], "rules": [self.rule(rule) for rule in group["rules"]]}
            for group in document["groups"]
        ]
        self.values: Callable[[str], str | None] = lambda _: "1"
        self.asked: list[str] = []

    @staticmethod
    def rule(rule: dict[str, Any]) -> dict[str, Any]:
        return {"name": rule.get("alert") or rule["record"], "health": "ok", "alerts": []}

    def target(self, job: str) -> dict[str, Any]:
        return next(one for one in self.targets if one["labels"]["job"] == job)

    def of(self, name: str) -> dict[str, Any]:
        return next(rule for group in self.groups for rule in group["rules"] if rule["name"] == name)

    def answer(self, path: str, words: dict[str, list[str]]) -> Any:
        if path.endswith("/targets"):
            return {"activeTargets": self.targets}
        if path.endswith("/rules"):
            return {"groups": self.groups}
        expr = words["query"][0]
        self.asked.append(expr)
        value = self.values(expr)
        series = [{"metric": {"job": "vllm", "instance": "serve:8000"}, "value": [0, value]}] if value else []
        return {"result": series}


def state_at(port: int) -> State:
    """The container of a Prometheus that is published on a port of this host."""
    return State(
        service="prometheus", id="1", status="running", health="healthy", exit_code=0, restarts=0, started_at="",
        last_probe="", ports={"9090/tcp": f"127.0.0.1:{port}"},
    )  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    plan = planned("h100", **OPTIONS)
    (tmp_path / RULES).parent.mkdir()
    (tmp_path / RULES).write_text(monitoring_files(plan)[RULES])
    rehearsal = override.decide(plan, tmp_path, "p")
    return Stage(rehearsal=rehearsal, members=(), base_url="", planted=Planted(token="t"))


@pytest.fixture
def prometheus(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePrometheus]:
    fake = FakePrometheus(stage)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            text = json.dumps({"status": "success", "data": fake.answer(parts.path, parse_qs(parts.query))})
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr(monitoring_proofs, "ANSWERED_S", 0)
    monkeypatch.setattr(monitoring_proofs, "state_of", lambda *_: state_at(server.server_port))
    yield fake
    server.shutdown()
    server.server_close()


def test_the_proofs_come_after_the_benchmark_and_with_monitoring_alone() -> None:
    names = [name for name, _ in runner.script(planned("h100", **OPTIONS))]
    assert [name for name in names if name in PROOFS] == PROOFS
    assert names.index("benchmark cell") < names.index(PROOFS[0]) < names.index("token and key kept secret")
    assert not set(PROOFS).intersection(name for name, _ in runner.script(planned("h100", gateway=True)))


# --- targets ---


def test_targets_are_named_and_those_without_a_service_too(stage: Stage, prometheus: FakePrometheus) -> None:
    prometheus.target("gpu")["health"] = "down"
    output = monitoring_proofs.scrapes(stage)
    assert output.startswith("vllm serve:8000 (1 samples), gateway gateway:")
    assert ", node node-exporter:9100" in output
    assert output.endswith("; gpu left out with dcgm-exporter")


@pytest.mark.parametrize("job", ["vllm", "gateway", "node", "prometheus"])
def test_a_target_that_is_not_up_is_a_failure_with_its_cause(
    job: str, stage: Stage, prometheus: FakePrometheus
) -> None:
    prometheus.target(job).update(health="down", lastError="connection refused")
    with pytest.raises(Disproved, match=f"{job} .*: connection refused"):
        monitoring_proofs.scrapes(stage)
    prometheus.targets.remove(prometheus.target(job))
    with pytest.raises(Disproved, match=f"{job} .*: no such target"):
        monitoring_proofs.scrapes(stage)


# --- rules ---


def test_every_rendered_rule_is_judged_and_none_fires(stage: Stage, prometheus: FakePrometheus) -> None:
    count = sum(len(group["rules"]) for group in prometheus.groups)
    assert (
        monitoring_proofs.rules_loaded(stage)
        == f"{count} rules of 2 groups judged without a fault, none fires"
    )


@pytest.mark.parametrize("health", ["err", "unknown"])
def test_a_rule_that_is_not_judged_is_a_failure(
    health: str, stage: Stage, prometheus: FakePrometheus
) -> None:
    prometheus.of("ErnieHung")["health"] = health
    with pytest.raises(Disproved, match=f"ernie-alerts: ErnieHung: {health}"):
        monitoring_proofs.rules_loaded(stage)


def test_a_rule_that_prometheus_has_not_is_a_failure(stage: Stage, prometheus: FakePrometheus) -> None:
    prometheus.groups[1]["rules"].remove(prometheus.of("ErnieHung"))
    with pytest.raises(Disproved, match="ernie-alerts: ErnieHung: ok"):
        monitoring_proofs.rules_loaded(stage)


def test_what_rings_is_a_failure_unless_it_is_the_silence_of_what_is_left_out(
    stage: Stage, prometheus: FakePrometheus
) -> None:
    prometheus.of("ErnieExporterDown")["alerts"] = [SILENT_GPU, {**RINGING, "state": "pending"}]
    output = monitoring_proofs.rules_loaded(stage)
    assert output.endswith("none fires but ErnieExporterDown of dcgm-exporter, which is left out")
    prometheus.of("ErnieDown")["alerts"] = [RINGING]
    with pytest.raises(Disproved, match=r"^ErnieDown fires: serve:8000 served and does not answer$"):
        monitoring_proofs.rules_loaded(stage)


# --- panels ---


def test_every_query_is_asked_but_those_of_the_gpus(stage: Stage, prometheus: FakePrometheus) -> None:
    output = monitoring_proofs.panels_have_data(stage)
    assert not [expr for expr in prometheus.asked if "DCGM" in expr or "$__" in expr]
    assert f"{len(prometheus.asked)} of {len(prometheus.asked)} queries answered over 60s" in output
    assert output.endswith(": Memory in use, Power, Temperature, Last Xid, Joules a generated token")


@pytest.mark.parametrize("value", [None, "NaN", "+Inf"])
@pytest.mark.parametrize(
    ("metric", "panel"),
    [
        ("vllm:kv_cache_usage_perc", "KV cache in use"),
        ("haproxy_backend_current_queue", "The gateway's queue"),
    ],
)
def test_a_query_without_a_number_is_a_failure(
    metric: str, panel: str, value: str | None, stage: Stage, prometheus: FakePrometheus
) -> None:
    prometheus.values = lambda expr: value if metric in expr else "1"
    with pytest.raises(Disproved, match=f"^no data within 0 s: {panel}: .*{metric}"):
        monitoring_proofs.panels_have_data(stage)


def test_that_nothing_rings_is_no_missing_answer(stage: Stage, prometheus: FakePrometheus) -> None:
    prometheus.values = lambda expr: None if expr.startswith("ALERTS") else "1"
    assert "queries answered" in monitoring_proofs.panels_have_data(stage)


# --- confinement ---


@pytest.mark.parametrize(
    ("service", "bindings", "wrong"),
    [
        ("prometheus", [{"HostIp": "0.0.0.0"}], "prometheus is published on 0.0.0.0"),
        ("prometheus", None, "prometheus is published on nothing"),
        ("node-exporter", [{"HostIp": "127.0.0.1"}], "node-exporter is published on 127.0.0.1"),
    ],
)
def test_what_is_published_elsewhere_is_a_failure(
    service: str, bindings: Any, wrong: str, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {"prometheus": {"9090/tcp": [{"HostIp": "127.0.0.1"}]}, "node-exporter": {"9100/tcp": None}}
    containers = {
        name: SimpleNamespace(attrs={"NetworkSettings": {"Ports": bound}}) for name, bound in ports.items()
    }
    engine = SimpleNamespace(containers=containers)
    monkeypatch.setattr(monitoring_proofs.containers, "client", lambda: engine)
    monkeypatch.setattr(monitoring_proofs, "state_of", lambda _, name: SimpleNamespace(id=name))
    monkeypatch.setattr(monitoring_proofs, "confined", lambda *_: "65534")
    assert monitoring_proofs.hardened(stage).startswith(
        "prometheus as uid 65534, node-exporter as uid 65534: no cap"
    )
    containers[service].attrs["NetworkSettings"]["Ports"] = {"1/tcp": bindings}
    with pytest.raises(Disproved, match=wrong):
        monitoring_proofs.hardened(stage)


STATUS = "Uid:\t65534\t65534\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n"


@pytest.mark.parametrize(
    ("status", "read_only", "holds"),
    [
        (STATUS, True, True),
        (STATUS, False, False),
        (STATUS.replace("65534", "0"), True, False),
        (STATUS.replace("00000000\n", "00000400\n"), True, False),
        (STATUS.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), True, False),
        (STATUS.replace("Seccomp:\t2", "Seccomp:\t0"), True, False),
    ],
)
def test_confined_is_all_of_it(
    status: str, *, read_only: bool, holds: bool, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = SimpleNamespace(attrs={"HostConfig": {"ReadonlyRootfs": read_only}})
    engine = SimpleNamespace(containers=SimpleNamespace(get=lambda _: container))
    monkeypatch.setattr(confined, "demand", lambda _: status)
    monkeypatch.setattr(confined.containers, "client", lambda: engine)
    monkeypatch.setattr(confined, "state_of", lambda *_: SimpleNamespace(id="1"))
    monkeypatch.setattr(Stage, "stack", SimpleNamespace(words=lambda *words: list(words)))
    if holds:
        assert confined.confined(stage, "prometheus") == "65534"
    else:
        with pytest.raises(Disproved, match=r"^prometheus: uid"):
            confined.confined(stage, "prometheus")


def test_beside_the_gateway_prometheus_alone_may_be_published(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = [
        SimpleNamespace(service=name, ports={"1/tcp": "127.0.0.1:1"}) for name in ("gateway", "prometheus")
    ]
    monkeypatch.setattr(gateway_proofs, "confined", lambda *_: "99")
    monkeypatch.setattr(gateway_proofs.containers, "client", lambda: None)
    monkeypatch.setattr(gateway_proofs.containers, "states", lambda *_: services)
    monkeypatch.setattr(Stage, "stack", SimpleNamespace(project="p"))
    assert gateway_proofs.hardened(stage).endswith("; it and Prometheus are published")
    services.append(SimpleNamespace(service="node-exporter", ports={"9100/tcp": "127.0.0.1:2"}))
    with pytest.raises(Disproved, match=r"^published: gateway, node-exporter, prometheus$"):
        gateway_proofs.hardened(stage)


# --- what is planted and laid out ---


def test_grafanas_password_is_planted_and_told_to_nobody(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    secrets = plant(stage.rehearsal)
    assert (tmp_path / "grafana-password").read_text().strip() == secrets.grafana_password
    assert secrets.grafana_password.encode() in secrets.all
    assert len(set(secrets.all)) == 4
    assert variables(stage.rehearsal)["PROMETHEUS_PORT"] == "0"
    assert not [value for value in variables(stage.rehearsal).values() if value.encode() in secrets.all]


def test_its_series_are_searched_for_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(url: str, **_: object) -> bytes:
        asked.append(url)
        return b"sk-planted"

    monkeypatch.setattr(prometheus_api, "ask", answer)
    assert prometheus_api.every_series(state_at(9090)) == b"sk-planted"
    assert asked == ["http://127.0.0.1:9090/api/v1/series?match%5B%5D=%7B__name__%3D~%22.%2B%22%7D"]


def test_a_secret_in_a_label_is_in_a_place_that_is_searched(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_at(9090)
    container = SimpleNamespace(image=SimpleNamespace(id="i"))
    engine = SimpleNamespace(containers=SimpleNamespace(get=lambda _: container))
    monkeypatch.setattr(leaks.containers, "client", lambda: engine)
    monkeypatch.setattr(leaks.containers, "states", lambda *_: [state])
    monkeypatch.setattr(leaks, "demand", lambda *_, **__: "")
    for part in ("_container", "_image", "_running"):
        monkeypatch.setattr(leaks, part, lambda *_: iter(()))
    monkeypatch.setattr(prometheus_api, "every_series", lambda one: b"sk-planted" if one is state else b"")
    stack = SimpleNamespace(words=lambda *words: list(words))
    places = dict(leaks.places(stack, "p", stage.rehearsal.folder))  # type: ignore[arg-type]
    assert places["series of prometheus"] == b"sk-planted"
    (stage.rehearsal.folder / "grafana-password").write_text("its own file is the place of a secret")
    assert dict(leaks.places(stack, "p", stage.rehearsal.folder)) == places  # type: ignore[arg-type]


def test_an_answer_that_is_none_of_prometheus_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b"<html>", b'{"status": "error"}', b"[]"):
        monkeypatch.setattr(prometheus_api, "ask", lambda *_, text=text, **__: text)
        with pytest.raises(OSError, match="Prometheus gave no answer to rules"):
            prometheus_api.data(state_at(9090), "rules")


def test_the_files_of_the_rendering_lie_beside_the_compose_file(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setattr(
        runner, "demand", lambda *_, **__: (stage.rehearsal.folder / "checkpoints").mkdir(exist_ok=True)
    )
    files = monitoring_files(planned("h100", **OPTIONS))
    runner.lay_out(stage.rehearsal, "services: {}\n", files)
    assert {name: (stage.rehearsal.folder / name).read_text() for name in files} == files


def test_what_is_left_out_is_said_before_and_after() -> None:
    done = kit("rehearse", "h100", "--monitoring", "--node-exporter", "--dry-run")
    assert done.returncode == 0, done.stderr
    services = yaml.load(done.stdout.rpartition("docker compose")[0], Loader=Override)["services"]
    assert set(services["prometheus"]) == set(services["node-exporter"]) == {"image"}
    assert [name for name, one in services.items() if one.get("profiles") == ["not-rehearsed"]] == [
        "grafana",
        "dcgm-exporter",
    ]
    plan = planned("h100", **OPTIONS)
    assert "grafana, dcgm-exporter -> left out: " in " ".join(override.decide(plan, Path(), "p").replaced)
    unproven = "\n".join(runner.unproven(plan))
    for one in plan.monitoring:
        started = one.id in ("prometheus", "node-exporter")
        said = (
            f"{one.id}'s own image {one.reference} (Debian's was started)"
            if started
            else f"{one.id} ({one.reference} was not started)"
        )
        assert said in unproven


class Override(yaml.SafeLoader):
    """YAML with Compose's own tags, which are taken for nothing."""


for tag in ("!override", "!reset"):
    Override.add_constructor(tag, lambda *_: None)
