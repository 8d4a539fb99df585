"""Keys at the gateway: known, unknown, expired, damaged, and by which header."""

import time
from collections.abc import Iterator

import pytest
from gateway import haproxy
from gateway.haproxy import Running
from gateway.upstream import Upstream

OK, UNAUTHORIZED = 200, 401
NOW = int(time.time())
KEYS = {
    "ek_good": "alice:0:0:0",
    "ek_later": f"bob:10:2:{NOW + 3600}",
    "ek_past": f"carol:0:0:{NOW - 1}",
    "ek_short": "dave:0:0",
    "ek_name": "eve",
    "ek_empty": ":0:0:0",
    "ek_more": f"frank:0:0:0:{NOW}",
}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with (
        Upstream() as upstream,
        haproxy.running(tmp_path_factory.mktemp("keys"), upstream.address, KEYS) as made,
    ):
        yield made


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Authorization: Bearer ek_good", OK),
        ("authorization: bearer ek_good", OK),
        ("Authorization: Bearer ek_later", OK),
        ("Authorization: Bearer ek_more", OK),
        ("Authorization: Bearer ek_past", UNAUTHORIZED),
        ("Authorization: Bearer ek_short", UNAUTHORIZED),
        ("Authorization: Bearer ek_name", UNAUTHORIZED),
        ("Authorization: Bearer ek_empty", UNAUTHORIZED),
        ("Authorization: Bearer EK_GOOD", UNAUTHORIZED),
        ("Authorization: Bearer ek_goo", UNAUTHORIZED),
        ("Authorization: Bearer ", UNAUTHORIZED),
        ("Authorization: Basic ek_good", UNAUTHORIZED),
        ("Authorization: ek_good", UNAUTHORIZED),
        ("Authorization: Bearer alice:0:0:0", UNAUTHORIZED),
        ("x-api-key: ek_good", UNAUTHORIZED),
        ("Cookie: key=ek_good", UNAUTHORIZED),
        ("X: y", UNAUTHORIZED),
    ],
)
def test_which_key_opens(front: Running, header: str, status: int) -> None:
    got, answer = front.ask("GET", "/v1/models", header)
    assert got == status
    assert (b"www-authenticate: Bearer" in answer) is (status == UNAUTHORIZED)


def test_messages_take_a_key_as_anthropics_clients_send_it(front: Running) -> None:
    assert front.ask("POST", "/v1/messages", "x-api-key: ek_good", body="{}")[0] == OK
    assert front.ask("POST", "/v1/messages", "x-api-key: ek_past", body="{}")[0] == UNAUTHORIZED
    assert front.ask("POST", "/v1/completions", "x-api-key: ek_good", body="{}")[0] == UNAUTHORIZED


@pytest.mark.parametrize("second", ["ek_good", "ek_past", ""])
def test_messages_with_a_key_in_either_header_are_refused(front: Running, second: str) -> None:
    both = ("Authorization: Bearer ek_good", f"x-api-key: {second}")
    status, answer = front.ask("POST", "/v1/messages", *both, body="{}")
    assert (status, b"two_keys" in answer) == (400, True)


def test_the_log_has_the_keys_name_and_never_the_key(front: Running) -> None:
    front.ask(
        "POST", "/v1/completions?secret=1", "Authorization: Bearer ek_later", body='{"prompt": "my secret"}'
    )
    # A line is written after its answer has gone; other tests have asked for models by that key.
    completions = lambda: [  # noqa: E731
        entry for entry in front.log() if (entry["key"], entry["route"]) == ("bob", "/v1/completions")
    ]
    haproxy.until(completions)
    text = (front.folder / "stdout").read_text() + (front.folder / "stderr").read_text()
    assert "ek_" not in text
    assert "secret" not in text
    assert completions()[-1]["status"] == OK
