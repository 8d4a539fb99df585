"""`bench search`: the highest concurrency that still meets latency limits."""

import sys
from typing import TYPE_CHECKING, Any

from ernie_deploy.errors import BenchInvalid

if TYPE_CHECKING:
    from ernie_deploy.bench.journal.record import Attempt
    from ernie_deploy.bench.measure.run import Runner


def searched(
    slo_ms: dict[str, float], shape: str, share: float, most: int, options: dict[str, Any]
) -> dict[str, Any]:
    """Probe and return the answer with every probe; raises `BenchInvalid` where a probe proves nothing."""
    from ernie_deploy.bench.journal import store
    from ernie_deploy.bench.journal.cells import lengths_of
    from ernie_deploy.bench.measure.run import Runner
    from ernie_deploy.bench.measure.search import highest, probe, share_met
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.commands.bench import end_as_ctrl_c_does, feasible, run_options_of
    from ernie_deploy.commands.bench_progress import reporting
    from ernie_deploy.commands.bench_stack import deployment_of, plan_of

    end_as_ctrl_c_does()
    lengths, plan = lengths_of(shape, Catalog().matrix), plan_of(options)
    feasible([probe(lengths, 1, slo_ms)], plan)
    deployment = deployment_of(options)
    path, probes = options["results"] / store.NAME, dict[int, float]()
    with store.writing(path) as writer, reporting(sys.stderr) as reporter:
        runner = Runner(deployment, run_options_of(plan, options), writer, store.read(path), reporter)

        def meets(concurrency: int) -> bool:
            probes[concurrency] = share_met(_proven(runner, probe(lengths, concurrency, slo_ms)))
            return probes[concurrency] >= share

        highest_met = highest(meets, most)
    return {"concurrency": highest_met, "slo_ms": slo_ms, "shape": shape, "share": share, "probes": probes,
            "sentence": _sentence(highest_met, most, probes)}  # fmt: skip


def _proven(runner: "Runner", cell: Any) -> "Attempt":
    done = next(iter(runner.measure([cell])))
    if done.status not in ("valid", "suspect"):
        raise BenchInvalid(
            f"The probe {cell.name} is {done.status}, so the search has no answer.",
            cause="; ".join(done.reasons)[:200],
            next_step="see each failed check with: ernie-deploy bench report",
        )
    return done


def _sentence(concurrency: int, most: int, probes: dict[int, float]) -> str:
    if not concurrency:
        return f"Not even one request at a time meets the limits ({probes[1]:.1%} of the requests did)."
    bound = ", the most that was tried" if concurrency == most else ""
    return f"{concurrency} concurrent requests meet the limits ({probes[concurrency]:.1%} of the requests){bound}."
