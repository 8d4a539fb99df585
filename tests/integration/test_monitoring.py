"""Proof of the monitoring: real Prometheus, real vLLM, real HAProxy; every panel's query has data, alerts are provoked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import FULL, planned
from gateway.authority import Authority
from gateway.haproxy import Running, free_port, running
from integration.live_monitoring import (
    SEQUENCES,
    Clients,
    NodeExporter,
    Prometheus,
    Vllm,
    quick,
    small_disk,
    until,
)

from ernie_deploy.monitoring.queries import GPUS, panels
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Baseline
from ernie_deploy.render.monitoring import monitoring_files

KEY, SLOW_KEY = "ek_" + "k" * 43, "ek_" + "s" * 43
# What is shortened, and why; everything else waits as it does in a stack. Windows within the expressions stay.
SHORTENED = {
    "ErnieDown": ("2m", "5s", "nobody starts the server again here"),
    "ErnieHung": ("1m", "5s", "the window of a minute without movement stays"),
    "ErnieQueueGrowing": ("5m", "5s", "the load of a test lasts as long as the test"),
    "ErnieKvCacheFull": ("5m", "5s", "the load of a test lasts as long as the test"),
    "ErnieSlowAnswers": ("2m/15m", "5s", "the load of a test lasts as long as the test"),
    "ErnieGatewayDown": ("1m", "5s", "nobody starts the gateway again here"),
    "ErnieGatewayNoServer": ("2m", "5s", "nobody starts the server again here"),
    "ErnieGatewayErrors": ("5m", "5s", "the load of a test lasts as long as the test"),
    "ErnieGatewayQueue": ("5m", "5s", "the load of a test lasts as long as the test"),
    "ErnieGatewayLimited": ("10m", "5s", "the load of a test lasts as long as the test"),
    "ErnieDiskFull": ("10m", "5s", "a full tmpfs stays full"),
    "ErnieExporterDown": ("5m", "5s", "nobody starts the exporter again here"),
    "ErnieNotStarted": ("13m", "5s", "nobody starts the server here"),
    "ErnieNoRoomForWeights": ("10m", "5s", "the disk is small"),
    "ErnieSlowerThanBaseline": ("15m", "5s", "the load of a test lasts as long as the test"),
    "ErnieCertificateEnds": ("10m", "5s", "the certificate stays as it is"),
}
# Both objectives are missed on a processor.
SLO = ("ttft_p95=100ms", "tpot_p95=10ms")
# Faster than a processor can be, at more load than the clients make.
BASELINE = Baseline(
    path="baseline.json", cell="tiny", mean_tpot_s=0.001, concurrency=64, prompt_tokens=2000, tolerance_percent=5
)  # fmt: skip


def rendered(files: dict[str, str], place: Path, targets: dict[str, str]) -> Path:
    """The stack's own files for Prometheus, with the test's addresses and a look every second."""
    config: dict[str, Any] = yaml.safe_load(files["monitoring/prometheus.yml"])
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        if job["job_name"] in targets:
            job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    config["scrape_configs"] = [job for job in config["scrape_configs"] if job["job_name"] in targets]
    holds = {name: hold for name, (_, hold, _) in SHORTENED.items()}
    place.mkdir()
    (place / "prometheus.yml").write_text(yaml.safe_dump(config))
    (place / "rules.yml").write_text(quick(files["monitoring/rules.yml"], holds))
    return place


class Bench:
    """Everything that runs, and what has fired so far."""

    def __init__(self, place: Path, engine: str, port: int) -> None:
        self.place, self.engine, self.port = place, engine, port
        self.fired: dict[str, float] = {}
        self.begun = time.monotonic()
        self.prometheus: Prometheus

    def wait_for(self, *names: str, limit_s: float = 60) -> None:
        """Until each has fired; an alert may end as its cause does."""
        end = time.monotonic() + limit_s
        while missing := set(names) - self.fired.keys():
            assert time.monotonic() < end, (
                f"{missing} did not fire within {limit_s:.0f} s; {sorted(self.fired)} did"
            )
            self.look()
            time.sleep(0.5)

    def look(self) -> set[str]:
        firing = self.prometheus.firing()
        for name in firing - self.fired.keys():
            self.fired[name] = time.monotonic() - self.begun
            print(f"  {self.fired[name]:5.0f} s  {name}")
        return firing


@pytest.fixture
def bench(engine: str, tmp_path: Path) -> Bench:
    return Bench(tmp_path, engine, free_port())


@pytest.mark.engine
@pytest.mark.timeout(1500)
@pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
def test_every_panel_has_data_and_what_can_be_provoked_here_fires(bench: Bench):
    place, address = bench.place, f"127.0.0.1:{bench.port}"
    keys = {KEY: "load:100000:100:0", SLOW_KEY: "storm:1:100:0"}
    pairs = (f"max-num-seqs={SEQUENCES}",)
    plan = planned(
        "h100", gateway=True, monitoring=True, node_exporter=True, profiles=("mtp",), slo=SLO, gpu_price=2.5, pairs=pairs,
        baseline=BASELINE,
    )  # fmt: skip
    files = monitoring_files(plan)
    vllm = Vllm(bench.engine, place, bench.port)
    loads: list[Clients] = []
    (place / "gateway").mkdir()
    try:
        vllm.wait()
        with (
            small_disk(place / "disk", 16) as disk,
            running(
                place / "gateway", address, keys, target="h100", upstreams=(address,), pairs=pairs
            ) as gateway,
        ):
            node = NodeExporter(disk)
            targets = {"vllm": address, "gateway": f"127.0.0.1:{gateway.own_port}", "node": node.address}
            _calm(bench, rendered(files, place / "calm", targets), len(targets))
            loads += [
                Clients(24, bench.port),
                Clients(12, gateway.port, key=KEY),
                Clients(2, gateway.port, key=SLOW_KEY),
            ]
            # Windows of ten minutes hold what there is: a Prometheus that begins under load has seen no other time.
            until(lambda: len(loads[0].statuses) > SEQUENCES, 60, "a server under load")
            bench.prometheus = Prometheus(rendered(files, place / "prometheus", targets), free_port())
            try:
                _load_and_disk(bench, disk)
                _panels(bench, plan)
                bench.wait_for("ErnieSlowerThanBaseline", limit_s=240)
                _faults(bench, vllm, node, gateway)
            finally:
                bench.prometheus.stop()
    finally:
        for load in loads:
            load.stopping.set()
        vllm.kill()
    print(f"fired: {', '.join(sorted(bench.fired))}")
    for name, (usual, here, why) in SHORTENED.items():
        print(f"  {name} waited {here} for {usual}: {why}")


@pytest.mark.timeout(600)
@pytest.mark.skipif(not FULL, reason="only with .ci/run --full")
def test_what_can_be_provoked_without_a_server_fires(tmp_path: Path):
    """A disk that is too small for the weights fills while no server answers, a certificate ends, a stand-in is killed twice."""
    bench = Bench(tmp_path, "", free_port())
    plan = planned("h100", gateway=True, tls="files", monitoring=True, node_exporter=True)
    certificates, port, nobody = Authority(tmp_path / "authority"), free_port(), f"127.0.0.1:{bench.port}"
    pair = certificates.issue(ends_days=90)
    (tmp_path / "gateway").mkdir()
    with (
        small_disk(tmp_path / "disk", 16) as disk,
        running(
            tmp_path / "gateway", nobody, {}, target="h100", tls="files", certificate=(pair.cert, pair.key),
            times={"bind :8406": f"bind 127.0.0.1:{port}"},
        ) as gateway,
    ):  # fmt: skip
        node = NodeExporter(disk)
        targets = {"vllm": nobody, "node": node.address, "certificate": f"127.0.0.1:{port}"}
        bench.prometheus = Prometheus(
            rendered(monitoring_files(plan), tmp_path / "prometheus", targets), free_port()
        )
        try:
            _fill(disk, megabytes=8)
            bench.wait_for("ErnieNotStarted", "ErnieNoRoomForWeights")
            assert "ErnieCertificateEnds" not in bench.fired
            _renew(gateway, certificates, days=10)
            bench.wait_for("ErnieCertificateEnds")
            _kill_once(bench)
            assert "ErnieRestarting" not in bench.look()
            _kill_once(bench)
            bench.wait_for("ErnieRestarting")
        finally:
            bench.prometheus.stop()
            node.close()


def _fill(disk: Path, megabytes: int) -> None:
    """As a download does: each second there is more."""
    for number in range(megabytes):
        (disk / f"part-{number}").write_bytes(b"\0" * (1 << 20))
        time.sleep(1)


def _kill_once(bench: Bench) -> None:
    """Something that answers /metrics in the server's place, until Prometheus has seen it and seen it go."""
    folder = bench.place / "stand-in"
    folder.mkdir(exist_ok=True)
    (folder / "metrics").touch()
    words = [
        sys.executable,
        "-m",
        "http.server",
        str(bench.port),
        "--bind",
        "127.0.0.1",
        "--directory",
        folder,
    ]
    with (folder / "log").open("ab") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        until(lambda: bench.prometheus.query('up{job="vllm"} == 1'), 30, "the stand-in")
        process.kill()
    until(lambda: bench.prometheus.query('up{job="vllm"} == 0'), 30, "the stand-in's end")


