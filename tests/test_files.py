"""What the kit writes: whole or not at all, nothing of the user's unasked, nothing outside the named folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, kit, rendered

from ernie_deploy import paths
from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import OutOfDate, UsageError
from ernie_deploy.paths import write_all, write_whole
from ernie_deploy.render.checksum import is_unedited, with_checksum
from ernie_deploy.render.committed import Place, differences, write

COMMITTED = Place(ROOT / "compose", ROOT / ".env.example")


def pair(target: str, model: str = "m", body: str = "services: {}\n") -> str:
    return with_checksum(f"# ernie-deploy render {target} --model {model}\n{body}")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "compose")


@pytest.fixture
def wanted(place: Place) -> dict[Path, str]:
    return {place.folder / f"m-{target}.yml": pair(target) for target in ("a", "b")}


def test_the_committed_set_is_what_the_catalog_renders(catalog: Catalog) -> None:
    differences(COMMITTED, COMMITTED.wanted(catalog))


# --- drift ---


def test_drift_is_named_file_by_file(place: Place, wanted: dict[Path, str]) -> None:
    place.folder.mkdir()
    (place.folder / "m-a.yml").write_text(pair("a", body="services: {old: {}}\n"))
    (place.folder / "m-c.yml").write_text(pair("c"))
    (place.folder / "mine.yml").write_text("services: {}\n")
    with pytest.raises(OutOfDate) as raised:
        differences(place, wanted)
    assert str(raised.value).splitlines()[:3] == [
        f"missing: {place.folder}/m-b.yml", f"stale: {place.folder}/m-a.yml", f"orphaned: {place.folder}/m-c.yml",
    ]  # fmt: skip
    assert (raised.value.exit_code, raised.value.next_step) == (5, place.command)
    assert write(place, wanted) == []
    differences(place, wanted)
    assert sorted(path.name for path in place.folder.iterdir()) == ["m-a.yml", "m-b.yml", "mine.yml"]


@pytest.mark.parametrize("edited", ["m-a.yml", "m-b.yml"])
def test_an_edited_file_stays_and_nothing_else_is_written(
    place: Place, wanted: dict[Path, str], edited: str
) -> None:
    write(place, wanted)
    file = place.folder / edited
    file.write_text(file.read_text() + "# my edit\n")
    newer = {path: pair(path.stem[-1], body="services: {new: {}}\n") for path in wanted}
    before = {path: path.read_text() for path in wanted}
    with pytest.raises(UsageError) as raised:
        write(place, newer)
    assert raised.value.what == f"{file} exists and was not overwritten."
    assert "--force" in raised.value.next_step
    assert {path: path.read_text() for path in wanted} == before
    write(place, newer, force=True)
    assert {path: path.read_text() for path in wanted} == newer


def test_each_file_in_the_way_is_named(place: Place, wanted: dict[Path, str]) -> None:
    place.folder.mkdir()
    for path in wanted:
        path.write_text("mine\n")
    with pytest.raises(UsageError) as raised:
        write(place, wanted)
    assert raised.value.what.splitlines() == [f"{path} exists and was not overwritten." for path in wanted]


def test_an_orphan_is_deleted_only_as_it_was_written(place: Place, wanted: dict[Path, str]) -> None:
    place.folder.mkdir()
    edited, other_form, renamed = (place.folder / name for name in ("m-c.yml", "m-d.yml", "compose.yml"))
    edited.write_text(pair("c") + "# my edit\n")
    other_form.write_text(with_checksum("# ernie-deploy render d --model m --tp 2\n"))
    renamed.write_text(pair("e"))
    (place.folder / "m-f.yml").write_text(pair("f"))
    assert write(place, wanted) == [edited]
    left = {path.name for path in place.folder.iterdir()}
    assert left == {"m-a.yml", "m-b.yml", "m-c.yml", "m-d.yml", "compose.yml"}
    assert write(place, wanted, force=True) == []
    assert not edited.exists()


def test_a_link_a_pipe_and_bytes_that_are_no_text_are_somebodys_own(
    place: Place, wanted: dict[Path, str], tmp_path: Path
) -> None:
    write(place, wanted)
    first, second = wanted
    (tmp_path / "elsewhere.yml").write_text(first.read_text() + "# old\n")
    first.unlink()
    first.symlink_to(tmp_path / "elsewhere.yml")
    second.unlink()
    os.mkfifo(second)
    (place.folder / "m-z.yml").write_bytes(b"# ernie-deploy render z --model m\n\xff")
    os.mkfifo(place.folder / "m-y.yml")
    with pytest.raises(UsageError) as raised:
        write(place, wanted)
    assert raised.value.what.count("was not overwritten") == 2
    with pytest.raises(UsageError, match="a folder, a pipe or a device"):
        write(place, wanted, force=True)
    second.unlink()
    write(place, wanted, force=True)
    assert not first.is_symlink()
    assert (tmp_path / "elsewhere.yml").read_text().endswith("# old\n")


# --- the checksum ---


def test_every_rendering_vouches_for_itself(tmp_path: Path) -> None:
    file = tmp_path / "compose.yml"
    write_whole(file, rendered("h100"))
    assert is_unedited(file)
    assert file.read_text().splitlines()[-1].startswith("# sha256 of the lines above: ")


@pytest.mark.parametrize(
    ("edit", "unedited"),
    [
        (lambda text: text, True),
        (lambda text: text.replace("\n", "\r\n"), True),  # as git checks out elsewhere
        (lambda text: text.replace("services", "Services"), False),
        (lambda text: text + "\n", False),
        (lambda text: text[:-1], False),
        (lambda text: text.upper(), False),
        (lambda text: "", False),
    ],
)
def test_an_edit_shows(edit: object, unedited: bool, tmp_path: Path) -> None:
    file = tmp_path / "x.yml"
    file.write_bytes(edit(pair("a")).encode())  # type: ignore[operator]
    assert is_unedited(file) is unedited


# --- the command ---


def test_rendering_all_into_a_folder_in_use_takes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    kit("render", "mi300x", "-o", "compose.yml", cwd=folder, env={"PYTHONPATH": str(ROOT)})
    kit(
        "render",
        "mi300x",
        "--model",
        "0.3b",
        "-o",
        "0.3b-mi300x.yml",
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
    )
    for name in ("compose.yml", "0.3b-mi300x.yml"):
        (folder / name).write_text((folder / name).read_text() + "# my edit\n")
    (tmp_path / ".env.example").write_text("MINE=1\n")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    words = ["render", "--all", "--out-dir", "."]
    done = kit(*words, cwd=folder, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "0.3b-mi300x.yml exists and was not overwritten." in done.stderr
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before
    done = kit(*words, "--force", cwd=folder, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert (folder / "compose.yml").read_text() == before[folder / "compose.yml"]
    assert (tmp_path / ".env.example").read_text() == "MINE=1\n"
    done = kit(*words, "--env-example", "../.env.example", cwd=folder, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, (tmp_path / ".env.example").read_text()) == (2, "MINE=1\n")


# --- one file ---


def test_files_are_all_written_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_text("before")
    real, calls = os.fdopen, []

    def full(*words: object, **options: object) -> object:
        calls.append(words)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(*words, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(paths.os, "fdopen", full)
    with pytest.raises(UsageError, match=r"/c could not be written: No space left on device\."):
        write_all({tmp_path / name: name for name in "abc"}, force=True)
    monkeypatch.undo()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "before"}


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
def test_modes_are_the_users(tmp_path: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE")
    before = os.umask(0o077)
    try:
        write_whole(tmp_path / "new", "x")
        (tmp_path / "old").touch(mode=0o640)
        (tmp_path / "old").chmod(0o604)
        write_whole(tmp_path / "old", "y", force=True)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"new": 0o600, "old": 0o604}
    assert (tmp_path / "old").read_text() == "y"


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/dev/null")
    for force in (False, True):
        with pytest.raises(UsageError):
            write_whole(tmp_path / "out", "x", force=force)
    assert (tmp_path / "out").is_symlink()


KILLED = """
import os, signal, sys, time
from pathlib import Path
import ernie_deploy.paths as paths
# Who started the tests in the background, or under nohup, left these ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
put = paths._put
def slow(*words):
    print("staged", flush=True)
    time.sleep(60)
