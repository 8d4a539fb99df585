"""The members of a rehearsed stack: one for one node; for several each has a Compose project, an .env and an address."""

import os
import shlex
import zlib
from collections.abc import Iterable
from ipaddress import IPv4Network

from msgspec import Struct

from ernie_deploy.errors import ToolFailed
from ernie_deploy.host.group_secret import ready
from ernie_deploy.host.link import Link, variables
from ernie_deploy.rehearsal.override import Rehearsal
from ernie_deploy.rehearsal.planted import variables as variables_of_secrets
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, ask, demand

# For measurements between networks (RFC 2544), so nobody's own.
SUBNETS = list(IPv4Network("198.18.0.0/15").subnets(new_prefix=24))
TRIES = 5
TAKEN = "overlaps"
# Docker calls a container's first network so.
NIC = "eth0"
DOWN_S = 180


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
    """The rendering with the override over it, as a project of its own; the .env names the profile."""
    stack = Stack(
        files=(rehearsal.folder / "compose.yml", rehearsal.folder / "rehearsal.yml"),
        project=f"{rehearsal.project}-{rank}" if rank else rehearsal.project,
        env_file=rehearsal.folder / (f"node-{rank}.env" if rank else ".env"),
    )
    return Member(rank=rank, stack=stack)


def lay_out_nodes(rehearsal: Rehearsal) -> None:
    """Write every node's .env, and make the network that their addresses are on; raises `ToolFailed`."""
    known = variables_of_secrets(rehearsal)
    addresses = _addresses(rehearsal) if rehearsal.plan.several_nodes else []
    for member in members(rehearsal):
        own = _own(member.rank, addresses) | ready(rehearsal.folder, "0") if addresses else {}
        assert member.stack.env_file, "every member has one"
        member.stack.env_file.write_text("".join(f"{k}={v}\n" for k, v in {**known, **own}.items()))


def _own(rank: int, addresses: list[str]) -> dict[str, str]:
    """What `doctor --write-env` writes on a real node; besides, the API on an address that Docker can publish."""
    link = Link(address=addresses[rank], interface=NIC, local=not rank)
    settings = variables(link, {"NODE_RANK": str(rank), "HEAD_ADDR": addresses[0]})
    return {**settings, "BIND_ADDR": addresses[rank]}


def _addresses(rehearsal: Rehearsal) -> list[str]:
    """The addresses that nodes may have on a network made for this rehearsal; the first is the gateway's."""
    return [str(address) for address in _network(rehearsal.network).hosts()][1:]


def _network(name: str) -> IPv4Network:
    """Make a network with a subnet that no other network of this engine has; raises `ToolFailed`."""
    first, output = zlib.crc32(name.encode()), ""
    for number in range(TRIES):
        subnet = SUBNETS[(first + number) % len(SUBNETS)]
        done = ask(["docker", "network", "create", "--subnet", str(subnet), name])
        if done.returncode == 0:
            return subnet
        output = done.stderr.strip()
        if TAKEN not in output:
            break
    raise ToolFailed(
        "No network for the nodes could be made.",
        cause=output,
        next_step="look at `docker network ls`; `docker network prune` removes those that nothing uses",
    )


def forget_shell(names: Iterable[str]) -> None:
    """Drop a stack's variables from this process: for Compose the shell's win over .env, the user's over ours.

    A rehearsal must neither read the user's token nor put tiny weights into the user's cache.
    """
    for name in (*names, "COMPOSE_PROFILES", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_ENV_FILES"):
        os.environ.pop(name, None)


def take_down(rehearsal: Rehearsal) -> list[str]:
    """Remove containers, networks and the rehearsal's own volumes; return a sentence for each thing left."""
    return [failure for words in removal(rehearsal) if (failure := _undone(words))]


def removal(rehearsal: Rehearsal) -> list[list[str]]:
    """The commands that remove all of a rehearsal but its folder."""
    downs = [
        member.stack.words("--profile", "*", "down", "--volumes", "--timeout", "5")
        for member in reversed(members(rehearsal))
    ]
    network = [["docker", "network", "rm", rehearsal.network]] if rehearsal.plan.several_nodes else []
    alone = [["docker", "rm", "--force", rehearsal.alone]] if rehearsal.plan.several_nodes else []
    return [*alone, *downs, *network]


def _undone(words: list[str]) -> str:
    """Run one command of the end; what it could not do is no reason to leave the rest."""
    try:
        done = ask(words, timeout_s=DOWN_S)
    except ToolFailed as late:
        return str(late)
    gone = not done.returncode or "No such" in done.stderr or "not found" in done.stderr
    return "" if gone else f"`{shlex.join(words)}` said: {done.stderr.strip()}"


def address(rehearsal: Rehearsal) -> str:
    """Where the API is published on this host; raises `ToolFailed` while it is not."""
    head = members(rehearsal)[0]
    port = demand(head.stack.words("port", rehearsal.front, str(rehearsal.front_port))).strip()
    return f"{rehearsal.scheme}://{port}"
