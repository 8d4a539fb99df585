"""vLLM does not serve transformers' own classes of the VL models. The day it does, this turns red."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from engine.checkpoint import write_config
from engine.configs import VISION, config_of
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog

pytestmark = pytest.mark.engine
SCRIPT = ROOT / "tests/engine/native_layout.py"
CHECKPOINTS = ROOT / "docker/rehearsal/checkpoints.py"
MODEL = Catalog().model("vl-28b")
SMALL = {"hidden_size": 64, "intermediate_size": 64, "layers": 4, "heads": 4, "vocab_size": 160}
SMALL_VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 128, "num_heads": 8, "patch_size": 4}
MENDED = "vLLM gets further now: try it with docker/rehearsal's weights and offer it as a profile (native-classes in recipes.toml)"
# What the configuration lacks, and by which line of vLLM 0.32.0 it is missed.
EXPECTED = {
    "words of a picture": (
        "AttributeError: 'Ernie4_5_VLMoeConfig' object has no attribute 'spatial_conv_size'",
        "ernie45_vl.py:921",
    ),
    "vLLM's model": (
        "AttributeError: 'Ernie4_5_VLMoeVisionConfig' object has no attribute 'embed_dim'",
        "ernie45_vl.py:376",
    ),
    "transformers' model": ("IndexError: list index out of range", "transformers/moe.py:303"),
}


Steps = dict[str, str]


@pytest.fixture(scope="module")
def outcomes(engine: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Steps, Steps]:
    """The outcome with a small model in transformers' own layout without remote code, and in the published one."""
    folder = tmp_path_factory.mktemp("native")
    native = folder / "native"
    native.mkdir()
    assert MODEL.experts
    experts = replace(MODEL.experts, count=8, intermediate_size=64, vision_intermediate_size=32)
    config = config_of(replace(MODEL, figures=replace(MODEL.figures, **SMALL), experts=experts))
    write_config(native, MODEL.architecture, config | {"vision_config": VISION | SMALL_VISION})
    subprocess.run([sys.executable, CHECKPOINTS, folder, "vl"], check=True)
    environment = os.environ | {"HF_HOME": str(folder / "home")}
    done = subprocess.run(
        [engine, SCRIPT, native, folder / "vl"], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = map(json.loads, done.stdout.splitlines())
    return first, second


@pytest.mark.parametrize("step", EXPECTED)
def test_vllm_does_not_serve_transformers_own_layout(outcomes: tuple[Steps, Steps], step: str) -> None:
    native = outcomes[0]
    error, place = EXPECTED[step]
    assert native[step].startswith(error), f"{MENDED}: {native[step]}"
    assert place in native[step]


def test_the_published_layout_takes_the_same_steps(outcomes: tuple[Steps, Steps]) -> None:
    """With its remote code; transformers has no model for it."""
    steps = outcomes[1]
    assert [steps["words of a picture"], steps["vLLM's model"]] == ["ok", "ok"], steps
    assert steps["transformers' model"].startswith("ValueError: Unrecognized configuration class")


def test_the_plan_of_a_vl_model_says_so_with_these_lines() -> None:
    rule = next(rule for rule in Catalog().recipes.disagreements if rule.id == "native-classes")
    assert all(f":{place.partition(':')[2]}" in rule.source for _, place in EXPECTED.values())
    assert all(name in rule.reason for name in ("spatial_conv_size", "embed_dim", "--model-impl"))
    assert rule.applies_to == ["vision"]
