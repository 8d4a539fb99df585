"""Stacks of models with code of their own: what is brought, read and imported, in which order, and where it is said."""

import json

import pytest
import yaml
from conftest import ROOT, kit, planned, rendered
from manifests.reading import container, mounted, of_kind, read, services, templates, written
from readme_tables import STAND_IN

from ernie_deploy.catalog import Catalog
from ernie_deploy.render.explain import as_data, as_text

CATALOG = Catalog()
ROWS = [
    (model.id, target.id)
    for model in CATALOG.models()
    for target in CATALOG.targets()
    if model.trust_remote_code and CATALOG.support(model.id, target.id).state != "refused"
]
TITLES = ("decord 0.6.0", "font-roboto 0.0.1")
FORMS: list[dict[str, object]] = [
    {}, {"weights": "/data/ernie"}, {"api_key_file": True}, {"nodes": 2, "model": "vl-424b"},
    {"nodes": 2, "model": "vl-424b", "multi_node": "ray"},
]  # fmt: skip


def of_vision(**options: object) -> dict[str, dict[str, object]]:
    return services(rendered("h100", **{"model": "vl-28b", **options}), HOST_IP="10.0.0.4", NIC="eth0")


@pytest.mark.parametrize(("model", "target"), ROWS)
def test_every_row_names_its_packages_and_who_served_it(model: str, target: str) -> None:
    plan = planned(target, model=model)
    text = as_text(plan)
    for title in TITLES:
        assert title in text
    assert STAND_IN in text.lower()
    data = as_data(plan)["packages"]
    assert [(entry["name"], entry["size_bytes"] > 1e6, len(entry["sha256"])) for entry in data] == [
        ("decord", True, 64), ("font-roboto", True, 64),
    ]  # fmt: skip
    assert all(entry["source"] and entry["reason"] for entry in data)


def test_the_readme_says_who_served_those_rows() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("| `vl-")]
    assert len(rows) == len({model for model, _ in ROWS})
    assert all(" [1] |" in line for line in rows)
    assert f"[1] {STAND_IN[0].upper()}{STAND_IN[1:]}." in lines


