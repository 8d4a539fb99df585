"""`upgrade` and `rollback` of real folders: the edits stand, what cannot be merged stops everything, and the way back."""

import json
import os
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import FULL, ROOT, kit, planned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from locks import lock_of
from test_doctor import FixtureHost

from ernie_deploy.catalog import Catalog
from ernie_deploy.commands.header import request_of_header
from ernie_deploy.commands.rollback_hint import rollback_hint
from ernie_deploy.errors import NotReady, Refused
from ernie_deploy.host.facts import collect
from ernie_deploy.plan.lock import Lock, read_lock, text_of
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.safe_io.reading import first_line
from ernie_deploy.upgrade import history
from ernie_deploy.upgrade.driver import another_image
from ernie_deploy.upgrade.history import Cause
from ernie_deploy.upgrade.proposal import Proposal, Relock, propose
from ernie_deploy.upgrade.transaction import finish, is_pending, replace_files

OLD, NEW = "0.32.0", "0.33.0"
EDITS = {
    "compose.yml": [
        ("--disable-fastapi-docs]", "--disable-fastapi-docs, --max-num-seqs=64]"),
        ("stop_grace_period: 90s", "stop_grace_period: 95s"),
        ('    image: "vllm/vllm-openai:v0.32.0"\n    user:', '    image: "vllm/vllm-openai:v0.32.0"\n    tty: true\n    user:'),
    ],
    ".env": [("#PORT=8000", "PORT=9000")],
    "scripts/canary.py": [("import ", "# mine\nimport ")],
    "README.md": [("# ERNIE", "Ours.\n\n# ERNIE")],
}  # fmt: skip


