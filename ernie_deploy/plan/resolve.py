"""Resolves a request into a plan, or raises the error that says why it cannot be."""

from collections.abc import Sequence
from typing import TypedDict

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.schema import Model, Port, Support, Target
from ernie_deploy.catalog.vendor_schema import Security, SecuritySet, VendorFacts
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan import advice, sources
from ernie_deploy.plan.bench import bench_settings
from ernie_deploy.plan.candidates import LayoutRefused
from ernie_deploy.plan.gateway import Gateway, Load, check_gateway, gateway_of
from ernie_deploy.plan.layout import Layout, choose, memory_of
from ernie_deploy.plan.limits import limit_environment, limit_settings
from ernie_deploy.plan.memory import MemoryPlan, weight_bytes
from ernie_deploy.plan.monitoring import check_monitoring, exporters_of
from ernie_deploy.plan.nodes import (
    node_environment,
    node_settings,
    ports,
)
from ernie_deploy.plan.notes import notes_on, warnings_on
from ernie_deploy.plan.pairing import Pairing, find, size_of
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.refusals import check_gpus, check_nodes, check_profiles
from ernie_deploy.plan.remote_code import remote_code
from ernie_deploy.plan.replicas import check_replicas, replicas_of
from ernie_deploy.plan.request import Request, user_settings
from ernie_deploy.plan.request_checks import check_words
from ernie_deploy.plan.serve import (
    cache_environment,
    home_caches,
    serve_environment,
    serve_settings,
)
from ernie_deploy.plan.settings import Setting, merge, value_of
from ernie_deploy.plan.topology import Topology

SHUTDOWN_TIMEOUT_S = 60
LONGEST_SHUTDOWN_S = 3600
BASE_READY_TIMEOUT_S = 600
SLOWEST_READ_BYTES_PER_S = 0.3e9
PLATFORMS = {"cuda": "CUDA", "rocm": "ROCm"}
PARALLEL = ("tensor_parallel_size", "data_parallel_size", "pipeline_parallel_size")


class _Image(TypedDict):
    """The fields of a plan that an engine's image gives."""

    engine: str
    image: str
    bench_image: str
    user: str
    home_caches: tuple[str, ...]


class _Layout(TypedDict):
    """The fields of a plan that its layout gives."""

    profiles: tuple[str, ...]
    topology: Topology
    memory: MemoryPlan
    row: str
    differences: tuple[str, ...]


def resolve(catalog: Catalog, request: Request) -> Plan:
    """Decide everything about one request; raises a `KitError` that says why it cannot be, and what can."""
    check_words(request)
    sources.check_sources(request)
    pairing, support = _pairing(catalog, request)

    def other(request: Request) -> Plan:
        # What is only proposed may name what the lock does not hold.
        request = replace(request, lock=None)
        pairing, support = _pairing(catalog, request)
        return _decided(catalog, request, pairing, support)

    try:
        plan = _decided(catalog, request, pairing, support)
    except LayoutRefused as refusal:
        refusal.next_step = advice.instead(request, pairing, other) or refusal.next_step
        raise
    row = next((row for row in catalog.recipes.serve if row.id == plan.row), None)
    return replace(plan, notes=(*advice.notes(plan, row, other), *plan.notes))


def decide(catalog: Catalog, request: Request) -> Plan:
    """As `resolve`, without advice about what else could be asked for: a third of the time."""
    check_words(request)
    return _decided(catalog, request, *_pairing(catalog, request))


def _decided(catalog: Catalog, request: Request, pairing: Pairing, support: Support) -> Plan:
    """The plan, its notes without advice."""
    layout = choose(pairing)
    opened = ports(catalog.ports, request, layout.topology)
    settings = _settings(pairing, layout, request, opened)
    model, target, size = pairing.model, pairing.target, weight_bytes(pairing.model)
    ready_timeout_s = BASE_READY_TIMEOUT_S + round(size / SLOWEST_READ_BYTES_PER_S)
    gpu_ids = _gpu_ids(request, layout, target)
    replicas = replicas_of(request, gpu_ids, layout.topology.gpus)
    bench = bench_settings(catalog.recipes, model, target, request, settings)
    code = remote_code(catalog, model, request, settings, bench)
    return Plan(
        request=request,
        model=model,
        target=target,
        support=support,
        security=pairing.security,
        vendor=pairing.vendor,
        gpu_ids=gpu_ids,
        replicas=replicas,
        settings=settings,
        environment=(
            *serve_environment(request, pairing, layout, gpu_ids[: layout.topology.gpus], ready_timeout_s),
            *limit_environment(pairing.engine, model, settings, gateway=request.gateway),
            *cache_environment(pairing.engine, target.vendor),
            *node_environment(layout.topology),
        ),
        bench=bench,
        code=code,
        gateway=_gateway(catalog, pairing, layout, settings, request),
        ports=opened,
        warnings=(*warnings_on(pairing, layout, request), *(code.warnings if code else ())),
        notes=(*notes_on(pairing, layout, request), *(code.notes if code else ())),
        weight_bytes=size,
        ready_timeout_s=ready_timeout_s,
        shutdown_timeout_s=_shutdown_timeout_s(settings),
        monitoring=exporters_of(catalog, request, target),
        **_image_fields(pairing, request),
        **_layout_fields(layout),
    )


def _settings(
    pairing: Pairing, layout: Layout, request: Request, opened: tuple[Port, ...]
) -> tuple[Setting, ...]:
    """The flags of `vllm serve`: what the recipe, the hardware or the user wants, and then what the stack itself wants."""
    settings = merge(
        layout.settings,
        node_settings(request, layout.topology, opened),
        serve_settings(request, SHUTDOWN_TIMEOUT_S),
        limit_settings(pairing.engine, pairing.model, request, layout.settings),
        pairing.user,
    )
    return tuple(sorted(settings, key=lambda setting: setting.is_kit))


