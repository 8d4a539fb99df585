"""How wide vLLM allocates the experts of a rank: the catalog's steps are those of vLLM's own code."""

import itertools
import json
from typing import Any

import pytest
from conftest import ROOT, planned
from engine.vllm_code import EngineCode, code_of
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine, ExpertTiles
from ernie_deploy.catalog.schema import Model, Target
from ernie_deploy.errors import Refused
from ernie_deploy.plan.topology import Topology, refusal

CATALOG = Catalog()
ENGINES = [CATALOG.engine(version) for version in CATALOG.ids("engines")]
# Compute capabilities of NVIDIA's cards; AMD's are told apart by the platform alone.
CARDS = {"a100": 80, "h100": 90, "h200": 90, "b200": 100, "b300": 103}
PRECISIONS = ("", "fp8_per_tensor", "fp8_per_block")
WORKER = ROOT / "tests/engine/expert_kernels.py"


def memory(target: str, **options: Any) -> tuple[float, float, float]:
    """GiB per GPU of weights, of the padding among them, and of KV cache."""
    memory = planned(target, **options).memory
    return tuple(round(x, 1) for x in (memory.weights_gib, memory.expert_padding_gib, memory.kv_cache_gib))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("target", "options", "figures"),
    [
        ("mi300x", {"model": "vl-424b"}, (109.6, 9.6, 57.5)),
        ("mi300x", {"model": "vl-424b-base"}, (109.6, 9.6, 57.5)),
        ("mi300x", {"model": "vl-424b", "profiles": ("expert-parallel",)}, (100.0, 0.0, 67.0)),
        ("mi300x", {"model": "vl-424b", "extra": ("--moe-backend", "triton")}, (100.0, 0.0, 67.0)),
        ("mi300x", {"model": "vl-424b", "extra": ("--moe-backend", "auto")}, (109.6, 9.6, 57.5)),
        ("b200", {"model": "vl-424b"}, (100.0, 0.0, 55.1)),
        ("mi300x", {"model": "300b"}, (139.5, 0.0, 31.2)),
        ("mi300x", {"model": "300b", "tp": 8}, (79.3, 9.6, 91.7)),
        ("mi300x", {"model": "300b", "tp": 8, "profiles": ("fp8",)}, (35.1, 0.0, 135.9)),
        ("h100", {"model": "300b", "tp": 8, "pairs": ("quantization=fp8_per_block",)}, (39.9, 4.8, 28.9)),
        ("mi300x", {"model": "300b", "nodes": 2, "profiles": ("mtp",)}, (39.8, 4.8, 131.4)),
        ("mi300x", {"model": "21b", "dp": 2, "nodes": 2}, (5.4, 0.0, 163.3)),
        ("mi300x", {"model": "21b", "dp": 16, "tp": 1, "nodes": 2}, (5.8, 0.8, 162.2)),
    ],
)  # fmt: skip
def test_the_weights_of_a_plan_are_what_vllm_allocates(
    target: str, options: dict[str, Any], figures: tuple[float, float, float]
) -> None:
    assert memory(target, **options) == figures


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.version)
def test_each_engine_pads_as_its_own_sources_say(engine: Engine) -> None:
    assert memory("mi300x", model="vl-424b", engine=engine.version) == (109.6, 9.6, 57.5)
    assert engine.expert_tiles
    assert all(f"vLLM {engine.version} " in tiles.source for tiles in engine.expert_tiles)


@given(st.sampled_from([tiles for engine in ENGINES for tiles in engine.expert_tiles]), st.integers(0, 10**6))
def test_an_allocated_share_holds_the_share_in_whole_tiles(tiles: ExpertTiles, share: int) -> None:
    allocated = tiles.rounded(share)
    step = tiles.narrow_multiple if tiles.narrow and share <= tiles.narrow else tiles.multiple
    assert share <= allocated < share + step
    assert allocated % step == 0
    assert share % step or allocated == share
    assert tiles.rounded(allocated) == allocated


def test_what_fits_without_padding_alone_is_refused_and_whole_experts_are_offered() -> None:
    """61 % of an MI300X hold the checkpoint's 100 GiB a GPU, and not the 109.6 that are allocated."""
    asked: dict[str, Any] = {
        "model": "vl-424b",
        "tp": 8,
        "gpu_memory_utilization": 0.61,
        "profiles": ("bf16",),
    }
    with pytest.raises(Refused) as refusal:
        planned("mi300x", **asked)
    assert "109.6 weights (9.6 of them padding)" in refusal.value.cause
    assert "--profile expert-parallel" in refusal.value.next_step.split(", or ")
    whole = planned("mi300x", **{**asked, "profiles": ("bf16", "expert-parallel")})
    assert whole.memory.verdict == "fits"


