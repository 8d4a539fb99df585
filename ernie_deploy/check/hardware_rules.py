"""ED14x, first part: GPUs that the file gives and the image cannot use, or that two servers fill."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from ernie_deploy.check.argv import Argv
from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.hardware import (
    CDI,
    DRI,
    KFD,
    MOST_GPUS,
    RENDER,
    REQUESTS,
    VISIBLE,
    device_ids,
    device_words,
    field,
    granted,
    held,
    named,
    platform_of,
    ranks,
    requests,
    reserved,
)
from ernie_deploy.check.next_steps import next_step
from ernie_deploy.check.service import Form, Service, Stack, never_together, replicas
from ernie_deploy.check.tree import Items, Table, Value, Word
from ernie_deploy.check.values import shown
from ernie_deploy.plan.flag_history import numbers

AMD = (KFD, DRI, "amd.com/gpu=")
NVIDIA_NODE = "/dev/nvidia"
# Before the catalog's engine; the lower of the two defaults accuses nobody wrongly.
OLD_SHARE = 0.9
# Only so many servers on one GPU are added up.
MOST_COMPARED = 50
ROUNDING = 1e-6
# The driver's own memory and each process's context lie beside the shares.
COMFORTABLE = 0.95


@rule(
    "ED140",
    "error",
    "ROCm needs /dev/kfd and a render node, and one of them is missing.",
    remedy="devices: [/dev/kfd, /dev/dri], or /dev/kfd with the /dev/dri/renderD* of each GPU",
    source="rocm.docs.amd.com, Running ROCm Docker containers: kfd computes, the render node is the GPU",
)
def half_of_amd(service: Service) -> Iterator[Spot]:
    """A ROCm image with a render node alone, or with /dev/kfd alone."""
    if not service.serve or platform_of(service) != "rocm" or service.truth("privileged"):
        return
    words = device_words(service)
    kfd = [word for word in words if word.text == KFD]
    nodes = [word for word in words if word.text == DRI or word.text.startswith(RENDER)]
    dri = [word for word in words if word.text.startswith(DRI)]
    if any("$" in word.text or word.text.startswith(CDI) for word in words) or service.text("runtime"):
        return
    if dri and not kfd:
        yield Spot(dri[0].line, f"{KFD} is missing: without it ROCm finds no GPU behind {shown(dri[0].text)}")
    if kfd and not nodes:
        yield Spot(kfd[0].line, f"{KFD} alone is no GPU: the render nodes below {DRI} are missing")


@rule(
    "ED141",
    "error",
    "The GPUs that the file gives are not those that the image is built for.",
    remedy="take the image that fits the GPU: vllm/vllm-openai for NVIDIA, vllm/vllm-openai-rocm for AMD",
    source="vLLM is built for one platform an image (docker/Dockerfile, Dockerfile.rocm, Dockerfile.cpu);"
    " moby daemon/devices.go: `could not select device driver`",
)
def foreign_gpu(service: Service) -> Iterator[Spot]:
    """An NVIDIA reservation on a ROCm image, AMD devices on a CUDA one, a GPU for the CPU image."""
    platform, nvidia, amd = platform_of(service), _nvidia(service), _amd(service)
    if not service.serve or platform is None:
        return
    if platform in ("rocm", "xpu") and nvidia:
        what = (
            f"an NVIDIA reservation on an image for {_title(platform)}: it gets no {_title(platform)} device"
        )
        yield Spot(nvidia.line, what, _remedy(platform, service.form))
    elif platform == "rocm" and _driverless(service):
        what = "this request gets NVIDIA GPUs, and AMD's only where AMD's container toolkit is installed"
        remedy = f"{_remedy(platform, service.form)}; with the toolkit, set driver: amd"
        yield Spot(requests(service)[0].line, what, remedy)
    elif platform == "cuda" and amd and not nvidia and not requests(service):
        what = f"a CUDA image finds no NVIDIA GPU behind {shown(amd.text)}"
        yield Spot(amd.line, what, f"for AMD: image: vllm/vllm-openai-rocm:{service.image.tag or 'TAG'}")
    elif platform == "cpu" and (given := nvidia or next(iter(requests(service)), None)):
        yield Spot(
            given.line, "the CPU image uses no GPU, and no other service gets this one", severity="warning"
        )


def _driverless(service: Service) -> bool:
    """Whether GPUs are requested without naming a driver."""
    drivers = [field(request, "driver") for request in requests(service)]
    return bool(drivers) and not any(drivers) and service.text("runtime") != "amd"


def _title(platform: str) -> str:
    return {"rocm": "AMD", "xpu": "Intel"}[platform]


def _remedy(platform: str, form: Form) -> str:
    if platform == "xpu":
        return "devices: [/dev/dri] and no reservation"
    compose = "devices: [/dev/kfd, /dev/dri] with group_add and the host's numbers, and no reservation"
    return next_step("ED141", form) or compose


def _nvidia(service: Service) -> Word | None:
    """The first word that asks for NVIDIA by name."""
    for request in requests(service):
        if field(request, "driver") == "nvidia":
            return Word("nvidia", request.line)
    if service.text("runtime") == "nvidia":
        return Word("runtime: nvidia", service.line_of("runtime"))
    nodes = (word for word in device_words(service) if word.text.startswith(("nvidia.com/gpu=", NVIDIA_NODE)))
    return next(nodes, None)


def _amd(service: Service) -> Word | None:
    """The first device that is AMD's; a render node may be anybody's, but no CUDA device lies behind it."""
    return next((word for word in device_words(service) if word.text.startswith(AMD)), None)


@rule(
    "ED142",
    "error",
    "Compose refuses this reservation of devices.",
    remedy="capabilities: [gpu], and either `count` or a list of `device_ids`",
    source='run with Compose 2.40.3: missing property \'capabilities\'; "count" and "device_ids" attributes are exclusive',
)
def refused_reservation(service: Service) -> Iterator[Spot]:
    """Reservations without capabilities, with both ways to choose, with ids that are no list."""
    value = service.value(*REQUESTS)
    for request in value.values if isinstance(value, Items) else ():
        keys = request.values if isinstance(request, Table) else {}
        if keys and "capabilities" not in keys:
            yield Spot(
                request.line, "a reservation without capabilities is refused", "add capabilities: [gpu]"
            )
        if {"count", "device_ids"} <= set(keys):
            yield Spot(request.line, "count and device_ids exclude each other")
        if isinstance(keys.get("device_ids"), Word):
            yield Spot(request.line, "device_ids is a text, and must be a list")


@rule(
    "ED143",
    "note",
    "Several GPUs stand in one item of device_ids.",
    remedy='write an item a GPU: device_ids: ["0", "1"]',
    source="docs.docker.com, Enable GPU support; moby daemon/nvidia_linux.go joins the items with commas, so it works",
)
def ids_in_one_item(service: Service) -> Iterator[Spot]:
    """`device_ids: ["0,1"]`: taken as meant, and documented nowhere."""
    for request in requests(service):
        ids = request.values.get("device_ids") if isinstance(request, Table) else None
        for item in ids.values if isinstance(ids, Items) else ():
            if isinstance(item, Word) and "," in item.text:
                count = len(device_ids(request) or ())
                yield Spot(item.line, f"{shown(item.text)} names {count} GPUs in one item")


@rule(
    "ED144",
    "error",
    "Servers that share a GPU ask for more than all of its memory; the last one to start fails.",
    remedy="--gpu-memory-utilization shares that add up to 0.95 at most, and depends_on with service_healthy,"
    " as each measures when it starts; or a GPU for each with device_ids",
    source="vLLM 0.32.0 vllm/v1/worker/utils.py request_memory: `Free memory on device ... is less than desired`",
)
def crowded_gpu(service: Service) -> Iterator[Spot]:
    """Two services, or two replicas, whose shares of one GPU are more than 1; close to 1 is a warning."""
    sharing = _sharing(service)
    shares = [filler.share for filler in sharing for _ in range(filler.copies)]
    total, others = sum(shares), [filler.service for filler in sharing if filler.service is not service]
    if total <= COMFORTABLE + ROUNDING or len(shares) <= 1:
        return
    sums = " + ".join(f"{share:g}" for share in shares)
    names = " and ".join(shown(other.name) for other in (*others, service))
    who = f"{names} share GPU {shown(held(service)[0])}" if others else _twins(service)
    fits = total <= 1 + ROUNDING
    end = "which leaves no room beside them" if fits else "more than the whole"
    sentence = f"{who}: {sums} of its memory is {total:.2f}, {end}"
    yield Spot(_share_line(service), sentence, severity="warning" if fits else "error")


def _twins(service: Service) -> str:
    return f"each of {replicas(service)} replicas gets the same GPU {shown(held(service)[0])}"


class _Filler(NamedTuple):
    """A server that fills GPUs: which part of each, and by how many containers."""

    service: Service
    share: float
    copies: int


def _sharing(service: Service) -> list[_Filler]:
    """This service and those earlier in the file that fill a GPU of its; empty where that is unknown."""
    fillers = {f.service.name: f for gpu in held(service) for f in _fillers(service.stack).get(gpu, ())}
    mine = fillers.get(service.name)
    names = [*fillers][: [*fillers].index(service.name)] if mine else []
    earlier = [fillers[name] for name in names if not never_together(service, fillers[name].service)]
    return [*earlier[:MOST_COMPARED], mine] if mine else []


# Only the stack that is judged is asked for, service after service.
@lru_cache(maxsize=1)
def _fillers(stack: Stack) -> Mapping[str, list[_Filler]]:
    """The servers that fill each GPU, in the order of the file."""
    fillers: dict[str, list[_Filler]] = {}
    for service in stack.services.values():
        share, copies = _share(service), _copies(service)
        for gpu in held(service) if share and copies else ():
            fillers.setdefault(gpu, []).append(_Filler(service, share or 0, copies))
    return fillers


def _copies(service: Service) -> int:
    """How many of it fill the same GPUs of one host."""
    argv = service.serve
    several_nodes = argv is None or argv.number("nnodes", 1) != 1
    return 0 if several_nodes else min(replicas(service), MOST_COMPARED)


def _share(service: Service) -> float | None:
    """The part of a GPU's memory that vLLM takes; None where the file does not say."""
    argv = service.serve
    if argv is None or argv.has("config") or argv.has("kv-cache-memory-bytes"):
        return None
    return _given_share(argv, service)


