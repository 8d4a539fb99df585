"""What the checks judge: the facts of a host beside the plan and the values its stack will read."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.vendor_schema import VendorFacts
from ernie_deploy.host.facts import Facts
from ernie_deploy.host.findings import Finding
from ernie_deploy.host.front_files import Front
from ernie_deploy.host.gpus import Gpu
from ernie_deploy.host.group_secret import SHORTEST_SECRET, is_long_enough
from ernie_deploy.host.link import Link
from ernie_deploy.host.probes import Host, Ran, Stat
from ernie_deploy.plan.memory import GIB
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import command_words
from ernie_deploy.plan.serve import HF_CACHE
from ernie_deploy.plan.settings import value_of

# A card's memory as the driver shows it differs a little from the catalog's.
TOLERANCE = 0.03
CACHE_VOLUME = "hf-cache"
PACKAGES_VOLUME = "packages"
MOST_SECRET_BYTES = 4096
FILES = ("HF_TOKEN_FILE", "API_KEY_FILE", "GROUP_SECRET_FILE", "PIP_CONFIG_FILE")
FOLDERS = ("HF_CACHE_DIR", "ENGINE_CACHE_DIR", "PACKAGES_DIR")


class Files(Struct, frozen=True, kw_only=True):
    """What lies on the host where the stack will look."""

    token: Stat | None
    api_key: Stat | None
    key_fault: tuple[str, str] | None
    group_secret: Stat | None
    group_folder: Stat | None
    secret_too_short: bool
    cache: Stat | None
    cache_names: tuple[str, ...]
    engine_cache: Stat | None
    engine_cache_names: tuple[str, ...]
    weights: Stat | None
    stamp: Stat | None
    packages: Stat | None
    pip_config: Stat | None
    archives: tuple[str, ...]
    disk: str
    free_bytes: int | None


class Examination(Struct, frozen=True, kw_only=True):
    """One host and one plan; `engines` are all of the catalog, the newest first."""

    facts: Facts
    files: Files
    plan: Plan
    engine: Engine
    engines: tuple[Engine, ...]
    vendor: VendorFacts
    values: dict[str, str]
    remote: str = ""
    index: Ran | None = None
    link: Link | None = None
    front: Front | None = None
    folder: str = ""
    strangers: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()

    @property
    def is_worker(self) -> bool:
        """Whether this node is another than the head of several."""
        return self.plan.several_nodes and self.values["NODE_RANK"] not in ("", "0")

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of the target's vendor."""
        return self.facts.gpus[self.plan.target.vendor]

    @property
    def wanted(self) -> tuple[Gpu, ...]:
        """Those of them that the plan uses."""
        return tuple(gpu for gpu in self.gpus if gpu.index in self.plan.gpu_ids)

    @property
    def runs(self) -> bool:
        """Whether this very stack is up already, so that it holds its own port and memory."""
        return any(
            container.project == self.plan.project and container.folder in ("", self.folder)
            for container in self.facts.docker.containers
        )

    @property
    def owner(self) -> tuple[int, int]:
        """User and group that serve; root has no capabilities there, so it is one user among others."""
        uid, _, gid = (self.plan.user or "0:0").partition(":")
        return int(uid), int(gid)

    @property
    def utilization(self) -> float:
        """Share of each GPU's memory that vLLM takes at start."""
        default = self.engine.gpu_memory_utilization
        share = value_of(self.plan.settings, "gpu-memory-utilization", default)
        return float(share) if isinstance(share, int | float) else default

    def command(self, *words: str, **changes: object) -> str:
        """The kit's command for this request, changed."""
        import shlex

        request = replace(self.plan.request, **changes)
        return shlex.join(["ernie-deploy", *words, *command_words(request)])


Check: TypeAlias = Callable[[Examination], Iterator[Finding]]


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / GIB:,.1f} GiB"


def is_path(value: str) -> bool:
    """Whether Compose takes a volume's source for a directory of the host."""
    return value.startswith(("/", ".", "~"))


def from_folder(folder: PurePath, value: str) -> str:
    """A path as Compose has it: from the folder of the stack, and not from the current one."""
    return value if value.startswith(("/", "~")) or not folder.parts else str(folder / value)


