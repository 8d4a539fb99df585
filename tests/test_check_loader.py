"""YAML is read alike by libyaml's parser and by PyYAML's own, and nothing nested or long stops either."""

import subprocess
from itertools import chain
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, rendered
from hypothesis import given
from hypothesis import strategies as st

from ernie_deploy.check import loader
from ernie_deploy.check.tree import read, read_all
from ernie_deploy.errors import UsageError

FILES = sorted(chain((ROOT / "compose").rglob("*.yml"), (ROOT / "tests").rglob("*.yml")))
SAMPLES = yaml.safe_load((ROOT / "tests/check/rules.yml").read_text())
# Compose reads a tab after a value or between it and its key; PyYAML's own parser refuses both.
TABS = b"services:\n  a:\n    image:\tbusybox\t\n    command: x\t\n"
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)  # fmt: skip


def texts_of(value: object) -> list[str]:
    """Every text of several lines in the rules' samples, which are files or parts of one."""
    if isinstance(value, str):
        return [value] if "\n" in value else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for one in inner for text in texts_of(one)]


def outcomes(text: bytes, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What becomes of the text with libyaml and without: its values, or the sentence that refuses it."""
    ends: list[object] = []
    for there in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(yaml, "__with_libyaml__", there)
            try:
                ends.append(read_all(text, "compose.yml"))
            except UsageError as refusal:
                ends.append(str(refusal))
    return ends


def test_libyaml_is_there_to_be_compared() -> None:
    assert yaml.__with_libyaml__


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_reads_the_same_by_both(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_libyaml, without = outcomes(file.read_bytes(), monkeypatch)
    assert with_libyaml == without
    assert not isinstance(without, str)


@pytest.mark.parametrize(
    "text",
    ["a: [", "a: b: c", "{a: 1", "a: *nowhere", "a: !!int {", "\x00", "a: '\n", "- a\nb: c", 'a: "\\UFFFFFFFF"', "%YAML 2.0\n---\na: b"],
)  # fmt: skip
def test_a_refusal_reads_the_same_by_both(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_libyaml, without = outcomes(text.encode(), monkeypatch)
    assert with_libyaml == without
    assert isinstance(without, str)


def test_every_sample_of_the_rules_reads_the_same_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = texts_of(SAMPLES)
    assert len(texts) > 50
    for text in texts:
        with_libyaml, without = outcomes(text.encode(), monkeypatch)
        assert with_libyaml == without, text


@given(TREES, st.sampled_from([None, "|", '"', "'", ">"]), st.booleans())
def test_a_tree_in_any_style_reads_the_same_by_both(tree: object, style: str | None, flow: bool) -> None:
    text = yaml.safe_dump(tree, default_style=style, default_flow_style=flow, allow_unicode=True)
    with pytest.MonkeyPatch.context() as patch:
        with_libyaml, without = outcomes(text.encode(), patch)
    assert with_libyaml == without


def test_tabs_that_compose_reads_are_read(compose: str, tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_bytes(TABS)
    done = subprocess.run(
        [compose, "-f", "compose.yml", "config", "--quiet"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    service = read(TABS, "compose.yml").values["services"].values["a"]  # type: ignore[union-attr, index]
    assert {key: word.raw for key, word in service.values.items()} == {"image": "busybox", "command": "x"}  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_ends_in_an_exception(text: str) -> None:
    with pytest.raises(RecursionError):
        loader.compose(text)


def test_libyaml_reads_the_kits_own_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast way is taken: PyYAML's own parser is not asked."""
    monkeypatch.setattr(yaml.SafeLoader, "__init__", None)
    assert loader.compose(rendered("h100")) is not None
