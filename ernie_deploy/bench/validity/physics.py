"""Checks against what the hardware can do."""

from ernie_deploy.bench.journal.record import Check, Evidence
from ernie_deploy.bench.validity.basis import hard, number, rehearsed, rows_of, soft

UNIFORM_SHARE = 0.9


def collapsed_floor(evidence: Evidence) -> Check | None:
    """No step is faster than reading the weights of identical experts."""
    itl_ms = _median_itl_ms(evidence)
    if itl_ms is None or not evidence.floor:
        return None
    text = f"median ITL {itl_ms:.3f} ms, the memory needs {evidence.floor.collapsed_ms:.3f} ms at the least"
    return hard("physics-collapsed-floor", text, ok=itl_ms >= evidence.floor.collapsed_ms)


def uniform_floor(evidence: Evidence) -> Check | None:
    """Steps much faster than uniformly routed experts allow are possible, but want an explanation."""
    itl_ms = _median_itl_ms(evidence)
    if itl_ms is None or not evidence.floor:
        return None
    least = UNIFORM_SHARE * evidence.floor.uniform_ms
    text = f"median ITL {itl_ms:.3f} ms, with uniform routing {evidence.floor.uniform_ms:.3f} ms at full bandwidth"
    return soft("physics-uniform-floor", text, ok=itl_ms >= least)


def prefill_peak(evidence: Evidence) -> Check | None:
    """The prompts were not read faster than the matrix units can multiply."""
    done = rows_of(evidence)
    if not done or not evidence.floor or rehearsed(evidence):
        return None
    took_s = max(row.first_s for row in done) - min(row.start_s for row in done)
    known = evidence.derived.prefix_hit_share if evidence.derived else None
    least_s = evidence.floor.prefill_at_peak_s * (1 - (known or 0.0))
    text = f"{len(done)} prompts were read within {took_s:.3f} s, at peak {least_s:.3f} s"
    return hard("physics-prefill", text, ok=took_s >= least_s)


def _median_itl_ms(evidence: Evidence) -> float | None:
    return None if rehearsed(evidence) else number(evidence, "median_itl_ms")
