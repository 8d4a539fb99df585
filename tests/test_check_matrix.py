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
    "MAX_MODEL_LEN": {"": set(), "4096": set()},
}
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


def test_the_edges_are_of_every_variable_that_has_one():
    env = {
        line.partition("=")[0]
        for line in (Path(__file__).parent.parent / ".env.example").read_text().splitlines()
        if line[:1].isupper()
    }
    assert set(EDGES) - env <= {"MAX_MODEL_LEN"}


@pytest.mark.parametrize("stack", [name for name in STACKS if name != "two nodes"])
def test_two_overrides_have_exactly_their_findings(folder, stack):
    assert found(folder, stack, labels=LABELS) == set()
    assert found(folder, stack, opens=OPENS) == {("ED201", "opens.yml")}
    assert found(folder, stack, labels=LABELS, opens=OPENS) == {("ED201", "opens.yml")}
    assert found(folder, stack, opens=OPENS, labels=LABELS) == {("ED201", "opens.yml")}
