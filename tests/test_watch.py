"""`status --watch`: what happened between two looks, on a page, a line and as JSON; it ends at Ctrl-C."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import ROOT, planned
from fake_exec import FakeExec
from msgspec.structs import replace
from test_lifecycle import state

from ernie_deploy.commands import status_watch
from ernie_deploy.plan.objectives import most_tokens_per_s, parse
from ernie_deploy.stack import containers, gateway, gateway_text, status, watch
from ernie_deploy.stack.compose import Stack
from ernie_deploy.stack.interval import Scrape, figures


def text(**counts: float) -> str:
    """/metrics of a server with these counters; a bucket is `ttft_0.5`."""
    lines = []
    for name, value in counts.items():
        sample, _, bound = name.partition("__")
        labels = f'engine="0",model_name="m"{f",{bound}" if bound else ""}'
        lines.append(f"vllm:{sample}{{{labels}}} {value}")
    return "\n".join(lines) + "\n"


def latency(name: str, *counts: float) -> dict[str, float]:
    return {f'{name}_seconds_bucket__le="{bound}"': count for bound, count in zip(("0.1", "0.2", "+Inf"), counts, strict=True)}  # fmt: skip


BEFORE = text(
    generation_tokens_total=1000, prompt_tokens_total=100, num_preemptions_total=1, prefix_cache_queries_total=100,
    prefix_cache_hits_total=50, spec_decode_num_drafts_total=10,
    **{'spec_decode_num_accepted_tokens_per_pos_total__position="0"': 5, 'request_success_total__finished_reason="stop"': 7},
    **latency("time_to_first_token", 9, 9, 9), **latency("request_queue_time", 9, 9, 9),
)  # fmt: skip
AFTER = text(
    generation_tokens_total=1500, prompt_tokens_total=150, num_preemptions_total=3, prefix_cache_queries_total=300,
    prefix_cache_hits_total=90, spec_decode_num_drafts_total=30, num_requests_running=4, num_requests_waiting=2,
    kv_cache_usage_perc=0.25, **{'spec_decode_num_accepted_tokens_per_pos_total__position="0"': 20},
    **{'request_success_total__finished_reason="stop"': 9, 'request_success_total__finished_reason="error"': 3},
    **latency("time_to_first_token", 9, 19, 19), **latency("request_queue_time", 19, 19, 19),
) + "process_start_time_seconds 1000\n"  # fmt: skip


def test_the_figures_are_of_the_interval_alone() -> None:
    seen = figures(Scrape(10.0, {"serve": BEFORE}), Scrape(15.0, {"serve": AFTER}, 1090.0))
    assert seen["generation_tokens_per_s"] == 100.0
    assert seen["uptime_s"] == 90
    assert seen["ended_by_reason"] == {"error": 3, "stop": 2}
    assert seen["latencies_s"]["queue"]["p50"] == pytest.approx(0.05)
    assert seen["prompt_tokens_per_s"] == 10.0
    assert seen["preemptions"] == 2
    assert seen["prefix_cache_hit_rate"] == 0.2
    assert seen["mtp_acceptance_per_position"] == [0.75]
    assert (seen["requests_running"], seen["requests_waiting"], seen["kv_cache_usage"]) == (4, 2, 0.25)
    # All ten of the interval lie between 0.1 and 0.2 s; those before are no part of it.
    assert seen["latencies_s"]["ttft"] == pytest.approx(
        {"p50": 0.15, "p90": 0.19, "p95": 0.195, "p99": 0.199}
    )
    assert seen["latencies_s"]["itl"] is None


def test_several_servers_are_added_up_and_one_that_started_anew_counts_from_nothing() -> None:
    fresh = text(
        generation_tokens_total=200, kv_cache_usage_perc=0.75, **latency("time_to_first_token", 1, 1, 1)
    )
    fresh += "process_start_time_seconds 2000\n"
    seen = figures(
        Scrape(0.0, {"serve": BEFORE, "serve-2": BEFORE}),
        Scrape(10.0, {"serve": AFTER, "serve-2": fresh}, 2005.0),
    )
    assert seen["servers"] == 2
    assert seen["uptime_s"] == 5
    assert seen["generation_tokens_per_s"] == (500 + 200) / 10
    assert seen["kv_cache_usage"] == 0.5
    assert seen["latencies_s"]["ttft"]["p50"] == pytest.approx(0.1 + 0.1 * (5.5 - 1) / 10)


def test_a_server_that_was_not_seen_before_has_no_rate_yet() -> None:
    seen = figures(Scrape(0.0, {}), Scrape(1.0, {"serve": AFTER}))
    assert seen["generation_tokens_per_s"] == 0
    assert seen["latencies_s"]["ttft"] is None
    assert figures(Scrape(0.0, {"serve": AFTER}), Scrape(1.0, {}))["servers"] == 0


LINES = [
    '{"time":1,"key":"alice","route":"/v1/models","status":200}',
    '{"time":1,"key":"alice","route":"/v1/completions","status":429}',
    '{"time":1,"key":"","route":"","status":401}',
    '{"time":1,"key":"bob","status":503}',
    '{"time":1,"key":"\\u001b[2J","status":401}',
    "[NOTICE]   (1) : New worker (8) forked",
    "{broken",
    '{"status":[]}',
    '{"key":"alice"}',
    "[" * 100000,
]


def test_the_log_tells_who_asked_and_who_was_refused() -> None:
    seen = gateway.requests_in(LINES)
    assert seen.by_key == {"alice": 2, "bob": 1}
    assert seen.refused == {401: 2, 429: 1, 503: 1}
    assert seen.limited_by_key == {"alice": 1}


def test_of_a_log_that_is_longer_than_what_is_read_the_figures_are_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Mock()
    engine.containers.get.return_value.logs.return_value = [line.encode() + b"\n" for line in LINES]
    assert not gateway.recent(engine, state("gateway", "running"), 0).cut
    monkeypatch.setattr(containers, "MOST_OF_START_BYTES", len("\n".join(LINES[:3])))
    seen = gateway.recent(engine, state("gateway", "running"), 0)
    assert (seen.cut, seen.by_key) == (True, {"alice": 2})
    logged = {**FRONT["logged"], "cut": True}
    assert (
        gateway_text.logged({"logged": logged}) == "at least 2 requests with a key, 2 x 401, 1 x 429, 0 x 503"
    )


COUNTERS = """# TYPE haproxy_server_status gauge
haproxy_server_status{proxy="serve",server="serve",state="DOWN"} 0
haproxy_server_status{proxy="serve",server="serve",state="UP"} 1
haproxy_server_status{proxy="serve",server="serve-2",state="DOWN"} 1
haproxy_server_status{proxy="serve",server="serve-2",state="UP"} 0
haproxy_backend_current_queue{proxy="serve"} 3
haproxy_backend_current_queue{proxy="keys"} 9
haproxy_process_start_time_seconds 1000
haproxy_frontend_http_responses_total{proxy="front",code="1xx"} 1
haproxy_frontend_http_responses_total{proxy="front",code="2xx"} 20
haproxy_frontend_http_responses_total{proxy="front",code="4xx"} 100000
haproxy_frontend_http_responses_total{proxy="front",code="5xx"} 2
haproxy_frontend_http_responses_total{proxy="own",code="2xx"} 500
haproxy_frontend_requests_denied_total{proxy="front"} 4
haproxy_frontend_requests_denied_total{proxy="own"} 9
"""


def test_haproxys_counters_tell_servers_and_queue() -> None:
    assert gateway.load(COUNTERS) == (1, 2, 3)
    assert gateway.load("") == (0, 0, 0)


def test_haproxys_counters_tell_every_answer_of_a_time_and_after_a_reload_of_its_process() -> None:
    now = gateway.counts_in(COUNTERS)
    assert (now.start_s, now.limited) == (1000, 4)
    assert now.answers == {"2xx": 20, "4xx": 100_000, "5xx": 2}
    before = gateway.counts_in(COUNTERS.replace(" 100000\n", " 60000\n").replace('"front"} 4', '"front"} 1'))
    grown = now.since(before)
    assert (grown.answers, grown.limited) == ({"2xx": 0, "4xx": 40_000, "5xx": 0}, 3)
    assert now.since(replace(before, start_s=900)) == now.since(None) == now
    assert gateway.counts_in("").answers == {"2xx": 0, "4xx": 0, "5xx": 0}


def test_haproxys_counters_are_read_through_its_shell() -> None:
    """The image has no HTTP client: bash's own socket is one."""
    engine = FakeExec()
    with pytest.raises(OSError, match="ended with"):
        gateway.counters_of(engine, msgspec_id(engine))  # type: ignore[arg-type]
    assert engine.words[:2] == ["bash", "-c"]


