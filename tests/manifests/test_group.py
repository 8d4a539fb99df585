"""A group of pods is the nodes of compose: words, volumes, ports, and an end for all."""

import pytest
from conftest import planned, rendered
from manifests.reading import (
    CATALOG,
    TWO_NODES,
    mounted,
    of_kind,
    read,
    served,
    services,
    templates,
    written,
)

from ernie_deploy.errors import KitError

LEADER = {"LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "s-0.s.default", "LWS_GROUP_SIZE": "2"}
WORKER = {**LEADER, "LWS_WORKER_INDEX": "1"}


def differences_of_ranks(target: str, **options: object) -> list[str]:
    """What a rank's pod says otherwise than the node of the compose file whose .env says the same."""
    made, found = templates(read(written(target, nodes=2, **options))), []
    for component, service, variables in (("leader", "serve", LEADER), ("worker", "worker", WORKER)):
        env = {
            "NODE_RANK": variables["LWS_WORKER_INDEX"], "HEAD_ADDR": variables["LWS_LEADER_ADDRESS"],
            "HOST_IP": "status.podIP", "NIC": "eth0",
        }  # fmt: skip
        node = services(rendered(target, nodes=2, **options), **env)[service]
        # Who a node is, the controller knows; the key is read first in both.
        launcher = mounted(node["entrypoint"])
        del launcher[launcher.index("/scripts/node.py") - 2 : launcher.index("--") + 1]
        # A pod has an address of its own, so that its server listens as on one node.
        own = [word for word in node["command"] if not word.startswith(("--host=", "--port="))]
        pairs = zip(
            served(made[component], **variables), (launcher[3:] + own, node["environment"]), strict=True
        )
        found += [f"{target} {options} {component}: {a} != {b}" for a, b in pairs if a != b]
    return found


@pytest.mark.parametrize(("target", "options"), TWO_NODES, ids=str)
def test_each_rank_has_the_words_and_variables_of_compose(target: str, options: dict[str, object]) -> None:
    assert differences_of_ranks(target, **options) == []


@pytest.mark.parametrize("target", [target.id for target in CATALOG.targets()])
def test_each_rank_is_that_of_compose_for_every_model(target: str) -> None:
    compared, found = 0, []
    for model in CATALOG.models():
        try:
            planned(target, model=model.id, nodes=2)
        except KitError:
            continue
        found += differences_of_ranks(target, model=model.id)
        compared += 1
    assert found == []
    # The smallest model on a CPU ties its embeddings; every other target has models that split.
    assert compared or target == "cpu"


def test_two_nodes_line_by_line() -> None:
    text = written("h100", model="300b", nodes=2)
    block = text[
        text.index('- "baidu/ERNIE-4.5-300B') : text.index("            env:\n              - {name: HF_HOME")
    ]
    assert [line.strip() for line in block.splitlines() if line.strip()] == [
        '- "baidu/ERNIE-4.5-300B-A47B-PT"',
        '- "--tensor-parallel-size=8"  # kit: tensor parallel within a node, pipeline across',
        '- "--pipeline-parallel-size=2"  # kit: tensor parallel within a node, pipeline across',
        '- "--nnodes=2"  # kit: one server over the nodes, without Ray',
        '- "--node-rank=$(LWS_WORKER_INDEX)"  # kit: each pod\'s own',
        '- "--master-addr=$(LWS_LEADER_ADDRESS)"  # kit: each pod\'s own',
        '- "--master-port=29501"  # kit: torch\'s TCPStore, where the ranks meet; it listens on every interface',
        '- "--shutdown-timeout=60"  # kit: streams end before the container does',
        '- "--disable-fastapi-docs"  # kit: no public list of all routes',
    ]


@pytest.mark.parametrize(("target", "options"), TWO_NODES, ids=str)
def test_a_worker_may_and_has_what_the_leader_does_but_no_api(
    target: str, options: dict[str, object]
) -> None:
    documents = read(written(target, nodes=2, **options))
    leader, worker = (templates(documents)[name]["spec"] for name in ("leader", "worker"))
    ours, theirs = leader.pop("containers")[0], worker.pop("containers")[0]
    # Only the head has an API, and the key for it.
    key = [leader["volumes"].pop(), ours["volumeMounts"].pop()] if "api_key_file" in options else []
    assert {one["name"] for one in key} <= {"api-key"}
    assert leader == worker
    for name in ("command", "args", "ports", "startupProbe", "livenessProbe", "readinessProbe"):
        ours.pop(name)
    for name in ("command", "args", "readinessProbe"):
        theirs.pop(name)
    assert ours == theirs
    added = ours["securityContext"]["capabilities"].get("add", [])
    assert added == (["IPC_LOCK"] if "rdma" in options else [])


def test_the_end_of_one_rank_starts_all_anew_on_volumes_that_all_can_mount() -> None:
    documents = read(written("h100", model="300b", nodes=2))
    group = of_kind(documents, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    assert (group["size"], group["restartPolicy"]) == (2, "RecreateGroupOnPodRestart")
    modes = [d["spec"]["accessModes"] for d in documents if d["kind"] == "PersistentVolumeClaim"]
    assert modes == [["ReadWriteMany"], ["ReadWriteMany"]]
    assert "affinity" not in templates(documents)["fetch"]["spec"]


def test_more_nodes_make_no_larger_file() -> None:
    sizes = {nodes: len(written("h100", model="300b", nodes=nodes).splitlines()) for nodes in (2, 3, 6)}
    assert len(set(sizes.values())) == 1, sizes
