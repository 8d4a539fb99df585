"""Two nodes as containers on one Docker network, real vLLM over both, and what breaks between them."""

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import FULL, planned, rendered
from integration.nodes import ended, log, start_once, with_env
from integration.stack import Asked, recovered
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.client import Answer, chat
from ernie_deploy.rehearsal.group import Member, address, members, take_down
from ernie_deploy.rehearsal.group_proofs import RANK
from ernie_deploy.rehearsal.override import Rehearsal, decide
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.rehearsal.proofs import ENGINE, RECOVERY_S, killed
from ernie_deploy.rehearsal.stage import Stage, until
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import ask, demand
from ernie_deploy.stack.evidence import gathered
from ernie_deploy.stack.failures import recognise

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1500)]
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")

TWO = {"model": "300b", "nodes": 2}
CUT_S = 30
REFUSED_S = 60.0
# A hang is found within 180 s; who waits longer than that hangs.
REQUEST_S = 240.0
# Exit codes of docker/scripts/node.py.
BAD_RANK, NO_INTERFACE, HEAD_ABSENT, RANK_TAKEN = 30, 32, 34, 35


@pytest.fixture(scope="module")
def idle(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Two nodes with verified weights and no rank on them yet."""
    rehearsal = decide(planned("h100", **TWO), tmp_path_factory.mktemp("idle"), "ernie-idle")
    try:
        runner.lay_out(rehearsal, rendered("h100", **TWO))
        for member in members(rehearsal):
            demand(member.stack.words("up", "--detach", "machine", "fetch"), timeout_s=120)
        yield rehearsal
    finally:
        # The test with a rank of nobody made volumes for it.
        for name in ("hf-cache", "engine-cache"):
            ask(["docker", "rm", "--force", f"{rehearsal.project}-1-worker-1"])
            ask(["docker", "volume", "rm", f"{rehearsal.project}-{name}-2"])
        assert take_down(rehearsal) == []


@pytest.fixture(scope="module")
def stage(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two nodes that serve together."""
    rehearsal = decide(planned("h100", **TWO), tmp_path_factory.mktemp("nodes"), "ernie-nodes")
    group = members(rehearsal)
    try:
        runner.lay_out(rehearsal, rendered("h100", **TWO))
        runner.bring_up(group, lambda *_: None)
        yield Stage(
            rehearsal=rehearsal, members=group, base_url=address(rehearsal), planted=Planted(token="")
        )
    except Exception:
        tell(group)
        raise
    finally:
        assert take_down(rehearsal) == []


def tell(group: tuple[Member, ...]) -> None:
    for member in group:
        print(ask(member.stack.logs(tail="60"), timeout_s=60).stdout)


@pytest.fixture
def observed(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Stage]:
    """The same, with both logs where the test fails."""
    failed = request.session.testsfailed
    yield stage
    if request.session.testsfailed > failed:
        tell(stage.members)


# --- a node alone: one sentence, before anything is loaded ---


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({"NIC": "eth9"}, NO_INTERFACE, "NIC 'eth9' is no interface of this host, which has "),
        ({"NODE_RANK": 0}, BAD_RANK, "NODE_RANK is 0, but this is the profile worker and rank 0 is the head alone"),
        ({"NODE_RANK": 2}, BAD_RANK, "NODE_RANK '2' is not a number from 0 to 1"),
    ],
    ids=["wrong NIC", "rank of the head", "rank of nobody"],
)  # fmt: skip
def test_a_wrong_line_in_env_is_a_sentence(
    idle: Rehearsal, tmp_path: Path, variables: dict[str, object], code: int, said: str
) -> None:
    worker = with_env(members(idle)[1], tmp_path / "other.env", **variables)
    start_once(worker, tmp_path)
    assert (ended(worker, REFUSED_S), said in log(worker)) == (code, True), log(worker)
    known = recognise(gathered(logs=[log(worker)]), Catalog())
    assert known
    assert known.id == "node-misplaced"


def test_a_head_that_is_not_up_is_a_sentence(idle: Rehearsal, tmp_path: Path) -> None:
    worker = members(idle)[1]
    start_once(worker, tmp_path, "--wait-s=4")
    assert ended(worker, REFUSED_S) == HEAD_ABSENT
    assert (
        "let no rank in within 4 s: nothing answers, so it is not up, or a firewall closes its ports"
        in log(worker)
    )


# --- a group that serves ---


def ask_in(stage: Stage, max_tokens: int) -> Answer:
    """A stream that must not hang, and is complete or is no success."""
    begun = time.monotonic()
    name = stage.rehearsal.plan.served_name
    answer = chat(stage.base_url, name, max_tokens=max_tokens, stream=True, timeout_s=REQUEST_S)
    assert not Asked(answer, max_tokens, time.monotonic() - begun, REQUEST_S).fault(), answer
    return answer