@pytest.mark.parametrize("options", [{}, {"model": "300b", "nodes": 2}, {"profiles": ("published",)}])
def test_a_text_model_has_none_of_it(options: dict[str, object]) -> None:
    plan, compose = (
        planned("mi300x", **options),
        services(rendered("mi300x", **options), HOST_IP="a", NIC="b"),
    )
    assert (plan.packages, plan.code) == ((), None)
    assert "--before" not in compose["fetch"]["command"]
    assert not {"PIP_INDEX_URL", "PIP_CONFIG_FILE"} & compose["fetch"]["environment"].keys()
    for service in compose.values():
        assert not any("/packages" in str(volume) for volume in service["volumes"])
    assert "packages" not in as_text(plan)
    without = rendered("mi300x", **options, extra_packages="none").splitlines()
    assert [
        line for line in rendered("mi300x", **options).splitlines() if line not in without and line[0] != "#"
    ] == []


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_the_code_is_read_before_the_weights_and_imported_before_the_engine(
    options: dict[str, object],
) -> None:
    compose = of_vision(**options)
    fetch = mounted(compose["fetch"]["command"])
    assert not any("--path" in word or "bring" in word for word in fetch[: fetch.index("--before")])
    # Whatever stands behind --before is the command's, so `fetch` has its own words before.
    packages = [package.requirement for package in CATALOG.packages.values()]
    assert fetch[fetch.index("--before") + 1 :] == [
        *("python3", "-I", "/scripts/packages.py", "bring", "--into=/packages", *packages, "--"),
        *("python3", "-I", "/scripts/judge.py", "--network=refuse"),
        *("--path=/packages/decord-0.6.0", "--file=Roboto-Regular.ttf"),
    ]
    for name in ("serve", "worker", "bench"):
        if name not in compose:
            continue
        entry = compose[name]["entrypoint"]
        words = entry[entry.index("--timeout-s=60") :]
        model = "/weights" if "weights" in options else compose["serve"]["command"][0]
        tokenizer = next((w[12:] for w in compose["bench"]["command"] if w.startswith("--tokenizer=")), model)
        assert f"--model={tokenizer if name == 'bench' else model}" in words
        assert words.index("--path=/packages/decord-0.6.0") < words.index("--")
        program = words[words.index("--") + 1 :]
        assert program == {"bench": ["vllm", "bench", "serve"]}.get(
            name, ["ray", "start"] if name == "worker" and "multi_node" in options else ["vllm", "serve"]
        )


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_only_fetch_writes_packages_and_only_fetch_may_ask_for_them(options: dict[str, object]) -> None:
    compose = of_vision(**options)
    for name, service in compose.items():
        mounts = [volume for volume in service["volumes"] if "/packages" in str(volume)]
        expected = {"fetch": ["packages:/packages"], "beacon": []}.get(name, ["packages:/packages:ro"])
        assert mounts == expected
        assert ("pip_config" in service.get("secrets", ())) == (name == "fetch")
        assert ("PIP_INDEX_URL" in service.get("environment", {})) == (name == "fetch")
    # A folder of the user's own asks no hub, and yet the index, through the same proxy.
    environment, volumes = compose["fetch"]["environment"], compose["fetch"]["volumes"]
    assert {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"} <= environment.keys()
    assert "/dev/null:/run/ca.pem:ro" in volumes
    assert ("HF_ENDPOINT" in environment) == ("weights" not in options)


def test_the_volume_has_a_fixed_name_and_says_what_it_holds() -> None:
    declared = yaml.safe_load(rendered("h100", model="vl-28b"))["volumes"]["packages"]
    assert declared == {
        "name": "ernie-packages", "labels": {"ernie-deploy.holds": "packages that remote code imports"},
    }  # fmt: skip


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_without_packages_the_code_is_judged_all_the_same(options: dict[str, object]) -> None:
    compose = of_vision(**options, extra_packages="none")
    fetch = mounted(compose["fetch"]["command"])
    assert fetch[fetch.index("--before") + 1 :] == [
        *("python3", "-I", "/scripts/judge.py", "--network=refuse"),
    ]  # fmt: skip
    for name, service in compose.items():
        assert not any("/packages" in str(volume) for volume in service["volumes"])
        assert "--path=/packages/decord-0.6.0" not in service.get("entrypoint", ())
        assert ("--timeout-s=60" in service["entrypoint"]) == (name in ("serve", "worker", "bench"))
    assert not {"PIP_INDEX_URL", "PIP_CONFIG_FILE"} & compose["fetch"]["environment"].keys()
    assert "pip_config" not in compose["fetch"].get("secrets", ())


def test_without_packages_what_follows_is_said() -> None:
    plan = planned("h100", model="vl-28b", extra_packages="none")
    warning = plan.warnings[-1]
    for words in (
        "--extra-packages none: decord 0.6.0 and font-roboto 0.0.1 are not brought",
        "refuses",
        "REMOTE_CODE_NETWORK=allow",
    ):
        assert words in warning
    assert as_data(plan)["packages"] == []
    done = kit("render", "h100", "--model", "vl-28b", "--extra-packages", "none")
    assert f"warning: {warning}" in done.stderr
    assert done.stdout.startswith("# ernie-deploy render h100 --model vl-28b --extra-packages none\n")


def test_plan_as_json_lists_the_packages() -> None:
    done = kit("plan", "h100", "--model", "vl-28b", "--json")
    first, second = json.loads(done.stdout)["packages"]
    assert first["machine"] == "x86_64"
    assert second["machine"] is None
    assert first["archive"].startswith("decord-0.6.0-")


def test_the_read_me_of_a_folder_says_how_large_they_are(tmp_path: object) -> None:
    done = kit("init", f"{tmp_path}/stack", "h100", "--model", "vl-28b")
    assert done.returncode == 0, done.stderr
    folder = ROOT.__class__(f"{tmp_path}/stack")
    assert "16 MB of packages into the volume `ernie-packages`" in (folder / "README.md").read_text()
    for name in (
        "PACKAGES_DIR",
        "PIP_INDEX_URL",
        "PIP_CONFIG_FILE",
        "REMOTE_CODE_NETWORK",
        "REMOTE_CODE_IMPORT_TIMEOUT_S",
    ):
        assert f"#{name}=" in (folder / ".env").read_text()


@pytest.mark.parametrize(
    "options", [{}, {"weights": "/data/ernie"}, {"model": "vl-424b", "nodes": 2}], ids=str
)
def test_pods_mount_packages_as_the_containers_do(options: dict[str, object]) -> None:
    documents = read(written("h100", **{"model": "vl-28b", **options}))
    made = templates(documents)
    for component, template in made.items():
        pod = template["spec"]
        for one in (*pod["containers"], *pod.get("initContainers", ())):
            (mount,) = [mount for mount in one["volumeMounts"] if mount["mountPath"] == "/packages"]
            assert mount.get("readOnly", False) == (component != "fetch")
    fetch = container(made["fetch"])
    assert "/scripts/packages.py" in fetch["args"]
    assert {"name": "PIP_CONFIG_FILE", "value": "/run/pip/pip.conf"} in fetch["env"]
    policy = of_kind(documents, "NetworkPolicy")["spec"]["podSelector"]["matchExpressions"]
    assert policy == [
        {"key": "app.kubernetes.io/component", "operator": "In", "values": ["leader", "worker"]}
    ]
