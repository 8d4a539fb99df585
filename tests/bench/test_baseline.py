"""`bench baseline`: valid attempts only, bound to the image and the arguments, small enough to commit."""

import msgspec
import pytest
from bench.journals import ENVIRONMENT, journal_of, measured
from click.testing import CliRunner
from msgspec.structs import replace

from ernie_deploy.bench.compare import baseline
from ernie_deploy.bench.compare.comparison import Tolerance, compare
from ernie_deploy.cli import main
from ernie_deploy.commands import bench_report
from ernie_deploy.errors import BenchInvalid, UsageError

JOURNAL = journal_of(measured(n=1), measured(n=16), measured(n=32, status="invalid"))


def test_only_valid_attempts_are_accepted():
    made = baseline.accept(JOURNAL)
    assert [attempt.cell.num_prompts for attempt in made.attempts] == [1, 16]


@pytest.mark.parametrize("status", ["suspect", "invalid", "failed", "interrupted"])
def test_nothing_valid_is_no_baseline(status):
    with pytest.raises(BenchInvalid) as fault:
        baseline.accept(journal_of(measured(status=status)))
    assert fault.value.exit_code == 11
    with pytest.raises(BenchInvalid):
        baseline.accept(journal_of())


def test_a_file_gives_back_what_was_accepted_and_keeps_no_lists(tmp_path):
    made = baseline.accept(JOURNAL)
    path = tmp_path / "baseline.json"
    path.write_text(baseline.text(made))
    assert baseline.load(path) == made
    assert not any(isinstance(value, list) for a in made.attempts for value in a.result.values())
    assert len(path.read_bytes()) < 8_000 * len(made.attempts)
    assert baseline.is_baseline(path)


def test_a_baseline_compares_as_the_journal_it_was_made_of():
    found = compare(baseline.accept(JOURNAL).journal, JOURNAL, Tolerance())
    assert {d.change_percent for pair in found.pairs for d in pair.differences} == {0.0}
    assert found.unjudged == ("balanced n=32: missing in A, invalid in B",)


def test_it_is_stale_when_image_or_arguments_change_and_the_field_is_named():
    made = baseline.accept(JOURNAL)
    assert baseline.stale(made, ENVIRONMENT) == []
    assert baseline.stale(made, replace(ENVIRONMENT, id="e9", taken_unix_s=9.0, server_started="later")) == []
    assert baseline.stale(made, replace(ENVIRONMENT, kv_cache_tokens=1)) == []
    assert baseline.stale(
        made, replace(ENVIRONMENT, image_digest="sha256:b", argv=("vllm", "serve", "x"))
    ) == [
        f"image_digest: sha256:{'a' * 50}... -> sha256:b",
        "argv: vllm serve baidu/ERNIE-4.5-21B-A3B-PT -> vllm serve x",
    ]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"schema": "ernie-bench-baseline/1"}', "\xff"])
def test_what_is_no_baseline_is_refused(tmp_path, content):
    path = tmp_path / "baseline.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match="is no baseline"):
        baseline.load(path)


def test_a_baseline_of_another_kit_with_unknown_keys_is_refused(tmp_path):
    path = tmp_path / "baseline.json"
    data = msgspec.to_builtins(baseline.accept(JOURNAL)) | {"gate": "off"}
    path.write_bytes(msgspec.json.encode(data))
    with pytest.raises(UsageError, match="unknown field `gate`"):
        baseline.load(path)


def test_the_command_writes_it_and_never_overwrites_unasked(tmp_path):
    path, out = tmp_path / "journal.jsonl", tmp_path / "baseline.json"
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in JOURNAL.lines))
    done = CliRunner().invoke(bench_report.baseline, ["accept", str(path), "-o", str(out)])
    assert done.output == f"wrote {out}: 2 valid attempts\n"
    out.write_text("mine")
    with pytest.raises(SystemExit) as end:
        main(["bench", "baseline", "accept", str(path), "-o", str(out)])
    assert (end.value.code, out.read_text()) == (2, "mine")
    assert (
        CliRunner().invoke(bench_report.baseline, ["accept", str(path), "-o", str(out), "--force"]).exit_code
        == 0
    )
    with pytest.raises(SystemExit) as end:
        main(["bench", "compare", str(out), str(path)])
    assert end.value.code == 0
