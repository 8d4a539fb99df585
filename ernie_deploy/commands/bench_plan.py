"""What the catalog knows of a benchmark before it runs: minutes, feasibility, and what to ask first."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from ernie_deploy.bench.journal.record import Cell, Environment
from ernie_deploy.bench.measure import estimate

if TYPE_CHECKING:
    from ernie_deploy.bench.measure.deployment import Deployment
    from ernie_deploy.bench.measure.run import Coherence
    from ernie_deploy.plan.plan import Plan


class Row(Struct, frozen=True, kw_only=True):
    """A cell, its estimated minutes (None: GPU unknown), what to know of it, and why it cannot be ('': it can)."""

    cell: Cell
    minutes: float | None
    note: str = ""
    refused: str = ""


def rows_of(cells: Sequence[Cell], plan: "Plan | None") -> list[Row]:
    """What is to be expected of each cell."""
    return [_row(cell, plan) for cell in cells]


def as_text(rows: Sequence[Row]) -> str:
    """A line a cell, and the sum."""
    lines = [f"{row.cell.name:<32} {_minutes(row.minutes):>9}  {_remark(row)}".rstrip() for row in rows]
    known = [row.minutes for row in rows if row.minutes is not None and not row.refused]
    possible = [row for row in rows if not row.refused]
    total = f", about {sum(known):.0f} min of load (estimated)" if known else ""
    restarts = sum(row.cell.cold == "restart" for row in possible)
    lines.append(f"{len(possible)} of {len(rows)} cells{total}")
    if restarts:
        lines.append(f"and {restarts} restart{'s' * (restarts != 1)} of the server")
    return "\n".join(lines)


def as_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same as plain data."""
    import msgspec

    return [
        {"cell": msgspec.to_builtins(row.cell), "estimated_minutes": row.minutes, "note": row.note, "refused": row.refused}
        for row in rows
    ]  # fmt: skip


def coherence_of(plan: "Plan | None", options: dict[str, Any]) -> "Coherence":
    """What to ask a server before its first cell."""
    from ernie_deploy.bench.measure.coherence import require

    vision = options.get("dataset") == "random-mm"
    chat = not (plan.model.id if plan else options["model"]).endswith("-base")

    def ask(deployment: "Deployment", environment: Environment) -> str:
        name = deployment.endpoint.model_card().id
        return require(deployment.endpoint, name, environment, chat=chat, vision=vision)

    return ask


def _row(cell: Cell, plan: "Plan | None") -> Row:
    if plan is None:
        return Row(cell=cell, minutes=None, note="no estimate: neither file nor --target says what serves")
    served = _served(plan)
    refused = estimate.feasible(cell, served.kv_cache_tokens, plan.memory.context_tokens)
    if cell.dataset == "random-mm" and plan.model.vision is None:
        refused = f"{plan.model.id} sees no images"
    return Row(
        cell=cell,
        minutes=None if refused else estimate.minutes(cell, plan.model, plan.target, served),
        note=estimate.queueing(cell, served.kv_cache_tokens),
        refused=refused,
    )


def _served(plan: "Plan") -> estimate.Served:
    """The plan's stack; its memory plan counts one replica."""
    quantization = plan.setting("quantization")
    return estimate.Served(
        topology=plan.topology,
        kv_cache_tokens=plan.memory.kv_cache_tokens * plan.topology.data_parallel_size,
        fp8=quantization is not None and str(quantization.value).startswith("fp8"),
    )


def _remark(row: Row) -> str:
    return f"refused: {row.refused}" if row.refused else row.note


def _minutes(minutes: float | None) -> str:
    return "" if minutes is None else f"{minutes:.1f} min"
