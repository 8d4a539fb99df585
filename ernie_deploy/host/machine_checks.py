"""Checks of the machine: architecture, clock, memory, disk and ports."""

from collections.abc import Iterator

from ernie_deploy.host.examination import Examination, gib
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.port_checks import ports
from ernie_deploy.plan.exposure import is_in_clear, is_open, left_open
from ernie_deploy.plan.memory import GIB
from ernie_deploy.plan.settings import value_of
from ernie_deploy.plan.sizes import size_bytes

# As docker/scripts/fetch.py, which refuses what does not fit before its first byte.
DISK_MARGIN = 1.05
CLOSE = (
    "set BIND_ADDR=127.0.0.1 in .env and forward the port; for others render it with --gateway, or with"
    " --accept-open-routes where a firewall or a proxy of yours keeps strangers out"
)
IN_CLEAR = (
    "The gateway is published on {address} without TLS: anyone on the network path can read keys and prompts."
)
ADD_TLS = "render it with --tls files, or let a proxy of yours that speaks TLS stand before it on this host"
KEEP_OUT = "let nothing but your own proxy or network reach it; --gateway needs neither"


def architecture(examination: Examination) -> Iterator[Finding]:
    """The image exists for this processor."""
    machine, published = examination.facts.machine, examination.vendor.architectures
    if not machine.kernel:
        yield unknown("host", "The kernel's version could not be read.")
    elif machine.architecture in published:
        yield ok("host", f"{machine.kernel} on {machine.architecture}.")
    else:
        known = " and ".join(published)
        sentence = (
            f"{machine.kernel} on {machine.architecture}; {examination.plan.image} is published for {known}."
        )
        yield error("host", sentence, f"use a host of {known}")


def clock(examination: Examination) -> Iterator[Finding]:
    """The clock is right: TLS to the hub fails where it is not."""
    state = examination.facts.machine.synchronised
    if state is None:
        yield unknown("clock", "Nothing tells whether the clock is synchronised.")
    elif state:
        yield ok("clock", "The clock is synchronised.")
    else:
        sentence = "The clock is not synchronised; downloads fail where it is wrong."
        yield warning("clock", sentence, "sudo timedatectl set-ntp true")


def memory(examination: Examination) -> Iterator[Finding]:
    """The host has the memory that the plan puts there."""
    machine = examination.facts.machine
    need = _host_bytes(examination) * len(examination.plan.replicas)
    if not machine.memory_bytes:
        yield unknown("memory", "This host's memory could not be read.")
        return
    have = f"{gib(machine.memory_bytes)} of memory, {gib(machine.available_bytes)} available"
    asked = f"the plan puts about {gib(need)} there"
    if need > machine.memory_bytes:
        yield error("memory", f"{have}; {asked}.", "take a smaller model, or a host with more memory")
    elif need > machine.available_bytes and not examination.runs:
        yield warning("memory", f"{have}; {asked}.", "stop what else uses it: ps aux --sort=-rss | head")
    else:
        yield ok("memory", f"{have}{f'; {asked}' if need else ''}.")


def _host_bytes(examination: Examination) -> float:
    """Weights and cache on a CPU target, what is offloaded on a GPU; all estimates of the plan."""
    plan, planned = examination.plan, examination.vendor.kv_cache_gib
    if planned is not None:
        cache = _number(examination.values["CPU_KV_CACHE_GIB"], planned)
        return GIB * (plan.memory.budget_gib - planned + cache)
    offload = value_of(plan.settings, "cpu-offload-gb", 0)
    return GIB * offload * plan.topology.gpus if isinstance(offload, int | float) else 0


def _number(text: str, default: float) -> float:
    try:
        return float(text)
    except ValueError:
        return default


def memory_limit(examination: Examination) -> Iterator[Finding]:
    """A limit of host memory is a size, and not less than the plan puts there."""
    text, need = examination.values["SERVE_MEMORY"], _host_bytes(examination)
    limit = size_bytes(text)
    if limit is None:
        yield error(
            "memory-limit", f"SERVE_MEMORY={text} is not a size.", "write it as 200g in .env, or 0 for none"
        )
    elif 0 < limit < need:
        sentence = f"SERVE_MEMORY={text} is less than the {gib(need)} that the plan puts there: the server would be killed."
        yield error("memory-limit", sentence, "raise it in .env, or lower CPU_KV_CACHE_GIB")


def shared_memory(examination: Examination) -> Iterator[Finding]:
    """SHM_SIZE is memory of the host."""
    if examination.plan.security.host_ipc:
        return  # the host's own /dev/shm is used instead
    shm_size, have = examination.values["SHM_SIZE"], examination.facts.machine.memory_bytes
    size, each = size_bytes(shm_size), len(examination.plan.replicas)
    if size is None:
        yield error("shared-memory", f"SHM_SIZE={shm_size} is not a size.", "write it as 16g in .env")
    elif have and size * each > have / 2:
        sentence = f"SHM_SIZE={shm_size}{f' for each of {each} replicas' if each > 1 else ''} is more than half of this host's {gib(have)}."
        yield warning("shared-memory", sentence, examination.command("doctor", "--write-env"))
    else:
        yield ok("shared-memory", f"SHM_SIZE={shm_size}.")


def disk(examination: Examination) -> Iterator[Finding]:
    """The weights have room where they are kept."""
    files, plan = examination.files, examination.plan
    need = plan.weight_bytes * DISK_MARGIN
    if plan.request.weights:
        return
    if (files.stamp and files.stamp.kind == "file") or examination.runs:
        yield ok("disk", f"The weights are there already; {_room(examination)}.")
    elif files.free_bytes is None:
        where = files.disk or "Docker's data folder"
        yield unknown("disk", f"The free space of {where} could not be read; the weights take {gib(need)}.")
    elif files.free_bytes < need:
        sentence = (
            f"{_room(examination)}; the weights take {gib(plan.weight_bytes)}, with a margin {gib(need)}."
        )
        yield error("disk", sentence, "make room, or set HF_CACHE_DIR in .env to a folder of a larger disk")
    else:
        yield ok("disk", f"{_room(examination)}; the weights take {gib(plan.weight_bytes)}.")


def _room(examination: Examination) -> str:
    free = examination.files.free_bytes
    return f"{gib(free)} are free at {examination.files.disk}" if free is not None else "free space unknown"


def exposure(examination: Examination) -> Iterator[Finding]:
    """Nobody else reaches the API: vLLM's key leaves routes open."""
    address, request = examination.values["BIND_ADDR"], examination.plan.request
    if is_in_clear(request, address):
        yield warning("exposure", IN_CLEAR.format(address=address), ADD_TLS)
    if examination.is_worker or not is_open(request, address):
        return
    asks = "requires no key"
    if request.api_key_file:
        asks = f"{', '.join(left_open(examination.engine.api_key, examination.plan.settings))} ask for no key"
    sentence = f"The API is published on {address}, and {asks}"
    if request.accept_open_routes:
        yield warning("exposure", f"{sentence}: --accept-open-routes says that this is meant.", KEEP_OUT)
    else:
        yield error("exposure", f"{sentence}.", CLOSE)


CHECKS = (architecture, clock, memory, memory_limit, shared_memory, disk, ports, exposure)
OF_A_GATEWAY = (clock, ports, exposure)
