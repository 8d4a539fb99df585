"""Which points are measured, what makes two of them the same, and the seed of each attempt."""

import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from ernie_deploy.bench.journal.record import Cell, Cold, Dataset, Environment, Preset
from ernie_deploy.catalog.bench_schema import Matrix
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import opened

PUBLISHED_SEED = 0
# What the figures of a cell depend on; the rest of an environment is told, and may change. The tokens of the KV
# cache follow from it, but for what profiling finds a little different at each start of a server.
SUBJECT = (
    "hf_id", "revision", "vllm_version", "client_version", "image_digest", "argv", "variables", "gpus", "driver",
    "max_model_len", "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size",
    "gpu_count", "rehearsal",
)  # fmt: skip


class Choice(Struct, frozen=True, kw_only=True):
    """What was asked for on the command line; empty means as the recipe says."""

    shapes: tuple[str, ...] = ()
    num_prompts: tuple[int, ...] = ()
    request_rate: float | None = 10.0
    # That of the recipe's loop for the target.
    recipe_rate: float | None = 10.0
    max_concurrency: int | None = None
    repeat: int = 1
    cold: Cold = "seed"
    dataset: Dataset = "random"
    dataset_path: Path | None = None
    goodput: dict[str, float] = {}
    preset: Preset = ""
    seed: int | None = None


def _digest(dataset: Path) -> str:
    try:
        with opened(dataset) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        raise UsageError(f"--dataset-path {dataset} cannot be read: {fault.strerror}.") from fault


def cells_of(choice: Choice, matrix: Matrix) -> list[Cell]:
    """The cells in the order they are measured: a whole matrix, then its repeats."""
    choice = preset(choice, matrix)
    lengths = _lengths(choice, matrix)
    counts = choice.num_prompts or tuple(matrix.num_prompts)
    digest = _digest(choice.dataset_path) if choice.dataset_path else ""
    return [
        Cell(
            shape=name, input_len=input_len, output_len=output_len, num_prompts=count,
            request_rate=choice.request_rate, max_concurrency=choice.max_concurrency, repeat=repeat,
            cold=choice.cold, dataset=choice.dataset, dataset_sha256=digest, goodput=choice.goodput,
            preset=choice.preset, seed=choice.seed,
        )
        for repeat, (name, input_len, output_len), count in itertools.product(
            range(1, choice.repeat + 1), lengths, counts
        )
    ]  # fmt: skip


def _lengths(choice: Choice, matrix: Matrix) -> list[tuple[str, int, int]]:
    """The shapes asked for, or the recipe's; a file of texts has its own lengths, and is one shape."""
    if choice.dataset in ("sharegpt", "custom") and not choice.shapes:
        return [(choice.dataset, *matrix.shapes["balanced"])]
    return [lengths_of(shape, matrix) for shape in choice.shapes or matrix.shapes]


def preset(choice: Choice, matrix: Matrix) -> Choice:
    """What a preset stands for: `published` replays the recipe's loop, `amd` its AMD section's rate."""
    if choice.preset == "published":
        return msgspec.structs.replace(
            choice, cold="restart", request_rate=choice.recipe_rate, seed=PUBLISHED_SEED
        )
    if choice.preset == "amd":
        return msgspec.structs.replace(choice, request_rate=matrix.amd.request_rate)
    return choice


def lengths_of(shape: str, matrix: Matrix) -> tuple[str, int, int]:
    """Name, input and output length of `prompt-heavy` or of `8000/1000`; raises `UsageError`."""
    if shape in matrix.shapes:
        return (shape, *matrix.shapes[shape])
    if not (match := re.fullmatch(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,6})", shape)):
        raise UsageError(
            f"{shape!r} is no shape.",
            next_step=f"use {', '.join(matrix.shapes)}, or tokens in and out such as 2000/500",
        )
    lengths = int(match[1]), int(match[2])
    known = next((name for name, pair in matrix.shapes.items() if pair == lengths), shape)
    return (known, *lengths)


def identity(cell: Cell, environment: Environment) -> str:
    """Hash of everything a cell's figures depend on; the seed is none of it, so that runs can be paired."""
    facts = {"cell": msgspec.to_builtins(cell), "environment": subject(environment)}
    return hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:16]


def subject(environment: Environment) -> dict[str, object]:
    """The part of an environment that makes an identity."""
    return {name: getattr(environment, name) for name in SUBJECT}


def changes(before: Environment, after: Environment) -> list[str]:
    """What makes a series a new one, a sentence a field."""
    return [
        f"{name}: {_short(getattr(before, name))} -> {_short(getattr(after, name))}"
        for name in SUBJECT
        if getattr(before, name) != getattr(after, name)
    ]


def seed_of(run: str, cell: Cell, attempt: int) -> int:
    """The seed of one attempt: no two attempts of any run share a prompt, unless one seed was asked for."""
    if cell.seed is not None:
        return cell.seed
    return derived_seed(run, cell.name, attempt)


def derived_seed(*parts: object) -> int:
    """A positive seed of 31 bits made from its parts."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return 1 + int.from_bytes(digest[:4], "big") % (2**31 - 2)


def names(cells: Sequence[Cell]) -> str:
    """A few cells in one line."""
    shown = ", ".join(cell.name for cell in cells[:4])
    return shown if len(cells) <= 4 else f"{shown} and {len(cells) - 4} more"  # noqa: PLR2004


def _short(value: object) -> str:
    text = (" ".join(map(str, value)) if isinstance(value, tuple) else str(value)) or "not seen"
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004