def test_a_plan_that_pads_says_so_and_what_avoids_it() -> None:
    padded, whole = (
        planned("mi300x", model="vl-424b", profiles=profiles) for profiles in ((), ("expert-parallel",))
    )
    (note,) = (note for note in padded.notes if "padding" in note)
    assert note.startswith("9.6 GiB of each GPU are padding")
    assert note.endswith(
        "expert-parallel needs none and returns 9.6 GiB (derived from source, not measured)."
    )
    assert not [note for note in (*whole.notes, *planned("mi300x").notes) if "padding" in note]


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"tp": 8, "profiles": ("fp8",)}, True),
        ({"tp": 4, "profiles": ("fp8",)}, False),
        ({"tp": 8, "profiles": ("fp8", "expert-parallel")}, False),
        ({"tp": 8}, False),
        ({"tp": 8, "profiles": ("fp8",), "extra": ("--moe-backend", "triton")}, False),
    ],
)
def test_a_share_that_aiter_may_refuse_is_warned_of(options: dict[str, Any], warned: bool) -> None:
    warnings = [text for text in planned("mi300x", model="300b", **options).warnings if "may refuse" in text]
    assert bool(warned) == bool(warnings)
    assert all("does not pad 448" in text for text in warnings)


def jobs() -> list[dict[str, Any]]:
    """Every target with every layer of experts in every legal number of slices, and with whole experts."""
    pairs = itertools.product(CATALOG.targets(), CATALOG.models(), PRECISIONS, (False, True))
    return [
        job
        for target, model, precision, whole in pairs
        if target.gpus and not (precision and target.fp8 == "none")
        for job in layers(target, model, precision, whole=whole)
    ]


def layers(target: Target, model: Model, precision: str, *, whole: bool) -> list[dict[str, Any]]:
    if not (experts := model.experts):
        return []
    topologies = [Topology(data_parallel_size=n, expert_parallel=whole, nodes=1) for n in (1, 2, 4, 8, 16)]
    amd = target.vendor == "amd"
    return [
        {
            "target": target.id, "quantization": precision, "expert_parallel": whole, "ranks": t.ranks, "width": width,
            "card": {"platform": "rocm" if amd else "cuda", "capability": CARDS.get(target.id, 0)},
            "environment": target.environment, "count": experts.count, "per_token": experts.per_token,
            "hidden_size": model.figures.hidden_size,
        }
        for t in topologies if not refusal(model, t)
        for width in {experts.intermediate_size, experts.vision_intermediate_size} - {0}
    ]  # fmt: skip


@pytest.fixture(scope="module", params=CATALOG.ids("engines"))
def code(request: pytest.FixtureRequest) -> EngineCode:
    """The code of each version of the catalog."""
    return code_of(request.param)


@pytest.fixture(scope="module")
def verdicts(code: EngineCode) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each job with the backend that this version takes and the width that it allocates."""
    asked = jobs()
    done = code.run(WORKER, input="\n".join(map(json.dumps, asked)))
    assert done.returncode == 0, done.stderr[-3000:]
    return list(zip(asked, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.engine
def test_vllm_itself_takes_the_backend_of_each_target(
    verdicts: list[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    for job, verdict in verdicts:
        if not job["quantization"]:
            assert verdict["backend"] == CATALOG.target(job["target"]).engine_defaults.moe_backend, job


@pytest.mark.engine
def test_vllm_itself_allocates_the_width_that_the_plan_counts(
    code: EngineCode, verdicts: list[tuple[dict[str, Any], dict[str, Any]]]
) -> None:
    padded = 0
    for job, verdict in verdicts:
        share = job["width"] if job["expert_parallel"] else job["width"] // job["ranks"]
        tiles = CATALOG.engine(code.version).expert_tiles_of(job["quantization"], verdict["backend"])
        assert verdict["width"] == (tiles.rounded(share) if tiles and tiles.padded else share), job
        padded += verdict["width"] > share
    assert padded > 20, "the matrix has shares that are padded"
