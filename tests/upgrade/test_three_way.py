"""The three-way merge: held against merge3, and no line of the user's is ever lost."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merge3 import Merge3

from ernie_deploy.upgrade.three_way import merge

BASE = b"a\nb\nc\nd\ne\n"
LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b""]), max_size=12)


def text(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def by_merge3(base: list[bytes], user: list[bytes], new: list[bytes]) -> list[bytes] | None:
    """The merge by the library; None where it sees a conflict."""
    import difflib

    class Matcher(difflib.SequenceMatcher):  # type: ignore[type-arg]
        def __init__(self, isjunk: object, a: object, b: object) -> None:
            super().__init__(None, a, b, autojunk=False)  # type: ignore[arg-type]

    groups = list(Merge3(base, user, new, sequence_matcher=Matcher).merge_groups())  # type: ignore[arg-type]
    return (
        None
        if any(group[0] == "conflict" for group in groups)
        else [line for group in groups for line in group[1]]
    )


@settings(max_examples=1000)
@given(LINES, LINES, LINES)
def test_what_merge3_merges_comes_out_the_same(
    base: list[bytes], user: list[bytes], new: list[bytes]
) -> None:
    expected = by_merge3(base, user, new)
    merged = merge(text(base), text(user), text(new))
    if expected is not None:
        assert (merged.data, merged.conflicts) == (text(expected), ())


@settings(max_examples=500)
@given(LINES, LINES, LINES)
def test_a_line_that_the_user_added_is_never_lost(
    base: list[bytes], user: list[bytes], new: list[bytes]
) -> None:
    added = Counter(user) - Counter(base)
    merged = merge(text(base), text(user), text(new))
    assert Counter(merged.data.split(b"\n")) >= added - Counter([b""])


@given(LINES, LINES)
def test_who_changed_nothing_gets_what_the_other_has(base: list[bytes], other: list[bytes]) -> None:
    assert merge(text(base), text(base), text(other)).data == text(other)
    assert merge(text(base), text(other), text(base)).data == text(other)
    both = merge(text(base), text(other), text(other))
    assert (both.data, both.conflicts) == (text(other), ())


@pytest.mark.parametrize(
    ("user", "new", "merged"),
    [
        (b"a\nb\nmine\nc\nd\ne\n", b"a\nB\nc\nd\ne\n", b"a\nB\nmine\nc\nd\ne\n"),  # below a changed line
        (b"a\nmine\nb\nc\nd\ne\n", b"a\nB\nc\nd\ne\n", b"a\nmine\nB\nc\nd\ne\n"),  # above it
        (b"a\nb\nC\nd\ne\n", b"a\nB\nc\nd\ne\n", b"a\nB\nC\nd\ne\n"),  # its neighbour
        (b"a\nc\nd\ne\n", b"a\nb\nc\nd\nE\n", b"a\nc\nd\nE\n"),  # a line taken out
        (b"a\nb\nc\nd\ne\nmine", b"a\nb\nc\nd\ne\n", b"a\nb\nc\nd\ne\nmine"),  # no line feed at the end
        (b"a\nb\nc\nd\ne", b"a\nb\nc\nd\ne\nf\n", b"a\nb\nc\nd\ne\nf\n"),
        (b"a\r\nb\r\nmine\r\nc\r\nd\r\ne\r\n", b"A\nb\nc\nd\ne\n", b"A\r\nb\r\nmine\r\nc\r\nd\r\ne\r\n"),
        (b"a\nb\r\nc\nd\ne\n", b"A\nb\nc\nd\ne\n", b"A\nb\r\nc\nd\ne\n"),
        (b"a\nb\nc\x0cd\xff\nd\ne\n", b"A\nb\nc\nd\ne\n", b"A\nb\nc\x0cd\xff\nd\ne\n"),
    ],
)  # fmt: skip
def test_an_edit_stands_in_its_place(user: bytes, new: bytes, merged: bytes) -> None:
    outcome = merge(BASE, user, new)
    assert (outcome.data, outcome.conflicts) == (merged, ())


def test_a_conflict_names_the_line_and_both_versions() -> None:
    (conflict,) = merge(BASE, b"x\na\nb\nmine\nd\ne\n", b"a\nb\nnew\nd\ne\n").conflicts
    assert (conflict.line, conflict.base, conflict.user, conflict.new) == (4, (b"c",), (b"mine",), (b"new",))