def _renew(gateway: Running, certificates: Authority, days: float) -> None:
    """Another certificate, which the gateway takes up."""
    pair = certificates.issue(ends_days=days)
    for path, name in ((pair.cert, "tls.crt"), (pair.key, "tls.key")):
        (gateway.folder / "tls" / name).write_text(path.read_text())
    gateway.reload()


def _calm(bench: Bench, folder: Path, targets: int) -> None:
    """Nothing fires before anything is wrong."""
    bench.prometheus = Prometheus(folder, free_port())
    try:
        until(lambda: len(bench.prometheus.query("up == 1")) == targets, 30, "targets that answer")
        time.sleep(5)
        assert bench.look() == set()
    finally:
        bench.prometheus.stop()


def _load_and_disk(bench: Bench, disk: Path) -> None:
    # Twenty requests must have ended, which takes its time where the processors are shared.
    limit_s = 240
    (disk / "weights").write_bytes(b"\0" * (16_000 << 10))
    bench.wait_for("ErnieDiskFull", limit_s=30)
    bench.wait_for("ErnieGatewayLimited", "ErnieGatewayQueue", "ErnieSlowAnswers", limit_s=limit_s)
    bench.wait_for("ErnieQueueGrowing", "ErnieKvCacheFull", limit_s=limit_s)


