"""Everything a stack needs decided, frozen: flags, variables, devices, memory, each with its origin."""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import DEFAULT_MODEL, Catalog
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.package_schema import Package
from ernie_deploy.catalog.schema import Model, Port, Support, Target
from ernie_deploy.catalog.vendor_schema import Security, SecuritySet, VendorFacts
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan import advice
from ernie_deploy.plan.bench import bench_settings
from ernie_deploy.plan.candidates import LayoutRefused
from ernie_deploy.plan.layout import Layout, choose
from ernie_deploy.plan.limits import limit_environment, limit_settings
from ernie_deploy.plan.memory import MemoryPlan, serve_memory_gib, weight_bytes
from ernie_deploy.plan.nodes import (
    entry_settings,
    node_environment,
    node_settings,
    ports,
    ray_settings,
    worker_settings,
)
from ernie_deploy.plan.notes import notes_on, warnings_on
from ernie_deploy.plan.pairing import Pairing
from ernie_deploy.plan.refusals import check_gpus, check_nodes, check_profiles
from ernie_deploy.plan.remote_code import RemoteCode, remote_code
from ernie_deploy.plan.request import Request, check_words, user_settings
from ernie_deploy.plan.serve import (
    API_KEY_CONFIG,
    API_KEY_SECRET,
    CACHES,
    HF_CACHE,
    OFFLINE,
    STATE,
    WEIGHTS_MOUNT,
    cache_environment,
    home_caches,
    serve_environment,
    serve_settings,
)
from ernie_deploy.plan.settings import Setting, merge
from ernie_deploy.plan.topology import Topology

SHUTDOWN_TIMEOUT_S = 60
STOP_MARGIN_S = 30
LONGEST_SHUTDOWN_S = 3600
BASE_READY_TIMEOUT_S = 600
SLOWEST_READ_BYTES_PER_S = 0.3e9