def answers(stage: Stage) -> bool:
    return stage.healthy() and ask_in(stage, 16).ending == "complete"


def machine(member: Member) -> containers.State:
    states = containers.states(containers.client(), member.stack.project)
    return next(state for state in states if state.service == "machine")


@full
@pytest.mark.parametrize(("rank", "word"), [(1, RANK), (0, ENGINE)], ids=["worker", "head"])
def test_a_node_killed_while_streaming(observed: Stage, rank: int, word: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_in, observed, 20000)
        time.sleep(3)
        recovered_s = killed(observed, observed.members[rank], word)
        assert asked.result().ending in ("cut", "error")
    recovered(f"two nodes: {'worker' if rank else 'head'} killed while streaming", recovered_s)
    assert answers(observed)


@full
def test_a_second_node_of_the_same_rank_is_refused(observed: Stage, tmp_path: Path) -> None:
    """A third machine with a copy of the worker's .env, its own address apart."""
    worker = observed.members[1]
    theirs = machine_address(observed, worker)
    here = theirs.rpartition(".")[0] + ".9"
    third = with_env(worker, tmp_path / "third.env", HOST_IP=here, BIND_ADDR=here)
    third = replace(third, stack=replace(third.stack, project="ernie-nodes-third"))
    try:
        demand(third.stack.words("up", "--detach", "machine", "fetch"), timeout_s=120)
        start_once(third, tmp_path)
        assert ended(third, REFUSED_S) == RANK_TAKEN
        assert f"the rank 1 is {theirs}'s" in log(third)
    finally:
        ask(third.stack.words("down", "--timeout", "2"), timeout_s=60)
    assert answers(observed)


def machine_address(stage: Stage, member: Member) -> str:
    here = containers.client().containers.get(machine(member).id)
    own: str = here.attrs["NetworkSettings"]["Networks"][stage.rehearsal.network]["IPAddress"]
    return own


@full
def test_the_network_cut_for_half_a_minute(observed: Stage) -> None:
    """Connections may outlive it: then the stream goes on; else the group starts anew.

    No `docker network disconnect`: Docker 20.10 gives the interface another name when it connects again.
    """
    worker, everything = observed.members[1], (["INPUT", "-i", "eth0"], ["OUTPUT", "-o", "eth0"])
    before = [member.state().restarts for member in observed.members]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_in, observed, 3000)
        time.sleep(3)
        begun = time.monotonic()
        for traffic in everything:
            firewall(worker, "-A", *traffic)
        time.sleep(CUT_S)
        for traffic in everything:
            firewall(worker, "-D", *traffic)
        until(lambda: answers(observed), RECOVERY_S)
        recovered_s = time.monotonic() - begun
        ending = asked.result().ending
    after = [member.state().restarts for member in observed.members]
    print(f"the stream that was cut: {ending}; restarts of head and worker: {before} -> {after}")
    recovered(f"two nodes: the network cut for {CUT_S} s, counted from the cut", recovered_s)


def firewall(member: Member, action: str, *traffic: str) -> None:
    """Drop some traffic of a node (`-A`), or let it pass again (`-D`)."""
    pid = containers.client().containers.get(machine(member).id).attrs["State"]["Pid"]
    rule = ["iptables", action, *traffic, "-j", "DROP"]
    subprocess.run(["nsenter", "--target", str(pid), "--net", *rule], check=True)


def log_since(member: Member, moment_unix_s: float) -> str:
    container = containers.client().containers.get(member.state().id)
    text: bytes = container.logs(since=moment_unix_s)
    return text.decode("utf-8", "replace")


@full
def test_a_closed_port_is_told_and_opened(observed: Stage) -> None:
    """The group starts anew behind a firewall that closes the port where the ranks meet."""
    head, worker = observed.members
    port, begun, moment = observed.rehearsal.plan.port("master"), time.monotonic(), time.time()
    joined = f"node: rank 1 of {len(observed.members)} nodes"
    knocks = ("INPUT", "-i", "eth0", "-p", "tcp", "--dport", str(port))
    firewall(head, "-A", *knocks)
    try:
        # The head first: a worker that meets the former one waits for its end.
        for member in (head, worker):
            containers.client().containers.get(member.state().id).restart(timeout=1)
        said = f"or a firewall closes port {port}"
        until(lambda: said in log_since(worker, moment), REFUSED_S)
        # The head's port has listened for a while: only the firewall keeps the worker out.
        until(lambda: "distributed_init_method=tcp" in log_since(head, moment), RECOVERY_S)
        time.sleep(CUT_S)
        assert joined not in log_since(worker, moment)
        assert not observed.healthy()
    finally:
        firewall(head, "-D", *knocks)
    until(lambda: joined in log_since(worker, moment), REFUSED_S)
    until(lambda: answers(observed), RECOVERY_S)
    recovered(f"two nodes: started with port {port} closed, then opened", time.monotonic() - begun)
