"""`check` over the support matrix as people change it: two override files, each variable of `.env` at its edges."""

from functools import cache
from pathlib import Path

import pytest
from conftest import rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge_project
from ernie_deploy.check.project import here

CATALOG = Catalog()
# One rendering for each vendor and each kind of stack; the whole set is judged by test_check.py without changes.
STACKS = {
    "cpu": {"target": "cpu"},
    "h100": {"target": "h100"},
    "mi300x": {"target": "mi300x", "model": "300b"},
    "vl-h200": {"target": "h200", "model": "vl-28b"},
    "two nodes": {"target": "h100", "model": "300b", "nodes": 2},
}
# What the recipe opens on AMD, and the code that VL models run (see test_check.py).
ALWAYS = {("note", "ED208"), ("note", "ED209"), ("warning", "ED119")}
# Each variable at its edges, and what is then to be found besides.
EDGES: dict[str, dict[str, set[str]]] = {
    "BIND_ADDR": {"": set(), "127.0.0.1": set(), "::1": set(), "0.0.0.0": {"ED201"}, "10.0.0.7": {"ED201"}},
    "PORT": {"": set(), "1": set(), "65535": set()},
    "SHM_SIZE": {"": set(), "1g": set(), "512g": set(), "1m": {"ED307"}},
    "SERVE_MEMORY": {"": set(), "0": set(), "200g": set()},
    "SERVE_CPUS": {"": set(), "0": set(), "64": set()},
    "HF_CACHE_DIR": {"": set(), "/srv/hub": set(), "./hub": set()},
    "ENGINE_CACHE_DIR": {"": set(), "/srv/engine": set()},
    "HF_TOKEN_FILE": {"": set(), "/run/token": set()},
    "HF_ENDPOINT": {"": set(), "https://hub.example": set()},
    "HTTP_PROXY": {"": set(), "http://proxy.example:3128": set()},
    "HTTPS_PROXY": {"": set(), "http://proxy.example:3128": set()},
    "NO_PROXY": {"": set(), "localhost,.example": set()},
    "CA_BUNDLE": {"": set(), "/etc/ca.pem": set()},
    "API_KEY_FILE": {"": set(), "/run/key.yaml": set()},
    "PROMETHEUS_PORT": {"": set(), "1": set(), "65535": set()},
    "PROMETHEUS_RETENTION_TIME": {"": set(), "1h": set(), "5y": set()},
    "PROMETHEUS_RETENTION_SIZE": {"": set(), "64MB": set(), "1TB": set()},
    "GRAFANA_PORT": {"": set(), "1": set(), "65535": set()},
    "GRAFANA_USER": {"": set(), "1000:1000": set()},
    "GRAFANA_PASSWORD_FILE": {"": set(), "/run/password": set()},
    "IMAGE_REGISTRY": {"": set(), "mirror.example:5000/dockerhub": set()},
    "ENGINE_IMAGE": {"": set(), "registry.example/vllm:v0.32.0": set()},
    "PACKAGES_DIR": {"": set(), "/srv/packages": set()},
    "PIP_INDEX_URL": {"": set(), "https://index.example/simple": set()},
    "PIP_CONFIG_FILE": {"": set(), "/etc/pip.conf": set()},
    "REMOTE_CODE_NETWORK": {"": set(), "refuse": set(), "allow": set()},
    "REMOTE_CODE_IMPORT_TIMEOUT_S": {"": set(), "1": set(), "3600": set()},
    "ENGINE_READY_TIMEOUT_S": {"": set(), "7200": set()},
    "CPU_KV_CACHE_GIB": {"": set(), "1": set(), "512": set()},
    "MAX_N_SEQUENCES": {"": set(), "1": set(), "16384": set()},
    "MAX_COMPLETION_PROMPTS": {"": set(), "1": set(), "4096": set()},
    "MAX_IMAGE_PIXELS": {"": set(), "1": set(), "268435456": set()},
    "MAX_MEDIA_DOWNLOAD_MB": {"": set(), "1": set(), "4096": set()},
    "RENDER_GID": {"": set(), "0": set(), "65534": set()},
    "VIDEO_GID": {"": set(), "0": set(), "65534": set()},
    "BENCH_INPUT_LEN": {"": set(), "1": set(), "131072": set()},
    "BENCH_OUTPUT_LEN": {"": set(), "1": set(), "131072": set()},
    "BENCH_NUM_PROMPTS": {"": set(), "1": set(), "512": set()},
    "BENCH_REQUEST_RATE": {"": set(), "0.1": set(), "inf": set()},
    "BENCH_SEED": {"": set(), "4294967295": set()},
    "NODE_RANK": {"": set(), "0": set(), "1": set()},
    "HEAD_ADDR": {"": set(), "10.0.0.7": set()},
    "HOST_IP": {"": set(), "10.0.0.8": set()},
    "NIC": {"": set(), "eth0": set()},
    "GROUP_SECRET_FILE": {"": set(), "/run/group": set()},
    "GATEWAY_DIR": {"": set(), "/srv/gateway": set()},
    "GATEWAY_USER": {"": set(), "1000:1000": set()},
    "TLS_CERT_FILE": {"": set(), "/etc/fullchain.pem": set()},
    "TLS_KEY_FILE": {"": set(), "/etc/privkey.pem": set()},
    "GATEWAY_RATE_PER_MINUTE": {"": set(), "1": set(), "1000000": set()},
    "GATEWAY_CONCURRENCY": {"": set(), "1": set(), "100000": set()},
    "GATEWAY_CONNECTIONS_PER_ADDRESS": {"": set(), "1": set(), "100000": set()},
    "GATEWAY_MAX_BODY_BYTES": {"": set(), "1024": set(), "268435456": set()},
    "GATEWAY_QUEUE": {"": set(), "1": set(), "4096": set()},
    "GATEWAY_QUEUE_TIMEOUT_S": {"": set(), "1": set(), "3600": set()},
    "GATEWAY_ANSWER_TIMEOUT_S": {"": set(), "60": set(), "86400": set()},
}
# The values that change nothing, all variables at once: the first of each, the second, the last.
HARMLESS = {name: [value for value, ids in values.items() if not ids] for name, values in EDGES.items()}
ROWS = {
    "empty": {name: values[0] for name, values in HARMLESS.items()},
    "small": {name: values[min(1, len(values) - 1)] for name, values in HARMLESS.items()},
    "large": {name: values[-1] for name, values in HARMLESS.items()},
}
PAIRS = [
    (model.id, target.id)
    for model in CATALOG.models()
    for target in CATALOG.targets()
    if CATALOG.support(model.id, target.id).state != "refused"
]
GPUS = {"h100", "mi300x", "vl-h200", "two nodes"}
OPENS = 'services: {serve: {ports: !override ["0.0.0.0:8000:8000"]}}\n'
LABELS = "services: {serve: {labels: {team: search}, environment: {VLLM_LOGGING_LEVEL: DEBUG}}}\n"