class Plan(Struct, frozen=True, kw_only=True):
    """One model on one target, decided; `render` writes it down and decides nothing."""

    request: Request
    model: Model
    target: Target
    support: Support
    engine: str
    image: str
    bench_image: str
    user: str
    home_caches: tuple[str, ...]
    security: SecuritySet
    profiles: tuple[str, ...]
    topology: Topology
    gpu_ids: tuple[int, ...]
    memory: MemoryPlan
    settings: tuple[Setting, ...]
    environment: tuple[Setting, ...]
    bench: tuple[Setting, ...]
    code: RemoteCode | None
    ports: tuple[Port, ...]
    row: str
    differences: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    weight_bytes: int
    ready_timeout_s: int
    shutdown_timeout_s: int

    @property
    def variant(self) -> str:
        """What was rendered: `21b-mi300x`, with the nodes and profiles that were asked for."""
        nodes = (f"{self.topology.nodes}nodes",) if self.topology.nodes > 1 else ()
        return "-".join((self.model.id, self.target.id, *nodes, *self.request.profiles))

    @property
    def project(self) -> str:
        """The stack's one name, whatever its target and profiles: rendered anew it is replaced and not doubled."""
        return self.request.name or f"ernie-{self.model.id.replace('.', '')}"

    @property
    def former_project(self) -> str:
        """What the project was called before it had one name."""
        return f"ernie-{self.variant.replace('.', '')}"

    @property
    def engine_volume(self) -> str:
        """The volume of compiled kernels, shared by the stacks that would compile the same ones.

        Whoever runs code in one of them can leave some there for the others, so no further stack has it.
        """
        return f"ernie-engine-{self.model.id}-{self.target.vendor}-{self.engine}"

    @property
    def positional_model(self) -> str:
        """The first word of vLLM's command: the hub's id, or the mounted weights."""
        return WEIGHTS_MOUNT if self.request.weights else self.model.hf_id

    @property
    def served_name(self) -> str:
        """The name that clients use."""
        return str(value_of(self.settings, "served-model-name", self.model.hf_id))

    def setting(self, name: str) -> Setting | None:
        """The flag `name` of `vllm serve`, if the plan has it."""
        return next((s for s in self.settings if s.name == name), None)

    @property
    def several_nodes(self) -> bool:
        """Whether one server runs over more than one node."""
        return self.topology.nodes > 1

    @property
    def uses_ray(self) -> bool:
        """Whether Ray starts the ranks on the other nodes."""
        return self.request.multi_node == "ray"

    @property
    def serve_image(self) -> str:
        """The image that serves: the vendor's, or the one built from it that has Ray."""
        return f"ernie-deploy/vllm-ray:{self.engine}-{self.target.vendor}" if self.uses_ray else self.image

    @property
    def serve_memory(self) -> str:
        """Limit of the host memory of `serve`: `0` is none, for no limit has been run on a GPU node."""
        return "0" if self.target.gpus else f"{serve_memory_gib(self.memory)}g"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Capabilities that `serve` keeps."""
        return (*self.security.capabilities, *(["IPC_LOCK"] if self.request.rdma else []))

    @property
    def entry_settings(self) -> tuple[Setting, ...]:
        """What the check before the engine is told of this node (docker/scripts/node.py)."""
        return tuple(entry_settings(self.topology, self.settings, self.ports))

    def port(self, name: str) -> int:
        """The number of one of the ports between nodes, by the catalog's id; a flag may have moved it."""
        known = next(port for port in self.ports if port.id == name)
        return int(str(value_of(self.settings, known.flag, known.number)))

    @property
    def worker_settings(self) -> tuple[Setting, ...]:
        """The flags of `vllm serve` on every node but the head."""
        return worker_settings(self.settings)

    @property
    def ray_settings(self) -> tuple[Setting, ...]:
        """The flags of `ray start` on every node but the head."""
        return ray_settings(self.topology)

    @property
    def fetch_words(self) -> list[str]:
        """Arguments of the fetch script."""
        owner = self.user or "0:0"
        words = [f"--model={self.model.hf_id}", f"--revision={self.revision}", f"--owner={owner}"]
        local = [f"--weights={WEIGHTS_MOUNT}", f"--architecture={self.model.architecture}"]
        return words + (local if self.request.weights else [])

    @property
    def packages(self) -> tuple[Package, ...]:
        """What `fetch` brings for the model's own code."""
        return self.code.packages if self.code else ()

    @property
    def api_key_words(self) -> tuple[str, ...]:
        """Arguments of the script that reads the API key for `serve`; none without --api-key-file."""
        return ("serve", API_KEY_SECRET, API_KEY_CONFIG) if self.request.api_key_file else ()

    @property
    def stamp(self) -> str:
        """Where fetch says which files it verified."""
        owner, _, name = self.model.hf_id.partition("/")
        if self.request.weights:
            return f"{STATE}/weights.json"
        return f"{HF_CACHE}/ernie/{owner}--{name}@{self.revision.replace('/', '-')}.json"

    @property
    def joins_device_groups(self) -> bool:
        """Whether `serve` must join the groups of AMD's devices: root owns them anyway."""
        return self.target.vendor == "amd" and (bool(self.user) or self.security.device_groups)

    @property
    def offline_settings(self) -> tuple[Setting, ...]:
        """Those of `environment` that `bench` has too: HOME on a tmpfs, and nothing asked of the network."""
        return tuple(setting for setting in self.environment if setting.name in OFFLINE)

    @property
    def cache_settings(self) -> tuple[Setting, ...]:
        """Those of `environment` that say where libraries keep what they compile."""
        return tuple(setting for setting in self.environment if setting.origin == CACHES)

    @property
    def stop_grace_period_s(self) -> int:
        """vLLM drains for the shutdown timeout; Docker kills this much later."""
        return self.shutdown_timeout_s + STOP_MARGIN_S

    @property
    def revision(self) -> str:
        """The revision that `fetch` and `serve` agree on."""
        return str(value_of(self.settings, "revision", self.model.revision))


def value_of(settings: Sequence[Setting], name: str, default: object) -> object:
    """The value of the setting `name`, or `default`; the first of a list."""
    found = next((s.value for s in settings if s.name == name), default)
    return found[0] if isinstance(found, list) else found


def resolve(catalog: Catalog, request: Request) -> Plan:
    """Decide everything about one request; raises a `KitError` that says why it cannot be, and what can."""
    check_words(request)
    pairing, support = _pairing(catalog, request)

    def other(request: Request) -> Plan:
        pairing, support = _pairing(catalog, request)
        return _decided(catalog, request, pairing, support)

    try:
        plan = _decided(catalog, request, pairing, support)
    except LayoutRefused as refusal:
        refusal.next_step = advice.instead(request, pairing, other) or refusal.next_step
        raise
    row = next((row for row in catalog.recipes.serve if row.id == plan.row), None)
    return replace(plan, notes=(*advice.notes(plan, row, other), *plan.notes))


