"""What `status` says of a gateway while somebody knocks: HAProxy's own counts have each refusal, its log has some."""

import time
import urllib.request
from pathlib import Path

from gateway.front_door import FrontDoor, front_door
from gateway.haproxy import until

from ernie_deploy.stack import gateway, status

REFUSED = 100


def seen(door: FrontDoor) -> gateway.Gateway:
    """As `gateway.inspect_gateway`, without Docker between."""
    with urllib.request.urlopen(f"http://127.0.0.1:{door.gateway.own_port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    up, servers, queue = gateway.load(text)
    lines = (door.gateway.folder / "stdout").read_text().splitlines()
    return gateway.Gateway(
        url="http://x", up=up, servers=servers, queue=queue,
        counts=gateway.counts_in(text), recent=gateway.requests_in(lines),
    )  # fmt: skip


def test_each_refusal_is_counted_though_the_log_is_silent(tmp_path: Path) -> None:
    with front_door(tmp_path, {"alice": "2:8:0"}) as door:
        before = seen(door)
        begun = time.time()
        for number in range(REFUSED):
            assert door.post(by=f"guess{number}").status in (401, 429)
        assert [door.post().status for _ in range(5)] == [200, 200, 429, 429, 429]
        until(lambda: seen(door).recent.by_key == {"alice": 5})
        after = seen(door)
    assert after.counts.since(before.counts).answers == {"2xx": 2, "4xx": REFUSED + 3, "5xx": 0}
    assert after.counts.limited == 3
    assert sum(after.recent.refused.values()) < REFUSED / 2
    assert begun - 60 < after.counts.start_s <= begun
    page = {"project": "p", "containers": [], "server": None, "gateway": gateway.as_data(after)}
    assert f" {REFUSED + 3} x 4xx, 0 x 5xx, 3 over a key's limit in the " in status.as_text(page)
