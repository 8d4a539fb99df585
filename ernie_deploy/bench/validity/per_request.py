"""Checks of the single requests: their lengths, times, chunks, errors, and when the client sent them."""

from itertools import pairwise

from ernie_deploy.bench.journal.record import Check, Evidence
from ernie_deploy.bench.journal.rows import LISTS, rows
from ernie_deploy.bench.validity.basis import (
    EXACT,
    extra_chunks,
    hard,
    listed,
    number,
    rehearsed,
    rows_of,
    soft,
)

# The client reads its clock between the parts, and between two sends.
CLOCK_S = 0.001
# What sending one request takes the client, at most: 0.35 ms were seen for 40 KB on a busy machine.
SENDING_S = 0.001
LAG_MS, HELD_S = 10.0, 0.1
# Client and server of a rehearsal share two cores.
REHEARSAL_LAG_MS, REHEARSAL_HELD_S = 2000.0, 5.0


def list_lengths(evidence: Evidence) -> Check | None:
    """Every list has one entry a request."""
    lists = {name: evidence.figures[name] for name in (*LISTS, "queue_times") if name in evidence.figures}
    if evidence.itl:
        lists |= {"gaps' counts": evidence.itl.counts, "gaps' sums": evidence.itl.sums_s}
    if not lists:
        return None
    n = evidence.cell.num_prompts
    faults = [
        f"{name} has {len(values)} entries of {n}" for name, values in lists.items() if len(values) != n
    ]
    faults += [f"{name} is missing" for name in LISTS if name not in evidence.figures]
    return listed("list-lengths", faults, f"{len(lists)} lists of {n} requests")


def output_lengths(evidence: Evidence) -> Check | None:
    """Every answer is as long as asked for, and together they are the total."""
    lengths = evidence.figures.get("output_lens")
    if not isinstance(lengths, list):
        return None
    want, total = evidence.cell.output_len, number(evidence, "total_output_tokens")
    wrong = [n for n in lengths if n != want] if evidence.cell.lengths_fixed else []
    faults = (
        [f"{len(wrong)} answers are not {want} tokens long, but {min(wrong)} to {max(wrong)}"]
        if wrong
        else []
    )
    faults += (
        [] if sum(lengths) == total else [f"the answers have {sum(lengths):,} tokens, the total {total}"]
    )
    return listed("output-lengths", faults, f"{len(lengths)} answers of {sum(lengths):,} tokens")


def input_lengths(evidence: Evidence) -> Check | None:
    """The completed prompts are together the total."""
    if not (done := rows_of(evidence)):
        return None
    total, printed = sum(row.input_tokens for row in done), number(evidence, "total_input_tokens")
    text = f"{len(done)} prompts of {total:,} tokens, the total is {printed or 0:,.0f}"
    return hard("input-lengths", text, ok=total == printed)


def request_times(evidence: Evidence) -> Check | None:
    """A first token comes after the request, and the last no earlier than the first."""
    if not (done := rows_of(evidence)):
        return None
    faults = [
        f"request {row.index} has TTFT {row.ttft_s:.4f} s and latency {row.latency_s:.4f} s"
        for row in done
        if not 0 < row.ttft_s <= row.latency_s + EXACT
    ]
    return listed("request-times", faults, f"TTFT and latency of {len(done)} requests are in order")


def latency_parts(evidence: Evidence) -> Check | None:
    """Latency is TTFT and the gaps, request by request."""
    done, kept = rows_of(evidence), evidence.itl
    if not done or not kept or len(kept.sums_s) != len(rows(evidence.figures)):
        return None
    faults = [
        f"request {row.index} took {row.latency_s:.4f} s, its parts {row.ttft_s + kept.sums_s[row.index]:.4f} s"
        for row in done
        if abs(row.latency_s - row.ttft_s - kept.sums_s[row.index]) > CLOCK_S
    ]
    return listed("latency-parts", faults, f"TTFT and gaps make up the latency of {len(done)} requests")


def chunk_counts(evidence: Evidence) -> Check | None:
    """No more gaps than tokens, and the histogram holds them all."""
    done, kept = rows_of(evidence), evidence.itl
    if not done or not kept or len(kept.counts) != len(rows(evidence.figures)):
        return None
    extra = extra_chunks(evidence)
    faults = [
        f"request {row.index} has {kept.counts[row.index]} gaps for {row.output_tokens} tokens"
        for row in done
        if not 0 <= kept.counts[row.index] < row.output_tokens + extra
    ]
    binned, counted = sum(kept.histogram.values()), sum(kept.counts)
    faults += [f"the histogram holds {binned:,} gaps of {counted:,}"] if binned != counted else []
    return listed("chunk-counts", faults, f"{counted:,} gaps between stream events, all in the histogram")


def errors(evidence: Evidence) -> Check | None:
    """No request has an error."""
    messages = evidence.figures.get("errors")
    if not isinstance(messages, list):
        return None
    faults = [
        f"request {i}: {str(error).strip().splitlines()[-1]}"
        for i, error in enumerate(messages)
        if str(error).strip()
    ]
    return listed("errors", faults, f"none of {len(messages)} requests has an error")


def start_times(evidence: Evidence) -> Check | None:
    """Requests are sent in order, within n / rate."""
    arrivals = [row.arrival_s for row in rows_of(evidence)]
    if not arrivals:
        return None
    faults = [f"request sent at {b:.4f} s after {a:.4f} s" for a, b in pairwise(arrivals) if b < a - CLOCK_S]
    span_s, rate = max(arrivals) - min(arrivals), evidence.cell.request_rate
    # A rate that no client can keep is as long as its sending takes.
    sending_s = evidence.cell.num_prompts * SENDING_S
    limit_s = (
        evidence.cell.num_prompts / rate + _lag_ms(evidence) / 1000 + sending_s if rate else float("inf")
    )
    faults += [f"{span_s:.3f} s from first send to last, at most {limit_s:.3f} s"] if span_s > limit_s else []
    return listed("start-times", faults, f"{len(arrivals)} requests sent in order within {span_s:.3f} s")


def send_lag(evidence: Evidence) -> Check | None:
    """The client kept its schedule; where it did not, it is the client that was measured."""
    lag_ms = evidence.derived.send_lag_p99_ms if evidence.derived else None
    if lag_ms is None:
        return None
    rate, sending_ms = evidence.cell.request_rate, evidence.cell.num_prompts * SENDING_S * 1000
    # Where requests are due faster than any client sends, it is late by what sending takes.
    allowed_ms = _lag_ms(evidence) + (sending_ms if rate and rate * SENDING_S > 1 else 0.0)
    text = f"the client sent up to {lag_ms:.2f} ms late (p99), allowed {allowed_ms:g} ms"
    return soft("send-lag", text, ok=lag_ms <= allowed_ms)


def queue_times(evidence: Evidence) -> Check | None:
    """The client holds nothing back unless its concurrency is limited."""
    held = evidence.figures.get("queue_times")
    if not isinstance(held, list) or not held:
        return None
    limited = evidence.cell.max_concurrency is not None or evidence.cell.request_rate is None
    limit_s = float("inf") if limited else REHEARSAL_HELD_S if rehearsed(evidence) else HELD_S
    text = f"the client held requests back for {min(held):.4f} to {max(held):.4f} s"
    return soft("queue-times", text, ok=min(held) >= -EXACT and max(held) <= limit_s)


def _lag_ms(evidence: Evidence) -> float:
    return REHEARSAL_LAG_MS if rehearsed(evidence) else LAG_MS
