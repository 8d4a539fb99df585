"""Looks at what the kernel holds the first process of a service to, and at whether its root can be written."""

from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import demand

CONFINED = "no capability, no new privileges, seccomp on, read-only"


def confined(stage: Stage, service: str) -> str:
    """The uid of a service that is all of `CONFINED` and not root; raises `Disproved`."""
    text = demand(stage.stack.words("exec", "-T", service, "cat", "/proc/1/status"))
    facts = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    seen = (facts["CapEff"], facts["NoNewPrivs"], facts["Seccomp"])
    uid = facts["Uid"].split()[0]
    engine = containers.client()
    state = state_of(stage, service)
    read_only = engine.containers.get(state.id).attrs["HostConfig"]["ReadonlyRootfs"]
    if seen != ("0000000000000000", "1", "2") or uid == "0" or not read_only:
        raise Disproved(f"{service}: uid {uid}, CapEff, NoNewPrivs and Seccomp {seen}, read-only {read_only}")
    return uid


def state_of(stage: Stage, service: str) -> containers.State:
    """The container of a service as the engine sees it now; raises `Disproved` where there is none."""
    state = containers.of_service(containers.states(containers.client(), stage.stack.project), service)
    if state is None:
        raise Disproved(f"{service} has no container")
    return state