def msgspec_id(engine: FakeExec) -> Any:
    import msgspec

    return msgspec.structs.replace(state("gateway", "running"), id=engine.container)


LOGGED = {
    "refused": {"401": 2, "429": 1, "503": 0},
    "requests_by_key": {"alice": 2},
    "limited_by_key": {"alice": 1},
    "cut": False,
}
FRONT = {"url": "https://127.0.0.1:8000", "servers_up": 1, "servers": 2, "queue": 3, "started": 1000,
         "answers": {"2xx": 20, "4xx": 100_000, "5xx": 0}, "limited": 4, "logged": LOGGED}  # fmt: skip
AIMS = watch.Aims(objectives=parse(("ttft_p95=100ms", "ttft_p90=2s", "tpot_p95=50ms")), most_tokens_per_s=80.0, usd_per_hour=5.0)  # fmt: skip


def tick(aims: watch.Aims = AIMS, **other: Any) -> dict[str, Any]:
    made = figures(Scrape(10.0, {"serve": BEFORE}), Scrape(15.0, {"serve": AFTER}, 12_000.0))
    return {
        "project": "ernie-21b",
        "time": "12:00:00",
        **made,
        **watch.by_plan(aims, made),
        "gateway": FRONT,
        **other,
    }


def test_the_page() -> None:
    assert watch.as_page(tick()).splitlines() == [
        "ernie-21b  12:00:00  1 serving for 3 h 3 min  (the last 5 s)",
        "  ms          p50      p95      p99",
        "  ttft        150      195      199  p95 OVER 100 (--slo)  p90 at most 2000 (--slo)",
        "  tpot          -        -        -  p95 at most 50 (--slo)",
        "  itl           -        -        -",
        "  e2e           -        -        -",
        "  queue        50       95       99",
        "  requests ended: 3 error, 2 stop",
        "  4 running, 2 waiting, KV 25.0%, 2 preemptions",
        "  100 tokens/s out (about 80 with a full KV cache, estimated), 10 in",
        "  prefix hits 20.0%, MTP acceptance 75.0%",
        "  13.89 USD per million generated tokens",
        "  gateway: 1 of 2 servers up, 3 requests wait; 20 x 2xx, 100000 x 4xx, 0 x 5xx, 4 over a key's limit",
        "    logged: 2 requests with a key, 2 x 401, 1 x 429, 0 x 503",
        "    alice: 2 requests, 1 x 429",
    ]


