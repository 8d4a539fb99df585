"""What holds for every pair: nothing differs from itself, back is the mirror of forth, and no edit stays unnamed."""

import re

import pytest
from conftest import FULL, planned
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ernie_deploy.catalog import Catalog
from ernie_deploy.diff import Change, differences
from ernie_deploy.diff.compare import compare
from ernie_deploy.diff.side import Side, side_of
from ernie_deploy.errors import KitError
from ernie_deploy.render.compose import compose_file

OPTIONS = [
    ("h100", {}), ("h100", {"profiles": ("mtp",)}), ("h100", {"engine": "0.33.0"}), ("mi300x", {"model": "vl-28b"}),
    ("cpu", {}), ("h100", {"model": "300b", "nodes": 2}), ("a100", {"bind": "0.0.0.0", "api_key_file": True}),
]  # fmt: skip
CATALOG = Catalog()
# With their scripts beside them: what is inlined has flags of its own.
TEXTS = [compose_file(planned(target, **options), CATALOG.defaults, "folder") for target, options in OPTIONS]
SIDES = [side_of(text, f"{at}", CATALOG) for at, text in enumerate(TEXTS)]
# A flag with its value, as `render` writes it, alone or between quotes.
FLAG = re.compile(r"--([a-z][a-z0-9-]+)=([^\s,\]\"]+)")
LINES = [
    (at, number)
    for at, text in enumerate(TEXTS)
    for number, line in enumerate(text.splitlines())
    if line.strip() and not line.lstrip().startswith("#")
]
SLOW = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def keyed(changes: tuple[Change, ...]) -> set[tuple[str, ...]]:
    """Changes by their place and values; what an engine does otherwise has none."""
    return {
        (c.section, c.service, c.new_name or c.name, c.name, c.old, c.new) for c in changes if c.old or c.new
    }


@pytest.mark.parametrize("side", SIDES, ids=lambda side: f"{OPTIONS[int(side.label)]}")
def test_nothing_differs_from_itself(side: Side) -> None:
    same = compare(side, side_of(TEXTS[int(side.label)], side.label, CATALOG))
    assert (same.changes, same.recreated) == ((), ())


@given(st.sampled_from(SIDES), st.sampled_from(SIDES))
@SLOW
def test_back_is_the_mirror_of_forth(one: Side, other: Side) -> None:
    forth, back = compare(one, other), compare(other, one)
    mirrored = {
        (section, service, old, new, b, a) for section, service, new, old, a, b in keyed(back.changes)
    }
    assert keyed(forth.changes) == mirrored
    assert {c.name for c in forth.changes if c.kind == "added"} == {
        c.name for c in back.changes if c.kind == "removed"
    }
    assert set(forth.recreated) == set(back.recreated)
    assert forth.equal == back.equal


FLAGS = [(at, match) for at, text in enumerate(TEXTS) for match in FLAG.finditer(text)]


@given(st.sampled_from(FLAGS), st.integers(11, 999))
@SLOW
def test_another_value_of_any_rendered_flag_is_named(place: tuple[int, re.Match[str]], value: int) -> None:
    at, match = place
    assume(match[2] != str(value))
    text = TEXTS[at]
    edited = f"{text[: match.start(2)]}{value}{text[match.end(2) :]}"
    try:
        found = compare(SIDES[at], side_of(edited, "edited", CATALOG))
    except KitError:
        return
    assert any(match[1] in change.name or str(value) in change.new for change in found.changes)


@given(st.sampled_from(FLAGS))
@SLOW
def test_any_rendered_flag_that_is_left_out_is_named(place: tuple[int, re.Match[str]]) -> None:
    at, match = place
    text = TEXTS[at]
    edited = f"{text[: match.start()]}--ignored-{'x' * 3}{text[match.end() :]}"
    try:
        found = compare(SIDES[at], side_of(edited, "edited", CATALOG))
    except KitError:
        return
    assert any(match[1] in change.name or match[0] in change.old for change in found.changes)


@given(st.sampled_from(LINES))
@settings(SLOW, max_examples=120 if FULL else 60)
def test_no_line_of_a_rendering_can_be_left_out_unnoticed(place: tuple[int, int]) -> None:
    at, number = place
    lines = TEXTS[at].splitlines(keepends=True)
    del lines[number]
    try:
        found = compare(SIDES[at], side_of("".join(lines), "edited", CATALOG))
    except KitError:
        return
    assert not found.equal


@given(st.text(max_size=200))
@settings(SLOW, max_examples=100)
def test_any_text_is_compared_or_refused_in_a_sentence(text: str) -> None:
    try:
        differences(text, TEXTS[0])
    except KitError as refusal:
        assert refusal.what
