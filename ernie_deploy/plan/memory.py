"""What a model takes of each GPU: weights and KV cache counted, overhead estimated."""

import math
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog.engine_schema import ExpertTiles
from ernie_deploy.catalog.schema import Model
from ernie_deploy.plan.topology import Topology, pipeline_stages

GIB = 2**30
BF16_BYTES = 2
FP8_BYTES = 1

# Estimates, not measurements; `plan` calls them so. The driver's context, the communicators
# and what CUDA or HIP graphs keep.
CONTEXT_GIB = 1.5
GRAPHS_GIB = 1.0
# Activation tensors alive at once in a decoder layer, in units of hidden_size.
LIVE_HIDDEN_STATES = 8
# Profiling runs the vision tower over one video as long as the context; at vLLM's dummy sizes that
# is 0.2 M patches where the processor shrinks frames, about 0.5 GB a tensor, eight alive at once.
ENCODER_GIB = 4.0
# Host memory beside the plan where vLLM runs on the processor: its three processes idle took 2.1 GiB in a rehearsal
# (3.1 GiB less a KV cache of 1 GiB); the rest is for the compiler and for requests.
PROCESSES_GIB = 4.0
# A context that fits fewer times than this is called tight, and is capped unless asked for:
# the overhead is an estimate, and a server that misses by little does not start.
COMFORTABLE_SEQUENCES = 2.0

# The overhead may be half again as large as estimated; a KV cache smaller than that is none.
OVERHEAD_UNCERTAINTY = 0.5
CAPPED_SEQUENCES = 4
SHOWN_GIB = 0.05

Verdict = Literal["fits", "tight", "refused"]


class Parameters(Struct, frozen=True, kw_only=True):
    """Parameter counts by how vLLM places and quantizes them."""

    embeddings: int
    attention: int
    dense: int
    experts: int
    routers: int
    norms: int
    vision: int
    mtp: int

    @property
    def total(self) -> int:
        """All of the checkpoint but the MTP layer."""
        return (
            self.embeddings + self.attention + self.dense + self.experts
            + self.routers + self.norms + self.vision
        )  # fmt: skip


class Budget(Struct, frozen=True, kw_only=True):
    """What limits a plan: the GPU, the share vLLM may take, and what the plan asks of it.

    `expert_tiles` are the steps in which the experts' kernels take a rank's share, None where they take any.
    """

    memory_gib: float
    gpu_memory_utilization: float
    fp8: bool = False
    mtp: bool = False
    cpu_offload_gib: float = 0.0
    kv_cache_gib: float | None = None
    max_num_batched_tokens: int
    max_num_seqs: int
    expert_tiles: ExpertTiles | None = None


