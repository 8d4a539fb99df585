"""Which parallel sizes to try for a pairing, in order, and the refusal of those that cannot be."""

from collections.abc import Iterator, Sequence

from ernie_deploy.catalog.schema import Profile
from ernie_deploy.errors import Refused
from ernie_deploy.plan.pairing import Pairing, find, size_of, whole_number
from ernie_deploy.plan.settings import Setting
from ernie_deploy.plan.topology import Topology, legal_tensor_parallel_sizes, refusal


class LayoutRefused(Refused):
    """These parallel sizes do not fit the model or the nodes; others may."""


def topologies(
    pairing: Pairing, profiles: Sequence[Profile], published: Sequence[Setting] | None
) -> Iterator[Topology]:
    """Legal sizes in the order to try; `published` are the recipe's settings, None without one."""
    pipeline = _pipeline_parallel_size(pairing, profiles)
    for size in _tensor_parallel_sizes(pairing, published, pipeline):
        topology = _topology(pairing, profiles, size, pipeline)
        _refuse_illegal(pairing, topology)
        yield topology


def _pipeline_parallel_size(pairing: Pairing, profiles: Sequence[Profile]) -> int:
    """The user's, else one stage per node; one where replicas or tensor ranks fill the nodes."""
    if chosen := find(pairing.user, "pipeline-parallel-size"):
        return whole_number(chosen)
    spans = size_of(pairing.user, "tensor-parallel-size") > pairing.gpus_of_node
    replicas = size_of(pairing.user, "data-parallel-size") > 1
    return 1 if spans or replicas or _tensor_parallel_over_nodes(pairing, profiles) else pairing.nodes


def _tensor_parallel_over_nodes(pairing: Pairing, profiles: Sequence[Profile]) -> bool:
    """Whether the layout is the recipe's: asked for as published, or drafting, which a pipeline is unproven for."""
    ids = {profile.id for profile in profiles}
    return bool(ids & {"published", "mtp"}) or find(pairing.user, "speculative-config") is not None


def _tensor_parallel_sizes(pairing: Pairing, published: Sequence[Setting] | None, pipeline: int) -> list[int]:
    """Sizes to try in order: the user's, that of the replica, what `--gpus` leaves, the published one, or all legal."""
    if chosen := find(pairing.user, "tensor-parallel-size"):
        return [whole_number(chosen)]
    if pairing.replica_tp:
        return [pairing.replica_tp]
    replicas = size_of(pairing.user, "data-parallel-size")
    most = max(1, pairing.gpus_of_node * pairing.nodes // (replicas * pipeline))
    legal = _evenly_spread(pairing, legal_tensor_parallel_sizes(pairing.model, most), replicas * pipeline)
    if pairing.gpu_ids or (pairing.nodes > 1 and replicas == 1):
        return legal[::-1]
    if published is not None:
        return [size_of(published, "tensor-parallel-size")]
    return legal


def _evenly_spread(pairing: Pairing, sizes: list[int], others: int) -> list[int]:
    """Those that give each node the same number of ranks, or all where none does."""
    return [size for size in sizes if size * others % pairing.nodes == 0] or sizes


def _topology(pairing: Pairing, profiles: Sequence[Profile], tensor: int, pipeline: int) -> Topology:
    names = {name for profile in profiles for name in profile.settings}
    return Topology(
        tensor_parallel_size=tensor,
        data_parallel_size=size_of(pairing.user, "data-parallel-size"),
        pipeline_parallel_size=pipeline,
        nodes=pairing.nodes,
        expert_parallel="enable-expert-parallel" in names
        or find(pairing.user, "enable-expert-parallel") is not None,
    )


def _refuse_illegal(pairing: Pairing, topology: Topology) -> None:
    model, target, available = pairing.model, pairing.target, pairing.gpus_of_node
    if topology.gpus > available:
        each = f" of each of the {topology.nodes} nodes" if topology.nodes > 1 else ""
        have = f"--gpus names {available}" if pairing.gpu_ids else f"one {target.id} node has {available}"
        if pairing.replicas > 1:
            have = f"and {pairing.replicas} replicas leave each of them {available}"
        raise LayoutRefused(
            f"{model.id} on {target.id}: the layout needs {topology.gpus} GPUs{each}, {have}.",
            cause=f"tensor_parallel_size {topology.tensor_parallel_size}"
            f" x data_parallel_size {topology.data_parallel_size}"
            f" x pipeline_parallel_size {topology.pipeline_parallel_size}",
        )
    if reason := refusal(model, topology):
        raise LayoutRefused(
            f"{model.id} on {target.id}: {reason}.",
            cause="vLLM refuses it, or crashes while loading",
        )
