"""Merges a user's text with a newer rendering, line by line, against the rendering that the user began with.

Of the libraries that could, merge3 is GPL, which no wheel beside an Apache-2.0 kit should be (`bundle` ships them), and
three-merge writes its conflicts into the text without a word. The tests hold every merge against merge3.
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher

from msgspec import Struct

LF, CRLF = b"\n", b"\r\n"


class Edit(Struct, frozen=True, order=True):
    """Lines `start` to `end` of the base that a text has otherwise, and how many lines more it has for them."""

    start: int
    end: int
    growth: int
    by_user: bool


class Region(Struct, frozen=True):
    """The same place in the three texts; half-open ranges of lines, from 0."""

    base: slice
    user: slice
    new: slice


class Conflict(Struct, frozen=True):
    """Lines that the user and the new rendering changed differently; `line` is the first of the user's, from 1."""

    line: int
    base: tuple[bytes, ...]
    user: tuple[bytes, ...]
    new: tuple[bytes, ...]


class Merged(Struct, frozen=True):
    """The merged text; where there are `conflicts` it has the user's lines."""

    data: bytes
    conflicts: tuple[Conflict, ...] = ()


def merge(base: bytes, user: bytes, new: bytes) -> Merged:
    """What the new rendering changed since `base`, applied to the user's text, whose line endings stand.

    Changes of the same lines conflict unless they are the same; those of neighbouring lines do not.
    """
    old, own, fresh = (_bare(_lines(text)) for text in (base, user, new))
    kept, ending = _lines(user), CRLF if _is_crlf(user) else LF
    out: list[bytes] = []
    conflicts: list[Conflict] = []
    at = 0
    for region in regions(old, own, fresh):
        out += kept[at : region.user.start]
        at = region.user.stop
        before, mine, theirs = old[region.base], own[region.user], fresh[region.new]
        if mine == before:
            out += [line + ending for line in theirs]
            continue
        out += kept[region.user]
        if theirs not in (before, mine):
            conflicts.append(Conflict(region.user.start + 1, tuple(before), tuple(mine), tuple(theirs)))
    return Merged(_joined([*out, *kept[at:]], ending), tuple(conflicts))


def regions(base: Sequence[bytes], user: Sequence[bytes], new: Sequence[bytes]) -> Iterator[Region]:
    """Each place where a text differs from the base, in order; what touches the same lines is one place."""
    shift_user = shift_new = 0
    for group in _groups(sorted([*_edits(base, user, by_user=True), *_edits(base, new, by_user=False)])):
        start, end = min(edit.start for edit in group), max(edit.end for edit in group)
        of_user = sum(edit.growth for edit in group if edit.by_user)
        of_new = sum(edit.growth for edit in group if not edit.by_user)
        yield Region(
            slice(start, end),
            slice(start + shift_user, end + shift_user + of_user),
            slice(start + shift_new, end + shift_new + of_new),
        )
        shift_user += of_user
        shift_new += of_new


def _edits(base: Sequence[bytes], text: Sequence[bytes], *, by_user: bool) -> Iterator[Edit]:
    # What is frequent counts too: blank lines and `<<: *hardened` are where people insert.
    for tag, start, end, first, last in SequenceMatcher(None, base, text, autojunk=False).get_opcodes():
        if tag != "equal":
            yield Edit(start, end, (last - first) - (end - start), by_user)


def _groups(ordered: Iterable[Edit]) -> Iterator[list[Edit]]:
    group: list[Edit] = []
    for edit in ordered:
        end = max((other.end for other in group), default=-1)
        same_point = group and edit.start == edit.end == group[0].start == end
        if group and not (edit.start < end or same_point):
            yield group
            group = []
        group.append(edit)
    if group:
        yield group


def _lines(text: bytes) -> list[bytes]:
    """The lines with their endings; only a line feed ends one, as for Compose."""
    *whole, rest = text.split(LF)
    return [*(line + LF for line in whole), *([rest] if rest else [])]


def _bare(lines: Iterable[bytes]) -> list[bytes]:
    return [line.removesuffix(LF).removesuffix(b"\r") for line in lines]


def _is_crlf(text: bytes) -> bool:
    return 2 * text.count(CRLF) > text.count(LF)


def _joined(lines: Sequence[bytes], ending: bytes) -> bytes:
    """The lines as one text: one that ended its file has an ending where others follow."""
    *others, last = lines or [b""]
    return b"".join(line if line.endswith(LF) else line + ending for line in others) + last
