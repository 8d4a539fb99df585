"""The simulation's figures are those of vLLM's own client, computed by its code from the same lists."""

import json
import subprocess
from pathlib import Path

import pytest
from bench.simulate import recipe_cell, simulate

SCRIPT = Path(__file__).parent / "vllm_figures.py"
GOODPUT = {"ttft": 1000.0, "tpot": 18.0, "e2el": 19_000.0}


@pytest.mark.engine
def test_every_figure_is_what_vllm_computes(engine):
    raw = simulate(recipe_cell("prompt-heavy", 16, goodput=GOODPUT))
    told = json.dumps(raw | {"goodput": GOODPUT})
    done = subprocess.run([engine, SCRIPT], input=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert len(figures) == 37
    assert {name: raw[name] for name in figures} == pytest.approx(figures, rel=1e-9)
