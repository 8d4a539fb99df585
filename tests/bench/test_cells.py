"""Which cells a choice makes, when two are the same, and that no two attempts share a seed."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from ernie_deploy.bench.journal.cells import Choice, cells_of, changes, identity, lengths_of, seed_of
from ernie_deploy.bench.journal.record import Cell, Environment
from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import UsageError

MATRIX = Catalog().matrix
CELL = Cell(shape="balanced", input_len=1000, output_len=1000, num_prompts=16)
HOME = Environment(id="a", taken_unix_s=0, hf_id="baidu/ERNIE-4.5-21B-A3B-PT", vllm_version="0.32.0")


def test_the_recipes_matrix_is_21_cells_at_rate_10() -> None:
    cells = cells_of(Choice(), MATRIX)
    assert [cell.name for cell in cells[:8]] == [
        "prompt-heavy n=1", "prompt-heavy n=16", "prompt-heavy n=32", "prompt-heavy n=64",
        "prompt-heavy n=128", "prompt-heavy n=256", "prompt-heavy n=512", "decode-heavy n=1",
    ]  # fmt: skip
    assert len(cells) == 21
    assert {(cell.input_len, cell.output_len) for cell in cells} == {(8000, 1000), (1000, 8000), (1000, 1000)}
    assert sum(cell.num_prompts for cell in cells) == 3027


def test_repeats_come_after_the_whole_matrix() -> None:
    cells = cells_of(Choice(shapes=("80/10",), num_prompts=(1, 2), repeat=2), MATRIX)
    assert [cell.name for cell in cells] == ["80/10 n=1", "80/10 n=2", "80/10 n=1 #2", "80/10 n=2 #2"]


def test_a_file_of_texts_is_one_shape(tmp_path: Path) -> None:
    file = tmp_path / "d.json"
    file.write_text("[]")
    cells = cells_of(Choice(dataset="sharegpt", dataset_path=file, num_prompts=(1, 16)), MATRIX)
    assert [cell.name for cell in cells] == ["sharegpt n=1", "sharegpt n=16"]


def test_presets() -> None:
    published = cells_of(Choice(preset="published", request_rate=3.0), MATRIX)[0]
    assert (published.cold, published.request_rate) == ("restart", 10.0)
    on_amd = cells_of(Choice(preset="published", recipe_rate=10000.0), MATRIX)[0]
    assert on_amd.request_rate == 10000.0
    assert cells_of(Choice(preset="amd"), MATRIX)[0].request_rate == 10000.0


@pytest.mark.parametrize("word", ["", "fast", "0/10", "10/0", "10", "-1/5", "1e3/4", "8000/1000/2"])
def test_what_is_no_shape(word: str) -> None:
    with pytest.raises(UsageError, match="is no shape"):
        lengths_of(word, MATRIX)


def test_lengths_of_a_known_shape_get_its_name() -> None:
    assert lengths_of("8000/1000", MATRIX) == ("prompt-heavy", 8000, 1000)
    assert lengths_of("80/10", MATRIX) == ("80/10", 80, 10)


def test_another_dataset_file_is_another_cell(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_text("a")
    first = cells_of(Choice(dataset="custom", dataset_path=file, num_prompts=(1,)), MATRIX)[0]
    file.write_text("b")
    second = cells_of(Choice(dataset="custom", dataset_path=file, num_prompts=(1,)), MATRIX)[0]
    assert identity(first, HOME) != identity(second, HOME)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hf_id", "x"), ("revision", "r"), ("vllm_version", "0.33.0"), ("image_digest", "sha256:0"), ("argv", ("a",)),
     ("variables", {"VLLM_A": "1"}), ("gpus", ("H100",)), ("gpu_count", 8), ("client_version", "1"),
     ("tensor_parallel_size", 4), ("driver", "1"), ("rehearsal", True)],
)  # fmt: skip
def test_what_makes_a_new_series_is_named(field: str, value: object) -> None:
    other = replace(HOME, **{field: value})
    assert identity(CELL, other) != identity(CELL, HOME)
    (told,) = changes(HOME, other)
    assert told.startswith(f"{field}: ")


@pytest.mark.parametrize(
    "field",
    ["taken_unix_s", "kv_cache_tokens", "compose_sha256", "server_started", "coherence", "kit_version"],
)
def test_what_does_not_change_the_figures_makes_no_new_series(field: str) -> None:
    other = replace(HOME, **{field: 1.0 if field == "taken_unix_s" else "other"})
    assert identity(CELL, other) == identity(CELL, HOME)
    assert changes(HOME, other) == []


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(1, 3)), unique=True, min_size=2, max_size=30))
def test_no_two_attempts_share_their_prompts(parts: list[tuple[str, int]]) -> None:
    seeds = {seed_of(run, replace(CELL, num_prompts=n), 1) for run, n in parts}
    assert len(seeds) == len(parts)
    assert all(0 < seed < 2**31 for seed in seeds)


def test_the_published_replay_has_the_published_seed() -> None:
    cell = cells_of(Choice(preset="published"), MATRIX)[0]
    assert seed_of("any", cell, 2) == 0
