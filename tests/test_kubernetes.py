"""The manifests say what the compose file says, are valid to the letter, and hold no secret."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import ROOT, kit, planned, rendered
from fake_vllm import FakeVllm
from hypothesis import given, settings
from referencing import Registry, Resource
from test_render import NASTY, interpolated

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.flags import words
from ernie_deploy.kubernetes import LONGEST_NAME, manifests, quantity, short_name

HERE = Path(__file__).parent / "kubernetes"
CATALOG = Catalog()
Document = dict[str, Any]
FORMS: list[tuple[str, dict[str, object]]] = [
    ("h100", {}),
    ("mi300x", {}),
    ("cpu", {}),
    ("h100", {"model": "vl-28b", "api_key_file": True, "user": "1000:1000"}),
    ("h100", {"weights": "/data/we ird'$PATH", "cuda": "12.9", "security": "vendor"}),
    ("mi300x", {"dp": 2, "user": "1000:1000", "security": "vendor", "api_key_file": True}),
]
TWO_NODES: list[tuple[str, dict[str, object]]] = [
    ("h100", {"model": "300b"}),
    ("h100", {"model": "300b", "tp": 16, "pp": 1, "profiles": ("mtp",), "rdma": True}),
    ("mi300x", {"model": "vl-424b", "api_key_file": True, "user": "1000:1000"}),
    ("h100", {"model": "21b", "dp": 16}),
    ("cpu", {"model": "0.3b", "dp": 2, "weights": "/data/ernie"}),
]


def written(target: str, **options: object) -> str:
    return manifests(planned(target, **options), CATALOG.defaults)


def read(text: str) -> list[Document]:
    return list(yaml.load_all(text, yaml.CSafeLoader))


def of_kind(documents: list[Document], kind: str) -> Document:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def templates(documents: list[Document]) -> dict[str, Document]:
    """The pod templates of the manifests by their component."""
    group = of_kind(documents, "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    found = [of_kind(documents, "Job")["spec"]["template"], group["workerTemplate"]]
    found += [group["leaderTemplate"]] if "leaderTemplate" in group else []
    return {template["metadata"]["labels"]["app.kubernetes.io/component"]: template for template in found}


def container(template: Document) -> Document:
    (found,) = template["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def expanded(text: str, **variables: str) -> str:
    """What the kubelet makes of a word: `$(NAME)` where it knows the name, `$$` as `$`."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def served(template: Document, **variables: str) -> tuple[list[str], dict[str, str]]:
    """Words and variables of the server as its process sees them."""
    found = container(template)
    environment = {
        one["name"]: expanded(one["value"], **variables)
        if "value" in one
        else one["valueFrom"]["fieldRef"]["fieldPath"]
        for one in found["env"]
    }
    return [expanded(word, **variables) for word in found["args"]], environment


# --- the same as compose ---

SCRIPT = re.compile(r"^( *)- (?:&\w+ )?\|\n(?:\1 +.*\n|\n)+", re.MULTILINE)


def services(text: str, **env: str) -> dict[str, Document]:
    """The services of a compose file, their scripts shortened, which other tests compare."""
    short = re.sub(r"^( *- )\*\w+$", r"\1script", SCRIPT.sub(r"\1- script\n", text), flags=re.MULTILINE)
    return yaml.load(interpolated(short, env), yaml.CSafeLoader)["services"]  # type: ignore[no-any-return]


def differences(target: str, **options: object) -> list[str]:
    """What the manifests say otherwise than the compose file of the same request."""
    made, compose = templates(read(written(target, **options))), services(rendered(target, **options))
    serve, fetch = compose["serve"], compose["fetch"]
    grace = f"{made['leader']['spec']['terminationGracePeriodSeconds']}s"
    given = {key: str(value) for key, value in fetch["environment"].items() if value}
    pairs = {
        "serve words": (served(made["leader"])[0], serve["entrypoint"][4:] + serve["command"]),
        "serve variables": (served(made["leader"])[1], serve["environment"]),
        "fetch words": (served(made["fetch"])[0], fetch["command"]),
        "fetch variables": (served(made["fetch"])[1], given),
        "image": (container(made["leader"])["image"], serve["image"]),
        "fetch image": (container(made["fetch"])["image"], fetch["image"]),
        "grace": (grace, serve["stop_grace_period"]),
    }
    return [f"{target} {options} {what}: {a} != {b}" for what, (a, b) in pairs.items() if a != b]


