"""The front door before real vLLM: every route that its app lists, and every attack, with what reached vLLM counted."""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest
from conftest import free_port
from gateway import haproxy
from gateway.attacks import ALL, Attack, heard, statuses
from gateway.front_door import QUICK, key
from gateway.haproxy import Running
from integration.live_monitoring import MODEL, Vllm

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
OK, BAD_REQUEST, UNAUTHORIZED, NOT_FOUND = 200, 400, 401, 404
BEARER = f"Authorization: Bearer {key('alice')}"
TOKENS = 3
MESSAGES = [{"role": "user", "content": "Count to ten."}]
# A body for each route that computes, and for the others too: where one were open, it would compute.
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"max_tokens": TOKENS, "messages": MESSAGES},
    "/v1/completions": {"max_tokens": TOKENS, "prompt": "One, two"},
    "/v1/responses": {"max_output_tokens": TOKENS, "input": "Count to ten."},
    "/v1/messages": {"max_tokens": TOKENS, "messages": MESSAGES},
}
ANY = {"max_tokens": TOKENS, "prompt": "One, two", "messages": MESSAGES, "input": "One"}
# The end of a whole stream.
LAST = {
    "/v1/chat/completions": b"data: [DONE]", "/v1/completions": b"data: [DONE]",
    "/v1/responses": b"event: response.completed", "/v1/messages": b"event: message_stop",
}  # fmt: skip
# What an event with text has in it.
TEXT = {
    "/v1/chat/completions": rb'"delta":\{[^}]*"content":"[^"]', "/v1/completions": rb'"text":"[^"]',
    "/v1/responses": rb"event: response.output_text.delta", "/v1/messages": rb'"text_delta","text":"[^"]',
}  # fmt: skip
# /v1/responses and /v1/messages count their tokens unasked.
USAGE = {"stream_options": {"include_usage": True}}
STREAM = {"/v1/chat/completions": USAGE, "/v1/completions": USAGE}
COUNTED = re.compile(rb'"(?:completion|output)_tokens": ?(\d+)')
# vLLM's log names each route as it starts, and each request that it takes.
ROUTE = re.compile(r"Route: (\S+), Methods: (.+)")
TAKEN = re.compile(r'- "([A-Z]+ \S+) HTTP/1\.[01]" \d{3}')
# The gateway's look at the server's health, and this file's at its metrics.
OWN = {"GET /health", "GET /metrics"}


class Door(NamedTuple):
    """The gateway, and the vLLM behind it."""

    gateway: Running
    vllm: Vllm

    @property
    def open_routes(self) -> set[tuple[str, str]]:
        assert self.gateway.plan.gateway
        return {(method, one.path) for one in self.gateway.plan.gateway.routes for method in one.methods}

    def listed(self) -> set[tuple[str, str]]:
        """Every method and path of vLLM's app."""
        lines = ROUTE.findall(self.vllm.log.read_text())
        return {(method, path) for path, methods in lines for method in methods.strip().split(", ")}

    def taken(self) -> list[str]:
        """The requests that vLLM's parser has seen, in order."""
        return [one for one in TAKEN.findall(self.vllm.log.read_text()) if one not in OWN]

    def computed(self) -> int:
        """The requests that vLLM's engine has ended."""
        with urlopen(f"http://127.0.0.1:{self.vllm.port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        return sum(
            int(float(n)) for n in re.findall(r"^vllm:request_success_total\{.*\} (\S+)", text, re.MULTILINE)
        )

    def ask(self, method: str, path: str, *headers: str, **more: object) -> tuple[int, bytes]:
        """Status, and the body as it came."""
        body = json.dumps({"model": MODEL, **BODIES.get(path, ANY), **more})
        status, raw = self.gateway.ask(
            method, path.replace("{response_id}", "resp_1"), *headers, body=body if method == "POST" else None
        )
        return status, raw.partition(b"\r\n\r\n")[2]


