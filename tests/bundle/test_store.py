"""A bundle's folder is whole or goes on: killed at any moment, split to any size, never mixed with other things."""

import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ernie_deploy.bundle import make, manifest, store
from ernie_deploy.bundle.parts import Part, of_bytes
from ernie_deploy.bundle.store import NOTES, Store, claimed
from ernie_deploy.errors import Refused, ToolFailed, UsageError

# What a step of the file system is to an audit hook.
STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate")


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill of the process loses nothing that was written: that takes a fall of the machine."""
    monkeypatch.setattr(os, "fsync", quiet)


def quiet(*_: object) -> None:
    pass


def sized(name: str, size: int, salt: int = 0) -> Part:
    return of_bytes(name, bytes((salt + number) % 251 for number in range(size)))


def write(folder: Path, parts: list[Part], split: int, step: Callable[..., None] = quiet) -> list[str]:
    """What `make` does with a store; returns the paths that were written."""
    with claimed(folder, split) as place:
        missing = [part for part in parts if not place.is_complete(part.path, part.key)]
        for part in missing:
            place.put(part, step)
        place.finish(part.path for part in parts)
    return [part.path for part in missing]


def killed_at(count: int, work: Callable[[Callable[..., None]], object]) -> bool:
    """Do the work in a child that is killed at its nth step; whether it was."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = [count]

    def step(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(lambda event, _: step() if event in STEPS else None)
    try:
        work(step)
    finally:
        os._exit(0)


def content(folder: Path, path: str) -> bytes:
    pieces = sorted(folder.glob(f"{path}.????"))
    return b"".join(piece.read_bytes() for piece in pieces or [folder / path])


def require_whole(folder: Path, parts: list[Part], split: int) -> None:
    """Every byte is there, nothing else is, no file is too large, and nothing would be made again."""
    assert manifest.verify(folder, quiet).whole
    for part in parts:
        with part.open() as source:
            assert content(folder, part.path) == source.read()
    largest = max(path.stat().st_size for path in (folder / "d").iterdir())
    assert largest <= (split or largest)
    assert write(folder, parts, split) == []


def salted(sizes: list[int], salt: int) -> list[Part]:
    return [sized(f"d/{number}", size, salt) for number, size in enumerate(sizes)]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("splits", [(7, 0), (0, 7), (7, 7)])
def test_killed_at_each_step_it_goes_on(
    splits: tuple[int, int], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new bundle, and a whole one that is being changed: until the work ends before the kill."""
    monkeypatch.setattr(store, "CHUNK_BYTES", 5)
    before, after, count, was_killed = salted([20, 0], 0), salted([20, 8], 1), 0, True
    while was_killed:
        count += 1
        folder = tmp_path / str(count)
        if whole:
            write(folder, before, splits[0])
        under_way, split = (after, splits[1]) if whole else (before, splits[0])
        was_killed = killed_at(count, lambda step: write(folder, under_way, split, step))  # noqa: B023
        # One that was broken off is never taken for a whole one.
        assert not (folder / manifest.SUMS).exists() or manifest.verify(folder, quiet).whole
        write(folder, after, splits[1])
        require_whole(folder, after, splits[1])
    assert count > 30


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    splits=st.tuples(st.sampled_from([0, 7, 16]), st.sampled_from([0, 7, 16])),
    kills=st.lists(st.integers(1, 120), min_size=1, max_size=3),
)
def test_killed_again_and_again_it_goes_on(
    sizes: list[int],
    splits: tuple[int, int],
    kills: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "CHUNK_BYTES", 5)
    folder, parts = tmp_path / "b", salted(sizes, 0)
    shutil.rmtree(folder, ignore_errors=True)
    for count in kills:
        killed_at(count, lambda step: write(folder, parts, splits[0], step))
    write(folder, parts, splits[1])
    require_whole(folder, parts, splits[1])


def test_what_is_complete_is_not_made_again(tmp_path: Path) -> None:
    parts = [sized(f"d/{number}", 20) for number in range(3)]
    write(tmp_path / "b", parts[:2], 0)
    assert write(tmp_path / "b", parts, 0) == ["d/2"]
    (tmp_path / "b/d/0").unlink()
    assert write(tmp_path / "b", parts, 0) == ["d/0"]
    assert write(tmp_path / "b", parts, 7) == ["d/0", "d/1", "d/2"]
    assert sorted(path.name for path in (tmp_path / "b/d").iterdir())[:3] == ["0.0000", "0.0001", "0.0002"]


def test_notes_that_were_torn_anywhere_are_read(tmp_path: Path) -> None:
    parts = [sized(f"d/{number}", 9) for number in range(2)]
    write(tmp_path / "whole", parts, 0)
    notes = (tmp_path / "whole" / NOTES).read_bytes()
    for length in range(0, len(notes), 7):
        shutil.copytree(tmp_path / "whole", tmp_path / str(length))
        (tmp_path / str(length) / NOTES).write_bytes(notes[:length])
        write(tmp_path / str(length), parts, 0)
        require_whole(tmp_path / str(length), parts, 0)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    with claimed(tmp_path / "b"), pytest.raises(Refused, match="Another run"), claimed(tmp_path / "b"):
        pass
    with claimed(tmp_path / "b"):
        pass


@pytest.mark.parametrize("name", ["photo.jpg", "SHA256SUMS", ".hidden"])
def test_a_folder_of_other_things_is_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match="is no bundle"), claimed(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_notes_of_another_kind_are_not_written_to(kind: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    folder = tmp_path / "b"
    if kind == "file":
        folder.write_text("mine")
        expected = "could not be made"
    else:
        folder.mkdir()
        (folder / NOTES).symlink_to(tmp_path / "target")
        expected = "is no bundle"
    with pytest.raises(UsageError, match=expected), claimed(folder):
        pass
    assert (tmp_path / "target").read_text() == "mine"


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with claimed(tmp_path / "b") as place:
        (tmp_path / "b/d").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="is a link"):
            place.put(sized("d/0", 9), quiet)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_blob_with_another_hash_is_refused_by_name(tmp_path: Path) -> None:
    from msgspec.structs import replace

    with claimed(tmp_path / "b") as place, pytest.raises(ToolFailed, match="d/0 has a wrong hash"):
        place.put(replace(sized("d/0", 9), digest="0" * 64), quiet)
    assert not (tmp_path / "b/d/0").exists()


def test_gits_hash_is_held_too(tmp_path: Path) -> None:
    from msgspec.structs import replace

    part = of_bytes("d/config.json", b"{}")
    # git hash-object of a file with two braces.
    good = replace(part, digest="9e26dfeeb6e641a33dae4961196235bdb965b21b")
    with claimed(tmp_path / "b") as place:
        place.put(good, quiet)
        with pytest.raises(ToolFailed, match="wrong hash"):
            place.put(replace(part, digest="9" * 40), quiet)


def test_a_file_system_that_takes_no_more_is_one_sentence(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(ToolFailed, match="could not be written: File too large"), claimed(tmp_path / "b") as place:  # fmt: skip
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
            place.put(sized("d/0", 100_000), quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert write(tmp_path / "b", [sized("d/0", 100_000)], 0) == ["d/0"]


def test_what_does_not_fit_is_said_with_numbers_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 2 * 10**9))
    make.require_space(tmp_path, [10**9], wheels_missing=True)
    with pytest.raises(ToolFailed, match=r"needs 3\.1 GB more, and .* has 2\.0 GB free"):
        make.require_space(tmp_path, [3 * 10**9], wheels_missing=False)


def test_a_part_that_no_stack_needs_any_more_goes(tmp_path: Path) -> None:
    write(tmp_path / "b", [sized("d/0", 9), sized("d/1", 9)], 0)
    with claimed(tmp_path / "b") as place:
        assert isinstance(place, Store)
        assert place.finish(["d/1"]) == ["d/0"]
    assert [path.name for path in (tmp_path / "b/d").iterdir()] == ["1"]
