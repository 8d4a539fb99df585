"""At which moment the scripts in the containers act: the limits of time and space as they are shipped."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from container_scripts import loaded

CANARY, FETCH, GROUP = (vars(loaded(name)) for name in ("canary", "fetch", "group"))


def state(*ages_s: float, healthy_s: float, misses: int = 3) -> Any:
    """What a probe finds of engines that last moved, and of a server that last was healthy, so long ago."""
    now = time.monotonic()
    engines = {f"{i}": CANARY["Engine"](1.0, [1.0, 0.1], now - age_s) for i, age_s in enumerate(ages_s)}
    return CANARY["State"](engines, now - healthy_s, misses, {}, list(engines))


@pytest.mark.parametrize(
    ("still_s", "healthy_s", "misses", "hang"),
    [
        ([55], 20, 3, False),
        ([61], 20, 3, True),
        # Of several the one that stands still the longest counts.
        ([61, 20], 20, 3, True),
        ([55, 20], 90, 3, False),
        # Where none is known to stand still, it is since the last good probe.
        ([], 55, 3, False),
        ([], 61, 3, True),
        ([61], 20, 2, False),
    ],
)
def test_an_engine_that_stands_still_for_a_minute_hangs(
    still_s: list[float], healthy_s: float, misses: int, *, hang: bool
) -> None:
    assert CANARY["is_hang"](state(*still_s, healthy_s=healthy_s, misses=misses), None) is hang


def test_a_process_that_stands_still_hangs_a_minute_after_it_stopped() -> None:
    now = time.monotonic()
    assert not CANARY["is_hang"](state(healthy_s=90), now - 55)
    assert CANARY["is_hang"](state(healthy_s=20), now - 61)


def test_the_parts_of_a_probe_end_within_it() -> None:
    assert CANARY["METRICS_S"] + CANARY["BUSY_ANSWER_S"] + CANARY["PROMPT_S"] < CANARY["PROBE_S"]
    # An API whose metrics come late is slow; a token asked for after them must have time too.
    assert CANARY["METRICS_S"] < CANARY["ANSWER_S"] < CANARY["PROBE_S"]


@pytest.mark.parametrize(("age_s", "kept"), [(500, True), (700, False)])
def test_a_file_that_still_arrives_is_kept(tmp_path: Path, age_s: float, *, kept: bool) -> None:
    """Another process may be writing it: only what nobody has written to for ten minutes is left over."""
    path = tmp_path / "abc.0123abcd.incomplete"
    path.touch()
    then = time.time() - age_s
    os.utime(path, (then, then))
    FETCH["drop_partials"](tmp_path)
    assert path.exists() is kept


@pytest.mark.parametrize(("free_share", "refused"), [(1.04, True), (1.06, False)])
def test_a_download_needs_its_size_and_five_percent_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_share: float, *, refused: bool
) -> None:
    usage = SimpleNamespace(free=free_share * 1e9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    require: Callable[..., None] = FETCH["require_space"]
    if refused:
        with pytest.raises(FETCH["KnownError"], match=r"needs 1\.1 GB"):
            require(tmp_path, 1e9)
    else:
        require(tmp_path, 1e9)


@pytest.mark.parametrize(("silent_s", "claimant"), [(50, "a"), (70, "")])
def test_a_rank_is_its_hosts_for_a_minute_after_its_last_word(silent_s: float, claimant: str) -> None:
    beacon = GROUP["Beacon"]("127.0.0.1:8000", b"")
    beacon.claims["1"] = GROUP["Claim"]("a", time.monotonic() - silent_s)
    assert beacon.other_claimant("1", "b", of_this_group=False) == claimant