def test_the_docs_show_that_page() -> None:
    page = textwrap.indent(watch.as_page(tick()), " " * 4)
    assert f"\n{page}\n" in (ROOT / "docs/operations.md").read_text()


def test_the_page_of_a_stack_that_nothing_is_known_of() -> None:
    text = watch.as_page(tick(watch.Aims(), gateway=None, uptime_s=None, ended_by_reason={}))
    assert text.splitlines()[0] == "ernie-21b  12:00:00  1 serving  (the last 5 s)"
    assert "  requests ended: -\n" in text
    assert not re.search("USD|at most|OVER|estimated|gateway", text)
    assert watch.as_page(tick(servers=0)).startswith("ernie-21b  12:00:00  not serving  (")


def test_what_a_million_tokens_cost_is_unknown_while_none_is_generated() -> None:
    seen = figures(Scrape(0.0, {"serve": AFTER}), Scrape(1.0, {"serve": AFTER}))
    assert watch.by_plan(AIMS, seen)["usd_per_million_tokens"] is None


def test_a_tick_has_what_the_gateway_counted_since_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = iter((None, 100, 130, None, 132, 7, 9))
    starts = iter((1000, 1000, 1000, 2000, 2000))

    def look(*_: object) -> gateway.Gateway | None:
        if (count := next(refused)) is None:
            return None
        counts = gateway.Counts(start_s=next(starts), answers={"4xx": count}, limited=0)
        logged = gateway.Requests(by_key={}, refused={}, limited_by_key={})
        return gateway.Gateway(url="", up=1, servers=1, queue=0, counts=counts, recent=logged)

    monkeypatch.setattr(gateway, "inspect_gateway", look)
    monkeypatch.setattr(watch, "_scrape", lambda *_: Scrape(time.monotonic(), {"serve": AFTER}, time.time()))
    monkeypatch.setattr(containers, "states", lambda *_: [])
    seen = watch.ticks(None, watch.Watched(project="p", services={}), 0.01)  # type: ignore[arg-type]
    fronts = [next(seen)["gateway"] for _ in range(6)]
    assert [front and front["answers"]["4xx"] for front in fronts] == [0, 30, None, 2, 7, 2]


def test_the_line() -> None:
    assert watch.as_line(tick()) == (
        "12:00:00  100 tokens/s  4 running, 2 waiting  KV 25%  ttft p95 195  queue p95 95  "
        "1/2 up  20 x 2xx, 100000 x 4xx, 0 x 5xx, 4 over a key's limit"
    )
    assert watch.as_line(tick(servers=0)) == "12:00:00  not serving"