@pytest.fixture(scope="module")
def vllm(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    haproxy.binary()
    with pytest.MonkeyPatch.context() as patch:
        # Its developers' routes too: they end, empty and reload a server.
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        made = Vllm(engine, tmp_path_factory.mktemp("vllm"), free_port())
    try:
        made.wait()
        yield made
    finally:
        made.kill()


@pytest.fixture(scope="module", params=[(), ("tokenize",)], ids=["as it is", "with tokenize"])
def door(
    request: pytest.FixtureRequest, vllm: Vllm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    address = f"127.0.0.1:{vllm.port}"
    # The guesses among the attacks are not to be stopped for their number.
    times = {old: new for old, new in QUICK.items() if not old.startswith("inter")}
    times["sc_gpc0_rate(2) gt 30"] = "sc_gpc0_rate(2) gt 100000"
    with haproxy.running(
        tmp_path_factory.mktemp("gateway"), address, {key("alice"): "alice:100000:1000:0:1"},
        upstreams=(address,), routes=request.param, times=times,
    ) as gateway:  # fmt: skip
        haproxy.until(lambda: gateway.ask("GET", "/healthz")[0] == OK)
        yield Door(gateway, vllm)


def test_every_route_that_vllm_lists_is_404_but_the_allowed_ones(door: Door) -> None:
    listed, taken, computed = door.listed(), len(door.taken()), door.computed()
    assert len(listed) > 50
    assert listed >= door.open_routes | {("POST", "/invocations"), ("POST", "/sleep"), ("GET", "/metrics")}
    for method, path in sorted(listed):
        expected = (OK, UNAUTHORIZED) if (method, path) in door.open_routes else (NOT_FOUND, NOT_FOUND)
        assert (door.ask(method, path, BEARER)[0], door.ask(method, path)[0]) == expected, (method, path)
    # Each of them once, and nothing else.
    assert sorted(door.taken()[taken:]) == sorted(f"{method} {path}" for method, path in door.open_routes)
    assert door.computed() - computed == len(BODIES)


def test_what_the_allowed_routes_answer_is_vllms_own(door: Door) -> None:
    answers = {}
    for method, path in door.open_routes:
        status, body = door.ask(method, path, BEARER)
        assert status == OK, body
        answers[path] = json.loads(body)
    assert [one["id"] for one in answers["/v1/models"]["data"]] == [MODEL]
    assert answers["/v1/completions"]["choices"][0]["text"]
    assert answers["/v1/completions"]["usage"]["completion_tokens"] == TOKENS
    assert answers["/v1/chat/completions"]["choices"][0]["message"]["content"]
    assert answers["/v1/chat/completions"]["usage"]["completion_tokens"] == TOKENS
    assert answers["/v1/responses"]["output"][0]["content"][0]["text"]
    assert answers["/v1/responses"]["usage"]["output_tokens"] == TOKENS
    assert answers["/v1/messages"]["content"][0]["text"]
    assert answers["/v1/messages"]["usage"]["output_tokens"] == TOKENS
    if ("POST", "/tokenize") in door.open_routes:
        assert len(answers["/tokenize"]["tokens"]) == answers["/tokenize"]["count"] > 1


@pytest.mark.parametrize("path", sorted(LAST))
def test_a_stream_of_each_route_comes_whole(door: Door, path: str) -> None:
    status, body = door.ask("POST", path, BEARER, stream=True, **STREAM.get(path, {}))
    assert status == OK, body
    assert LAST[path] in body
    # vLLM joins the tokens that it has made before the last event is sent: there may be fewer events than tokens.
    assert re.search(TEXT[path], body)
    assert int(COUNTED.findall(body)[-1]) == TOKENS


def test_anthropics_clients_are_served_as_they_ask(door: Door) -> None:
    headers = (
        f"x-api-key: {key('alice')}",
        "anthropic-version: 2023-06-01",
        "anthropic-beta: tools-2024-04-04",
    )
    status, body = door.ask("POST", "/v1/messages", *headers)
    assert (status, json.loads(body)["type"]) == (OK, "message")


@pytest.mark.parametrize("door", [("tokenize",)], indirect=True, ids=["with tokenize"])
@pytest.mark.parametrize("attack", ALL, ids=lambda attack: attack.name)
def test_an_attack_reaches_vllm_as_the_requests_it_may_be_and_computes_nothing(
    door: Door, attack: Attack
) -> None:
    taken, computed = len(door.taken()), door.computed()
    answers = heard(door.gateway.port, attack)
    # vLLM asks for a prompt where the tests' own server answers 200.
    assert len(answers) == len(attack.statuses), answers
    for status, expected in zip(statuses(answers), attack.statuses, strict=True):
        assert status in ({OK, BAD_REQUEST} if expected == OK else {expected}), answers
    received = door.taken()[taken:]
    assert len(received) == attack.most, received
    assert set(received) <= {"GET /v1/models", "POST /v1/completions", "POST /v1/messages"}
    assert door.computed() == computed


def test_vllm_understood_every_request_and_still_serves(door: Door) -> None:
    assert "Invalid HTTP request received" not in door.vllm.log.read_text()
    assert door.ask("POST", "/v1/completions", BEARER)[0] == OK
