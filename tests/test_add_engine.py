"""`.ci/add-engine` makes again what it made of a version, and lists whatever else a person decided of it."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from conftest import FULL, ROOT, missing
from engine.vllm_code import EngineCode, built_version, installer

from ernie_deploy.catalog import Catalog

OLD, NEW = Catalog().ids("engines")[-2:]
ENGINES = Path("ernie_deploy/catalog/engines")
HISTORY = ENGINES / "history.toml"
MADE = [ENGINES / f"{NEW}.flags.toml", Path("docker/engine-cpu/sources") / f"{NEW}.lock", HISTORY]
KEPT = ENGINES / f"{NEW}.toml"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    assert spec
    assert spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


engine_file, flag_history = script("engine_file"), script("flag_history")


def differing_tables(one: str, other: str) -> set[str]:
    old, new = tomllib.loads(one), tomllib.loads(other)
    return {name for name in old | new if old.get(name) != new.get(name)}


def ran(tree: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [tree / ".ci/add-engine", *words], capture_output=True, text=True, timeout=1800,
        env=os.environ | {"PATH": path} | environment,
    )  # fmt: skip


@pytest.fixture
def step() -> object:
    """From the last version but one to the last, with the Python of both."""
    codes = [EngineCode(version) for version in (OLD, NEW)]
    for code in codes:
        if code.lacking:
            missing(f"The code of vLLM {code.version}", code.lacking)
        code.close()
    return engine_file.Step(OLD, NEW, codes[0].tree, codes[1].tree)


@pytest.mark.engine
def test_all_that_a_person_decided_of_the_newest_version_was_listed(step: object) -> None:
    text = (ROOT / ENGINES / f"{OLD}.toml").read_text(encoding="utf-8")
    derived = step.derived(text)  # type: ignore[attr-defined]
    listed = step.decisions(text)  # type: ignore[attr-defined]
    decided = differing_tables(derived, (ROOT / KEPT).read_text(encoding="utf-8"))
    assert decided
    assert decided <= listed.keys() | {"cpu_build"}
    assert f'"{NEW}"' in derived
    assert f"v{OLD}" not in derived


@pytest.mark.engine
def test_the_history_of_flags_gets_the_newest_version_back(step: object) -> None:
    text = (ROOT / HISTORY).read_text(encoding="utf-8")
    shorter = flag_history.history_of(flag_history.without(text, NEW))
    assert NEW not in shorter
    assert flag_history.with_release(shorter, NEW, step.new_tree) == text  # type: ignore[attr-defined]
    assert flag_history.with_release(text, NEW, step.new_tree) == text  # type: ignore[attr-defined]


def test_a_source_that_is_gone_keeps_its_version_and_is_listed(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder in (old / "vllm", new / "vllm"):
        folder.mkdir(parents=True)
        (folder / "same.py").write_text("same")
        (folder / "moved.py").write_text(folder.parent.name)
    (old / "vllm/gone.py").write_text("old")
    text = (
        'version = "1.0.0"\n\n# Of 1.0.0.\n\n[[proofs]]\nstep = "served"\n\n[images.cpu]\nreference = "v:v1.0.0"\n'
        '\n[[caches]]\nsource = "vLLM 1.0.0 vllm/gone.py"\n\n[api_key]\nsource = "vLLM 1.0.0 vllm/same.py; vllm/moved.py"\n'
        '\n[[request_limits]]\nsource = "measured with vLLM 1.0.0"\n'
    )
    step = engine_file.Step("1.0.0", "1.1.0", old, new)
    assert step.derived(text) == (
        'version = "1.1.0"\n\n# Nothing is proven of it yet.\nproofs = []\n\n[images.cpu]\nreference = "v:v1.1.0"\n'
        '\n[[caches]]\nsource = "vLLM 1.0.0 vllm/gone.py"\n\n[api_key]\nsource = "vLLM 1.1.0 vllm/same.py; vllm/moved.py"\n'
        '\n[[request_limits]]\nsource = "measured with vLLM 1.0.0"\n'
    )
    listed = step.decisions(text)
    assert listed["api_key"] == ["vllm/moved.py is another one: read it again"]
    assert listed["caches"] == [
        "vllm/gone.py is gone: find where it is now, or leave out what it was the source of"
    ]
    assert "request_limits" not in listed


def test_a_version_that_is_there_is_made_again_by_force_alone() -> None:
    done = ran(ROOT, NEW)
    assert done.returncode == 1
    assert f"the catalog has vLLM {NEW} already" in done.stderr
    assert "--force" in done.stderr


def test_what_is_no_release_is_refused() -> None:
    done = ran(ROOT, "newest")
    assert done.returncode == 2
    assert "'newest' is not a release such as 1.2.3" in done.stderr


@pytest.mark.engine
def test_without_a_network_nothing_is_written() -> None:
    if not built_version():
        missing("vLLM for CPU", "docker/engine-cpu/install_engine.py installs it")
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1", "PIP_NO_CACHE_DIR": "1"}
    done = ran(ROOT, "99.0.0", **nowhere, PIP_CONFIG_FILE=os.devnull, PIP_FIND_LINKS="")
    assert done.returncode == 1
    assert "pip does not reach its package index. Try again with a network." in done.stderr
    assert not (ROOT / ENGINES / "99.0.0.toml").exists()


def test_a_version_that_the_index_lacks_is_named() -> None:
    complaint = "ERROR: No matching distribution found for vllm==99.0.0"
    text = installer().failure(("download", "vllm==99.0.0"), complaint)
    assert "the package index has no vllm==99.0.0" in text
    assert "pip index versions vllm" in text


def test_what_is_kept_of_an_sdist_is_its_python_and_what_the_catalog_cites() -> None:
    kept = installer().is_kept
    assert kept("vllm-1.0.0/vllm/envs.py")
    assert kept("vllm-1.0.0/vllm.egg-info/PKG-INFO")
    assert not kept("vllm-1.0.0")
    assert not kept("vllm-1.0.0/csrc/cache.cu")


@pytest.mark.engine
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FULL, reason="it asks the package index: .ci/run --full")
def test_the_newest_version_is_removed_and_added_again_to_the_same_bytes(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, names.stdout.split("\0")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    before = {path: (tree / path).read_bytes() for path in (*MADE, KEPT)}
    for path in before:
        (tree / path).unlink()
    shorter = flag_history.history_of(flag_history.without(before[HISTORY].decode(), NEW))
    (tree / HISTORY).write_text(shorter, encoding="utf-8")
    done = ran(tree, NEW)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert {path: (tree / path).read_bytes() for path in MADE} == {path: before[path] for path in MADE}
    listed = {line.split(":")[0].strip() for line in done.stdout.splitlines() if line.startswith("  ")}
    assert differing_tables((tree / KEPT).read_text(), before[KEPT].decode()) <= listed
    (tree / KEPT).write_bytes(before[KEPT])
    assert ran(tree, NEW, "--force", "--no-matrix").returncode == 0
    assert {path: (tree / path).read_bytes() for path in before} == before
