"""Each metric that anything here asks for is in the catalog's list, and each engine prints it by that name with those labels."""

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CATALOG, ENGINE, FULL, ROOT, free_port, planned
from engine.checkpoint import write_config, write_tokenizer
from engine.configs import config_of
from engine.rendered import vllm_words
from engine.vllm_code import EngineCode, built_version, code_of
from gateway.haproxy import running
from monitoring.forms import FORMS

from ernie_deploy.bench.measure.server import COUNTERS
from ernie_deploy.monitoring.jobs import jobs_of
from ernie_deploy.monitoring.queries import queries
from ernie_deploy.monitoring.rules import rules
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Baseline
from ernie_deploy.safe_io.http_client import ask
from ernie_deploy.stack.metrics import samples

LISTED = {metric.name: metric for metric in CATALOG.metrics}
ENDINGS = re.compile("_(?:bucket|sum|count)$")
NAME = re.compile(r"(?<![\w:.])[A-Za-z_:][\w:]*(?![\w:]| *\()")
WORDS = {"and", "or", "unless", "offset", "bool"}
# Series that the rules themselves make.
OWN = "ernie:"
# Prometheus' own, and the edge of a histogram's bucket.
EVERYWHERE = {"job", "instance", "le"}
LABEL = re.compile(r'(\w+) ?(?:=~|!~|!=|=) ?"')
WITH_ALL: dict[str, Any] = {
    "model": "300b",
    "profiles": ("mtp",),
    "gateway": True,
    "node_exporter": True,
    "gpu_price": 2.5,
    "slo": ("ttft_p95=2s", "tpot_p95=50ms", "itl_p99=1s", "e2e_p90=60s"),
    "baseline": Baseline(
        path="b", cell="c", mean_tpot_s=0.02, concurrency=16, prompt_tokens=8000, tolerance_percent=5
    ),
}
# Where a name stands without `vllm:`.
BENCH_GAUGES = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "cache_config_info")


def plans() -> list[Plan]:
    every = [planned(target, monitoring=True, **options) for target, options in FORMS]
    return [*every, *(planned(target, monitoring=True, **WITH_ALL) for target in ("h100", "mi300x"))]


def expressions() -> Iterator[str]:
    """Every PromQL expression of dashboards and rules."""
    for plan in plans():
        yield from (query.at("5m") for query in queries(plan))
        for group in yaml.safe_load(rules(plan, [job.name for job in jobs_of(plan)]))["groups"]:
            yield from (rule["expr"] for rule in group["rules"])


def base(name: str) -> str:
    """A metric's name in the list: a histogram's without its endings."""
    without = ENDINGS.sub("", name)
    return without if without in LISTED and LISTED[without].kind == "histogram" else name


def names_in(expression: str) -> set[str]:
    bare = re.sub(
        r"(?:by|on|without|ignoring|group_left) ?\([^)]*\)",
        "",
        re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", expression),
    )
    return {base(name) for name in NAME.findall(bare) if name not in WORDS and not name.startswith(OWN)}


def labels_in(expression: str) -> set[str]:
    grouped = re.findall(r"(?:by|on|without|ignoring) ?\(([^)]*)\)", expression)
    named = {label.strip() for group in grouped for label in group.split(",") if label.strip()}
    return named | {
        label for matchers in re.findall(r"\{([^}]*)\}", expression) for label in LABEL.findall(matchers)
    }


def asked_in_python() -> set[str]:
    """Names in the kit's own code and in the health check, where they stand with `vllm:` or in a list."""
    files = [*(ROOT / "ernie_deploy").rglob("*.py"), ROOT / "docker/scripts/canary.py"]
    files = [path for path in files if "monitoring" not in path.parts]
    quoted = {name for path in files for name in re.findall(r'"(vllm:\w+)"', path.read_text())}
    canary = re.search(r"^METRICS = \((.*)\)$", (ROOT / "docker/scripts/canary.py").read_text(), re.MULTILINE)
    assert canary
    return (
        {base(name) for name in quoted}
        | {base(f"vllm:{name}") for name in re.findall(r'"(\w+)"', canary[1])}
        | {f"vllm:{name}_total" for name in COUNTERS}
        | {f"vllm:{name}" for name in BENCH_GAUGES}
    )


def test_whatever_asks_for_a_metric_has_it_in_the_list() -> None:
    for expression in expressions():
        names = names_in(expression)
        assert names <= set(LISTED), expression
        known = EVERYWHERE.union(*(LISTED[name].labels for name in names))
        if OWN not in expression:
            assert names, expression
            assert labels_in(expression) <= known, expression
    assert len(asked_in_python()) > 8
    assert asked_in_python() <= set(LISTED)


def test_the_list_has_nothing_that_nobody_asks_for() -> None:
    asked = {name for expression in expressions() for name in names_in(expression)}
    assert set(LISTED) - asked - asked_in_python() == set()


