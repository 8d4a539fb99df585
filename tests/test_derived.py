"""What is kept of templates and the catalog: never stale, never needed, and only beside the kit's own files."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from jinja2 import Environment, FileSystemLoader

from ernie_deploy.catalog.schema import Fact
from ernie_deploy.errors import CatalogError
from ernie_deploy.render import bytecode
from ernie_deploy.safe_io.derived import keep, kept

loading = importlib.import_module("ernie_deploy.catalog.load")


class Named(Fact, frozen=True):
    """The smallest table."""

    id: str


@pytest.fixture(autouse=True)
def bytecode_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(loading, "CATALOG", tmp_path)
    path = tmp_path / "a.toml"
    path.write_text('id = "one"')
    return path


def forbid_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomllib.loads", lambda text: pytest.fail("parsed again"))


def test_a_table_is_parsed_once(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loading.load(table, Named).id == "one"
    forbid_parsing(monkeypatch)
    assert loading.load(table, Named).id == "one"


def test_a_changed_table_is_parsed_anew_whatever_its_time(table: Path) -> None:
    loading.load(table, Named)
    before = table.stat()
    table.write_text('id = "two"')
    os.utime(table, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert loading.load(table, Named).id == "two"


@pytest.mark.parametrize("size", [0, 5, 8, 9, 12])
def test_a_damaged_copy_is_passed_over(table: Path, size: int) -> None:
    loading.load(table, Named)
    data = kept(table, "toml")
    assert data
    keep(table, "toml", data[:size])
    assert loading.load(table, Named).id == "one"


def test_a_fault_in_the_table_is_kept_by_nobody(table: Path) -> None:
    table.write_text("id = ")
    for _ in range(2):
        with pytest.raises(CatalogError, match=r"a\.toml"):
            loading.load(table, Named)
    assert kept(table, "toml") is None


def test_nothing_is_kept_of_files_of_others(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "CATALOG", table.parent / "elsewhere")
    assert loading.load(table, Named).id == "one"
    assert list(table.parent.iterdir()) == [table]


def test_python_decides_whether_anything_is_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert loading.load(table, Named).id == "one"
    assert list(table.parent.iterdir()) == [table]


def test_a_folder_that_takes_nothing_is_no_error(table: Path) -> None:
    (table.parent / "__pycache__").write_text("in the way")
    assert loading.load(table, Named).id == "one"
    assert (table.parent / "__pycache__").read_text() == "in the way"


def template_of(folder: Path) -> str:
    made = Environment(
        loader=FileSystemLoader(folder), bytecode_cache=bytecode.Bytecode("jinja"), autoescape=True
    )
    return made.get_template("a.j2").render()


def test_a_template_is_compiled_once_and_anew_when_it_or_jinja_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "TEMPLATES", tmp_path)
    (tmp_path / "a.j2").write_text("one")
    assert template_of(tmp_path) == "one"
    with monkeypatch.context() as patch:
        patch.setattr(Environment, "compile", lambda *_, **__: pytest.fail("compiled again"))
        assert template_of(tmp_path) == "one"
    (tmp_path / "a.j2").write_text("two")
    assert template_of(tmp_path) == "two"
    data = kept(tmp_path / "a.j2", "jinja")
    assert data
    keep(tmp_path / "a.j2", "jinja", b"another " + data[8:])
    compiled = []
    compile_ = Environment.compile
    monkeypatch.setattr(
        Environment, "compile", lambda *words, **more: compiled.append(1) or compile_(*words, **more)
    )
    assert template_of(tmp_path) == "two"
    assert compiled == [1]


def test_a_rendering_is_the_same_from_what_is_kept(tmp_path: Path) -> None:
    texts = [
        subprocess.run(
            [sys.executable, "-m", "ernie_deploy", "render", "mi300x", "--model", "vl-28b"],
            capture_output=True, check=True, cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(tmp_path)},
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert texts[0] == texts[1]
    assert {path.name for path in tmp_path.rglob("*.opt-*")} >= {
        f"compose.yml.{sys.implementation.cache_tag}.opt-jinja.pyc",
        f"mi300x.{sys.implementation.cache_tag}.opt-toml.pyc",
    }
