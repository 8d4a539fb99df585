"""A journal survives what a GPU host does to it: a kill, a full line missing, two runs at once."""

import json
from pathlib import Path

import msgspec
import pytest

from ernie_deploy.bench.journal import store
from ernie_deploy.bench.journal.record import Attempt, Cell, Environment, Start
from ernie_deploy.errors import UsageError

CELL = Cell(shape="balanced", input_len=1000, output_len=1000, num_prompts=16)
HOME = Environment(id="e", taken_unix_s=1.5, hf_id="baidu/x", argv=("a", "--b=ü"))
START = Start(run="r", identity="i", attempt=1, cell=CELL, seed=7, environment="e", start_unix_s=2.0)


def ended(status: str = "valid", run: str = "r", attempt: int = 1) -> Attempt:
    return Attempt(run=run, identity="i", attempt=attempt, status=status, cell=CELL, seed=7, environment="e",  # type: ignore[arg-type]
                   start_unix_s=2.0, end_unix_s=3.0, result={"completed": 16, "ttfts": [0.1]})  # fmt: skip


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / store.NAME
    with store.writing(path) as writer:
        for line in (HOME, START, ended()):
            writer.write(line)
    assert store.read(path).lines == (HOME, START, ended())
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == [
        "environment",
        "start",
        "attempt",
    ]
    assert {json.loads(line)["schema"] for line in path.read_text().splitlines()} == {"ernie-bench/1"}


def test_a_line_that_the_power_cut_costs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / store.NAME
    with store.writing(path) as writer:
        writer.write(HOME)
        writer.write(START)
    path.write_bytes(path.read_bytes()[:-20])
    with store.writing(path) as writer:
        writer.write(ended())
    found = store.read(path)
    assert found.lines == (HOME, ended())
    assert found.torn == 1


def test_an_attempt_without_an_end_was_cut(tmp_path: Path) -> None:
    path = tmp_path / store.NAME
    with store.writing(path) as writer:
        writer.write(START)
        assert store.read(path).cut == [START]
        writer.write(ended())
    assert store.read(path).cut == []


def test_two_runs_cannot_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / store.NAME
    with (
        store.writing(path),
        pytest.raises(UsageError, match="is being written by another run"),
        store.writing(path),
    ):
        pass


def test_a_whole_line_that_cannot_be_read_costs_nothing_but_itself(tmp_path: Path) -> None:
    path = tmp_path / store.NAME
    with store.writing(path) as writer:
        writer.write(START)
    path.write_bytes(path.read_bytes() + b'{"kind": "attempt", "schema": "ernie-bench/1"}\n')
    assert (store.read(path).lines, store.read(path).torn) == ((START,), 1)


@pytest.mark.parametrize("text", ['{"kind": "verdict", "schema": "ernie-bench/9"}', None])
def test_another_schema_is_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / store.NAME
    whole = msgspec.json.encode(msgspec.structs.replace(ended(), schema="ernie-bench/9")).decode()
    path.write_text(f"{text or whole}\n")
    with pytest.raises(UsageError, match="not of schema ernie-bench/1"):
        store.read(path)


def test_no_journal_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no journal at"):
        store.read(tmp_path / "none")


def test_the_newest_valid_attempt_counts(tmp_path: Path) -> None:
    path = tmp_path / store.NAME
    with store.writing(path) as writer:
        for line in (ended("valid", "a"), ended("valid", "b"), ended("invalid", "c"), ended("suspect", "d")):
            writer.write(line)
    assert store.read(path).best()["i"].run == "b"
