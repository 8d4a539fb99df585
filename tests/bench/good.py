"""Evidence of good runs of every kind, simulated once, and what fails of any evidence."""

from typing import Any

from bench.engine import Speed
from bench.simulate import evidence, recipe_cell
from msgspec.structs import replace

from ernie_deploy.bench import validity
from ernie_deploy.bench.journal.record import Check, Evidence

MTP = Speed(tokens_per_step=1.7)
GOODPUT = {"ttft": 1000.0, "tpot": 18.0, "e2el": 19_000.0}
KINDS = {
    "recipe": (recipe_cell("prompt-heavy", 16, goodput=GOODPUT), Speed()),
    "many": (recipe_cell("balanced", 64), Speed()),
    "closed loop": (recipe_cell("balanced", 32, max_concurrency=8), Speed()),
    "all at once": (recipe_cell("balanced", 16, request_rate=None), Speed()),
    "speculative": (recipe_cell("prompt-heavy", 16), MTP),
    "one": (recipe_cell("balanced", 1), Speed()),
}
GOOD = {kind: evidence(cell, speed=speed, seed=3) for kind, (cell, speed) in KINDS.items()}
RECIPE = GOOD["recipe"]


def failed(proof: Evidence) -> dict[str, Check]:
    return {check.id: check for check in validity.judge(proof) if not check.ok}


def changed(proof: Evidence, **figures: Any) -> Evidence:
    return replace(proof, figures=proof.figures | figures)
