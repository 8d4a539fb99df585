"""Which parallel sizes are legal for a model, and why the others are not."""

from msgspec import Struct

from ernie_deploy.catalog.schema import Model


class Topology(Struct, frozen=True, kw_only=True):
    """Parallel sizes of one stack; `gpus` is what they take of one node."""

    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    nodes: int = 1
    expert_parallel: bool = False

    @property
    def ranks(self) -> int:
        """Worker processes of the whole stack, one a GPU."""
        return self.tensor_parallel_size * self.data_parallel_size * self.pipeline_parallel_size

    @property
    def gpus(self) -> int:
        """GPUs taken of each node."""
        return -(-self.ranks // self.nodes)

    @property
    def spans_nodes(self) -> bool:
        """Whether tensor-parallel ranks of one stage lie on different nodes."""
        return self.gpus % self.tensor_parallel_size != 0

    @property
    def expert_shards(self) -> int:
        """Over how many ranks vLLM spreads the experts: data-parallel ranks share them too.

        Source: vLLM 0.32.0 FusedMoEParallelConfig.make, which flattens DP into TP.
        """
        return self.tensor_parallel_size * self.data_parallel_size


def pipeline_stages(layers: int, size: int) -> list[int]:
    """Layers of each stage as vLLM shares them out: what is left over goes to the stages before the last.

    Source: vLLM 0.32.0 vllm/distributed/utils.py get_pp_indices.
    """
    stages = [layers // size] * size
    for stage in range(2, layers % size + 2):
        stages[-stage] += 1
    return stages


def legal_tensor_parallel_sizes(model: Model, most: int) -> list[int]:
    """Every size up to `most` that divides the model's heads."""
    return [n for n in range(1, most + 1) if not refusal(model, Topology(tensor_parallel_size=n))]


def refusal(model: Model, topology: Topology) -> str:
    """Why vLLM would not run the model so, as one sentence; empty where it would."""
    return (
        _heads(model, topology.tensor_parallel_size)
        or _experts(model, topology)
        or _pipeline(model, topology.pipeline_parallel_size)
        or _nodes(topology)
    )


def _heads(model: Model, size: int) -> str:
    figures = model.figures
    if figures.heads % size:
        return (
            f"tensor_parallel_size {size} does not divide the {figures.heads} attention heads "
            f"of {model.id} ({figures.heads} / {size} = {figures.heads / size:g})"
        )
    # vLLM splits the KV heads, or copies them where there are fewer than GPUs.
    if figures.kv_heads % size and size % figures.kv_heads:
        return f"tensor_parallel_size {size} and the {figures.kv_heads} KV heads of {model.id} do not divide"
    if figures.intermediate_size % size:
        return f"tensor_parallel_size {size} does not divide intermediate_size {figures.intermediate_size}"
    return ""


def _experts(model: Model, topology: Topology) -> str:
    experts, shards = model.experts, topology.expert_shards
    if not experts:
        return ""
    if shards > experts.count:
        return f"{shards} ranks are more than the {experts.count} experts of {model.id}"
    widths = (experts.intermediate_size, experts.vision_intermediate_size)
    uneven = [] if topology.expert_parallel else [width for width in widths if width % shards]
    if uneven:
        return f"{shards} ranks do not divide the experts' intermediate_size {uneven[0]} of {model.id}"
    return ""


def _pipeline(model: Model, size: int) -> str:
    if size > 1 and model.figures.tied_embeddings:
        # Tried with 0.32.0: the configuration accepts it, loading then crashes
        # (`PPMissingLayer has no attribute 'weight'`).
        return f"pipeline_parallel_size {size}: {model.id} ties its embeddings, which vLLM cannot split"
    if size > model.figures.layers:
        return f"pipeline_parallel_size {size} is more than the {model.figures.layers} layers of {model.id}"
    return ""


def _nodes(topology: Topology) -> str:
    """Nodes hold the same number of ranks, and whole replicas or whole parts of one.

    Source: vLLM 0.32.0 create_engine_config and ParallelConfig.nnodes_within_dp.
    """
    replica = topology.tensor_parallel_size * topology.pipeline_parallel_size
    if topology.ranks % topology.nodes:
        return f"{topology.ranks} ranks do not spread evenly over {topology.nodes} nodes"
    of_node = topology.ranks // topology.nodes
    if of_node % replica and replica % of_node:
        return f"replicas of {replica} ranks do not split into nodes of {of_node}"
    return ""
