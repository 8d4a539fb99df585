"""`bench plan` knows a stack from its file's first line, counts minutes, and refuses what cannot be."""

import json
from pathlib import Path

from conftest import ROOT, kit


def plan(*words: str) -> str:
    done = kit("bench", "plan", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_recipes_matrix_on_an_h100_takes_an_hour() -> None:
    lines = plan("-f", "compose/21b-h100.yml").splitlines()
    assert len(lines) == 22
    assert lines[1] == "prompt-heavy n=16                  0.5 min"
    assert lines[6].startswith(
        "prompt-heavy n=512                 5.7 min  up to 4,608,000 tokens for a KV cache of "
    )
    # bench.md, from a simulation of its own: 62 minutes.
    assert lines[-1].endswith("min of load (estimated)")
    assert 50 <= int(lines[-1].split("about ")[1].split()[0]) <= 75


def test_what_does_not_fit_the_context_is_refused_by_name() -> None:
    rows = json.loads(
        plan("-f", "compose/0.3b-cpu.yml", "--shapes", "30000/5000,800/200", "--num-prompts", "4", "--json")
    )
    assert [row["refused"] for row in rows] == [
        "30,000 input and 5,000 output tokens are 35,000, more than max_model_len 32,768", ""]  # fmt: skip
    text = plan("-f", "compose/0.3b-cpu.yml", "--shapes", "30000/5000,800/200", "--num-prompts", "4")
    assert "refused: 30,000 input" in text
    assert text.splitlines()[-1] == "1 of 2 cells"


def test_images_need_eyes() -> None:
    assert "refused: 21b sees no images" in plan("--target", "h100", "--dataset", "random-mm")
    assert "refused" not in plan("--target", "h100", "--model", "vl-28b", "--dataset", "random-mm")


def test_a_stack_of_somebody_elses_has_no_estimate(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    file.write_text("services: {}\n")
    assert "no estimate: neither file nor --target says what serves" in plan("-f", str(file))


def test_every_committed_stack_is_known_by_its_first_line() -> None:
    for file in (
        sorted((ROOT / "compose").glob("*-mtp*.yml"))[:3] + sorted((ROOT / "compose").glob("vl-*.yml"))[:3]
    ):
        assert "cells" in plan("-f", str(file), "--shapes", "balanced", "--num-prompts", "1"), file


def test_a_file_that_is_not_there_is_a_sentence() -> None:
    done = kit("bench", "plan", "-f", "none.yml")
    assert done.returncode == 2
    assert "There is no none.yml here." in done.stderr


def test_a_search_of_what_cannot_be_is_refused() -> None:
    done = kit("bench", "search", "-f", "compose/0.3b-cpu.yml", "--shape", "30000/5000", "--slo", "tpot:50")
    assert done.returncode == 4, done.stderr
    assert "more than max_model_len 32,768" in done.stderr


def test_a_matrix_of_which_nothing_fits_is_refused() -> None:
    done = kit("bench", "run", "-f", "compose/0.3b-cpu.yml", "--shapes", "30000/5000")
    assert done.returncode == 4
    assert "No cell of this matrix can run on this stack." in done.stderr
