"""Docker Compose accepts every rendering, and compose-lint finds nothing but what is silenced with a reason."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, rendered
from hypothesis import HealthCheck, given, settings
from locks import lock_file
from test_render import NASTY, VALUES, interpolated

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.request import Request
from ernie_deploy.render import folder

# Nothing is asked of a daemon: `config` only reads the file.
NO_DAEMON = {"DOCKER_HOST": "tcp://127.0.0.1:1", "PATH": os.environ["PATH"], "HOME": "/nonexistent"}
COMMITTED = sorted((ROOT / "compose").glob("[!.]*.yml"))
FORMS = [
    ("h100", {"api_key_file": True, "bind": "0.0.0.0"}),
    ("h100", {"weights": "/data/we ird'$PATH", "engine": "0.32.0", "cuda": "12.9"}),
    ("h100", {"gpus_cdi": True, "security": "vendor", "model": "300b", "profiles": ("mtp",)}),
    ("mi300x", {"gpus_cdi": True, "dp": 2}),
    ("mi300x", {"user": "1000:1000", "security": "vendor"}),
    ("cpu", {"api_key_file": True, "user": "1000:1000"}),
    ("h100", {"model": "300b", "nodes": 2, "rdma": True, "api_key_file": True}),
    ("h100", {"model": "300b", "nodes": 2, "multi_node": "ray"}),
    ("mi300x", {"model": "vl-424b", "nodes": 4, "rdma": True, "security": "vendor", "gpus_cdi": True}),
    ("mi300x", {"dp": 4, "nodes": 2, "weights": "/data/ernie"}),
]


def config(compose: str, path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    words = [compose, "-f", str(path), *options]
    return subprocess.run(words, capture_output=True, text=True, env=NO_DAEMON, timeout=300)


def test_compose_accepts_each_committed_file(compose: str) -> None:
    with ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda path: config(compose, path, "--profile", "*", "config", "-q"), COMMITTED))
    told = {path.name: d.stderr for path, d in zip(COMMITTED, done, strict=True) if d.returncode or d.stderr}
    assert told == {}
    assert len(done) == len(COMMITTED) > 90


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_compose_accepts_each_form(
    compose: str, tmp_path: Path, target: str, options: dict[str, object]
) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered(target, **options))
    done = config(compose, path, "--profile", "*", "config", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("target", "options"), [("mi300x", {}), *FORMS], ids=str)
def test_compose_reads_what_was_rendered(
    compose: str, tmp_path: Path, target: str, options: dict[str, object]
) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered(target, **options))
    done = config(compose, path, "--profile", "*", "config", "--format", "json")
    read = json.loads(done.stdout.replace("$$", "$"))["services"]
    meant = yaml.safe_load(interpolated(path.read_text()))["services"]
    for name, service in meant.items():
        assert read[name].get("command") == service.get("command")
        assert read[name]["entrypoint"] == service["entrypoint"]
        said = read[name].get("environment", {})
        environment = {key: value for key, value in said.items() if value is not None}
        assert environment == {key: str(value or "") for key, value in service.get("environment", {}).items()}


def test_what_differs_from_node_to_node_is_in_env_alone(compose: str, tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100", model="300b", nodes=2))
    (tmp_path / ".env").write_text("NODE_RANK=1\nHEAD_ADDR=10.0.0.4\nHOST_IP=10.0.0.5\nNIC=eth1\n")
    done = config(compose, path, "--profile", "worker", "config", "--format", "json")
    read = json.loads(done.stdout)["services"]
    assert set(read) == {"fetch", "worker"}
    assert {"--node-rank=1", "--master-addr=10.0.0.4"} <= set(read["worker"]["command"])
    environment = {"VLLM_HOST_IP": "10.0.0.5", "NCCL_SOCKET_IFNAME": "eth1", "GLOO_SOCKET_IFNAME": "eth1"}
    assert environment.items() <= read["worker"]["environment"].items()
    assert read["worker"]["healthcheck"]["test"][-4:] == ["10.0.0.4", "29502", "1", "10.0.0.5"]
    of_head = config(compose, path, "--profile", "head", "config", "--format", "json")
    assert set(json.loads(of_head.stdout)["services"]) == {"fetch", "serve", "beacon"}
    # As `ernie-deploy bench` runs it: the head is up already, and its profile is not named.
    alone = config(compose, path, "--profile", "bench", "config", "-q")
    assert (alone.returncode, alone.stderr) == (0, "")


@given(NASTY)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_compose_reads_any_setting_unchanged(compose: str, tmp_path: Path, value: str) -> None:
    path = tmp_path / "compose.yml"
    try:
        path.write_text(rendered("h100", pairs=(f"served-model-name={value}",)), encoding="utf-8")
    except UsageError:
        return
    done = config(compose, path, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout)["services"]["serve"]["command"]
    # `config` doubles each `$` again, so that its output is a compose file.
    assert value in [word.replace("$$", "$") for word in words]


@given(VALUES.filter(lambda value: "\0" not in value))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_compose_reads_any_env_value_unchanged(compose: str, tmp_path: Path, value: str) -> None:
    try:
        line = folder.env_line("VALUE", value)
    except UsageError:
        return
    (tmp_path / ".env").write_text(line + "\n", encoding="utf-8")
    path = tmp_path / "compose.yml"
    path.write_text("services: {a: {image: x, labels: {v: '=${VALUE}='}}}\n")
    done = config(compose, path, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)["services"]["a"]["labels"]["v"]
    assert read.replace("$$", "$") == f"={value}="


def test_env_example_as_env_is_accepted(compose: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text((ROOT / ".env.example").read_text())
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100"))
    done = config(compose, path, "config", "-q")
    assert (done.returncode, done.stderr) == (0, "")


def lint(*paths: str, rules: Path = ROOT / "compose/.compose-lint.yml") -> "subprocess.CompletedProcess[str]":
    words = [Path(sys.executable).parent / "compose-lint", "check", "--fail-on", "low", "--strict-config",
             "--config", rules, *paths]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=120)


def test_compose_lint_finds_what_the_recipe_opens_on_amd_and_nothing_else(tmp_path: Path) -> None:
    # A mount from below a developer's /root would be a finding of its own.
    copies = [Path(shutil.copy(path, tmp_path)) for path in COMMITTED]
    amd = [path for path in copies if path.stem.rpartition("-")[2].startswith("mi")]
    done = lint(*map(str, set(copies) - set(amd)))
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(COMMITTED) - len(amd)} files scanned" in done.stdout
    done = lint(*map(str, amd))
    assert f"{len(amd)} files scanned" in done.stdout
    named = Counter(re.findall(r"(?:CRITICAL|HIGH|MEDIUM|LOW) +(CL-\d+)", done.stdout))
    assert named == {"CL-0009": len(amd), "CL-0010": len(amd)}, done.stdout[-3000:]


def test_compose_lint_finds_nothing_with_the_strict_set(tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered("mi300x", security="strict"))
    assert lint(str(path)).returncode == 0


@pytest.mark.parametrize("registry", ["", "mirror.example:5000/dockerhub"])
def test_compose_lint_asks_a_stack_for_digests_until_it_is_locked(registry: str, tmp_path: Path) -> None:
    rules = yaml.safe_load((ROOT / "compose/.compose-lint.yml").read_text())
    assert rules["rules"].pop("CL-0019")
    (tmp_path / "lint.yml").write_text(yaml.safe_dump(rules))
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100", registry=registry))
    assert lint(str(path), rules=tmp_path / "lint.yml").stdout.count("CL-0019") >= 3
    path.write_text(
        rendered("h100", registry=registry, lock=lock_file(Request(target="h100", registry=registry)))
    )
    done = lint(str(path), rules=tmp_path / "lint.yml")
    assert done.returncode == 0, done.stdout


def test_compose_lint_would_see_a_loose_stack(tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100", bind="0.0.0.0"))
    assert "CL-0005" in lint(str(path)).stdout


def test_compose_lint_finds_the_hosts_network_of_several_nodes_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100", model="300b", nodes=2))
    said = lint(str(path)).stdout
    found = re.findall(r"(?:CRITICAL|HIGH|MEDIUM|LOW) +(CL-\d+)", said)
    assert found == ["CL-0008"] * 4, said  # bench, serve, worker, beacon


def test_every_supported_pair_is_committed() -> None:
    catalog = Catalog()
    supported = {
        f"{model.id}-{target.id}"
        for model in catalog.models()
        for target in catalog.targets()
        if catalog.support(model.id, target.id).state != "refused"
    }
    assert {path.stem for path in COMMITTED} == supported
