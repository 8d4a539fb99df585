"""Alerts on what the servers stand on: the GPUs and the disks, and on exporters that fell silent."""

from collections.abc import Collection, Iterator

from ernie_deploy.catalog.vendor_schema import GpuMetrics
from ernie_deploy.monitoring.gpus import of_cards
from ernie_deploy.monitoring.rule import Alert
from ernie_deploy.plan.plan import Plan

# The stack's volumes, as the node exporter has them.
DISKS = 'job="node",mountpoint=~"/disk/.*"'
WEIGHTS = 'job="node",mountpoint="/disk/weights"'
AVAILABLE = f"node_filesystem_avail_bytes{{{DISKS}}}"
LEAST_SHARE = 0.05
# As `fetch` asks for, too: downloads lie beside the files for a moment.
ROOM = 1.1


def alerts(plan: Plan, jobs: Collection[str]) -> Iterator[Alert]:
    """Those of the exporters that the stack has, and of the port that shows the gateway's certificate."""
    if "gpu" in jobs and plan.vendor.gpu_metrics:
        yield _gpu(plan, plan.vendor.gpu_metrics)
    if "node" in jobs:
        yield from _disks(plan)
    if exporters := [job for job in ("gpu", "node", "certificate") if job in jobs]:
        yield _silent("|".join(exporters))


def _gpu(plan: Plan, metrics: GpuMetrics) -> Alert:
    cards = len(plan.gpu_ids)
    return Alert(
        name="ErnieGpuError",
        expr=of_cards(plan, "\nor ".join(metrics.errors), 'job="gpu"'),
        hold="0m",
        severity="critical",
        summary="A GPU of {{ $labels.instance }} reports an error that does not heal by itself",
        description=f"GPU {{{{ $labels.{metrics.card_label} }}}}: {{{{ $value }}}} (an Xid, or a count of uncorrectable errors)."
        f" The stack takes {cards} {'GPU' if cards == 1 else 'GPUs'}, and a restart on a broken one is a loop.",
    )


def _disks(plan: Plan) -> Iterator[Alert]:
    weights = round(ROOM * plan.weight_bytes)
    size = f"{weights / 1e9:.0f} GB"
    yield Alert(
        name="ErnieDiskFull",
        expr=f"{AVAILABLE} / node_filesystem_size_bytes{{{DISKS}}} < {LEAST_SHARE}\n"
        f"or (\n  {AVAILABLE} < {weights}\n  and predict_linear({AVAILABLE}[1h], 4 * 3600) < 0\n)",
        # A file that is written and removed at once, such as an image layer, has gone by then.
        hold="10m",
        severity="warning",
        summary="The disk {{ $labels.mountpoint }} of {{ $labels.instance }} is nearly full",
        description=f"Less than {LEAST_SHARE:.0%} of it is free, or less than the {size} of one set of weights and it will"
        " be full within four hours at the pace of the last. A full disk ends Prometheus, the log and the next start.",
    )
    if plan.request.weights:
        return
    yield Alert(
        name="ErnieNoRoomForWeights",
        # Where nothing is written, the weights are there already and the server loads them.
        expr=f"max_over_time(node_filesystem_avail_bytes{{{WEIGHTS}}}[1d]) < {weights}\n"
        f"and deriv(node_filesystem_avail_bytes{{{WEIGHTS}}}[10m]) < 0\n"
        'and on () max(max_over_time(up{job="vllm"}[1d])) == 0',
        hold="10m",
        severity="critical",
        summary="The disk of the weights has no room for them",
        description=f"{{{{ $value | humanize1024 }}}}B were free at the best of the last day, {size} are needed"
        f" ({plan.weight_bytes / 1e9:.0f} GB of {plan.model.id} and a tenth): the disk will be full before they are there.",
    )


def _silent(jobs: str) -> Alert:
    return Alert(
        name="ErnieExporterDown",
        expr=f'up{{job=~"{jobs}"}} == 0',
        hold="5m",
        severity="warning",
        summary="The job {{ $labels.job }} does not answer Prometheus",
        description="It has missed 20 scrapes. Until it answers, no alert on what it shows"
        " ({{ $labels.job }}) can fire.",
    )
