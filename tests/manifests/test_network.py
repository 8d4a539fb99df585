"""The network policies: the server answers on its port and reaches nothing, or the other ranks alone."""

from typing import Any

import pytest
from manifests.reading import FORMS, TWO_NODES, Document, read, templates, written

DNS: Document = {
    "to": [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}},
        {"ipBlock": {"cidr": "169.254.20.10/32"}},
    ],
    "ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}],
}
HTTP: Document = {"ports": [{"port": "http"}]}


def policy(documents: list[Document], ending: str = "") -> Document:
    """What a policy says: the servers', or the gateway's, which alone has an ending to its name."""
    name = next(one["metadata"]["name"] for one in documents if one["kind"] == "LeaderWorkerSet") + ending
    (spec,) = [
        one["spec"] for one in documents if (one["kind"], one["metadata"]["name"]) == ("NetworkPolicy", name)
    ]
    return dict(spec)


def holds(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector picks a pod of these labels."""
    expressions = selector.get("matchExpressions", [])
    assert {one["operator"] for one in expressions} <= {"In"}
    return selector["matchLabels"].items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in expressions
    )


@pytest.mark.parametrize(
    ("target", "options"), [*FORMS, *((target, {**options, "nodes": 2}) for target, options in TWO_NODES)], ids=str
)  # fmt: skip
def test_servers_are_held_by_the_policy_and_fetch_is_not(target: str, options: dict[str, object]) -> None:
    documents = read(written(target, **options))
    selector = policy(documents)["podSelector"]
    labels = {name: template["metadata"]["labels"] for name, template in templates(documents).items()}
    assert {name for name in labels if holds(selector, labels[name])} == labels.keys() - {"fetch"}
    assert policy(documents)["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_a_server_of_one_node_reaches_nothing(target: str, options: dict[str, object]) -> None:
    spec = policy(read(written(target, **options)))
    assert (spec["ingress"], spec["egress"]) == ([HTTP], [])


@pytest.mark.parametrize(("target", "options"), TWO_NODES, ids=str)
def test_ranks_reach_one_another_and_names_alone(target: str, options: dict[str, object]) -> None:
    documents = read(written(target, nodes=2, **options))
    spec = policy(documents)
    group = [{"podSelector": {"matchLabels": spec["podSelector"]["matchLabels"]}}]
    assert spec["ingress"] == [{"from": group}, HTTP]
    assert spec["egress"] == [{"to": group}, DNS]


def test_media_domains_open_the_ports_of_the_web() -> None:
    spec = policy(read(written("h100", model="vl-28b", media_domains=("images.example.org",))))
    assert spec["egress"] == [DNS, {"ports": [{"port": 80}, {"port": 443}]}]
