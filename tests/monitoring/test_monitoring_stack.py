"""`init --monitoring`: what watches a stack is confined, published on this host alone, locked, and its password stays."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CATALOG, kit, planned
from locks import lock_file
from monitoring.forms import FORMS
from monitoring.promtool import run
from test_compose import config, lint

from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.host import grafana_password
from ernie_deploy.plan.request import Request
from ernie_deploy.rehearsal.cpu_plan import for_cpu
from ernie_deploy.render.compose import compose_file
from ernie_deploy.render.folder import files
from ernie_deploy.stack.locking import images_of
from ernie_deploy.stack.support_bundle import in_secret_files

WATCHING = {"prometheus", "grafana", "dcgm-exporter", "device-metrics-exporter", "node-exporter"}
AS_FORMS = pytest.mark.parametrize(("target", "options"), FORMS, ids=str)


def folder_of(place: Path, target: str, **options: Any) -> dict[str, Any]:
    """The files of a stack with --monitoring put down; its compose file as YAML reads it."""
    made = files(planned(target, monitoring=True, **options), CATALOG, {})
    for name, text in made.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    stack: dict[str, Any] = yaml.safe_load(made["compose.yml"])
    return stack


@AS_FORMS
def test_compose_takes_it_and_compose_lint_finds_nothing(
    target: str, options: dict[str, Any], compose: str, tmp_path: Path
) -> None:
    folder_of(tmp_path, target, **options)
    (tmp_path / "gateway").mkdir()
    done = config(compose, tmp_path / "compose.yml", "config", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    found = lint(str(tmp_path / "compose.yml"))
    assert found.returncode == 0, found.stdout[-2000:]


@AS_FORMS
def test_each_service_is_confined(target: str, options: dict[str, Any], tmp_path: Path) -> None:
    stack = folder_of(tmp_path, target, **options)
    services = {name: one for name, one in stack["services"].items() if name in WATCHING}
    vendor = {"h100": {"dcgm-exporter"}, "mi300x": {"device-metrics-exporter"}, "cpu": set()}[target]
    asked = {"node-exporter"} if options.get("node_exporter") else set()
    assert set(services) == {"prometheus", "grafana"} | vendor | asked
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit", "restart"} <= set(service), name
        assert not re.search(r"(^|-)0:|^root", str(service["user"])), name
        assert not {"network_mode", "pid", "privileged"} & set(service), name


@AS_FORMS
def test_only_the_two_with_pages_are_published_and_on_this_host_alone(
    target: str, options: dict[str, Any], tmp_path: Path
) -> None:
    stack = folder_of(tmp_path, target, **options)
    networks, services = stack["networks"], stack["services"]
    inner = {name for name, one in networks.items() if one and one.get("internal")}
    assert inner == {"back", "watch"}
    for name in set(services) & WATCHING:
        joined, ports = set(services[name]["networks"]), services[name].get("ports", [])
        if name in ("prometheus", "grafana"):
            # A service on internal networks alone publishes nothing, without a word.
            assert joined - inner == {"published"}
            assert [port.startswith("127.0.0.1:$") for port in ports] == [True]
        else:
            assert joined == {"watch"}
            assert not ports
    assert networks["published"]["driver_opts"] == {"com.docker.network.bridge.enable_ip_masquerade": "false"}
    if options.get("gateway"):
        # Nobody but clients and the gateway: on `published` Grafana would reach the gateway's own port, on `back` it may not.
        assert {name for name, one in services.items() if "front" in one.get("networks", ())} == {"gateway"}
    # Who draws does not reach the model, whose other routes ask for no key.
    assert "back" not in services["grafana"]["networks"]
    assert "back" in services["serve"]["networks"]


def test_a_lock_and_a_mirror_hold_every_image() -> None:
    options: dict[str, Any] = {
        "monitoring": True,
        "node_exporter": True,
        "registry": "mirror.example:5000/hub",
    }
    plan = planned("h100", **options)
    assert len(images_of(plan)) == 2 + 4
    request = Request(target="h100", **options)
    text = compose_file(
        planned("h100", **options, lock=lock_file(request)), CATALOG.defaults, carrier="folder"
    )
    images = [service["image"] for service in yaml.safe_load(text)["services"].values()]
    assert all(re.search("@sha256:[0-9a-f]{64}$", image) for image in images)
    assert all(image.startswith("${IMAGE_REGISTRY:-mirror.example:5000/hub}/") for image in images)


def test_prometheus_takes_its_files(tmp_path: Path) -> None:
    for target, options in FORMS:
        folder_of(tmp_path, target, **options)
        done = run("check", "config", tmp_path / "monitoring/prometheus.yml")
        assert done.returncode == 0, done.stderr + done.stdout


@pytest.mark.parametrize("more", [(), ("--node-exporter", "--gateway")])
def test_init_makes_the_password_once_for_who_reads_it(more: tuple[str, ...], tmp_path: Path) -> None:
    done = kit("init", str(tmp_path), "h100", "--monitoring", *more)
    assert done.returncode == 0, done.stderr
    place = tmp_path / grafana_password.FILE
    assert place.stat().st_mode & 0o777 == 0o600
    password = place.read_text()
    assert len(password.strip()) >= 32
    assert f"/{grafana_password.FILE}\n" in (tmp_path / ".gitignore").read_text()
    env = (tmp_path / ".env").read_text()
    owner = f"{place.stat().st_uid}:{place.stat().st_gid}"
    assert owner == "472:0" if not os.geteuid() else f"\nGRAFANA_USER={owner}\n" in env
    for path in (tmp_path / "monitoring").rglob("*"):
        assert path.stat().st_mode & 0o004, path
    again = kit("init", str(tmp_path), "h100", "--monitoring", *more, "--max-model-len", "4096", "--force")
    assert again.returncode == 0, again.stderr
    assert place.read_text() == password
    assert password.strip() not in done.stdout + done.stderr + again.stdout + again.stderr
    every = [path for path in tmp_path.rglob("*") if path.is_file() and path != place]
    assert all(password.strip() not in path.read_text() for path in every)


def test_a_ticket_has_no_password_of_a_file_that_only_a_default_names(tmp_path: Path) -> None:
    grafana_password.make(tmp_path, f"{os.geteuid()}:{os.getegid()}")
    place = tmp_path / grafana_password.FILE
    secrets = in_secret_files({"grafana_password": {"file": str(place)}, "hf_token": {"file": "/dev/null"}})
    assert secrets == {place.read_text().strip()}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("render", "h100", "--monitoring"), "ernie-deploy init DIR h100 --monitoring"),
        (("render", "h100", "--monitoring", "--format", "kubernetes"), "PodMonitor"),
        (("init", "x", "h100", "--node-exporter"), "add --monitoring"),
        (("init", "x", "h100", "--monitoring", "--model", "300b", "--nodes", "2"), "several nodes"),
        (("init", "x", "h100", "--monitoring", "--gateway", "--upstreams", "10.0.0.4:8000"), "elsewhere"),
    ],
)
def test_what_is_not_done_is_said(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = kit(
        *words, cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": os.environ["PATH"]}
    )
    assert done.returncode in (UsageError.exit_code, Refused.exit_code)
    assert told in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_says_what_of_it_is_left_out() -> None:
    done = kit("rehearse", "h100", "--monitoring", "--node-exporter", "--dry-run")
    assert done.returncode == 0, done.stderr
    _, sentences = for_cpu(planned("h100", monitoring=True, node_exporter=True))
    assert sentences[-1].startswith("grafana, dcgm-exporter -> left out")
    left_out = re.findall(r"^  (\S+): \{profiles: \[not-rehearsed\]\}$", done.stdout, re.MULTILINE)
    assert sorted(left_out) == ["dcgm-exporter", "grafana"]


def test_a_stack_without_it_has_nothing_of_it() -> None:
    assert "prometheus" not in compose_file(planned("h100"), CATALOG.defaults)
    assert planned("h100").monitoring == ()
