"""The rules that Prometheus judges."""

from collections.abc import Collection

from ernie_deploy.plan.plan import Plan


def rules(plan: Plan, jobs: Collection[str]) -> str:
    """The text of rules.yml: one alert that the server does not answer."""
    return f"""# {plan.variant}, with {", ".join(jobs)}. Rendered by ernie-deploy.
groups:
  - name: serving
    rules:
      - alert: ErnieDown
        expr: up{{job="vllm"}} == 0
        for: 1m
        labels: {{severity: critical}}
        annotations: {{summary: "vLLM at {{{{ $labels.instance }}}} does not answer."}}
"""
