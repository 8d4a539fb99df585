"""Which targets a host looks like, by the names and the memory of its GPUs."""

import re

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Target, Vendor
from ernie_deploy.host.examination import TOLERANCE, gib
from ernie_deploy.host.facts import Facts
from ernie_deploy.host.gpus import Gpu
from ernie_deploy.plan.memory import GIB


class Guess(Struct, frozen=True):
    """A target to go on with, and the sentence that says why; uncertain where the host is none of the targets."""

    target: str
    sentence: str
    certain: bool = True


def guess(facts: Facts, catalog: Catalog) -> Guess:
    """The target this host looks like; where none does, the nearest thing to check against."""
    vendor, gpus = _vendor(facts)
    like = [target.id for target in catalog.targets() if target.vendor == vendor and _is(gpus, target)]
    if vendor == "cpu":
        return Guess("cpu", "looks like: cpu (no GPU of NVIDIA or AMD)")
    if like:
        return Guess(like[0], f"looks like: {' or '.join(like)} ({_what(gpus)})")
    first = next(target.id for target in catalog.targets() if target.vendor == vendor)
    if gpus:
        return Guess("cpu", f"looks like no target ({_what(gpus)}); checked as cpu", certain=False)
    return Guess(
        first, f"has GPUs of {vendor.upper()} that no driver shows; checked as {first}", certain=False
    )


def _vendor(facts: Facts) -> tuple[Vendor, tuple[Gpu, ...]]:
    vendors: tuple[Vendor, ...] = ("nvidia", "amd")
    for vendor in vendors:
        if facts.gpus[vendor]:
            return vendor, facts.gpus[vendor]
    silent = [vendor for vendor in vendors if facts.machine.pci.get(vendor)]
    # A graphics card without a driver is no reason to plan for a node of that vendor: only its tool is.
    if "nvidia" in silent and facts.nvidia.installed:
        return "nvidia", ()
    return ("amd", ()) if "amd" in silent and facts.amd.control else ("cpu", ())


def _is(gpus: tuple[Gpu, ...], target: Target) -> bool:
    """Every GPU has the target's memory, and its name where the driver tells one."""
    named = any(re.search(rf"\b{target.id}\b", gpu.name, re.IGNORECASE) for gpu in gpus)
    ratios = [(gpu.memory_bytes or 0) / (target.memory_gib * GIB) for gpu in gpus]
    if target.vendor == "nvidia" and not named:
        return False
    most = float("inf") if named else 1 + TOLERANCE
    return bool(gpus) and all(1 - TOLERANCE <= ratio <= most for ratio in ratios)


def _what(gpus: tuple[Gpu, ...]) -> str:
    sizes = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    memory = f" with {gib(min(sizes))}" if sizes else ""
    return f"{len(gpus)} x {gpus[0].name or 'AMD GPU'}{memory}"
