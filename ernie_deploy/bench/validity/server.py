"""Checks against the server's own counters, which the client cannot get wrong."""

from itertools import pairwise

from ernie_deploy.bench.journal.record import Check, Evidence, Server
from ernie_deploy.bench.journal.rows import rows
from ernie_deploy.bench.validity.basis import (
    EXACT,
    KV_FULL,
    differing,
    hard,
    listed,
    number,
    rows_of,
    same,
    soft,
)

PROMPT_TOLERANCE = 0.01
# A health check asks one token with a prompt of a few.
CANARY_PROMPT_TOKENS = 64
SEEDED_LIMIT, EMPTY_LIMIT = 0.02, 0.005


def counters_rise(evidence: Evidence) -> Check | None:
    """No counter falls; one that does tells of a server that was started anew."""
    if not (server := evidence.server):
        return None
    faults = [
        f"{name} fell from {value:g} to {server.after.get(name)}"
        for name, value in server.before.items()
        if not server.after.get(name, -1.0) >= value >= 0
    ]
    return listed("counters-rise", faults, f"{len(server.before)} counters of the server only rose")


def generation_tokens(evidence: Evidence) -> Check | None:
    """The server gave exactly the tokens that the client counted, and one for each canary."""
    moved, total = _moved(evidence, "generation_tokens"), number(evidence, "total_output_tokens")
    if moved is None or total is None or not evidence.server:
        return None
    want = total + evidence.server.canary_requests
    text = f"the server gave {moved:,.0f} tokens, the client counted {total:,.0f}{_canaries(evidence.server)}"
    return hard("server-generation-tokens", text, ok=moved == want)


def prompt_tokens(evidence: Evidence) -> Check | None:
    """The server read the prompts that the client counted."""
    moved, total = _moved(evidence, "prompt_tokens"), number(evidence, "total_input_tokens")
    if moved is None or total is None or not evidence.server:
        return None
    most = total * (1 + PROMPT_TOLERANCE) + CANARY_PROMPT_TOKENS * evidence.server.canary_requests
    text = f"the server read {moved:,.0f} prompt tokens, the client counted {total:,.0f}"
    return hard("server-prompt-tokens", text, ok=total * (1 - PROMPT_TOLERANCE) <= moved <= most)


def finished(evidence: Evidence) -> Check | None:
    """Every request ran to its length; ignore_eos leaves no other good end."""
    if not (server := evidence.server):
        return None
    want = evidence.cell.num_prompts + server.canary_requests
    wanted = {"request_success": want}
    if evidence.cell.lengths_fixed:
        wanted |= {"request_success_length": want, "request_success_stop": 0}
    moved = {name: server.delta(name) for name in wanted}
    known = {name: value for name, value in moved.items() if value is not None}
    good = f"{want} requests ended as asked for{_canaries(server)}"
    return listed("server-finished", differing(known, wanted), good) if known else None


def aborted(evidence: Evidence) -> Check | None:
    """No request was aborted or failed on the server."""
    counts = [_moved(evidence, f"request_success_{reason}") for reason in ("abort", "error")]
    if all(count is None for count in counts):
        return None
    abort, error = (count or 0.0 for count in counts)
    return hard("server-aborted", f"{abort:g} requests aborted, {error:g} failed", ok=abort == error == 0)


def warm_cache(evidence: Evidence) -> Check | None:
    """How much of the prompts the prefix cache knew already: the proof that a cell was measured cold.

    Texts of a data set may share by nature, and its cells draw from one file: with a seed alone that is not
    told from an earlier cell's leavings, so it is suspect; after a reset or restart it is the data's own.
    """
    if not (server := evidence.server):
        return None
    hits, queries = server.delta("prefix_cache_hits"), server.delta("prefix_cache_queries")
    if hits is None or queries is None:
        return soft(
            "warm-cache", "the server has no prefix-cache counters, so a cold cache is not proven", ok=False
        )
    cell, part = evidence.cell, hits / queries if queries else 0.0
    seeded = cell.cold == "seed" and cell.preset != "published"
    limit = SEEDED_LIMIT if seeded else EMPTY_LIMIT
    text = f"{part:.2%} of {queries:,.0f} prompt tokens came from the prefix cache, allowed {limit:.1%}"
    if cell.lengths_fixed:
        return hard("warm-cache", text, ok=0 <= part <= limit)
    return soft(
        "warm-cache", f"{text}; texts of {cell.dataset} share some by nature", ok=not seeded or part <= limit
    )


