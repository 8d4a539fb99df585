"""The plan as a CPU runs it: what it cannot run is left out, and ranks over nodes are no more than its cores."""

import os

from msgspec.structs import replace

from ernie_deploy.flags import Setting, words
from ernie_deploy.plan import Plan

# What vLLM's CPU platform cannot run, and why.
CPU_CANNOT = {
    "quantization": "online FP8 needs a GPU's kernels",
    "gpu-memory-utilization": "on the CPU platform it is a share of this host's RAM",
    "cpu-offload-gb": "the weights are in host memory already",
}
TENSOR = "tensor-parallel-size"


def fitted(plan: Plan, cores: int = 0) -> tuple[Plan, tuple[str, ...]]:
    """The plan that is rehearsed, and a sentence for each word that differs from the rendering's."""
    dropped = [setting for setting in plan.settings if setting.name in CPU_CANNOT]
    kept = tuple(setting for setting in plan.settings if setting.name not in CPU_CANNOT)
    said = tuple(f"{_word(setting)} -> left out: {CPU_CANNOT[setting.name]}" for setting in dropped)
    smaller, resized = _fewer_ranks(replace(plan, settings=kept), cores or os.cpu_count() or 1)
    return smaller, said + resized


def _fewer_ranks(plan: Plan, cores: int) -> tuple[Plan, tuple[str, ...]]:
    """Divide tensor_parallel_size until a node has no more ranks than its share of the cores.

    One node keeps its ranks: eight of them take their time on two cores, but they do start. Sixteen on
    nodes that wait for one another do not within any limit worth having. Ray's cluster needs no rank at all.
    """
    tensor, share = plan.topology.tensor_parallel_size, max(1, cores // plan.topology.nodes)
    divisor = 1
    while (
        plan.several_nodes
        and not plan.uses_ray
        and plan.topology.gpus // divisor > share
        and tensor % (divisor * 2) == 0
    ):
        divisor *= 2
    if divisor == 1:
        return plan, ()
    new = Setting(name=TENSOR, value=tensor // divisor, origin="rehearsal")
    settings = tuple(new if setting.name == TENSOR else setting for setting in plan.settings)
    topology = replace(plan.topology, tensor_parallel_size=tensor // divisor)
    why = f"{plan.topology.ranks} ranks are too many for {cores} cores"
    old = plan.setting(TENSOR)
    said = (f"{_word(old)} -> {_word(new)}: {why}",) if old else ()
    return replace(plan, settings=settings, topology=topology), said


def _word(setting: Setting) -> str:
    return " ".join(words([setting]))