def seen(folder: Path) -> dict[str, bytes]:
    """What the user sees in the folder: all but what the kit keeps for itself."""
    files = (path for path in folder.rglob("*") if path.is_file() and history.OWN not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def edit(folder: Path, edits: dict[str, list[tuple[str, str]]] = EDITS) -> None:
    for name, pairs in edits.items():
        text = (folder / name).read_text()
        for old, new in pairs:
            assert old in text, (name, old)
            text = text.replace(old, new, 1)
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "s"
    assert kit("init", str(folder), "h100", "--engine", OLD).returncode == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A folder as `init` makes it with the older engine."""
    import shutil

    return Path(shutil.copytree(made, tmp_path / "s"))


def unasked(plan: Plan, before: Lock) -> Lock:
    raise AssertionError("no lock lacks anything here")


def proposed(path: Path, engine: str = NEW, relock: Relock = unasked) -> Proposal:
    request = request_of_header(first_line(path), path.parent)
    return propose(path, (request, request), engine, relock)


def test_an_edited_folder_goes_there_and_back(folder: Path, compose: str) -> None:
    edit(folder)
    (folder / "mine.txt").write_text("mine")
    before = seen(folder)
    done = kit("upgrade", str(folder), "--engine", NEW)
    assert done.returncode == 0, done.stderr
    assert "~ serve image: vllm/vllm-openai:v0.32.0 -> vllm/vllm-openai:v0.33.0" in done.stdout
    assert "the client of chats no longer counts" in done.stdout
    assert "= serve --tool-strict-level: auto -> unset" in done.stdout
    assert "recreates: serve, fetch; at its next run: bench" in done.stdout
    after = seen(folder)
    for name, pairs in EDITS.items():
        for _, new in pairs:
            line = next(line for line in new.split("\n") if line)
            assert line.replace(OLD, NEW) in after[name].decode()
    assert after["compose.yml"].startswith(f"# ernie-deploy render h100 --engine {NEW}\n".encode())
    assert OLD.encode() not in after["compose.yml"]
    assert after["mine.txt"] == b"mine"
    assert subprocess.run([compose, "-f", folder / "compose.yml", "config", "-q"]).returncode == 0
    again = kit("upgrade", str(folder), "--engine", NEW, "--check")
    assert (again.returncode, again.stdout) == (0, f"{folder / 'compose.yml'} is up to date: vLLM {NEW}\n")
    back = kit("rollback", str(folder))
    assert back.returncode == 0, back.stderr
    assert seen(folder) == before


def test_the_way_back_is_listed_and_used_once(folder: Path) -> None:
    assert kit("rollback", str(folder)).returncode == 2
    assert kit("upgrade", str(folder), "--engine", NEW).returncode == 0
    (row,) = json.loads(kit("rollback", str(folder), "--list", "--json").stdout)
    assert row["name"].endswith(f"-{OLD}")
    assert (row["by"], row["can go back"], row["files"]) == ("upgrade", True, ["compose.yml", "README.md"])
    assert row["command"] == f"ernie-deploy upgrade {folder} --engine {NEW}"
    shown = kit("rollback", str(folder), "--dry-run")
    assert '+    image: "vllm/vllm-openai:v0.32.0"' in shown.stdout
    assert NEW in (folder / "compose.yml").read_text()
    assert kit("rollback", str(folder)).returncode == 0
    done = kit("rollback", str(folder))
    assert (done.returncode, "No earlier version is kept" in done.stderr) == (2, True)


def test_edits_made_since_are_not_lost_unasked(folder: Path) -> None:
    before = seen(folder)
    assert kit("upgrade", str(folder), "--engine", NEW).returncode == 0
    edit(folder, {"compose.yml": [("stop_grace_period: 90s", "stop_grace_period: 99s")]})
    edited = seen(folder)
    done = kit("rollback", str(folder))
    assert (done.returncode, f"{folder / 'compose.yml'} was edited since." in done.stderr) == (2, True)
    assert seen(folder) == edited
    assert kit("rollback", str(folder), "--force").returncode == 0
    assert seen(folder) == before
    kept = [path.read_text() for path in (folder / ".ernie/previous").rglob("before/compose.yml")]
    assert any("stop_grace_period: 99s" in text for text in kept)


def test_check_and_dry_run_write_nothing(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = kit("upgrade", str(folder), "--engine", NEW, "--check")
    assert (done.returncode, f"next:  ernie-deploy upgrade {folder} --engine {NEW}" in done.stderr) == (
        5,
        True,
    )
    assert kit("upgrade", str(folder), "--engine", NEW, "--dry-run").returncode == 0
    assert kit("upgrade", str(folder), "--check").returncode == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_cannot_be_merged_is_shown_and_nothing_is_written(folder: Path) -> None:
    edit(
        folder,
        {"compose.yml": [('image: "vllm/vllm-openai:v0.32.0"', 'image: "mirror/vllm-openai:v0.32.0"')]},
    )
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    number = (folder / "compose.yml").read_text().split("\n").index(
        '    image: "mirror/vllm-openai:v0.32.0"'
    ) + 1
    done = kit("upgrade", str(folder), "--engine", NEW)
    assert done.returncode == 4
    assert f"compose.yml:{number} was edited, and the new version has other lines there:" in done.stderr
    for line in (
        '  rendered      image: "vllm/vllm-openai:v0.32.0"',
        '  yours         image: "mirror/vllm-openai:v0.32.0"',
        '  new           image: "vllm/vllm-openai:v0.33.0"',
    ):
        assert line in done.stderr.splitlines()
    assert kit("upgrade", str(folder), "--engine", NEW, "--check").returncode == 5
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_flag_of_the_users_that_is_gone_stops_it_unless_forced(folder: Path) -> None:
    (folder / "compose.override.yml").write_text(
        "services: {serve: {command: [m, '--watchdog-config={}']}}\n"
    )
    there = kit("upgrade", str(folder), "--engine", NEW)
    assert there.returncode == 0, there.stderr
    # The flag came with the newer version, so that the way to the older one breaks it.
    before = seen(folder)
    done = kit("upgrade", str(folder), "--engine", OLD)
    assert done.returncode == 4
    assert "watchdog-config" in done.stderr
    assert seen(folder) == before
    assert kit("upgrade", str(folder), "--engine", OLD, "--force").returncode == 0


def test_edits_that_say_what_the_new_version_says_are_refused(folder: Path) -> None:
    addition = "VLLM_FLASHINFER_AUTOTUNE_CACHE_DIR: /mine"
    pairs = [("    environment:\n", f"    environment:\n      {addition}\n")]
    edit(folder, {"compose.yml": pairs})
    done = kit("upgrade", str(folder), "--engine", NEW)
    # Within a merge key the user's own wins, as before.
    assert done.returncode == 0, done.stderr
    assert addition in (folder / "compose.yml").read_text()


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
def test_a_file_that_stands_alone(tmp_path: Path, ending: bytes, compose: str) -> None:
    path = tmp_path / "compose.yml"
    assert kit("render", "mi300x", "--engine", OLD, "-o", str(path)).returncode == 0
    edit(tmp_path, {"compose.yml": EDITS["compose.yml"][1:2]})
    path.write_bytes(path.read_bytes().replace(b"\n", ending))
    (tmp_path / ".env").write_text("PORT=9000\n")
    before = seen(tmp_path)
    done = kit("upgrade", str(path), "--engine", NEW)
    assert done.returncode == 0, done.stderr
    data = path.read_bytes()
    assert data.count(ending) == data.count(b"\n")
    assert b"v0.33.0" in data
    assert b"stop_grace_period: 95s" in data
    assert (tmp_path / ".env").read_text() == "PORT=9000\n"
    assert subprocess.run([compose, "-f", path, "config", "-q"]).returncode == 0
    assert kit("rollback", str(path)).returncode == 0
    assert seen(tmp_path) == before


def test_a_file_without_its_first_line_asks_what_it_was_rendered_with(folder: Path) -> None:
    path = folder / "compose.yml"
    path.write_text(path.read_text().partition("\n")[2])
    done = kit("upgrade", str(folder), "--engine", NEW)
    assert (done.returncode, "--as 'TARGET OPTIONS'" in done.stderr) == (2, True)
    wrong = kit("upgrade", str(folder), "--engine", NEW, "--as", "h100 --no-such-option")
    assert (wrong.returncode, "--as asks for nothing that can be rendered" in wrong.stderr) == (2, True)
    done = kit("upgrade", str(folder), "--engine", NEW, "--as", "h100")
    assert done.returncode == 0, done.stderr
    assert path.read_text().startswith(f"# ernie-deploy render h100 --engine {NEW}\n")


def test_other_options_keep_the_edits_too(folder: Path, compose: str) -> None:
    edit(folder)
    done = kit("upgrade", str(folder), "--as", "h100 --tp 2 --profile mtp")
    assert done.returncode == 0, done.stderr
    text = (folder / "compose.yml").read_text()
    assert text.startswith("# ernie-deploy render h100 --profile mtp --tp 2\n")
    assert "--tensor-parallel-size=2" in text
    assert "stop_grace_period: 95s" in text
    assert "--max-num-seqs=64" in text
    assert subprocess.run([compose, "-f", folder / "compose.yml", "config", "-q"]).returncode == 0


# --- the driver ---


@pytest.mark.parametrize(
    ("host", "target", "fields"),
    [
        ("amdgpu-30", "mi300x", {"rocm": "7.2"}),
        ("amdgpu-31", "mi300x", None),
        ("h100", "h100", None),
        ("laptop", "h100", None),  # no GPU at all: another host serves
        ("below-floor", "h100", None),  # nor does it run the old image
    ],
)
def test_a_driver_that_is_too_old_for_the_new_image(
    host: str, target: str, fields: dict[str, str] | None
) -> None:
    old, new = planned(target, engine=OLD), planned(target, engine=NEW)
    facts = collect(FixtureHost(host), new.target.vendor)
    fitting = another_image(facts, old, new, Catalog())
    assert fitting == (Request(target=target, engine=NEW, **fields) if fields else None)  # type: ignore[arg-type]


def test_no_image_for_the_driver_is_refused() -> None:
    old, new = planned("h100", engine=OLD, cuda="12.9"), planned("h100", engine=NEW)
    facts = collect(FixtureHost("below-floor"), "nvidia")
    with pytest.raises(Refused, match=r"No image of vLLM 0\.33\.0 runs on NVIDIA driver 570"):
        another_image(facts, old, new, Catalog())


def test_the_command_for_the_image_that_runs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ernie_deploy import cli

    folder = str(tmp_path / "s")
    assert kit("init", folder, "mi300x", "--engine", OLD).returncode == 0
    before = seen(tmp_path)
    monkeypatch.setattr("ernie_deploy.host.probes.LocalHost", lambda: FixtureHost("amdgpu-30"))
    with pytest.raises(SystemExit) as stopped:
        cli.main(["upgrade", folder, "--engine", NEW])
    step = f"ernie-deploy upgrade {folder} --engine {NEW} --as 'mi300x --rocm 7.2'"
    assert (stopped.value.code, f"next:  {step};" in capsys.readouterr().err) == (4, True)
    assert seen(tmp_path) == before
    with pytest.raises(SystemExit) as done:
        cli.main(shlex.split(step)[1:])
    assert done.value.code == 0
    assert f"vllm/vllm-openai-rocm:v{NEW}-rocm72" in (tmp_path / "s/compose.yml").read_text()


# --- the lock ---


def test_a_lock_gets_what_it_lacks_and_goes_back_too(folder: Path) -> None:
    lock = folder / "ernie.lock"
    lock.write_text(text_of(lock_of(Request(target="h100", engine=OLD))))
    assert kit("upgrade", str(folder), "--engine", OLD).returncode == 0
    locked = seen(folder)
    assert b"v0.32.0@sha256:" in locked["compose.yml"]
    assert locked["compose.yml"].startswith(b"# ernie-deploy render h100 --engine 0.32.0 --lock ernie.lock\n")
    asked: list[Plan] = []

    def relock(plan: Plan, before: Lock) -> Lock:
        asked.append(plan)
        assert before == read_lock(lock)
        return lock_of(plan.request)

    found = proposed(folder / "compose.yml", relock=relock)
    replace_files(folder, found.files, Cause(kind="upgrade", command="u", engine=OLD))
    assert [plan.engine for plan in asked] == [NEW]
    assert read_lock(lock).engine == NEW
    assert b"v0.33.0@sha256:" in seen(folder)["compose.yml"]
    assert not found.conflicting
    assert kit("rollback", str(folder)).returncode == 0
    assert seen(folder) == locked


def test_a_lock_that_cannot_be_completed_leaves_everything(folder: Path) -> None:
    (folder / "ernie.lock").write_text(text_of(lock_of(Request(target="h100", engine=OLD))))
    before = seen(folder)
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "DOCKER_HOST": "unix:///nowhere.sock"}
    done = kit("upgrade", str(folder), "--engine", NEW, env=env)
    assert done.returncode in (1, 6), done.stderr
    assert "asking the registries" in done.stderr
    assert "Traceback" not in done.stderr
    assert seen(folder) == before


def test_an_older_kits_rendering_is_told_from_the_users_edits(folder: Path) -> None:
    """The rendering that is kept is the base, not what today's kit would render."""
    import hashlib

    for name in ("compose.yml", ".ernie/rendered/compose.yml"):
        text = (folder / name).read_text().replace("pids_limit: 4096", "pids_limit: 1024")
        above = text.rpartition("# sha256")[0]
        checksum = hashlib.sha256(above.encode()).hexdigest()
        (folder / name).write_text(f"{above}# sha256 of the lines above: {checksum}\n")
    edit(folder, {"compose.yml": [("stop_grace_period: 90s", "stop_grace_period: 95s")]})
    found = proposed(folder / "compose.yml")
    text = (found.stack.after or b"").decode()
    assert (found.exact, "pids_limit: 4096" in text, "stop_grace_period: 95s" in text) == (True, True, True)
    (folder / ".ernie/rendered/compose.yml").unlink()
    unknown = proposed(folder / "compose.yml")
    text = (unknown.stack.after or b"").decode()
    # Nobody knows whose line it is, so it stands, and that is said.
    assert (unknown.exact, "pids_limit: 1024" in text, "stop_grace_period: 95s" in text) == (
        False,
        True,
        True,
    )
    done = kit("upgrade", str(folder), "--engine", NEW, "--dry-run")
    assert "another version of the kit rendered it" in done.stdout


@pytest.mark.parametrize("name", ["compose.yml", "scripts", ".ernie"])
def test_links_are_not_written_through(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = kit("upgrade", str(folder), "--engine", NEW)
    assert done.returncode == (0 if name == "scripts" else 2), done.stderr
    if name != "scripts":
        assert "is a link" in done.stderr
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("words", [["upgrade"], ["rollback"], ["upgrade", "--check"], ["rollback", "--list"]])
def test_a_folder_without_a_stack_is_one_sentence(tmp_path: Path, words: list[str]) -> None:
    for place in (tmp_path, tmp_path / "none"):
        done = kit(words[0], str(place), *words[1:])
        assert done.returncode == (0 if words[-1] == "--list" else 2)
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_was_broken_off_is_finished(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = seen(folder)
    found = proposed(folder / "compose.yml")
    moves: list[object] = []

    def killed(fresh: Path, path: Path) -> None:
        moves.append(path)
        if len(moves) == 3:
            raise KeyboardInterrupt
        fresh.rename(path)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        replace_files(folder, found.files, Cause(kind="upgrade", command="u", engine=OLD))
    monkeypatch.undo()
    assert is_pending(folder)
    assert kit("upgrade", str(folder), "--check").returncode == 5
    up = kit("up", str(folder / "compose.yml"), "--no-preflight", "--dry-run")
    assert (up.returncode, "was interrupted" in up.stderr) == (5, True)
    done = kit("rollback", str(folder))
    assert (done.returncode, "finished what was interrupted: u" in done.stderr) == (0, True)
    assert seen(folder) == before


# --- any edits ---

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=12)
EDIT = st.tuples(
    st.sampled_from(["insert", "change", "delete"]),
    st.sampled_from(["compose.yml", ".env", "scripts/serve.py", "README.md"]),
    st.floats(0, 1, exclude_max=True),
    st.one_of(
        WORDS.map(lambda text: f"# {text}"), WORDS, st.sampled_from(["    tty: true", "PORT=1", "x-a: b"])
    ),
)


def edited(text: bytes, kind: str, place: float, line: str) -> bytes:
    lines = text.split(b"\n")
    at = int(place * len(lines))
    lines[at : at + (kind != "insert")] = [] if kind == "delete" else [line.encode()]
    return b"\n".join(lines)


def is_accepted(compose: str, path: Path) -> bool:
    return subprocess.run([compose, "-f", path, "config", "-q"], capture_output=True).returncode == 0


@settings(
    max_examples=200 if FULL else 20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(EDIT, max_size=5), st.booleans())
def test_no_line_of_the_users_is_lost_and_no_file_is_half_written(
    made: Path, tmp_path_factory: pytest.TempPathFactory, compose: str, edits: list[tuple[str, str, float, str]], crlf: bool
) -> None:  # fmt: skip
    import shutil

    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("any") / "s"))
    path, pristine = folder / "compose.yml", seen(folder)
    for kind, name, place, line in edits:
        (folder / name).write_bytes(edited((folder / name).read_bytes(), kind, place, line))
    if crlf:
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    before, was_accepted = seen(folder), is_accepted(compose, path)
    request = request_of_header("# ernie-deploy render h100")
    try:
        found = propose(path, (request, request), NEW, unasked)
    except Refused:
        assert was_accepted
        return
    if found.conflicting:
        assert all(conflict.user != conflict.new for one in found.conflicting for conflict in one.conflicts)
        assert seen(folder) == before
        return
    replace_files(folder, found.files, Cause(kind="upgrade", command="u", engine=OLD))
    after = seen(folder)
    assert after.keys() == before.keys()
    for name, data in before.items():
        own = Counter(data.replace(b"\r", b"").split(b"\n")) - Counter(pristine[name].split(b"\n"))
        lost = own - Counter(after[name].replace(b"\r", b"").split(b"\n"))
        # The kit's own lines, should somebody have written into one, and the last line's end.
        assert not [
            line for line in lost if line and not line.startswith((b"# ernie-deploy render", b"# sha256"))
        ], name
    assert is_accepted(compose, path) or not was_accepted or found.errors
    chosen = history.standing(folder)
    replace_files(folder, history.before(folder, chosen), Cause(kind="rollback", command="r", engine=OLD))
    assert seen(folder) == before
    assert finish(folder) is None


