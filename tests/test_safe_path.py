"""No Python that the kit starts on the host imports from the current folder, which may be a stranger's."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.fake_openai import FakeOpenAI
from conftest import ROOT

from ernie_deploy.catalog import Catalog

SMALL = ("--shapes", "8/4", "--num-prompts", "1", "--rate", "inf", "--no-warm-up", "--skip-coherence")
TRUSTED = next(model for model in Catalog().models() if model.trust_remote_code and model.revision == "main")
# What vLLM does too: it starts Pythons of its own, which import by their working directory.
CLIENT = """\
import json, os, subprocess, sys
subprocess.run([sys.executable, "-c", "import csv, zipfile, this_is_planted"], stderr=subprocess.DEVNULL)
with open({seen!r}, "w") as file:
    json.dump({{"argv": sys.argv[1:], "cwd": os.getcwd(), "files": os.listdir(), "env": dict(os.environ)}}, file)
sys.exit(1)
"""


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        yield server


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with a module for every name of the standard library, and one for the repository of a model."""
    folder = tmp_path / "hostile"
    (folder / TRUSTED.hf_id).mkdir(parents=True)
    plant = f"open({str(tmp_path / 'PWNED')!r}, 'a').write(__file__ + chr(10))\n"
    for name in (*sys.stdlib_module_names, "this_is_planted", "sitecustomize", "usercustomize"):
        (folder / f"{name}.py").write_text(plant)
    return folder


def attach(fake: FakeOpenAI, hostile: Path, *words: str) -> dict[str, object]:
    """What vLLM's client was given, as a stand-in on the PATH writes it down."""
    binaries, seen = hostile.parent / "bin", hostile.parent / "seen"
    binaries.mkdir()
    (binaries / "vllm").write_text(f"#!{sys.executable}\n{CLIENT.format(seen=str(seen))}")
    (binaries / "vllm").chmod(0o755)
    env = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ernie_deploy", "bench", "run", "--attach", fake.url, *words, *SMALL],
        cwd=hostile, env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert seen.exists(), done.stderr
    given: dict[str, object] = json.loads(seen.read_text())
    return given


def test_the_client_runs_nothing_of_the_current_folder(fake: FakeOpenAI, hostile: Path) -> None:
    given = attach(fake, hostile, "--tokenizer", "/nonexistent")
    assert not (hostile.parent / "PWNED").exists(), (hostile.parent / "PWNED").read_text()
    assert given["env"]["PYTHONSAFEPATH"] == "1"  # type: ignore[index]


def test_a_folder_named_like_a_repository_is_not_the_repository(fake: FakeOpenAI, hostile: Path) -> None:
    """transformers takes a relative folder first, and this model's code is trusted."""
    given = attach(fake, hostile, "--model", TRUSTED.id)
    words: list[str] = given["argv"]  # type: ignore[assignment]
    assert {f"--tokenizer={TRUSTED.hf_id}", "--trust-remote-code"} <= set(words)
    assert (given["files"], given["cwd"] == str(hostile)) == ([], False)
    assert not Path(str(given["cwd"])).exists()


def test_paths_of_the_user_still_mean_the_current_folder(fake: FakeOpenAI, hostile: Path) -> None:
    (hostile / "mine").mkdir()
    (hostile / "data.jsonl").write_text('{"prompt": "a"}\n')
    custom = ("--dataset", "custom", "--dataset-path", "data.jsonl")
    words: list[str] = attach(fake, hostile, "--tokenizer", "mine", "--results", "r", *custom)["argv"]  # type: ignore[assignment]
    assert {f"--tokenizer={hostile}/mine", f"--dataset-path={hostile}/data.jsonl"} <= set(words)
    assert any(word.startswith(f"--result-dir={hostile}/r/") for word in words)


def test_every_python_of_the_kit_is_isolated() -> None:
    texts = [path.read_text() for path in (ROOT / "ernie_deploy").rglob("*.py")]
    scripts = [word for text in texts for word in re.findall(r"sys\.executable,\s*([^,\]]+)", text)]
    # What builds images imports its neighbour: of a script, Python puts the script's own folder first.
    # The rehearsal runs the kit itself as it was started, PYTHONPATH too, and -P keeps the current folder out.
    assert set(scripts) == {'"-I"', '"-P"', "*build"}
    assert (scripts.count("*build"), scripts.count('"-P"')) == (1, 1)
    lines = [line for text in texts for line in text.splitlines() if '"-c"' in line]
    # A shell's -c, HAProxy's that checks a configuration, and Python's in isolation.
    others = ('"sh", "-c"', '"bash", "-c"', '"haproxy", "-c"', '"-I", "-c"', '"-IS", "-c"')
    assert [line for line in lines if not any(other in line for other in others)] == []
