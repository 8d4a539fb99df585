"""The floor of decode: the table of the reference, and how it moves with load, topology and weights."""

import pytest
from bench.simulate import environment, recipe_cell, simulate_reduced
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.bench.journal import roofline
from ernie_deploy.catalog import Catalog
from ernie_deploy.plan import roofline as counts
from ernie_deploy.plan.roofline import Load
from ernie_deploy.plan.topology import Topology

CATALOG = Catalog()
RECIPE = Load(batch=16, context_tokens=8500, input_tokens=8000, prompts=16)
ONE = Load(batch=1, context_tokens=8500, input_tokens=8000)


def floor(target, load=RECIPE, model="21b", topology=None, itl=None):
    return roofline.floor(CATALOG.model(model), CATALOG.target(target), topology or Topology(), load, itl)


# bench.md, section 4: floor uniform ms, floor collapsed ms, prefill at peak s, share at ITL 15.49, b=1 floor ms
@pytest.mark.parametrize(("target", "figures"), [
    ("h100", (12.84, 4.33, 0.95, 0.829, 2.15)),
    ("h200", (8.96, 3.02, 0.95, 0.578, 1.50)),
    ("mi300x", (8.12, 2.74, 0.72, 0.524, 1.36)),
    ("a100", (21.09, 7.11, 3.00, 1.36, 3.53)),
])  # fmt: skip
def test_the_table_of_the_reference(target, figures):
    uniform, collapsed, prefill, share, one = figures
    found = floor(target, itl=15.49)
    assert found.uniform_ms == pytest.approx(uniform, abs=0.006)
    assert found.collapsed_ms == pytest.approx(collapsed, abs=0.005)
    assert found.prefill_at_peak_s == pytest.approx(prefill, abs=0.005)
    assert found.bandwidth_share == pytest.approx(share, abs=0.003)
    assert floor(target, ONE).uniform_ms == pytest.approx(one, abs=0.005)


def test_the_counts_behind_it():
    parts = counts.reads(CATALOG.model("21b"))
    assert parts.expert == 11_796_480
    assert parts.attention / 28 == pytest.approx(15.73e6, rel=1e-3)
    assert parts.head == pytest.approx(264.8e6, rel=1e-3)
    assert parts.active + parts.head == pytest.approx(3.35e9, rel=2e-3)
    assert counts.distinct_experts(64, 6, 16) == pytest.approx(50.75, abs=0.01)
    assert counts.distinct_experts(64, 6, 1) == pytest.approx(6)
    bytes_ = counts.step_bytes(CATALOG.model("21b"), Topology(), RECIPE)
    assert bytes_ == pytest.approx(43.01e9, rel=1e-3)
    assert 16 * counts.prefill_flops(CATALOG.model("21b"), 8000) == pytest.approx(937e12, rel=2e-3)


def test_one_token_reads_as_many_experts_whichever_way_they_are_routed():
    found = floor("h100", ONE)
    assert found.uniform_ms == pytest.approx(found.collapsed_ms)


def test_a_dense_model_has_one_floor():
    found = floor("h100", model="0.3b")
    # 18 layers: attention 18 x 1024 x 128 x 2 x 18, MLP 18 x 3 x 1024 x 3072, head 103424 x 1024; 18,432 B KV a token
    weights = 2 * (84_934_656 + 169_869_312 + 105_906_176)
    assert found.uniform_ms == found.collapsed_ms
    assert found.uniform_ms == pytest.approx((weights + 16 * 8500 * 18_432) / 3.35e9)


def test_text_through_a_vision_model_reads_the_same_backbone():
    assert floor("h100", model="vl-28b").uniform_ms == floor("h100").uniform_ms


def test_two_gpus_halve_all_but_the_routers():
    one, two = floor("h100"), floor("h100", topology=Topology(tensor_parallel_size=2))
    routers_ms = 2 * counts.reads(CATALOG.model("21b")).routers / 3.35e9
    assert two.uniform_ms - routers_ms == pytest.approx((one.uniform_ms - routers_ms) / 2)
    assert two.prefill_at_peak_s == pytest.approx(one.prefill_at_peak_s / 2)


def test_eight_bit_weights_halve_the_linear_layers():
    half = floor("h100", Load(batch=16, context_tokens=0, input_tokens=8000, fp8=True))
    full = floor("h100", Load(batch=16, context_tokens=0, input_tokens=8000))
    parts = counts.reads(CATALOG.model("21b"))
    kept_ms = 2 * (parts.head + parts.routers) / 3.35e9
    assert half.uniform_ms - kept_ms == pytest.approx((full.uniform_ms - kept_ms) / 2)


@given(st.floats(1, 512), st.floats(1, 512), st.floats(0, 131_072))
def test_more_load_never_lowers_the_floor(one, other, context):
    low, high = sorted((one, other))
    floors = [floor("h100", Load(batch=b, context_tokens=context, input_tokens=8)) for b in (low, high)]
    assert floors[0].uniform_ms <= floors[1].uniform_ms * (1 + 1e-12)
    assert all(found.collapsed_ms <= found.uniform_ms * (1 + 1e-12) for found in floors)


def test_of_a_measured_cell_takes_the_requests_that_decode():
    cell = recipe_cell("prompt-heavy", 512)
    result, _ = simulate_reduced(cell)
    found = roofline.of(cell, result, environment())
    # 490,000 tokens of KV cache hold 54 of them at once; 458 are in flight.
    assert 40 < found.batch < 55
    assert found.context_tokens == 8500
    assert found.bandwidth_share == pytest.approx(0.83, abs=0.12)


@pytest.mark.parametrize("unknown", [{"target": ""}, {"model": ""}, {"rehearsal": True}, {"target": "cpu"}])
def test_an_unknown_card_and_a_rehearsal_have_no_floor(unknown):
    cell = recipe_cell("balanced", 1)
    assert roofline.of(cell, simulate_reduced(cell)[0], environment(**unknown)) is None


@pytest.mark.parametrize(("argv", "fp8"), [
    (("vllm", "serve", "m", "--quantization=fp8_per_tensor"), True),
    (("vllm", "serve", "m", "--quantization", "fp8"), True),
    (("vllm", "serve", "m", "--kv-cache-dtype=fp8"), False),
    (("vllm", "serve", "m"), False),
])  # fmt: skip
def test_eight_bit_weights_are_read_from_the_command(argv, fp8):
    assert roofline.served_fp8(environment(argv=argv)) is fp8
