"""What one server over several nodes adds: flags and variables that each node's .env completes, and ports."""

from collections.abc import Sequence

from ernie_deploy.catalog.schema import Port, Value
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.settings import Setting, as_settings
from ernie_deploy.plan.topology import Topology

# Ray takes 30 % of the host's memory otherwise, which SHM_SIZE does not have. docker/scripts/node.py gives the head as much.
RAY_OBJECT_STORE_BYTES = 4_000_000_000
# Of no use on a worker: it has no API server.
OF_THE_API = ("host", "port", "config", "disable-fastapi-docs")


def profile_of(rank: int) -> str:
    """The compose profile of a node: rank 0 is the head."""
    return "worker" if rank else "head"


def ports(known: Sequence[Port], request: Request, topology: Topology) -> tuple[Port, ...]:
    """The ports of this form of several nodes; none for one node."""
    if topology.nodes == 1:
        return ()
    forms = {request.multi_node} | ({"replicas"} if topology.data_parallel_size > 1 else set())
    return tuple(port for port in known if forms & set(port.when))


def node_settings(request: Request, topology: Topology, opened: Sequence[Port]) -> list[Setting]:
    """The flags that make the nodes one server; what differs from node to node stays a variable."""
    if topology.nodes == 1:
        return []
    return [*_ranks(request, topology), *_fixed(opened), *_api(request)]


def _ranks(request: Request, topology: Topology) -> list[Setting]:
    if request.multi_node == "ray":
        return [Setting(name="distributed-executor-backend", value="ray", origin="kit: --multi-node ray")]
    return [
        Setting(name="nnodes", value=topology.nodes, origin="kit: one server over the nodes, without Ray"),
        Setting(name="node-rank", value="", origin="kit: .env of each node", variable="NODE_RANK"),
        Setting(name="master-addr", value="", origin="kit: .env of each node", variable="HEAD_ADDR"),
    ]


def _fixed(opened: Sequence[Port]) -> list[Setting]:
    """Ports written explicitly, although they are vLLM's defaults: a firewall must know them."""
    return [
        Setting(name=port.flag, value=port.number, origin=f"kit: {port.summary}")
        for port in opened
        if port.flag
    ]


def _api(request: Request) -> list[Setting]:
    """Where the API listens: on the host's own network vLLM itself must keep to BIND_ADDR."""
    address = request.bind.strip("[]")
    origin = "kit: the host's network, so vLLM itself keeps to the address"
    return [
        Setting(name="host", value=address, origin=origin, variable="BIND_ADDR"),
        Setting(name="port", value=8000, origin=origin, variable="PORT"),
    ]


def entry_settings(topology: Topology, settings: Sequence[Setting], opened: Sequence[Port]) -> list[Setting]:
    """Options of docker/scripts/node.py: who this node is, and where the ranks meet."""
    known = {port.id: port for port in opened}
    meeting = known.get("ray") or known["master"]
    number = next((s.value for s in settings if s.name == meeting.flag), meeting.number)
    node = {"rank": "NODE_RANK", "head": "HEAD_ADDR", "host-ip": "HOST_IP", "nic": "NIC"}
    # Its name alone: the secret itself is a file of `worker` and `beacon`.
    secret = Setting(name="secret-file", value="/dev/null", origin="kit", variable="GROUP_SECRET_FILE")
    fixed = {"nodes": topology.nodes, "port": number, "beacon-port": known["beacon"].number}
    ray: dict[str, Value] = {"ray": True, "gpus": topology.gpus} if "ray" in known else {}
    return [
        *(Setting(name=name, value="", origin="kit", variable=variable) for name, variable in node.items()),
        secret,
        *as_settings({**fixed, **ray}, "kit"),
    ]


def worker_settings(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """The head's flags as a worker has them: no API, the rest word for word."""
    headless = Setting(name="headless", value=True, origin="kit: the head has the API")
    return (*(setting for setting in settings if setting.name not in OF_THE_API), headless)


def ray_settings(topology: Topology) -> tuple[Setting, ...]:
    """The flags of `ray start` on every node but the head, which the address of each completes."""
    flags: dict[str, Value] = {
        "num-gpus": topology.gpus,
        "object-store-memory": RAY_OBJECT_STORE_BYTES,
        "disable-usage-stats": True,
        "block": True,
    }
    return tuple(as_settings(flags, "kit: a worker of Ray"))


def node_environment(topology: Topology) -> list[Setting]:
    """The variables by which ranks on different nodes find each other."""
    if topology.nodes == 1:
        return []
    origin = "kit: .env of each node"
    return [
        Setting(name="VLLM_HOST_IP", value="", origin=origin, variable="HOST_IP"),
        Setting(name="NCCL_SOCKET_IFNAME", value="", origin=origin, variable="NIC"),
        Setting(name="GLOO_SOCKET_IFNAME", value="", origin=origin, variable="NIC"),
    ]
