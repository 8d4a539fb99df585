"""What `check` prints: what matters first, what is missing in one line, nothing wider than the terminal."""

import json
import re

import pytest
from check_files import found, serve, service, stack

from ernie_deploy.check import report, rules
from ernie_deploy.check.findings import Finding
from ernie_deploy.cli import main

ENTRY = re.compile(r"(\S+):(\d+): (error|warning|note) ", re.MULTILINE)
PRIVILEGED = stack(service("web", "privileged: true", "cap_add: [NET_RAW]"), service("api", "init: true"))
FILES = {"second.yml": PRIVILEGED, "first.yml": serve("user: root", "ipc: host")}


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)

    def check(*words, columns=80):
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit):
            main(["check", *words])
        return capsys.readouterr().out

    return check


@pytest.mark.parametrize("option", [(), ("--verbose",)])
def test_errors_come_first_then_warnings_then_notes_each_by_file(written, option):
    entries = ENTRY.findall(written("second.yml", "first.yml", *option))
    levels = {"error": 0, "warning": 1, "note": 2}
    assert [(s, f) for f, _, s in entries] == sorted(
        ((s, f) for f, _, s in entries), key=lambda e: (levels[e[0]], e[1] != "second.yml")
    )
    assert {severity for _, _, severity in entries} >= {"error", "warning"}


def test_what_is_no_services_fault_names_none():
    refusal = Finding(
        id="ED401",
        severity="error",
        file="a.yml",
        line=7,
        service="",
        sentence="Compose refuses it",
        remedy="x",
    )
    assert report.as_text([refusal], ["a.yml"]).startswith("a.yml:7: error ED401: Compose refuses it\n")


def test_what_a_service_lacks_is_one_line(written):
    out = written("second.yml")
    lines = [" ".join(block.split()) for block in re.split(r"\n(?=\S)", out)]
    lacking = [line for line in lines if " lacks " in line]
    assert [re.sub(r" lacks .*", "", line) for line in lacking] == [
        "second.yml:2: warning web",
        "second.yml:7: warning api",
    ]
    assert "health check (ED301)" in lacking[0]
    assert "init (ED306)" in lacking[0]
    assert "init" not in lacking[1]
    assert "nobody notices when it stops answering" not in out


def test_verbose_tells_each_with_its_remedy(written):
    out = " ".join(written("second.yml", "--verbose").split())
    assert "lacks" not in out
    assert "ED301 web: no health check: nobody notices when it stops answering" in out
    assert "pids_limit: 4096" in out
    assert "--verbose" not in out


def test_programs_get_every_finding(written):
    listed = json.loads(written("second.yml", "--json"))
    assert {"ED301", "ED306", "ED329"} <= {f["id"] for f in listed}
    assert len(listed) == len(found(PRIVILEGED))
    assert len(json.loads(written("second.yml", "--sarif"))["runs"][0]["results"]) == len(listed)


def test_the_summary_counts_every_finding_and_comes_last(written):
    findings = found(PRIVILEGED)
    errors, warnings = (sum(f.severity == s for f in findings) for s in ("error", "warning"))
    last = written("second.yml").rstrip().rpartition("\n\n")[2]
    assert " ".join(last.split()).startswith(f"1 file: {errors} error, {warnings} warnings, ")
    assert "--verbose" in last


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("option", [(), ("--verbose",)])
def test_no_line_is_wider_than_the_terminal(written, columns, option):
    out = written("second.yml", "first.yml", *option, columns=columns)
    assert max(map(len, out.splitlines())) <= columns


def test_one_thing_that_is_missing_keeps_its_remedy():
    text = serve("pids_limit: 100")
    findings = [f for f in found(text) if not f.lacks] + [f for f in found(text) if f.id == "ED306"]
    assert "init: true" in report.as_text(findings, ["compose.yml"])
    assert "lacks" not in report.as_text(findings, ["compose.yml"])


def test_what_is_written_wrong_is_never_folded():
    # The policy stands in the file; one that is not there is only missing.
    (wrong,) = found(serve('restart: "no"'), "ED303")
    (missing,) = found(serve(), "ED303")
    assert (wrong.lacks, missing.lacks) == ("", "restart policy")


def test_errors_are_never_folded():
    assert all(rule.severity != "error" or rule.id == "ED303" for rule in rules() if rule.lacks)
    assert all(f.severity != "error" for text in FILES.values() for f in found(text) if f.lacks)


def test_a_rule_of_what_is_missing_is_silent_where_a_part_is_elsewhere():
    assert all(rule.of_absence for rule in rules() if rule.lacks)
