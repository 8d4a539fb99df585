"""The allowlist: what vLLM's app really lists is asked with and without a key, and in every disguise."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CATALOG, NOTHING_MISSING, planned
from engine.rendered import vllm_words
from engine.vllm_code import code_of
from gateway import haproxy
from gateway.haproxy import Running
from gateway.upstream import Upstream

KEY = "ek_" + "a" * 43
BEARER = f"Authorization: Bearer {KEY}"
OK, UNAUTHORIZED, NOT_FOUND = 200, 401, 404
CHAT = {"/v1/chat/completions", "/v1/responses", "/v1/messages"}
OPEN = {("GET", "/v1/models"), ("POST", "/v1/completions"), *(("POST", path) for path in CHAT)}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "get", "PROPFIND")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


@pytest.fixture(scope="module")
def front(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with haproxy.running(tmp_path_factory.mktemp("gateway"), upstream.address, {KEY: "alice:0:0:0"}) as made:
        yield made


def ask(front: Running, method: str, target: str, *headers: str) -> int:
    """The status; what may have a body has one."""
    return front.ask(
        method, target, *headers, body="{}" if method not in ("GET", "HEAD", "CONNECT") else None
    )[0]


@pytest.mark.engine
@pytest.mark.parametrize("version", CATALOG.ids("engines"))
def test_every_route_of_vllms_app_but_the_allowed_ones_is_404(front: Running, version: str) -> None:
    if importlib.util.find_spec("vllm") is None and not NOTHING_MISSING:
        pytest.skip("vLLM for CPU is missing: docker/engine-cpu/install_engine.py installs it (3.4 GB)")
    code = code_of(version)
    argv = [w for w in vllm_words(planned("h100", engine=version)) if w != "--disable-fastapi-docs"]
    job = {"id": "routes", "kind": "routes", "argv": argv, "files": {}}
    verdict = code.judged([job])["routes"]
    assert verdict["ok"], verdict
    listed = {(method, path) for path, methods in verdict["methods"].items() for method in methods}
    assert len(listed) > 25
    assert listed >= OPEN
    for method, path in sorted(listed):
        expected = (OK, UNAUTHORIZED) if (method, path) in OPEN else (NOT_FOUND, NOT_FOUND)
        assert (ask(front, method, path, BEARER), ask(front, method, path)) == expected, (method, path)


@pytest.mark.parametrize("method", METHODS)
def test_no_other_method_is_let_through(front: Running, method: str) -> None:
    for path in {path for _, path in OPEN}:
        status = ask(front, method, path, BEARER)
        expected = {OK} if (method, path) in OPEN else {NOT_FOUND, 400, 405}
        assert status in expected, (method, path)


DISGUISES = (
    "/v1/models/", "/v1//models", "//v1/models", "/v1/./models", "/x/../v1/models", "/v1/models/..", "/V1/models",
    "/v1%2fmodels", "/v1/%6dodels", "/v1/models%00", "/v1/models%20", "/v1/models;a=b", "/v1/models.json", "/v1\\models",
    "http://gateway/v1/models", "https://other/v1/models", "http://gateway//v1/models", "*", "/", "/v1", "/v1/models%3f",
    "/metrics", "/healthz/../metrics", "/healthz/", "/HEALTHZ", "/health", "/invocations", "/v1/models/../../invocations",
    "/v1/models#/../metrics", "/tokenize", "/v1/responses/resp_1", "/v1/messages/count_tokens",
)  # fmt: skip


@pytest.mark.parametrize("target", DISGUISES)
def test_no_other_spelling_is_let_through(front: Running, upstream: Upstream, target: str) -> None:
    before = len(upstream.arrived)
    for method in ("GET", "POST"):
        assert ask(front, method, target, BEARER) in (NOT_FOUND, 400), (method, target)
    assert len(upstream.arrived) == before


def test_what_goes_upstream_is_the_route_and_what_the_model_reads(front: Running, upstream: Upstream) -> None:
    sent = (BEARER, "x-api-key: other", "Cookie: a=b", "X-Request-Id: mine", "X-data-parallel-rank: 1", "Priority: 0",
            "traceparent: 00-1-1-00", "X-Forwarded-For: 10.0.0.1", "Content-Type: application/json")  # fmt: skip
    status, answer = front.ask("POST", "/v1/chat/completions?beta=true", *sent, body='{"a": 1}')
    arrived = upstream.arrived[-1]
    assert (status, arrived.line, arrived.body) == (OK, "POST /v1/chat/completions HTTP/1.1", b'{"a": 1}')
    allowed = {"host", "content-type", "content-length", "x-request-id", "connection"}
    assert set(arrived.headers) <= allowed
    assert arrived.headers["x-request-id"] not in ("mine", "")
    assert arrived.headers["x-request-id"].encode() in answer
    assert b"uvicorn" not in answer


def test_a_refusal_is_an_error_as_openai_has_it(front: Running) -> None:
    for path, status in (("/metrics", NOT_FOUND), ("/v1/models", UNAUTHORIZED)):
        got, answer = front.ask("GET", path)
        headers, _, body = answer.partition(b"\r\n\r\n")
        assert got == status
        assert b"content-type: application/json" in headers.lower()
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(("model", "chat"), [("21b", True), ("21b-base", False), ("vl-28b", True)])
def test_a_model_without_a_chat_template_has_no_chat(model: str, chat: bool) -> None:
    plan = planned("h100", model=model, gateway=True)
    assert plan.gateway
    assert bool(CHAT & {route.path for route in plan.gateway.routes}) is chat
    asked = planned("h100", model=model, gateway=True, routes=("tokenize",)).gateway
    assert asked
    assert "/tokenize" in {route.path for route in asked.routes}


def test_healthz_is_open_and_says_whether_a_server_is_up(tmp_path: Path) -> None:
    with Upstream() as behind, haproxy.running(tmp_path, behind.address, {}) as front:
        assert front.ask("GET", "/healthz")[0] == OK
        assert front.ask("HEAD", "/healthz")[0] == OK
        assert front.ask("POST", "/healthz", body="")[0] == NOT_FOUND
        behind.health = 503
        haproxy.until(lambda: front.ask("GET", "/healthz")[0] == 503)
        status, _ = front.ask("GET", "/v1/models")
        assert status == UNAUTHORIZED
        behind.health = 200
        haproxy.until(lambda: front.ask("GET", "/healthz")[0] == OK)
