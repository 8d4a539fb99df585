"""What becomes of each file of a folder when its stack is rendered anew."""

from collections.abc import Mapping

from msgspec import Struct

from ernie_deploy.render.checksum import MARK
from ernie_deploy.stack.rendered import RENDERED
from ernie_deploy.upgrade import env_file
from ernie_deploy.upgrade.three_way import Conflict, Merged, merge

ENV = ".env"
HEAD, MARKED = RENDERED.encode(), MARK.encode()
# Without these the stack runs all the same, so that somebody may have deleted them for good.
SPARE = ("README.md", ".gitignore")


class Versions(Struct, frozen=True):
    """One file in its three versions; None where there is no such file."""

    base: bytes | None
    user: bytes | None
    new: bytes | None


class Outcome(Struct, frozen=True):
    """What one file says now and what it will say, None being no file; `note` says what nobody would expect."""

    name: str
    before: bytes | None
    after: bytes | None
    conflicts: tuple[Conflict, ...] = ()
    note: str = ""

    @property
    def changes(self) -> bool:
        """Whether there is anything to do about it."""
        return self.before != self.after or bool(self.conflicts)


def outcomes(files: Mapping[str, Versions], stack_file: str) -> list[Outcome]:
    """What becomes of each; the edits of the user stand, and what contradicts them is a conflict."""
    return [_outcome(name, versions, stack_file) for name, versions in files.items()]


def _outcome(name: str, versions: Versions, stack_file: str) -> Outcome:
    base, user, new = versions.base, versions.user, versions.new
    if user is None:
        return _absent(name, base, new)
    if new is None:
        return _no_longer_rendered(name, base, user)
    if base is None and user != new:
        lines = [tuple(text.split(b"\n")) for text in (user, new)]
        return Outcome(name, user, user, (Conflict(1, (), lines[0], lines[1]),))
    return _merged(name, base or new, user, new, is_stack=name == stack_file)


def _absent(name: str, base: bytes | None, new: bytes | None) -> Outcome:
    deleted = base is not None
    if new is None or (deleted and (new == base or name in SPARE)):
        return Outcome(name, None, None)
    return Outcome(name, None, new, note="it was deleted, and the stack needs it" if deleted else "")


def _no_longer_rendered(name: str, base: bytes | None, user: bytes) -> Outcome:
    if base is not None and user.replace(b"\r\n", b"\n") == base:
        return Outcome(name, user, None)
    note = "the stack no longer uses it; it is kept, for it was edited" if base is not None else ""
    return Outcome(name, user, user, note=note)


def _merged(name: str, base: bytes, user: bytes, new: bytes, *, is_stack: bool) -> Outcome:
    if name == ENV:
        return Outcome(name, user, env_file.merged(base, user, new))
    merged = _merged_stack(base, user, new) if is_stack else merge(base, user, new)
    return Outcome(name, user, merged.data, merged.conflicts)


def _merged_stack(base: bytes, user: bytes, new: bytes) -> Merged:
    """A compose file: its first line and its checksum are the kit's own, and those of the new rendering."""
    merged = merge(*(_with_own_lines(text, HEAD, MARKED) for text in (base, user, new)))
    head, mark = (
        next((line for line in new.split(b"\n") if line.startswith(start)), b"") for start in (HEAD, MARKED)
    )
    data = _with_own_lines(merged.data, head, mark)
    ending = b"\r\n" if b"\r\n" in user else b"\n"
    return Merged(data if HEAD in data else head + ending + data, merged.conflicts)


def _with_own_lines(text: bytes, head: bytes, mark: bytes) -> bytes:
    """The text with these as its first line and its checksum, wherever it has them."""
    lines = text.split(b"\n")
    for start, own in ((HEAD, head), (MARKED, mark)):
        for at, line in enumerate(lines):
            if line.startswith(start):
                lines[at] = own + b"\r" * line.endswith(b"\r")
    return b"\n".join(lines)
