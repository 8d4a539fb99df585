"""Files that are replaced as one: killed at each step, what is there is all old, or is finished by the next command."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from ernie_deploy.errors import UsageError
from ernie_deploy.upgrade import history
from ernie_deploy.upgrade.history import Cause
from ernie_deploy.upgrade.transaction import alone, finish, is_pending, replace_files

CAUSE = Cause(kind="upgrade", command="ernie-deploy upgrade", engine="0.32.0")
OLD = {"compose.yml": b"old\n", ".env": b"PORT=1\n", "scripts/gone.py": b"gone\n", "mine.txt": b"mine\n"}
NEW = {
    "compose.yml": b"new\n",
    "scripts/fresh.py": b"fresh\n",
    "scripts/gone.py": None,
    ".env": b"PORT=1\n#NEW=\n",
}


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing through to the disk takes most of the time, and only a loss of power would show the difference."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def laid(folder: Path) -> Path:
    for name, data in OLD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def seen(folder: Path) -> dict[str, bytes]:
    """What the user sees in the folder: all but what the kit keeps for itself."""
    files = (path for path in folder.rglob("*") if path.is_file() and history.OWN not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


AFTER = {name: data for name, data in {**OLD, **NEW}.items() if data is not None}


def back(folder: Path) -> None:
    chosen = history.standing(folder)[:1]
    cause = Cause(kind="rollback", command="r", engine="0.32.0", undoes=tuple(one.name for one in chosen))
    replace_files(folder, history.before(folder, chosen), cause)


def test_there_and_back_is_byte_for_byte(tmp_path: Path) -> None:
    folder = laid(tmp_path)
    assert replace_files(folder, NEW, CAUSE)
    assert seen(folder) == AFTER
    assert list(history.edited_since(folder, history.standing(folder))) == []
    back(folder)
    assert seen(folder) == OLD
    assert history.standing(folder) == []
    assert [record.cause.kind for record in history.records(folder)] == ["rollback", "upgrade"]


def test_nothing_to_do_leaves_nothing(tmp_path: Path) -> None:
    folder = laid(tmp_path)
    with alone(folder):
        assert replace_files(folder, {"compose.yml": b"old\n", "scripts/none.py": None}, CAUSE) is None
    assert not (folder / history.OWN).exists()


# Forks for each line that it reads, `STEP DIRECTION FOLDER`; the child kills itself at that step: the Nth time that
# Python opens, renames, makes, changes or removes anything below the folder. 0 is never.
STEPS = """
import os, signal, sys
from pathlib import Path
from ernie_deploy.upgrade import history
from ernie_deploy.upgrade.history import Cause
from ernie_deploy.upgrade.transaction import alone, finish, replace_files

# What a kill leaves does not depend on it, and it takes most of the time.
os.fsync = lambda handle: None
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "shutil.rmtree"}

def change(step, direction, folder):
    count = 0
    def hook(event, args):
        nonlocal count
        if event in EVENTS and any(folder in os.fsdecode(arg) for arg in args if isinstance(arg, (str, bytes, Path))):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    place = Path(folder)
    with alone(place):
        finish(place)
        chosen = history.standing(place)[:1]
        if direction == "back":
            cause = Cause(kind="rollback", command="r", engine="0.32.0", undoes=tuple(one.name for one in chosen))
            replace_files(place, history.before(place, chosen), cause)
        else:
            replace_files(place, NEW, Cause(kind="upgrade", command="u", engine="0.32.0"))

for line in sys.stdin:
    step, direction, folder = line.rstrip().split(" ", 2)
    if not (child := os.fork()):
        change(int(step), direction, folder)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
