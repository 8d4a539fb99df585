"""`check` on GPUs, replicas, swarms and the host's ports: what fits together, and what only looks as if."""

import pytest
from check_files import CATALOG, CPU, CUDA, MODEL, ROCM, found, serve, service, severities, stack

from ernie_deploy.check import hardware_rules, judge
from ernie_deploy.check.hardware import held

RESERVED = "deploy: {resources: {reservations: {devices: [%s]}}}"


def two_servers(first, second, *, images=(CUDA, CUDA), commands=(MODEL, MODEL)):
    services = zip(("early", "late"), (first, second), images, commands, strict=True)
    return stack(*(service(name, *lines, image=image, command=c) for name, lines, image, c in services))


# --- AMD's two devices


@pytest.mark.parametrize(
    ("lines", "missing"),
    [
        (["devices: [/dev/dri]"], "/dev/kfd"),
        (["devices: [{source: /dev/dri/renderD130, target: /dev/dri/renderD130}]"], "/dev/kfd"),
        (["devices: [/dev/dri/card1]"], "/dev/kfd"),
        (["devices: ['/dev/kfd:/dev/kfd:rw']"], "render node"),
        (["devices: [/dev/kfd, /dev/dri/card0]"], "render node"),
    ],
)
def test_each_of_amds_two_devices_is_missed(lines, missing):
    (finding,) = found(serve(*lines, image=ROCM), "ED140")
    assert missing in finding.sentence
    assert finding.severity == "error"


@pytest.mark.parametrize(
    ("lines", "image"),
    [
        (["devices: [/dev/kfd, /dev/dri]"], ROCM),
        (["devices: ['/dev/kfd:/dev/kfd', '/dev/dri/:/dev/dri/']"], ROCM),
        (["devices: [amd.com/gpu=0]"], ROCM),
        (["devices: ['${NODE}', /dev/dri]"], ROCM),
        (["devices: [/dev/dri]", "privileged: true"], ROCM),
        (["devices: [/dev/dri]", "runtime: amd"], ROCM),
        (["devices: [/dev/dri]"], "vllm/vllm-openai-xpu:v0.32.0"),
        (["devices: [/dev/dri]"], "registry.example/our-vllm:7"),
    ],
)
def test_where_both_devices_come_or_nobody_can_tell_nothing_is_missed(lines, image):
    assert not found(serve(*lines, image=image), "ED140")


# --- another vendor's GPU


@pytest.mark.parametrize(
    ("lines", "image", "severity"),
    [
        ([RESERVED % "{driver: nvidia, device_ids: ['1'], capabilities: [gpu]}"], ROCM, "error"),
        (["devices: [nvidia.com/gpu=all]"], ROCM, "error"),
        (["gpus: [{driver: nvidia}]"], "registry.example/team/vllm-rocm7:2", "error"),
        (["gpus: all"], ROCM, "error"),
        (["gpus: all", "devices: [/dev/kfd, /dev/dri]"], ROCM, "error"),
        (["devices: [/dev/kfd, /dev/dri/renderD128]"], CUDA, "error"),
        (["devices: [amd.com/gpu=all]"], CUDA, "error"),
        (["runtime: nvidia"], "vllm/vllm-openai-xpu:v0.32.0", "error"),
        (["gpus: all"], CPU, "warning"),
    ],
)
def test_a_gpu_of_another_vendor_is_of_no_use(lines, image, severity):
    command = f"{MODEL} --max-model-len 4096" if "vllm-rocm7" not in image else f"vllm serve {MODEL}"
    assert severities(serve(*lines, image=image, command=command), "ED141") == [severity]


@pytest.mark.parametrize(
    ("lines", "image"),
    [
        (["gpus: all", "runtime: amd"], ROCM),
        (["gpus: [{driver: amd, count: 1}]"], ROCM),
        (["gpus: all", "devices: [/dev/dri]"], CUDA),
        (["devices: [nvidia.com/gpu=0]"], CUDA),
        (["devices: [/dev/infiniband]"], CUDA),
        (["gpus: all"], "registry.example/ours:1"),
    ],
)
def test_a_gpu_of_the_images_own_vendor_is(lines, image):
    assert not found(serve(*lines, image=image), "ED141")


# --- reservations


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("{driver: nvidia, device_ids: ['0']}", "without capabilities"),
        ("{capabilities: [gpu], count: 2, device_ids: ['0', '1']}", "exclude each other"),
        ("{capabilities: [gpu], device_ids: '0,1'}", "must be a list"),
    ],
)
def test_what_compose_refuses_in_a_reservation(request_, words):
    assert [words in f.sentence for f in found(serve(RESERVED % request_), "ED142")] == [True]


