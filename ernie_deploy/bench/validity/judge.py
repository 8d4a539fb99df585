"""All checks in the order they are told, the status they amount to, and a published block as evidence."""

from collections.abc import Sequence

from ernie_deploy.bench.journal.record import Cell, Check, Evidence, Status
from ernie_deploy.bench.validity import bounds, per_request, physics, recomputed, server, totals
from ernie_deploy.bench.validity.basis import Judgement
from ernie_deploy.catalog.bench_schema import Baseline

# Half a unit of the last digit that vLLM's console prints.
PRINTED_ROUNDING = 0.005

CHECKS: tuple[Judgement, ...] = (
    totals.completed, totals.output_tokens, totals.input_tokens,
    totals.request_throughput, totals.output_throughput, totals.total_throughput,
    totals.settings, totals.positive, totals.ordering,
    bounds.wall_time, bounds.little, bounds.send_span, bounds.last_token, bounds.duration,
    bounds.latency_identity, bounds.merged_chunks, bounds.tail,
    recomputed.ttft, recomputed.tpot, recomputed.itl, recomputed.latency, recomputed.queue,
    recomputed.latency_with_queue, recomputed.max_concurrent_requests, recomputed.max_output_tokens,
    recomputed.goodput,
    per_request.list_lengths, per_request.output_lengths, per_request.input_lengths, per_request.request_times,
    per_request.latency_parts, per_request.chunk_counts, per_request.errors, per_request.start_times,
    per_request.send_lag, per_request.queue_times,
    server.completed_rows, server.counters_rise, server.generation_tokens, server.prompt_tokens, server.finished,
    server.aborted, server.warm_cache, server.prefix_queries, server.preemptions, server.samples, server.speculation,
    physics.collapsed_floor, physics.uniform_floor, physics.prefill_peak,
)  # fmt: skip


def judge(evidence: Evidence) -> tuple[Check, ...]:
    """Every check that applies."""
    verdicts = (check(evidence) for check in CHECKS)
    return tuple(check for check in verdicts if check is not None)


def status_of(checks: Sequence[Check]) -> Status:
    """Invalid where a hard check failed, suspect where a soft one did."""
    failed = {check.level for check in checks if not check.ok}
    return "invalid" if "hard" in failed else "suspect" if failed else "valid"


def published_evidence(baseline: Baseline) -> Evidence:
    """A published result block as the checks take it: rounded figures, nothing else known."""
    cell = baseline.cell
    renamed = {"duration_s": "duration"}
    return Evidence(
        cell=Cell(
            shape=baseline.id, input_len=int(cell["random_input_len"]), output_len=int(cell["random_output_len"]),
            num_prompts=int(cell["num_prompts"]), request_rate=float(cell["request_rate"]), preset="published",
        ),
        figures={renamed.get(name, name): value for name, value in baseline.figures.items()},
        rounding=PRINTED_ROUNDING,
    )  # fmt: skip
