"""Finds faults in any compose file that serves vLLM; nothing is started.

`document` takes a file apart, the `..._rules` modules judge its services, `report` writes down
what they found.
"""

from ernie_deploy.check import (
    client_rules,
    code_rules,
    command_rules,
    engine_rules,
    environment_rules,
    ernie_rules,
    front_file_rules,
    front_rules,
    hardware_rules,
    health_rules,
    input_rules,
    lifecycle_rules,
    lock_rules,
    model_rules,
    orchestration_rules,
    publishing_rules,
    request_rules,
    secret_rules,
    security_rules,
    storage_rules,
    value_rules,
    wiring_rules,
)
from ernie_deploy.check.document import Verdict, judge, judge_project, judge_text
from ernie_deploy.check.findings import RULES, Finding, Rule

RULE_MODULES = (
    engine_rules,
    value_rules,
    command_rules,
    model_rules,
    code_rules,
    lock_rules,
    ernie_rules,
    hardware_rules,
    orchestration_rules,
    environment_rules,
    wiring_rules,
    client_rules,
    health_rules,
    publishing_rules,
    security_rules,
    secret_rules,
    front_rules,
    front_file_rules,
    request_rules,
    lifecycle_rules,
    storage_rules,
    input_rules,
)

__all__ = ["RULE_MODULES", "Finding", "Verdict", "judge", "judge_project", "judge_text", "rules"]


def rules() -> list[Rule]:
    """Every rule by id."""
    return [RULES[identity] for identity in sorted(RULES)]
