"""Checks of an NVIDIA host: the driver, its floor, and the way GPUs come into containers."""

from collections.abc import Iterator

from ernie_deploy.host import driver_checks, gpu_checks
from ernie_deploy.host.docker_checks import version_of
from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, ok, warning

# From here on Docker itself gives `driver: nvidia` its devices by CDI.
CDI_FOR_DRIVER = (29,)
OLDEST_CDI = (25,)

# What nvidia-smi says -> what it means and what to do.
FAULTS = {
    "Driver/library version mismatch": (
        "the driver in the kernel and its libraries are of different versions, as after an unfinished update",
        "reboot; or, with nothing on the GPUs: sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && nvidia-smi",
    ),
    "couldn't communicate with the NVIDIA driver": (
        "the driver's module is not loaded, as after a kernel update",
        "sudo modprobe nvidia; where that fails: sudo dkms autoinstall, then reboot",
    ),
    "No devices were found": (
        "the driver runs and sees no GPU",
        "sudo dmesg | grep -i nvrm, then reset the GPUs or reboot",
    ),
    "Unable to determine the device handle": (
        "a GPU was lost",
        "sudo dmesg | grep -i xid, then reset the GPU or reboot",
    ),
    "no answer within": (
        "nvidia-smi hangs, as it does when a GPU was lost",
        "sudo dmesg | grep -i xid, then reboot",
    ),
}


def driver(examination: Examination) -> Iterator[Finding]:
    """The driver answers."""
    nvidia, seen = examination.facts.nvidia, examination.facts.machine.pci.get("nvidia", 0)
    if not nvidia.installed:
        remedy = f"install the driver, {examination.engine.images['nvidia'].min_driver} or newer" if seen else (
            "choose the target that this host is: ernie-deploy targets"
        )  # fmt: skip
        yield error("driver", f"nvidia-smi is missing; NVIDIA GPUs on the PCI bus: {seen}.", remedy)
    elif nvidia.fault:
        meaning, remedy = next(
            (both for message, both in FAULTS.items() if message in nvidia.fault), ("", "nvidia-smi")
        )
        yield error("driver", f"nvidia-smi fails: {meaning or nvidia.fault}.", remedy)
    elif examination.vendor.driver:
        yield driver_checks.judge(examination, examination.vendor.driver, nvidia.driver)


def container_toolkit(examination: Examination) -> Iterator[Finding]:
    """Docker can give a container a GPU in the way the plan asks."""
    docker = examination.facts.docker
    if not docker.version:
        return
    cdi, runtime = [name for name in docker.cdi if "nvidia" in name], "nvidia" in docker.runtimes
    if examination.plan.request.gpus_cdi:
        yield _by_cdi(examination, found=bool(cdi))
    elif runtime:
        yield ok("gpu-containers", "Docker has the runtime nvidia.")
    elif docker.hook:
        yield ok("gpu-containers", "The NVIDIA Container Toolkit is installed.")
    elif cdi and version_of(docker.version) >= CDI_FOR_DRIVER:
        yield ok("gpu-containers", "Docker has CDI devices of NVIDIA.")
    elif cdi:
        yield error(
            "gpu-containers", "Docker has CDI devices of NVIDIA, and no runtime nvidia, which the plan asks for.",
            examination.command("render", gpus_cdi=True),
        )  # fmt: skip
    else:
        yield error(
            "gpu-containers", "Docker has neither the runtime nvidia nor CDI devices.",
            "install the NVIDIA Container Toolkit, then:"
            " sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
        )  # fmt: skip


def _by_cdi(examination: Examination, *, found: bool) -> Finding:
    version = examination.facts.docker.version
    if version_of(version) < OLDEST_CDI:
        sentence = f"Docker Engine {version} has no CDI, which --gpus-cdi asks for."
        return error("gpu-containers", sentence, "update to 25 or newer, or leave out --gpus-cdi")
    if found:
        return ok("gpu-containers", "Docker has CDI devices of NVIDIA.")
    sentence = "There are no CDI devices of NVIDIA, which --gpus-cdi asks for."
    return error("gpu-containers", sentence, "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")


def kind(examination: Examination) -> Iterator[Finding]:
    """The cards are the target's."""
    title = examination.plan.target.id.upper()
    others = [gpu.name for gpu in examination.wanted if title not in gpu.name.upper()]
    if others and len(others) == len(examination.wanted):
        yield warning(
            "gpu-kind", f"The plan is for {title}, and these are {others[0]}.",
            "ernie-deploy doctor, without a target, says what this host looks like",
        )  # fmt: skip


CHECKS = (driver, container_toolkit, kind, *gpu_checks.CHECKS)
