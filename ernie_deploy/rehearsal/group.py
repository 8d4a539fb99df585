"""The members of a rehearsed stack: one for one node; for several each has a Compose project, an .env and an address."""

import zlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

from msgspec import Struct

from ernie_deploy import containers
from ernie_deploy.compose import Stack, ask, demand
from ernie_deploy.errors import ToolFailed
from ernie_deploy.rehearsal.override import Rehearsal

# For measurements between networks (RFC 2544), so nobody's own.
SUBNETS = list(IPv4Network("198.18.0.0/15").subnets(new_prefix=24))
TRIES = 5
TAKEN = "overlaps"
# Docker calls a container's first network so.
NIC = "eth0"


class Member(Struct, frozen=True, kw_only=True):
    """One node's part of the stack; rank 0 is the head, whose `serve` has the API."""

    rank: int
    stack: Stack

    @property
    def service(self) -> str:
        """The service with this node's ranks."""
        return "worker" if self.rank else "serve"

    def state(self) -> containers.State:
        """The container with this node's ranks as the engine sees it now."""
        states = containers.states(containers.client(), self.stack.project)
        return next(state for state in states if state.service == self.service)


def members(rehearsal: Rehearsal) -> tuple[Member, ...]:
    """The head, then every worker."""
    return tuple(_member(rehearsal, rank) for rank in range(rehearsal.plan.topology.nodes))


def _member(rehearsal: Rehearsal, rank: int) -> Member:
    """The rendering with the override over it, as a project of its own."""
    return Member(rank=rank, stack=Stack(
        files=(rehearsal.folder / "compose.yml", rehearsal.folder / "rehearsal.yml"),
        project=f"{rehearsal.project}-{rank}" if rank else rehearsal.project,
        env_file=rehearsal.folder / (f"node-{rank}.env" if rank else ".env"),
        profiles=("worker" if rank else "head",) if rehearsal.plan.several_nodes else (),
    ))  # fmt: skip


def lay_out_nodes(rehearsal: Rehearsal) -> None:
    """Write every node's .env, and make the network that their addresses are on."""
    known = {"HF_TOKEN_FILE": str(rehearsal.folder / "token")}
    addresses = list(_addresses(rehearsal)) if rehearsal.plan.several_nodes else []
    for member in members(rehearsal):
        own = _own(member.rank, addresses) if addresses else {}
        assert member.stack.env_file, "every member has one"
        member.stack.env_file.write_text("".join(f"{k}={v}\n" for k, v in {**known, **own}.items()))


def _own(rank: int, addresses: list[IPv4Address]) -> dict[str, str]:
    """What `doctor --write-env` finds on a real node."""
    here = str(addresses[rank])
    return {
        "NODE_RANK": str(rank),
        "HEAD_ADDR": str(addresses[0]),
        "HOST_IP": here,
        "NIC": NIC,
        "BIND_ADDR": here,
    }


def _addresses(rehearsal: Rehearsal) -> Iterator[IPv4Address]:
    """An address for each node on a network made for this rehearsal; raises `ToolFailed`."""
    subnet = _network(rehearsal.network)
    # The first is the gateway's.
    return (address for address in list(subnet.hosts())[1:])


def _network(name: str) -> IPv4Network:
    """Make a network with a subnet that no other network of this engine has."""
    first, said = zlib.crc32(name.encode()), ""
    for number in range(TRIES):
        subnet = SUBNETS[(first + number) % len(SUBNETS)]
        done = ask(["docker", "network", "create", "--subnet", str(subnet), name])
        if done.returncode == 0:
            return subnet
        said = done.stderr.strip()
        if TAKEN not in said:
            break
    raise ToolFailed(
        "No network for the nodes could be made.",
        cause=said,
        next_step="look at `docker network ls`; `docker network prune` removes those that nothing uses",
    )


def take_down(rehearsal: Rehearsal) -> None:
    """Remove containers, networks and the rehearsal's own volumes."""
    for member in reversed(members(rehearsal)):
        ask(member.stack.words("--profile", "*", "down", "--volumes", "--timeout", "5"), timeout_s=180)
    if rehearsal.plan.several_nodes:
        ask(["docker", "network", "rm", rehearsal.network])


def address(rehearsal: Rehearsal) -> str:
    """Where the API is published on this host; raises `ToolFailed` while it is not."""
    head = members(rehearsal)[0]
    return "http://" + demand(head.stack.words("port", rehearsal.front, "8000")).strip()
