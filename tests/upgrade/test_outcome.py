"""What becomes of each file: the kit's own lines, `.env`, files that come and go, and files that were deleted."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_deploy.render.checksum import with_checksum
from ernie_deploy.upgrade import env_file
from ernie_deploy.upgrade.outcome import Outcome, Versions, outcomes

OLD = with_checksum(
    "# ernie-deploy render h100\n# old\nservices:\n  serve:\n    image: v1\n    user: a\n"
).encode()
NEW = with_checksum(
    "# ernie-deploy render h100 --engine 0.33.0\n# new\nservices:\n  serve:\n    image: v2\n    user: a\n"
).encode()


def of(name: str, base: bytes | None, user: bytes | None, new: bytes | None) -> Outcome:
    (outcome,) = outcomes({name: Versions(base, user, new)}, "compose.yml")
    return outcome


def test_an_unedited_stack_becomes_the_new_rendering() -> None:
    assert of("compose.yml", OLD, OLD, NEW).after == NEW
    crlf = [text.replace(b"\n", b"\r\n") for text in (OLD, NEW)]
    assert of("compose.yml", OLD, crlf[0], NEW).after == crlf[1]


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (lambda text: text + b"# mine\n", b"# mine"),
        (lambda text: text.replace(b"    image: v1\n", b"    image: v1\n    tty: true\n"), b"    tty: true"),
        (lambda text: b"# mine\n" + text, b"# mine"),
        (lambda text: text.replace(b"user: a", b"user: b"), b"    user: b"),
        (lambda text: text.rstrip(b"\n"), b"    image: v2"),
        (lambda text: text.partition(b"# sha256")[0], b"    image: v2"),
    ],
)
def test_an_edited_stack_has_both(edit: object, line: bytes) -> None:
    user = edit(OLD)  # type: ignore[operator]
    outcome = of("compose.yml", OLD, user, NEW)
    assert not outcome.conflicts
    lines = (outcome.after or b"").split(b"\n")
    assert line in lines
    assert b"    image: v2" in lines
    assert b"# ernie-deploy render h100 --engine 0.33.0" in lines
    # What the user did to the kit's own lines stands too.
    assert of("compose.yml", OLD, user, OLD).after == user


def test_a_first_line_that_is_gone_is_written_again() -> None:
    outcome = of("compose.yml", OLD, OLD.split(b"\n", 1)[1], NEW)
    assert (outcome.after, outcome.conflicts) == (NEW, ())


def test_a_conflict_is_numbered_as_in_the_file() -> None:
    outcome = of("compose.yml", OLD, OLD.replace(b"image: v1", b"image: mine"), NEW)
    assert outcome.changes
    (conflict,) = outcome.conflicts
    assert (conflict.line, conflict.user, conflict.new) == (5, (b"    image: mine",), (b"    image: v2",))
    assert outcome.after == outcome.before.replace(b"h100\n", b"h100 --engine 0.33.0\n").replace(  # type: ignore[union-attr]
        OLD.split(b"\n")[-2], NEW.split(b"\n")[-2]
    ).replace(b"# old", b"# new")


@pytest.mark.parametrize(
    ("name", "versions", "after", "noted"),
    [
        ("scripts/a.py", (None, None, b"new\n"), b"new\n", False),  # comes
        ("scripts/a.py", (b"old\n", b"old\n", None), None, False),  # goes
        ("scripts/a.py", (b"old\n", b"old\r\n", None), None, False),
        ("scripts/a.py", (b"old\n", b"mine\n", None), b"mine\n", True),  # goes, but was edited
        ("scripts/a.py", (b"old\n", None, b"new\n"), b"new\n", True),  # was deleted, and is needed
        ("README.md", (b"old\n", None, b"new\n"), None, False),  # was deleted for good
        ("scripts/a.py", (None, b"new\n", b"new\n"), b"new\n", False),
        ("scripts/a.py", (None, None, None), None, False),
    ],
)
def test_files_come_and_go(
    name: str, versions: tuple[bytes | None, bytes | None, bytes | None], after: bytes | None, noted: bool
) -> None:
    outcome = of(name, *versions)
    assert (outcome.after, outcome.conflicts, bool(outcome.note)) == (after, (), noted)


def test_a_file_of_the_users_is_not_taken_for_a_new_one() -> None:
    outcome = of("scripts/group.py", None, b"mine\n", b"the kit's\n")
    assert outcome.conflicts
    assert outcome.after == b"mine\n"


ENV_OLD = b"# Settings.\n\n# Port.\n#PORT=8000\n\n# Limit.\n#LIMIT=100\n\n# Gone.\n#GONE=1\n"
ENV_NEW = (
    b"# Settings.\n\n# Port.\n#PORT=8000\n\n# Limit.\n#LIMIT=200\n\n# Fresh,\n# on two lines.\n#FRESH=7\n"
)


@pytest.mark.parametrize(
    ("user", "merged"),
    [
        (ENV_OLD, ENV_NEW),
        (ENV_OLD.replace(b"#PORT=8000", b"PORT=9000"), ENV_NEW.replace(b"#PORT=8000", b"PORT=9000")),
        (b"PORT=9000\n", b"PORT=9000\n\n# Fresh,\n# on two lines.\n#FRESH=7\n"),
        (b"PORT=9000", b"PORT=9000\n\n# Fresh,\n# on two lines.\n#FRESH=7\n"),
        (b"A=1\r\nPORT=9000\r\n", b"A=1\r\nPORT=9000\r\n\r\n# Fresh,\r\n# on two lines.\r\n#FRESH=7\r\n"),
        (b"export FRESH=1\n", b"export FRESH=1\n"),
        # A value that was set on the line that the new version changes stands.
        (ENV_OLD.replace(b"#LIMIT=100", b"LIMIT=50"), None),
        (ENV_OLD.replace(b"#GONE=1", b"GONE=5"), None),
        (b"", b"\n# Fresh,\n# on two lines.\n#FRESH=7\n"),
    ],
)  # fmt: skip
def test_values_of_env_stand_and_new_variables_come_as_comments(user: bytes, merged: bytes | None) -> None:
    after = of(".env", ENV_OLD, user, ENV_NEW).after or b""
    assert merged in (None, after)
    values = [line for line in user.splitlines() if line and not line.startswith(b"#")]
    assert [line for line in after.splitlines() if line and not line.startswith(b"#")] == values
    assert b"FRESH" in after
    assert of(".env", ENV_NEW, after, ENV_NEW).after == after


LINES = st.lists(
    st.sampled_from(
        [*ENV_OLD.split(b"\n"), *ENV_NEW.split(b"\n"), b"PORT=1", b"GONE=2", b"MINE=3", b"LIMIT=4"]
    ),
    max_size=15,
)


@settings(max_examples=300)
@given(LINES)
def test_no_value_of_env_is_lost_whatever_it_says(lines: list[bytes]) -> None:
    user = b"".join(line + b"\n" for line in lines)
    after = env_file.merged(ENV_OLD, user, ENV_NEW)
    count = Counter(line for line in lines if line and not line.startswith(b"#"))
    assert Counter(line for line in after.split(b"\n") if line and not line.startswith(b"#")) == count
    assert env_file.names(ENV_NEW) <= env_file.names(after) | env_file.names(ENV_OLD)
