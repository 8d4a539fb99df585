"""Every status that the gateway answers itself stands in docs/gateway.md, and every limit in the plan."""

import re

import pytest
from conftest import ROOT, planned

from ernie_deploy.render.explain import as_text
from ernie_deploy.render.gateway import configuration

PLAN = planned("h100", gateway=True)
CONFIGURATION = configuration(PLAN)
# Of the table's own pages, and of what no rule of the gateway's refuses.
NOT_LIMITS = {"200", "403", "500", "502"}


def test_every_status_is_in_the_table_of_limits() -> None:
    front = CONFIGURATION.split("\nfrontend own")[0]
    statuses = set(re.findall(r"(?:status|deny_status) (\d{3})", front)) - NOT_LIMITS
    assert len(statuses) >= 12
    table = (ROOT / "docs/gateway.md").read_text().split("## Limits")[1].split("\n## ")[0]
    cells = " ".join(line.split("|")[2] for line in table.splitlines() if line.startswith("| "))
    assert statuses <= set(re.findall(r"\b\d{3}\b", cells))


@pytest.mark.parametrize(
    ("in_the_file", "in_the_plan"),
    [
        ("timeout http-request 10s", "10 s a head"),
        ("wait-for-body time 30s", "30 s a body"),
        ("timeout client 60s", "60 s of a client's silence"),
        ("timeout http-keep-alive 60s", "60 s of a client's silence"),
        ("req.hdrs,length gt 16384", "16 KiB of headers"),
        ("sc_gpc0_rate(2) gt 30", "30 refusals a minute"),
        ("sc_gpc1_rate(0) gt 600", "600 of all"),
        ("    maxconn 4096", "4,096 connections"),
    ],
)
def test_every_limit_of_the_file_is_in_the_plan(in_the_file: str, in_the_plan: str) -> None:
    assert in_the_file in CONFIGURATION
    assert in_the_plan in as_text(PLAN)


def test_every_variable_of_the_file_is_in_the_plan() -> None:
    names = set(re.findall(r"\$\{(GATEWAY_\w+?)\}", CONFIGURATION))
    assert names
    assert {name for name in names if name not in as_text(PLAN)} == set()
