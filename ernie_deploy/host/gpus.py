"""GPUs of a host: what the NVIDIA driver's tool and AMD's files in /sys and /dev say of them."""

import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

from ernie_deploy.host import probes
from ernie_deploy.host.probes import Host, Ran, Stat

MIB = 2**20
PCI_VENDORS = {"0x10de": "nvidia", "0x1002": "amd"}
PCI_DISPLAY = "0x03"
# A display function, or the accelerators of AMD, which are a class of their own.
PCI_ACCELERATOR = "0x12"
NVIDIA_FIELDS = 7
PROCESS_FIELDS = 4
ANY_GPU = -1
# `amdgpu version: 6.16.13` of amd-smi, which aligns it since 27.0, and `Driver version: 6.16.13` of rocm-smi.
AMD_VERSION = re.compile(
    r"(?:amdgpu|driver) version:\s{1,40}([0-9][0-9.]{1,40}(?:-[0-9a-z.]{1,40})?)", re.IGNORECASE
)
# Of a kernel, such as 6.17.0-35 or 6.8.0-64-generic; AMD's builds have eight digits before the dash.
KERNEL = re.compile(r"\d{1,4}\.\d{1,4}\.\d{1,4}-[0-9a-z.]{1,40}")


class Holder(Struct, frozen=True, kw_only=True):
    """A process that holds GPU memory; bytes are None where the driver does not tell."""

    gpu: int
    pid: int
    name: str
    used_bytes: int | None = None


class Gpu(Struct, frozen=True, kw_only=True):
    """One GPU; `partition` is empty where it is whole."""

    index: int
    name: str
    memory_bytes: int | None
    used_bytes: int | None
    partition: str = ""
    uuid: str = ""


class Nvidia(Struct, frozen=True, kw_only=True):
    """What the driver tells through nvidia-smi; `fault` is its complaint."""

    installed: bool
    fault: str
    driver: str
    gpus: tuple[Gpu, ...]
    holders: tuple[Holder, ...]


class Amd(Struct, frozen=True, kw_only=True):
    """What the kernel shows of AMD GPUs; `driver` is empty where amdgpu is not loaded."""

    driver: str
    control: Stat | None
    render: dict[str, Stat]
    display: dict[str, Stat]
    gpus: tuple[Gpu, ...]
    holders: tuple[Holder, ...]

    @property
    def groups(self) -> dict[str, int]:
        """Numeric groups for .env: the render nodes' own, and one more that the devices may need."""
        render = next(iter(self.render.values()), None)
        if render is None or self.control is None:
            return {}
        display = next((s.gid for s in self.display.values()), None)
        second = self.control.gid if self.control.gid != render.gid else display
        return {"RENDER_GID": render.gid, **({"VIDEO_GID": second} if second is not None else {})}


def read_nvidia(ran: Mapping[str, Ran]) -> Nvidia:
    """Parse nvidia-smi's two answers."""
    listed = ran.get("nvidia-gpus", Ran(probes.NOT_FOUND))
    rows = [row for row in _rows(listed.stdout) if len(row) == NVIDIA_FIELDS and row[0].isdigit()]
    gpus = tuple(_nvidia_gpu(row) for row in rows)
    broken = listed.rc != 0 or not gpus
    return Nvidia(
        installed=listed.rc != probes.NOT_FOUND,
        fault=" ".join(listed.output.split()) or f"nvidia-smi ended with {listed.rc}" if broken else "",
        driver=rows[0][3] if rows else "",
        gpus=gpus,
        holders=tuple(_nvidia_holders(ran.get("nvidia-processes", Ran(1)).stdout, gpus)),
    )


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(",")] for line in text.splitlines()]


def _nvidia_gpu(row: list[str]) -> Gpu:
    index, name, uuid, _, total, used, mig = row
    return Gpu(
        index=int(index), name=name, uuid=uuid, memory_bytes=_mib(total), used_bytes=_mib(used),
        partition="MIG" if mig == "Enabled" else "",
    )  # fmt: skip