def of_vllm(*, mtp: bool) -> dict[str, set[str]]:
    """Name -> labels of what a server prints, with or without drafts."""
    return {
        metric.name: set(metric.labels)
        for metric in LISTED.values()
        if metric.of == "vllm" and (metric.needs == "" or (mtp and metric.needs == "mtp"))
    }


def of(*sources: str) -> dict[str, set[str]]:
    """Name -> labels of all that one of `sources` prints anyway."""
    return {
        metric.name: set(metric.labels)
        for metric in LISTED.values()
        if metric.of in sources and not metric.needs
    }


def faults(wanted: dict[str, set[str]], printed: dict[str, set[str]]) -> list[str]:
    """What is asked for and is not there."""
    absent = [f"{name} is not there" for name in wanted if name not in printed]
    return absent + [
        f"{name} has no label {', '.join(sorted(labels - printed[name]))}"
        for name, labels in wanted.items()
        if name in printed and not labels <= printed[name]
    ]


@pytest.fixture(scope="module", params=CATALOG.ids("engines"))
def code(request: pytest.FixtureRequest) -> EngineCode:
    return code_of(request.param)


@pytest.mark.engine
@pytest.mark.parametrize("mtp", [False, True])
def test_each_engine_makes_each_metric_with_its_labels(code: EngineCode, mtp: bool, tmp_path: Path) -> None:
    model = CATALOG.model("21b")
    write_config(tmp_path, model.architecture, config_of(model))
    write_tokenizer(tmp_path)
    plan = planned("h100", engine=code.version, profiles=("mtp",) if mtp else ())
    job = {"id": "metrics", "kind": "metrics", "argv": vllm_words(plan, "serve"), "model_dir": str(tmp_path)}
    verdict = code.judged([job])["metrics"]
    assert verdict["ok"], verdict
    printed = {name: set(labels) for name, labels in verdict["labels"].items()}
    assert faults(of_vllm(mtp=mtp), printed) == []


# A minute each. With drafts it prints all that it prints without, and of both the logger is held against the list above.
ONLY_FULL = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")


@contextlib.contextmanager
def served(folder: Path, *flags: str) -> Iterator[str]:
    """The URL of a real vLLM on this machine's processor with a tiny checkpoint."""
    subprocess.run([sys.executable, ROOT / "docker/rehearsal/checkpoints.py", folder, "moe"], check=True)
    port, log = free_port(), folder / "log"
    words = ["vllm", "serve", str(folder / "moe"), f"--port={port}", "--host=127.0.0.1", "--max-model-len=512",
             "--max-num-seqs=4", "--enforce-eager", "--served-model-name=tiny", *flags]  # fmt: skip
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1",
           "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "VLLM_USE_AOT_COMPILE": "0"}  # fmt: skip
    with log.open("w") as output:
        server = subprocess.Popen(
            [Path(sys.executable).parent / words[0], *words[1:]], env=env, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(1000):
        assert server.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(OSError):
            ask(f"{url}/health", limit_s=2)
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.engine
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mtp", [pytest.param(False, marks=ONLY_FULL), True])
def test_a_real_server_prints_each_metric_with_its_labels(engine: str, mtp: bool, tmp_path: Path) -> None:
    assert built_version() == ENGINE
    drafts = ['--speculative-config={"method": "mtp", "num_speculative_tokens": 1}'] if mtp else []
    with served(tmp_path, *drafts) as url:
        asked = {"model": "tiny", "prompt": "once upon a time", "max_tokens": 24, "ignore_eos": True}
        ask(f"{url}/v1/completions", asked, limit_s=120)
        text = ask(f"{url}/metrics", limit_s=10).decode()
    assert faults(of_vllm(mtp=mtp) | of("http"), printed_by(text)) == []
    counts = {name: value for name, _, value in samples(text)}
    assert counts["vllm:generation_tokens_total"] >= 24
    assert ("vllm:spec_decode_num_drafts_total" in counts) == mtp


def printed_by(text: str) -> dict[str, set[str]]:
    """Name -> labels of a page of /metrics."""
    printed: dict[str, set[str]] = {}
    for name, labels, _ in samples(text):
        printed.setdefault(base(name), set()).update(re.findall(r'(\w+)="', labels))
    return printed


def test_the_gateway_prints_each_metric_with_its_labels(tmp_path: Path) -> None:
    with running(tmp_path, "127.0.0.1:9", {}) as gateway:
        text = ask(f"http://127.0.0.1:{gateway.own_port}/metrics", limit_s=10).decode()
    assert len(of("haproxy")) > 3
    assert faults(of("haproxy"), printed_by(text)) == []


def test_a_renamed_metric_and_a_lost_label_are_faults() -> None:
    wanted = of_vllm(mtp=True)
    printed = {name: set(labels) for name, labels in wanted.items()}
    assert faults(wanted, printed) == []
    printed["vllm:gpu_cache_usage_perc"] = printed.pop("vllm:kv_cache_usage_perc")
    printed["vllm:request_success_total"].remove("finished_reason")
    assert faults(wanted, printed) == [
        "vllm:kv_cache_usage_perc is not there",
        "vllm:request_success_total has no label finished_reason",
    ]
