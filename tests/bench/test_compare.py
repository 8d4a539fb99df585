"""`bench compare`: what is a regression, what is noise, and what cannot be compared at all."""

import json

import msgspec
import pytest
from bench.journals import ENVIRONMENT, journal_of, measured, repeated
from click.testing import CliRunner
from msgspec.structs import replace

from ernie_deploy.bench.compare.comparison import Tolerance, compare, tolerance_of
from ernie_deploy.bench.report import text
from ernie_deploy.cli import main
from ernie_deploy.commands import bench_report
from ernie_deploy.errors import NotComparable, UsageError

NEWER = replace(ENVIRONMENT, id="e2", vllm_version="0.33.0", image_digest="sha256:" + "c" * 64)


def verdicts(a, b, tolerance=None, key="output_throughput"):
    found = compare(a, b, tolerance or Tolerance())
    return [d.verdict for pair in found.pairs for d in pair.differences if d.metric == key]


def one(key, before, after, **tolerance):
    """The verdict on one figure that was measured once on each side."""
    sides = (journal_of(measured(**{key: value})) for value in (before, after))
    return verdicts(*sides, Tolerance(**tolerance), key)


@pytest.mark.parametrize(
    ("key", "before", "after", "verdict"),
    [
        ("output_throughput", 100.0, 95.1, "same"),
        ("output_throughput", 100.0, 95.0, "same"),
        ("output_throughput", 100.0, 94.9, "regression"),
        ("output_throughput", 100.0, 105.1, "better"),
        ("mean_tpot_ms", 10.0, 10.49, "same"),
        ("mean_tpot_ms", 10.0, 10.51, "regression"),
        ("mean_tpot_ms", 10.0, 9.0, "better"),
        ("median_ttft_ms", 100.0, 114.9, "same"),
        ("median_ttft_ms", 100.0, 115.1, "regression"),
        ("median_itl_ms", 10.0, 30.0, "not gated"),
    ],
)
def test_each_metric_has_its_direction_and_its_tolerance(key, before, after, verdict):
    assert one(key, before, after) == [verdict]


def test_a_p99_is_gated_from_459_requests_on_and_only_where_asked_for():
    def sides(n):
        return [journal_of(measured("balanced", n, p99_ttft_ms=value)) for value in (100.0, 200.0)]

    gate = Tolerance(p99_ttft_ms=25.0)
    assert verdicts(*sides(256), gate, "p99_ttft_ms") == []
    assert verdicts(*sides(512), gate, "p99_ttft_ms") == ["regression"]
    assert verdicts(*sides(512), Tolerance(), "p99_ttft_ms") == ["not gated"]


def test_with_repeats_on_both_sides_meeting_intervals_are_noise():
    key = "output_throughput"
    steady, noisy = repeated(key, 100.0, 101.0, 99.0), repeated(key, 90.0, 70.0, 110.0)
    slower = repeated(key, 90.0, 91.0, 89.0)
    assert verdicts(journal_of(*steady), journal_of(*noisy)) == ["within noise"]
    assert verdicts(journal_of(*steady), journal_of(*slower)) == ["regression"]
    # A single run has no interval: nothing says that it was noise.
    assert verdicts(journal_of(*steady), journal_of(slower[0])) == ["regression"]


def test_more_than_two_percent_is_marked_and_fails_nothing():
    found = compare(
        journal_of(measured(output_throughput=100.0)),
        journal_of(measured(output_throughput=97.0)),
        Tolerance(),
    )
    (difference,) = [d for pair in found.pairs for d in pair.differences if d.metric == "output_throughput"]
    assert (difference.marked, difference.verdict, found.exit_code) == (True, "same", 0)


def test_missing_and_invalid_cells_are_named_and_suspect_ones_never_gated():
    a = journal_of(measured(n=1), measured(n=16), measured(n=32), measured("decode-heavy", 1))
    b = journal_of(
        measured(n=1),
        measured(n=16, status="suspect", output_throughput=1.0),
        measured(n=32, status="invalid"),
    )
    found = compare(a, b, Tolerance())
    assert [pair.cell for pair in found.pairs] == ["balanced n=1"]
    assert found.unjudged == (
        "balanced n=16: suspect in B",
        "balanced n=32: invalid in B",
        "decode-heavy n=1: missing in B",
    )
    assert found.lost == ("balanced n=32", "decode-heavy n=1")
    assert found.exit_code == 11


def test_nothing_judged_is_no_success():
    a, b = journal_of(measured(n=1)), journal_of(measured(n=1, status="suspect"))
    assert compare(a, b, Tolerance()).exit_code == 13


