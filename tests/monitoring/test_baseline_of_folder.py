"""A benchmark that was accepted beside a stack becomes the number of an alert, and stays so when it is rendered again."""

import pytest
import yaml
from bench.test_baseline import JOURNAL
from conftest import kit

from ernie_deploy.bench.compare import baseline
from ernie_deploy.bench.compare.bounds import bound_of
from ernie_deploy.errors import UsageError


@pytest.fixture
def accepted(tmp_path):
    made = baseline.accept(JOURNAL)
    (tmp_path / "baseline.json").write_text(baseline.text(made))
    return tmp_path


def alert(folder):
    document = yaml.safe_load((folder / "monitoring" / "rules.yml").read_text())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    return next((rule for rule in rules if rule.get("alert") == "ErnieSlowerThanBaseline"), None)


def first_line(folder):
    return (folder / "compose.yml").read_text().partition("\n")[0]


def test_the_bound_is_what_was_measured(accepted):
    bound, attempts = bound_of(accepted, "baseline.json"), baseline.load(accepted / "baseline.json").attempts
    assert bound.mean_tpot_s * 1000 in {attempt.result["mean_tpot_ms"] for attempt in attempts}
    assert bound.prompt_tokens in {attempt.cell.input_len for attempt in attempts}
    assert bound.concurrency in {attempt.derived.peak_concurrency for attempt in attempts}
    assert bound.tolerance_percent == 5


def test_a_baseline_in_the_folder_is_taken_and_named_in_the_first_line(accepted):
    bound = bound_of(accepted, "baseline.json")
    done = kit("init", str(accepted), "h100", "--monitoring")
    assert done.returncode == 0, done.stderr
    assert f"> {bound.mean_tpot_s * 1.05:.6g}" in alert(accepted)["expr"]
    assert "--baseline baseline.json" in first_line(accepted)
    again = kit("init", ".", "h100", "--monitoring", "--baseline", "baseline.json", cwd=accepted)
    assert again.returncode == 0, again.stderr


def test_without_one_there_is_no_such_alert_and_another_can_be_named(accepted, tmp_path):
    bare, other = tmp_path / "bare", tmp_path / "other"
    assert kit("init", str(bare), "h100", "--monitoring").returncode == 0
    assert alert(bare) is None
    done = kit("init", str(other), "h100", "--monitoring", "--baseline", str(accepted / "baseline.json"))
    assert done.returncode == 0, done.stderr
    assert alert(other)
    assert "--baseline ../baseline.json" in first_line(other)


def test_a_file_that_is_no_baseline_is_refused(tmp_path):
    (tmp_path / "baseline.json").write_text("{}")
    with pytest.raises(UsageError):
        bound_of(tmp_path, "baseline.json")
    done = kit("init", str(tmp_path), "h100", "--monitoring")
    assert done.returncode == 2
    assert "is no baseline" in done.stderr
    assert not (tmp_path / "compose.yml").exists()