def _image_fields(pairing: Pairing, request: Request) -> _Image:
    engine, vendor = pairing.engine, pairing.target.vendor
    return {
        "engine": engine.version,
        "image": sources.image(_image(engine, pairing.vendor, request), request),
        "bench_image": sources.image(engine.images["cpu"].reference, request),
        "user": request.user or engine.images[vendor].user,
        "home_caches": home_caches(engine, vendor),
    }


def _layout_fields(layout: Layout) -> _Layout:
    return {
        "profiles": tuple(profile.id for profile in layout.profiles),
        "topology": layout.topology,
        "memory": layout.memory,
        "row": layout.row.id if layout.row else "",
        "differences": layout.differences,
    }


def _pairing(catalog: Catalog, request: Request) -> tuple[Pairing, Support]:
    target, engine = catalog.target(request.target), catalog.engine(request.engine)
    vendor = catalog.vendor(target.vendor)
    model = catalog.model(request.model or vendor.default_model)
    profiles = tuple(catalog.profile(profile_id) for profile_id in request.profiles)
    support = _support(catalog, model, target)
    name = request.security or vendor.default_security
    model, user = sources.pinned(model, user_settings(request, engine), request)
    pairing = Pairing(
        model=model,
        target=target,
        vendor=vendor,
        engine=engine,
        recipes=catalog.recipes,
        profiles=profiles,
        fp8=catalog.profile("fp8"),
        user=user,
        security_name=name,
        security=_security(vendor, name),
        gpu_ids=request.gpus,
        local_weights=bool(request.weights),
        lock_path=request.lock.path if request.lock else "",
        nodes=request.nodes,
        replicas=request.replicas,
    )
    _check(pairing, request)
    return pairing, support


def _support(catalog: Catalog, model: Model, target: Target) -> Support:
    """How far the pair is supported; raises `Refused` where it is not."""
    support = catalog.support(model.id, target.id)
    if support.state == "refused":
        raise Refused(
            f"{model.id} on {target.id} is refused: {support.reason}.",
            next_step="see what fits with: ernie-deploy models --json",
        )
    return support


def _check(pairing: Pairing, request: Request) -> None:
    """Raise a `KitError` for options that contradict each other or the target."""
    check_profiles(pairing)
    check_gpus(request, pairing.target)
    check_nodes(request, pairing.target)
    check_gateway(request)
    check_replicas(request, pairing.target)
    check_monitoring(request)


def _security(vendor: VendorFacts, name: Security) -> SecuritySet:
    if name not in vendor.security:
        raise UsageError(
            f"There is no --security {name} for {vendor.id}.",
            cause=f"it has {', '.join(vendor.security)}",
            next_step=f"leave out --security for the default, {vendor.default_security}",
        )
    return vendor.security[name]


def _image(engine: Engine, vendor: VendorFacts, request: Request) -> str:
    """The image of the vendor; raises `Refused` where none has the CUDA or ROCm that was asked for."""
    if request.image:
        return request.image
    variants, driver = engine.images[vendor.id].variants, vendor.driver
    for option, version in (("cuda", request.cuda), ("rocm", request.rocm)):
        own = driver is not None and driver.option == option
        if version and not (own and version in variants):
            raise Refused(
                f"There is no {vendor.id} image of vLLM {engine.version} for {PLATFORMS[option]} {version[:20]}.",
                cause=f"published are: {', '.join(f'{driver.platform} {v}' for v in variants) if driver else 'no other'}",
                next_step=f"leave out --{option} for the default image",
            )
    return variants[request.cuda or request.rocm or engine.images[vendor.id].platform].reference


def _gpu_ids(request: Request, layout: Layout, target: Target) -> tuple[int, ...]:
    """The first GPUs of the choice, as many as the layout takes; none on a CPU target."""
    ids = request.gpus or tuple(range(target.gpus))
    return ids[: layout.topology.gpus * request.replicas]


def _gateway(
    catalog: Catalog, pairing: Pairing, layout: Layout, settings: Sequence[Setting], request: Request
) -> Gateway | None:
    """The gateway in front of the server, where one was asked for; its image as the others are."""
    if not request.gateway:
        return None
    each = size_of(settings, "max-num-seqs", pairing.target.engine_defaults.max_num_seqs)
    load = Load(each * layout.topology.data_parallel_size, layout.memory.context_tokens)
    made = gateway_of(catalog.gateway, pairing.model, request, settings, load)
    return replace(made, image=sources.image(made.image, request))


def _shutdown_timeout_s(settings: Sequence[Setting]) -> int:
    value = value_of(settings, "shutdown-timeout", SHUTDOWN_TIMEOUT_S)
    if not isinstance(value, int) or not 0 <= value <= LONGEST_SHUTDOWN_S:
        raise UsageError(f"--shutdown-timeout must be between 0 and {LONGEST_SHUTDOWN_S} seconds.")
    return value


def memory_with(catalog: Catalog, plan: Plan, model: Model, settings: Sequence[Setting]) -> MemoryPlan:
    """What a model takes of each GPU of the plan's target with these flags; raises `KitError`."""
    pairing, _ = _pairing(catalog, plan.request)
    sizes = {name: size_of(settings, name.replace("_", "-")) for name in PARALLEL}
    experts = find(settings, "enable-expert-parallel") is not None
    topology = Topology(**sizes, nodes=plan.topology.nodes, expert_parallel=experts)
    return memory_of(replace(pairing, model=model), topology, settings)