@pytest.mark.parametrize(
    ("lines", "count", "wanted"),
    [
        (["gpus: [{device_ids: ['0,1']}]"], 2, None),
        (["gpus: [{device_ids: ['0,1']}]"], 4, "gets 2"),
        (["gpus: [{device_ids: ['0, 1', '5']}]"], 3, None),
        (["runtime: nvidia", "environment: {NVIDIA_VISIBLE_DEVICES: '3'}"], 2, "gets 1"),
        (["runtime: nvidia", "environment: {NVIDIA_VISIBLE_DEVICES: all}"], 8, None),
        (["gpus: all", "environment: {NVIDIA_VISIBLE_DEVICES: '3'}"], 2, None),
        (["gpus: all", "environment: {CUDA_VISIBLE_DEVICES: all}"], 2, None),
        (["gpus: all", "environment: {CUDA_VISIBLE_DEVICES: GPU-8f0a}"], 2, "gets 1"),
        (["gpus: [{device_ids: ['0']}, {device_ids: ['1']}]"], 2, None),
        ([RESERVED % "{capabilities: [gpu]}"], 8, None),
    ],
)
def test_gpus_are_counted_as_docker_hands_them_out(lines, count, wanted):
    findings = found(serve(*lines, command=f"some-org/m -tp {count}"), "ED112")
    assert [wanted in f.sentence for f in findings] == ([True] if wanted else [])


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        ("-tp 2 -dp 2", False),
        ("-tp 2", True),
        ("-pp 4", False),
        ("--nnodes 2 -tp 8", False),
        ("-tp 2 -dpb ray", False),
    ],
)
def test_gpus_that_nobody_uses(words, idle):
    text = serve("gpus: [{count: 4}]", command=f"some-org/m {words}")
    assert severities(text, "ED146") == (["warning"] if idle else [])


def test_a_script_with_two_servers_may_use_what_the_first_leaves():
    script = "command: ['-c', 'vllm serve some-org/a & exec vllm serve some-org/b --port 8001']"
    text = serve("gpus: [{count: 2}]", "entrypoint: bash", script, command="")
    assert not found(text, "ED146")


# --- two servers on one GPU


ZERO, ONE = "gpus: [{device_ids: ['0']}]", "gpus: [{device_ids: ['1']}]"


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ([ZERO], [ZERO], "GPU 0"),
        (["gpus: [{count: 1}]"], ["gpus: all"], "GPU 0"),
        (["gpus: [{device_ids: ['4', '5']}]", "environment: {CUDA_VISIBLE_DEVICES: '1'}"],
         ["gpus: [{device_ids: ['5']}]"], "GPU 5"),
        (["runtime: nvidia"], ["runtime: nvidia", "environment: {NVIDIA_VISIBLE_DEVICES: '0,1'}"], "GPU 0"),
        (["gpus: [{device_ids: [GPU-12ab]}]"], ["gpus: [{device_ids: [GPU-12ab]}]"], "GPU GPU-12ab"),
    ],
)  # fmt: skip
def test_servers_that_fill_one_gpu_are_an_error(first, second, words):
    (finding,) = found(two_servers(first, second), "ED144")
    assert (finding.service, finding.severity) == ("late", "error")
    assert words in finding.sentence
    assert "0.92 + 0.92 of its memory is 1.84" in finding.sentence


def test_amds_render_nodes_are_compared_too():
    node = "devices: [/dev/kfd, /dev/dri/renderD129]"
    assert found(two_servers([node], [node], images=(ROCM, ROCM)), "ED144")
    other = "devices: [/dev/kfd, /dev/dri/renderD130]"
    assert not found(two_servers([node], [other], images=(ROCM, ROCM)), "ED144")


@pytest.mark.parametrize(
    ("first", "second", "commands"),
    [
        ([ZERO], [ONE], (MODEL, MODEL)),
        ([ZERO], [ZERO], (f"{MODEL} --gpu-memory-utilization 0.45", "m --gpu-memory-utilization .5")),
        ([ZERO], [ZERO], (MODEL, "m --config /etc/vllm.yaml")),
        ([ZERO], [ZERO], (MODEL, "m --gpu-memory-utilization ${SHARE}")),
        ([ZERO, "profiles: [a]"], [ZERO, "profiles: [b]"], (MODEL, MODEL)),
        ([ZERO, "scale: 0"], [ZERO], (MODEL, MODEL)),
        (["gpus: [{device_ids: ['${GPU}']}]"], [ZERO], (MODEL, MODEL)),
        ([ZERO], [ZERO], (f"{MODEL} --nnodes 2 --node-rank 0", f"{MODEL} --nnodes 2 --node-rank 1 --headless")),
        (["gpus: all"], ["gpus: all", "environment: {CUDA_VISIBLE_DEVICES: '2'}"], (f"{MODEL} -tp 2", MODEL)),
    ],
)  # fmt: skip
def test_servers_that_have_room_or_are_unknown_are_none(first, second, commands):
    assert not found(two_servers(first, second, commands=commands), "ED144")


