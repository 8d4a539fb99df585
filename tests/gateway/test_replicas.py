"""Several servers behind one gateway: each with GPUs of its own, one file for all, and what cannot be."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import kit, planned, rendered
from gateway.haproxy import check, written
from test_render import interpolated

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError
from ernie_deploy.plan.replicas import upstream
from ernie_deploy.plan.request import command_words
from ernie_deploy.render.explain import as_text
from ernie_deploy.render.folder import files

BASE = {"gateway": True}


def services(target: str, **options: Any) -> dict[str, Any]:
    loaded = yaml.safe_load(interpolated(rendered(target, **BASE, **options)))
    return loaded["services"]  # type: ignore[no-any-return]


def gpus_of(service: dict[str, Any]) -> list[str]:
    reserved = service["deploy"]["resources"]["reservations"]["devices"]
    return [gpu for device in reserved for gpu in device["device_ids"]]


@pytest.mark.parametrize(
    ("replicas", "options", "each"), [(2, {}, 1), (8, {}, 1), (2, {"tp": 4}, 4), (4, {"dp": 2}, 2)]
)
def test_no_gpu_is_had_twice(replicas: int, options: dict[str, Any], each: int) -> None:
    all_of = services("h100", replicas=replicas, **options)
    names = ["serve", *(f"serve-{number}" for number in range(2, replicas + 1))]
    assert [name for name in all_of if name.startswith("serve")] == names
    taken = [gpus_of(all_of[name]) for name in names]
    assert {len(gpus) for gpus in taken} == {each}
    flat = [gpu for gpus in taken for gpu in gpus]
    assert flat == [str(number) for number in range(replicas * each)]
    plan = planned("h100", **BASE, replicas=replicas, **options)
    assert plan.gpu_ids == tuple(range(replicas * each))
    assert plan.memory == planned("h100", **BASE, **options).memory


def test_the_users_gpus_are_split_in_their_order() -> None:
    plan = planned("mi300x", **BASE, replicas=2, gpus=(7, 5, 3, 1))
    assert [one.gpu_ids for one in plan.replicas] == [(7, 5), (3, 1)]
    all_of = services("mi300x", replicas=2, gpus=(7, 5, 3, 1))
    seen = [all_of[name]["environment"]["CUDA_VISIBLE_DEVICES"] for name in ("serve", "serve-2")]
    assert seen == ["7,5", "3,1"]
    cdi = services("h100", replicas=2, gpus=(6, 7), gpus_cdi=True)
    assert [cdi[name]["devices"] for name in ("serve", "serve-2")] == [
        ["nvidia.com/gpu=6"],
        ["nvidia.com/gpu=7"],
    ]


def test_replicas_differ_in_nothing_but_their_gpus_and_vllms_own_cache() -> None:
    all_of = services("h100", replicas=2)
    first, second = all_of["serve"], all_of["serve-2"]
    assert first["environment"]["VLLM_CACHE_ROOT"] == "/cache/engine/vllm"
    assert second["environment"]["VLLM_CACHE_ROOT"] == "/cache/engine/vllm-2"
    own = {
        "environment": {**second["environment"], "VLLM_CACHE_ROOT": "/cache/engine/vllm"},
        "deploy": first["deploy"],
    }
    assert {**second, **own} == first


@pytest.mark.parametrize("target", ["h100", "mi300x", "cpu"])
def test_compose_takes_it_and_the_gateway_is_stopped_first(target: str, compose: str, tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(rendered(target, **BASE, replicas=3, tp=1))
    (tmp_path / "gateway").mkdir()
    done = subprocess.run(
        [compose, "-f", "compose.yml", "config"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    waits = yaml.safe_load(done.stdout)["services"]["gateway"]["depends_on"]
    assert set(waits) == {"serve", "serve-2", "serve-3"}
    assert not any("restart" in one for one in waits.values())


@pytest.mark.parametrize("balance", ["leastconn", "sticky"])
def test_haproxy_takes_every_form(balance: str, tmp_path: Path) -> None:
    plan, path = written(tmp_path, replicas=3, balance=balance)
    done = check(plan, path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[2] for line in path.read_text().splitlines() if line.startswith("    server serve")] == [
        "serve:8000", "serve-2:8000", "serve-3:8000",
    ]  # fmt: skip


def test_further_servers_cost_few_lines() -> None:
    lines = [len(rendered("h100", **BASE, replicas=count).splitlines()) for count in (2, 3, 4)]
    # Seven in the file, one in haproxy.cfg, and at most one by which the gateway waits.
    assert lines[1] - lines[0] <= 9
    assert lines[2] - lines[1] <= 9


def test_a_server_that_is_made_anew_takes_the_gateway_along_only_where_it_is_the_only_one() -> None:
    """`docker compose up` stops what depends on a changed service with `restart`: one of two stopped the gateway."""
    waits = [services("h100", replicas=count)["gateway"]["depends_on"] for count in (1, 2)]
    assert waits[0] == {"serve": {"condition": "service_started", "restart": True}}
    assert waits[1] == {name: {"condition": "service_started"} for name in ("serve", "serve-2")}


def test_a_server_behind_a_gateway_says_when_it_is_ready() -> None:
    one, two = services("h100")["serve"], services("h100", replicas=2)["serve"]
    assert [word["entrypoint"][2].rpartition("/")[2] for word in (one, two)] == ["ready.py"] * 2
    # The only server is never given up for a hang: it would be an outage, and the health check ends it anyway.
    assert [word["entrypoint"][3] for word in (one, two)] == ["0", "15"]
    assert int(one["stop_grace_period"][:-1]) == planned("h100").stop_grace_period_s + 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replicas": 2}, "needs --gateway"),
        ({"upstreams": ("10.0.0.4:8000",)}, "needs --gateway"),
        ({"balance": "sticky"}, "needs --gateway"),
        ({"gateway": True, "replicas": 9}, "there are 8 GPUs"),
        ({"gateway": True, "replicas": 2, "gpus": (0, 1, 2)}, "cannot share evenly"),
        ({"gateway": True, "replicas": 2, "tp": 8}, "2 replicas leave each of them 4"),
        ({"gateway": True, "replicas": 2, "upstreams": ("10.0.0.4:8000",)}, "exclude each other"),
        ({"gateway": True, "monitoring": True, "upstreams": ("10.0.0.4:8000",)}, "servers are elsewhere"),
        ({"gateway": True, "replicas": 2, "nodes": 2}, "several nodes"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KitError, match=words) as refusal:
        planned("h100", **options)
    assert refusal.value.next_step


def test_a_layout_that_fits_fewer_says_how_many() -> None:
    with pytest.raises(KitError) as refusal:
        planned("h100", tp=4, **BASE, replicas=3)
    assert refusal.value.next_step.startswith("--replicas 2")


@pytest.mark.parametrize(
    ("text", "spelling"),
    [
        ("10.0.0.4:8000", "10.0.0.4:8000"),
        ("[FD00:0::4]:8000", "[fd00::4]:8000"),
        ("GPU-1.example.org:80", "gpu-1.example.org:80"),
    ],
)
def test_an_upstream_has_one_spelling(text: str, spelling: str) -> None:
    assert upstream(text) == spelling


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.4", "10.0.0.4:0", "10.0.0.4:65536", "10.0.0.4:٨", "10.0.0:8000", "256.0.0.1:80", "fd00::4:8000", "[fd00::4]", "[fe80::1%eth0]:80",
     "[10.0.0.4]:80", "http://10.0.0.4:80", "a b:80", "a\n    server x:80", "-a:80", "localhost:8000", "127.0.0.1:8000", "a:80 backup", "10.0.0.4:80#"],
)  # fmt: skip
def test_what_is_no_upstream(text: str) -> None:
    with pytest.raises(ValueError):
        upstream(text)


def test_the_first_line_makes_the_same_file_again() -> None:
    options: dict[str, Any] = {**BASE, "replicas": 2, "balance": "sticky"}
    text = rendered("h100", **options)
    assert text.splitlines()[0].endswith(" --gateway --replicas 2 --balance sticky")
    words = command_words(planned("h100", **options).request)
    assert kit("render", *words).stdout == text


# --- servers elsewhere ---

ELSEWHERE: dict[str, Any] = {**BASE, "upstreams": ("10.0.0.4:8000", "[fd00::4]:8000", "gpu-1.example.org:80")}


def test_haproxy_takes_servers_elsewhere(tmp_path: Path) -> None:
    plan, path = written(tmp_path, upstreams=ELSEWHERE["upstreams"][:2], balance="sticky")
    done = check(plan, path)
    assert done.returncode == 0, done.stderr
    text = path.read_text()
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith("    server upstream")] == [
        ["upstream-1", "10.0.0.4:8000"], ["upstream-2", "[fd00::4]:8000"],
    ]  # fmt: skip
    # A server elsewhere has no ready.py, whose 404 would mean that it stops.
    assert "uri /health" in text
    assert "8001" not in text


@pytest.mark.parametrize("carrier", ["alone", "folder"])
def test_a_gateway_alone_has_no_server_and_compose_takes_it(
    carrier: str, compose: str, tmp_path: Path
) -> None:
    plan = planned("h100", **ELSEWHERE)
    made = (
        files(plan, Catalog(), {}) if carrier == "folder" else {"compose.yml": rendered("h100", **ELSEWHERE)}
    )
    (tmp_path / "gateway").mkdir()
    (tmp_path / "scripts").mkdir()
    for name, text in made.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run([compose, "config"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = yaml.safe_load(done.stdout)
    assert set(loaded["services"]) == {"gateway"}
    gateway = loaded["services"]["gateway"]
    assert gateway["read_only"] is True
    assert "depends_on" not in gateway
    assert "volumes" not in loaded
    # Reload has HAProxy judge what stands behind -f: a file, wherever the words come from.
    words = gateway["entrypoint"]
    assert words[-2] == "-f"
    assert words[-1].endswith("/haproxy.cfg")
    assert plan.project == "ernie-21b-gateway"


def test_the_plan_of_a_gateway_alone_is_about_the_gateway() -> None:
    page = as_text(planned("h100", **ELSEWHERE))
    assert "upstream-2  [fd00::4]:8000" in page
    assert "vllm serve" not in page
    assert "must require no key" in page


def test_the_command_refuses_what_is_no_upstream() -> None:
    for value, words in (("10.0.0.4", "is not ADDRESS:PORT"), ("10.0.0.4:1,10.0.0.4:1", "named twice")):
        done = kit("plan", "h100", "--gateway", "--upstreams", value)
        assert done.returncode == 2
        assert words in done.stderr