@pytest.mark.parametrize("target", [target.id for target in CATALOG.targets()])
def test_words_and_variables_are_those_of_compose_over_the_whole_matrix(target: str) -> None:
    compared, found = 0, []
    for model in CATALOG.models():
        for profiles in [(), *((profile.id,) for profile in CATALOG.profiles())]:
            try:
                planned(target, model=model.id, profiles=profiles)
            except KitError:
                continue
            found += differences(target, model=model.id, profiles=profiles)
            compared += 1
    assert found == []
    assert compared >= 2 * sum(CATALOG.support(m.id, target).state != "refused" for m in CATALOG.models())


@pytest.mark.parametrize(("target", "options"), FORMS, ids=str)
def test_words_and_variables_are_those_of_compose_in_each_form(
    target: str, options: dict[str, object]
) -> None:
    assert differences(target, **options) == []


@given(NASTY)
@settings(deadline=None, max_examples=100)
def test_any_setting_reaches_vllm_unchanged(value: str) -> None:
    try:
        plan = planned("h100", pairs=(f"served-model-name={value}",))
    except KitError:
        return
    text = manifests(plan, CATALOG.defaults)
    leader = templates(
        list(yaml.safe_load_all(text.partition("\nkind: Service\n")[0].rpartition("\n---")[0]))
    )["leader"]
    known = {"HOME": "wrong", "X": "wrong"}
    assert served(leader, **known)[0][4:] == [plan.positional_model, *words(plan.settings)]
    probe = container(leader)["livenessProbe"]["exec"]["command"]
    assert expanded(probe[4], **known) == plan.served_name


def test_what_kubernetes_would_expand_is_escaped() -> None:
    leader = templates(read(written("h100", pairs=("served-model-name=$(HOME) $$ $X a$",))))["leader"]
    assert "$$(HOME) $$$$ $$X a$$" in container(leader)["args"]


def test_scripts_are_the_files_of_the_project() -> None:
    data = of_kind(read(written("h100")), "ConfigMap")["data"]
    files = [ROOT / "docker/canary.py", ROOT / "templates/kubernetes/liveness.py", ROOT / "docker/weights.py"]
    assert data == {file.name: file.read_text(encoding="utf-8") for file in files}


# --- valid ---


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
    claims = ["PersistentVolumeClaim"] * (1 if "weights" in options else 2)
    policy = ["NetworkPolicy"] * ("nodes" in options)
    assert kinds == [*claims, "Job", "LeaderWorkerSet", "Service", "PodMonitor", *policy, "ConfigMap"]


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
            [*words, "--server", address], capture_output=True, text=True, env=scrubbed, timeout=60
        )
    assert (done.returncode, done.stderr) == (0, "")
    items = json.loads(done.stdout)["items"]
    for item in items:
        del item["metadata"]["annotations"], item["metadata"]["namespace"]
    assert items == read(path.read_text(encoding="utf-8"))


# --- safe ---


def restricted_faults(template: Document) -> list[str]:
    """What keeps a pod out of a namespace with the Pod Security Standard `restricted`."""
    spec = template["spec"]
    pod = spec["securityContext"]
    found = [name for name in ("hostIPC", "hostNetwork", "hostPID") if name in spec]
    found += ["root"] if not (pod["runAsNonRoot"] and pod["runAsUser"]) else []
    found += ["seccomp"] if pod["seccompProfile"] != {"type": "RuntimeDefault"} else []
    found += ["hostPath" for volume in spec["volumes"] if "hostPath" in volume]
    for one in (*spec["containers"], *spec.get("initContainers", [])):
        own = one["securityContext"]
        found += ["escalation"] if own["allowPrivilegeEscalation"] else []
        found += ["capabilities"] if own["capabilities"] != {"drop": ["ALL"]} else []
        found += ["writable"] if not own["readOnlyRootFilesystem"] else []
        found += ["ports"] if any("hostPort" in port for port in one.get("ports", [])) else []
    return found


@pytest.mark.parametrize(
    ("target", "options", "expected"),
    [
        ("h100", {"api_key_file": True}, {"leader": [], "fetch": []}),
        ("mi300x", {"user": "1000:1000"}, {"leader": [], "fetch": []}),
        ("mi300x", {}, {"leader": ["root"], "fetch": ["root"]}),
        ("cpu", {}, {"leader": ["root"], "fetch": ["root"]}),
        ("h100", {"security": "vendor"}, {"leader": ["hostIPC"], "fetch": []}),
        (
            "mi300x",
            {"security": "vendor"},
            {"leader": ["hostIPC", "root", "seccomp", "capabilities"], "fetch": ["root"]},
        ),
    ],
    ids=str,
)
def test_pods_may_do_no_more_than_they_must(
    target: str, options: dict[str, object], expected: dict[str, list[str]]
) -> None:
    made = templates(read(written(target, **options)))
    assert {component: restricted_faults(template) for component, template in made.items()} == expected
    for template in made.values():
        assert template["spec"]["automountServiceAccountToken"] is False
        assert template["spec"]["enableServiceLinks"] is False


