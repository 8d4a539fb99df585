"""The gateway of the manifests: valid, confined, in front of the servers alone, and HAProxy takes its configuration."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import planned, rendered
from gateway.haproxy import binary
from manifests.reading import Document, container, mounted, of_kind, read, services, templates, written
from manifests.test_network import DNS, holds, policy
from manifests.test_pods import restricted_faults
from manifests.test_valid import faults

from ernie_deploy.errors import UsageError

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("h100", {}),
    ("h100", {"tls": "files", "routes": ("tokenize",)}),
    ("mi300x", {"balance": "sticky"}),
    ("h100", {"model": "vl-28b"}),
    ("cpu", {}),
]


def made(target: str = "h100", **options: Any) -> list[Document]:
    return read(written(target, gateway=True, **options))


def named(documents: list[Document], kind: str, ending: str) -> Document:
    (found,) = [one for one in documents if one["kind"] == kind and one["metadata"]["name"].endswith(ending)]
    return found


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_published_schemas_accept_every_document(target: str, options: dict[str, Any]) -> None:
    documents = made(target, **options)
    assert {f"{one['kind']} {fault}" for one in documents for fault in faults(one)} == set()
    kinds = [one["kind"] for one in documents if one["kind"] != "PersistentVolumeClaim"]
    assert kinds == ["Job", "LeaderWorkerSet", "Deployment", "Service", "Service", "PodMonitor", "NetworkPolicy", "NetworkPolicy", "ConfigMap"]  # fmt: skip


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_haproxy_takes_the_configuration_with_the_pods_variables(
    target: str, options: dict[str, Any], tmp_path: Path
) -> None:
    documents = made(target, **options)
    text = of_kind(documents, "ConfigMap")["data"]["haproxy.cfg"]
    (tmp_path / "keys.map").touch()
    text = text.replace("/gateway/", f"{tmp_path}/").replace(
        f" ssl crt {tmp_path}/tls/tls.crt alpn http/1.1", ""
    )
    (tmp_path / "haproxy.cfg").write_text(text)
    variables = {one["name"]: one["value"] for one in container(pod(documents))["env"]}
    done = subprocess.run(
        [binary(), "-c", "-f", tmp_path / "haproxy.cfg"],
        capture_output=True, text=True, timeout=300, env={"PATH": os.environ["PATH"], **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    headless = named(documents, "Service", "-serve")
    assert f"server-template serve 16 {headless['metadata']['name']}:8000 " in text
    # Else DNS would take a pod that drains from HAProxy, which then cuts its streams.
    assert (headless["spec"]["clusterIP"], headless["spec"]["publishNotReadyAddresses"]) == ("None", True)


def pod(documents: list[Document]) -> Document:
    template: Document = of_kind(documents, "Deployment")["spec"]["template"]
    return template


def test_its_pod_may_do_no_more_than_it_must() -> None:
    template = pod(made())
    assert restricted_faults(template) == []
    assert template["spec"]["securityContext"]["runAsUser"] == 99
    assert template["spec"]["automountServiceAccountToken"] is False


def test_its_limits_are_those_of_compose() -> None:
    variables = {one["name"]: one["value"] for one in container(pod(made()))["env"]}
    assert variables == services(rendered("h100", gateway=True))["gateway"]["environment"]


def test_only_the_gateway_reaches_the_servers() -> None:
    documents = made()
    pods = {**templates(documents), "gateway": pod(documents)}
    labels = {name: template["metadata"]["labels"] for name, template in pods.items()}
    (rule,) = policy(documents)["ingress"]
    assert {name for name in labels if holds(rule["from"][0]["podSelector"], labels[name])} == {"gateway"}
    assert rule["ports"] == [{"port": "http"}, {"port": "ready"}]
    held = policy(documents)["podSelector"]
    assert {name for name in labels if holds(held, labels[name])} == {"leader"}
    api = named(documents, "Service", "-api")["spec"]
    assert api["selector"] == labels["gateway"]
    assert api["ports"] == [{"name": "http", "port": 8000, "targetPort": "front"}]


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_the_gateway_itself_takes_clients_and_reaches_the_servers_and_names_alone(
    target: str, options: dict[str, Any]
) -> None:
    documents = made(target, **options)
    pods = {**templates(documents), "gateway": pod(documents)}
    labels = {name: template["metadata"]["labels"] for name, template in pods.items()}
    spec = policy(documents, "-gateway")
    assert {name for name in labels if holds(spec["podSelector"], labels[name])} == {"gateway"}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    # Not its own port, which tells of every request without a key, nor those of its reloads.
    assert spec["ingress"] == [{"ports": [{"port": "front"}]}]
    servers, names = spec["egress"]
    (to,) = servers["to"]
    assert to.keys() == {"podSelector"}
    assert {name for name in labels if holds(to["podSelector"], labels[name])} == {"leader"}
    serving = container(pods["leader"])["ports"]
    assert [one["port"] for one in servers["ports"]] == [one["containerPort"] for one in serving]
    assert names == DNS
    front = {port["name"]: port["containerPort"] for port in container(pods["gateway"])["ports"]}
    assert front == {"front": 8443, "own": 8405}


def test_the_server_runs_as_in_compose() -> None:
    server = container(templates(made())["leader"])
    serve = services(rendered("h100", gateway=True))["serve"]
    words = mounted(serve["entrypoint"])
    assert [*server["command"], *server["args"]][: len(words)] == words
    assert {port["name"]: port["containerPort"] for port in server["ports"]} == {"http": 8000, "ready": 8001}


def test_it_drains_before_it_is_killed() -> None:
    template = pod(made())
    leaves_s = int(container(template)["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = template["spec"]["terminationGracePeriodSeconds"]
    longest = planned("h100", gateway=True).gateway
    assert longest
    # A changed key is a restart of the pod, which may not end a stream that a reload in Compose would not.
    assert grace_s == longest.answer_timeout_s + leaves_s
    text = of_kind(made(), "ConfigMap")["data"]["haproxy.cfg"]
    assert f"hard-stop-after {grace_s - leaves_s}s" in text
    rollout = of_kind(made(), "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert rollout == {"maxUnavailable": 0, "maxSurge": 1}


def test_secrets_are_named_with_their_commands_and_never_written() -> None:
    text = written("h100", gateway=True, tls="files")
    assert "Secret" not in {document["kind"] for document in read(text)}
    assert (
        "#   kubectl create secret generic ernie-21b-gateway-keys --from-file=keys.map=gateway/keys.map"
        in text
    )
    assert (
        "#   kubectl create secret tls ernie-21b-gateway-tls --cert=gateway/tls/tls.crt --key=gateway/tls/tls.key"
        in text
    )
    (volume,) = [one for one in pod(read(text))["spec"]["volumes"] if "projected" in one]
    assert volume["projected"]["defaultMode"] == 0o440
    assert [one["secret"]["name"] for one in volume["projected"]["sources"]] == ["ernie-21b-gateway-keys", "ernie-21b-gateway-tls"]  # fmt: skip


@pytest.mark.parametrize("options", [{"replicas": 2}, {"upstreams": ("10.0.0.4:8000",)}], ids=str)
def test_what_the_cluster_does_itself_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has no meaning in Kubernetes"):
        written("h100", gateway=True, **options)
