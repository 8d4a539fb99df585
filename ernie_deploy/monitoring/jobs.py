"""Whom Prometheus asks in one stack, and how often."""

from msgspec import Struct

from ernie_deploy.plan.gateway import CERTIFICATE_PORT, OWN_PORT
from ernie_deploy.plan.monitoring import JOBS
from ernie_deploy.plan.plan import Plan

INTERVAL_S = 15
SERVE = "serve:8000"


class Job(Struct, frozen=True):
    """One job of Prometheus and the addresses that it asks at /metrics; `tls` for one that is asked for its certificate."""

    name: str
    targets: tuple[str, ...]
    tls: bool = False


def jobs_of(plan: Plan) -> tuple[Job, ...]:
    """The jobs of a stack with --monitoring: its servers, its gateway, the exporters and Prometheus itself."""
    gateway = plan.gateway
    servers = tuple(server.address for server in gateway.servers) if gateway else (SERVE,)
    jobs = [Job("vllm", servers)]
    jobs += [Job("gateway", (f"gateway:{OWN_PORT}",))] if gateway else []
    jobs += [Job("certificate", (f"gateway:{CERTIFICATE_PORT}",), tls=True)] if plan.request.tls else []
    jobs += [Job(JOBS[one.id], (f"{one.id}:{one.port}",)) for one in plan.monitoring if one.id in JOBS]
    jobs += [
        Job("prometheus", (f"127.0.0.1:{one.port}",)) for one in plan.monitoring if one.id == "prometheus"
    ]
    return tuple(jobs)