def _given_share(argv: Argv, service: Service) -> float | None:
    facts = service.engine_facts
    older = service.engine is not None and service.engine < numbers(facts.version)
    default = OLD_SHARE if older else facts.gpu_memory_utilization
    try:
        share = float(argv.text("gpu-memory-utilization", str(default)))
    except ValueError:
        return None
    return share if 0 < share <= 1 else None


def _share_line(service: Service) -> int:
    return service.serve.line_of("gpu-memory-utilization", service.line) if service.serve else service.line


@rule(
    "ED157",
    "error",
    "The variable names a GPU that the container does not have: inside, the GPUs are counted from 0.",
    remedy="leave the variable out; device_ids has chosen already",
    source="NVIDIA/nvidia-container-toolkit: the GPUs that are handed over are 0, 1, ... in the container;"
    " CUDA passes over every number from the first invalid one on",
)
def absent_gpu(service: Service) -> Iterator[Spot]:
    """`device_ids: ["2"]` with `CUDA_VISIBLE_DEVICES: "2"`."""
    given = granted(service)
    for name in VISIBLE if given and len(given) < MOST_GPUS else ():
        wrong = [part for part in named(service.variable(name)) if part.isdigit() and int(part) >= len(given)]
        if wrong and service.serve:
            have = "one GPU, 0" if len(given) == 1 else f"{len(given)} GPUs, 0 to {len(given) - 1}"
            yield Spot(
                service.environment[name].line, f"{name} names {wrong[0]}, and the container has {have}"
            )


@rule(
    "ED146",
    "warning",
    "The service gets more GPUs than vLLM uses; the others stand idle, and no other service gets them.",
    remedy="--tensor-parallel-size or --data-parallel-size with the number of GPUs, or reserve fewer",
    source="vLLM 0.32.0 takes tensor x pipeline x data parallel size GPUs, each 1 by default",
)
def idle_gpus(service: Service) -> Iterator[Spot]:
    """Reservations above the world size."""
    needed, given = ranks(service), reserved(service)
    several = service.process.script is not None and service.process.script.text.count("serve") > 1
    if needed and given and given > needed and platform_of(service) != "cpu" and not several:
        yield Spot(_request_line(service), f"it gets {given} GPUs, and vLLM uses {needed}")


def _request_line(service: Service) -> int:
    asked: list[Value] = requests(service)
    return asked[0].line if asked else service.line_of("devices")
