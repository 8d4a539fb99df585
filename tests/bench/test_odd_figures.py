"""A journal whose figures are of another type is reported and compared as far as it can be, or refused in a sentence."""

import msgspec
import pytest
from bench.journals import ENVIRONMENT, measured
from click.testing import CliRunner

from ernie_deploy.bench.compare.comparison import Tolerance, compare
from ernie_deploy.bench.journal import store
from ernie_deploy.bench.report import junit, markdown, table_csv, text
from ernie_deploy.bench.report.view import view
from ernie_deploy.commands.bench import bench
from ernie_deploy.errors import KitError

DEEP = b"[" * 200_000 + b"]" * 200_000
# What stands where a number, a list of numbers or a text is expected.
ODD = [b'"x"', b"null", b"[]", b"{}", b"true", b"-1", b"1e300", b"12345678901234567890123", b'[["a"]]', b'{"a":1}',
       b"[null,1]", b'""', b"0"]  # fmt: skip


def lines_of(attempt):
    return msgspec.json.encode(ENVIRONMENT), msgspec.json.encode(attempt)


def fine(*words):
    """The command ends in a report or in a sentence, never in a traceback."""
    result = CliRunner().invoke(bench, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, KitError | SystemExit), (
        words,
        result.exc_info,
    )
    return result


def written(path, *lines):
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


GOOD = measured()
PLACES = [("result", key) for key in GOOD.result]
PLACES += [(table, key) for table in ("derived", "floor", "server", "itl", "cell")
           for key in msgspec.to_builtins(getattr(GOOD, table) or {})]  # fmt: skip
PLACES += [(None, key) for key in msgspec.to_builtins(GOOD)]


@pytest.mark.parametrize("odd", ODD, ids=bytes.decode)
def test_a_figure_of_another_type_ends_nothing(tmp_path, odd):
    env, good = lines_of(GOOD)
    other = msgspec.json.encode(measured(n=32))
    whole = store.read(written(tmp_path / "good.jsonl", env, good))
    for table, key in PLACES:
        data = msgspec.to_builtins(GOOD)
        holder = data if table is None else data[table]
        holder[key] = msgspec.Raw(odd)
        path = written(tmp_path / "odd.jsonl", env, msgspec.json.encode(data), other)
        reported(path)
        compared(path, whole)


def reported(path):
    """Every kind of report but for the page, whose drawings take their time."""
    try:
        shown = view(store.read(path))
        for kind in (text.text, markdown.markdown, table_csv.csv, junit.junit):
            assert kind(shown) is not None
    except KitError:
        return


def compared(path, whole):
    for ways in ((0, 1), (1, 0)):
        try:
            sides = (whole, store.read(path))
            assert compare(sides[ways[0]], sides[ways[1]], Tolerance()) is not None
        except KitError:
            continue


def test_every_figure_odd_at_once(tmp_path):
    env, _ = lines_of(GOOD)
    for odd in ODD:
        data = msgspec.to_builtins(GOOD)
        data["result"] = dict.fromkeys(data["result"], msgspec.Raw(odd))
        path = written(tmp_path / "odd.jsonl", env, msgspec.json.encode(data))
        fine("report", path, "--html", tmp_path / "x.html", "--force")
        fine("baseline", "accept", path, "-o", tmp_path / "baseline.json")


def test_deep_nesting_is_a_torn_line_and_takes_no_other_with_it(tmp_path):
    data = msgspec.to_builtins(GOOD)
    data["result"]["ttfts"] = msgspec.Raw(DEEP)
    path = written(tmp_path / "deep.jsonl", *lines_of(GOOD), msgspec.json.encode(data), DEEP)
    result = fine("report", path)
    assert "2 torn lines" in result.output
    assert "balanced" in result.output


@pytest.mark.parametrize(
    "text", [DEEP, b"x = " + DEEP, b'{"schema": "ernie-bench-baseline/1", "environment": ' + DEEP]
)
def test_deep_nesting_elsewhere_is_a_sentence(tmp_path, text):
    good = written(tmp_path / "good.jsonl", *lines_of(GOOD))
    odd = written(tmp_path / "odd", text)
    for words in (["compare", good, odd], ["compare", good, good, "--tolerance-file", odd], ["report", odd]):
        result = fine(*words)
        assert "Traceback" not in result.output
