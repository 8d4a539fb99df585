"""The figures of vLLM 0.32's client, by its own formulas and apart from the kit's, so that no fault hides."""

import math
from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from typing import Any

from bench.engine import Timeline

from ernie_deploy.bench.journal.record import Cell

# Where the client's monotonic clock stood.
EPOCH_S = 1000.0
PERCENTILES = (50, 90, 95, 99)


def gaps(line: Timeline) -> list[tuple[float, int]]:
    """Each step's duration, shortest first, and how many requests waited through it."""
    steps = zip(pairwise([0.0, *line.ends]), line.decoding, strict=True)
    return sorted((b - a, count) for (a, b), count in steps if count)


def figures(cell: Cell, line: Timeline) -> dict[str, Any]:
    requests = range(cell.num_prompts)
    ttfts = [line.ends[line.first[i]] - line.sends[i] for i in requests]
    latencies = [line.ends[line.last[i]] - line.sends[i] for i in requests]
    duration = line.ends[-1] + 0.0005
    return {
        **_settings(cell),
        **_totals(cell, duration),
        "request_goodput": _goodput(cell, ttfts, latencies, duration),
        **_lists(cell, line, ttfts, latencies),
        **_peaks(line, latencies),
        **_statistics(cell, line, ttfts, latencies),
        **_speculation(cell, line),
    }


def _settings(cell: Cell) -> dict[str, Any]:
    return {
        "date": "20261121-120000", "endpoint_type": "openai", "backend": "openai", "label": None,
        "model_id": "baidu/ERNIE-4.5-21B-A3B-PT", "tokenizer_id": "baidu/ERNIE-4.5-21B-A3B-PT",
        "num_prompts": cell.num_prompts,
        "request_rate": "inf" if cell.request_rate is None else cell.request_rate,
        "burstiness": 1.0, "max_concurrency": cell.max_concurrency,
    }  # fmt: skip


def _totals(cell: Cell, duration: float) -> dict[str, Any]:
    n, inputs, outputs = (
        cell.num_prompts,
        cell.num_prompts * cell.input_len,
        cell.num_prompts * cell.output_len,
    )
    return {
        "duration": duration, "completed": n, "failed": 0,
        "total_input_tokens": inputs, "total_output_tokens": outputs,
        "request_throughput": n / duration, "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration, "rtfx": 0.0,
    }  # fmt: skip


def _lists(cell: Cell, line: Timeline, ttfts: list[float], latencies: list[float]) -> dict[str, Any]:
    n = cell.num_prompts
    return {
        "input_lens": [cell.input_len] * n, "output_lens": [cell.output_len] * n,
        "ttfts": ttfts, "itls": [], "latencies": latencies,
        "start_times": [EPOCH_S + at for at in line.sends], "queue_times": line.queued,
        "generated_texts": [], "errors": [""] * n,
    }  # fmt: skip


def _tpots(cell: Cell, ttfts: list[float], latencies: list[float]) -> list[float]:
    tokens = cell.output_len - 1
    return [(end - first) / tokens for first, end in zip(ttfts, latencies, strict=True)] if tokens else []


def _goodput(cell: Cell, ttfts: list[float], latencies: list[float], duration: float) -> float | None:
    if not cell.goodput:
        return None
    tpots = _tpots(cell, ttfts, latencies) or [0.0] * len(ttfts)
    values = {"ttft": ttfts, "tpot": tpots, "e2el": latencies}
    slos = [(values[name], limit / 1000) for name, limit in cell.goodput.items()]
    return sum(all(took[i] <= limit for took, limit in slos) for i in range(len(ttfts))) / duration


def _peaks(line: Timeline, latencies: list[float]) -> dict[str, Any]:
    """The client's buckets of one second, counted from the first send."""
    start, chunks, busy = min(line.sends), Counter[int](), Counter[int]()
    for end, decoding in zip(line.ends, line.decoding, strict=True):
        chunks[int(end - start)] += decoding
    for step in line.first.values():
        chunks[int(line.ends[step] - start)] += 1
    for sent, took in zip(line.sends, latencies, strict=True):
        # As the client has it on its own clock, so that both round alike.
        at, origin = EPOCH_S + sent, EPOCH_S + start
        busy.update(range(int(at - origin), int(at + took - origin) + 1))
    return {
        "max_output_tokens_per_s": float(max(chunks.values())),
        "max_concurrent_requests": max(busy.values()),
    }


def _statistics(cell: Cell, line: Timeline, ttfts: list[float], latencies: list[float]) -> dict[str, float]:
    flat = {}
    for name, values in (
        ("ttft", [(v, 1) for v in sorted(ttfts)]),
        ("tpot", [(v, 1) for v in sorted(_tpots(cell, ttfts, latencies))]),
        ("itl", gaps(line)),
        ("e2el", [(v, 1) for v in sorted(latencies)]),
    ):
        flat |= _summary(name, values or [(0.0, 1)])
    if cell.max_concurrency is not None:
        flat |= _summary("client_queue_time", [(v, 1) for v in sorted(line.queued)])
        if cell.request_rate is not None:
            whole = sorted(a + b for a, b in zip(latencies, line.queued, strict=True))
            flat |= _summary("e2el_including_client_queue", [(v, 1) for v in whole])
    return flat


def _summary(name: str, values: list[tuple[float, int]]) -> dict[str, float]:
    """Mean, median, standard deviation and percentiles in ms of sorted (seconds, how often)."""
    count = sum(weight for _, weight in values)
    mean = math.fsum(v * w for v, w in values) / count
    std = math.sqrt(math.fsum((v - mean) ** 2 * w for v, w in values) / count)
    ranks, total = [], 0
    for _, weight in values:
        total += weight
        ranks.append(total)

    def quantile(share: float) -> float:
        at = share * (count - 1)
        low, high = (
            values[bisect_right(ranks, math.floor(at) + k)][0] if math.floor(at) + k < count else 0.0
            for k in (0, 1)
        )
        return low + (high - low) * (at - math.floor(at)) if at % 1 else low

    return {
        f"mean_{name}_ms": mean * 1000, f"median_{name}_ms": quantile(0.5) * 1000, f"std_{name}_ms": std * 1000,
        **{f"p{p}_{name}_ms": quantile(p / 100) * 1000 for p in PERCENTILES},
    }  # fmt: skip


def _speculation(cell: Cell, line: Timeline) -> dict[str, Any]:
    """One draft token a step, accepted where a step gave two."""
    drafts = sum(line.last.values()) - sum(line.first.values())
    accepted = cell.num_prompts * (cell.output_len - 1) - drafts
    if not accepted:
        return {}
    return {
        "spec_decode_acceptance_rate": 100 * accepted / drafts,
        "spec_decode_acceptance_length": 1 + accepted / drafts,
        "spec_decode_num_drafts": drafts, "spec_decode_draft_tokens": drafts,
        "spec_decode_accepted_tokens": accepted,
        "spec_decode_per_position_acceptance_rates": [accepted / drafts],
    }  # fmt: skip
