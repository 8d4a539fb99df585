"""A client that waits for as long as Retry-After says is served; windows of a minute are two seconds here."""

import re
import time
from pathlib import Path

import pytest
from gateway.front_door import Answer, FrontDoor, front_door

RATE = 40
# The window of the configuration and that of the test, which Retry-After is scaled by.
MINUTE_S, WINDOW_S = 60, 2
TIMES = {"gpc0_rate(1m)": f"gpc0_rate({WINDOW_S}s)"}


def wait(refusal: Answer) -> None:
    assert refusal.status == 429
    time.sleep(int(refusal.headers["retry-after"]) * WINDOW_S / MINUTE_S)


@pytest.mark.parametrize("begin_s", [0, 0.7, 1.9])
def test_a_key_that_used_its_rate_at_once_and_waits_is_served(tmp_path: Path, begin_s: float) -> None:
    """At once is the worst case, wherever in HAProxy's window it falls."""
    with front_door(tmp_path, {"alice": f"{RATE}:1000:0"}, times=TIMES) as door:
        door.post()
        time.sleep(begin_s)
        wait(_refused(door, "alice"))
        assert door.post().status == 200


def test_an_address_that_guessed_and_waits_is_told_again_that_its_key_is_none(tmp_path: Path) -> None:
    with front_door(tmp_path, {"alice": f"{RATE}:1000:0"}, times=TIMES) as door:
        _refused(door, "nobody")
        refusals = [door.post(by="nobody") for _ in range(200)]
        wait(refusals[-1])
        assert door.post(by="nobody").status == 401


def test_the_window_is_that_of_the_configuration(tmp_path: Path) -> None:
    with front_door(tmp_path, {"alice": "0:0:0"}) as door:
        text = (door.gateway.folder / "haproxy.cfg").read_text()
    assert set(re.findall(r",gpc\d_rate\((\w+)\)", text)) == {"1m"}


def _refused(door: FrontDoor, by: str) -> Answer:
    """The first refusal by a limit."""
    end = time.monotonic() + 60
    while (answer := door.post(by=by)).status != 429:
        assert time.monotonic() < end
    return answer
