"""docs/architecture.md follows the code: each answer is there, and is where such a thing is."""

import re
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
ROWS = dict(re.findall(r"^\| (an? [^|]+) \| (.+) \|$", PAGE, re.MULTILINE))


def linked(row: str) -> list[Path]:
    """The files and folders that a row names."""
    return [(ROOT / "docs" / place).resolve() for place in re.findall(r"\]\(([^)]+)\)", ROWS[row])]


def test_the_page_fits_one_screen_and_answers_seven_questions() -> None:
    assert len(PAGE.splitlines()) <= 45
    assert len(ROWS) == 7


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_names_is_there(row: str) -> None:
    assert linked(row)
    assert all(path.exists() for path in linked(row)), row


@pytest.mark.parametrize(
    ("row", "suffix", "content"),
    [
        ("a GPU target of a known vendor", ".toml", "bandwidth_gb_per_s"),
        ("a model", ".toml", "hf_id"),
        ("a vLLM version", ".toml", "[images.nvidia]"),
        ("an output format", ".py", "def manifests"),
        ("a check rule", ".py", "@rule("),
        ("a validity check", ".py", "Check"),
        ("a known failure", ".toml", "[[failure]]"),
    ],
)
def test_such_a_thing_is_there(row: str, suffix: str, content: str) -> None:
    place = linked(row)[0]
    files = [place] if place.is_file() else sorted(place.glob(f"*{suffix}"))
    assert any(content in file.read_text() for file in files), row


def test_the_picture_is_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = next(contract for contract in contracts if contract["name"] == "One way through the rooms")[
        "layers"
    ]
    drawn = re.search(r"```\n(.+?)```", PAGE, re.DOTALL)
    assert drawn
    for line, layer in zip(drawn[1].splitlines(), [*rooms[:-3], " ".join(rooms[-3:])], strict=True):
        assert {room.strip() for room in re.split(r"[| ]+", layer)} <= set(re.findall(r"\w+", line)), (
            line,
            layer,
        )
