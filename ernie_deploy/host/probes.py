"""The one place that runs commands and reads files of a host; everything else judges what they said."""

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from ernie_deploy.catalog.schema import Vendor
from ernie_deploy.paths import SCRIPTS
from ernie_deploy.safe_io.reading import MIB, read_bounded

Kind: TypeAlias = Literal["file", "folder", "device", "closed"]

NOTHING: Mapping[str, str] = MappingProxyType({})
# A driver that lost a GPU may never answer.
LONGEST_S = 20.0
NOT_FOUND, NOT_ALLOWED, TIMED_OUT = 127, 126, 124

CSV = "--format=csv,noheader,nounits"
COMMANDS: dict[str, tuple[str, ...]] = {
    "docker-info": ("docker", "info", "--format", "{{json .}}"),
    "compose-version": ("docker", "compose", "version", "--short"),
    "docker-ps": ("docker", "ps", "--no-trunc", "--format", "{{json .}}"),
    "nvidia-gpus": (
        "nvidia-smi",
        "--query-gpu=index,name,uuid,driver_version,memory.total,memory.used,mig.mode.current",
        CSV,
    ),
    "amd-version": ("amd-smi", "version"),
    "amd-driver": ("rocm-smi", "--showdriverversion"),
    "nvidia-processes": ("nvidia-smi", "--query-compute-apps=gpu_uuid,pid,process_name,used_memory", CSV),
    "kernel": ("uname", "-srm"),
    "kernel-log": ("dmesg",),
    "clock": ("timedatectl", "show", "-p", "NTPSynchronized", "--value"),
}

# Asked for more than one node alone.
ADDRESSES = ("ip", "-j", "address", "show")

MEMORY = "/proc/meminfo"
SOCKETS = ("/proc/net/tcp", "/proc/net/tcp6")
NUMA_BALANCING = "/proc/sys/kernel/numa_balancing"
PCI_DEVICES = "/sys/bus/pci/devices/*/vendor"
CDI_SPECS = ("/etc/cdi/*", "/var/run/cdi/*")
NVIDIA_HOOK = "/usr/bin/nvidia-container-runtime-hook"
AMD_MODULE = "/sys/module/amdgpu"
AMD_CARDS = "/sys/class/drm/card*/device/mem_info_vram_total"
AMD_PROCESSES = "/sys/class/kfd/kfd/proc/*"
AMD_CONTROL = "/dev/kfd"
AMD_RENDER = "/dev/dri/renderD*"
AMD_DISPLAY = "/dev/dri/card*"
RDMA_DEVICES = "/sys/class/infiniband/*"
READS = (
    MEMORY, *SOCKETS, NUMA_BALANCING, PCI_DEVICES, *CDI_SPECS, NVIDIA_HOOK, f"{AMD_MODULE}/version",
    AMD_CARDS, AMD_PROCESSES, AMD_CONTROL, AMD_RENDER, AMD_DISPLAY,
    RDMA_DEVICES,
)  # fmt: skip


class Ran(Struct, frozen=True):
    """How a command ended; 127 where there is no such command."""

    rc: int
    stdout: str = ""
    stderr: str = ""

    @property
    def output(self) -> str:
        """Both streams: nvidia-smi complains on either."""
        return f"{self.stdout}\n{self.stderr}".strip()


class Stat(Struct, frozen=True, kw_only=True):
    """Owner and permissions of a path; `closed` where this user may not look at it."""

    kind: Kind
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0

    def allows(self, uid: int, gid: int, need: int) -> bool:
        """Whether the mode lets in a user without capabilities, which root in the containers is."""
        shift = 6 if self.uid == uid else 3 if self.gid == gid else 0
        return self.mode >> shift & need == need


class Host(Protocol):
    """A machine that can be asked: this one, or a recorded one."""

    def run(self, argv: Sequence[str], env: Mapping[str, str] = NOTHING) -> Ran:
        """Run a command to its end, with these variables more."""

    def read(self, path: str) -> str | None:
        """Return the text of a file; None where it cannot be read."""

    def stat(self, path: str) -> Stat | None:
        """Return owner and permissions; None where there is nothing."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that fit, in the order of their numbers."""

    def free_bytes(self, path: str) -> int | None:
        """Return what a user may still write there; None where it cannot be told."""


# Of a file of the kernel's, or of a key.
MOST_BYTES = 16 * MIB


class LocalHost:
    """This machine."""

    def run(self, argv: Sequence[str], env: Mapping[str, str] = NOTHING) -> Ran:
        """Run a command with nothing to read from and English messages."""
        import subprocess

        try:
            done = subprocess.run(  # noqa: S603 - an argv of COMMANDS, and no shell
                argv, capture_output=True, text=True, errors="replace", timeout=LONGEST_S, check=False,
                stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C", **env},
            )  # fmt: skip
        except FileNotFoundError:
            return Ran(NOT_FOUND, "", f"{argv[0]}: command not found")
        except OSError as fault:
            return Ran(NOT_ALLOWED, "", f"{argv[0]}: {fault.strerror}")
        except subprocess.TimeoutExpired:
            return Ran(TIMED_OUT, "", f"{argv[0]}: no answer within {LONGEST_S:g} s")
        return Ran(done.returncode, done.stdout, done.stderr)

    def read(self, path: str) -> str | None:
        """Return the text of a file, line ends as they are."""
        try:
            return read_bounded(Path(path).expanduser(), MOST_BYTES).decode(errors="replace")
        except (OSError, ValueError):
            return None

    def stat(self, path: str) -> Stat | None:
        """Return what the path is in the end, links followed."""
        try:
            status = Path(path).expanduser().stat()
        except PermissionError:
            return Stat(kind="closed")
        except (OSError, ValueError):
            return None
        return Stat(
            kind=_kind(status.st_mode), mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid,
            size=status.st_size,
        )  # fmt: skip

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that fit, card10 after card9."""
        try:
            return sorted(map(str, Path("/").glob(pattern.removeprefix("/"))), key=natural)
        except OSError:
            return []

    def free_bytes(self, path: str) -> int | None:
        """Return the free space of the file system that holds the path."""
        import shutil

        try:
            return shutil.disk_usage(Path(path).expanduser()).free
        except (OSError, ValueError):
            return None


def commands(vendor: Vendor | None) -> dict[str, tuple[str, ...]]:
    """The commands that tell about a node of this vendor; of any, where it is not known yet."""
    return {
        name: argv
        for name, argv in COMMANDS.items()
        if vendor in (None, _of_vendor(name)) or not _of_vendor(name)
    }


def _of_vendor(name: str) -> str:
    """The vendor whose tool a command is; empty for those that every host has."""
    return next((vendor for vendor in ("nvidia", "amd") if name.startswith(f"{vendor}-")), "")


def route_to(address: str) -> tuple[str, ...]:
    """The command that tells how this host reaches an address."""
    return ("ip", "-j", "route", "get", address)


def index_of(requirements: Sequence[str]) -> tuple[str, ...]:
    """The command that asks the package index for archives, as `fetch` will."""
    return (sys.executable, "-I", str(SCRIPTS / "packages.py"), "find", *requirements)


def natural(path: str) -> tuple[tuple[int, str], ...]:
    """A sort key by which `card10` follows `card9`."""
    import re

    return tuple((int(part or -1), text) for text, part in re.findall(r"(\D*)(\d*)", path))


def _kind(mode: int) -> Kind:
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "device"