def _panels(bench: Bench, plan: Plan) -> None:
    """Every query of the dashboard, as Grafana would ask it."""
    empty, without = [], []
    for panel in panels(plan):
        for query in panel.queries:
            name = f"{panel.row} / {panel.title}"
            if panel.row == GPUS or "DCGM" in query.expr:
                without.append(name)
                continue
            series = bench.prometheus.query(query.at("30s"))
            numbers = [float(one["value"][1]) for one in series]
            fine = [number for number in numbers if number == number]  # noqa: PLR0124 - not NaN
            print(f"  {name}: {len(fine)} series, {', '.join(f'{number:.4g}' for number in fine[:4])}")
            if not fine:
                empty.append(f"{name}: {query.expr} -> {series}")
    print(f"  without a GPU, not asked: {', '.join(without)}")
    assert empty == []
    assert len(without) <= 5


def _faults(bench: Bench, vllm: Vllm, node: NodeExporter, gateway: Any) -> None:
    os.kill(vllm.engine_core(), signal.SIGSTOP)
    bench.wait_for("ErnieHung", limit_s=120)
    node.close()
    vllm.kill()
    bench.wait_for(
        "ErnieDown",
        "ErnieGatewayNoServer",
        "ErnieGatewayErrors",
        "ErnieExporterDown",
        limit_s=90,
    )
    gateway.process.terminate()
    bench.wait_for("ErnieGatewayDown", limit_s=60)