def prefix_queries(evidence: Evidence) -> Check | None:
    """Every prompt token was looked up in the prefix cache, where there is one."""
    queries, read = _moved(evidence, "prefix_cache_queries"), _moved(evidence, "prompt_tokens")
    if not queries or not read:
        return None
    text = f"{queries:,.0f} tokens looked up in the prefix cache, {read:,.0f} prompt tokens read"
    return soft("prefix-queries", text, ok=abs(queries - read) <= PROMPT_TOLERANCE * read)


def preemptions(evidence: Evidence) -> Check | None:
    """Requests are preempted only where the KV cache is full."""
    moved = _moved(evidence, "num_preemptions")
    if moved is None or not evidence.server:
        return None
    peak = max((sample.kv_cache_use for sample in evidence.server.samples), default=1.0)
    text = f"{moved:g} preemptions, the KV cache was {peak:.0%} full at most"
    return soft("preemptions", text, ok=not moved or peak >= KV_FULL)


def samples(evidence: Evidence) -> Check | None:
    """What was seen of the server meanwhile fits what it counted and what the client had in flight."""
    if not evidence.server or not (seen := evidence.server.samples):
        return None
    server, most = evidence.server, evidence.derived.peak_concurrency if evidence.derived else float("inf")
    low, high = (
        server.before.get("generation_tokens", 0.0),
        server.after.get("generation_tokens", float("inf")),
    )
    faults = [
        f"time went back at {b.elapsed_s:.1f} s" for a, b in pairwise(seen) if b.elapsed_s < a.elapsed_s
    ]
    faults += [
        f"at {b.elapsed_s:.1f} s {b.generation_tokens:,.0f} tokens after {a.generation_tokens:,.0f}"
        for a, b in pairwise(seen)
        if b.generation_tokens < a.generation_tokens - EXACT
    ]
    for sample in seen:
        held = sample.running + sample.waiting
        if sample.running < 0 or sample.waiting < 0 or held > most + server.canary_requests:
            faults.append(f"at {sample.elapsed_s:.1f} s {held:g} requests, in flight were {most} at most")
        if not 0 <= sample.kv_cache_use <= 1 or not low - 1 <= sample.generation_tokens <= high + 1:
            faults.append(
                f"at {sample.elapsed_s:.1f} s {sample.generation_tokens:,.0f} tokens of {low:g} to {high:g}"
            )
    return listed("samples", faults, f"{len(seen)} samples fit the counters", level="soft")


def speculation(evidence: Evidence) -> Check | None:
    """The client's figures of speculative decoding agree with each other and with the server."""
    recorded = {key: value for key, value in evidence.figures.items() if key.startswith("spec_decode_")}
    drafts, accepted = recorded.get("spec_decode_num_drafts"), recorded.get("spec_decode_accepted_tokens")
    if not drafts or accepted is None:
        return None
    wanted = {
        "spec_decode_acceptance_length": 1 + accepted / drafts,
        "spec_decode_acceptance_rate": 100 * accepted / recorded["spec_decode_draft_tokens"],
    }
    faults = differing({name: recorded[name] for name in wanted}, wanted)
    by_position = sum(recorded.get("spec_decode_per_position_acceptance_rates") or [accepted / drafts])
    faults += (
        [] if same(by_position, accepted / drafts) else [f"by position {by_position:.4f} accepted a draft"]
    )
    faults += _speculation_of_server(evidence, drafts, accepted)
    return listed("speculation", faults, f"{accepted:,} tokens accepted in {drafts:,} drafts", level="soft")


def _speculation_of_server(evidence: Evidence, drafts: float, accepted: float) -> list[str]:
    """The client reads the same counters; a canary between the two readings moves them by a token."""
    counted = {"spec_decode_num_drafts": drafts, "spec_decode_num_accepted_tokens": accepted}
    off = evidence.server.canary_requests if evidence.server else 0
    return [
        f"{name} moved by {moved:g}, the client has {value:g}"
        for name, value in counted.items()
        if (moved := _moved(evidence, name)) is not None and abs(moved - value) > off
    ]


def completed_rows(evidence: Evidence) -> Check | None:
    """As many requests with tokens as the client calls completed."""
    printed, every = number(evidence, "completed"), rows(evidence.figures)
    if printed is None or not every:
        return None
    done = len(rows_of(evidence))
    return hard("completed-rows", f"{done} requests have tokens, {printed:g} completed", ok=done == printed)


def _moved(evidence: Evidence, name: str) -> float | None:
    return evidence.server.delta(name) if evidence.server else None


def _canaries(server: Server) -> str:
    return f", {server.canary_requests} for the health check" if server.canary_requests else ""
