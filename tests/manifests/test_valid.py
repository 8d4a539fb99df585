"""The manifests are valid to the letter, by the published schemas and by kubectl."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from manifests.reading import FORMS, TWO_NODES, Document, container, of_kind, read, templates, written
from referencing import Registry, Resource

HERE = Path(__file__).parent


def own_schema(kind: str) -> jsonschema.Draft202012Validator:
    load = {path.name: json.loads(path.read_text()) for path in HERE.glob("*.json")}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    registry: Registry[Any] = Registry().with_resources(
        [(name, Resource.from_contents({"$schema": dialect, **schema})) for name, schema in load.items()]
    )
    return jsonschema.Draft202012Validator(load[f"{kind.lower()}.json"], registry=registry)


def faults(document: Document) -> list[str]:
    """What the published schemas say against a document; a field they do not know is a fault."""
    if document["kind"] in ("LeaderWorkerSet", "PodMonitor"):
        found = [error.message for error in own_schema(document["kind"]).iter_errors(document)]
        group = document["spec"].get("leaderWorkerTemplate", {})
        pods = [group[name] for name in ("leaderTemplate", "workerTemplate") if name in group]
        return found + [fault for pod in pods for fault in faults(as_pod_template(pod))]
    found = [error.message for error in own_schema("metadata").iter_errors(document["metadata"])]
    try:
        kubernetes_validate.validate(document, "1.37", strict=True)
    except kubernetes_validate.ValidationError as error:
        found.append(f"{'.'.join(map(str, error.path))}: {error.message}")
    return found


def as_pod_template(template: Document) -> Document:
    return {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": template}


@pytest.mark.parametrize(
    ("target", "options"),
    [*FORMS, *((target, {**options, "nodes": 2}) for target, options in TWO_NODES)],
    ids=str,
)
def test_published_schemas_accept_every_document(target: str, options: dict[str, object]) -> None:
    documents = read(written(target, **options))
    assert {f"{one['kind']} {fault}" for one in documents for fault in faults(one)} == set()
    kinds = [document["kind"] for document in documents]
    claims = ["PersistentVolumeClaim"] * (2 - ("weights" in options) + ("vl" in str(options.get("model"))))
    assert kinds == [*claims, "Job", "LeaderWorkerSet", "Service", "PodMonitor", "NetworkPolicy", "ConfigMap"]


@pytest.mark.parametrize(
    ("kind", "place"),
    [
        ("LeaderWorkerSet", ("spec",)),
        ("LeaderWorkerSet", ("spec", "leaderWorkerTemplate")),
        ("LeaderWorkerSet", ("spec", "leaderWorkerTemplate", "workerTemplate", "spec")),
        ("LeaderWorkerSet", ("spec", "leaderWorkerTemplate", "workerTemplate", "spec", "securityContext")),
        ("Job", ("spec", "template", "spec", "containers", 0)),
        ("PersistentVolumeClaim", ("spec",)),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0)),
        ("Service", ("spec", "ports", 0)),
        ("NetworkPolicy", ("spec",)),
        ("NetworkPolicy", ("spec", "ingress", 0)),
        ("ConfigMap", ()),
    ],
    ids=str,
)
def test_an_unknown_field_would_be_seen(kind: str, place: tuple[str | int, ...]) -> None:
    document = next(one for one in read(written("h100")) if one["kind"] == kind)
    assert faults(document) == []
    inner: Any = document
    for step in place:
        inner = inner[step]
    inner["readOnlyRoot"] = True
    assert any("readOnlyRoot" in fault for fault in faults(document))


@pytest.mark.parametrize(
    ("target", "options"),
    [*FORMS, *((target, {**options, "nodes": 2}) for target, options in TWO_NODES)],
    ids=str,
)
def test_names_lead_to_what_they_name(target: str, options: dict[str, object]) -> None:
    documents = read(written(target, **options))
    claims = {one["metadata"]["name"] for one in documents if one["kind"] == "PersistentVolumeClaim"}
    maps = {one["metadata"]["name"] for one in documents if one["kind"] == "ConfigMap"}
    for template in templates(documents).values():
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for one in (*spec["containers"], *spec.get("initContainers", [])):
            assert {mount["name"] for mount in one["volumeMounts"]} <= volumes.keys()
        used = {
            v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v
        }
        assert used <= claims
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} == maps
    labels = templates(documents)["leader"]["metadata"]["labels"]
    assert of_kind(documents, "Service")["spec"]["selector"] == labels
    assert of_kind(documents, "Service")["spec"]["ports"] == [
        {"name": "http", "port": 8000, "targetPort": "http"}
    ]
    assert of_kind(documents, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["port"] == "http"
    assert of_kind(documents, "PodMonitor")["spec"]["selector"]["matchLabels"] == labels
    assert [port["name"] for port in container(templates(documents)["leader"])["ports"]] == ["http"]
    # The controller makes a headless Service of the group's name.
    assert (
        of_kind(documents, "Service")["metadata"]["name"]
        != of_kind(documents, "LeaderWorkerSet")["metadata"]["name"]
    )


@pytest.mark.parametrize(
    ("target", "options"),
    [*FORMS, *((target, {**options, "nodes": 2}) for target, options in TWO_NODES)],
    ids=str,
)
def test_kubectl_reads_what_was_rendered(tmp_path: Path, target: str, options: dict[str, object]) -> None:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip(
            "kubectl is missing: no package registry has a current one, so this is a check where it is"
        )
    sys.path.insert(0, str(HERE))
    from discovery import api_server

    path = tmp_path / "stack.yml"
    path.write_text(written(target, **options), encoding="utf-8")
    words = [kubectl, "apply", "--dry-run=client", "--validate=false", "-f", str(path), "-o", "json"]
    scrubbed = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*"}
    with api_server() as address:
        done = subprocess.run(
            [*words, "--server", address], capture_output=True, text=True, env=scrubbed, timeout=300
        )
    assert (done.returncode, done.stderr) == (0, "")
    items = json.loads(done.stdout)["items"]
    for item in items:
        del item["metadata"]["annotations"], item["metadata"]["namespace"]
    assert items == read(path.read_text(encoding="utf-8"))
