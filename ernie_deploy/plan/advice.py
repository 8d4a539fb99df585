"""Advice on parallel sizes and precision; each piece is resolved before it is given."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from ernie_deploy.catalog.schema import Row
from ernie_deploy.errors import KitError
from ernie_deploy.plan.pairing import Pairing, size_of
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.topology import legal_tensor_parallel_sizes

if TYPE_CHECKING:
    from ernie_deploy.plan.plan import Plan

# A plan of another request; raises `KitError` where there is none.
Resolve: TypeAlias = "Callable[[Request], Plan]"
SIZES = {"tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size"}
# More nodes than this are no answer to a layout that does not fit.
MOST_NODES = 8
PADDING = (
    "{gib:.1f} GiB of each GPU are padding: the experts' kernels take a rank's share of their width in whole tiles,"
    " and vLLM allocates it rounded up."
)


def instead(request: Request, pairing: Pairing, resolve: Resolve) -> str:
    """What else can be asked for in place of sizes that were refused, as the words to type; '' where nothing can.

    The first of each kind: the same replicas in another size, fewer replicas, another size, whole experts, more nodes,
    FP8.
    """
    asked = _by_options(request, pairing)
    kinds = (
        _fewer_servers, _smaller_replicas, _fewer_replicas, _other_sizes, _unpadded, _replicas_over_nodes, _more_nodes, _eight_bit,
    )  # fmt: skip
    answers = [words for kind in kinds for words in kind(asked, pairing, resolve)]
    return ", or ".join(dict.fromkeys(answers))


def notes(plan: "Plan", row: Row | None, resolve: Resolve) -> Iterator[str]:
    """What of the node a plan takes and why it is FP8, each with what the user can do about it."""
    if not plan.replicas:
        return
    if plan.target.gpus:
        yield _on_gpus(plan, row, resolve)
    if plan.memory.pads_experts:
        yield f"{PADDING.format(gib=plan.memory.expert_padding_gib)}{_whole_experts(plan, resolve)}"
    if "fp8" in set(plan.profiles) - set(plan.request.profiles):
        published = row is not None and "quantization" in row.settings
        why = f"as published for {plan.target.id}" if published else "for memory"
        yield f"FP8 was chosen {why}.{_bf16_instead(plan, resolve)}"


def _on_gpus(plan: "Plan", row: Row | None, resolve: Resolve) -> str:
    topology, there = plan.topology, plan.target.gpus
    if topology.nodes > 1:
        return f"Uses {topology.gpus} of the {there} GPUs of each of {topology.nodes} nodes."
    published = row is not None and topology.tensor_parallel_size == row.settings.get(
        "tensor-parallel-size", 1
    )
    why = "the published layout" if published else "the memory plan"
    note = f"Uses {plan.gpus} of the node's {there} GPUs ({why}{_each(plan)})."
    # Where the user narrowed the GPUs, or said how often to serve, the rest is not on offer.
    return note if plan.request.gpus or len(plan.replicas) > 1 else note + _rest_of_node(plan, resolve)


def _each(plan: "Plan") -> str:
    """What of them one replica has, where there are several."""
    several = len(plan.replicas) > 1
    return f", {plan.topology.gpus} for each of {len(plan.replicas)} replicas" if several else ""


def _rest_of_node(plan: "Plan", resolve: Resolve) -> str:
    """The sentence on GPUs that further replicas of the same server would take; '' where none would."""
    topology, there = plan.topology, plan.target.gpus
    per_replica = topology.gpus // topology.data_parallel_size
    for replicas in range(there // per_replica, topology.data_parallel_size, -1):
        more = _plan_of(replace(plan.request, dp=replicas), resolve)
        if more and _multiplied(plan, more, replicas):
            used = more.topology.gpus
            return f" --dp {replicas} uses {'the rest' if used == there else f'{used} of them'}."
    return ""


def _multiplied(plan: "Plan", more: "Plan", replicas: int) -> bool:
    """Whether `more` is the same server so many times, with no shorter context."""
    same = replace(more.topology, data_parallel_size=plan.topology.data_parallel_size) == plan.topology
    return (
        same
        and more.topology.data_parallel_size == replicas
        and more.profiles == plan.profiles
        and more.memory.context_tokens >= plan.memory.context_tokens
    )


def _bf16_instead(plan: "Plan", resolve: Resolve) -> str:
    """How BF16 is kept where the kit chose FP8, and the arithmetic where the same nodes cannot keep it.

    They can for replicas that share their experts: one of them alone would not fit, so FP8 is the default.
    """
    kept = replace(plan.request, profiles=(*plan.request.profiles, "bf16"))
    try:
        resolve(kept)
    except KitError as refusal:
        why = f" BF16 does not fit {plan.target.id}: {refusal.cause}."
        more = _first(_nodes_that_fit(kept, resolve))
        return why + "".join(f" --profile bf16 --nodes {count} keeps BF16." for count in more)
    return " --profile bf16 keeps BF16."


def _whole_experts(plan: "Plan", resolve: Resolve) -> str:
    """The sentence on what whole experts return, where the same layout can have them; '' elsewhere."""
    whole = _plan_of(replace(plan.request, profiles=(*plan.request.profiles, "expert-parallel")), resolve)
    if not whole or replace(whole.topology, expert_parallel=False) != plan.topology:
        return ""
    returned = plan.memory.weights_gib - whole.memory.weights_gib
    return f" --profile expert-parallel needs none and returns {returned:.1f} GiB (derived from source, not measured)."


def _plan_of(request: Request, resolve: Resolve) -> "Plan | None":
    try:
        return resolve(request)
    except KitError:
        return None


def _by_options(request: Request, pairing: Pairing) -> Request:
    """The same request with each size as an option, wherever the user wrote it, so that it can be varied."""
    sizes = {
        option: size_of(pairing.user, name)
        for option, name in SIZES.items()
        if any(setting.name == name for setting in pairing.user)
    }
    pairs = tuple(pair for pair in request.pairs if _key(pair) not in SIZES.values())
    return replace(request, **sizes, pairs=pairs)


def _key(pair: str) -> str:
    return pair.partition("=")[0].removeprefix("--").replace("_", "-")


def _smaller_replicas(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    """As many replicas, each of the largest size that fits."""
    if (asked.dp or 1) > 1:
        sizes = (size for size in _legal(pairing)[::-1] if size != asked.tp)
        fitting = (size for size in sizes if _plan_of(replace(asked, tp=size), resolve))
        yield from (f"--dp {asked.dp} with --tp {size}" for size in _first(fitting))


def _fewer_servers(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    """Fewer servers behind the gateway, each the same."""
    del pairing
    counts = range(asked.replicas - 1, 0, -1)
    yield from (
        f"--replicas {count}"
        for count in _first(n for n in counts if _plan_of(replace(asked, replicas=n), resolve))
    )


def _fewer_replicas(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    del pairing
    most = min(asked.dp or 1, 64)
    fitting = (count for count in range(most - 1, 1, -1) if _plan_of(replace(asked, dp=count), resolve))
    same = f" with --tp {asked.tp}" if asked.tp else ""
    yield from (f"--dp {count}{same}" for count in _first(fitting))


def _other_sizes(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    """Every size of one server that fits."""
    if asked.tp and (asked.dp or 1) == 1:
        sizes = (size for size in _legal(pairing) if size != asked.tp)
        yield from (f"--tp {size}" for size in sizes if _plan_of(replace(asked, tp=size), resolve))


def _replicas_over_nodes(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    """A replica a node, where one server cannot span them."""
    del pairing
    if asked.nodes > 1 and not asked.dp:
        replicas = replace(asked, dp=asked.nodes)
        yield from [f"--nodes {asked.nodes} --dp {asked.nodes}"] if _plan_of(replicas, resolve) else []


def _more_nodes(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    if not pairing.target.gpus:
        return
    yield from (f"--nodes {count}" for count in _first(_nodes_that_fit(asked, resolve)))


def _nodes_that_fit(asked: Request, resolve: Resolve) -> Iterator[int]:
    """Larger numbers of nodes that the request has a plan for."""
    counts = range(asked.nodes + 1, MOST_NODES + 1)
    return (count for count in counts if _plan_of(replace(asked, nodes=count), resolve))


def _eight_bit(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    """FP8 in place of BF16, where that is what the user had decided."""
    del pairing
    if "bf16" in asked.profiles:
        profiles = tuple("fp8" if profile == "bf16" else profile for profile in asked.profiles)
        fits = _plan_of(replace(asked, profiles=profiles), resolve)
        yield from ["--profile fp8 in place of bf16"] if fits else []


def _unpadded(asked: Request, pairing: Pairing, resolve: Resolve) -> Iterator[str]:
    """Whole experts, where sliced ones would be padded."""
    if pairing.engine.expert_tiles_of("", pairing.target.engine_defaults.moe_backend):
        profiles = tuple(dict.fromkeys((*asked.profiles, "expert-parallel")))
        fits = profiles != asked.profiles and _plan_of(replace(asked, profiles=profiles), resolve)
        yield from ["--profile expert-parallel"] if fits else []


def _legal(pairing: Pairing) -> list[int]:
    return legal_tensor_parallel_sizes(pairing.model, pairing.gpus_of_node)


def _first(numbers: Iterator[int]) -> list[int]:
    return [number] if (number := next(numbers, 0)) else []
