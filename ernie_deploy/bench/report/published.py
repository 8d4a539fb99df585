"""The figures of a published recipe beside the measured ones: shown, never a gate."""

from collections.abc import Iterator

from msgspec import Struct

from ernie_deploy.bench.compare.repeats import Group, Series
from ernie_deploy.bench.journal.figures import METRICS, P99_REQUESTS, Figure, figure
from ernie_deploy.bench.journal.record import Environment
from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.bench_schema import Baseline

COMPARED = (
    "output_throughput", "total_token_throughput", "request_throughput",
    "mean_ttft_ms", "median_ttft_ms", "p99_ttft_ms", "mean_tpot_ms", "median_tpot_ms", "p99_tpot_ms",
    "mean_itl_ms", "median_itl_ms",
)  # fmt: skip


class Side(Struct, frozen=True, kw_only=True):
    """One figure on both sides; `ratio` is measured over published."""

    key: str
    heading: str
    measured: Figure
    published: float
    ratio: float


class Published(Struct, frozen=True, kw_only=True):
    """One published block beside the cell that repeats it."""

    id: str
    source: str
    cell: str
    unknown: tuple[str, ...]
    sides: tuple[Side, ...]
    # Median ITL of either side over the decode floor of this GPU.
    floor_ms: float | None
    measured_over_floor: float | None
    published_over_floor: float | None


def published(measured: Series) -> Iterator[Published]:
    """Each published block whose model, lengths, num-prompts and rate were measured; none for a rehearsal."""
    if measured.environment.rehearsal:
        return
    for baseline in _of_model(measured.environment):
        for group in measured.groups:
            if group.usable and _same_load(baseline, group):
                yield _beside(baseline, group)


def _of_model(environment: Environment) -> list[Baseline]:
    catalog = Catalog()
    return [
        baseline
        for baseline in catalog.baselines
        if baseline.model == environment.model or catalog.model(baseline.model).hf_id == environment.hf_id
    ]


def _same_load(baseline: Baseline, group: Group) -> bool:
    cell = group.cell
    asked = {
        "random_input_len": cell.input_len,
        "random_output_len": cell.output_len,
        "num_prompts": cell.num_prompts,
        "request_rate": cell.request_rate,
    }
    return cell.dataset == "random" and cell.max_concurrency is None and asked == baseline.cell


def _beside(baseline: Baseline, group: Group) -> Published:
    floor, itl = figure(group.usable, "floor_ms"), figure(group.usable, "median_itl_ms")
    floor_ms = floor.median if floor else None
    first, last = baseline.lines
    return Published(
        id=baseline.id,
        source=f"{baseline.recipe}, lines {first} to {last}",
        cell=group.name,
        unknown=tuple(baseline.unknown),
        sides=tuple(_sides(baseline, group)),
        floor_ms=floor_ms,
        measured_over_floor=itl.median / floor_ms if itl and floor_ms else None,
        published_over_floor=baseline.figures["median_itl_ms"] / floor_ms if floor_ms else None,
    )


def _sides(baseline: Baseline, group: Group) -> Iterator[Side]:
    for key in COMPARED:
        theirs, ours = baseline.figures.get(key), figure(group.usable, key)
        if theirs and ours:
            yield Side(
                key=key, heading=_heading(key, group.cell.num_prompts), measured=ours, published=theirs,
                ratio=ours.median / theirs,
            )  # fmt: skip


def _heading(key: str, requests: int) -> str:
    """The metric with its unit; a p99 of few requests says of how few."""
    few = key.startswith("p99") and requests < P99_REQUESTS
    return METRICS[key].title.replace("p99", f"p99 of only {requests}") if few else METRICS[key].title
