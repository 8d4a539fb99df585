"""How many GPUs a service gets, and how many its vLLM takes."""

from collections.abc import Iterator

from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Items, Table, Value
from ernie_deploy.check.values import whole

CDI = ("nvidia.com/gpu=", "amd.com/gpu=")
RENDER = "/dev/dri/renderD"
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
# One process a rank, started by something else than this command.
ELSEWHERE = (
    "data-parallel-rank", "data-parallel-address", "data-parallel-hybrid-lb", "data-parallel-external-lb",
    "data-parallel-multi-port-external-lb", "data-parallel-start-rank",
)  # fmt: skip


def reserved(service: Service) -> int | None:
    """GPUs that the service gets; None where only the host knows."""
    counts = [*_requests(service), *_devices(service), *_visible(service)]
    return min((count for count in counts if count is not None), default=None)


def has_gpu(service: Service) -> bool:
    """Whether the file gives the service a GPU in any way."""
    named = [*_requests(service), *_devices(service)]
    whole_cards = [
        w for w in service.words("devices") if w.text.startswith(("/dev/kfd", "/dev/dri", "/dev/nvidia"))
    ]
    other = service.text("runtime") or service.truth("privileged")
    return bool(named or whole_cards or other)


def _requests(service: Service) -> Iterator[int | None]:
    """Counts of the device requests, in either spelling."""
    for path in (("deploy", "resources", "reservations", "devices"), ("gpus",)):
        found = service.value(*path)
        for request in found.values if isinstance(found, Items) else [found] if found else []:
            yield _count(request)


def _count(request: Value) -> int | None:
    if not isinstance(request, Table):
        return None
    ids = request.values.get("device_ids")
    if isinstance(ids, Items):
        named = [getattr(value, "text", "$") for value in ids.values]
        single = all(known(name) and "all" not in name for name in named)
        return len(named) if single else None
    # -1 is all.
    count = whole(getattr(request.values.get("count"), "text", ""))
    return count if count is not None and count >= 0 else None


def _devices(service: Service) -> Iterator[int | None]:
    paths = [word.text for word in service.words("devices")]
    cdi = [path for path in paths if path.startswith(CDI)]
    if cdi:
        yield len(cdi) if all(known(path) and not path.endswith("=all") for path in cdi) else None
    if not any(path.partition(":")[0].rstrip("/") == "/dev/dri" for path in paths):
        yield from [len(nodes)] if (nodes := [p for p in paths if p.startswith(RENDER)]) else []


def _visible(service: Service) -> Iterator[int | None]:
    for name in VISIBLE:
        value = service.variable(name)
        if value and known(value) and all(part.strip() for part in value.split(",")):
            yield len(value.split(","))


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