class MemoryPlan(Struct, frozen=True, kw_only=True):
    """GiB per GPU, bytes and tokens per engine replica; only the overhead is estimated.

    `expert_padding_gib` is the part of `weights_gib` that no checkpoint fills.
    """

    budget_gib: float
    weights_gib: float
    overhead_gib: float
    kv_cache_gib: float
    kv_bytes_per_token: int
    kv_cache_tokens: int
    context_tokens: int
    expert_padding_gib: float = 0.0

    @property
    def pads_experts(self) -> bool:
        """Whether the experts' padding shows in figures of one decimal."""
        return self.expert_padding_gib >= SHOWN_GIB

    @property
    def sequences(self) -> float:
        """How many sequences of the full context the KV cache holds."""
        return self.kv_cache_tokens / self.context_tokens

    @property
    def verdict(self) -> Verdict:
        """Whether one GPU holds its share, and with how much room."""
        if self.sequences < 1 or self.kv_cache_gib < self.overhead_gib * OVERHEAD_UNCERTAINTY:
            return "refused"
        return "fits" if self.sequences >= COMFORTABLE_SEQUENCES else "tight"

    @property
    def capped_context_tokens(self) -> int:
        """The largest power of two of which the KV cache holds four."""
        return int(2 ** (max(1, self.kv_cache_tokens // CAPPED_SEQUENCES).bit_length() - 1))

    @property
    def arithmetic(self) -> str:
        """The sum in one line, for a refusal."""
        padding = f" ({self.expert_padding_gib:.1f} of them padding)" if self.pads_experts else ""
        return (
            f"{self.budget_gib:.1f} GiB usable per GPU - {self.weights_gib:.1f} weights{padding} "
            f"- {self.overhead_gib:.1f} overhead (estimated) = {self.kv_cache_gib:.1f} GiB for the KV cache, "
            f"{max(0, self.kv_cache_tokens):,} tokens"
        )


def parameters(model: Model) -> Parameters:
    """Count the parameters of a checkpoint from its architecture figures."""
    figures, hidden = model.figures, model.figures.hidden_size
    attention = hidden * figures.head_dim * 2 * (figures.heads + figures.kv_heads)
    dense_mlp = 3 * hidden * figures.intermediate_size
    moe_layers = figures.layers - model.experts.first_layer if model.experts else 0
    shared, experts, router = _moe_layer(model)
    return Parameters(
        embeddings=figures.vocab_size * hidden * (1 if figures.tied_embeddings else 2),
        attention=attention * figures.layers,
        dense=dense_mlp * (figures.layers - moe_layers) + shared * moe_layers,
        experts=experts * moe_layers,
        routers=router * moe_layers,
        norms=hidden * (2 * figures.layers + 1),
        vision=model.vision.parameters if model.vision else 0,
        mtp=attention + dense_mlp + 2 * hidden * hidden if model.mtp else 0,
    )


def _moe_layer(model: Model) -> tuple[int, int, int]:
    """Parameters of one MoE layer: shared experts, routed experts, routers with their bias."""
    if not (experts := model.experts):
        return 0, 0, 0
    hidden = model.figures.hidden_size
    kinds = 2 if experts.vision_intermediate_size else 1
    width = experts.intermediate_size + experts.vision_intermediate_size
    shared = 3 * hidden * experts.intermediate_size * experts.shared
    return shared, experts.count * 3 * hidden * width, kinds * experts.count * (hidden + 1)


def weight_bytes(model: Model) -> int:
    """Bytes of the published BF16 checkpoint: what is downloaded and read."""
    return BF16_BYTES * (parameters(model).total + parameters(model).mtp)


def weights_per_gpu(model: Model, topology: Topology, budget: Budget) -> float:
    """Bytes of weights on the fullest GPU; embeddings, routers, norms and vision stay BF16."""
    last, largest = 0, 0.0
    for layers in pipeline_stages(model.figures.layers, topology.pipeline_parallel_size):
        first, last = last, last + layers
        largest = max(largest, _stage_bytes(model, topology, budget, first, last))
    return largest


def _stage_bytes(model: Model, topology: Topology, budget: Budget, first: int, last: int) -> float:
    """Bytes of the layers from `first` up to `last` on one GPU, with the embeddings at either end."""
    figures, count, tensor = model.figures, parameters(model), topology.tensor_parallel_size
    shared, _, _ = _moe_layer(model)
    moe = max(0, last - max(first, model.experts.first_layer)) if model.experts else 0
    dense = 3 * figures.hidden_size * figures.intermediate_size * (last - first - moe) + shared * moe
    share = (last - first) / figures.layers
    drafts = count.mtp if budget.mtp and last == figures.layers else 0
    routed = moe * _experts_of_rank(model, topology, budget.expert_tiles)
    linear = (count.attention * share + dense + drafts) / tensor + routed
    ends = ((first == 0) + (last == figures.layers)) / 2
    # Every stage has the vision tower.
    copied = (count.routers + count.norms) * share + count.vision
    linear_bytes = FP8_BYTES if budget.fp8 else BF16_BYTES
    return linear * linear_bytes + BF16_BYTES * (count.embeddings * ends / tensor + copied)


def _experts_of_rank(model: Model, topology: Topology, tiles: ExpertTiles | None) -> float:
    """Parameters of one layer's routed experts on one GPU, as wide as vLLM allocates them."""
    if not (experts := model.experts):
        return 0.0
    # Of whole experts a rank has a part of their number, of sliced ones a part of their width.
    slices = 1 if topology.expert_parallel else topology.expert_shards
    widths = [width / slices for width in (experts.intermediate_size, experts.vision_intermediate_size)]
    columns = sum(tiles.rounded(width) if tiles else width for width in widths)
    return experts.count * slices / topology.expert_shards * 3 * model.figures.hidden_size * columns


def kv_bytes_per_token(model: Model, topology: Topology, *, mtp: bool = False) -> int:
    """Bytes one token takes of one GPU's KV cache; KV heads are copied where they are too few."""
    figures = model.figures
    heads = max(1, figures.kv_heads // topology.tensor_parallel_size)
    layers = max(pipeline_stages(figures.layers, topology.pipeline_parallel_size)) + (1 if mtp else 0)
    return 2 * layers * heads * figures.head_dim * BF16_BYTES


def overhead_gib(model: Model, topology: Topology, budget: Budget) -> float:
    """Estimate of everything that is neither weights nor KV cache, in GiB."""
    figures, experts = model.figures, model.experts
    width = LIVE_HIDDEN_STATES * figures.hidden_size
    if experts:
        routed = experts.per_token * experts.intermediate_size
        width += 3 * routed // topology.tensor_parallel_size
    activations = budget.max_num_batched_tokens * width * BF16_BYTES
    # The sampler keeps logits and a sorted copy in 32 bits.
    logits = budget.max_num_seqs * figures.vocab_size * 4 * 2
    encoder_gib = ENCODER_GIB if model.vision else 0.0
    return CONTEXT_GIB + GRAPHS_GIB + encoder_gib + (activations + logits) / GIB


def serve_memory_gib(memory: MemoryPlan) -> int:
    """The most host memory a server on the processor may take, in GiB: derived from its plan."""
    return math.ceil(memory.budget_gib + PROCESSES_GIB)


def plan_memory(model: Model, topology: Topology, budget: Budget, context_tokens: int) -> MemoryPlan:
    """Share out one GPU's memory among weights, overhead and KV cache."""
    usable = budget.memory_gib * budget.gpu_memory_utilization
    allocated = weights_per_gpu(model, topology, budget) / GIB
    padding = allocated - weights_per_gpu(model, topology, replace(budget, expert_tiles=None)) / GIB
    weights = max(0.0, allocated - budget.cpu_offload_gib)
    overhead = overhead_gib(model, topology, budget)
    token_bytes = kv_bytes_per_token(model, topology, mtp=budget.mtp)
    if budget.kv_cache_gib is not None:
        usable = weights + overhead + budget.kv_cache_gib
    kv_cache = usable - weights - overhead
    return MemoryPlan(
        budget_gib=usable,
        weights_gib=weights,
        overhead_gib=overhead,
        kv_cache_gib=kv_cache,
        kv_bytes_per_token=token_bytes,
        kv_cache_tokens=int(kv_cache * GIB // token_bytes),
        context_tokens=context_tokens,
        expert_padding_gib=padding,
    )
