"""The plan as a CPU runs it: what it cannot run is left out, and what it needs is added."""

import os

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import Refused
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.settings import Setting, words

TENSOR = "tensor-parallel-size"
UNPROFILED = "skip-mm-profiling"
# What of --monitoring is started: the services whose program Debian has (docker/debian/build_image.py).
WATCHING = ("prometheus", "node-exporter")
# Of every tiny checkpoint (docker/rehearsal/tiny_model.py).
TINY_LAYERS = 4


def for_cpu(plan: Plan, cores: int = 0) -> tuple[Plan, tuple[str, ...]]:
    """The plan that is rehearsed, and a sentence for each word that differs; raises `Refused`."""
    if plan.topology.pipeline_parallel_size > TINY_LAYERS:
        raise Refused(
            f"pipeline_parallel_size {plan.topology.pipeline_parallel_size} cannot be rehearsed.",
            cause=f"the tiny checkpoint has {TINY_LAYERS} layers, and a stage needs one",
            next_step=f"rehearse with --nodes {TINY_LAYERS} or fewer: the file is the same",
        )
    cannot = {s.flag: s.why for s in Catalog().substitutions if s.flag and not s.by}
    dropped = [setting for setting in plan.settings if setting.name in cannot]
    kept = tuple(setting for setting in plan.settings if setting.name not in cannot)
    sentences = tuple(f"{_word(setting)} -> left out: {cannot[setting.name]}" for setting in dropped)
    smaller, resized = _narrower(replace(plan, settings=kept), cores or os.cpu_count() or 1)
    unprofiled, skipped = _unprofiled(smaller)
    return unprofiled, sentences + resized + skipped + _unwatched(plan)


def _unwatched(plan: Plan) -> tuple[str, ...]:
    """What of --monitoring is not started: Debian has no Grafana, and the GPUs of an exporter are not here."""
    names = ", ".join(unwatched(plan))
    return (f"{names} -> left out: no image of it can be made here, or it needs a GPU",) if names else ()


def unwatched(plan: Plan) -> tuple[str, ...]:
    """The services of --monitoring that a rehearsal leaves out."""
    return tuple(exporter.id for exporter in plan.monitoring if exporter.id not in WATCHING)


def _unprofiled(plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """Do not try the vision tower before it serves, where it is shared by ranks."""
    if plan.model.vision is None or plan.topology.tensor_parallel_size == 1:
        return plan, ()
    new = Setting(name=UNPROFILED, value=True, origin="rehearsal")
    why = next(s.why for s in Catalog().substitutions if s.flag == new.name)
    return replace(plan, settings=(*plan.settings, new)), (f"{_word(new)} added: {why}",)


def _narrower(plan: Plan, cores: int) -> tuple[Plan, tuple[str, ...]]:
    """Divide tensor_parallel_size until a node has no more ranks than its share of the cores."""
    divisor, old = _divisor(plan, cores), plan.setting(TENSOR)
    if divisor == 1 or old is None:
        return plan, ()
    size = plan.topology.tensor_parallel_size // divisor
    new = Setting(name=TENSOR, value=size, origin="rehearsal")
    settings = tuple(new if setting is old else setting for setting in plan.settings)
    topology = replace(plan.topology, tensor_parallel_size=size)
    sentence = f"{_word(old)} -> {_word(new)}: {plan.topology.ranks} ranks are too many for {cores} cores"
    return replace(plan, settings=settings, topology=topology), (sentence,)


def _divisor(plan: Plan, cores: int) -> int:
    """By how much a node has too many ranks, a power of two; 1 for one node and for Ray's cluster.

    Eight ranks of one node take their time on two cores, but they do start. Sixteen on nodes that wait for one
    another do not within any limit worth having. Ray's cluster is formed without any rank.
    """
    share, divisor = max(1, cores // plan.topology.nodes), 1
    if plan.several_nodes and not plan.uses_ray:
        while plan.topology.gpus // divisor > share and not plan.topology.tensor_parallel_size % (
            divisor * 2
        ):
            divisor *= 2
    return divisor


def _word(setting: Setting) -> str:
    return " ".join(words([setting]))