def test_users_and_groups_are_those_of_compose() -> None:
    def context(target: str, **options: object) -> Document:
        made = templates(read(written(target, **options)))
        assert (
            made["leader"]["spec"]["securityContext"]["fsGroup"]
            == made["fetch"]["spec"]["securityContext"]["fsGroup"]
        )
        return made["leader"]["spec"]["securityContext"]  # type: ignore[no-any-return]

    assert [context("h100")[key] for key in ("runAsUser", "runAsGroup", "fsGroup")] == [2000, 0, 0]
    assert [context("cpu")[key] for key in ("runAsUser", "runAsNonRoot")] == [0, False]
    assert context("mi300x", user="1000:7")["supplementalGroups"] == [109, 44]
    assert "supplementalGroups" not in context("mi300x")


def test_secrets_are_named_and_never_written() -> None:
    text = written("h100", api_key_file=True)
    made = templates(read(text))
    assert "Secret" not in {document["kind"] for document in read(text)}
    token = {"secretName": "ernie-hf-token", "optional": True, "defaultMode": 0o440}
    assert [v["secret"] for v in made["fetch"]["spec"]["volumes"] if "secret" in v] == [token]
    key = {"secretName": "ernie-21b-h100-api-key", "defaultMode": 0o440}
    assert [v["secret"] for v in made["leader"]["spec"]["volumes"] if "secret" in v] == [key]
    assert "#   kubectl create secret generic ernie-hf-token --from-file=hf_token=FILE" in text
    assert "#   kubectl create secret generic ernie-21b-h100-api-key --from-file=vllm_config=FILE" in text
    assert container(made["leader"])["livenessProbe"]["exec"]["command"][-1] == "/run/secrets/vllm_config"
    for template in made.values():
        where = [
            m["mountPath"]
            for m in container(template)["volumeMounts"]
            if m["name"] in ("hf-token", "api-key")
        ]
        assert where == ["/run/secrets"]


# --- runs as compose would have it ---


@pytest.mark.parametrize(
    ("target", "options", "limits"),
    [
        ("h100", {"model": "300b"}, {"nvidia.com/gpu": 8}),
        ("h100", {"dp": 4}, {"nvidia.com/gpu": 4}),
        ("mi300x", {}, {"amd.com/gpu": 4}),
        ("cpu", {}, {}),
    ],
    ids=str,
)
def test_devices_are_asked_for_by_number(target: str, options: dict[str, object], limits: Document) -> None:
    leader = templates(read(written(target, **options)))["leader"]
    assert container(leader)["resources"] == {"limits": limits}