def test_status_names_the_gateway() -> None:
    front = {**FRONT, "started": int(time.time()) - 7_300}
    seen = {"project": "p", "containers": [], "server": None, "gateway": front}
    assert status.as_text(seen).splitlines()[-3:] == [
        "  gateway https://127.0.0.1:8000: 1 of 2 servers up, 3 requests wait",
        "  20 x 2xx, 100000 x 4xx, 0 x 5xx, 4 over a key's limit in the 2 h 1 min since its start or reload",
        "  logged in 5 minutes: 2 requests with a key, 2 x 401, 1 x 429, 0 x 503",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-1, "0 s"), (0.4, "0 s"), (59, "59 s"), (3600, "1 h"), (3725, "1 h 2 min"), (190_000, "2 d 4 h")],
)
def test_a_time_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert gateway_text.span(seconds) == words


# A watch over made-up ticks, so that no Docker is needed.
# A shell has what it starts in the background ignore Ctrl-C, and its children with it.
WATCHING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{root!r}, {tests!r}]
from unittest.mock import patch
from test_watch import tick
import itertools, time
from ernie_deploy.commands import status_watch
from ernie_deploy.stack import containers
def ticks(*_):
    for number in itertools.count():
        time.sleep(0.1)
        yield tick(time=str(number))
with patch("ernie_deploy.stack.watch.ticks", ticks), patch.object(containers, "client", lambda: None), \
     patch.object(status_watch, "_watched", lambda _: None):
    status_watch.watch_stack(None, 1.0, as_json={as_json})
"""


def watching(out: int, *, as_json: bool = False) -> "subprocess.Popen[bytes]":
    code = WATCHING.format(root=str(ROOT), tests=str(ROOT / "tests"), as_json=as_json)
    return subprocess.Popen([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE)


def printed(reads: int, marks: bytes, times: int) -> bytes:
    seen, end = b"", time.monotonic() + 60
    while seen.count(marks) < times:
        assert time.monotonic() < end, seen[-500:]
        try:
            seen += os.read(reads, 1 << 16)
        except OSError:
            break
    return seen


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reads, writes = os.pipe()
    yield reads, writes
    os.close(reads)


@pytest.mark.parametrize("as_json", [False, True])
def test_elsewhere_than_on_a_terminal_each_tick_is_a_line(pipe: tuple[int, int], as_json: bool) -> None:
    process = watching(pipe[1], as_json=as_json)
    os.close(pipe[1])
    lines = printed(pipe[0], b"\n", 3).decode().splitlines()
    process.send_signal(signal.SIGINT)
    assert (process.wait(120), process.stderr.read() if process.stderr else b"") == (0, b"")
    assert process.stderr
    process.stderr.close()
    if as_json:
        assert [json.loads(line)["time"] for line in lines[:3]] == ["0", "1", "2"]
    else:
        assert [line.split("  ")[0] for line in lines[:3]] == ["0", "1", "2"]


def test_on_a_terminal_it_is_refreshed_in_place_and_ends_at_ctrl_c() -> None:
    ours, theirs = pty.openpty()
    process = watching(theirs)
    os.close(theirs)
    seen = printed(ours, b"ernie-21b", 3)
    process.send_signal(signal.SIGINT)
    # A terminal that nobody reads would hold the last words back.
    threading.Thread(target=printed, args=(ours, b"never", 1), daemon=True).start()
    assert process.wait(120) == 0
    assert process.stderr
    assert process.stderr.read() == b""
    process.stderr.close()
    # The cursor goes up over the page before.
    assert b"\x1b[1A" in seen


def test_what_the_plan_says_is_of_its_file(tmp_path: Path) -> None:
    def aims(head: str) -> watch.Aims:
        (tmp_path / "compose.yml").write_text(head)
        return status_watch._aims(Stack(files=(tmp_path / "compose.yml",)))

    one = aims("# ernie-deploy render h100\n")
    assert one.most_tokens_per_s == pytest.approx(most_tokens_per_s(planned("h100")))
    assert [goal.origin.partition(":")[0] for goal in one.objectives] == ["derived", "derived"]
    assert one.usd_per_hour is None
    two = aims("# ernie-deploy render h100 --gateway --replicas 2\n")
    assert two.most_tokens_per_s == pytest.approx(2 * (one.most_tokens_per_s or 0))
    bought = aims("# ernie-deploy render h100 --monitoring --slo ttft_p95=2s --gpu-price 2.5\n")
    assert bought.usd_per_hour == 2.5
    assert [goal.text for goal in bought.objectives] == ["ttft_p95=2s"]
    assert aims("services: {}\n") == watch.Aims()