Run = Callable[[Path, int, str], int]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Change a folder in a process that is killed at a step; returns its exit code."""
    code = f"NEW = {NEW!r}\n{STEPS}"
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    words = [sys.executable, "-c", code]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdin
        assert process.stdout
        send, answers = process.stdin, process.stdout

        def killed(folder: Path, step: int, direction: str) -> int:
            print(step, direction, folder, file=send, flush=True)
            return int(answers.readline())

        yield killed
        send.close()


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_kill_at_any_step_leaves_all_of_one_or_what_is_finished_later(
    run: Run, tmp_path: Path, direction: str
) -> None:
    step, pending = 0, 0
    while True:
        step += 1
        folder = laid(tmp_path / str(step))
        if direction == "back":
            replace_files(folder, NEW, CAUSE)
        first, last = (OLD, AFTER) if direction == "there" else (AFTER, OLD)
        code = run(folder, step, direction)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        if is_pending(folder):
            pending += 1
            assert finish(folder)
            assert seen(folder) == last, step
        else:
            assert seen(folder) in (first, last), step
            assert finish(folder) is None
        assert not list((folder / history.OWN).glob("staging-*")), step
        # What was killed can be repeated, and there is a way back to the first bytes.
        if seen(folder) == first:
            assert run(folder, 0, direction) == 0
        assert seen(folder) == last
        if direction == "there":
            back(folder)
            assert seen(folder) == OLD
    assert step > 20
    assert pending > 4
    assert seen(folder) == last


NAMES = st.sampled_from(["compose.yml", ".env", "scripts/a.py", "scripts/b.py"])
FOLDERS = st.dictionaries(NAMES, st.binary(max_size=8), max_size=4)


@settings(max_examples=60)
@given(FOLDERS, st.lists(FOLDERS, min_size=1, max_size=3), st.data())
def test_any_number_of_changes_is_taken_back(
    tmp_path_factory: pytest.TempPathFactory,
    first: dict[str, bytes],
    later: list[dict[str, bytes]],
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    states, all_names = [first], ["compose.yml", ".env", "scripts/a.py", "scripts/b.py"]
    for state in [first, *later]:
        record = replace_files(folder, {name: state.get(name) for name in all_names}, CAUSE)
        assert seen(folder) == state
        if record and state is not first:
            states.append(state)
    kept = history.standing(folder)
    steps = data.draw(st.integers(0, len(states) - 1))
    cause = Cause(kind="rollback", command="r", engine="x", undoes=tuple(one.name for one in kept[:steps]))
    assert list(history.edited_since(folder, kept[:steps])) == []
    replace_files(folder, history.before(folder, kept[:steps]), cause)
    assert seen(folder) == states[len(states) - 1 - steps]
    assert len(history.standing(folder)) == len(kept) - steps


def test_a_way_back_that_nets_nothing_is_used_up_too(tmp_path: Path) -> None:
    for data in (b"one\n", None):
        replace_files(tmp_path, {"compose.yml": data}, CAUSE)
    kept = history.standing(tmp_path)
    cause = Cause(kind="rollback", command="r", engine="x", undoes=tuple(one.name for one in kept))
    assert len(kept) == 2
    replace_files(tmp_path, history.before(tmp_path, kept), cause)
    assert history.standing(tmp_path) == []


def test_an_edit_since_is_seen(tmp_path: Path) -> None:
    folder = laid(tmp_path)
    replace_files(folder, NEW, CAUSE)
    (folder / "compose.yml").write_bytes(b"new\nmine\n")
    (folder / "scripts/gone.py").write_bytes(b"mine\n")
    assert list(history.edited_since(folder, history.standing(folder))) == ["compose.yml", "scripts/gone.py"]


def test_modes_stay_and_new_files_can_be_read_but_for_env(tmp_path: Path) -> None:
    folder = laid(tmp_path)
    (folder / ".env").chmod(0o600)
    (folder / "compose.yml").chmod(0o664)
    replace_files(folder, NEW, CAUSE)
    modes = {name: (folder / name).stat().st_mode & 0o777 for name in AFTER}
    assert (modes["compose.yml"], modes[".env"], modes["scripts/fresh.py"]) == (0o664, 0o600, 0o644)
    kept = next((folder / history.PREVIOUS).glob("2*"))
    assert (kept / "before/.env").stat().st_mode & 0o777 == 0o600
    assert (folder / history.PREVIOUS).stat().st_mode & 0o777 == 0o700


def test_an_edit_while_pending_is_not_overwritten(run: Run, tmp_path: Path) -> None:
    for step in range(1, 200):
        folder = laid(tmp_path / str(step))
        run(folder, step, "there")
        if is_pending(folder):
            break
    (folder / "compose.yml").write_bytes(b"mine\n")
    with pytest.raises(UsageError, match="was edited after a command"):
        finish(folder)
    assert (folder / "compose.yml").read_bytes() == b"mine\n"


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "scripts/../../x"])
def test_a_record_leads_nowhere_outside(tmp_path: Path, name: str) -> None:
    folder = laid(tmp_path)
    replace_files(folder, NEW, CAUSE)
    record = next((folder / history.PREVIOUS).glob("2*")) / history.RECORD
    record.write_text(record.read_text().replace("scripts/fresh.py", name))
    with pytest.raises(UsageError, match="is no record of an upgrade"):
        history.records(folder)


def test_kept_bytes_that_were_changed_are_not_brought_back(tmp_path: Path) -> None:
    folder = laid(tmp_path)
    replace_files(folder, NEW, CAUSE)
    (next((folder / history.PREVIOUS).glob("2*")) / "before/compose.yml").write_bytes(b"other\n")
    with pytest.raises(UsageError, match="is not what was kept there"):
        history.before(folder, history.standing(folder))


@pytest.mark.parametrize("kind", ["file", "folder", "own"])
def test_a_link_is_not_written_through(tmp_path: Path, kind: str) -> None:
    folder, elsewhere = laid(tmp_path / "s"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "file":
        (folder / "compose.yml").rename(elsewhere / "compose.yml")
        (folder / "compose.yml").symlink_to(elsewhere / "compose.yml")
    elif kind == "folder":
        (folder / "scripts").rename(elsewhere / "scripts")
        (folder / "scripts").symlink_to(elsewhere / "scripts")
    else:
        (folder / history.OWN).symlink_to(elsewhere)
    before = seen(tmp_path)
    with pytest.raises(UsageError, match="is a link"), alone(folder):
        replace_files(folder, NEW, CAUSE)
    assert seen(tmp_path) == before
    assert not list(elsewhere.glob("staging-*"))


def test_a_folder_that_cannot_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    folder = laid(tmp_path / "s")
    (folder / "scripts/fresh.py").mkdir()
    (folder / "scripts/fresh.py/x").write_bytes(b"")
    before = seen(folder)
    with pytest.raises(UsageError):
        replace_files(folder, NEW, CAUSE)
    assert seen(folder) == before
    assert not is_pending(folder)


def test_two_commands_do_not_change_one_folder_at_once(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(UsageError, match="Another command changes"), alone(tmp_path):
        pass
