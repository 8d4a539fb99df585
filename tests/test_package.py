"""A wheel, installed clean, renders the same bytes as the checkout."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest
from conftest import ROOT, rendered


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `ernie-deploy` of a fresh environment that has the wheel and this one's dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT],
        check=True,
        timeout=300,
    )
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    wheel = next(folder.glob("*.whl"))
    site = next((folder / "venv/lib").glob("python*/site-packages"))
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", site, wheel], check=True, timeout=300)
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "dependencies.pth").write_text(ours + "\n")
    return python


def test_the_wheel_renders_the_same_bytes(installed: Path, tmp_path: Path) -> None:
    for words, expected in ([("mi300x",), rendered("mi300x")], [("cpu",), rendered("cpu")]):
        done = subprocess.run(
            [installed, "-m", "ernie_deploy", "render", *words], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.stdout == expected, done.stderr


def test_the_wheel_carries_the_whole_committed_set(installed: Path) -> None:
    words = [installed, "-m", "ernie_deploy", "render", "--all", "--out-dir", ROOT / "compose", "--check"]
    words += ["--env-example", ROOT / ".env.example"]
    done = subprocess.run(words, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


def test_it_is_the_wheel_that_ran(installed: Path) -> None:
    code = "import ernie_deploy.paths as p; print(p.ROOT)"
    done = subprocess.run([installed, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout.strip().endswith("site-packages/ernie_deploy/_shipped")