# --- `up` ---


def test_a_start_that_fails_after_an_upgrade_says_how_to_go_back(folder: Path) -> None:
    with pytest.raises(NotReady) as before, rollback_hint(folder):
        raise NotReady("It was not ready.", next_step="read the log")
    assert before.value.next_step == "read the log"
    replace_files(
        folder, proposed(folder / "compose.yml").files, Cause(kind="upgrade", command="u", engine=OLD)
    )
    with pytest.raises(NotReady) as after, rollback_hint(folder):
        raise NotReady("It was not ready.", next_step="read the log")
    assert after.value.next_step == f"read the log; or back to vLLM {OLD}: ernie-deploy rollback {folder}"
    with rollback_hint(folder):
        pass
    with pytest.raises(NotReady) as later, rollback_hint(folder):
        raise NotReady("It was not ready.", next_step="read the log")
    # It has served since, so that the upgrade is not what failed.
    assert later.value.next_step == "read the log"


# --- a disk and folders that take nothing ---

FAULTS = {
    "full": "ulimit -f 2 && exec {}",
    "read-only": "mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec {}",
}


@pytest.mark.parametrize("words", [["upgrade", "--engine", NEW], ["rollback"]], ids=" ".join)
@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_written_changes_nothing(folder: Path, words: list[str], fault: str) -> None:
    if fault == "read-only" and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a folder is made read-only to root by a mount, which is not allowed here")
    if words[0] == "rollback":
        assert kit("upgrade", str(folder), "--engine", NEW).returncode == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command = shlex.join([sys.executable, "-m", "ernie_deploy", words[0], str(folder), *words[1:]])
    line = FAULTS[fault].format(command, folder=shlex.quote(str(folder)))
    env = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    shell = ["unshare", "-m", "bash", "-c", line] if fault == "read-only" else ["bash", "-c", line]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert "Nothing was changed." in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