def _mib(cell: str) -> int | None:
    # `[N/A]` where GPU and processor share their memory.
    return int(cell) * MIB if cell.isdigit() else None


def _nvidia_holders(text: str, gpus: tuple[Gpu, ...]) -> Iterator[Holder]:
    index = {gpu.uuid: gpu.index for gpu in gpus}
    for row in _rows(text):
        if len(row) == PROCESS_FIELDS and row[0] in index and row[1].isdigit():
            name = row[2].rpartition("/")[2]
            yield Holder(gpu=index[row[0]], pid=int(row[1]), name=name, used_bytes=_mib(row[3]))


def read_amd(host: Host, ran: Mapping[str, Ran]) -> Amd:
    """Look at the driver's files; tools of ROCm, which a host need not have, are asked for its version alone."""
    return Amd(
        driver=_amd_driver(host, ran),
        control=host.stat(probes.AMD_CONTROL),
        render=_stats(host, probes.AMD_RENDER),
        display=_stats(host, probes.AMD_DISPLAY),
        gpus=tuple(_amd_gpus(host)),
        holders=tuple(_amd_holders(host)),
    )


def _amd_driver(host: Host, ran: Mapping[str, Ran]) -> str:
    # The kernel's own amdgpu has no version file, AMD's packaged one has.
    if host.stat(probes.AMD_MODULE) is None:
        return ""
    version = (host.read(f"{probes.AMD_MODULE}/version") or "").strip()
    return version or _by_tool(ran) or "of the kernel"


def _by_tool(ran: Mapping[str, Ran]) -> str:
    """The version of the driver by amd-smi, or else by rocm-smi; of the kernel's own both tell the kernel's."""
    texts = [ran.get(name, Ran(probes.NOT_FOUND)).stdout for name in ("amd-version", "amd-driver")]
    versions = (AMD_VERSION.search(text) for text in texts)
    version = next((match[1] for match in versions if match), "")
    return "" if KERNEL.fullmatch(version) else version


def _stats(host: Host, pattern: str) -> dict[str, Stat]:
    stats = {path: host.stat(path) for path in host.glob(pattern)}
    return {path: stat for path, stat in stats.items() if stat}


def _amd_gpus(host: Host) -> Iterator[Gpu]:
    for index, path in enumerate(host.glob(probes.AMD_CARDS)):
        device = path.rpartition("/")[0]
        partition = (host.read(f"{device}/current_compute_partition") or "SPX").strip()
        yield Gpu(
            index=index,
            name=(host.read(f"{device}/product_name") or "").strip(),
            memory_bytes=_whole(host.read(path)),
            used_bytes=_whole(host.read(f"{device}/mem_info_vram_used")),
            partition="" if partition == "SPX" else partition,
        )


def _amd_holders(host: Host) -> Iterator[Holder]:
    """Processes with memory on any GPU, all of it added up."""
    for path in host.glob(probes.AMD_PROCESSES):
        pid = path.rpartition("/")[2]
        used = sum(_whole(host.read(file)) or 0 for file in host.glob(f"{path}/vram_*"))
        if pid.isdigit() and used:
            name = (host.read(f"/proc/{pid}/comm") or "a process").strip()
            yield Holder(gpu=ANY_GPU, pid=int(pid), name=name, used_bytes=used)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdigit() else None


def read_pci(host: Host) -> dict[str, int]:
    """How many GPUs of each vendor the PCI bus shows, driver or not."""
    counts: dict[str, int] = {}
    for path in host.glob(probes.PCI_DEVICES):
        vendor = PCI_VENDORS.get((host.read(path) or "").strip())
        if vendor and _is_gpu(host.read(f"{path.rpartition('/')[0]}/class") or ""):
            counts[vendor] = counts.get(vendor, 0) + 1
    return counts


def _is_gpu(pci_class: str) -> bool:
    return pci_class.startswith((PCI_DISPLAY, PCI_ACCELERATOR))
