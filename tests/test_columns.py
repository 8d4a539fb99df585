"""Tables fold by dropping columns: no line is longer than the terminal, and no number is cut."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.journals import journal_of, measured, repeated
from conftest import ROOT, kit

from ernie_deploy.bench.compare.comparison import Tolerance, compare
from ernie_deploy.bench.journal.record import Journal
from ernie_deploy.bench.report import text
from ernie_deploy.bench.report.view import view
from ernie_deploy.safe_io.columns import Column, folded, table

WIDTHS = (60, 80)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
PLANS = [("mi300x",), ("h100", "--model", "300b", "--nodes", "2"), ("h100", "--model", "vl-28b"), ("cpu",)]


def printed(width: int | None, *words: str, cwd: Path = ROOT) -> list[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **({"COLUMNS": str(width)} if width else {})}
    done = kit(*words, cwd=cwd, env=env)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


def fits(lines: list[str], width: int) -> None:
    """No line is too long, but for a single word that has no space to be broken at."""
    for line in lines:
        assert len(line) <= width or " " not in line.strip(), line


def numbers(lines: list[str]) -> set[str]:
    return {number for line in lines for number in NUMBER.findall(line)}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["models", "targets", "profiles"])
def test_a_list_fits_the_terminal(name: str, width: int) -> None:
    wide, narrow = printed(None, name), printed(width, name)
    fits(narrow, width)
    assert numbers(narrow) <= numbers(wide)
    first = [line.split()[0] for line in wide if not line.startswith(" ")]
    assert [
        line.split()[0] for line in narrow if line[:1] not in (" ", "(") and line.split()[0] in first
    ] == first
    dropped = set(wide[0].split()) - set(narrow[0].split())
    assert all(heading in "".join(narrow[-2:]) for heading in dropped), "what was dropped is named"
    assert "--json has everything" in " ".join(narrow[-2:]) or not dropped


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("words", PLANS, ids=" ".join)
def test_a_plan_fits_the_terminal_and_loses_no_word(words: tuple[str, ...], width: int) -> None:
    wide, narrow = printed(None, "plan", *words), printed(width, "plan", *words)
    fits(narrow, width)
    assert " ".join(wide).split() == " ".join(narrow).split()


@pytest.fixture(scope="module")
def journal() -> Journal:
    cells = [
        measured(shape, n, output_throughput=123_456.78)
        for shape in ("balanced", "prompt-heavy")
        for n in (1, 512)
    ]
    return journal_of(
        *cells, *repeated("output_throughput", 101_234.5, 99_876.5, 100_432.1, shape="decode-heavy")
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_fits_the_terminal(journal: Journal, width: int) -> None:
    shown = view(journal)
    wide, narrow = text.text(shown).splitlines(), text.text(shown, width).splitlines()
    fits(narrow, width)
    assert numbers(narrow) <= numbers(wide)
    assert "123,456.8" in numbers(narrow)
    heading = next(line for line in narrow if line.startswith("cell"))
    assert heading.split()[:2] == ["cell", "status"]
    assert "out tok/s" in heading
    assert any("too narrow for" in line for line in narrow)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_fits_the_terminal(journal: Journal, width: int) -> None:
    found = compare(journal, journal, Tolerance())
    wide, narrow = text.comparison(found).splitlines(), text.comparison(found, width).splitlines()
    fits(narrow, width)
    assert numbers(narrow) <= numbers(wide)
    heading = next(line for line in narrow if line.startswith("cell"))
    assert {"figure", "change", "verdict"} <= set(heading.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_the_commands_of_a_journal_take_the_terminals_width(
    journal: Journal, width: int, tmp_path: Path
) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in journal.lines))
    for words in (["report", str(path)], ["compare", str(path), str(path)]):
        fits(printed(width, "bench", *words), width)
        assert any(len(line) > width for line in printed(None, "bench", *words)), "a pipe gets every column"


@pytest.mark.parametrize("no_colour", ["", "1"])
@pytest.mark.parametrize("words", ["models", "plan mi300x", "doctor cpu", "bench report J"])
def test_no_color_is_honoured_on_a_terminal(
    words: str, no_colour: str, journal: Journal, tmp_path: Path
) -> None:
    """A pseudo-terminal of 60 columns: escapes only without NO_COLOR, and no line longer than it."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in journal.lines))
    inner = f"stty cols 60; {sys.executable} -m ernie_deploy {words.replace('J', str(path))}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": no_colour}
    done = subprocess.run(
        ["script", "--quiet", "--return", "--command", inner, "/dev/null"], capture_output=True, text=True,
        env=env, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert ("\x1b[" in done.stdout) == (not no_colour and not words.startswith("plan")), done.stdout
    if not words.startswith("doctor"):
        fits(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).replace("\r", "").splitlines(), 60)


def test_the_dearest_columns_stay_and_the_others_are_named() -> None:
    columns = [
        Column(heading="name"), Column(heading="cheap", drop=2), Column(heading="dear", drop=1, right=True),
    ]  # fmt: skip
    rows = [["a" * 10, "b" * 10, "1,000"]]
    assert table(columns, rows, None) == ["name        cheap        dear", "aaaaaaaaaa  bbbbbbbbbb  1,000"]
    assert table(columns, rows, 20)[:2] == ["name         dear", "aaaaaaaaaa  1,000"]
    assert " ".join(table(columns, rows, 20)[2:]) == "(too narrow for cheap; --json has everything)"
    assert table(columns, rows, 3)[:2] == ["name", "aaaaaaaaaa"], "what stays is never cut"


def test_a_sentence_is_broken_at_spaces_alone() -> None:
    assert folded("one two-three 1,234.56 x", 9) == ["one", "two-three", "1,234.56", "x"]
