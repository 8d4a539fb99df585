"""Chooses precision and parallel sizes: the published layout, else the fewest GPUs that fit."""

from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog.engine_schema import ExpertTiles
from ernie_deploy.catalog.schema import Model, Profile, Row, Target
from ernie_deploy.errors import Refused
from ernie_deploy.plan import recipe
from ernie_deploy.plan.candidates import LayoutRefused, topologies
from ernie_deploy.plan.memory import Budget, MemoryPlan, plan_memory
from ernie_deploy.plan.pairing import Pairing, find, float_of, share_of, size_of, whole_number
from ernie_deploy.plan.settings import Setting, as_settings, merge
from ernie_deploy.plan.topology import Topology

# Below this vLLM warns that a draft token per sequence crowds the batch.
MTP_MIN_BATCHED_TOKENS = 8192
EIGHT_BIT = ("fp8", "mxfp8", "int8")


class Layout(Struct, frozen=True, kw_only=True):
    """One way to run a pairing: flags, parallel sizes and what they take of a GPU."""

    profiles: tuple[Profile, ...]
    row: Row | None
    reading: recipe.Reading
    topology: Topology
    settings: tuple[Setting, ...]
    memory: MemoryPlan

    @property
    def drafts(self) -> bool:
        """Whether it decodes speculatively."""
        return find(self.settings, "speculative-config") is not None

    @property
    def differences(self) -> tuple[str, ...]:
        """Where this differs from the published command, sentence by sentence; its sizes last."""
        here = [s for s in self.settings if s.name in ("tensor-parallel-size", "pipeline-parallel-size")]
        return (*self.reading.differences, *recipe.sizes_differ(self.reading, here, self.topology.nodes))


def choose(pairing: Pairing) -> Layout:
    """The first layout that fits, BF16 before FP8; raises `Refused` with the arithmetic.

    `--dp` multiplies the replica that would be there without it, with its precision and its tensor_parallel_size.
    """
    if _multiplies(pairing) and (replica := _replica(pairing)):
        size = replica.topology.tensor_parallel_size
        pairing = replace(pairing, profiles=replica.profiles, replica_tp=size)
    tried: list[Layout] = []
    for profiles in _precisions(pairing):
        for layout in _layouts(pairing, profiles):
            if layout.memory.verdict != "refused":
                return _capped(layout, pairing)
            tried.append(layout)
    raise _does_not_fit(pairing, tried)


def _multiplies(pairing: Pairing) -> bool:
    """Whether replicas are asked for and nothing else says how large each one is: neither --tp nor --gpus."""
    decided = find(pairing.user, "tensor-parallel-size") or pairing.gpu_ids
    return size_of(pairing.user, "data-parallel-size") > 1 and not decided


def _replica(pairing: Pairing) -> Layout | None:
    """What would serve on one node without --dp; None where one replica alone does not fit there."""
    user = tuple(setting for setting in pairing.user if setting.name != "data-parallel-size")
    try:
        return choose(replace(pairing, user=user, nodes=1))
    except Refused:
        return None


def _precisions(pairing: Pairing) -> list[tuple[Profile, ...]]:
    """The profiles asked for, then the same with FP8; a recipe published in FP8 alone comes first."""
    asked = {profile.id for profile in pairing.profiles}
    decided = {"fp8", "bf16"} & asked or find(pairing.user, "quantization")
    if pairing.target.fp8 == "none" or decided:
        return [pairing.profiles]
    both = [pairing.profiles, (*pairing.profiles, pairing.fp8)]
    rows = [_row(pairing, profiles) for profiles in both]
    return both if rows[0] or not rows[1] else both[::-1]


def _row(pairing: Pairing, profiles: Sequence[Profile]) -> Row | None:
    ids = [profile.id for profile in profiles]
    # Replicas over nodes are each the one-node command.
    nodes = 1 if size_of(pairing.user, "data-parallel-size") > 1 else pairing.nodes
    return recipe.row_for(pairing.recipes, pairing.model, pairing.target, ids, nodes=nodes)


def _layouts(pairing: Pairing, profiles: tuple[Profile, ...]) -> Iterator[Layout]:
    ids = [profile.id for profile in profiles]
    row = _row(pairing, profiles)
    version, known = pairing.engine.version, pairing.recipes
    reading = recipe.read(row, known, version, pairing.model, ids) if row else recipe.Reading()
    for topology in topologies(pairing, profiles, reading.settings if row else None):
        settings = _settings(pairing, profiles, reading, topology)
        memory = memory_of(pairing, topology, settings)
        yield Layout(
            profiles=profiles, row=row, reading=reading,
            topology=topology, settings=settings, memory=memory,
        )  # fmt: skip


def _settings(
    pairing: Pairing,
    profiles: Sequence[Profile],
    reading: recipe.Reading,
    topology: Topology,
) -> tuple[Setting, ...]:
    """All flags, later layers winning: model, profiles, recipe, layout, user."""
    merged = merge(
        _of_model(pairing),
        _of_topology(topology),
        (setting for profile in profiles for setting in of_profile(profile, pairing.model)),
        (s for s in reading.settings if s.name != "tensor-parallel-size" or whole_number(s) == topology.tensor_parallel_size),
        pairing.user,
    )  # fmt: skip
    return merge(merged, _of_mtp(merged, pairing.target), pairing.user)


