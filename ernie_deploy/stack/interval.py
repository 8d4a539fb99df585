"""What servers did between two looks at their counters: latencies from the buckets' increase, rates, shares and gauges."""

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ernie_deploy.plan.objectives import HISTOGRAMS
from ernie_deploy.stack.histogram import quantile
from ernie_deploy.stack.metrics import LABEL, counters, samples

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
# And what a request waited before it was computed.
LATENCIES = {**HISTOGRAMS, "queue": "vllm:request_queue_time_seconds"}
DRAFTS = "vllm:spec_decode_num_drafts_total"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
ENDED = "vllm:request_success_total"
# The label by which a counter's parts are told apart.
PARTS = {ACCEPTED: "position", ENDED: "finished_reason"}
STARTED = "process_start_time_seconds"
# A counter by its name and what is told apart of it: a bucket's bound, a draft's position or why a request ended.
Totals = Mapping[tuple[str, str], float]


class Scrape(Struct, frozen=True):
    """One reading of every server that answered, by its service, at a moment of a clock that only goes forward.

    `unix_s` is the same moment in seconds since 1970.
    """

    at_s: float
    texts: Mapping[str, str]
    unix_s: float = 0.0


def figures(before: Scrape, after: Scrape) -> dict[str, Any]:
    """The figures of the time between two looks, as plain data; what nothing tells is None."""
    elapsed_s = after.at_s - before.at_s
    grown = _grown(before.texts, after.texts)
    now = counters("".join(after.texts.values()))

    def rate(name: str) -> float:
        return round(grown.get((name, ""), 0.0) / elapsed_s, 1) if elapsed_s > 0 else 0.0

    return {
        "servers": len(after.texts),
        "uptime_s": _uptime_s(after),
        "ended_by_reason": {
            part: int(count) for (name, part), count in sorted(grown.items()) if name == ENDED
        },
        "latencies_s": {short: _quantiles(grown, name) for short, name in LATENCIES.items()},
        "requests_running": int(now.get("vllm:num_requests_running", 0)),
        "requests_waiting": int(now.get("vllm:num_requests_waiting", 0)),
        "kv_cache_usage": round(now.get("vllm:kv_cache_usage_perc", 0.0), 4),
        "preemptions": int(grown.get(("vllm:num_preemptions_total", ""), 0)),
        "prefix_cache_hit_rate": _share(
            grown.get(("vllm:prefix_cache_hits_total", ""), 0.0),
            grown.get(("vllm:prefix_cache_queries_total", ""), 0.0),
        ),
        "mtp_acceptance_per_position": _acceptance(grown),
        "prompt_tokens_per_s": rate("vllm:prompt_tokens_total"),
        "generation_tokens_per_s": rate("vllm:generation_tokens_total"),
        "elapsed_s": round(elapsed_s, 3),
    }


def _grown(before: Mapping[str, str], after: Mapping[str, str]) -> Totals:
    """How much each counter grew, over all servers; of one that started anew, all that it counted."""
    total: dict[tuple[str, str], float] = defaultdict(float)
    for service, text in after.items():
        if service not in before:
            continue
        old, new = _totals(before[service]), _totals(text)
        anew = any(value < old.get(key, 0.0) for key, value in new.items())
        for key, value in new.items():
            total[key] += value if anew else value - old.get(key, 0.0)
    return total


def _totals(text: str) -> Totals:
    total: dict[tuple[str, str], float] = defaultdict(float)
    for name, words, value in samples(text):
        if not name.startswith("vllm:") or not name.endswith(("_total", "_bucket")):
            continue
        part = "le" if name.endswith("_bucket") else PARTS.get(name, "")
        total[name, str(dict(LABEL.findall(words)).get(part, "")) if part else ""] += value
    return total


def _uptime_s(scrape: Scrape) -> float | None:
    """How long the server that started last has run; None where none says when it started."""
    started = [value for text in scrape.texts.values() for name, _, value in samples(text) if name == STARTED]
    return round(max(0.0, scrape.unix_s - max(started)), 1) if started else None


def _quantiles(grown: Totals, name: str) -> dict[str, float] | None:
    buckets = {
        float(bound): count
        for (sample, bound), count in grown.items()
        if sample == f"{name}_bucket" and bound
    }
    seconds = {short: quantile(share, buckets) for short, share in SHARES.items()}
    known = {short: value for short, value in seconds.items() if value is not None and math.isfinite(value)}
    return known or None


def _acceptance(grown: Totals) -> list[float] | None:
    """Of all drafts, the share whose token at each position was accepted."""
    drafts = grown.get((DRAFTS, ""), 0.0)
    accepted = sorted(
        (int(at), count) for (name, at), count in grown.items() if name == ACCEPTED and at.isdecimal()
    )
    return [round(count / drafts, 4) for _, count in accepted] if drafts and accepted else None


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
