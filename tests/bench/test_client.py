"""The client's command line, held against vLLM's own parser where vLLM is installed."""

import ast
from types import SimpleNamespace

import pytest
from conftest import ENGINE, planned
from engine.vllm_code import code_of
from msgspec.structs import replace

from ernie_deploy.bench.journal.record import Cell
from ernie_deploy.bench.measure import client
from ernie_deploy.bench.measure.client import Place, base_words, warm_up_words, words
from ernie_deploy.plan.settings import words as flag_words

CELL = Cell(
    shape="balanced", input_len=1000, output_len=500, num_prompts=16, goodput={"ttft": 1000.0, "tpot": 50.0}
)
BASE = base_words(flag_words(planned("mi300x").bench))
CELLS = {
    "random": CELL,
    "all-at-once": replace(CELL, request_rate=None, max_concurrency=8),
    "random-mm": replace(CELL, dataset="random-mm"),
    "sharegpt": replace(CELL, dataset="sharegpt"),
    "custom": replace(CELL, dataset="custom"),
}


def test_the_stacks_own_command_keeps_model_and_address() -> None:
    assert BASE == ["--model=baidu/ERNIE-4.5-21B-A3B-PT", "--host=serve", "--port=8000", "--temperature=0"]


def test_a_cell_is_said_in_full() -> None:
    assert words(BASE, CELL, 7, "r.json", Place()) == [
        *BASE, "--backend=openai", "--endpoint=/v1/completions", "--dataset-name=random", "--random-input-len=1000",
        "--random-output-len=500", "--random-range-ratio=0", "--ignore-eos", "--num-prompts=16", "--request-rate=10",
        "--seed=7", "--goodput", "tpot:50", "ttft:1000", "--percentile-metrics=ttft,tpot,itl,e2el",
        "--metric-percentiles=50,90,95,99", "--save-result", "--save-detailed", "--result-dir=/results",
        "--result-filename=r.json", "--disable-tqdm",
    ]  # fmt: skip


def test_no_warm_up_and_no_ready_check_in_the_measured_call() -> None:
    """Both send a measured prompt beforehand, which is then a cache hit."""
    said = " ".join(word for cell in CELLS.values() for word in words(BASE, cell, 7, "r.json", Place()))
    assert "num-warmups" not in said
    assert "ready-check" not in said


def test_a_warm_up_has_the_cells_prompts_in_length_and_few_tokens() -> None:
    said = warm_up_words(BASE, replace(CELL, num_prompts=512), 9, "r.json", Place())
    assert {"--random-input-len=1000", "--random-output-len=32", "--num-prompts=16", "--seed=9"} <= set(said)


@pytest.mark.engine
@pytest.mark.parametrize("name", CELLS)
def test_vllm_reads_the_words_as_they_are_meant(engine: str, name: str) -> None:
    cell = CELLS[name]
    job = {"id": name, "kind": "bench", "argv": words(BASE, cell, 7, "r.json", Place())}
    verdict = code_of(ENGINE).judged([job])[name]
    assert verdict["ok"], verdict
    wanted = ("num_prompts", "seed", "max_concurrency", "request_rate", "dataset_name", "goodput", "num_warmups",
              "ready_check_timeout_sec", "ignore_eos", "random_mm_bucket_config", "random_mm_limit_mm_per_prompt",
              "random_mm_base_items_per_request")  # fmt: skip
    found = SimpleNamespace(**{name: value_of(verdict["arguments"][name]) for name in wanted})
    assert (found.num_prompts, found.seed, found.max_concurrency) == (16, 7, cell.max_concurrency)
    assert found.request_rate == (cell.request_rate or float("inf"))
    assert found.dataset_name == cell.dataset
    assert found.goodput == ["tpot:50", "ttft:1000"]
    assert found.num_warmups == 0
    assert found.ready_check_timeout_sec == 0
    assert found.ignore_eos == cell.lengths_fixed
    if cell.dataset == "random-mm":
        assert found.random_mm_bucket_config == {(720, 1280, 1): 1.0}
        assert found.random_mm_limit_mm_per_prompt == {"image": 1}
        assert found.random_mm_base_items_per_request == 1


def value_of(text: str) -> object:
    """What Python wrote."""
    return float(text) if text == "inf" else ast.literal_eval(text)


def test_what_a_cell_decides_is_what_it_says() -> None:
    said = {
        w.removeprefix("--").partition("=")[0]
        for cell in CELLS.values()
        for w in words([], cell, 7, "r", Place())
    }
    assert {name for name in said if ":" not in name} <= client.DECIDED
