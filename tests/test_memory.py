"""What a plan keeps of each GPU beside weights and KV cache, and when it is too little; which sizes are legal."""

from typing import Any

import pytest
from conftest import planned
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Model
from ernie_deploy.plan.memory import MemoryPlan
from ernie_deploy.plan.settings import words
from ernie_deploy.plan.topology import Topology, refusal


@pytest.mark.parametrize(
    ("target", "model", "gib"),
    [
        ("h100", "21b", 4.0234375),
        ("h100", "vl-28b", 8.0234375),  # 4 GiB of it for the encoder
        ("h100", "300b", 4.453125),
        ("mi300x", "vl-424b", 9.6171875),
        ("cpu", "0.3b", 2.6298828125),
    ],
)
def test_the_overhead_of_a_plan(target: str, model: str, gib: float) -> None:
    assert planned(target, model=model).memory.overhead_gib == gib


@pytest.mark.parametrize(("kv_cache_gib", "verdict"), [(1.9, "refused"), (2.1, "fits")])
def test_a_kv_cache_within_the_overheads_uncertainty_is_none(kv_cache_gib: float, verdict: str) -> None:
    """The overhead of 4 GiB may be half again as large, whatever number of sequences the cache holds."""
    plan = MemoryPlan(
        budget_gib=80.0, weights_gib=70.0, overhead_gib=4.0, kv_cache_gib=kv_cache_gib,
        kv_bytes_per_token=1024, kv_cache_tokens=100_000, context_tokens=1000,
    )  # fmt: skip
    assert plan.verdict == verdict


def changed(model: Model, **figures: Any) -> Model:
    return replace(model, figures=replace(model.figures, **figures))


def test_sizes_at_and_beyond_each_limit() -> None:
    catalog = Catalog()
    dense, moe = catalog.model("0.3b"), catalog.model("300b")
    assert moe.experts
    tensor = Topology(tensor_parallel_size=2)
    assert refusal(dense, tensor) == ""
    odd = dense.figures.intermediate_size + 1
    assert "does not divide intermediate_size" in refusal(changed(dense, intermediate_size=odd), tensor)
    layers = moe.figures.layers
    assert refusal(moe, Topology(pipeline_parallel_size=layers)) == ""
    assert "more than the 54 layers" in refusal(moe, Topology(pipeline_parallel_size=layers + 1))
    few = replace(moe, experts=replace(moe.experts, count=8))
    assert refusal(few, Topology(tensor_parallel_size=8)) == ""
    assert "more than the 8 experts" in refusal(few, Topology(tensor_parallel_size=16))


def switches(**options: Any) -> list[str]:
    return [word for word in words(planned("h100", **options).settings) if "prefix-caching" in word]


def test_a_switch_and_its_opposite_are_one_and_the_later_holds() -> None:
    on, off = "enable-prefix-caching=true", "no-enable-prefix-caching=true"
    assert switches(pairs=(on, off)) == ["--no-enable-prefix-caching"]
    assert switches(pairs=(off, on)) == ["--enable-prefix-caching"]


def test_a_negative_number_is_a_value_and_no_flag() -> None:
    assert "--seed=-1" in words(planned("h100", extra=("--seed", "-1")).settings)
    assert "--cudagraph-capture-sizes" not in words(planned("h100").settings)
    sizes = planned("h100", extra=("--cudagraph-capture-sizes", "-1", "2")).setting("cudagraph-capture-sizes")
    assert sizes
    assert sizes.value == ["-1", "2"]


def test_the_first_served_name_is_the_one_that_clients_use() -> None:
    assert planned("h100", extra=("--served-model-name", "first", "last")).served_name == "first"


@pytest.mark.parametrize("seconds", [0, 3600])
def test_a_shutdown_timeout_at_its_limits_is_taken(seconds: int) -> None:
    plan = planned("h100", pairs=(f"shutdown-timeout={seconds}",))
    assert f"--shutdown-timeout={seconds}" in words(plan.settings)
    assert plan.stop_grace_period_s == seconds + 30
