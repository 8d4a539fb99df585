"""The scripts of a stack: the same bytes whichever way they are carried, and no more of them than a reviewer bears."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, planned, rendered
from msgspec.structs import replace
from test_render import interpolated

from ernie_deploy.catalog import Catalog
from ernie_deploy.host import machine_checks
from ernie_deploy.plan import nodes
from ernie_deploy.render import kubernetes
from ernie_deploy.render import scripts as module
from ernie_deploy.render.folder import files
from ernie_deploy.render.kubernetes import manifests
from ernie_deploy.render.scripts import Scripts, fetch_script, scripts_of

CATALOG = Catalog()
FORMS: list[tuple[str, dict[str, object]]] = [
    ("h100", {}),
    ("mi300x", {"api_key_file": True}),
    ("h100", {"model": "300b", "nodes": 2, "api_key_file": True}),
    ("h100", {"model": "vl-28b"}),
    ("mi300x", {"model": "vl-28b", "extra_packages": "none"}),
    ("cpu", {"weights": "/data/w"}),
]
HEADING = "    # The rest of the file is the scripts"


def entrypoint(target: str, **options: object) -> list[str]:
    """The whole entrypoint of `fetch` as its container gets it."""
    loaded = yaml.load(interpolated(rendered(target, **options)), yaml.CSafeLoader)
    return loaded["services"]["fetch"]["entrypoint"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_fetch_writes_the_files_of_the_project(
    target: str, options: dict[str, object], tmp_path: Path
) -> None:
    words = entrypoint(target, **options)
    folder, end = words[4], words.index("--")
    assert words[:3] == ["python3", "-I", "-c"]
    here = [str(tmp_path / "s") if word == folder else word for word in words[3:end]]
    for _ in range(2):
        subprocess.run([sys.executable, "-I", "-c", *here, "--", "true"], check=True)
    written = {path.name: path.read_bytes() for path in (tmp_path / "s").iterdir()}
    assert written == {name: (ROOT / "docker" / "scripts" / name).read_bytes() for name in written}
    assert written.keys() == scripts_of(planned(target, **options)).texts.keys()
    assert words[end:] == ["--", "python3", "-I", f"{folder}/{fetch_script(planned(target, **options))}"]


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_a_folder_and_a_configmap_carry_the_same_bytes(target: str, options: dict[str, object]) -> None:
    plan = planned(target, **options)
    texts = scripts_of(plan).texts
    beside = files(plan, CATALOG, {})
    assert {
        name.removeprefix("scripts/"): text for name, text in beside.items() if name.startswith("scripts/")
    } == texts
    documents = yaml.load_all(manifests(plan, CATALOG.defaults), yaml.CSafeLoader)
    data = next(one["data"] for one in documents if one and one["kind"] == "ConfigMap")
    # Pods have no group of their own making, and probes that the kubelet runs.
    assert {name: text for name, text in data.items() if name in texts} == {
        name: text for name, text in texts.items() if name not in ("node.py", "group.py")
    }


# What a script imports, or runs from beside itself.
BESIDE = r'(?:^\s*(?:from|import) |with_name\(")(\w+)'


def with_imports(names: set[str], texts: dict[str, str]) -> set[str]:
    """These scripts, and those of the stack that they import or run from beside themselves, and so on."""
    imports = {f"{module}.py" for name in names for module in re.findall(BESIDE, texts[name], re.MULTILINE)}
    more = names | (imports & texts.keys())
    return more if more == names else with_imports(more, texts)


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_a_folders_file_has_no_script_in_it_and_mounts_each_that_it_names(
    target: str, options: dict[str, object]
) -> None:
    made = files(planned(target, **options), CATALOG, {})
    text = made["compose.yml"]
    assert "import " not in text
    named = set(re.findall(r"/scripts/[0-9a-f]{12}/(\w+\.py)", text))
    texts = {
        name.removeprefix("scripts/"): text for name, text in made.items() if name.startswith("scripts/")
    }
    assert named <= texts.keys()
    assert with_imports(named, texts) == texts.keys()
    services = yaml.safe_load(interpolated(text))["services"]
    for service in services.values():
        if "/scripts/" in str(
            [service.get("entrypoint"), service.get("command"), service.get("healthcheck")]
        ):
            (mount,) = [volume for volume in service["volumes"] if "scripts" in str(volume)]
            assert mount.startswith("./scripts:/scripts/")
            assert mount.endswith(":ro")


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_only_fetch_may_write_scripts(target: str, options: dict[str, object]) -> None:
    services = yaml.load(interpolated(rendered(target, **options)), yaml.CSafeLoader)["services"]
    mounts = {
        name: [volume for volume in service["volumes"] if str(volume).startswith("scripts:")]
        for name, service in services.items()
    }
    assert mounts.pop("fetch") == ["scripts:/scripts"]
    assert all(mount in ([], ["scripts:/scripts:ro"]) for mount in mounts.values()), mounts
    assert mounts["serve"]


def test_a_changed_script_changes_the_commands_that_name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = rendered("h100")
    monkeypatch.setattr(module, "read", lambda name: f'"""{name}."""\n')
    after = rendered("h100")
    paths = [set(re.findall(r"/scripts/([0-9a-f]{12})", text)) for text in (before, after)]
    assert all(len(found) == 1 for found in paths)
    assert paths[0] != paths[1]


def test_the_digest_is_of_names_and_texts() -> None:
    one = Scripts({"a": "1", "b": "2"})
    assert one.digest == hashlib.sha256(b"a\x001\x00b\x002\x00").hexdigest()[:12]
    assert len({one.digest, Scripts({"a": "2", "b": "1"}).digest, Scripts({"a": "1"}).digest}) == 3
    with pytest.raises(KeyError):
        one.path("c")


# --- what a reviewer reads ---


def before_the_scripts(text: str) -> list[str]:
    """The lines above the heading; nothing of a script is among them."""
    lines = text.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith(HEADING))
    above = lines[: at - 1]
    assert not [line for line in above if re.match(r"\s+(import|from|def|class) \w", line)]
    return above


def supported() -> list[tuple[str, str]]:
    return [
        (model.id, target.id)
        for model in CATALOG.models()
        for target in CATALOG.targets()
        if CATALOG.support(model.id, target.id).state != "refused"
    ]


BUDGET, BUDGET_WITH_KEY, BUDGET_OF_NODES, BUDGET_OF_FOLDER = 125, 130, 155, 130
# The whole file with its scripts, and what more it takes where the model has code of its own.
WHOLE, WHOLE_WITH_KEY, WHOLE_OF_NODES, WHOLE_OF_CODE = 1090, 1225, 1655, 1920


@pytest.mark.parametrize(("model", "target"), supported())
def test_the_configuration_of_one_node_is_short(model: str, target: str) -> None:
    for key in (False, True):
        lines = before_the_scripts(rendered(target, model=model, api_key_file=key))
        assert len(lines) <= (BUDGET_WITH_KEY if key else BUDGET)
        whole = (WHOLE_WITH_KEY if key else WHOLE) + WHOLE_OF_CODE * CATALOG.model(model).trust_remote_code
        assert len(rendered(target, model=model, api_key_file=key).splitlines()) <= whole
        assert lines.index(next(line for line in lines if not line.startswith("#"))) <= 8
    folder = files(planned(target, model=model), CATALOG, {})["compose.yml"]
    assert len(folder.splitlines()) <= BUDGET_OF_FOLDER


def test_the_configuration_of_two_nodes_is_short() -> None:
    assert len(before_the_scripts(rendered("h100", model="300b", nodes=2))) <= BUDGET_OF_NODES
    assert len(before_the_scripts(rendered("mi300x", model="300b", nodes=2))) <= BUDGET_OF_NODES
    for target in ("h100", "mi300x"):
        assert len(rendered(target, model="300b", nodes=2).splitlines()) <= WHOLE_OF_NODES


def test_a_default_stack_carries_what_it_runs_and_no_more() -> None:
    assert list(scripts_of(planned("h100")).texts) == ["common.py", "serve.py", "canary.py", "fetch.py"]
    more = {
        "own_folder.py": {"weights": "/data/w"}, "with_code.py": {"model": "vl-28b"},
        "with_api_key.py": {"api_key_file": True}, "node.py": {"model": "300b", "nodes": 2},
    }  # fmt: skip
    for name, options in more.items():
        assert name in scripts_of(planned("h100", **options)).texts, name


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_every_script_finds_those_that_it_imports(target: str, options: dict[str, object]) -> None:
    texts = scripts_of(planned(target, **options)).texts
    for name, text in texts.items():
        for line in re.findall(BESIDE, text, re.MULTILINE):
            there = f"{line}.py" in texts or not (ROOT / "docker/scripts" / f"{line}.py").exists()
            # What stands for fetch where the weights are the user's own folder.
            assert there or (name, line) == ("with_code.py", "own_folder"), (name, line)


def test_a_reviewer_meets_what_serves_first() -> None:
    services = list(yaml.safe_load(rendered("h100"))["services"])
    assert services == ["serve", "bench", "fetch"]
    assert list(yaml.safe_load(rendered("h100"))["services"]["fetch"])[-1] == "entrypoint"


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_a_probe_and_the_server_carry_no_script(target: str, options: dict[str, object]) -> None:
    services = yaml.load(interpolated(rendered(target, **options)), yaml.CSafeLoader)["services"]
    for name in {"serve", "worker", "bench", "beacon"} & services.keys():
        service = services[name]
        assert len(" ".join(service.get("healthcheck", {}).get("test", []))) < 300
        assert len(str(service)) < 6000


def test_the_health_check_outlives_its_probe() -> None:
    canary, group = ((ROOT / "docker" / "scripts" / name).read_text() for name in ("canary.py", "group.py"))
    limits = [
        float(re.search(r"^(?:PROBE|ASK)_S = ([\d.]+)$", text, re.MULTILINE)[1]) for text in (canary, group)
    ]  # type: ignore[index]
    services = yaml.safe_load(interpolated(rendered("h100", model="300b", nodes=2)))["services"]
    for name, limit_s in zip(("serve", "worker"), limits, strict=True):
        check = services[name]["healthcheck"]
        assert float(check["timeout"].removesuffix("s")) > limit_s
        assert (check["interval"], check["retries"]) == ("10s", 3)


def test_what_scripts_and_the_kit_both_know_is_the_same() -> None:
    texts = {
        name: (ROOT / "docker/scripts" / name).read_text() for name in ("serve.py", "fetch.py", "node.py")
    }
    assert f"\nBACK_OFF_S = {kubernetes.BACK_OFF_S}" in texts["serve.py"]
    assert f"\nDISK_MARGIN = {machine_checks.DISK_MARGIN}\n" in texts["fetch.py"]
    assert f"\nOBJECT_STORE_BYTES = {nodes.RAY_OBJECT_STORE_BYTES:_}\n" in texts["node.py"]


def test_a_key_adds_its_reader_and_no_other_script() -> None:
    plan = planned("h100")
    guarded = replace(plan, request=replace(plan.request, api_key_file=True))
    assert scripts_of(guarded).texts.keys() - scripts_of(plan).texts.keys() == {"with_api_key.py"}


@pytest.mark.parametrize(
    "folder", ["docker/scripts", "docker/engine-cpu", "docker/rehearsal", "tests/engine"]
)
def test_no_file_beside_a_program_has_a_name_of_pythons_own(folder):
    """Python looks beside a program first: what it imports there would be ours and not its own."""
    names = {path.stem for path in (ROOT / folder).glob("*.py")}
    assert names
    assert not names & sys.stdlib_module_names