def test_what_is_different_about_the_servers_is_the_field_under_test():
    found = compare(journal_of(measured()), journal_of(measured(env=NEWER), env=NEWER), Tolerance())
    assert found.under_test[0] == "vllm_version: 0.32.0 -> 0.33.0"
    assert [said.partition(":")[0] for said in found.under_test] == ["vllm_version", "image_digest"]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (
            {"hf_id": "baidu/ERNIE-4.5-0.3B-PT"},
            "model: baidu/ERNIE-4.5-21B-A3B-PT against baidu/ERNIE-4.5-0.3B-PT",
        ),
        ({"client_version": "0.33.0"}, "client: 0.32.0 against 0.33.0"),
        ({"rehearsal": True}, "rehearsal: unknown against True"),
    ],
)
def test_another_model_client_or_a_rehearsal_is_not_comparable(other, what):
    env = replace(ENVIRONMENT, id="e2", **other)
    with pytest.raises(NotComparable) as fault:
        compare(journal_of(measured()), journal_of(measured(env=env), env=env), Tolerance())
    assert fault.value.what == f"A and B answer different questions: {what}."
    assert fault.value.exit_code == 13


def test_no_cell_in_common_is_not_comparable():
    with pytest.raises(NotComparable) as fault:
        compare(journal_of(measured(n=1)), journal_of(measured(n=16)), Tolerance())
    assert fault.value.cause == "A has balanced n=1; B has balanced n=16"


def test_an_empty_journal_is_not_comparable():
    with pytest.raises(NotComparable, match="B holds no attempt"):
        compare(journal_of(measured()), journal_of(), Tolerance())


def test_slos_and_seeds_do_not_keep_cells_apart_and_the_cold_policy_does():
    plain, counted = measured(), measured()
    slo = replace(counted, cell=replace(counted.cell, goodput={"ttft": 100.0}))
    assert len(compare(journal_of(plain), journal_of(slo), Tolerance()).pairs) == 1
    reset = replace(counted, cell=replace(counted.cell, cold="reset"))
    with pytest.raises(NotComparable):
        compare(journal_of(plain), journal_of(reset), Tolerance())


def test_only_the_configuration_measured_last_is_compared():
    old = replace(measured(output_throughput=1.0), start_unix_s=0.0)
    new = replace(measured(env=NEWER, output_throughput=100.0), start_unix_s=100.0)
    both = msgspec.structs.replace(journal_of(old, new), lines=(ENVIRONMENT, NEWER, old, new))
    found = compare(both, both, Tolerance())
    assert (found.a.id, next(d.a.median for d in found.pairs[0].differences)) == ("e2", 100.0)


def test_a_tolerance_file_is_read_strictly(tmp_path):
    path = tmp_path / "tolerance.toml"
    path.write_text("output_throughput = 1\np99_ttft_ms = 25.5\n")
    assert tolerance_of(path) == Tolerance(output_throughput=1.0, p99_ttft_ms=25.5)
    for wrong in (
        "output_troughput = 1",
        "output_throughput = -1",
        "output_throughput = '5 %'",
        "= 1",
        "\xff",
    ):
        path.write_bytes(wrong.encode("latin-1"))
        with pytest.raises(UsageError, match=r"tolerance\.toml is no tolerance file"):
            tolerance_of(path)
    with pytest.raises(UsageError):
        tolerance_of(tmp_path / "absent.toml")


def test_the_comparison_as_text():
    a = journal_of(measured(output_throughput=100.0), measured(n=1))
    b = journal_of(measured(output_throughput=90.0))
    lines = text.comparison(compare(a, b, Tolerance())).splitlines()
    assert lines[0] == "the same configuration on both sides"
    assert lines[2] == "cell           figure               A      B    change     verdict"
    assert lines[3] == "balanced n=16  Output, tok/s    100.0   90.0  -10.0 %*  regression"
    assert lines[-2] == "not judged: balanced n=1: missing in B"
    assert lines[-1] == "1 regression in 1 cell. * differs by more than 2 %."


def saved(path, journal):
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in journal.lines))
    return str(path)


def test_the_command_ends_with_its_exit_code(tmp_path, capsys):
    fast = saved(tmp_path / "a.jsonl", journal_of(measured(output_throughput=100.0)))
    slow = saved(tmp_path / "b.jsonl", journal_of(measured(output_throughput=90.0)))
    other = saved(tmp_path / "c.jsonl", journal_of(measured(n=1)))
    for words, code in (([fast, fast], 0), ([fast, slow], 1), ([slow, fast], 0), ([fast, other], 13)):
        with pytest.raises(SystemExit) as end:
            main(["bench", "compare", *words])
        assert end.value.code == code
    assert "error: A and B have no cell in common." in capsys.readouterr().err


def test_the_command_prints_json(tmp_path):
    path = saved(tmp_path / "a.jsonl", journal_of(measured()))
    done = CliRunner().invoke(bench_report.compare, [path, path, "--json"])
    found = json.loads(done.output)
    assert found["pairs"][0]["cell"] == "balanced n=16"
    assert found["unjudged"] == []
