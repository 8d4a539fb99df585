"""The command that `fetch` runs on the small files of a model: no weight is asked for before it agrees."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fake_hub import FakeHub
from test_weights import (
    ARGUMENTS,
    LFS,
    MODEL,
    Stack,
    downloaded,
    fill,
    flip,
    hub,
    local,
    offline,
    stack,
)

__all__ = ["downloaded", "hub", "local", "offline", "stack"]

# Leaves a mark in the hub's log, and what it was given and saw in the record.
LOOK = """
import contextlib, json, os, sys, urllib.request
*words, folder, record = sys.argv[1:]
with contextlib.suppress(OSError):
    urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/looked", timeout=5)
with open(record, "a") as file:
    print(json.dumps([words, folder, sorted(os.listdir(folder))]), file=file)
print("looked at", os.path.basename(folder))
"""
PYTHON = (sys.executable, "-I", "-c")
# Among them words that `fetch` has too: they are the command's.
WORDS = ("--path", "/packages", "--model", "--m", "--", "--weights")
REFUSE = """
import sys
print("judge: missing.py:1 imports decord", file=sys.stderr)
sys.exit(50)
"""
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def remote_code(hub: FakeHub) -> FakeHub:
    """The hub, whose model brings a small Python file and one that is large enough for LFS."""
    (hub.folder / MODEL / "processing.py").write_text("import decord\n")
    (hub.folder / MODEL / "modeling.py").write_text("# filler\n" * 200)
    return hub


def record(stack: Stack) -> list[list[object]]:
    """What LOOK noted at each of its runs."""
    lines = stack.stamp.with_suffix(".code.json").read_text().splitlines()
    return [json.loads(line) for line in lines]


def files(hub: FakeHub) -> list[str]:
    """The files that were asked for, and LOOK's mark, in the order of the hub's log."""
    return [line.rpartition("/")[2] for line in hub.log if "/resolve/" in line or "looked" in line]


def test_every_small_file_comes_before_the_command_and_every_weight_after(
    stack: Stack, remote_code: FakeHub
) -> None:
    done = stack.fetch("--before", *PYTHON, LOOK, *WORDS)
    assert (done.code, done.err) == (0, "")
    order = files(remote_code)
    small = {"config.json", "tokenizer.json", "processing.py", "modeling.py"}
    assert set(order[: order.index("looked")]) == small
    assert set(order[order.index("looked") + 1 :]) == {LFS}
    [(words, folder, listing)] = record(stack)
    assert words == list(WORDS)
    assert Path(str(folder)).resolve() == stack.file().parent.resolve()
    assert set(listing) == small  # type: ignore[call-overload]
    assert done.out.splitlines()[1].startswith("looked at ")


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (REFUSE, 50, "judge: missing.py:1 imports decord\n"),
        (KILLED, 137, f"fetch: {sys.executable} was ended by signal 9 before the weights\n"),
    ],
)
def test_its_refusal_is_the_end_before_any_weight(
    stack: Stack, remote_code: FakeHub, command: str, code: int, words: str
) -> None:
    done = stack.fetch("--before", *PYTHON, command)
    assert (done.code, done.err) == (code, words)
    assert "processing.py" in files(remote_code)
    assert LFS not in files(remote_code)
    assert not stack.stamp.exists()
    assert stack.fetch("--before", *PYTHON, LOOK).code == 0


def test_a_good_stamp_still_runs_it_and_without_the_hub(offline: Stack) -> None:
    done = offline.fetch("--before", *PYTHON, LOOK)
    assert (done.code, done.err) == (0, "")
    assert [listing for _, _, listing in record(offline)] == [["config.json", LFS, "tokenizer.json"]]
    assert offline.fetch("--before", *PYTHON, REFUSE).code == 50


def test_a_complete_snapshot_without_the_hub_is_looked_at_before_it_is_stamped(offline: Stack) -> None:
    offline.stamp.unlink()
    assert offline.fetch("--before", *PYTHON, REFUSE).code == 50
    assert not offline.stamp.exists()
    assert offline.fetch("--before", *PYTHON, LOOK).code == 0
    assert len(record(offline)) == 1


def test_a_damaged_weight_is_mended_after_another_look(stack: Stack, remote_code: FakeHub) -> None:
    stack.fetch("--before", *PYTHON, LOOK)
    flip(stack.file())
    remote_code.log.clear()
    assert stack.fetch("--before", *PYTHON, LOOK).code == 0
    assert set(files(remote_code)) == {"looked", LFS}
    assert len(record(stack)) == 2


def test_code_that_changes_under_way_is_not_served_before_a_look(
    stack: Stack, remote_code: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = fill(remote_code.folder / f"{MODEL}@later")
    (later / "processing.py").write_text("import others\n")
    plain = FakeHub.revision

    def moved(self: FakeHub, repo: str, name: str) -> Path | None:
        looked = any("looked" in line for line in self.log)
        return plain(self, repo, "later" if looked and name == "main" else name)

    monkeypatch.setattr(FakeHub, "revision", moved)
    assert stack.fetch("--before", *PYTHON, LOOK).code == 0
    # What was looked at is what is served: the commit that the hub named first.
    [(_, folder, _)] = record(stack)
    assert Path(str(folder)).resolve() == stack.file().parent.resolve()
    assert stack.file("processing.py").read_text() == "import decord\n"


def test_a_folder_of_the_users_is_looked_at_before_its_stamp(local: tuple[Stack, Path]) -> None:
    stack, folder = local
    refused = stack.fetch(*ARGUMENTS, str(folder), "--before", *PYTHON, REFUSE)
    assert (refused.code, refused.out) == (50, "")
    assert not (stack.state / "weights.json").exists()
    assert stack.fetch(*ARGUMENTS, str(folder), "--before", *PYTHON, LOOK).code == 0
    words, given, listing = json.loads((stack.state / "weights.code.json").read_text())
    assert (words, given) == ([], str(folder))
    assert LFS in listing


JUDGE = (sys.executable, "-I", str(ROOT / "docker" / "scripts" / "judge.py"))


def test_remote_code_that_cannot_run_ends_before_any_weight(stack: Stack, remote_code: FakeHub) -> None:
    model = remote_code.folder / MODEL
    (model / "config.json").write_text(
        json.dumps({"architectures": ["A"], "auto_map": {"AutoProcessor": "processing.P"}})
    )
    (model / "processing.py").write_text("import no_such_module_here\n")
    done = stack.fetch("--before", *JUDGE)
    assert done.code == 50
    assert done.err.startswith(
        "judge: processing.py:1 imports no_such_module_here (package no_such_module_here)"
    )
    assert LFS not in files(remote_code)

    (stack.folder / "packages" / "no_such_module_here").mkdir(parents=True)
    brought = ("--path", str(stack.folder / "packages"))
    done = stack.fetch("--before", *JUDGE, *brought)
    assert (done.code, done.err) == (0, "")
    assert files(remote_code)[-1] == LFS
    approved = json.loads(stack.stamp.with_suffix(".code.json").read_text())["files"]
    assert approved["processing.py"]["loaded"] is True
    assert stack.fetch("--before", *JUDGE, *brought).out.splitlines()[1:] == [
        f"judge: modeling.py {approved['modeling.py']['sha256'][:12]} (not loaded): nothing to note",
        f"judge: processing.py {approved['processing.py']['sha256'][:12]} (loaded): nothing to note",
    ]
