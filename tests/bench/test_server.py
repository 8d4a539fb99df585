"""What is read of a server: its counters, its caches, and a health check that must not be counted."""

import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bench.fake_openai import FakeOpenAI
from conftest import missing

from ernie_deploy.bench.measure.compose_deployment import speed_variables
from ernie_deploy.bench.measure.deployment import checked
from ernie_deploy.bench.measure.gpus import read_amd, read_nvidia
from ernie_deploy.bench.measure.local_client import environment
from ernie_deploy.bench.measure.secrecy import masked
from ernie_deploy.bench.measure.server import Endpoint, ServerMetrics, moved_only_by_canary, read_metrics
from ernie_deploy.errors import ServerDied, UsageError
from ernie_deploy.gateway import tls_files

# Lines of a real vLLM 0.32.0 with two engines, cut to what matters.
METRICS = """\
# HELP process_start_time_seconds Start time of the process since unix epoch in seconds.
process_start_time_seconds 1.79500000012e+09
vllm:num_requests_running{engine="0",model_name="a}} b"} 3.0
vllm:num_requests_running{engine="1",model_name="a}} b"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a}} b"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.25
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 128.0
vllm:prefix_cache_queries_created{engine="0",model_name="m"} 1.795e+09
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 16.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 1.2812e+04
vllm:prompt_tokens_total{engine="1",model_name="m"} 100.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="m",source="local_compute"} 5.0
vllm:generation_tokens_total{engine="0",model_name="m"} 320.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 1.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 15.0
vllm:request_success_total{engine="1",finished_reason="length",model_name="m"} 4.0
vllm:request_success_created{engine="0",finished_reason="stop",model_name="m"} 1.795e+09
vllm:cache_config_info{block_size="128",enable_prefix_caching="True",engine="0",num_gpu_blocks="4096"} 1.0
vllm:cache_config_info{block_size="128",enable_prefix_caching="True",engine="1",num_gpu_blocks="4096"} 1.0
"""


def test_counters_are_summed_over_engines() -> None:
    look = read_metrics(METRICS)
    assert look.counters == {
        "prefix_cache_queries": 128, "prefix_cache_hits": 16, "prompt_tokens": 12912, "generation_tokens": 320,
        "request_success": 20, "request_success_stop": 1, "request_success_length": 19,
    }  # fmt: skip
    assert (look.running, look.waiting, look.kv_cache_use) == (5, 1, 0.375)
    assert look.started == "1795000000.12"
    assert look.cache["block_size"] == "128"
    assert not look.idle


def look(prompt: float, made: float, answers: float, running: float = 0) -> ServerMetrics:
    counters = {"prompt_tokens": prompt, "generation_tokens": made, "request_success": answers}
    return ServerMetrics(counters=counters, running=running, waiting=0, kv_cache_use=0)


@pytest.mark.parametrize(
    ("after", "only"),
    [
        (look(100, 50, 5), True),  # nothing happened
        (look(102, 51, 6), True),  # one word asked, one token answered
        (look(104, 52, 7), True),
        (look(180, 60, 6), False),  # a benchmark's request
        (look(180, 51, 6), False),  # one token to a long prompt
        (look(102, 51, 6, running=1), False),
        (look(180, 50, 5), False),
    ],
)
def test_a_health_check_is_told_from_a_request(after: ServerMetrics, *, only: bool) -> None:
    assert moved_only_by_canary(look(100, 50, 5), after) == only


def test_a_busy_server_is_not_measured() -> None:
    with FakeOpenAI() as fake:
        fake.running = 2
        with pytest.raises(ServerDied, match="busy with another client's requests"):
            Endpoint(url=fake.url).wait_idle(limit_s=0.1)


def test_nvidia_smi_is_read() -> None:
    said = "NVIDIA H100 80GB HBM3, 580.65.06\nNVIDIA H100 80GB HBM3, 580.65.06\n"
    assert read_nvidia(said) == (("NVIDIA H100 80GB HBM3",) * 2, "580.65.06")
    assert read_nvidia("") == ((), "")


def test_rocm_smi_is_read() -> None:
    said = (
        "device,Card Series,Card Model,Card Vendor\ncard0,AMD Instinct MI300X OAM,0x74a1,AMD\n"
        "card1,AMD Instinct MI300X OAM,0x74a1,AMD\n\nname,value\nDriver version,6.12.12\n"
    )
    assert read_amd(said) == (("AMD Instinct MI300X OAM",) * 2, "6.12.12")
    assert read_amd("") == ((), "")


