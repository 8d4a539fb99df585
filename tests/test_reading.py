"""What the kit reads: regular files of a bounded size, whatever lies under a name, and what is in it."""

import ast
import os
from pathlib import Path

import pytest
from conftest import ROOT, kit

from ernie_deploy.bench.journal.cells import Choice, cells_of
from ernie_deploy.bench.measure.attempt import _result
from ernie_deploy.bench.report.wording import moment
from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import UsageError
from ernie_deploy.render.kubernetes import quantity
from ernie_deploy.safe_io import reading

# Whatever these read lies in the package, or was just made there.
OWN_FILES = {
    "catalog/load.py", "render/yaml.py", "safe_io/derived.py", "render/scripts.py", "plan/words.py", "safe_io/reading.py", "paths.py",
    "cli.py", "rehearsal/override.py", "rehearsal/leaks.py", "rehearsal/gateway_changes.py",
}  # fmt: skip
# These bound what they read themselves.
BOUNDED = {"bench/measure/watch.py", "safe_io/http_client.py"}
# These open what they only write, or a folder to sync it.
WRITERS = {
    "safe_io/terminal.py",
    "upgrade/transaction.py",
    "stack/support_bundle.py",
    "bundle/store.py",
    "bundle/weights.py",
    "gateway/key_file.py",
    "gateway/tls_files.py",
}
READS = ("read_text", "read_bytes", "readline", "open")


def test_nothing_else_reads_without_a_bound() -> None:
    package = ROOT / "ernie_deploy"
    places = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READS
    }
    assert places == OWN_FILES | BOUNDED | WRITERS


@pytest.mark.parametrize(
    "words",
    [
        ("doctor", "h100", "--env-file", "pipe"), ("bench", "report", "pipe"), ("bench", "report", "/dev/zero"),
        ("bench", "compare", "pipe", "pipe"), ("bench", "baseline", "accept", "pipe", "-o", "b"), ("bench", "plan", "-f", "large.yml"),
        ("bench", "plan", "--target", "h100", "--dataset", "custom", "--dataset-path", "pipe"),
    ],
)  # fmt: skip
def test_a_pipe_is_not_waited_for_and_a_device_not_read(words: tuple[str, ...], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large.yml").open("wb") as file:
        file.write(b"# ernie-deploy render h100 ")
        file.truncate(1 << 34)
    done = kit(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)
    assert "Traceback" not in done.stderr
    if "plan" not in words or "pipe" in words:
        assert done.returncode == 2, done.stderr


def test_a_file_is_read_to_its_bound_and_no_further(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"ab\ncd")
    assert (reading.read_bounded(file, 5), reading.first_line(file)) == (b"ab\ncd", "ab")
    assert reading.read_bounded(Path("/dev/null")) == b""
    with pytest.raises(OSError, match="larger than"):
        reading.read_bounded(file, 4)
    with pytest.raises(OSError, match="a folder"):
        reading.read_bounded(tmp_path)


def test_a_dataset_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        cells_of(Choice(dataset="custom", dataset_path=tmp_path), Catalog().matrix)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "7", "null", "{", '"x"'])
def test_a_clients_result_that_is_none_is_empty(text: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(text)
    assert _result(tmp_path / "result.json") == {}


@pytest.mark.parametrize("unix_s", [1e308, 1e18, -1e18, float("nan"), float("inf")])
def test_a_time_that_no_calendar_has_is_a_dash(unix_s: float) -> None:
    assert moment(unix_s) == "\N{EN DASH}"


def test_other_digits_are_no_size() -> None:
    with pytest.raises(UsageError, match="is no size"):
        quantity("\N{ARABIC-INDIC DIGIT ONE}g")


@pytest.mark.parametrize("private", ["stack", "here"])
def test_paths_of_an_env_file_are_the_stacks(private: str, tmp_path: Path) -> None:
    """A private ./token of the current folder vouched for an open one beside the stack."""
    stack, here = tmp_path / "stack", tmp_path / "here"
    for folder in (stack, here):
        folder.mkdir()
        (folder / "token").write_text("hf_x")
        (folder / "token").chmod(0o600 if folder.name == private else 0o644)
    (stack / ".env").write_text("HF_TOKEN_FILE=./token\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = kit("doctor", "h100", "--env-file", "../stack/.env", cwd=here, env=env)
    assert ("is private" in done.stdout, "can read ../stack/token" in done.stdout) == (
        private == "stack", private != "stack",
    ), done.stdout  # fmt: skip
