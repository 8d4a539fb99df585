"""`check` on health checks: which can succeed, which can fail, and which only look so."""

import json

import pytest
from check_files import CUDA, MODEL, ROCM, found, serve, service, severities, stack


def checked(test, *lines, command=MODEL, image=CUDA, rest=""):
    check = f"healthcheck: {{test: {json.dumps(test)}}}"
    return stack(service("llm", check, *lines, command=command, image=image), rest)


# --- ports and hosts


@pytest.mark.parametrize(
    ("test", "lines"),
    [
        ("curl -f http://localhost:9999/health", []),
        ("curl -f localhost:9999/health", []),
        (["CMD", "curl", "-f", "http://llm:9999/health"], []),
        (["CMD", "curl", "-f", "http://Front:9999/health"], ["container_name: front"]),
        ("wget -q http://inner:9999/health", ["hostname: inner"]),
        ("curl -f http://api:9999/health", ["networks: {default: {aliases: [api]}}"]),
        ("curl -f http://0.0.0.0:9999/v1/models", []),
        ("curl -f http://[::1]:9999/health", []),
        ("curl -f http://127.0.1.1:9999/health", []),
        ("curl -f http://localhost/health", []),
        (
            [
                "CMD",
                "python3",
                "-c",
                "import http.client as h; h.HTTPConnection('localhost', 9999).connect()",
            ],
            [],
        ),
    ],
)
def test_a_check_of_another_port_is_deaf(test, lines):
    (finding,) = found(checked(test, *lines), "ED132")
    assert "vLLM listens on 8000" in finding.sentence


@pytest.mark.parametrize(
    ("test", "lines", "command"),
    [
        ("curl -f http://llm:8000/health", [], MODEL),
        ("curl -f http://localhost:${PORT}/health", [], MODEL),
        ("curl -f http://localhost:9999/health", [], f"{MODEL} --port $PORT"),
        ("curl -f http://localhost:1 || curl -f http://localhost:8000/health", [], MODEL),
        ("curl -f http://gateway.example.org:9999/health", [], MODEL),
        ("curl -f http://localhost:9999/health", ["network_mode: service:proxy"], MODEL),
        ("pgrep -f 'port 9999'", [], MODEL),
        (
            "curl -f http://localhost:9999/",
            ["entrypoint: [sh, -c]"],
            "['litellm --port 9999 & vllm serve m']",
        ),
    ],
)
def test_a_check_that_may_be_heard_is_not_accused(test, lines, command):
    assert not found(checked(test, *lines, command=command), "ED132")


@pytest.mark.parametrize(
    ("host", "lines", "rest", "unknown"),
    [
        ("engine", [], "", True),
        ("db", [], "  db: {image: 'postgres:17'}\n", False),
        ("engine", ["extra_hosts: ['engine:10.0.0.4']"], "", False),
        ("engine", [], "networks: {shared: {external: true}}\n", False),
        ("engine", ["network_mode: host"], "", False),
        ("host.docker.internal", [], "", False),
        ("LLM", [], "", False),
        ("10.1.2.3", [], "", False),
    ],
)
def test_hosts_that_nobody_is_called(host, lines, rest, unknown):
    test = ["CMD", "curl", "-f", f"http://{host}:8000/health"]
    assert severities(checked(test, *lines, rest=rest), "ED154") == (["error"] if unknown else [])


# --- paths


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("curl -f http://localhost:8000/healthz", ["error"]),
        ("wget -qO- http://localhost:8000/api/health", ["error"]),
        ("curl --fail http://localhost:8000/v1/health", ["error"]),
        ("curl -fsS http://localhost:8000", ["error"]),
        ("curl -s http://localhost:8000/status || exit 1", ["warning"]),
        ("curl -f http://localhost:8000/health", []),
        (["CMD", "python3", "/probe.py", "http://localhost:8000"], []),
        ("curl -f http://localhost:8000/v1/models?x=1", []),
        ("curl -f localhost:8000/ping", []),
        ("curl -f http://localhost:8000/$WHERE", []),
        ("curl -f http://localhost:8000/x || curl -f http://localhost:8000/health", []),
        ("curl -f http://other.example.org:8000/healthz", []),
    ],
)
def test_paths_that_vllm_does_not_serve(test, expected):
    assert severities(checked(test), "ED151") == expected


def test_a_path_below_a_root_path_is_the_gateways():
    text = checked("curl -f http://localhost:8000/llm/health", command=f"{MODEL} --root-path /llm")
    assert not found(text, "ED151")