@pytest.mark.parametrize(("second", "severity"), [(0.4, []), (0.45, ["warning"]), (0.51, ["error"])])
def test_shares_that_leave_no_room_are_warned_of(second, severity):
    commands = (f"{MODEL} --gpu-memory-utilization 0.55", f"m --gpu-memory-utilization {second}")
    assert severities(two_servers([ZERO], [ZERO], commands=commands), "ED144") == severity


def test_three_small_shares_are_added_up():
    third = [service(name, ZERO, command="m --gpu-memory-utilization 0.4") for name in ("a", "b", "c")]
    assert [f.service for f in found(stack(*third), "ED144")] == ["c"]


def test_shares_are_named_in_the_order_of_the_file():
    commands = (f"{MODEL} --gpu-memory-utilization 0.6", "m --gpu-memory-utilization 0.5")
    (finding,) = found(two_servers([ZERO], [ZERO], commands=commands), "ED144")
    assert finding.sentence.startswith("early and late share GPU 0: 0.6 + 0.5 of its memory is 1.10")


def test_the_work_grows_with_the_services_and_not_with_their_pairs(monkeypatch):
    calls = []

    def counted(service):
        calls.append(service)
        return held(service)

    monkeypatch.setattr(hardware_rules, "held", counted)
    many = [service(f"s{number}", f"gpus: [{{device_ids: ['{number}']}}]") for number in range(40)]
    found(stack(*many))
    assert len(calls) <= 4 * len(many)


def test_replicas_get_the_same_gpu():
    (finding,) = found(serve("gpus: [{count: 1}]", "deploy: {replicas: 3}"), "ED144")
    assert "each of 3 replicas" in finding.sentence
    assert "2.76" in finding.sentence


# --- one name, one port


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["scale: 2", "container_name: ernie"], ["a name must be unique"]),
        (["deploy: {replicas: 2}", "ports: ['8080:8000']"], ["port 8080"]),
        (["deploy: {replicas: 3}", "network_mode: host"], ["port 8000"]),
        (["deploy: {replicas: 2}", "ports: [8000]"], []),
        (["deploy: {replicas: 1}", "container_name: ernie", "ports: ['80:8000']"], []),
        (["scale: ${COUNT}", "container_name: ernie"], []),
        (["deploy: {replicas: 2, endpoint_mode: dnsrr}", "ports: ['80:8000']"], []),
    ],
)
def test_replicas_share_no_name_and_no_port(lines, words):
    findings = found(serve(*lines), "ED145")
    assert len(findings) == len(words)
    assert all(word in finding.sentence for word, finding in zip(words, findings, strict=True))


def test_two_services_of_one_name():
    one, other = (service(name, "container_name: llm") for name in ("a", "b"))
    assert severities(stack(one, other), "ED145") == ["error"]


@pytest.mark.parametrize(
    ("first", "second", "collide"),
    [
        (["ports: ['8000-8003:8000-8003']"], ["ports: ['8002:8000']"], True),
        (["network_mode: host"], ["network_mode: host"], True),
        (["network_mode: host"], ["ports: ['127.0.0.1:8000:8000']"], True),
        (["network_mode: host"], ["ports: ['8001:8000']"], False),
        (["network_mode: none", "ports: ['8000:8000']"], ["ports: ['8000:8000']"], False),
        (["ports: ['8000:8000/udp']"], ["ports: ['8000:8000']"], False),
        (["ports: ['${PORT}:8000']"], ["ports: ['${PORT}:8000']"], False),
    ],
)
def test_ports_of_the_host_are_taken_once(first, second, collide):
    assert bool(found(two_servers(first, second), "ED326")) is collide


