"""The files of `init --monitoring` beside compose.yml: what Prometheus and Grafana read."""

from ernie_deploy.monitoring.jobs import INTERVAL_S, jobs_of
from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.yaml import environment

FOLDER = "monitoring"
GRAFANA, RULES = f"{FOLDER}/grafana", f"{FOLDER}/rules.yml"


def monitoring_files(plan: Plan) -> dict[str, str]:
    """File name -> text; nothing without --monitoring. Raises `KitError` where the dashboard's library is missing."""
    if not plan.monitoring:
        return {}
    from ernie_deploy.monitoring.dashboard import dashboard
    from ernie_deploy.monitoring.rules import rules

    jobs = jobs_of(plan)
    text = environment().get_template("monitoring/prometheus.yml.j2").render(jobs=jobs, interval_s=INTERVAL_S)
    return {
        f"{FOLDER}/prometheus.yml": text,
        RULES: rules(plan, [job.name for job in jobs]),
        f"{GRAFANA}/datasources/prometheus.yml": _rendered("datasource.yml.j2", plan),
        f"{GRAFANA}/dashboards/ernie.yml": _rendered("dashboards.yml.j2", plan),
        f"{GRAFANA}/dashboards/ernie.json": dashboard(plan),
    }


def _rendered(name: str, plan: Plan) -> str:
    return environment().get_template(f"monitoring/{name}").render(plan=plan)
