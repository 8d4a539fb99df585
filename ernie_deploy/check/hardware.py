"""Which GPUs a service gets, which of them its vLLM takes, and whose they are."""

import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Items, Table, Value, Word, tables
from ernie_deploy.check.values import whole

Platform: TypeAlias = Literal["cuda", "rocm", "cpu", "xpu"]
PLATFORMS: dict[str, Platform] = {"nvidia": "cuda", "amd": "rocm", "cpu": "cpu", "intel": "xpu"}
REQUESTS = ("deploy", "resources", "reservations", "devices")
GENERIC = ("deploy", "resources", "reservations", "generic_resources")
CDI = ("nvidia.com/gpu=", "amd.com/gpu=")
KFD, DRI, RENDER = "/dev/kfd", "/dev/dri", "/dev/dri/renderD"
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
NAMED_GPU = re.compile(r"\d{1,3}|(?:GPU|MIG)-[0-9A-Za-z/-]+")
# Where only the host knows how many GPUs there are; no node has more.
MOST_GPUS = 64
# One process a rank, started by something else than this command.
ELSEWHERE = (
    "data-parallel-rank", "data-parallel-address", "data-parallel-hybrid-lb", "data-parallel-external-lb",
    "data-parallel-multi-port-external-lb", "data-parallel-start-rank",
)  # fmt: skip


def platform_of(service: Service) -> Platform | None:
    """What the image's vLLM is built for, as far as its name or its tag says."""
    return PLATFORMS.get(service.image.hardware)


def requests(service: Service) -> list[Value]:
    """The device requests, in either spelling."""
    asked: list[Value] = []
    for path in (REQUESTS, ("gpus",)):
        value = service.value(*path)
        asked += value.values if isinstance(value, Items) else [value] if value else []
    return asked


def field(request: Value, key: str) -> str:
    """One scalar of a device request; empty where there is none."""
    value = request.values.get(key) if isinstance(request, Table) else None
    return value.text if isinstance(value, Word) and not value.null else ""


def device_words(service: Service) -> list[Word]:
    """The host's paths and CDI names under `devices`, in either spelling."""
    value = service.value("devices")
    items = value.values if isinstance(value, Items) else ()
    return [source for item in items if (source := _source(item))]


def _source(item: Value) -> Word | None:
    source = item.values.get("source") if isinstance(item, Table) else item
    if not isinstance(source, Word) or source.text.startswith(CDI):
        return source if isinstance(source, Word) else None
    return Word(source.raw.partition(":")[0].rstrip("/"), source.line) if known(source.text) else source


def reserved(service: Service) -> int | None:
    """GPUs that the service gets; None where only the host knows."""
    counts = [_requested(service), _swarm_count(service), *_devices(service), *_visible(service)]
    return min((count for count in counts if count is not None), default=None)


def has_gpu(service: Service) -> bool:
    """Whether the file gives the service a GPU in any way."""
    paths = (word.text for word in device_words(service))
    whole_cards = any(path.startswith((KFD, DRI, "/dev/nvidia", *CDI)) for path in paths)
    other = service.text("runtime") or service.truth("privileged") or service.value(*GENERIC)
    return bool(requests(service) or whole_cards or other)


def _requested(service: Service) -> int | None:
    asked = requests(service)
    # The runtime takes one of several requests; which one is not documented.
    return _count(asked[0]) if len(asked) == 1 else None


def _count(request: Value) -> int | None:
    ids = device_ids(request)
    if ids is not None:
        return len(ids) if ids else None
    # -1 is all.
    count = whole(field(request, "count"))
    return count if count is not None and count >= 0 else None


def device_ids(request: Value) -> list[str] | None:
    """The GPUs that a request names, one item may hold several; empty where unknown, None where it names none."""
    ids = request.values.get("device_ids") if isinstance(request, Table) else None
    if not isinstance(ids, Items):
        return None
    # Docker joins the items with commas (moby daemon/nvidia_linux.go), so a comma in one does no harm.
    names = [part.strip() for item in ids.values for part in getattr(item, "text", "$").split(",")]
    return names if all(known(name) and name and "all" not in name for name in names) else []