def read_files(host: Host, plan: Plan, values: dict[str, str], root: str, stack: PurePath) -> Files:
    """Ask the host for the files that this stack, in its folder, will read."""
    cache = values["HF_CACHE_DIR"]
    folder = cache if is_path(cache) else f"{root}/volumes/ernie-{CACHE_VOLUME}/_data"
    # Where the engine keeps its data elsewhere (in a virtual machine, say), nothing here tells of it.
    key_stat = host.stat(values["API_KEY_FILE"])
    disk = _existing(host, cache) if is_path(cache) else root if host.stat(root or "-") else ""
    secret = host.stat(values["GROUP_SECRET_FILE"])
    return Files(
        token=host.stat(values["HF_TOKEN_FILE"]),
        api_key=key_stat,
        key_fault=_key_fault(host, plan, values["API_KEY_FILE"], key_stat),
        group_secret=secret,
        group_folder=host.stat(str(PurePath(values["GROUP_SECRET_FILE"]).parent)),
        secret_too_short=_too_short(host, values["GROUP_SECRET_FILE"], secret),
        cache=host.stat(cache) if is_path(cache) else None,
        cache_names=_names(host, cache),
        engine_cache=host.stat(values["ENGINE_CACHE_DIR"]) if is_path(values["ENGINE_CACHE_DIR"]) else None,
        engine_cache_names=_names(host, values["ENGINE_CACHE_DIR"]),
        weights=host.stat(from_folder(stack, plan.request.weights)) if plan.request.weights else None,
        stamp=host.stat(f"{folder}/{plan.stamp.removeprefix(f'{HF_CACHE}/')}"),
        packages=host.stat(_packages_folder(values, root)),
        pip_config=host.stat(values["PIP_CONFIG_FILE"]),
        archives=_archives(host, plan, values, root),
        disk=disk,
        free_bytes=host.free_bytes(disk) if disk else None,
    )


def _packages_folder(values: dict[str, str], root: str) -> str:
    """Where the host keeps the packages of remote code: a folder, or the volume in the engine's data."""
    folder = values["PACKAGES_DIR"]
    return folder if is_path(folder) else f"{root}/volumes/ernie-{PACKAGES_VOLUME}/_data"


def _archives(host: Host, plan: Plan, values: dict[str, str], root: str) -> tuple[str, ...]:
    """Those of the plan's archives that lie there in full length; their hash is fetch's to check."""
    folder = f"{_packages_folder(values, root)}/archives"
    stats = [(package, host.stat(f"{folder}/{package.archive}")) for package in plan.packages]
    return tuple(package.archive for package, stat in stats if stat and stat.size == package.size_bytes)


def _too_short(host: Host, path: str, stat: Stat | None) -> bool:
    """Whether the nodes would refuse the group's secret; by its size alone where this user may not read it."""
    if not stat or stat.kind != "file":
        return False
    text = host.read(path) if stat.size <= MOST_SECRET_BYTES else None
    return stat.size < SHORTEST_SECRET if text is None else not is_long_enough(text.encode())


def _key_fault(host: Host, plan: Plan, path: str, stat: Stat | None) -> tuple[str, str] | None:
    """What the server will refuse in the key's file, where this user may read it."""
    if not plan.request.api_key_file or not stat or stat.kind != "file":
        return None
    from ernie_deploy.stack.api_key import fault_in, fault_of_size

    if fault := fault_of_size(stat.size):
        return fault
    text = host.read(path)
    # What was no UTF-8 is none again.
    return None if text is None else fault_in(text.encode().replace("\ufffd".encode(), b"\xff"))


def _names(host: Host, path: str) -> tuple[str, ...]:
    """What a folder of the host holds, as far as this user may look."""
    from glob import escape

    if not is_path(path):
        return ()
    folder = escape(str(Path(path).expanduser().absolute()))
    return tuple(PurePath(entry).name for entry in host.glob(f"{folder.rstrip('/')}/*"))


def _existing(host: Host, path: str) -> str:
    """The path, or the nearest folder above that is there already."""
    places = [PurePath(path), *PurePath(path).parents]
    return next((str(place) for place in places if host.stat(str(place))), "")
