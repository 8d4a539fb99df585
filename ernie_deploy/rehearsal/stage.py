"""A rehearsal that is up, as its proofs see it, and the fault that a proof raises."""

from collections.abc import Callable
from http import HTTPStatus

from msgspec import Struct

from ernie_deploy.rehearsal.client import status
from ernie_deploy.rehearsal.group import Member
from ernie_deploy.rehearsal.override import Rehearsal
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack
from ernie_deploy.stack.servers import Server, servers
from ernie_deploy.stack.waiting import poll_until


class Disproved(Exception):
    """What was to be shown did not hold; the text says how."""


class Stage(Struct, frozen=True, kw_only=True):
    """A rehearsal that is up: its members, where it serves, and the secrets that were planted."""

    rehearsal: Rehearsal
    members: tuple[Member, ...]
    base_url: str
    planted: Planted

    @property
    def stack(self) -> Stack:
        """The one node's stack, or the head's."""
        return self.members[0].stack

    def serve(self) -> containers.State:
        """The serving container as the engine sees it now."""
        return self.members[0].state()

    def servers(self) -> list[Server]:
        """What is asked for counters: behind a gateway each server from inside."""
        if self.rehearsal.plan.gateway is None:
            return [Server(url=self.base_url)]
        engine = containers.client()
        return servers(engine, {}, containers.states(engine, self.stack.project))

    def replicas(self) -> list[containers.State]:
        """The servers beside `serve` that stand behind the same gateway, stopped ones too."""
        names = {replica.service for replica in self.rehearsal.plan.replicas[1:]}
        states = containers.states(containers.client(), self.stack.project) if names else []
        return [state for state in states if state.service in names]

    def healthy(self) -> bool:
        """Whether every member is, and every replica."""
        states = [*(member.state() for member in self.members), *self.replicas()]
        return all(state.health == "healthy" for state in states)

    def is_open(self) -> bool:
        """Whether clients reach a server: a gateway's /healthz says that one is up."""
        if self.rehearsal.plan.gateway is None:
            return True
        try:
            return status(f"{self.base_url}/healthz") == HTTPStatus.OK
        except OSError:
            return False

    def everywhere(self, sentence: str) -> str:
        """The sentence, with the number of nodes that it was shown on."""
        return f"{sentence}, on each of {len(self.members)} nodes" if len(self.members) > 1 else sentence


def until(met: Callable[[], bool], limit_s: float) -> None:
    """Wait for something; raises `Disproved` where it does not come."""
    if not poll_until(met, limit_s):
        raise Disproved(f"not within {limit_s:g} s")
