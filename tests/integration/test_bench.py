"""The benchmark on a rehearsed stack: real Docker, the real client, the real server, killed where it hurts."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import ENGINE, FULL, ROOT, kit
from integration.stack import Running

from ernie_deploy.bench.journal import store
from ernie_deploy.bench.journal.record import Attempt, Journal

pytestmark = [pytest.mark.docker, pytest.mark.timeout(2400)]
full = pytest.mark.skipif(not FULL, reason="only with .ci/run --full")


def words(running: Running, results: Path, *rest: str) -> list[str]:
    """`bench run` on the rehearsed stack."""
    stack = running.stack
    files = [word for file in stack.files for word in ("--file", str(file))]
    return ["bench", "run", *files, "--project", stack.project, "--env-file", str(stack.env_file),
            "--results", str(results), "--rate", "inf", *rest]  # fmt: skip


def read(results: Path) -> Journal:
    return store.read(results / store.NAME)


def test_a_matrix_is_killed_and_goes_on(running: Running, tmp_path: Path) -> None:
    """SIGKILL at random moments leaves a client behind and a journal that resumes."""
    shapes, counts, kills = ("80/10,10/80,10/10", "1,2,4,8", 2) if FULL else ("80/10", "1,4", 1)
    cells = len(shapes.split(",")) * len(counts.split(","))
    command = [sys.executable, "-m", "ernie_deploy",
               *words(running, tmp_path, "--shapes", shapes, "--num-prompts", counts, "--no-warm-up")]  # fmt: skip
    for number in range(1, kills + 1):
        cut = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not ((tmp_path / store.NAME).exists() and len(read(tmp_path).cut) == number):
            assert time.monotonic() < end, "no cell began"
            time.sleep(0.5)
        # A cell takes ten seconds and more: its client's start.
        time.sleep(random.uniform(0, 6))
        cut.kill()
        cut.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.stdout == f"{cells} valid\n", done.stderr
    found = read(tmp_path)
    proven = [attempt.identity for attempt in found.attempts if attempt.status == "valid"]
    assert len(proven) == len(set(proven)) == cells
    assert len(found.cut) == kills
    print(f"{kills} kills, {len(found.cut)} attempts cut, {cells} cells valid")
    home = found.environments[found.attempts[-1].environment]
    assert home.rehearsal
    assert home.image_digest.startswith("sha256:")
    assert home.argv[0] == running.rehearsal.plan.model.hf_id
    assert home.coherence == "16 tokens, the same twice; known answers skipped: random weights"
    assert home.vllm_version.startswith(ENGINE)
    assert "hf_" not in json.dumps(home.variables)


def test_the_recipes_own_loop_measures_its_cache(running: Running, tmp_path: Path) -> None:
    """One seed for all, as the recipe has it: the second cell's prompts are the first one's."""
    done = kit(*words(running, tmp_path, "--shapes", "600/8", "--num-prompts", "2,4", "--no-warm-up", "--seed", "0"),
               timeout=400)  # fmt: skip
    first, second = read(tmp_path).attempts
    assert (first.status, second.status, done.returncode) == ("valid", "invalid", 11), done.stderr
    assert [reason for reason in second.reasons if reason.startswith("warm-cache")], second.reasons
    print("with one seed:", *second.reasons)


def test_an_engine_killed_in_the_middle_is_found_and_measured_again(running: Running, tmp_path: Path) -> None:
    """vLLM's client ends with 0 and counts every request as completed; the kit does not."""
    killed = threading.Event()

    def kill_once() -> None:
        # All of the cell's: the question before it and the health check's have one request at a time.
        running.busy(4, limit_s=120)
        time.sleep(1)
        running.signal("KILL", "EngineCore")
        killed.set()

    threading.Thread(target=kill_once, daemon=True).start()
    done = kit(
        # Twenty seconds of a cell, of which the kill comes in the second.
        *words(running, tmp_path, "--shapes", "20/1200", "--num-prompts", "4", "--no-warm-up"),
        timeout=900,
    )
    attempts = read(tmp_path).attempts
    assert killed.is_set()
    assert [attempt.status for attempt in attempts] == ["failed", "valid"], _told(attempts, done.stderr)
    assert attempts[0].reasons[0].startswith("server-died: "), attempts[0].reasons
    assert attempts[0].log_tail, "the server's last words are kept"
    assert done.returncode == 0
    print("engine killed in a cell:", attempts[0].reasons[0])


@full
def test_the_default_policy_measures_cold(running: Running, tmp_path: Path) -> None:
    """After the engine was killed its cache is empty.

    vLLM's random prompts begin at any of the vocabulary's words, of which the tiny checkpoint has about 150: in
    one of fifty runs two of three prompts begin alike, which the check then rightly finds. Hence two tries.
    """
    for number in range(2):
        results = tmp_path / str(number)
        done = kit(
            *words(running, results, "--shapes", "600/8", "--num-prompts", "1,2", "--no-warm-up"), timeout=400
        )
        if done.returncode == 0:
            break
    assert [attempt.status for attempt in read(results).attempts] == ["valid", "valid"], done.stderr


@full
def test_a_restart_for_each_cell_is_a_fresh_life(running: Running, tmp_path: Path) -> None:
    done = kit(
        *words(running, tmp_path, "--shapes", "80/10", "--num-prompts", "1,2", "--preset", "published"),
        timeout=900,
    )
    found = read(tmp_path)
    assert [attempt.status for attempt in found.attempts] == ["valid", "valid"], done.stderr
    assert Counter(attempt.seed for attempt in found.attempts) == {0: 2}
    assert len({home.server_started for home in found.environments.values()}) >= 2


def test_the_report_of_a_real_run(running: Running, tmp_path: Path) -> None:
    done = kit(*words(running, tmp_path, "--shapes", "80/10", "--num-prompts", "2"), timeout=400)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "report.html"
    said = kit("bench", "report", str(tmp_path / store.NAME), "--html", str(page))
    assert said.returncode == 0, said.stderr
    assert "80/10" in page.read_text()
    assert "rehearsal" in page.read_text().lower()


def _told(attempts: list[Attempt], said: str) -> str:
    return "\n".join([*(f"{a.status}: {a.reasons} {a.log_tail[-3:]}" for a in attempts), said])
