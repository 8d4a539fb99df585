"""The manifests say what the compose file of the same request says."""

import pytest
import yaml
from conftest import ROOT, planned, rendered
from hypothesis import given, settings
from manifests.reading import (
    CATALOG,
    FORMS,
    container,
    expanded,
    mounted,
    of_kind,
    read,
    served,
    services,
    templates,
    written,
)
from test_render import NASTY

from ernie_deploy.errors import KitError
from ernie_deploy.plan.settings import words
from ernie_deploy.render.kubernetes import manifests


def differences(target: str, **options: object) -> list[str]:
    """What the manifests say otherwise than the compose file of the same request."""
    made, compose = templates(read(written(target, **options))), services(rendered(target, **options))
    serve, fetch = compose["serve"], compose["fetch"]
    grace = f"{made['leader']['spec']['terminationGracePeriodSeconds']}s"
    given = {key: str(value) for key, value in fetch["environment"].items() if value}
    # A Secret is a folder, and the token has that of Compose's secrets.
    given |= {"PIP_CONFIG_FILE": "/run/pip/pip.conf"} if "PIP_CONFIG_FILE" in given else {}
    entry = mounted(serve["entrypoint"])
    pairs = {
        "serve words": (served(made["leader"])[0], entry[3:] + serve["command"]),
        "serve variables": (served(made["leader"])[1], serve["environment"]),
        "fetch words": (served(made["fetch"])[0], mounted(fetch["command"])),
        "fetch variables": (served(made["fetch"])[1], given),
        "image": (container(made["leader"])["image"], serve["image"]),
        "fetch image": (container(made["fetch"])["image"], fetch["image"]),
        "grace": (grace, serve["stop_grace_period"]),
    }
    return [f"{target} {options} {what}: {a} != {b}" for what, (a, b) in pairs.items() if a != b]


@pytest.mark.parametrize("target", [target.id for target in CATALOG.targets()])
def test_words_and_variables_are_those_of_compose_over_the_whole_matrix(target: str) -> None:
    compared, found = 0, []
    for model in CATALOG.models():
        for profiles in [(), *((profile.id,) for profile in CATALOG.profiles())]:
            try:
                planned(target, model=model.id, profiles=profiles)
            except KitError:
                continue
            found += differences(target, model=model.id, profiles=profiles)
            compared += 1
    assert found == []
    assert compared >= 2 * sum(CATALOG.support(m.id, target).state != "refused" for m in CATALOG.models())


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_words_and_variables_are_those_of_compose_in_each_form(
    target: str, options: dict[str, object]
) -> None:
    assert differences(target, **options) == []


@given(NASTY)
@settings(max_examples=100)
def test_any_setting_reaches_vllm_unchanged(value: str) -> None:
    try:
        plan = planned("h100", pairs=(f"served-model-name={value}",))
    except KitError:
        return
    text = manifests(plan, CATALOG.defaults)
    leader = templates(
        list(yaml.safe_load_all(text.partition("\nkind: Service\n")[0].rpartition("\n---")[0]))
    )["leader"]
    known = {"HOME": "wrong", "X": "wrong"}
    assert served(leader, **known)[0][3:] == [plan.positional_model, *words(plan.settings)]
    probe = container(leader)["livenessProbe"]["exec"]["command"]
    assert expanded(probe[4], **known) == plan.served_name


def test_what_kubernetes_would_expand_is_escaped() -> None:
    leader = templates(read(written("h100", pairs=("served-model-name=$(HOME) $$ $X a$",))))["leader"]
    assert "$$(HOME) $$$$ $$X a$$" in container(leader)["args"]


def test_scripts_are_the_files_of_the_project() -> None:
    data = of_kind(read(written("h100")), "ConfigMap")["data"]
    names = ("canary", "common", "fetch", "liveness", "serve")
    files = [ROOT / f"docker/scripts/{name}.py" for name in names]
    assert data == {file.name: file.read_text(encoding="utf-8") for file in files}
    guarded = of_kind(read(written("h100", api_key_file=True)), "ConfigMap")["data"]
    reader = ROOT / "docker/scripts/with_api_key.py"
    assert guarded == data | {reader.name: reader.read_text(encoding="utf-8")}


@pytest.mark.parametrize("choice", ["fetch", "none"])
def test_scripts_for_remote_code_are_there_with_it(choice: str) -> None:
    plain = of_kind(read(written("h100")), "ConfigMap")["data"]
    data = of_kind(read(written("h100", model="vl-28b", extra_packages=choice)), "ConfigMap")["data"]
    names = {
        "with_code.py",
        "judge.py",
        "model_code.py",
        "code_reader.py",
        "dry_import.py",
        *(["packages.py", "package_index.py"] if choice == "fetch" else []),
    }
    assert data.keys() - plain.keys() == names
    for name in names:
        assert data[name] == (ROOT / "docker" / "scripts" / name).read_text(encoding="utf-8")
