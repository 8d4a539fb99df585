"""The catalog's types of what is measured: published results and the recipe's benchmark matrix."""

from msgspec import field

from ernie_deploy.catalog.schema import Fact


class Baseline(Fact, frozen=True):
    """A published result block, figure by figure, and what is unknown about it."""

    id: str
    recipe: str
    lines: tuple[int, int]
    model: str
    unknown: list[str]
    cell: dict[str, int | float]
    figures: dict[str, int | float]


class Baselines(Fact, frozen=True):
    """Published results; none of them is a gate."""

    baselines: list[Baseline] = field(name="baseline")


class AmdMatrix(Fact, frozen=True):
    """What the recipe's AMD section sets otherwise."""

    source: str
    request_rate: float


class Matrix(Fact, frozen=True):
    """The recipe's benchmark matrix: shapes as (input, output) tokens, requests per cell, requests/s."""

    source: str
    shapes: dict[str, tuple[int, int]]
    num_prompts: list[int]
    request_rate: float
    amd: AmdMatrix
