"""Checks of figures against each other that hold for any run: wall time, Little's law, chunks, tails."""

import math

from ernie_deploy.bench.journal.record import Check, Evidence
from ernie_deploy.bench.journal.rows import rows
from ernie_deploy.bench.validity.basis import (
    EXACT,
    extra_chunks,
    hard,
    number,
    numbers,
    rehearsed,
    rows_of,
    same,
    soft,
    speculative,
)

# Ending, in a few ms, what the last token ended; and on a busy host more.
SLACK_S, SLACK_SHARE = 0.5, 0.01
MERGED_SHARE = 0.02
# From how many requests, none slower, the p99 is known at 99 % confidence: log(0.01) / log(0.99).
TAIL_REQUESTS = math.ceil(math.log(0.01) / math.log(0.99))
# Below as many the p99 lies between the two slowest requests.
P99_IS_SLOWEST = 100


def mean_latency_s(evidence: Evidence) -> float | None:
    """Mean end-to-end latency: printed, or put together from TTFT and TPOT where lengths are fixed."""
    printed = number(evidence, "mean_e2el_ms")
    parts = numbers(evidence, "mean_ttft_ms", "mean_tpot_ms")
    if printed is not None:
        return printed / 1000
    if parts is None or not evidence.cell.lengths_fixed:
        return None
    return (parts[0] + (evidence.cell.output_len - 1) * parts[1]) / 1000


def wall_time(evidence: Evidence) -> Check | None:
    """B1: a run lasts at least as long as its mean request."""
    latency_s, duration_s = mean_latency_s(evidence), number(evidence, "duration")
    if latency_s is None or duration_s is None:
        return None
    text = f"{duration_s:.3f} s in all, a mean request {latency_s:.3f} s"
    return hard("wall-time", text, ok=duration_s + _slack_s(evidence) >= latency_s)


def little(evidence: Evidence) -> Check | None:
    """B2 and B3: by Little's law no more requests in flight than there are, or than the client allows."""
    latency_s, values = mean_latency_s(evidence), numbers(evidence, "duration", "completed")
    if latency_s is None or values is None or values[0] <= evidence.rounding:
        return None
    in_flight = values[1] * (latency_s - _slack_s(evidence)) / (values[0] + evidence.rounding)
    limit = min(evidence.cell.num_prompts, evidence.cell.max_concurrency or math.inf)
    text = f"{values[1] * latency_s / values[0]:.2f} of at most {limit:g} requests in flight on average"
    return hard("little", text, ok=in_flight <= limit * (1 + EXACT))


def _slack_s(evidence: Evidence) -> float:
    """What printed rounding of TTFT and TPOT, in ms, may amount to in a latency, in s."""
    return EXACT + evidence.rounding * (1 + evidence.cell.output_len / 1000)


def send_span(evidence: Evidence) -> Check | None:
    """B4: the last request leaves at exactly n / rate, and no run ends before."""
    duration_s, rate = number(evidence, "duration"), evidence.cell.request_rate
    if duration_s is None or rate is None:
        return None
    span_s = evidence.cell.num_prompts / rate
    text = f"{duration_s:.3f} s in all, the last request left at {span_s:.3f} s"
    return hard("send-span", text, ok=duration_s + evidence.rounding >= span_s * (1 - SLACK_SHARE))


def last_token(evidence: Evidence) -> Check | None:
    """B5, where there are no lists: the run ends before a slowest request sent last would.

    B6 of the reference, the same with median ITL, is a reading and no bound.
    """
    cell, values = evidence.cell, numbers(evidence, "duration", "p99_ttft_ms", "p99_tpot_ms")
    if values is None or rows(evidence.figures) or cell.num_prompts >= P99_IS_SLOWEST or cell.max_concurrency:
        return None
    duration_s, ttft_ms, tpot_ms = values
    sent_s = cell.num_prompts / cell.request_rate if cell.request_rate else 0.0
    latest_s = sent_s + (ttft_ms + (cell.output_len - 1) * tpot_ms) / 1000
    text = f"{duration_s:.2f} s in all, the slowest request sent last would end at {latest_s:.2f} s"
    return soft("last-token", text, ok=duration_s <= latest_s * (1 + SLACK_SHARE) + SLACK_S)


def duration(evidence: Evidence) -> Check | None:
    """The wall time is what the requests took: from n / rate before the last send to the last token."""
    done, duration_s, cell = rows_of(evidence), number(evidence, "duration"), evidence.cell
    if len(done) != cell.num_prompts or duration_s is None:
        return None
    arrivals_s = [row.arrival_s for row in done]
    # The last of n requests is due after n / rate; all at once, the first one leaves with the clock's start.
    begun_s = max(arrivals_s) - cell.num_prompts / cell.request_rate if cell.request_rate else min(arrivals_s)
    took_s = max(row.end_s for row in done) - begun_s
    text = f"{duration_s:.3f} s in all, {took_s:.3f} s from the first send due to the last token"
    return hard("duration", text, ok=abs(duration_s - took_s) <= SLACK_S + SLACK_SHARE * took_s)


def latency_identity(evidence: Evidence) -> Check | None:
    """Mean latency = mean TTFT + (tokens - 1) x mean TPOT, exactly where all answers are as long."""
    values = numbers(evidence, "mean_e2el_ms", "mean_ttft_ms", "mean_tpot_ms")
    done = {row.output_tokens for row in rows_of(evidence)}
    if values is None or len(done) > 1 or not evidence.cell.lengths_fixed:
        return None
    latency, ttft, tpot = values
    put_together = ttft + (evidence.cell.output_len - 1) * tpot
    text = f"mean latency {latency:.3f} ms, from TTFT and TPOT {put_together:.3f} ms"
    return hard("latency-identity", text, ok=same(latency, put_together))


def merged_chunks(evidence: Evidence) -> Check | None:
    """C1: mean ITL = mean TPOT, unless stream events were merged; then ITL is not per token.

    Speculative decoding gives several tokens an event by intent, and a rehearsal's server is often behind.
    """
    ratio = _tokens_per_event(evidence)
    if ratio is None or rehearsed(evidence):
        return None
    drafts = speculative(evidence)
    text = f"{ratio:.3f} tokens a stream event{', from speculative decoding' if drafts else ''}"
    ok = 1 - MERGED_SHARE <= ratio <= (math.inf if drafts else 1 + MERGED_SHARE)
    return soft("merged-chunks", text if ok else f"{text}: ITL is not per token, compare TPOT", ok=ok)


def _tokens_per_event(evidence: Evidence) -> float | None:
    """From mean ITL over mean TPOT; where answers differ in length, as counted from their lists."""
    tokens, values = evidence.cell.output_len - 1, numbers(evidence, "mean_itl_ms", "mean_tpot_ms")
    if not evidence.cell.lengths_fixed:
        return evidence.derived.tokens_per_chunk if evidence.derived else None
    if values is None or values[1] <= 0 or not tokens:
        return None
    return values[0] / values[1] * (tokens + extra_chunks(evidence)) / tokens


def tail(evidence: Evidence) -> Check:
    """Says what a p99 of so few requests is worth: told with every record, held against none."""
    n = evidence.cell.num_prompts
    few = f"{n} requests: the p99 lies at the slowest ones, and takes {TAIL_REQUESTS} to be known"
    return soft("tail", few if n < TAIL_REQUESTS else f"{n} requests are enough for a p99", ok=True)
