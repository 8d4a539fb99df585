"""The roofline of decode: the time to read the weights and the KV cache of one step, at the memory's full speed.

Estimated from the catalog's figures; nothing that is measured can be faster than the floor of identical experts.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from msgspec import Struct

from ernie_deploy.bench.journal.record import Cell, Environment, Floor
from ernie_deploy.bench.journal.rows import Row, completed, mean_decoding
from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Model, Target
from ernie_deploy.plan.memory import BF16_BYTES, FP8_BYTES, kv_bytes_per_token
from ernie_deploy.plan.topology import Topology

# With 8-bit weights the matrix units may run at twice their bf16 peak.
FP8_PEAK = 2


class Reads(Struct, frozen=True, kw_only=True):
    """Parameters of the language model by what reads them in one decode step, of all layers together.

    `expert` is one routed expert of one layer; an embedding is looked up, not read.
    """

    attention: int
    dense: int
    routers: int
    head: int
    expert: int
    moe_layers: int
    per_token: int
    experts: int

    @property
    def active(self) -> int:
        """Parameters that one prompt token passes: without the head, which only a last token needs."""
        return self.attention + self.dense + self.routers + self.moe_layers * self.per_token * self.expert


class Load(Struct, frozen=True, kw_only=True):
    """What a stack works on: how many requests decode at once, at what context, and which prompts it reads."""

    batch: float
    context_tokens: float
    input_tokens: int
    prompts: int = 1
    fp8: bool = False


def reads(model: Model) -> Reads:
    """Count what a text token touches: of a vision-language model neither its tower nor its vision experts."""
    figures, experts, hidden = model.figures, model.experts, model.figures.hidden_size
    moe_layers = figures.layers - experts.first_layer if experts else 0
    expert = 3 * hidden * experts.intermediate_size if experts else 0
    dense = 3 * hidden * figures.intermediate_size * (figures.layers - moe_layers)
    return Reads(
        attention=hidden * figures.head_dim * 2 * (figures.heads + figures.kv_heads) * figures.layers,
        dense=dense + expert * (experts.shared if experts else 0) * moe_layers,
        routers=hidden * (experts.count if experts else 0) * moe_layers,
        head=figures.vocab_size * hidden,
        expert=expert,
        moe_layers=moe_layers,
        per_token=experts.per_token if experts else 0,
        experts=experts.count if experts else 0,
    )


def distinct_experts(count: int, per_token: int, batch: float) -> float:
    """Experts of one layer that a batch reads when each token picks `per_token` of them uniformly."""
    return count * (1 - (1 - per_token / count) ** max(1.0, batch)) if count else 0.0


def step_bytes(model: Model, topology: Topology, load: Load, *, uniform: bool = True) -> float:
    """Bytes one GPU reads in one decode step, with uniformly routed or with identical experts.

    Batch and experts are shared out over data-parallel ranks; the stages of a pipeline follow one another, so
    that a token waits for all of them.
    """
    parts, tensor = reads(model), topology.tensor_parallel_size
    picked = distinct_experts(parts.experts, parts.per_token, load.batch) if uniform else parts.per_token
    routed = parts.moe_layers * picked * parts.expert / topology.expert_shards
    linear = (parts.attention + parts.dense) / tensor
    weights = (linear + routed) * (FP8_BYTES if load.fp8 else BF16_BYTES)
    others = BF16_BYTES * (parts.head / tensor + parts.routers)
    token_bytes = kv_bytes_per_token(model, Topology(tensor_parallel_size=tensor))
    return weights + others + token_bytes * load.context_tokens * load.batch / topology.data_parallel_size


def prefill_flops(model: Model, input_tokens: int) -> float:
    """Floating-point operations to read one prompt: two for each weight, and causal attention."""
    figures = model.figures
    attention = 2 * figures.layers * figures.heads * figures.head_dim * input_tokens**2
    return 2.0 * reads(model).active * input_tokens + attention


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
