"""A limit of host memory for `serve` on a GPU node: a proposal, for none has been run on hardware."""

from collections.abc import Mapping

from msgspec import Struct

from ernie_deploy.host.facts import Facts
from ernie_deploy.plan.memory import GIB
from ernie_deploy.plan.pairing import find
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.sizes import size_bytes

# Left to the system, to Docker and to `fetch`.
RESERVE_SHARE = 1 / 16
LEAST_RESERVE_GIB = 8
# A process of vLLM's with CUDA or ROCm, estimated; on the processor three took 2.1 GiB.
RANK_GIB = 8


class Proposal(Struct, frozen=True):
    """A value of SERVE_MEMORY and how it came about."""

    value: str
    derivation: str


def propose(facts: Facts, plan: Plan, now: Mapping[str, str]) -> Proposal | None:
    """The host's memory less a reserve; None where the limit would be nearer than the plan's estimate."""
    if not plan.target.gpus:
        return None
    have_gib = facts.machine.memory_bytes / GIB
    reserve_gib = max(LEAST_RESERVE_GIB, have_gib * RESERVE_SHARE)
    limit_gib = int((have_gib - reserve_gib) / len(plan.replicas))
    if limit_gib < needed_gib(plan, now):
        return None
    shared = f", {len(plan.replicas)} replicas share the rest" if len(plan.replicas) > 1 else ""
    derivation = (
        f"of {have_gib:.0f} GiB {reserve_gib:.0f} are left to the system{shared}; not run on hardware"
    )
    return Proposal(f"{limit_gib}g", derivation)


def needed_gib(plan: Plan, now: Mapping[str, str]) -> float:
    """Estimate of what `serve` takes of a GPU node's memory: processes, shared memory, offloaded weights."""
    offload = find(plan.settings, "cpu-offload-gb")
    each = float(offload.value) if offload and isinstance(offload.value, int | float) else 0.0
    shared = size_bytes(now["SHM_SIZE"]) or 0
    return plan.topology.gpus * (RANK_GIB + each) + shared / GIB
