"""Checks of GPUs that hold for any vendor: how many, how large, whole, free, without errors."""

from collections.abc import Iterator, Sequence

from ernie_deploy.host.examination import TOLERANCE, Examination, gib
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.gpus import ANY_GPU, Gpu, Holder
from ernie_deploy.plan.memory import GIB

# An idle driver keeps some hundred MiB for itself.
IDLE_BYTES = GIB
SHOWN_PROCESSES = 3


def count(examination: Examination) -> Iterator[Finding]:
    """The GPUs that the plan names are there."""
    if not examination.gpus:
        return
    have, plan = len(examination.gpus), examination.plan
    missing = [gpu for gpu in plan.gpu_ids if gpu >= have]
    names = " and ".join(dict.fromkeys(gpu.name for gpu in examination.gpus if gpu.name))
    installed = f"{have} x {names or plan.target.vendor.upper()}"
    if not missing:
        yield ok("gpus", f"{installed}; the plan uses GPU {numbers(plan.gpu_ids)}.")
        return
    yield error(
        "gpus", f"{installed}, and the plan uses GPU {numbers(plan.gpu_ids)}.",
        f"choose those that are there with --gpus {numbers(range(min(have, len(plan.gpu_ids))))}, or a smaller model",
    )  # fmt: skip


def memory(examination: Examination) -> Iterator[Finding]:
    """Each has the memory that the plan counts with."""
    target = examination.plan.target
    small = [gpu for gpu in examination.wanted if _less(gpu, target.memory_gib)]
    sizes = [gpu.memory_bytes for gpu in examination.wanted if gpu.memory_bytes is not None]
    if small:
        yield error(
            "gpu-memory",
            f"GPU {numbers([g.index for g in small])} has {gib(small[0].memory_bytes or 0)};"
            f" the plan counts with {target.memory_gib:g} GiB ({target.id}).",
            "ernie-deploy doctor, without a target, says what this host looks like",
        )
    elif sizes:
        yield ok("gpu-memory", f"{gib(min(sizes))} on each; the plan counts with {target.memory_gib:g} GiB.")
    elif examination.wanted:
        yield unknown("gpu-memory", "The driver does not tell how much memory the GPUs have.")


def _less(gpu: Gpu, wanted_gib: float) -> bool:
    return gpu.memory_bytes is not None and gpu.memory_bytes < wanted_gib * GIB * (1 - TOLERANCE)


def whole(examination: Examination) -> Iterator[Finding]:
    """No GPU is partitioned: the plan counts whole ones."""
    for gpu in (gpu for gpu in examination.wanted if gpu.partition):
        driver = examination.vendor.driver
        yield error(
            "gpu-partition", f"GPU {gpu.index} is partitioned ({gpu.partition}), and the plan counts whole GPUs.",
            driver.make_whole.format(gpu=gpu.index) if driver else "",
        )  # fmt: skip


def free(examination: Examination) -> Iterator[Finding]:
    """Nobody else holds the memory that vLLM takes at start."""
    held = [gpu for gpu in examination.wanted if gpu.memory_bytes and (gpu.used_bytes or 0) > IDLE_BYTES]
    if examination.wanted and all(gpu.used_bytes is None for gpu in examination.wanted):
        yield unknown("gpu-free", "The driver does not tell how much GPU memory is in use.")
    elif not held:
        yield from [ok("gpu-free", "Nobody holds memory of these GPUs.")] * bool(examination.wanted)
    elif examination.runs:
        yield ok("gpu-free", f"GPU {numbers([g.index for g in held])} is held by this stack, which runs.")
    else:
        yield from (_held(gpu, examination) for gpu in held)


def _held(gpu: Gpu, examination: Examination) -> Finding:
    total, used = gpu.memory_bytes or 0, gpu.used_bytes or 0
    holders = [holder for holder in _holders(examination) if holder.gpu in (gpu.index, ANY_GPU)]
    sentence = f"GPU {gpu.index}: {gib(used)} of {gib(total)} are held by {_names(holders)}"
    if total - used >= total * examination.utilization:
        return warning("gpu-free", f"{sentence}; vLLM starts, with less room.", _remedy(examination, holders))
    need = f"vLLM asks for {gib(total * examination.utilization)} at start"
    return error("gpu-free", f"{sentence}; {need}.", _remedy(examination, holders))


def _holders(examination: Examination) -> tuple[Holder, ...]:
    return examination.facts.holders[examination.plan.target.vendor]


def _names(holders: Sequence[Holder]) -> str:
    named = [f"{holder.name} (pid {holder.pid})" for holder in holders[:SHOWN_PROCESSES]]
    rest = len(holders) - len(named)
    return (
        ", ".join(named) + (f" and {rest} more" if rest else "") if named else "a process that is not shown"
    )


def _remedy(examination: Examination, holders: Sequence[Holder]) -> str:
    idle = [gpu.index for gpu in examination.gpus if (gpu.used_bytes or 0) <= IDLE_BYTES]
    need = len(examination.plan.gpu_ids)
    other = f"choose idle ones with --gpus {numbers(idle[:need])}" if len(idle) >= need else ""
    stop = f"stop it (sudo kill {' '.join(str(h.pid) for h in holders)})" if holders else "stop it"
    return f"{stop}, or {other or 'take less with --gpu-memory-utilization'}"


def errors(examination: Examination) -> Iterator[Finding]:
    """The kernel's log shows no GPU error since the last boot."""
    machine = examination.facts.machine
    if not machine.log_readable:
        yield unknown(
            "gpu-errors", "This user may not read the kernel's log.", "sudo dmesg | grep -i -e xid -e amdgpu"
        )
    elif machine.gpu_errors:
        errors = ", ".join(f"{name} ({times}x)" for name, times in machine.gpu_errors.items())
        yield warning(
            "gpu-errors", f"The kernel's log tells of {errors}.",
            "look the number up in the vendor's catalog of GPU errors; a reset or a reboot may be due",
        )  # fmt: skip
    else:
        yield ok("gpu-errors", "The kernel's log shows no GPU error.")


def numbers(values: Sequence[int]) -> str:
    """`0,1,2`, as --gpus takes it."""
    return ",".join(map(str, values))


CHECKS = (count, memory, whole, free, errors)