def test_shared_memory_is_that_of_compose() -> None:
    volumes = templates(read(written("h100")))["leader"]["spec"]["volumes"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in volumes
    host = templates(read(written("h100", security="vendor")))["leader"]["spec"]
    assert host["hostIPC"] is True
    assert not [volume for volume in host["volumes"] if volume["name"] == "shm"]


def test_probes_wait_for_the_weights_and_restart_only_a_hang() -> None:
    plan = planned("h100", model="300b")
    server = container(templates(read(written("h100", model="300b")))["leader"])
    health = {"path": "/health", "port": "http"}
    startup, ready, live = (server[f"{name}Probe"] for name in ("startup", "readiness", "liveness"))
    assert startup["httpGet"] == ready["httpGet"] == health
    patience = startup["periodSeconds"] * startup["failureThreshold"]
    back_off = re.search(r"^BACK_OFF_S = ([0-9.]+)$", (ROOT / "docker/weights.py").read_text(), re.MULTILINE)
    assert back_off
    assert patience >= plan.ready_timeout_s + float(back_off[1]) + 60
    assert live["exec"]["command"] == [
        "python3", "-IS", "/scripts/liveness.py", "http://127.0.0.1:8000", "baidu/ERNIE-4.5-300B-A47B-PT",
    ]  # fmt: skip
    longest = re.search(r"^PROBE_S = ([0-9.]+)$", (ROOT / "docker/canary.py").read_text(), re.MULTILINE)
    assert longest
    assert live["timeoutSeconds"] > 2 * float(longest[1])


def test_the_server_waits_for_the_job_on_the_node_that_has_its_volumes(tmp_path: Path) -> None:
    made = templates(read(written("h100")))
    affinity = made["fetch"]["spec"]["affinity"]["podAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert affinity[0]["labelSelector"]["matchLabels"] == made["leader"]["metadata"]["labels"]
    (waits,) = made["leader"]["spec"]["initContainers"]
    assert waits["args"][2] == planned("h100").stamp
    stamp = tmp_path / "stamp.json"
    run = [*waits["command"], expanded(waits["args"][0]), waits["args"][1], str(stamp)]
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(run, capture_output=True, timeout=1)
    stamp.touch()
    done = subprocess.run(run, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (
        0, "waiting for the weights: kubectl logs -f job/ernie-21b-h100-fetch\n",
    )  # fmt: skip


def test_one_pod_restarts_in_place() -> None:
    group = of_kind(read(written("h100")), "LeaderWorkerSet")["spec"]
    assert (group["replicas"], group["leaderWorkerTemplate"]["size"]) == (1, 1)
    assert group["leaderWorkerTemplate"]["restartPolicy"] == "None"
    assert "leaderTemplate" not in group["leaderWorkerTemplate"]


def test_volumes_hold_the_weights_with_room() -> None:
    documents = read(written("h100", model="300b"))
    sizes = {
        one["metadata"]["name"]: one["spec"]["resources"]["requests"]["storage"]
        for one in documents
        if one["kind"] == "PersistentVolumeClaim"
    }
    needed = planned("h100", model="300b").weight_bytes / 2**30
    assert sizes["ernie-300b-h100-engine-cache"] == "20Gi"
    assert 1.2 * needed < int(sizes["ernie-300b-weights"].removesuffix("Gi")) < 1.3 * needed
    # Another profile of the model finds them there.
    other = read(written("h100", model="300b", profiles=("mtp",)))
    assert (
        of_kind([d for d in other if d["metadata"]["name"] == "ernie-300b-weights"], "PersistentVolumeClaim")
        in documents
    )


# --- several nodes ---

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
        launcher = node["entrypoint"][node["entrypoint"].index("serve") :]
        # A pod has an address of its own, so that its server listens as on one node.
        own = [word for word in node["command"] if not word.startswith(("--host=", "--port="))]
        pairs = zip(served(made[component], **variables), (launcher + own, node["environment"]), strict=True)
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
    ]


@pytest.mark.parametrize(("target", "options"), TWO_NODES, ids=str)
def test_a_worker_may_and_has_what_the_leader_does_but_no_api(
    target: str, options: dict[str, object]
) -> None:
    documents = read(written(target, nodes=2, **options))
    leader, worker = (templates(documents)[name]["spec"] for name in ("leader", "worker"))
    ours, theirs = leader.pop("containers")[0], worker.pop("containers")[0]
    assert leader == worker
    for key in ("args", "ports", "startupProbe", "livenessProbe", "readinessProbe"):
        ours.pop(key)
    for key in ("args", "readinessProbe"):
        theirs.pop(key)
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


def test_only_ranks_reach_the_ports_of_ranks() -> None:
    documents = read(written("h100", model="300b", nodes=2))
    pods = {"matchLabels": {"app.kubernetes.io/instance": "ernie-300b-h100-2nodes"}}
    assert of_kind(documents, "NetworkPolicy")["spec"] == {
        "podSelector": pods,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": pods}]}, {"ports": [{"port": "http"}]}],
    }
    for component in ("leader", "worker"):
        labels = templates(documents)[component]["metadata"]["labels"]
        assert pods["matchLabels"].items() <= labels.items()


def test_more_nodes_make_no_larger_file() -> None:
    sizes = {nodes: len(written("h100", model="300b", nodes=nodes).splitlines()) for nodes in (2, 3, 6)}
    assert len(set(sizes.values())) == 1, sizes


@contextmanager
def leader_that_says(status: int) -> Iterator[int]:
    """The port of a leader whose /health is `status`, and any other path 404; 0 for one that is not there."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port if status else 1
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (0, 1)])
def test_a_worker_is_ready_where_the_leader_serves(tmp_path: Path, status: int, code: int) -> None:
    scripts = unpacked(tmp_path, written("h100", model="300b", nodes=2))
    # The image's path, here a folder of the test.
    canary = scripts / "canary.py"
    canary.write_text(canary.read_text().replace("/cache/engine/ernie", str(tmp_path)))
    count = tmp_path / f"starts-{os.uname().nodename}"
    count.write_text("2\n")
    with leader_that_says(status) as port:
        done = probe(tmp_path, scripts / "joined.py", str(port), LWS_LEADER_ADDRESS="127.0.0.1")
    assert done.returncode == code, done
    assert count.exists() is bool(code)
    assert "Traceback" not in done.stderr


# --- the probe ---


def unpacked(tmp_path: Path, text: str) -> Path:
    """The folder of scripts that the pods have, from the ConfigMap."""
    scripts = tmp_path / "scripts"
    scripts.mkdir(exist_ok=True)
    for name, script in of_kind(read(text), "ConfigMap")["data"].items():
        (scripts / name).write_text(script)
    return scripts


def probe(tmp_path: Path, script: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a probe as the kubelet does."""
    return subprocess.run(
        [sys.executable, "-IS", script, *words],
        capture_output=True, text=True, timeout=30, env={**os.environ, "TMPDIR": str(tmp_path), **variables},
    )  # fmt: skip


def liveness(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return probe(tmp_path, unpacked(tmp_path, written("h100")) / "liveness.py", *words)


def remember(tmp_path: Path, misses: int) -> None:
    """What the canary would remember of an engine that was healthy a minute ago and stood still since."""
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    folder = tmp_path / f"canary-{started}"
    folder.mkdir(exist_ok=True)
    (folder / "canary.json").write_text(json.dumps([{"0": [1, 0, 0, 0.0]}, 0.0, misses]))


@contextmanager
def serving(mood: str) -> Iterator[FakeVllm]:
    server = FakeVllm(mood=mood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("mood", "misses", "code"), [("hung", 3, 1), ("hung", 0, 0), ("saturated", 3, 0), ("wrong-name", 5, 0)]
)
def test_the_kubelet_restarts_a_hang_and_nothing_else(
    tmp_path: Path, mood: str, misses: int, code: int
) -> None:
    remember(tmp_path, misses)
    with serving(mood) as server:
        done = liveness(tmp_path, server.url, "model")
    assert done.returncode == code, done
    assert ("hang" in done.stderr) is bool(code)


def test_the_kubelet_leaves_alone_what_never_was_healthy_and_a_key_it_cannot_read(tmp_path: Path) -> None:
    assert liveness(tmp_path, "http://127.0.0.1:1", "model").returncode == 0
    assert liveness(tmp_path, "http://127.0.0.1:1", "model", "/nonexistent").returncode == 0


def test_a_container_started_again_remembers_nothing(tmp_path: Path) -> None:
    """/tmp is the pod's: what the canary knew of the last container would end the new one."""
    remember(tmp_path, 5)
    (state,) = tmp_path.glob("canary-*")
    state.rename(tmp_path / "canary-1")
    assert liveness(tmp_path, "http://127.0.0.1:1", "model").returncode == 0
    assert len(list(tmp_path.glob("canary-*"))) == 2


# --- the command ---


def test_line_one_is_the_command_that_makes_the_file() -> None:
    words = [
        "h100",
        "--format",
        "kubernetes",
        "--model",
        "300b",
        "--profile",
        "mtp",
        "--set",
        "max-num-seqs=64",
    ]
    done = kit("render", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "# ernie-deploy render " + " ".join(words)
    again = kit("render", *done.stdout.splitlines()[0].split()[3:])
    assert again.stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--nodes", "2", "--multi-node", "ray", "--model", "300b"],
            "--multi-node ray has no meaning in Kubernetes.",
        ),
        (["--gpus", "0,1"], "--gpus has no meaning in Kubernetes."),
        (["--gpus-cdi"], "--gpus-cdi has no meaning in Kubernetes."),
        (["--bind", "0.0.0.0"], "--bind has no meaning in Kubernetes."),
        (["--all", "--out-dir", "x"], "--all renders compose files."),
    ],
    ids=str,
)
def test_what_only_a_host_understands_is_refused(words: list[str], said: str) -> None:
    done = kit("render", "h100", "--format", "kubernetes", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


@pytest.mark.parametrize(
    ("docker", "expected"),
    [("16g", "16Gi"), ("512M", "512Mi"), ("64kb", "64Ki"), ("1024", "1024"), ("1t", "1Ti")],
)
def test_sizes_are_translated(docker: str, expected: str) -> None:
    assert quantity(docker) == expected


def test_what_is_no_size_is_refused() -> None:
    with pytest.raises(UsageError):
        quantity("a lot")


def test_long_names_stay_different_and_fit() -> None:
    long = "ernie-vl-28b-thinking-mi300x-text-only-no-prefix-cache-expert-parallel"
    made = [short_name(long), short_name(f"{long}-reasoning"), short_name("ernie-21b-h100")]
    assert all(len(name) <= LONGEST_NAME for name in made)
    assert len(set(made)) == 3
    assert made[2] == "ernie-21b-h100"


def test_the_same_request_gives_the_same_bytes() -> None:
    assert written("mi300x", dp=2) == written("mi300x", dp=2)