paths._put = slow
folder = Path(sys.argv[1])
if sys.argv[2] == "doctor":
    from ernie_deploy.host import settings
    settings.write(folder / ".env", "x" * 100_000)
else:
    paths.write_all({folder / name: "x" * 100_000 for name in (".env", "compose.yml")}, force=True)
"""


def has_nameless_files(folder: Path) -> bool:
    """Whether a kill can leave no part of a file here: overlayfs and NFS may have none without a name."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except (AttributeError, OSError):
        return False
    return True


@pytest.mark.parametrize("writer", ["init", "doctor"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_kill_leaves_no_part_of_a_file(tmp_path: Path, number: int, writer: str) -> None:
    if not has_nameless_files(tmp_path):
        pytest.skip("this file system has no files without a name (O_TMPFILE)")
    (tmp_path / ".env").write_text("MINE=1\n")
    words = [sys.executable, "-c", KILLED, str(tmp_path), writer]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as child:
        assert child.stdout
        assert child.stdout.readline() == b"staged\n"
        child.send_signal(number)
        child.wait(50)
    time.sleep(0.1)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {".env": "MINE=1\n"}


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
@pytest.mark.parametrize("before", [None, 0o600, 0o644], ids=["new", "private", "open"])
def test_no_password_is_in_a_file_that_others_may_read(
    tmp_path: Path, unnamed: bool, before: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write looks at the file's mode at that moment."""
    real, modes, env = os.fdopen, [], tmp_path / ".env"
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE")
    if before is not None:
        env.touch()
        env.chmod(before)

    def watched(handle: int, *words: object, **options: object) -> object:
        file = real(handle, *words, **options)  # type: ignore[call-overload]
        write = file.write

        def look_and_write(text: str) -> int:
            modes.append(os.fstat(handle).st_mode & 0o777)
            return int(write(text))

        file.write = look_and_write
        return file

    monkeypatch.setattr(paths.os, "fdopen", watched)
    write_whole(env, "HTTP_PROXY=http://u:secret@p:1\n", force=True, private=True)
    assert modes == [0o600]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file away")
def test_the_owner_of_a_file_that_is_replaced_stays(tmp_path: Path) -> None:
    (tmp_path / "f").touch(mode=0o640)
    os.chown(tmp_path / "f", 1234, 4321)
    write_whole(tmp_path / "f", "x", force=True)
    there = (tmp_path / "f").stat()
    assert (there.st_uid, there.st_gid, there.st_mode & 0o777) == (1234, 4321, 0o640)