def test_no_secret_is_among_the_variables_that_are_kept() -> None:
    pairs = [
        "VLLM_USE_V1=1",
        "VLLM_API_KEY=sk-secret",
        "VLLM_PASSWD=p",
        "VLLM_S3_CREDENTIALS=p",
        "VLLM_BASIC_AUTH=p",
        "VLLM_PROXY=http://u:p@h:1/x",
        "HF_TOKEN=hf_x",
        "OMP_NUM_THREADS=1",
        "PATH=/bin",
        "EMPTY",
    ]
    assert speed_variables([pair for pair in pairs if "=" in pair]) == {
        "OMP_NUM_THREADS": "1",
        "VLLM_PROXY": "http://***@h:1/x",
        "VLLM_USE_V1": "1",
    }


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--api-key=sk-1", "--port=8000"], ["--api-key=***", "--port=8000"]),
        (["--hf-token", "hf_x", "m"], ["--hf-token", "***", "***"]),
        (["--api-key", "sk-1", "sk-2", "--port", "8000"], ["--api-key", "***", "***", "--port", "8000"]),
        (['--kv-transfer-config={"password": "p\\"q", "port": 1, "api_key":7}', "--kv-transfer-config.password=p"],
         ['--kv-transfer-config={"password": "***", "port": 1, "api_key":"***"}', "--kv-transfer-config.password=***"]),
        (["--otlp-traces-endpoint=http://u:p@w@h:1", "http://u:p@h"],
         ["--otlp-traces-endpoint=http://***@h:1", "http://***@h"]),
        (["--header", "Authorization=Bearer x", "--max-num-batched-tokens=8192"],
         ["--header", "***", "--max-num-batched-tokens=8192"]),
        (["--tokenizer=/t", "--tokenizer-revision", "main", "--api-key", "--headless"],
         ["--tokenizer=/t", "--tokenizer-revision", "main", "--api-key", "--headless"]),
    ],
)  # fmt: skip
def test_no_key_reaches_the_journal_by_a_flag(words: list[str], kept: list[str]) -> None:
    assert list(masked(words)) == kept


@pytest.mark.parametrize(
    "url", ["10.0.0.5:8000", "http://", "http://a:80a", "http://u:p@h:1", "ftp://h", "http://h /x"]
)
def test_what_is_no_servers_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(UsageError, match="--attach takes a URL") as refused:
        checked(url)
    assert "u:p" not in str(refused.value)


def test_the_client_asks_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "example.org")
    told = environment("http://10.0.0.5:8000")
    assert (told["no_proxy"], told["NO_PROXY"], told["VLLM_USE_RUST_BENCH"]) == (
        "example.org,10.0.0.5",
    ) * 2 + ("0",)


def test_what_is_no_http_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def shout() -> None:
            with listening.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"SSH-2.0-OpenSSH_9\r\n")

        threading.Thread(target=shout, daemon=True).start()
        assert Endpoint(url=f"http://127.0.0.1:{listening.getsockname()[1]}").current_metrics() is None


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A server with the certificate of a laboratory, and that certificate's file."""
    if not shutil.which("openssl"):
        missing("openssl", "apt-get install openssl")
    chain, key = tls_files.self_signed(["127.0.0.1"])
    (tmp_path / "tls.crt").write_text(chain)
    (tmp_path / "tls.pem").write_text(chain + "\n" + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.pem")

    class Models(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keyed = self.headers["Authorization"] == "Bearer ek_1"
            self.send_response(200 if keyed else 401)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m"}]}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Models) as server:
        server.handle_error = lambda *_: None  # type: ignore[method-assign,misc,assignment]
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}", tmp_path / "tls.crt"
        server.shutdown()


def test_a_self_signed_gateway_is_attached_to_with_its_certificate_and_a_key(
    secure: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, certificate = secure
    with pytest.raises(ServerDied) as raised:
        Endpoint(url=url, api_key="ek_1").model_card()
    assert "SSL_CERT_FILE=gateway/tls/tls.crt" in raised.value.next_step
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert Endpoint(url=url, api_key="ek_1").model_card().id == "m"
    with pytest.raises(ServerDied, match="No OpenAI server answers") as refused:
        Endpoint(url=url).model_card()
    assert "HTTP 401" in refused.value.cause