def _of_model(pairing: Pairing) -> list[Setting]:
    """What the checkpoint needs; tokenizer and code are of the revision that was asked for."""
    model, asked, local = pairing.model, find(pairing.user, "revision"), pairing.local_weights
    origin = f"model {model.id}"
    settings = as_settings({"served-model-name": model.hf_id}, origin) if local else []
    pinned_by = pairing.lock_path or origin
    revision = asked or Setting(name="revision", value=model.revision, origin=pinned_by)
    if revision.value != "main" and not local:
        names = ["revision", "tokenizer-revision"] + ["code-revision"] * model.trust_remote_code
        settings += [replace(revision, name=name) for name in names]
    if model.trust_remote_code:
        settings.append(Setting(name="trust-remote-code", value=True, origin=origin))
    return settings


def _of_topology(topology: Topology) -> list[Setting]:
    sizes = {
        "tensor-parallel-size": topology.tensor_parallel_size,
        "data-parallel-size": topology.data_parallel_size,
        "pipeline-parallel-size": topology.pipeline_parallel_size,
    }
    return as_settings({k: v for k, v in sizes.items() if v > 1}, _origin(topology))


def _origin(topology: Topology) -> str:
    """Why the sizes are what they are."""
    if topology.nodes == 1 or topology.data_parallel_size > 1:
        return "memory plan: the fewest GPUs that fit"
    if topology.pipeline_parallel_size > 1:
        return "kit: tensor parallel within a node, pipeline across"
    return "kit: tensor parallel over the GPUs of all nodes"


def of_profile(profile: Profile, model: Model) -> list[Setting]:
    """What one profile sets, its parsers taken from the model."""
    origin = f"profile {profile.id}"
    parsers = {flag: getattr(model, flag.replace("-", "_")) for flag in profile.parsers}
    return as_settings({**parsers, **profile.settings}, origin)


def _of_mtp(settings: Sequence[Setting], target: Target) -> list[Setting]:
    """Room for draft tokens; without it vLLM halves its own batch and warns."""
    if not find(settings, "speculative-config"):
        return []
    default = target.engine_defaults.max_num_batched_tokens
    return as_settings(
        {"max-num-batched-tokens": max(MTP_MIN_BATCHED_TOKENS, default)},
        f"hardware: max({MTP_MIN_BATCHED_TOKENS}, {target.id}'s default {default}), room for draft tokens",
    )


def memory_of(pairing: Pairing, topology: Topology, settings: Sequence[Setting]) -> MemoryPlan:
    """What the pairing takes of each GPU in this layout; raises `KitError` where a flag makes no sense."""
    model, context = pairing.model, _context_tokens(pairing.model, settings)
    if find(settings, "language-model-only"):
        model = replace(model, vision=None)
    return plan_memory(model, topology, _budget(pairing, settings), context)


def _context_tokens(model: Model, settings: Sequence[Setting]) -> int:
    asked = find(settings, "max-model-len")
    context = whole_number(asked) if asked else model.context_tokens
    if context > model.context_tokens:
        raise Refused(
            f"{model.id} has a context of {model.context_tokens:,} tokens; {context:,} were asked for.",
            cause="vLLM refuses a max_model_len above the model's own",
            next_step=f"use --max-model-len {model.context_tokens} or less",
        )
    return context


def _budget(pairing: Pairing, settings: Sequence[Setting]) -> Budget:
    target, defaults = pairing.target, pairing.target.engine_defaults
    quantization, tiles = find(settings, "quantization"), expert_tiles(pairing, settings)
    return Budget(
        memory_gib=target.memory_gib,
        gpu_memory_utilization=share_of(settings, pairing.engine.gpu_memory_utilization),
        fp8=quantization is not None and str(quantization.value).startswith(EIGHT_BIT),
        mtp=find(settings, "speculative-config") is not None,
        cpu_offload_gib=float_of(settings, "cpu-offload-gb", 0.0),
        kv_cache_gib=pairing.vendor.kv_cache_gib,
        max_num_batched_tokens=size_of(settings, "max-num-batched-tokens", defaults.max_num_batched_tokens),
        max_num_seqs=size_of(settings, "max-num-seqs", defaults.max_num_seqs),
        expert_tiles=tiles if tiles and tiles.padded else None,
    )


def expert_tiles(pairing: Pairing, settings: Sequence[Setting]) -> ExpertTiles | None:
    """The steps in which the experts' kernels take their width, by precision and backend."""
    quantization, asked = find(settings, "quantization"), find(settings, "moe-backend")
    automatic = pairing.target.engine_defaults.moe_backend
    backend = automatic if not asked or asked.value == "auto" else str(asked.value)
    return pairing.engine.expert_tiles_of(str(quantization.value) if quantization else "", backend)


def _capped(layout: Layout, pairing: Pairing) -> Layout:
    """Cap the context where it fits less than twice, unless the user chose it."""
    memory = layout.memory
    if memory.verdict == "fits" or find(pairing.user, "max-model-len"):
        return layout
    cap = memory.capped_context_tokens
    origin = f"memory plan: the KV cache holds {memory.kv_cache_tokens:,} tokens (estimated)"
    settings = merge(layout.settings, as_settings({"max-model-len": cap}, origin))
    return replace(layout, settings=settings, memory=replace(memory, context_tokens=cap))


def _does_not_fit(pairing: Pairing, tried: Sequence[Layout]) -> LayoutRefused:
    best = max(tried, key=lambda layout: layout.memory.kv_cache_gib)
    fp8 = find(best.settings, "quantization")
    return LayoutRefused(
        f"{pairing.model.id} does not fit {pairing.target.id}"
        f" ({best.topology.nodes * best.topology.gpus} x {pairing.target.memory_gib:g} GiB, {fp8.value if fp8 else 'BF16'}).",
        cause=best.memory.arithmetic,
        next_step="ernie-deploy models --json shows where it fits",
    )
