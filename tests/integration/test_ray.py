"""Ray's own cluster of two containers, from the rendering and its image; vLLM's CPU platform serves nothing over it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FULL, planned, rendered
from integration.nodes import ended, log, start_once, wait_for, with_file
from test_rehearsal_image import build

from ernie_deploy.rehearsal import runner
from ernie_deploy.rehearsal.group import Member, members, take_down
from ernie_deploy.rehearsal.override import decide
from ernie_deploy.stack.compose import demand

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not FULL, reason="only with .ci/run --full"),
]

OVER_RAY = {"model": "300b", "nodes": 2, "multi_node": "ray"}
NODES_MISSING = 36
CLUSTER_S = 180
BUILD_S = 600
# vLLM 0.32.0, the same words as in the refusal of `rehearse --multi-node ray`.
NO_RAY_ON_CPU = "current platform cpu does not support ray"


def of_this_host(folder: Path) -> str:
    """What the build must know of this host, as docs/multi-node.md has it: pip's configuration and the certificates."""
    inputs = build.Inputs(build.parse([]))
    (folder / "pip.conf").write_text(inputs.pip)
    known = {"pip": {"file": str(folder / "pip.conf")}, **({"ca": {"file": inputs.ca}} if inputs.ca else {})}
    service = {"build": {"secrets": list(known)}}
    return json.dumps({"secrets": known, "services": {"serve": service, "worker": service}})


@pytest.fixture(scope="module")
def group(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Member, ...]]:
    """Two nodes with verified weights, and the image with Ray built as the rendering has it."""
    folder = tmp_path_factory.mktemp("ray")
    rehearsal = decide(planned("h100", **OVER_RAY), folder, "ernie-ray")
    try:
        runner.lay_out(rehearsal, rendered("h100", **OVER_RAY))
        (folder / "more.json").write_text(of_this_host(folder))
        found = tuple(with_file(member, folder / "more.json") for member in members(rehearsal))
        demand(found[0].stack.words("build", "serve"), timeout_s=BUILD_S)
        for member in found:
            demand(member.stack.words("up", "--detach", "machine", "fetch"), timeout_s=120)
        yield found
    finally:
        assert take_down(rehearsal) == []


def test_a_missing_node_is_reported(group: tuple[Member, ...], tmp_path: Path) -> None:
    head, _ = group
    start_once(head, tmp_path, "--wait-s=15")
    assert ended(head, CLUSTER_S) == NODES_MISSING
    assert "8 of 16 GPUs have joined, 1 node is missing after" in log(head)


def test_two_containers_form_a_cluster(group: tuple[Member, ...], tmp_path: Path) -> None:
    head, worker = group
    start_once(worker, tmp_path)
    wait_for("waiting for the head", worker, CLUSTER_S)
    start_once(head, tmp_path)
    wait_for("node: rank 0 of 2 nodes", head, CLUSTER_S)
    status = demand(head.stack.words("exec", "-T", "serve", "ray", "status"))
    ranks = demand(worker.stack.words("exec", "-T", "worker", "cat", "/proc/1/status"))
    print(status)
    active = status.partition("Active:")[2].partition("Pending:")[0]
    assert len([line for line in active.splitlines() if "node_" in line]) == 2
    assert "/16.0 GPU" in status
    assert "CapEff:\t0000000000000000" in ranks
    assert "Uid:\t2000\t2000" in ranks
    wait_for(NO_RAY_ON_CPU, head, CLUSTER_S)
