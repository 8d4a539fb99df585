"""The roofline of decode: the time to read the weights and the KV cache of one step, at the memory's full speed.

Estimated from the catalog's figures; nothing that is measured can be faster than the floor of identical experts.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from ernie_deploy.bench.journal.record import Cell, Environment, Floor
from ernie_deploy.bench.journal.rows import Row, completed, mean_decoding
from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Model, Target
from ernie_deploy.plan.roofline import FP8_PEAK, Load, prefill_flops, step_bytes
from ernie_deploy.plan.topology import Topology


def floor(
    model: Model, target: Target, topology: Topology, load: Load, median_itl_ms: float | None = None
) -> Floor:
    """The floor of a decode step in ms, and of reading all prompts in s; against a measured ITL, its share."""
    per_ms = target.bandwidth_gb_per_s * 1e6
    ranks = topology.expert_shards * topology.pipeline_parallel_size
    flops_per_s = target.peak_bf16_tflops * 1e12 * (FP8_PEAK if load.fp8 else 1) * ranks
    uniform_ms = step_bytes(model, topology, load) / per_ms
    return Floor(
        batch=load.batch,
        context_tokens=load.context_tokens,
        uniform_ms=uniform_ms,
        collapsed_ms=step_bytes(model, topology, load, uniform=False) / per_ms,
        prefill_at_peak_s=load.prompts * prefill_flops(model, load.input_tokens) / flops_per_s,
        bandwidth_share=uniform_ms / median_itl_ms if median_itl_ms else None,
    )


def of(cell: Cell, figures: Mapping[str, Any], environment: Environment) -> Floor | None:
    """The floor of a measured cell; None where model, target or served arguments are unknown, or in a rehearsal.

    The batch is the mean number of requests past their first token: those that wait take no bandwidth.
    """
    done = completed(figures)
    if environment.rehearsal or not (environment.model and environment.target and environment.argv and done):
        return None
    model, target = _catalog().model(environment.model), _catalog().target(environment.target)
    if not target.bandwidth_gb_per_s:
        return None
    load = Load(
        batch=max(1.0, mean_decoding(done, float(figures["duration"]))), context_tokens=mean_context(done),
        input_tokens=mean_prompt(cell, done), prompts=len(done), fp8=served_fp8(environment),
    )  # fmt: skip
    return floor(model, target, topology_of(environment), load, figures.get("median_itl_ms"))


@cache
def _catalog() -> Catalog:
    """Read once: every cell of a journal asks for the same two files."""
    return Catalog()


def mean_prompt(cell: Cell, done: Sequence[Row]) -> int:
    """Tokens of a prompt: the cell's own, or of a dataset the mean, by which attention is rather under-counted."""
    return (
        cell.input_len if cell.lengths_fixed else int(math.fsum(row.input_tokens for row in done) / len(done))
    )


def mean_context(done: Sequence[Row]) -> float:
    """Tokens of context a decoding request holds, averaged: its prompt and half of its answer."""
    return math.fsum(row.input_tokens + row.output_tokens / 2 for row in done) / len(done)


def topology_of(environment: Environment) -> Topology:
    """The parallel sizes a server runs with."""
    return Topology(
        tensor_parallel_size=environment.tensor_parallel_size,
        pipeline_parallel_size=environment.pipeline_parallel_size,
        data_parallel_size=environment.data_parallel_size,
    )


def served_fp8(environment: Environment) -> bool:
    """Whether the served command quantizes its weights to 8 bits."""
    words = [word for flag in environment.argv for word in flag.split("=", 1)]
    after = dict(pairwise(words))
    return after.get("--quantization", after.get("-q", "")).startswith("fp8")