@cache
def text_of(stack):
    return rendered(**STACKS[stack])


def found(folder, stack, env="", **overrides):
    (folder / "compose.yml").write_text(text_of(stack))
    (folder / ".env").write_text(env)
    for name, text in overrides.items():
        (folder / f"{name}.yml").write_text(text)
    files = ("compose.yml", *(f"{name}.yml" for name in overrides))
    findings = judge_project(here({}, files=files), CATALOG).findings
    return {(f.id, f.file) for f in findings if (f.severity, f.id) not in ALWAYS}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(stack, variable, identities):
    """Shared memory matters where several GPUs talk through it."""
    return {
        (identity, "compose.yml")
        for identity in identities
        if identity != "ED307" or stack in {"mi300x", "two nodes"}
    }


@pytest.mark.parametrize("stack", STACKS)
def test_each_variable_at_its_edges_has_exactly_its_findings(folder, stack):
    for variable, values in EDGES.items():
        for value, identities in values.items():
            wanted = expected(stack, variable, identities) if f"${{{variable}" in text_of(stack) else set()
            assert found(folder, stack, f"{variable}={value}\n") == wanted, f"{variable}={value}"


def test_the_edges_are_of_every_variable():
    lines = (Path(__file__).parent.parent / ".env.example").read_text().splitlines()
    assert set(EDGES) == {line.partition("=")[0] for line in lines if line[:1].isupper()}


@pytest.mark.parametrize(("model", "target"), PAIRS)
def test_every_stack_has_exactly_its_findings(folder, model, target, monkeypatch):
    name = f"{model} on {target}"
    monkeypatch.setitem(STACKS, name, {"model": model, "target": target})
    for row in ROWS.values():
        env = "".join(f"{variable}={value}\n" for variable, value in row.items())
        assert found(folder, name, env) == set(), env
    assert found(folder, name, "BIND_ADDR=0.0.0.0\n") == {("ED201", "compose.yml")}
    assert found(folder, name, labels=LABELS, opens=OPENS) == {("ED201", "opens.yml")}


@pytest.mark.parametrize("stack", [name for name in STACKS if name != "two nodes"])
def test_two_overrides_have_exactly_their_findings(folder, stack):
    assert found(folder, stack, labels=LABELS) == set()
    assert found(folder, stack, opens=OPENS) == {("ED201", "opens.yml")}
    assert found(folder, stack, labels=LABELS, opens=OPENS) == {("ED201", "opens.yml")}
    assert found(folder, stack, opens=OPENS, labels=LABELS) == {("ED201", "opens.yml")}
