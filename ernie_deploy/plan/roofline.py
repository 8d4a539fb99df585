"""What a decode step reads and a prompt computes, counted from the model's figures: the roofline's two sides.

Estimated from the catalog; nothing that is measured can be faster than a step that reads identical experts.
"""

from msgspec import Struct

from ernie_deploy.catalog.schema import Model
from ernie_deploy.plan.memory import BF16_BYTES, FP8_BYTES, kv_bytes_per_token
from ernie_deploy.plan.topology import Topology

# With 8-bit weights the matrix units may run at twice their bf16 peak.
FP8_PEAK = 2
# Calibrated on the published text cell, taken for an H100 (reference, sections 2.5 and 4): its median ITL is
# 83 % of the memory's bandwidth, its prompts were read at 30 % of the peak. Other cards may do worse.
BANDWIDTH_SHARE, PEAK_SHARE = 0.83, 0.30


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
