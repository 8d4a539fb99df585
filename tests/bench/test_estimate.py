"""Estimated minutes against the reference's figures and against the request-level simulation; feasibility."""

import pytest
from bench.simulate import NUM_PROMPTS, SHAPES, recipe_cell, simulate_reduced

from ernie_deploy.bench.measure.estimate import CLIENT_START_S, Served, feasible, minutes, queueing
from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.topology import Topology

CATALOG = Catalog()
# KV room of the reference's section 4.
ROOM = {"h100": 494_000, "h200": 1_450_000, "mi300x": 2_250_000}


def load_s(cell, target="h100", model="21b", **served):
    served.setdefault("kv_cache_tokens", ROOM.get(target, 0))
    found = minutes(cell, CATALOG.model(model), CATALOG.target(target), Served(**served))
    return 60 * found - CLIENT_START_S


# bench.md, section 2.5; 18.65 s was measured, the others come from another simulation.
@pytest.mark.parametrize(("shape", "n", "seconds"), [
    ("prompt-heavy", 16, 18.65), ("prompt-heavy", 512, 348), ("decode-heavy", 1, 24), ("decode-heavy", 16, 119),
    ("decode-heavy", 512, 1277), ("balanced", 512, 71),
])  # fmt: skip
def test_cells_of_the_reference(shape, n, seconds):
    assert load_s(recipe_cell(shape, n)) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize(("target", "minutes_"), [("h100", 62), ("h200", 31), ("mi300x", 27)])
def test_the_whole_matrix_of_the_reference(target, minutes_):
    cells = [recipe_cell(shape, n) for shape in SHAPES for n in NUM_PROMPTS]
    assert sum(load_s(cell, target) for cell in cells) / 60 == pytest.approx(minutes_, rel=0.15)


@pytest.mark.parametrize("cell", [
    recipe_cell("balanced", 64), recipe_cell("balanced", 128, max_concurrency=8),
    recipe_cell("prompt-heavy", 32, request_rate=None), recipe_cell("balanced", 32, request_rate=0.5),
])  # fmt: skip
def test_against_the_simulation_of_single_requests(cell):
    assert load_s(cell) == pytest.approx(simulate_reduced(cell)[0]["duration"], rel=0.1)


def test_no_cell_ends_before_its_last_request_leaves():
    assert load_s(recipe_cell("balanced", 32, request_rate=0.1)) > 320


def test_better_hardware_is_faster_and_lighter_weights_too():
    cell = recipe_cell("prompt-heavy", 32)
    assert load_s(cell, "h200") < load_s(cell, "h100")
    assert load_s(cell, topology=Topology(tensor_parallel_size=2)) < 0.65 * load_s(cell)
    assert load_s(cell, fp8=True) < load_s(cell)
    assert load_s(cell, model="0.3b") < load_s(cell) / 3


def test_a_processor_has_no_estimate():
    assert minutes(recipe_cell(), CATALOG.model("0.3b"), CATALOG.target("cpu"), Served()) is None


def test_what_is_longer_than_the_context_is_refused_by_name():
    cell = recipe_cell("prompt-heavy", 16)
    assert feasible(cell, 490_000, 9000) == ""
    assert feasible(cell, 490_000, 8999) == (
        "8,000 input and 1,000 output tokens are 9,000, more than max_model_len 8,999"
    )
    assert feasible(cell, 8999, 0).endswith("9,000, more than the KV cache of 8,999 tokens holds")
    assert feasible(cell, 0, 0) == ""


def test_more_than_the_cache_is_queueing_and_not_refused():
    cell = recipe_cell("prompt-heavy", 512)
    assert feasible(cell, 490_000, 131_072) == ""
    assert queueing(cell, 490_000) == (
        "up to 4,608,000 tokens for a KV cache of 490,000: about 54 of 512 requests at once, the others may wait"
    )
    assert queueing(recipe_cell("prompt-heavy", 512, max_concurrency=54), 490_000) == ""
    assert queueing(recipe_cell("prompt-heavy", 32), 490_000) == ""
