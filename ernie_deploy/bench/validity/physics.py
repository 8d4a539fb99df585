"""Checks against what the hardware can do, and of the figures the kit itself derived."""

from msgspec.structs import asdict

from ernie_deploy.bench.journal import roofline
from ernie_deploy.bench.journal.derive import derive
from ernie_deploy.bench.journal.record import Check, Evidence
from ernie_deploy.bench.validity.basis import differing, hard, listed, number, rehearsed, rows_of, soft

UNIFORM_SHARE = 0.9


def collapsed_floor(evidence: Evidence) -> Check | None:
    """No step is faster than reading the weights of identical experts."""
    found = _median_itl_ms(evidence)
    if found is None or not evidence.floor:
        return None
    text = f"median ITL {found:.3f} ms, the memory needs {evidence.floor.collapsed_ms:.3f} ms at the least"
    return hard("physics-collapsed-floor", text, ok=found >= evidence.floor.collapsed_ms)


def uniform_floor(evidence: Evidence) -> Check | None:
    """Steps much faster than uniformly routed experts allow are possible, but want an explanation."""
    found = _median_itl_ms(evidence)
    if found is None or not evidence.floor:
        return None
    least = UNIFORM_SHARE * evidence.floor.uniform_ms
    text = f"median ITL {found:.3f} ms, with uniform routing {evidence.floor.uniform_ms:.3f} ms at full bandwidth"
    return soft("physics-uniform-floor", text, ok=found >= least)


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


def floor(evidence: Evidence) -> Check | None:
    """The floor is that of this stack and cell."""
    if not evidence.floor or not evidence.environment:
        return None
    if not (computed := roofline.of(evidence.cell, evidence.figures, evidence.environment)):
        return None
    faults = differing(asdict(evidence.floor), asdict(computed))
    return listed("floor", faults, f"{computed.uniform_ms:.3f} ms for a batch of {computed.batch:.1f}")


def derived(evidence: Evidence) -> Check | None:
    """The derived figures compute to the same again; the send lag only where the seed is known."""
    if not evidence.derived:
        return None
    again = derive(evidence.figures, evidence.itl, evidence.server, evidence.environment, seed=evidence.seed)
    recorded, computed = asdict(evidence.derived), asdict(again)
    if computed["send_lag_p99_ms"] is None:
        del recorded["send_lag_p99_ms"]
    return listed(
        "derived", differing(recorded, computed), f"{len(recorded)} derived figures compute to the same"
    )


def _median_itl_ms(evidence: Evidence) -> float | None:
    return None if rehearsed(evidence) else number(evidence, "median_itl_ms")
