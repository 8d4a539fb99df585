"""`check` judges `docker run` and `vllm serve` lines, in scripts and READMEs too, and Kubernetes manifests."""

import pytest
import yaml
from conftest import planned

from ernie_deploy.catalog import Catalog
from ernie_deploy.check import judge, judge_text
from ernie_deploy.check.forms import form_of, stacks
from ernie_deploy.cli import main
from ernie_deploy.errors import UsageError
from ernie_deploy.render.kubernetes import manifests

CATALOG = Catalog()
IMAGE = "vllm/vllm-openai:v0.32.0"
MODEL = "baidu/ERNIE-4.5-21B-A3B-PT"


def service(text, name="start.sh"):
    (stack,) = stacks(text.encode(), name, CATALOG)
    (one,) = stack.services.values()
    return one


def found(text, name="start.sh"):
    return {(f.id, f.line) for f in judge(text.encode(), name, CATALOG)}


def ids(text, name="start.sh"):
    return {identity for identity, _ in found(text, name)}


def words(one):
    return [word.text for word in one.command or ()]


# --- docker run


@pytest.mark.parametrize(
    ("options", "key", "expected"),
    [
        ("-p 8000:8000", "ports", ["8000:8000"]),
        ("-itp8000:8000", "ports", ["8000:8000"]),
        ("--publish=8000:8000 -p 1:1", "ports", ["8000:8000", "1:1"]),
        ("-v /a:/b -v c:/d", "volumes", ["/a:/b", "c:/d"]),
        ("-e A=b --env C", "environment", ["A=b", "C"]),
        ("--cap-drop ALL", "cap_drop", ["ALL"]),
        ("--device /dev/kfd --device=/dev/dri", "devices", ["/dev/kfd", "/dev/dri"]),
        ("--ipc=host", "ipc", ["host"]),
        ("--net host", "network_mode", ["host"]),
        ("--privileged --rm -d", "privileged", ["true"]),
        ("--read-only=true", "read_only", ["true"]),
        ("--shm-size 16g --ulimit memlock=-1", "shm_size", ["16g"]),
        ("--restart on-failure:3", "restart", ["on-failure:3"]),
        ("--gpus all", "gpus", ["all"]),
        ("--stop-timeout 60", "stop_grace_period", ["60s"]),
    ],
)
def test_options_of_docker_run_are_keys_of_a_service(options, key, expected):
    one = service(f"docker run {options} {IMAGE} {MODEL} --seed 1\n")
    assert [word.text for word in one.words(key)] == expected
    assert one.text("image") == IMAGE
    assert words(one) == [MODEL, "--seed", "1"]


@pytest.mark.parametrize(
    ("gpus", "short"),
    [
        ("all", False),
        ("2", True),
        ("device=0", True),
        ("'\"device=0,1,2,3\"'", False),
        ('"device=0,1"', True),
    ],
)
def test_gpus_of_docker_run_are_counted(gpus, short):
    assert ("ED112" in ids(f"docker run --gpus {gpus} {IMAGE} {MODEL} -tp 4")) is short


@pytest.mark.parametrize(
    "start", ["docker run", "sudo docker run", "sudo -E podman run", "docker container run", "exec nerdctl run", "$ docker run", "docker --context x run"],
)  # fmt: skip
def test_a_container_is_recognised_however_it_is_started(start):
    assert words(service(f"{start} {IMAGE} {MODEL}")) == [MODEL]


def test_mounts_logs_and_health_checks_of_docker_run():
    one = service(
        f"docker run --mount type=bind,src=/models,dst=/m,readonly --tmpfs /tmp --log-opt max-size=10m "
        f"--health-cmd 'curl -f localhost:8000/health' --health-interval 30s --entrypoint python3 {IMAGE} -m x"
    )
    assert [(m.kind, m.source, m.target, m.options) for m in one.mounts] == [
        ("bind", "/models", "/m", "ro"), ("tmpfs", "", "/tmp", ""),
    ]  # fmt: skip
    assert one.text("logging", "options", "max-size") == "10m"
    assert [word.text for word in one.health_test] == ["CMD-SHELL", "curl -f localhost:8000/health"]
    assert [word.text for word in one.entrypoint] == ["python3"]


# --- text around it


