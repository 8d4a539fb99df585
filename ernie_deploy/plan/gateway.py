"""What the gateway lets through to this model, how much of it at once, and for how long."""

from collections.abc import Sequence

from msgspec import Struct

from ernie_deploy.catalog.gateway_schema import GatewayFacts, Route
from ernie_deploy.catalog.schema import Model
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan.limits import takes_images
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.settings import Setting

MIB = 2**20
MS_PER_S = 1000
LEAST_CONNECTIONS, ROOM_FOR_REFUSALS = 4096, 1024
# Of the health check, of Prometheus and of what a process before a reload tells: never a client's to take.
OWN_CONNECTIONS = 64
# Of haproxy.cfg: a connection holds two of these at most. The rest is for code, tables and TLS (estimated).
BUFFER_KIB, BUFFERS_PER_CONNECTION = 64, 2
LEAST_MEMORY_MIB, MEMORY_BESIDE_BUFFERS_MIB = 1024, 512
# A reload leaves a process to its streams: two have room for all buffers, the others for few. HAProxy 2.6 took
# 10 MiB for one with a stream (measured).
MOST_RELOADS, FULL_PROCESSES, IDLE_PROCESS_MIB = 16, 2, 16
# Where the files of the gateway lie in its container: keys.map, and tls/.
FILES = "/gateway"
# In its container: the API's port, and what Prometheus and the health check ask.
FRONT_PORT = 8443
OWN_PORT = 8405
# On the container's loopback alone, where a process that is reloaded tells the next one its counts.
PEERS_PORT = 8407
# There too, where a process that was reloaded passes on what its clients still ask.
PASSED_ON_PORT = 8408
# Where Prometheus hears when the certificate ends, on a TLS connection.
CERTIFICATE_PORT = 8406


def first_steps(request: Request) -> list[list[str]]:
    """The commands that make what HAProxy does not start without: its certificate, and its map of keys."""
    make = {"files": ["install", "CERT", "KEY"], "self-signed": ["self-signed"]}
    certificate = [["ernie-deploy", "tls", *make[request.tls]]] if request.tls else []
    return [*certificate, ["ernie-deploy", "key", "add", "NAME"]] if request.gateway else []


class Server(Struct, frozen=True):
    """One vLLM behind the gateway: its name in logs and metrics, where it is, and how many requests it takes at once."""

    name: str
    address: str
    connections: int


def servers_of(request: Request, connections: int) -> tuple[Server, ...]:
    """The servers of this stack, or those elsewhere that were named."""
    if request.upstreams:
        named = ((f"upstream-{number}", at) for number, at in enumerate(request.upstreams, 1))
    else:
        services = ["serve", *(f"serve-{number}" for number in range(2, request.replicas + 1))]
        named = ((service, f"{service}:8000") for service in services)
    return tuple(Server(name, at, connections) for name, at in named)


class Load(Struct, frozen=True):
    """What one server takes: requests that it computes at once, and tokens of the longest one."""

    sequences: int
    context_tokens: int


class Gateway(Struct, frozen=True, kw_only=True):
    """The gateway of a stack; what a host may change is in .env, the rest follows from the plan.

    `answer_timeout_s` is above the longest answer: a request that is not streamed is silent for that long.
    """

    image: str
    user: str
    routes: tuple[Route, ...]
    servers: tuple[Server, ...]
    queue: int
    max_body_bytes: int
    answer_timeout_s: int

    @property
    def connections(self) -> int:
        """How many requests all servers take at once."""
        return sum(server.connections for server in self.servers)

    @property
    def most_connections(self) -> int:
        """How many clients may be connected: fewer would leave requests unanswered where the queue has room."""
        return max(LEAST_CONNECTIONS, self.connections + self.queue + ROOM_FOR_REFUSALS)

    @property
    def all_connections(self) -> int:
        """Those of clients, and the gateway's own: a front door that is full leaves its metrics reachable."""
        return self.most_connections + OWN_CONNECTIONS

    @property
    def memory_mib(self) -> int:
        """The limit of its container's memory: all connections' buffers before and after a reload, and older processes."""
        buffers = -(-self.all_connections * BUFFERS_PER_CONNECTION * BUFFER_KIB // 1024)
        older = (MOST_RELOADS + 1 - FULL_PROCESSES) * IDLE_PROCESS_MIB
        return max(LEAST_MEMORY_MIB, FULL_PROCESSES * buffers + older + MEMORY_BESIDE_BUFFERS_MIB)

    @property
    def defaults(self) -> dict[str, str]:
        """The variables of .env whose default this plan decides."""
        return {
            "GATEWAY_USER": self.user,
            "GATEWAY_QUEUE": str(self.queue),
            "GATEWAY_MAX_BODY_BYTES": str(self.max_body_bytes),
            "GATEWAY_ANSWER_TIMEOUT_S": str(self.answer_timeout_s),
        }


def check_gateway(request: Request) -> None:
    """Refuse what a gateway cannot be combined with; raises `KitError`."""
    if request.routes and not request.gateway:
        raise UsageError(
            "--route opens a route of the gateway.", next_step="add --gateway, or leave out --route"
        )
    if request.tls and not request.gateway:
        raise UsageError("--tls is about the gateway.", next_step="add --gateway, or leave out --tls")
    if request.gateway and request.api_key_file:
        raise UsageError(
            "--gateway and --api-key-file exclude each other.",
            cause="the gateway has the keys, one for each client, and passes none on to vLLM",
            next_step="leave out --api-key-file, and make a key with: ernie-deploy key add NAME",
        )
    if request.gateway and request.nodes > 1:
        raise Refused(
            "--gateway has no form of several nodes yet.",
            cause="the nodes' server is on the host's network, where the gateway's internal network does not reach",
            next_step="render the nodes without --gateway, and in front of them a stack with --upstreams HEAD:PORT",
        )


def shell_request(path: str) -> str:
    """The beginning of a bash command that asks the gateway's own port from inside; the reply is at descriptor 3.

    The image has neither curl nor Python.
    """
    return f"exec 3<>/dev/tcp/127.0.0.1/{OWN_PORT}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3"


def gateway_of(
    facts: GatewayFacts, model: Model, request: Request, settings: Sequence[Setting], load: Load
) -> Gateway:
    """The gateway of a plan, its image as it is published; raises `UsageError` for a route that is none."""
    body = facts.body.media_mib if takes_images(model, settings) else facts.body.text_mib
    return Gateway(
        image=facts.image.reference,
        user=facts.image.user,
        routes=_routes(facts, model, request),
        servers=servers_of(request, load.sequences),
        queue=load.sequences * max(request.replicas, len(request.upstreams)),
        max_body_bytes=body * MIB,
        answer_timeout_s=facts.answer.waiting_s + load.context_tokens * facts.answer.ms_per_token // MS_PER_S,
    )


def _routes(facts: GatewayFacts, model: Model, request: Request) -> tuple[Route, ...]:
    """Those that this model serves, and those that were asked for."""
    known = {route.asked for route in facts.routes if route.asked}
    if unknown := [name for name in request.routes if name not in known]:
        raise UsageError(
            f"--route {unknown[0][:40]!r} is no route that can be asked for.",
            cause=f"known are {', '.join(sorted(known))}; the OpenAI routes that this model serves are open anyway",
        )
    served = (route for route in facts.routes if route.needs != "chat" or model.chat)
    return tuple(route for route in served if not route.asked or route.asked in request.routes)
