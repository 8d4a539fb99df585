"""Nothing runs in place of what is rendered but what the list of substitutions says."""

import ast
import json
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, planned, rendered

from ernie_deploy.catalog import Catalog
from ernie_deploy.rehearsal.override import decide, override_file

LIST = Catalog().substitutions
REHEARSALS: list[tuple[str, dict[str, Any]]] = [
    ("cpu", {}),
    ("h100", {}),
    ("h100", {"api_key_file": True}),
    ("mi300x", {"profiles": ("mtp",), "user": "1000:1000"}),
    ("h100", {"gateway": True}),
    ("h100", {"gateway": True, "replicas": 2}),
    ("h100", {"gateway": True, "monitoring": True, "node_exporter": True}),
    ("mi300x", {"monitoring": True}),
    ("h100", {"model": "300b"}),
    ("h100", {"model": "300b", "profiles": ("cpu-offload",)}),
    ("h100", {"model": "vl-28b"}),
    ("mi300x", {"model": "vl-28b"}),
    ("h100", {"model": "300b", "nodes": 2, "rdma": True, "api_key_file": True}),
    ("mi300x", {"model": "300b", "nodes": 2, "rdma": True}),
    ("h100", {"model": "300b", "nodes": 2, "multi_node": "ray"}),
]


def resolved(compose: str, folder: Path, *files: str) -> dict[str, Any]:
    """The stack as Compose itself puts it together."""
    named = [word for file in files for word in ("--file", str(folder / file))]
    words = [compose, "--project-name", "p", "--env-file", str(folder / ".env"), *named]
    done = subprocess.run(
        [*words, "--profile", "*", "config", "--format", "json"], capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def differing(before: Any, after: Any, at: str = "") -> set[str]:
    """The paths at which two stacks differ; of a command, its flags."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = before.keys() | after.keys()
        return set().union(*(differing(before.get(n), after.get(n), f"{at}.{n}".lstrip(".")) for n in names))
    if before == after:
        return set()
    if at.endswith(".command") and before and after:
        return {word.partition("=")[0] for word in set(before) ^ set(after)}
    return {at}


def swapped(compose: str, folder: Path, target: str, options: dict[str, Any]) -> set[str]:
    """What a rehearsal of this request runs otherwise than rendered."""
    rehearsal = decide(planned(target, **options), folder, "p")
    (folder / ".env").write_text("NODE_RANK=0\nHOST_IP=10.0.0.4\nHEAD_ADDR=10.0.0.4\nNIC=eth0\n")
    (folder / "compose.yml").write_text(rendered(target, **options))
    (folder / "rehearsal.yml").write_text(override_file(rehearsal))
    before = resolved(compose, folder, "compose.yml")
    return differing(before, resolved(compose, folder, "compose.yml", "rehearsal.yml"))


def test_a_rehearsal_swaps_what_the_list_says_and_each_of_it_somewhere(compose: str, tmp_path: Path) -> None:
    known = {one.what for one in LIST if one.where == "rehearsal"}
    used, lacking = set(), set()
    for number, (target, options) in enumerate(REHEARSALS):
        (folder := tmp_path / str(number)).mkdir()
        for path in swapped(compose, folder, target, options):
            by = {what for what in known if fnmatchcase(path, what)}
            used |= by
            lacking |= set() if by else {path}
    assert lacking == set(), "swapped, and not in ernie_deploy/catalog/substitutions.toml"
    assert used == known


def test_what_a_cpu_runs_as_it_is_stays_the_renderings_own(tmp_path: Path) -> None:
    for options in ({}, {"api_key_file": True}):
        assert "command: !override" not in override_file(decide(planned("h100", **options), tmp_path, "p"))
    changed = decide(planned("mi300x"), tmp_path, "p")
    assert "command: !override" in override_file(changed)
    assert changed.replaced == (
        "--gpu-memory-utilization=0.9 -> left out: on the CPU platform it is a share of this host's RAM",
    )


def test_the_worker_with_the_real_vllm_swaps_by_the_list_alone() -> None:
    """Assignments to what is not the worker's own, and the calls that do it by the list."""
    tree = ast.parse((ROOT / "tests/engine/worker.py").read_text(encoding="utf-8"))
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    assigned = {ast.unparse(t) for t in targets if isinstance(t, ast.Attribute | ast.Subscript)}
    assert assigned == {"self.stage", "models[name]", "found['speculative_method']"}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    by_list = {ast.unparse(k.value) for call in calls for k in call.keywords if k.arg == "what"}
    names = {word.strip("\"'").removeprefix("f").strip("\"'") for word in by_list}
    names = {name.replace("{serve.__name__}", "vllm.entrypoints.cli.serve") for name in names}
    assert names | {"models[*]", "os.environ"} == {one.what for one in LIST if one.where == "engine"}
    assert sum(ast.unparse(call.func) == "setattr" for call in calls) == 1


@pytest.mark.parametrize("one", LIST, ids=lambda one: one.what)
def test_each_says_why_and_what_else_proves_it(one: Any) -> None:
    assert one.why
    assert one.proof
    for word in one.proof.replace(",", " ").replace(";", " ").replace(":", " ").split():
        if word.startswith(("tests/", "catalog/")):
            assert (ROOT / word).exists() or (ROOT / "ernie_deploy" / word.rstrip(")")).exists(), word
