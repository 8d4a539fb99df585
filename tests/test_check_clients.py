"""`check` on the programs beside a server: which address they are told, and which key they show."""

import pytest
from check_files import CUDA, MODEL, found, serve, service, severities, stack

TLS = f"{MODEL} --ssl-certfile /c --ssl-keyfile /k"


def with_client(*lines, server=(), command=MODEL):
    client = service("ui", *lines, image="ghcr.io/example/ui:1", command="")
    return stack(service("engine", *server, command=command), client)


@pytest.mark.parametrize(
    ("lines", "server", "command", "words"),
    [
        (["environment: ['BASE=http://engine:9000/v1']"], [], MODEL, "asks port 9000; engine listens on 8000"),
        (["environment: {BASE: 'http://engine/v1'}"], [], MODEL, "asks port 80"),
        (["environment: {BASE: 'http://engine:8000/v1'}"], [], f"{MODEL} --port 8001", "listens on 8001"),
        (["environment: {BASE: 'http://engine:80/v1'}"], ["ports: ['127.0.0.1:80:8000']"], MODEL, "port of the host"),
        (["environment: {BASE: 'http://localhost:8000/v1'}"], [], MODEL, "its own container; the server is engine"),
        (["environment: {BASE: 'http://engine:8000/v1'}"], [], TLS, "has a certificate"),
        (["command: [--api_base, 'http://engine:8001/v1']"], [], MODEL, "the command asks port 8001"),
        (["environment: {BASE: 'http://front:1/v1'}"], ["container_name: front"], MODEL, "asks port 1"),
    ],
)  # fmt: skip
def test_a_client_with_a_wrong_address_is_found(lines, server, command, words):
    (finding,) = found(with_client(*lines, server=server, command=command), "ED134")
    assert (finding.service, finding.severity) == ("ui", "error")
    assert words in finding.sentence


@pytest.mark.parametrize(
    ("lines", "server", "command"),
    [
        (["environment: {BASE: 'http://engine:8000/v1'}"], [], MODEL),
        (["environment: {BASE: 'https://engine:8000/v1'}"], [], TLS),
        (["environment: {BASE: 'http://engine:${PORT}/v1'}"], [], MODEL),
        (["environment: {BASE: 'http://engine:8000/v1'}"], [], f"{MODEL} --port $PORT"),
        (["environment: {BASE: 'http://database:9000/v1'}"], [], MODEL),
        (["environment: {SELF: 'http://localhost:3000'}"], [], MODEL),
        (
            ["environment: {BASE: 'http://localhost:8000/v1'}", "network_mode: host"],
            ["network_mode: host"],
            MODEL,
        ),
        (["environment: {BASE: 'http://localhost:8000/v1'}", "network_mode: service:engine"], [], MODEL),
        (["environment: [BASE]"], [], MODEL),
    ],
)
def test_a_client_with_a_right_or_unknown_address_is_not(lines, server, command):
    assert not found(with_client(*lines, server=server, command=command), "ED134")


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["gpus: [{device_ids: ['3']}]", "environment: {CUDA_VISIBLE_DEVICES: '3'}"], "names 3"),
        (["gpus: [{count: 2}]", "environment: ['CUDA_VISIBLE_DEVICES=1,2']"], "names 2"),
        (["devices: [nvidia.com/gpu=2]", "environment: {CUDA_VISIBLE_DEVICES: '2'}"], None),
        (["gpus: [{device_ids: ['3']}]", "environment: {CUDA_VISIBLE_DEVICES: '0'}"], None),
        (["gpus: all", "environment: {CUDA_VISIBLE_DEVICES: '7'}"], None),
        (["gpus: [{device_ids: ['3']}]", "environment: {CUDA_VISIBLE_DEVICES: GPU-1f}"], None),
        (["gpus: [{device_ids: ['3']}]", "environment: {CUDA_VISIBLE_DEVICES: '${GPU}'}"], None),
    ],
)
def test_gpus_are_counted_from_zero_inside(lines, wrong):
    assert [wrong in f.sentence for f in found(serve(*lines), "ED157")] == ([True] if wrong else [])


@pytest.mark.parametrize(
    ("test", "lines", "command", "expected"),
    [
        ("curl -f http://localhost:8000/v1/models", [], f"{MODEL} --api-key a9-b8-c7", ["error"]),
        ("wget -q http://localhost:8000/v1/models", ["environment: {VLLM_API_KEY: a9-b8-c7}"], MODEL, ["error"]),
        ("curl -f http://localhost:8000/v1/models", ["environment: [VLLM_API_KEY]"], MODEL, ["warning"]),
        ("curl http://localhost:8000/v1/models", [], f"{MODEL} --api-key a9-b8-c7", ["warning"]),
        ("curl -f http://localhost:8000/health", [], f"{MODEL} --api-key a9-b8-c7", []),
        ("curl -f http://localhost:8000/v1/models", [], MODEL, []),
        ("curl -f http://localhost:8000/v1/models", ["environment: {VLLM_API_KEY: ''}"], MODEL, []),
        ('curl -fH \\"Authorization: Bearer $$VLLM_API_KEY\\" http://localhost:8000/v1/models',
         ["environment: [VLLM_API_KEY]"], MODEL, []),
    ],
)  # fmt: skip
def test_a_check_without_the_key_is_refused(test, lines, command, expected):
    text = serve(f'healthcheck: {{test: "{test}"}}', *lines, command=command, image=CUDA)
    assert severities(text, "ED158") == expected
