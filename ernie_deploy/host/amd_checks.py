"""Checks of an AMD host: the kernel driver, its devices, their groups, NUMA balancing."""

from collections.abc import Iterator

from ernie_deploy.host import driver_checks, gpu_checks
from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, ok, warning
from ernie_deploy.host.probes import AMD_CONTROL, Stat

READ_WRITE = 0o6


def driver(examination: Examination) -> Iterator[Finding]:
    """The kernel module amdgpu is loaded, and new enough for the image."""
    amd, seen = examination.facts.amd, examination.facts.machine.pci.get("amd", 0)
    if amd.driver and examination.vendor.driver:
        yield driver_checks.judge(examination, examination.vendor.driver, amd.driver)
        return
    remedy = "sudo modprobe amdgpu; where that fails, install AMD's amdgpu-dkms" if seen else (
        "choose the target that this host is: ernie-deploy targets"
    )  # fmt: skip
    yield error("driver", f"amdgpu is not loaded; AMD GPUs on the PCI bus: {seen}.", remedy)


def devices(examination: Examination) -> Iterator[Finding]:
    """Containers can be given /dev/kfd and the render nodes."""
    amd = examination.facts.amd
    if examination.plan.request.gpus_cdi:
        yield _by_cdi(examination)
        return
    if not amd.driver:
        return
    missing = [AMD_CONTROL] * (not amd.control) + ["/dev/dri/renderD*"] * (not amd.render)
    if missing:
        yield error(
            "devices",
            f"amdgpu is loaded, and {' and '.join(missing)} is missing.",
            "sudo dmesg | grep amdgpu",
        )
    else:
        yield ok("devices", f"{AMD_CONTROL} and {len(amd.render)} render nodes.")


def _by_cdi(examination: Examination) -> Finding:
    if any("amd" in name for name in examination.facts.docker.cdi):
        return ok("devices", "Docker has CDI devices of AMD.")
    sentence = "There are no CDI devices of AMD, which --gpus-cdi asks for."
    return error("devices", sentence, "sudo amd-ctk cdi generate --output=/etc/cdi/amd.json")


def groups(examination: Examination) -> Iterator[Finding]:
    """The serving user belongs to the devices' groups, by number."""
    amd, plan = examination.facts.amd, examination.plan
    opened = [stat for stat in (amd.control, *amd.render.values()) if stat and not _open_to_all(stat)]
    needed = sorted({stat.gid for stat in opened})
    if not amd.control or not amd.render:
        return
    groups_sentence = f"Devices belong to group {', '.join(map(str, needed)) or 'any'}"
    if not plan.user:
        yield ok("groups", f"{groups_sentence}; the container serves as root, who owns them.")
        return
    joined = [examination.values[name] for name in ("RENDER_GID", "VIDEO_GID")]
    if {str(gid) for gid in needed} <= set(joined):
        yield ok("groups", f"{groups_sentence}, which the container joins.")
    else:
        yield error(
            "groups", f"{groups_sentence}, and the container joins {' and '.join(joined)} (RENDER_GID, VIDEO_GID).",
            examination.command("doctor", "--write-env"),
        )  # fmt: skip


def _open_to_all(stat: Stat) -> bool:
    return stat.mode & READ_WRITE == READ_WRITE


def numa_balancing(examination: Examination) -> Iterator[Finding]:
    """The kernel does not move pages between NUMA nodes behind the GPUs' back."""
    balancing = examination.facts.machine.numa_balancing
    if balancing:
        yield warning(
            "numa-balancing", "NUMA balancing is on; AMD asks to switch it off, since it stalls GPUs.",
            "sudo sysctl kernel.numa_balancing=0, and the same line in /etc/sysctl.d to keep it",
        )  # fmt: skip
    elif balancing is not None:
        yield ok("numa-balancing", "NUMA balancing is off.")


CHECKS = (driver, devices, groups, *gpu_checks.CHECKS, numa_balancing)
