"""What watches a stack: which services, by which images, and which requests they cannot be part of."""

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.monitoring_schema import Exporter
from ernie_deploy.catalog.schema import Target
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.sources import image

HOST = "node-exporter"
# The service that each job of Prometheus asks, beside those that the stack has anyway.
JOBS = {"dcgm-exporter": "gpu", "device-metrics-exporter": "gpu", HOST: "node"}


def exporters_of(catalog: Catalog, request: Request, target: Target) -> tuple[Exporter, ...]:
    """The services of `--monitoring` on a target, their images as they are rendered; none without it."""
    if not request.monitoring:
        return ()
    return tuple(
        replace(one, reference=image(one.reference, request))
        for one in catalog.exporters
        if one.vendor in ("", target.vendor) and (one.id != HOST or request.node_exporter)
    )


def check_monitoring(request: Request) -> None:
    """Refuse what Prometheus in the stack could not reach; raises `UsageError` or `Refused`."""
    if request.node_exporter and not request.monitoring:
        raise UsageError(
            "--node-exporter is a part of --monitoring.", next_step="add --monitoring, or leave it out"
        )
    watched = {
        "--slo": request.slo,
        "--gpu-price": request.gpu_price,
        "--baseline": request.baseline,
        "--runbooks": request.runbooks,
    }
    if alone := [name for name, value in watched.items() if value and not request.monitoring]:
        raise UsageError(
            f"{alone[0]} is for the alerts and the dashboard of --monitoring.",
            next_step="add --monitoring, or leave it out",
        )
    if request.monitoring and request.upstreams:
        raise Refused(
            "--monitoring is not made for a gateway whose servers are elsewhere.",
            cause="the stack's Prometheus can reach neither them nor their GPUs",
            next_step="leave it out here, and add it where a server runs: ernie-deploy init DIR TARGET --monitoring",
        )
    if request.monitoring and request.nodes > 1:
        raise Refused(
            "--monitoring is not made for a server over several nodes.",
            cause="its ranks are on the hosts' networks, and a Prometheus on the stack's own network reaches none of them",
            next_step="leave it out, and let a Prometheus of your network scrape BIND_ADDR:PORT of the head",
        )
