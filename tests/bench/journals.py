"""Small journals for the tests of what is said about them."""

from functools import cache
from typing import Any

from bench.simulate import attempt, environment, recipe_cell
from msgspec.structs import replace

from ernie_deploy.bench.journal.record import Attempt, Environment, Journal

ENVIRONMENT = environment()


@cache
def _simulated(shape: str, n: int) -> Attempt:
    return attempt(recipe_cell(shape, n), seed=7, env=ENVIRONMENT)


def measured(
    shape: str = "balanced",
    n: int = 16,
    *,
    repeat: int = 1,
    status: str = "valid",
    env: Environment = ENVIRONMENT,
    **figures: Any,
) -> Attempt:
    """An attempt with some figures of vLLM's result changed."""
    base = _simulated(shape, n)
    return replace(
        base, cell=replace(base.cell, repeat=repeat), identity=f"{shape}-{n}-{repeat}", status=status,
        environment=env.id, result={**base.result, **figures},
    )  # fmt: skip


def repeated(
    key: str, *values: float, shape: str = "balanced", n: int = 16, env: Environment = ENVIRONMENT
) -> list[Attempt]:
    """Repeats of one cell that differ in one figure."""
    return [
        measured(shape, n, repeat=at, env=env, **{key: value}) for at, value in enumerate(values, start=1)
    ]


def journal_of(*attempts: Attempt, env: Environment = ENVIRONMENT) -> Journal:
    return Journal(lines=(env, *attempts))