@pytest.mark.parametrize("mode", ["service:early", "container:other"])
def test_ports_beside_another_containers_network_are_refused(mode):
    assert severities(two_servers([], [f"network_mode: {mode}", "ports: ['80:80']"]), "ED147") == ["error"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["network_mode: host", "ports: ['8000:8000']"], "--host 127.0.0.1"),
        (["network_mode: host"], "--host localhost"),
        (["network_mode: host"], "--host ${LISTEN}"),
        (["network_mode: host"], "--uds /run/vllm.sock"),
        (["network_mode: none", "ports: ['8000:8000']"], ""),
    ],
)
def test_a_server_that_nobody_else_reaches_is_not_public(lines, words):
    assert not found(serve(*lines, command=f"{MODEL} {words}"), "ED201")


# --- swarms


GENERIC = "{reservations: {generic_resources: [{discrete_resource_spec: {kind: gpu, value: %d}}]}}"


def swarm(*lines, gpus=4, command=f"{MODEL} -tp 4"):
    return serve(*lines, f"deploy: {{resources: {GENERIC % gpus}}}", command=command)


def test_a_swarm_hands_out_gpus_and_restarts():
    assert not {"ED114", "ED303", "ED112"} & {f.id for f in found(swarm())}
    assert [f.sentence for f in found(swarm(gpus=2), "ED112")] == ["vLLM needs 4 GPUs and the service gets 2"]


@pytest.mark.parametrize(
    ("lines", "severity"),
    [
        (["shm_size: 8g"], ["error"]),
        (["ipc: host"], ["error"]),
        (["shm_size: 8g", "volumes: [{type: tmpfs, target: /dev/shm}]"], []),
        (["restart: always"], ["warning"]),
        (["devices: [/dev/kfd, /dev/dri]"], ["error"]),
    ],
)
def test_what_a_swarm_passes_over(lines, severity):
    assert severities(swarm(*lines), "ED149") == severity


def test_shared_memory_of_a_swarm_is_a_mount():
    (finding,) = found(swarm(), "ED307")
    assert "tmpfs" in finding.remedy


# --- mounts and quotes


@pytest.mark.parametrize(
    ("mount", "kept"),
    [
        ("E:/hub:/root/.cache/huggingface", True),
        (r"c:\Users\me\hub:/root/.cache/huggingface:rw", True),
        (r"\\nas\models:/root/.cache/huggingface", True),
        ("hub:/root/.cache/huggingface", True),
        ("h:/root/.cache/huggingface", False),  # Compose: a path on the drive h, and no volume
        ("E:/hub:/data", False),
    ],
)
def test_where_weights_are_kept_on_windows(mount, kept):
    assert (found(serve(f"volumes: ['{mount}']"), "ED324") == []) is kept


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("environment: ['HF_HOME=\"/data\"']", ["error"]),
        ("environment: {VLLM_CACHE_ROOT: \"'/cache'\"}", ["error"]),
        ("environment: {HF_TOKEN: \"${HF_TOKEN:-''}\"}", ["warning"]),
        ("environment: {HF_HOME: '/data'}", []),
        ('environment: [\'VLLM_ARGS={"a": "b"}\']', []),
        ("environment: [HF_TOKEN]", []),
    ],
)
def test_quotes_that_stay_in_a_value(line, expected):
    assert severities(serve(line), "ED148") == expected


# --- other forms


LINE = "docker run --rm --gpus '\"device=%d\"' -p 127.0.0.1:%d:8000 --shm-size 1g " + CUDA + " some-org/m\n"


def of_lines(text):
    return {finding.id for finding in judge(text.encode(), "start.sh", CATALOG)}


def test_lines_of_docker_run_are_one_host():
    assert {"ED144", "ED326"} <= of_lines(LINE % (0, 8000) + LINE % (0, 8000))
    assert not {"ED144", "ED326"} & of_lines(LINE % (0, 8000) + LINE % (1, 8001))


def test_pods_are_not():
    pod = """
kind: Pod
metadata: {name: %s}
spec:
  hostNetwork: true
  containers:
    - name: vllm
      image: vllm/vllm-openai:v0.32.0
      args: [some-org/m]
      ports: [{containerPort: 8000, hostPort: 8000}]
      resources: {limits: {nvidia.com/gpu: 1}}
    - name: ui
      image: ghcr.io/example/ui:1
      env: [{name: BASE, value: "http://vllm:80/v1"}, {name: SELF, value: "http://localhost:8000/v1"}]
"""
    text = "---".join(pod % name for name in ("a", "b"))
    found_ids = {finding.id for finding in judge(text.encode(), "pods.yml", CATALOG)}
    assert not {"ED134", "ED144", "ED145", "ED147", "ED154", "ED326"} & found_ids