def test_each_finding_stands_on_the_line_of_its_word():
    text = f"# it's a start\ndocker run \\\n  -p 8000:8000 \\\n  {IMAGE} \\\n  {MODEL} \\\n  --no-flag-of-any-day\n"
    assert {("ED201", 3), ("ED101", 6)} <= found(text)


SCRIPT = f"""\
#!/bin/sh
export NAME=main
TP=3
MORE=(
  --seed 7
  --served-model-name "$NAME"
)
docker run --gpus all {IMAGE} {MODEL} -tp $TP "${{MORE[@]}}" --max-model-len ${{LEN:-4096}} --port $PORT --revision $(cat rev)
"""


def test_variables_are_those_that_the_text_assigns():
    assert words(service(SCRIPT)) == [
        MODEL, "-tp", "3", "--seed", "7", "--served-model-name", "main", "--max-model-len", "4096",
        "--port", "${PORT}", "--revision", "${COMMAND}",
    ]  # fmt: skip
    assert ("ED110", 8) in found(SCRIPT)


README = f"""\
Don't type `docker run` yet; it's explained below.

```console
$ docker run --gpus all -p 127.0.0.1:8000:8000 {IMAGE} {MODEL} --first-wrong
```

Or, on the same port:

~~~
docker run --gpus all -p 127.0.0.1:8000:8000 {IMAGE} {MODEL} --second-wrong
~~~

```python
print("docker run")
```
"""


@pytest.mark.parametrize("name", ["README.md", "-"])
def test_the_code_blocks_of_a_readme_are_read(name):
    assert {("ED101", 4), ("ED101", 10)} <= found(README, name)


def test_the_ways_that_a_readme_shows_are_not_started_together():
    assert "ED326" not in ids(README, "README.md")
    script = f"docker run -p 8000:8000 {IMAGE} a\ndocker run -p 8000:8000 {IMAGE} b\n"
    assert "ED326" in ids(script)


def test_a_server_without_a_container_is_judged_as_a_process():
    text = f"CUDA_VISIBLE_DEVICES=0,1 nohup vllm serve {MODEL} --tensor-parallel-size 4 --host 0.0.0.0 > log 2>&1 &\n"
    one = service(text)
    assert one.serve.text("host") == "0.0.0.0"
    assert {"ED112", "ED201"} <= ids(text)
    assert not {identity for identity in ids(text) if identity.startswith("ED3")} | (
        ids(text) & {"ED207", "ED223"}
    )
    assert "ED201" not in ids(text.replace("0.0.0.0", "127.0.0.1"))


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve {} > log 2>&1 &", "vllm serve {} 2>&1 | tee log", "vllm serve {} &> log; sleep 1", "vllm serve {} # comment --wrong; x > 1",
        "(vllm serve {})", "vllm serve --help=all\nvllm serve {}", "ExecStart=/usr/local/bin/vllm serve {}", "if true; then vllm serve {}; fi",
        "time vllm serve {} < /dev/null", "uv run vllm serve {}",
    ],
)  # fmt: skip
def test_a_command_ends_where_the_shell_ends_it(line):
    one = service(line.replace("{}", MODEL) + "\n")
    assert [word.text for word in one.serve.positionals] == [MODEL]
    assert not one.serve.arguments


def test_the_module_and_the_benchmark_are_recognised_too():
    assert service(f"python3 -m vllm.entrypoints.openai.api_server --model {MODEL}").serve
    assert service(f"vllm bench serve --model {MODEL}").bench


def test_a_text_that_a_script_writes_is_no_command():
    text = f"cat > x <<EOF\ndocker run {IMAGE} {MODEL} --wrong\nEOF\ndocker run {IMAGE} {MODEL} --seed 1\n"
    assert words(service(text)) == [MODEL, "--seed", "1"]


@pytest.mark.parametrize("name", ["notes.txt", "run.sh", "README.md"])
def test_a_text_without_a_command_is_an_error_with_the_next_step(name):
    with pytest.raises(UsageError, match="no `docker run`") as caught:
        judge(b"hello\nworld's end\n", name, CATALOG)
    assert "ernie-deploy check" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "name", "form"),
    [
        ("services: {}", "-", "compose"), ("services: {a: {command: docker run x}}", "-", "compose"),
        ("docker run x", "-", "command"), ("apiVersion: v1\nkind: Pod\n", "-", "kubernetes"),
        ("apiVersion: v1\nkind: Pod\n", "pod.yaml", "kubernetes"), ("#!/bin/sh\n", "start", "command"), ("x", "a.yml", "compose"),
    ],
)  # fmt: skip
def test_what_a_text_is_is_told_by_its_name_and_its_first_words(text, name, form):
    assert form_of(text.encode(), name) == form


