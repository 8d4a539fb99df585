"""The plan of a stack, frozen: flags, variables, devices and memory, each with its origin."""

from msgspec import Struct

from ernie_deploy.catalog.monitoring_schema import Exporter
from ernie_deploy.catalog.package_schema import Package
from ernie_deploy.catalog.schema import Model, Port, Support, Target
from ernie_deploy.catalog.vendor_schema import SecuritySet, VendorFacts
from ernie_deploy.plan.gateway import Gateway
from ernie_deploy.plan.memory import MemoryPlan, serve_memory_gib
from ernie_deploy.plan.nodes import entry_settings, ray_settings, worker_settings
from ernie_deploy.plan.remote_code import RemoteCode
from ernie_deploy.plan.replicas import Replica
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.serve import (
    API_KEY_CONFIG,
    API_KEY_SECRET,
    CACHES,
    HF_CACHE,
    OFFLINE,
    STATE,
    WEIGHTS_MOUNT,
)
from ernie_deploy.plan.settings import Setting, value_of
from ernie_deploy.plan.topology import Topology

STOP_MARGIN_S = 30
VLLM_CACHE = "VLLM_CACHE_ROOT"
# docker/scripts/ready.py waits so long before it passes a stop on.
SEEN_S = 3
# After so long a replica that has work and does not move is given up by the gateway; the only server never is.
REPLICA_HANG_S = 15


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
    vendor: VendorFacts
    profiles: tuple[str, ...]
    topology: Topology
    gpu_ids: tuple[int, ...]
    replicas: tuple[Replica, ...]
    memory: MemoryPlan
    settings: tuple[Setting, ...]
    environment: tuple[Setting, ...]
    bench: tuple[Setting, ...]
    code: RemoteCode | None
    gateway: Gateway | None
    ports: tuple[Port, ...]
    row: str
    differences: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    weight_bytes: int
    ready_timeout_s: int
    shutdown_timeout_s: int
    # What watches the stack, each with the image that it is rendered with.
    monitoring: tuple[Exporter, ...] = ()

    @property
    def variant(self) -> str:
        """What was rendered: `21b-mi300x`, with the nodes and profiles that were asked for."""
        nodes = (f"{self.topology.nodes}nodes",) if self.topology.nodes > 1 else ()
        return "-".join((self.model.id, self.target.id, *nodes, *self.request.profiles))

    @property
    def project(self) -> str:
        """The stack's one name, whatever its target and profiles: rendered anew it is replaced and not doubled."""
        alone = "-gateway" if self.request.upstreams else ""
        return self.request.name or f"ernie-{self.model.id.replace('.', '')}{alone}"

    @property
    def former_project(self) -> str:
        """What the project was called before it had one name."""
        return f"ernie-{self.variant.replace('.', '')}"

    @property
    def engine_volume(self) -> str:
        """The volume of compiled kernels, shared by the stacks that would compile the same ones.

        Whoever runs code in one of them can leave some there for the others, so no further stack has it.
        """
        return f"ernie-engine-{self.model.id}-{self.target.vendor}-{self.engine}{self._of_platform}"

    @property
    def _of_platform(self) -> str:
        """What tells kernels apart that were compiled for a CUDA or a ROCm that was asked for."""
        request = self.request
        return f"-cuda{request.cuda}" if request.cuda else f"-rocm{request.rocm}" if request.rocm else ""

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
    def visible_devices(self) -> str:
        """The variable that names the GPUs in use; empty where the chosen ones alone are handed out."""
        return "" if self.request.gpus_cdi else self.vendor.visible_devices

    @property
    def joins_device_groups(self) -> bool:
        """Whether `serve` must join the groups that devices belong to: root owns them anyway."""
        return self.vendor.grouped_devices and (bool(self.user) or self.security.device_groups)

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
        """vLLM drains for the shutdown timeout, behind a gateway once that knows; Docker kills this much later."""
        return self.shutdown_timeout_s + STOP_MARGIN_S + (SEEN_S if self.gateway else 0)

    @property
    def gpus(self) -> int:
        """GPUs taken of each node, by all replicas; the processor counts as one for each."""
        return self.topology.gpus * len(self.replicas)

    def environment_of(self, replica: Replica) -> dict[str, str]:
        """What a replica after the first has otherwise: its GPUs, and where vLLM keeps what it compiles.

        vLLM's own cache is written in place (0.32.0 compilation/backends.py); Triton's and inductor's are not.
        """
        root = str(value_of(self.environment, VLLM_CACHE, ""))
        own = {VLLM_CACHE: f"{root}-{replica.number}"} if root else {}
        gpus = {self.visible_devices: ",".join(map(str, replica.gpu_ids))} if self.visible_devices else {}
        return own | gpus

    @property
    def hang_s(self) -> int:
        """After how long docker/scripts/ready.py calls a server that does not move hung; 0 is never."""
        return REPLICA_HANG_S if len(self.replicas) > 1 else 0

    @property
    def revision(self) -> str:
        """The revision that `fetch` and `serve` agree on."""
        return str(value_of(self.settings, "revision", self.model.revision))
