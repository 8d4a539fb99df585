"""Which vLLM is served is data: no code, template or script names a version that the catalog has an engine of.

Three places may: a comment or docstring and a rule's `source=`, which cite what was read, and docker's locks.
"""

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from ernie_deploy.catalog import Catalog

FOLDERS = ("ernie_deploy", "docker", "templates", ".ci", "benchmarks")
# Facts and locks are data; the last is what a run printed.
DATA = (".toml", ".lock", "full.txt")
ENGINES = Catalog().ids("engines")
# `0.32.0`, `0.32` and `0.32's`, and not `10.32.0` or `0.32.0.1`.
NAMED = re.compile(
    rf"(?<![\d.])(?:{'|'.join(v.rpartition('.')[0].replace('.', '[.]') for v in ENGINES)})(?!\d)"
)
BODIES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def files() -> list[Path]:
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FOLDERS]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if not name.endswith(DATA) and (ROOT / name).is_file()]


def strings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that the code can say, but for docstrings and `source=`."""
    citing: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "source":
            citing |= set(ast.walk(node.value))
        if isinstance(node, BODIES) and node.body and isinstance(node.body[0], ast.Expr):
            citing.add(node.body[0].value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in citing:
            yield node.lineno, node.value


def words_of(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of what a file says to a program or a user."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py" or text.startswith("#!/usr/bin/env python"):
        yield from strings(ast.parse(text))
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith(("#", "{#")):
            yield number, line


def named(path: Path) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {text[:80]}" for line, text in words_of(path) if NAMED.search(text)
    ]


def test_no_code_names_a_version() -> None:
    paths = files()
    assert {path.relative_to(ROOT).parts[0] for path in paths} == set(FOLDERS)
    assert [found for path in paths for found in named(path)] == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('IMAGE = "vllm:v0.32.0"\n', True), ('X = f"{a} on 0.33\'s runner"\n', True),
        ('"""vLLM 0.32.0 does so."""\n# vLLM 0.32.0 too\n', False), ('rule(source="vLLM 0.32.0 vllm/envs.py")\n', False),
        ('X = "10.32.0 and 0.320.1"\n', False),
    ],
)  # fmt: skip
def test_what_counts_as_naming_one(text: str, names: bool) -> None:
    found = [word for _, word in strings(ast.parse(text)) if NAMED.search(word)]
    assert bool(found) == names


def test_what_is_installed_for_tests_and_rehearsals_is_the_default_engine() -> None:
    default = Catalog().engine()
    assert default.cpu_build
    lock = (ROOT / "docker/engine-cpu/engine.lock").read_text()
    assert f"\n{default.cpu_build.package}=={default.version} " in lock
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["engine"] == [f"vllm=={default.version}"]