@pytest.mark.parametrize(
    ("test", "blind"),
    [
        ("curl http://localhost:8000/health || exit 1", True),
        (["CMD", "curl", "-s", "http://localhost:8000/health"], True),
        ("curl -sf http://localhost:8000/health", False),
        ("curl --fail-with-body http://localhost:8000/health", False),
        ("curl -s http://localhost:8000/v1/models | grep -q ernie", False),
        ("curl -so /dev/null -w '%{http_code}' http://localhost:8000/health", False),
        ("wget -q http://localhost:8000/health", False),
    ],
)
def test_curl_without_fail_is_never_unhealthy(test, blind):
    assert severities(checked(test), "ED152") == (["warning"] if blind else [])


# --- words and programs


@pytest.mark.parametrize(
    ("test", "words"),
    [
        (["curl", "-f", "http://localhost:8000/health"], "begins with curl"),
        (
            ["CMD", "curl", "-f", "http://localhost:8000/health", "||", "exit", "1"],
            "is a word for the program",
        ),
        (["CMD", "curl -f http://localhost:8000/health"], "no program is called"),
        (["CMD-SHELL", "curl", "-f", "http://localhost:8000/health"], "runs curl alone"),
    ],
)
def test_words_that_no_shell_hears(test, words):
    (finding,) = found(checked(test), "ED150")
    assert words in finding.sentence


@pytest.mark.parametrize(
    "test",
    [
        "curl -f http://localhost:8000/health || exit 1",
        ["CMD-SHELL", "curl -f http://localhost:8000/health || exit 1"],
        ["CMD", "bash", "-c", "curl -f http://localhost:8000/health || exit 1"],
        ["NONE"],
        [],
    ],
)
def test_words_that_are_heard(test):
    assert not found(checked(test), "ED150")


@pytest.mark.parametrize(
    ("test", "image", "missing"),
    [
        (["CMD", "nc", "-z", "localhost", "8000"], CUDA, True),
        ("/usr/bin/netcat -z localhost 8000 || exit 1", ROCM, True),
        ("timeout 5 true && telnet localhost 8000", CUDA, True),
        (["CMD", "sh", "-c", "nc -z localhost 8000"], CUDA, True),
        (["CMD", "curl", "-f", "http://localhost:8000/health"], CUDA, False),
        ("python3 -c 'import socket'", CUDA, False),
        ("nc -z localhost 8000", "registry.example/vllm-with-tools:1", False),
    ],
)
def test_programs_that_the_image_lacks(test, image, missing):
    assert severities(checked(test, image=image, command=f"vllm serve {MODEL}"), "ED153") == (
        ["error"] if missing else []
    )


def test_an_image_that_is_built_here_may_have_more():
    assert not found(checked("nc -z localhost 8000", "build: ."), "ED153")


# --- TLS


TLS = f"{MODEL} --ssl-certfile /tls/tls.crt --ssl-keyfile /tls/tls.key"


@pytest.mark.parametrize(
    ("command", "url", "deaf"),
    [
        (TLS, "http://localhost:8000/health", True),
        (MODEL, "https://localhost:8000/health", True),
        (TLS, "https://localhost:8000/health", False),
        (MODEL, "http://localhost:8000/health", False),
        (f"{MODEL} --config /etc/vllm.yaml", "https://localhost:8000/health", False),
    ],
)
def test_server_and_check_speak_the_same(command, url, deaf):
    assert severities(checked(f"curl -kf {url}", command=command), "ED155") == (["error"] if deaf else [])


@pytest.mark.parametrize(
    ("command", "arguments", "deaf"),
    [
        (TLS, ["--host", "llm"], True),
        (TLS, ["--base-url", "http://llm:8000"], True),
        (TLS, ["--base-url", "https://llm:8000"], False),
        (MODEL, ["--host", "llm"], False),
    ],
)
def test_server_and_benchmark_speak_the_same(command, arguments, deaf):
    bench = service("bench", "entrypoint: [vllm, bench, serve]", command=json.dumps(arguments))
    assert bool(found(stack(service("llm", command=command), bench), "ED130")) is deaf


def test_a_key_without_a_certificate_ends_the_server():
    assert severities(serve(command=f"{MODEL} --ssl-keyfile /k"), "ED156") == ["error"]
    assert not found(serve(command=TLS), "ED156")
