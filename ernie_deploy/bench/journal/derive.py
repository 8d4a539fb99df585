"""Reduces a raw result of vLLM's client to what a journal keeps, and derives the figures it does not print."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from ernie_deploy.bench.journal.arrivals import schedule
from ernie_deploy.bench.journal.record import Derived, Environment, InterTokenLatency, Server
from ernie_deploy.bench.journal.rows import Row, completed, peak_concurrency
from ernie_deploy.bench.quantiles import bin_of, quantile

# They grow with every token: 112 MB for 512 x 8000.
DROPPED = ("itls", "generated_texts")


def reduce(result: Mapping[str, Any]) -> tuple[dict[str, Any], InterTokenLatency]:
    """The result without its two lists of tokens, and what is kept of the gaps; the result stays as it is."""
    itls: Sequence[Sequence[float]] = result.get("itls") or []
    histogram = Counter(map(bin_of, chain.from_iterable(itls)))
    kept = {name: value for name, value in result.items() if name not in DROPPED}
    return kept, InterTokenLatency(
        counts=tuple(len(gaps) for gaps in itls),
        sums_s=tuple(math.fsum(gaps) for gaps in itls),
        histogram=dict(sorted(histogram.items())),
    )


def derive(
    result: Mapping[str, Any],
    itl: InterTokenLatency | None,
    server: Server | None,
    environment: Environment | None,
    *,
    seed: int | None = None,
) -> Derived:
    """Everything of `Derived`; the send lag needs the client's `seed`, which the result does not hold."""
    done = completed(result)
    duration_s, tpot_ms = float(result.get("duration") or 0.0), float(result.get("mean_tpot_ms") or 0.0)
    gpus = environment.gpu_count if environment else 0
    ttfts_ms = sorted(1000 * row.ttft_s for row in done)
    return Derived(
        mean_concurrency=math.fsum(row.latency_s for row in done) / duration_s if duration_s else 0.0,
        peak_concurrency=peak_concurrency(done),
        achieved_rate=achieved_rate(done),
        send_lag_p99_ms=send_lag_p99_ms(result, done, seed),
        tok_s_user=1000 / tpot_ms if tpot_ms > 0 else None,
        tok_s_gpu=result["output_throughput"] / gpus if gpus and result.get("output_throughput") else None,
        tokens_per_chunk=tokens_per_chunk(done, itl),
        ttft_deciles_ms=tuple(quantile(ttfts_ms, tenth / 10) for tenth in range(11)) if done else (),
        prefix_hit_share=share(server, "prefix_cache_hits", "prefix_cache_queries"),
        acceptance_length=acceptance_length(server),
    )


def achieved_rate(done: Sequence[Row]) -> float | None:
    """Requests/s that were really sent, first to last; None for a single one or for all at once."""
    sends = [row.start_s for row in done]
    span_s = max(sends) - min(sends) if sends else 0.0
    return (len(sends) - 1) / span_s if span_s > 0 else None


def send_lag_p99_ms(result: Mapping[str, Any], done: Sequence[Row], seed: int | None) -> float | None:
    """How late the client sent, against the schedule drawn again from its seed; relative to its promptest send.

    None where seed or rate is unknown, or where a request is missing.
    """
    rate = result.get("request_rate")
    if (
        seed is None
        or not isinstance(rate, int | float)
        or not done
        or len(done) != result.get("num_prompts")
    ):
        return None
    due = schedule(seed, len(done), float(rate))
    behind = sorted(row.arrival_s - at for row, at in zip(done, due, strict=True))
    return 1000 * quantile([late - behind[0] for late in behind], 0.99)


def tokens_per_chunk(done: Sequence[Row], itl: InterTokenLatency | None) -> float | None:
    """Tokens after the first over stream events after the first: above 1 where events were merged."""
    chunks = sum(itl.counts) if itl else 0
    return sum(row.output_tokens - 1 for row in done) / chunks if chunks else None


def share(server: Server | None, part: str, whole: str) -> float | None:
    """How far one counter came over how far another did; None where either is absent or stood still."""
    moved, of = (server.delta(part), server.delta(whole)) if server else (None, None)
    return moved / of if moved is not None and of else None


def acceptance_length(server: Server | None) -> float | None:
    """Tokens a speculative step gave, its own included."""
    accepted = share(server, "spec_decode_num_accepted_tokens", "spec_decode_num_drafts")
    return None if accepted is None else 1 + accepted