# --- Kubernetes

POD = """\
apiVersion: v1
kind: Pod
metadata: {name: ernie}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 120
  containers:
    - name: vllm
      image: vllm/vllm-openai:v0.32.0
      args:
        - baidu/ERNIE-4.5-21B-A3B-PT
        - --tensor-parallel-size=4
        - --no-flag-of-any-day
      env: [{name: HF_TOKEN, valueFrom: {secretKeyRef: {name: hf, key: token}}}, {name: A, value: "$(HF_TOKEN)$B"}]
      resources: {limits: {nvidia.com/gpu: 2, memory: 64Gi}}
      securityContext: {privileged: true, capabilities: {add: [SYS_ADMIN]}}
      ports: [{name: http, containerPort: 8000}]
      livenessProbe: {httpGet: {path: /health, port: 9000}}
      volumeMounts: [{name: shm, mountPath: /dev/shm}, {name: models, mountPath: /root/.cache/huggingface}]
  volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: 8Gi}}, {name: models, hostPath: {path: /data}}]
"""


def test_a_pod_is_judged_as_far_as_containers_go():
    assert {("ED101", 13), ("ED112", 12), ("ED132", 18), ("ED201", 5), ("ED203", 16), ("ED205", 16)} <= found(
        POD, "pod.yml"
    )
    one = service(POD, "pod.yml")
    assert one.name == "ernie/vllm"
    assert one.variable("A") == "${HF_TOKEN}$B"
    assert one.text("stop_grace_period") == "120s"
    assert one.text("shm_size") == "8G"
    assert [(mount.kind, mount.source) for mount in one.mounts] == [("tmpfs", "shm"), ("bind", "/data")]


def test_shared_memory_that_is_not_mounted_is_too_small():
    text = POD.replace("{name: shm, mountPath: /dev/shm}, ", "")
    assert "ED307" in ids(text, "pod.yml")
    assert "ED307" not in ids(POD, "pod.yml")


@pytest.mark.parametrize(
    "around",
    [
        lambda spec: {"kind": "Deployment", "spec": {"template": {"spec": spec}}},
        lambda spec: {"kind": "StatefulSet", "spec": {"template": {"spec": spec}}},
        lambda spec: {"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}},
        lambda spec: {"kind": "LeaderWorkerSet", "spec": {"leaderWorkerTemplate": {"workerTemplate": {"spec": spec}}}},
        lambda spec: {"kind": "List", "items": [{"kind": "Pod", "spec": spec}]},
    ],
)  # fmt: skip
def test_a_pod_is_found_in_whatever_starts_it(around):
    spec = yaml.safe_load(POD)["spec"]
    text = yaml.safe_dump({"apiVersion": "v1", **around(spec)})
    assert {"ED101", "ED112", "ED203"} <= ids(text, "-")


def test_what_is_no_container_is_named():
    text = POD + "---\napiVersion: v1\nkind: Service\nspec: {type: LoadBalancer}\n"
    (aside,) = judge_text(text.encode(), "pod.yml", CATALOG).asides
    assert "not Service" in aside
    with pytest.raises(UsageError, match="no container"):
        judge(b"apiVersion: v1\nkind: Service\nspec: {}\n", "service.yml", CATALOG)


@pytest.mark.parametrize(
    "options",
    [
        {"target": "h100"}, {"target": "h100", "model": "300b", "nodes": 2}, {"target": "cpu"}, {"target": "mi300x"},
        {"target": "h200", "model": "vl-424b"}, {"target": "b200", "model": "21b-thinking", "profiles": ("tools",)},
    ],
)  # fmt: skip
def test_nothing_is_found_in_the_kits_own_manifests(options):
    text = manifests(planned(**options), CATALOG.defaults)
    said = {(f.severity, f.id) for f in judge(text.encode(), "manifests.yml", CATALOG)}
    # VL models run their repository's code, and the recipe opens these two on AMD.
    assert said - {("warning", "ED119"), ("note", "ED208"), ("note", "ED209")} == set()


def test_files_of_every_form_are_judged_in_one_call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "start.sh").write_text(SCRIPT)
    (tmp_path / "pod.yml").write_text(POD)
    with pytest.raises(SystemExit) as caught:
        main(["check", "start.sh", "pod.yml"])
    out = capsys.readouterr().out
    assert caught.value.code == 10
    assert "start.sh:8: error ED110" in out
    assert "pod.yml:13: error ED101" in out


