"""Facts of a host, typed: parsed from what commands printed and files held."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import Struct

from ernie_deploy.catalog.schema import Vendor
from ernie_deploy.host import probes
from ernie_deploy.host.gpus import Amd, Gpu, Holder, Nvidia, read_amd, read_nvidia, read_pci
from ernie_deploy.host.probes import Host, Ran

LISTENING = "0A"
KIB = 1024
# What a program does to itself: the GPU is as good as before.
XIDS_OF_PROGRAMS = ("13", "31", "43", "45")
PROJECT = re.compile(r"(?:^|,)com\.docker\.compose\.project=([^,]+)")
FOLDER = re.compile(r"(?:^|,)com\.docker\.compose\.project\.working_dir=([^,]+)")
# A line of the kernel's own begins with its time; a program's name, which it chooses, stands behind.
XID = re.compile(r"^\[[\d. ]{1,20}\] NVRM: Xid \(PCI:([0-9a-fA-F:.]{1,16})\): (\d{1,4})", re.MULTILINE)
AMD_RESET = re.compile(r"^\[[\d. ]{1,20}\] amdgpu ([0-9a-f:.]{1,16}): .{0,200}GPU reset begin", re.MULTILINE)


class Container(Struct, frozen=True):
    """One container that runs: its name, its Compose project and the folder of that, the ports it publishes."""

    name: str
    project: str
    ports: str
    folder: str = ""


class Docker(Struct, frozen=True, kw_only=True):
    """The engine and Compose; `fault` is why the engine did not answer."""

    installed: bool
    fault: str = ""
    version: str = ""
    compose: str = ""
    runtimes: tuple[str, ...] = ()
    cdi: tuple[str, ...] = ()
    hook: bool = False
    root: str = ""
    cgroup: str = ""
    cgroup_driver: str = ""
    memory_bytes: int = 0
    other_users: bool = False
    containers: tuple[Container, ...] = ()


class Socket(Struct, frozen=True):
    """An address and port that somebody listens on."""

    address: str
    port: int


class Machine(Struct, frozen=True, kw_only=True):
    """Everything that is neither Docker nor a GPU."""

    kernel: str
    architecture: str
    memory_bytes: int
    available_bytes: int
    sockets: tuple[Socket, ...]
    numa_balancing: bool | None
    synchronised: bool | None
    pci: dict[str, int]
    log_readable: bool
    gpu_errors: dict[str, int]


class Facts(Struct, frozen=True, kw_only=True):
    """One host."""

    docker: Docker
    machine: Machine
    nvidia: Nvidia
    amd: Amd

    @property
    def gpus(self) -> dict[Vendor, tuple[Gpu, ...]]:
        """GPUs that a driver shows, by vendor."""
        return {"nvidia": self.nvidia.gpus, "amd": self.amd.gpus, "cpu": ()}

    @property
    def holders(self) -> dict[Vendor, tuple[Holder, ...]]:
        """Processes with memory of GPUs, by vendor."""
        return {"nvidia": self.nvidia.holders, "amd": self.amd.holders, "cpu": ()}

    @property
    def drivers(self) -> dict[Vendor, str]:
        """What each vendor's driver says of its version; empty where there is none."""
        return {"nvidia": self.nvidia.driver, "amd": self.amd.driver, "cpu": ""}


def collect(host: Host, vendor: Vendor | None = None) -> Facts:
    """Ask a host everything that does not depend on the plan."""
    from concurrent.futures import ThreadPoolExecutor

    asked = probes.commands(vendor)
    # Each waits for another program; nvidia-smi alone takes seconds where nothing keeps the driver awake.
    with ThreadPoolExecutor(max_workers=len(asked)) as pool:
        ran = dict(zip(asked, pool.map(host.run, asked.values()), strict=True))
    return Facts(
        docker=read_docker(ran, host),
        machine=read_machine(ran, host),
        nvidia=read_nvidia(ran),
        amd=read_amd(host, ran),
    )


