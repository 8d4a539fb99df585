"""Pods may do no more than they must, and run as the containers of compose do."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, planned
from manifests.reading import Document, container, expanded, of_kind, read, templates, written


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
        ("mi300x", {"user": "1000:1000", "security": "strict"}, {"leader": [], "fetch": []}),
        ("mi300x", {"security": "strict"}, {"leader": ["root"], "fetch": ["root"]}),
        ("mi300x", {}, {"leader": ["hostIPC", "root", "seccomp"], "fetch": ["root"]}),
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
    assert context("mi300x")["supplementalGroups"] == [109, 44]
    assert "supplementalGroups" not in context("mi300x", security="strict")


def test_secrets_are_named_and_never_written() -> None:
    text = written("h100", api_key_file=True)
    made = templates(read(text))
    assert "Secret" not in {document["kind"] for document in read(text)}
    token = {"secretName": "ernie-hf-token", "optional": True, "defaultMode": 0o440}
    assert [v["secret"] for v in made["fetch"]["spec"]["volumes"] if "secret" in v] == [token]
    key = {"secretName": "ernie-21b-api-key", "defaultMode": 0o440}
    assert [v["secret"] for v in made["leader"]["spec"]["volumes"] if "secret" in v] == [key]
    assert "#   kubectl create secret generic ernie-hf-token --from-file=hf_token=FILE" in text
    assert "#   kubectl create secret generic ernie-21b-api-key --from-file=vllm_config=FILE" in text
    assert container(made["leader"])["livenessProbe"]["exec"]["command"][-1] == "/tmp/vllm_config.yaml"
    assert container(made["leader"])["command"] == ["python3", "-I", "/scripts/with_api_key.py"]
    workers = templates(read(written("h100", model="300b", nodes=2, api_key_file=True)))["worker"]
    assert not [v for v in workers["spec"]["volumes"] if "secret" in v]
    for template in made.values():
        where = [
            m["mountPath"]
            for m in container(template)["volumeMounts"]
            if m["name"] in ("hf-token", "api-key")
        ]
        assert where == ["/run/secrets"]


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
    back_off = re.search(
        r"^BACK_OFF_S = ([0-9.]+)$", (ROOT / "docker/scripts/serve.py").read_text(), re.MULTILINE
    )
    assert back_off
    assert patience >= plan.ready_timeout_s + float(back_off[1]) + 60
    assert live["exec"]["command"] == [
        "python3", "-IS", "/scripts/liveness.py", "http://127.0.0.1:8000", "baidu/ERNIE-4.5-300B-A47B-PT",
    ]  # fmt: skip
    longest = re.search(
        r"^PROBE_S = ([0-9.]+)$", (ROOT / "docker/scripts/canary.py").read_text(), re.MULTILINE
    )
    assert longest
    assert live["timeoutSeconds"] > 2 * float(longest[1])
    # A hung engine drains nothing: without a grace of its own it would have the pod's 90 s.
    assert live["terminationGracePeriodSeconds"] == 5


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
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (
        0, "waiting for the weights: kubectl logs -f job/ernie-21b-fetch\n",
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
    assert sizes["ernie-300b-engine-cache"] == "20Gi"
    assert 1.2 * needed < int(sizes["ernie-300b-weights"].removesuffix("Gi")) < 1.3 * needed
    # Another profile of the model finds them there.
    other = read(written("h100", model="300b", profiles=("mtp",)))
    assert (
        of_kind([d for d in other if d["metadata"]["name"] == "ernie-300b-weights"], "PersistentVolumeClaim")
        in documents
    )