def _swarm_count(service: Service) -> int | None:
    """GPUs that a swarm hands out."""
    resources = service.value(*GENERIC)
    specs = [item.values.get("discrete_resource_spec") for item in tables(resources)]
    counts = [whole(field(spec, "value")) for spec in specs if spec and "gpu" in field(spec, "kind").lower()]
    return sum(count or 0 for count in counts) if counts and None not in counts else None


def _devices(service: Service) -> Iterator[int | None]:
    paths = [word.text for word in device_words(service)]
    cdi = [path for path in paths if path.startswith(CDI)]
    if cdi:
        yield len(cdi) if all(known(path) and not path.endswith("=all") for path in cdi) else None
    if DRI not in paths and (nodes := [path for path in paths if path.startswith(RENDER)]):
        yield len(nodes)


def _visible(service: Service) -> Iterator[int]:
    names = (*VISIBLE, "NVIDIA_VISIBLE_DEVICES") if not requests(service) else VISIBLE
    for name in names:
        if parts := named(service.variable(name)):
            yield len(parts)


def named(text: str) -> list[str]:
    """The GPUs in a text such as `0,1`; empty where it names none, all, or what only the host knows."""
    parts = [part.strip() for part in text.split(",")]
    return parts if all(NAMED_GPU.fullmatch(part) for part in parts) else []


def held(service: Service) -> list[str]:
    """The host's GPUs that its vLLM fills, by number, UUID or render node; empty where unknown."""
    needed, given = ranks(service), granted(service)
    for name in VISIBLE:
        if service.variable(name):
            # The container counts its GPUs from 0.
            chosen = [_host_name(part, given) for part in named(service.variable(name))]
            given = chosen if all(chosen) else []
            break
    return given[:needed] if needed and platform_of(service) != "cpu" else []


def _host_name(part: str, given: list[str]) -> str:
    if not part.isdigit():
        return part
    return given[int(part)] if int(part) < len(given) else ""


def granted(service: Service) -> list[str]:
    """The host's GPUs in the order in which the container counts them; empty where unknown."""
    asked, first = requests(service), [str(number) for number in range(MOST_GPUS)]
    if len(asked) > 1 or service.value(*GENERIC):
        return []
    if asked:
        ids = device_ids(asked[0])
        count = whole(field(asked[0], "count"))
        # Docker hands out the first ones (moby daemon/nvidia_linux.go countToDevices).
        return ids if ids is not None else first[:count] if count and count > 0 else first
    paths = [word.text for word in device_words(service)]
    if KFD in paths:
        return first if DRI in paths else [path for path in paths if path.startswith(RENDER)]
    if service.text("runtime") == "nvidia":
        return named(service.variable("NVIDIA_VISIBLE_DEVICES", "all")) or first
    return []


def ranks(service: Service) -> int | None:
    """GPUs that the command takes of this node; None where something else decides."""
    argv = service.serve
    if not argv or uses_ray(service) or any(argv.has(name) for name in ELSEWHERE):
        return None
    sizes = [argv.number(f"{kind}-parallel-size", 1) for kind in ("tensor", "pipeline", "prefill-context")]
    local = argv.number("data-parallel-size-local", argv.number("data-parallel-size", 1))
    nodes = argv.number("nnodes", 1)
    product = 1
    for size in (*sizes, local):
        if size is None or not 1 <= size < 1 << 20:
            return None
        product *= size
    return None if nodes is None or nodes < 1 else -(-product // nodes)


def uses_ray(service: Service) -> bool:
    """Whether Ray places the workers, on whatever nodes it has."""
    argv = service.serve
    flags = ("distributed-executor-backend", "data-parallel-backend")
    return argv is not None and any(argv.text(flag) == "ray" for flag in flags)