def _decided(catalog: Catalog, request: Request, pairing: Pairing, support: Support) -> Plan:
    """The plan, its notes without advice."""
    layout = choose(pairing)
    opened = ports(catalog.ports, request, layout.topology)
    settings = merge(
        layout.settings,
        node_settings(request, layout.topology, opened),
        serve_settings(request, SHUTDOWN_TIMEOUT_S),
        limit_settings(pairing.engine, pairing.model, request, layout.settings),
        pairing.user,
    )
    # What the recipe, the hardware or the user wants comes first, what the stack itself wants behind it.
    settings = tuple(sorted(settings, key=lambda setting: setting.is_kit))
    model, target, size = pairing.model, pairing.target, weight_bytes(pairing.model)
    ready_timeout_s = BASE_READY_TIMEOUT_S + round(size / SLOWEST_READ_BYTES_PER_S)
    gpu_ids = _gpu_ids(request, layout, target)
    bench = bench_settings(catalog.recipes, model, target, request, settings)
    code = remote_code(catalog, model, request, settings, bench)
    return Plan(
        request=request,
        model=model,
        target=target,
        support=support,
        engine=pairing.engine.version,
        image=_image(pairing.engine, target, request),
        bench_image=pairing.engine.images["cpu"].reference,
        user=request.user or pairing.engine.images[target.vendor].user,
        home_caches=home_caches(pairing.engine, target.vendor),
        security=pairing.security,
        profiles=tuple(profile.id for profile in layout.profiles),
        topology=layout.topology,
        gpu_ids=gpu_ids,
        memory=layout.memory,
        settings=settings,
        environment=(
            *serve_environment(request, target, layout, gpu_ids, ready_timeout_s),
            *limit_environment(pairing.engine, model, settings),
            *cache_environment(pairing.engine, target.vendor),
            *node_environment(layout.topology),
        ),
        bench=bench,
        code=code,
        row=layout.row.id if layout.row else "",
        ports=opened,
        differences=layout.differences,
        warnings=(*warnings_on(pairing, layout, request), *(code.warnings if code else ())),
        notes=(*notes_on(pairing, layout, request), *(code.notes if code else ())),
        weight_bytes=size,
        ready_timeout_s=ready_timeout_s,
        shutdown_timeout_s=_shutdown_timeout_s(settings),
    )


def _pairing(catalog: Catalog, request: Request) -> tuple[Pairing, Support]:
    target = catalog.target(request.target)
    model = catalog.model(request.model or DEFAULT_MODEL[target.vendor])
    profiles = tuple(catalog.profile(profile_id) for profile_id in request.profiles)
    support = catalog.support(model.id, target.id)
    if support.state == "refused":
        raise Refused(
            f"{model.id} on {target.id} is refused: {support.reason}.",
            next_step="see what fits with: ernie-deploy models --json",
        )
    vendor = catalog.vendor(target.vendor)
    name = request.security or vendor.default_security
    pairing = Pairing(
        model=model,
        target=target,
        engine=catalog.engine,
        recipes=catalog.recipes,
        profiles=profiles,
        fp8=catalog.profile("fp8"),
        user=user_settings(request, catalog.engine),
        security_name=name,
        security=_security(vendor, name),
        gpu_ids=request.gpus,
        local_weights=bool(request.weights),
        nodes=request.nodes,
    )
    check_profiles(pairing)
    check_gpus(request, target)
    check_nodes(request, target)
    return pairing, support


def _security(vendor: VendorFacts, name: Security) -> SecuritySet:
    if name not in vendor.security:
        raise UsageError(
            f"There is no --security {name} for {vendor.id}.",
            cause=f"it has {', '.join(vendor.security)}",
            next_step=f"leave out --security for the default, {vendor.default_security}",
        )
    return vendor.security[name]


def _image(engine: Engine, target: Target, request: Request) -> str:
    image = engine.images[target.vendor]
    if not request.cuda:
        return image.reference
    if request.cuda not in image.older_cuda:
        raise Refused(
            f"There is no {target.vendor} image of vLLM {engine.version} for CUDA {request.cuda[:20]}.",
            cause=f"published are: {', '.join(image.older_cuda) or 'no other CUDA version'}",
            next_step="leave out --cuda for the default image",
        )
    return image.older_cuda[request.cuda]


def _gpu_ids(request: Request, layout: Layout, target: Target) -> tuple[int, ...]:
    """The first GPUs of the choice, as many as the layout takes; none on a CPU target."""
    ids = request.gpus or tuple(range(target.gpus))
    return ids[: layout.topology.gpus]


def _shutdown_timeout_s(settings: Sequence[Setting]) -> int:
    value = value_of(settings, "shutdown-timeout", SHUTDOWN_TIMEOUT_S)
    if not isinstance(value, int) or not 0 <= value <= LONGEST_SHUTDOWN_S:
        raise UsageError(f"--shutdown-timeout must be between 0 and {LONGEST_SHUTDOWN_S} seconds.")
    return value