# --- next steps in the words of the form

WORDS_OF_COMPOSE = (
    "shm_size:",
    "devices:",
    "`secrets`",
    "`entrypoint`",
    "cap_drop:",
    "security_opt:",
    "logging:",
)


@pytest.mark.parametrize(
    ("identity", "step"),
    [("ED307", "--shm-size 16g"), ("ED303", "--restart unless-stopped"), ("ED328", "--log-opt max-size"), ("ED220", "--env-file")],
)  # fmt: skip
def test_next_steps_for_docker_run_are_its_options(identity, step):
    text = f"docker run --gpus all -e HF_TOKEN=hf_abcdefghijklmnopqrstuv {IMAGE} {MODEL} -tp 2\n"
    findings = judge(text.encode(), "run.sh", CATALOG)
    assert step in next(f.remedy for f in findings if f.id == identity)
    assert not [f for f in findings if any(word in f.remedy for word in WORDS_OF_COMPOSE)]


@pytest.mark.parametrize(
    ("old", "new", "identity", "step"),
    [
        ("{name: shm, mountPath: /dev/shm}, ", "", "ED307", "medium: Memory"),
        ("vllm-openai:", "vllm-openai-rocm:", "ED141", "amd.com/gpu"),
        ('value: "$(HF_TOKEN)$B"', "value: hf_abcdefghijklmnopqrstuv", "ED220", "secretKeyRef"),
        ("        - baidu", "        - serve\n        - baidu", "ED106", "container's `command`"),
        ("name: shm", "name: shm", "ED112", "nvidia.com/gpu: N"),
    ],
)
def test_next_steps_for_a_manifest_are_its_keys(old, new, identity, step):
    findings = judge(POD.replace(old, new).encode(), "pod.yml", CATALOG)
    assert step in next(f.remedy for f in findings if f.id == identity)
    assert not [f for f in findings if any(word in f.remedy for word in WORDS_OF_COMPOSE)]


@pytest.mark.parametrize(
    ("text", "name", "step"),
    [
        (f"docker run --gpus all -p 8000:8000 {IMAGE} {MODEL}\n", "run.sh", "-p 127.0.0.1:8000:8000"),
        (f"vllm serve {MODEL}\n", "run.sh", "--host 127.0.0.1"),
        (POD.replace("spec:", "spec:\n  hostNetwork: true", 1), "pod.yml", "hostNetwork"),
    ],
)
def test_who_publishes_to_everybody_reads_how_this_form_does_not(text, name, step):
    [remedy] = [f.remedy for f in judge(text.encode(), name, CATALOG) if f.id == "ED201"]
    assert step in remedy
    assert '"127.0.0.1' not in remedy


def test_each_probe_that_asks_another_port_is_named():
    probes = "readinessProbe: {httpGet: {path: /health, port: 9001}}\n      livenessProbe:"
    findings = judge(POD.replace("livenessProbe:", probes).encode(), "pod.yml", CATALOG)
    sentences = [(f.line, f.sentence.split(",")[0]) for f in findings if f.id == "ED132"]
    assert sentences == [(18, "readinessProbe asks port 9001"), (19, "livenessProbe asks port 9000")]


@pytest.mark.parametrize(
    ("command", "model"),
    [(f"a/b --model {MODEL}", "a/b"), (f"--model {MODEL}", MODEL), (f"--no-flag-of-any-day a/b --model {MODEL}", MODEL)],
)  # fmt: skip
def test_a_model_without_a_flag_wins_over_one_with_it(command, model):
    text = f"docker run {IMAGE} {command}\n"
    assert service(text).model_word.text == model
    (finding,) = (f for f in judge(text.encode(), "run.sh", CATALOG) if f.id == "ED103")
    assert (f"the command names {model}, which wins" in finding.sentence) is (model == "a/b")