def read_docker(ran: Mapping[str, Ran], host: Host) -> Docker:
    """Parse the engine's description of itself, and Compose's version."""
    info = ran["docker-info"]
    reply = _object(info.stdout)
    compose = ran["compose-version"]
    version = re.fullmatch(r"v?(\d{1,6}\.\S{1,60})", compose.stdout.strip())
    return Docker(
        installed=info.rc != probes.NOT_FOUND,
        fault="" if reply.get("ServerVersion") else _complaint(info, reply),
        version=str(reply.get("ServerVersion") or ""),
        compose=version[1] if version and compose.rc == 0 else "",
        runtimes=tuple(reply.get("Runtimes") or ()),
        cdi=_cdi(reply, host),
        hook=host.stat(probes.NVIDIA_HOOK) is not None,
        root=str(reply.get("DockerRootDir") or ""),
        cgroup=str(reply.get("CgroupVersion") or ""),
        cgroup_driver=str(reply.get("CgroupDriver") or ""),
        memory_bytes=int(reply.get("MemTotal") or 0),
        other_users=any("rootless" in o or "userns" in o for o in reply.get("SecurityOptions") or ()),
        containers=tuple(_containers(ran["docker-ps"].stdout)),
    )  # fmt: skip


def _object(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _complaint(info: Ran, reply: Mapping[str, Any]) -> str:
    words = " ".join([*(reply.get("ServerErrors") or ()), info.stderr]).strip()
    return words.splitlines()[0] if words else "its answer has no version; is `docker` another program here?"


def _cdi(reply: Mapping[str, Any], host: Host) -> tuple[str, ...]:
    """Names of CDI devices as the engine found them, or of the files that describe them."""
    devices = [device.get("ID", "") for device in reply.get("DiscoveredDevices") or ()]
    return (*devices, *(path for pattern in probes.CDI_SPECS for path in host.glob(pattern)))


def _containers(text: str) -> Iterator[Container]:
    for line in text.splitlines():
        row = _object(line)
        labels = row.get("Labels", "")
        project, folder = PROJECT.search(labels), FOLDER.search(labels)
        yield Container(
            row.get("Names", ""),
            project[1] if project else "",
            row.get("Ports", ""),
            # As this host's own paths are compared: without links and `..`.
            os.path.realpath(folder[1]) if folder else "",
        )


def read_machine(ran: Mapping[str, Ran], host: Host) -> Machine:
    """Parse kernel, memory, sockets, clock and the kernel's log."""
    system, _, architecture = ran["kernel"].stdout.strip().rpartition(" ")
    memory = host.read(probes.MEMORY) or ""
    balancing = (host.read(probes.NUMA_BALANCING) or "").strip()
    clock = ran["clock"].stdout.strip()
    log = ran["kernel-log"]
    return Machine(
        kernel=system,
        architecture=architecture,
        memory_bytes=_memory(memory, "MemTotal"),
        available_bytes=_memory(memory, "MemAvailable"),
        sockets=tuple(s for path in probes.SOCKETS for s in read_sockets(host.read(path) or "")),
        numa_balancing=balancing != "0" if balancing else None,
        synchronised=clock == "yes" if clock in ("yes", "no") else None,
        pci=read_pci(host),
        log_readable=log.rc == 0,
        gpu_errors=read_log(log.stdout),
    )


def _memory(text: str, name: str) -> int:
    match = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * KIB if match else 0


def read_sockets(text: str) -> Iterator[Socket]:
    """Who listens, from the kernel's table."""
    for fields in (line.split() for line in text.splitlines()[1:]):
        if len(fields) > 3 and fields[3] == LISTENING:  # noqa: PLR2004 - the column of the state
            yield _socket(fields[1])


def _socket(word: str) -> Socket:
    import ipaddress

    host, _, port = word.partition(":")
    raw = bytes.fromhex(host)
    # The kernel prints each 32-bit word in its own byte order.
    ordered = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return Socket(str(ipaddress.ip_address(ordered)), int(port, 16))


def read_log(text: str) -> dict[str, int]:
    """GPU errors in the kernel's log, and how often each came."""
    counts: dict[str, int] = {}
    named = [
        f"Xid {code} on {bus.removeprefix('0000:')}"
        for bus, code in XID.findall(text)
        if code not in XIDS_OF_PROGRAMS
    ]
    named += [f"GPU reset on {bus}" for bus in AMD_RESET.findall(text)]
    for name in named:
        counts[name] = counts.get(name, 0) + 1
    return counts
