"""HAProxy takes every configuration, and a stack with a gateway publishes nothing else."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CATALOG, kit, planned, rendered
from gateway import haproxy
from test_compose import lint
from test_scripts import before_the_scripts

from ernie_deploy.check import judge
from ernie_deploy.errors import KitError
from ernie_deploy.render.explain import as_data, as_text
from ernie_deploy.render.folder import files
from ernie_deploy.render.gateway import configuration
from ernie_deploy.stack.locking import images_of

MODELS = [(model.id, target.id) for model in CATALOG.models() for target in CATALOG.targets()
          if CATALOG.support(model.id, target.id).state != "refused"]  # fmt: skip
# One target for each model: the configuration does not depend on the vendor.
EVERY_MODEL = list(dict(MODELS).items())
ADDED_LINES = 60
# What HAProxy has said of a configuration.
JUDGED: dict[object, Any] = {}


@pytest.mark.parametrize("engine", CATALOG.ids("engines"))
@pytest.mark.parametrize("routes", [(), ("tokenize",)], ids=str)
@pytest.mark.parametrize(("model", "target"), EVERY_MODEL)
def test_haproxy_takes_the_configuration_of_every_model(
    tmp_path: Path, model: str, target: str, routes: tuple[str, ...], engine: str
) -> None:
    plan, path = haproxy.written(tmp_path, target, model=model, routes=routes, engine=engine)
    # Most are one another's equal.
    key = (configuration(plan), *sorted(haproxy.variables(plan).items()))
    done = JUDGED.get(key) or JUDGED.setdefault(key, haproxy.check(plan, path))
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "[WARNING]" in line]
    # The server's name is Compose's.
    assert all("could not resolve address 'serve'" in line for line in warnings), warnings


@pytest.mark.parametrize(("model", "target"), MODELS)
def test_a_gateway_takes_few_lines(model: str, target: str) -> None:
    without = before_the_scripts(rendered(target, model=model))
    with_it = before_the_scripts(rendered(target, model=model, gateway=True))
    assert 0 < len(with_it) - len(without) <= ADDED_LINES


def test_only_the_gateway_is_published_and_the_server_has_no_way_out() -> None:
    stack: Any = yaml.safe_load(rendered("h100", gateway=True))
    services = stack["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["gateway"]
    assert stack["networks"]["back"] == {"internal": True}
    assert services["serve"]["networks"] == ["back"]
    assert services["bench"]["networks"] == ["back"]
    # It has the way out of Compose's own network, and no way to the gateway.
    assert "networks" not in services["fetch"]
    assert services["gateway"]["depends_on"] == {"serve": {"condition": "service_started", "restart": True}}


UNTRANSLATED = {"driver_opts": {"com.docker.network.bridge.enable_ip_masquerade": "false"}}


@pytest.mark.parametrize(
    "options",
    [{}, {"replicas": 2}, {"model": "vl-28b", "media_domains": ("a.org",)}, {"tls": "files"}],
    ids=str,
)
def test_the_holder_of_all_keys_gets_no_answer_from_beyond_the_host(options: dict[str, Any]) -> None:
    stack: Any = yaml.safe_load(rendered("h100", gateway=True, **options))
    services = stack["services"]
    assert services["gateway"]["networks"] == ["front", "back"]
    assert stack["networks"]["front"] == UNTRANSLATED
    joined = [name for name, service in services.items() if "front" in service.get("networks", ())]
    assert joined == ["gateway"]
    # Whoever has to ask beyond the host does so from Compose's own network, which nothing is said about.
    assert "default" not in stack["networks"]
    outside = {
        name for name, service in services.items() if "default" in service.get("networks", ["default"])
    }
    assert outside == {"fetch", "serve"} if options.get("media_domains") else {"fetch"}


def test_a_gateway_before_servers_elsewhere_reaches_them() -> None:
    stack: Any = yaml.safe_load(rendered("h100", gateway=True, upstreams=("10.0.0.4:8000",)))
    assert stack["networks"] == {"front": None}
    assert stack["services"]["gateway"]["networks"] == ["front"]


def test_all_carriers_have_the_configuration() -> None:
    plan = planned("h100", gateway=True)
    folder = files(plan, CATALOG, {})
    assert "frontend front" in folder["scripts/haproxy.cfg"]
    entrypoint = yaml.safe_load(rendered("h100", gateway=True))["services"]["fetch"]["entrypoint"]
    text = entrypoint[entrypoint.index("haproxy.cfg") + 1]
    assert text.replace("$$", "$") == folder["scripts/haproxy.cfg"]


def test_the_lock_holds_its_image() -> None:
    image = CATALOG.gateway.image.reference
    assert image in images_of(planned("h100", gateway=True))
    assert image not in images_of(planned("h100"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"api_key_file": True}, "exclude each other"),
        ({"nodes": 2, "model": "300b"}, "several nodes"),
        ({"routes": ("metrics",)}, "no route that can be asked for"),
        ({"gateway": False, "routes": ("tokenize",)}, "opens a route of the gateway"),
        ({"gateway": False, "tls": "files"}, "--tls is about the gateway"),
    ],
)
def test_what_a_gateway_cannot_be_combined_with(options: dict[str, Any], words: str) -> None:
    with pytest.raises(KitError, match=words):
        planned("h100", **{"gateway": True} | options)


def test_the_plan_says_what_the_gateway_lets_through_and_why() -> None:
    plan = planned("h100", gateway=True, routes=("tokenize",))
    page, data = as_text(plan), as_data(plan)["gateway"]
    for words in (
        "POST /v1/chat/completions",
        "POST /tokenize",
        "everything else",
        "1024 requests at once",
        "13707 s",
    ):
        assert words in page
    assert {route["path"] for route in data["routes"]} >= {"/v1/models", "/tokenize"}
    assert "internal network" in " ".join(plan.notes)
    assert "way out" in " ".join(
        planned("h100", model="vl-28b", gateway=True, media_domains=("a.org",)).notes
    )
    assert as_data(planned("h100"))["gateway"] is None


@pytest.mark.parametrize(
    "options", [{}, {"model": "vl-28b", "media_domains": ("a.org",)}, {"routes": ("tokenize",)}], ids=str
)
def test_compose_lint_and_check_find_no_error(tmp_path: Path, options: dict[str, Any]) -> None:
    """By the rules of the committed set, which ask for no digest until a stack is locked."""
    path = tmp_path / "compose.yml"
    path.write_text(rendered("h100", gateway=True, **options))
    done = lint(str(path))
    assert done.returncode == 0, done.stdout
    found = judge(path.read_bytes(), str(path), CATALOG)
    assert [one for one in found if one.severity == "error"] == []


def test_there_is_room_for_all_that_are_computed_and_all_that_wait() -> None:
    for options in ({}, {"dp": 8}):
        plan = planned("h100", gateway=True, **options)
        assert plan.gateway
        text = files(plan, CATALOG, {})["scripts/haproxy.cfg"]
        most = int(text.split("    maxconn ")[1].split()[0])
        assert most > plan.gateway.connections + plan.gateway.queue, options


@pytest.mark.parametrize(
    "options", [{}, {"dp": 8}, {"replicas": 8}, {"model": "vl-28b", "replicas": 8}], ids=str
)
def test_the_buffers_of_all_connections_fit_its_memory(options: dict[str, Any]) -> None:
    plan = planned("h100", gateway=True, **options)
    text = files(plan, CATALOG, {})["scripts/haproxy.cfg"]
    most, buffer = (int(text.split(f"    {word} ")[1].split()[0]) for word in ("maxconn", "tune.bufsize"))
    limit = yaml.safe_load(rendered("h100", gateway=True, **options))["services"]["gateway"]["mem_limit"]
    # Before and after a reload.
    assert int(limit.removesuffix("m")) * 2**20 > 2 * most * 2 * buffer


@pytest.mark.parametrize(
    ("tls", "certificate"),
    [
        ("", ""),
        ("files", "ernie-deploy tls install CERT KEY"),
        ("self-signed", "ernie-deploy tls self-signed"),
    ],
)
def test_a_rendered_gateway_says_what_its_first_start_takes(
    tls: str, certificate: str, tmp_path: Path
) -> None:
    words = ["render", "h100", "--gateway", *([f"--tls={tls}"] if tls else [])]
    for output, file in ([], ""), (["-o", "compose.yml"], ""), (["-o", "own.yml"], " -f own.yml"):
        done = kit(*words, *output, cwd=tmp_path)
        steps = [f"{certificate}{file}"] if tls else []
        steps += [f"ernie-deploy key add NAME{file}", f"docker compose{file} up -d --wait"]
        assert f"next, where the file lies: {' && '.join(steps)}\n" in done.stderr
        text = done.stdout or (tmp_path / output[1]).read_text()
        (line,) = [line for line in text.splitlines() if "HAProxy ends at once unless" in line]
        assert "(ernie-deploy key add NAME)" in line
        assert (certificate in line) if tls else ("tls" not in line)
    assert "next" not in kit("render", "h100", cwd=tmp_path).stderr
