"""The healthcheck against a fake vLLM that idles, works, hangs or fails; run as Docker runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from container_scripts import copied, loaded
from fake_vllm import FakeVllm

LOADING = "http://127.0.0.1:9"  # nobody listens on the discard port


def script(folder: Path, **constants: object) -> str:
    """The scripts in a folder of a test, which cannot wait for a minute; the text of the health check.

    The processes are the test's: another vLLM of this host would be taken for the server's engine.
    """
    places = {"PROC": f"Path({str(folder / 'proc')!r})"}
    return (copied(folder / "scripts", **places, **constants) / "canary.py").read_text()


class Probe(NamedTuple):
    """A container: what stays the same from probe to probe."""

    folder: Path
    text: str
    server: FakeVllm | None = None

    def __call__(self, url: str, *arguments: str, patience_s: float = 3) -> tuple[int, str]:
        environment = {**os.environ, "TMPDIR": str(self.folder), "http_proxy": "http://127.0.0.1:1"}
        text = self.text.replace("\nANSWER_S = 8.0", f"\nANSWER_S = {patience_s}")
        # But in a flood the metrics must be seen, and pass for prompt, however busy this host is.
        limits = {"PROMPT_S = 0.5": "PROMPT_S = 3.0"} if self.server else {}
        if self.server and self.server.mood in {"flooded", "slow"}:
            limits = {"METRICS_S = 3.0": "METRICS_S = 0.3", "BUSY_ANSWER_S = 3.5": "BUSY_ANSWER_S = 0.4",
                      "PROMPT_S = 0.5": "PROMPT_S = 0.05"}  # fmt: skip
        for line, tried in limits.items():
            assert f"\n{line}\n" in text, line
            text = text.replace(f"\n{line}\n", f"\n{tried}\n")
        (self.folder / "scripts" / "canary.py").write_text(text)
        command = [
            sys.executable,
            "-IS",
            str(self.folder / "scripts" / "canary.py"),
            url,
            "ernie",
            *arguments,
        ]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.rstrip("\n")

    @property
    def starts(self) -> Path:
        return self.folder / "starts"

    def process(self, pid: int, title: str, state: str = "S", ticks: int = 0, switches: int = 0) -> None:
        """What the kernel would show of a process; the API's, which has no title, is 7."""
        folder = self.folder / "proc" / f"{pid}"
        (folder / "task" / f"{pid}").mkdir(parents=True, exist_ok=True)
        (folder / "cmdline").write_text(f"{title}\0\0\0")
        fields = f"{pid} (VLLM::(a) b) {state} {1 if pid == 7 else 7} 7 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0"
        (folder / "task" / f"{pid}" / "stat").write_text(fields)
        (folder / "status").write_text(
            f"State:\t{state}\nvoluntary_ctxt_switches:\t{switches}\nnonvoluntary_ctxt_switches:\t9\n"
        )


@pytest.fixture
def probe(tmp_path: Path) -> Probe:
    starts = f"Path({str(tmp_path / 'starts')!r})"
    return Probe(tmp_path, script(tmp_path, HANG_S=0.2, STARTS=starts))


@pytest.fixture
def flooded(probe: Probe, server: FakeVllm) -> Probe:
    """A probe of a server whose processes are there; while it floods, no longer is waited than a test can."""
    probe = probe._replace(server=server)
    probe.process(1, "/sbin/docker-init")
    probe.process(7, "/usr/bin/python3")
    probe.process(46, "VLLM::EngineCore")
    probe.process(78, "VLLM::Worker")
    return probe


@pytest.fixture
def server() -> Iterator[FakeVllm]:
    with FakeVllm() as fake:
        threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True).start()
        yield fake
        fake.released.set()
        fake.shutdown()


def test_idle_server_answers_one_token_each_time(probe: Probe, server: FakeVllm) -> None:
    for count in (1, 2):
        assert probe(server.url) == (0, "healthy: one token answered")
        assert len(server.questions) == count
    assert server.questions[0] == {"model": "ernie", "prompt": [1], "max_tokens": 1, "temperature": 0}


@pytest.mark.parametrize("mood", ["saturated", "long-prompt"])
def test_working_server_is_never_asked(probe: Probe, server: FakeVllm, mood: str) -> None:
    probe(server.url)
    server.mood = mood
    server.questions.clear()
    assert [probe(server.url) for _ in range(2)] == [(0, "healthy: the engine works")] * 2
    assert server.questions == []


def test_first_probe_asks_even_a_working_server(probe: Probe, server: FakeVllm) -> None:
    server.mood = "saturated"
    assert probe(server.url, patience_s=0.1) == (1, "not healthy yet: no answer to one token (TimeoutError)")
    assert probe(server.url) == (0, "healthy: the engine works")


def test_server_that_became_busy_with_the_question_is_healthy(probe: Probe, server: FakeVllm) -> None:
    probe(server.url)
    server.mood = "just-busy"
    assert probe(server.url, patience_s=0.1) == (0, "healthy: the engine works and is too busy to answer")


def test_loading_is_no_hang(probe: Probe) -> None:
    for _ in range(3):
        assert probe(LOADING) == (1, "not healthy yet: no answer to one token (ConnectionRefusedError)")


@pytest.mark.parametrize("mood", ["hung", "hung-idle", "engine-dead", "half-answer"])
def test_three_misses_and_a_minute_are_a_hang(probe: Probe, server: FakeVllm, mood: str) -> None:
    probe(server.url)
    server.mood = mood
    # Who answers is waited for.
    patience_s = 0.1 if mood.startswith("hung") else 2
    first, second, third = (probe(server.url, patience_s=patience_s) for _ in range(3))
    reason = {
        "hung": "engine 0 has requests and stands still",
        "hung-idle": "no answer to one token (TimeoutError)",
        "engine-dead": "HTTP 500 to one token",
        "half-answer": "an error instead of one token",
    }[mood]
    assert first == second == (1, f"unhealthy: {reason}")
    assert third == (
        1,
        (
            f"unhealthy: {reason}, 3 probes in a row: a hang, every process is killed for a new start\n"
            "PID 1 did not start vllm or ray, so this is not its container: nothing is killed"
        ),
    )


def test_three_misses_within_a_minute_are_no_hang(tmp_path: Path, server: FakeVllm) -> None:
    probe = Probe(tmp_path, script(tmp_path))
    probe(server.url)
    server.mood = "hung-idle"
    assert {probe(server.url, patience_s=0.1)[1] for _ in range(3)} == {
        "unhealthy: no answer to one token (TimeoutError)"
    }


def test_progress_forgives_misses(probe: Probe, server: FakeVllm) -> None:
    probe(server.url)
    for mood in ("hung-idle", "hung-idle", "idle", "hung-idle"):
        server.mood = mood
        assert "killed" not in probe(server.url, patience_s=2 if mood == "idle" else 0.1)[1]


def test_one_stuck_engine_of_two_is_a_hang(probe: Probe, server: FakeVllm) -> None:
    server.mood = "one-of-two-stuck"
    assert probe(server.url) == (0, "healthy: one token answered")
    lines = [probe(server.url)[1] for _ in range(3)]
    assert lines[:2] == ["unhealthy: engine 1 has requests and stands still"] * 2
    assert "a hang, every process is killed" in lines[2]


def test_an_engine_without_a_label_is_a_question_mark() -> None:
    canary = loaded("canary")
    probe = canary.Probe("http://127.0.0.1:9", "m", "", canary.State({}, 1.0, 1, {}, [""]))
    assert probe.judge_processes([], "silent").reason == "engine ? stood still and does not run"
    assert canary.judge_engines(1, [""], {}, {}).reason == "engine ? has requests and stands still"


# --- an API that does not answer: the kernel is the witness ---

KILLED = "probes in a row: a hang, every process is killed"
BUSY = "no answer to one token (TimeoutError): the API is too busy to answer (not a hang)"


@pytest.mark.parametrize("mood", ["flooded", "slow"])
def test_a_busy_api_of_an_engine_at_rest_is_no_hang(flooded: Probe, server: FakeVllm, mood: str) -> None:
    flooded(server.url)
    server.mood = mood
    for count in range(1, 5):
        flooded.process(7, "/usr/bin/python3", "R", ticks=100 * count)
        assert flooded(server.url, patience_s=0.3) == (1, f"unhealthy: {BUSY}")


def test_a_request_that_ended_within_the_flood_is_no_hang(flooded: Probe, server: FakeVllm) -> None:
    """It ran when the metrics were last readable; then the engine ended it and rests."""
    flooded(server.url)
    server.mood = "saturated"
    flooded(server.url)
    server.mood = "flooded"
    for count in range(1, 5):
        flooded.process(7, "/usr/bin/python3", "R", ticks=100 * count)
        assert flooded(server.url, patience_s=0.1) == (1, f"unhealthy: {BUSY}")


def test_an_engine_that_runs_behind_a_busy_api_is_healthy(flooded: Probe, server: FakeVllm) -> None:
    flooded(server.url)
    server.mood = "flooded"
    for count in range(1, 5):
        flooded.process(7, "/usr/bin/python3", "R", ticks=100 * count)
        flooded.process(78, "VLLM::Worker", switches=count)
        line = "healthy: the engine works, the API is too busy to answer"
        assert flooded(server.url, patience_s=0.1) == (0, line)


@pytest.mark.parametrize("state", ["T", "t", "D"])
@pytest.mark.parametrize("title", ["VLLM::EngineCore_DP1", "VLLM::Worker_TP1"])
def test_a_stopped_engine_behind_a_busy_api_is_a_hang(
    flooded: Probe, server: FakeVllm, state: str, title: str
) -> None:
    flooded.process(79, title)
    flooded(server.url)
    server.mood = "flooded"
    for count in range(1, 4):
        flooded.process(7, "/usr/bin/python3", "R", ticks=100 * count)
        flooded.process(46, "VLLM::EngineCore", "R", ticks=100 * count)
        flooded.process(79, title, state)
        line = flooded(server.url, patience_s=0.1)[1]
        assert line.startswith(f"unhealthy: {title} does not run (state {state})")
    assert KILLED in line


def test_an_engine_that_stood_still_with_work_before_the_flood_is_a_hang(
    flooded: Probe, server: FakeVllm
) -> None:
    flooded(server.url)
    for count, mood in enumerate(["hung", "flooded", "flooded"], start=1):
        server.mood = mood
        flooded.process(7, "/usr/bin/python3", "R", ticks=100 * count)
        line = flooded(server.url, patience_s=0.1)[1]
    assert line.startswith("unhealthy: engine 0 stood still and does not run, 3 probes in a row")


def test_an_engine_that_runs_again_within_the_flood_is_forgiven(flooded: Probe, server: FakeVllm) -> None:
    flooded(server.url)
    for count, (mood, switches) in enumerate([("hung", 0), *[("flooded", 1)] * 4], start=1):
        server.mood = mood
        flooded.process(7, "/usr/bin/python3", "R", ticks=100 * count)
        flooded.process(46, "VLLM::EngineCore", switches=switches)
        assert KILLED not in flooded(server.url, patience_s=0.1)[1]


def test_an_api_that_does_nothing_is_a_hang(flooded: Probe, server: FakeVllm) -> None:
    flooded(server.url)
    server.mood = "flooded"
    lines = [flooded(server.url, patience_s=0.1)[1] for _ in range(3)]
    silence = "unhealthy: no answer to one token (TimeoutError), and the API's process does nothing"
    assert lines[0] == silence
    assert lines[2].startswith(f"{silence}, 3 {KILLED}")


def test_an_api_that_takes_no_connection_and_still_ticks_is_no_hang(flooded: Probe, server: FakeVllm) -> None:
    """A stranger holds every file descriptor: the event loop turns, and closes what it accepts."""
    flooded(server.url)
    for count in range(1, 5):
        flooded.process(7, "/usr/bin/python3", switches=100 * count)
        assert "(not a hang)" in flooded(LOADING)[1]


def test_several_api_servers_are_known_by_their_titles(flooded: Probe, server: FakeVllm) -> None:
    """Their parent waits for their end and does nothing else."""
    for pid in (80, 81):
        flooded.process(pid, f"VLLM::APIServer_{pid - 80}")
    flooded(server.url)
    server.mood = "flooded"
    for count in range(1, 5):
        flooded.process(81, "VLLM::APIServer_1", "R", ticks=count)
        assert flooded(server.url, patience_s=0.1) == (1, f"unhealthy: {BUSY}")


def test_the_processes_of_a_live_python_are_read(probe: Probe, server: FakeVllm, tmp_path: Path) -> None:
    """The real /proc has what the fake one has."""
    text = probe.text.replace(f"PROC = Path({str(tmp_path / 'proc')!r})", "PROC = Path('/proc')")
    code = text.partition("if __name__")[0] + (
        "import os\nwork = read_process(PROC / str(os.getpid()), None)\n"
        "print(work.state, work.parent == str(os.getppid()), len(work.progress), sum(work.progress) > 0)"
    )
    place = tmp_path / "scripts" / "live.py"
    place.write_text(code)
    done = subprocess.run([sys.executable, "-IS", str(place)], capture_output=True, text=True, check=True)
    assert done.stdout == "R True 3 True\n"


# --- data parallel: each engine is judged on its own ---


def test_an_engine_that_hangs_at_rest_is_found_while_another_moves(probe: Probe, server: FakeVllm) -> None:
    server.mood = "two-idle"
    assert probe(server.url) == (0, "healthy: one token answered")
    assert sorted(server.ranks, key=str) == ["0", "1"]
    server.mood = "one-of-two-hung-idle"
    server.ranks.clear()
    lines = [probe(server.url, patience_s=0.1)[1] for _ in range(3)]
    reason = "unhealthy: engine 1: no answer to one token (TimeoutError)"
    assert lines[:2] == [reason] * 2
    assert lines[2].startswith(f"{reason}, 3 {KILLED}")
    assert server.ranks == ["1"] * 3


def test_an_engine_at_rest_beside_one_that_moves_answers_for_itself(probe: Probe, server: FakeVllm) -> None:
    server.mood = "one-of-two-busy"
    probe(server.url)
    server.ranks.clear()
    assert [probe(server.url) for _ in range(2)] == [(0, "healthy: one token answered")] * 2
    assert server.ranks == ["1"] * 2


def test_engines_at_rest_that_take_the_long_steps_of_another_are_no_hang(
    probe: Probe, server: FakeVllm
) -> None:
    """One after another, seven that take a second and a half each need more than the whole probe."""
    server.mood = "long-steps"
    probe = probe._replace(text=probe.text.replace("\nPROBE_S = 9.0", "\nPROBE_S = 3.0"))
    assert [probe(server.url) for _ in range(4)] == [(0, "healthy: one token answered")] * 4
    assert sorted(server.ranks[-7:], key=str) == ["1", "2", "3", "4", "5", "6", "7"]


def test_a_single_engine_is_asked_without_a_rank(probe: Probe, server: FakeVllm) -> None:
    probe(server.url)
    assert server.ranks == [None]


def test_without_metrics_the_answer_decides(probe: Probe, server: FakeVllm) -> None:
    server.mood = "no-metrics"
    assert probe(server.url) == (0, "healthy: one token answered")
    server.mood = "hung-idle"
    assert [probe(server.url, patience_s=0.1)[0] for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("mood", ["wrong-key", "wrong-name"])
def test_wrong_question_is_no_hang(probe: Probe, server: FakeVllm, tmp_path: Path, mood: str) -> None:
    config = tmp_path / "vllm.yaml"
    config.write_text('{"api-key": ["sk-secret", "sk-next"]}')
    server.api_key = "sk-secret"
    assert probe(server.url, str(config))[0] == 0
    server.mood, server.api_key = mood, "sk-other" if mood == "wrong-key" else "sk-secret"
    answers = [probe(server.url, str(config)) for _ in range(3)]
    refused = "the server refuses the API key (HTTP 401): it was started with another one"
    assert set(answers) == {(1, f"unhealthy: {refused if mood == 'wrong-key' else 'HTTP 404 to one token'}")}


def test_unreadable_key_is_a_sentence(probe: Probe, server: FakeVllm) -> None:
    code, line = probe(server.url, "/nowhere/key")
    assert (code, line.partition(":")[2]) == (
        1,
        " the API key cannot be read: [Errno 2] No such file or directory: '/nowhere/key'",
    )


def test_first_health_ends_the_count_of_failed_starts(probe: Probe, server: FakeVllm) -> None:
    probe.starts.write_text("2\n")
    probe(LOADING)
    assert probe.starts.exists()
    probe(server.url)
    assert not probe.starts.exists()


def test_torn_state_is_as_none(probe: Probe, server: FakeVllm) -> None:
    (probe.folder / "canary.json").write_text('{"engines": {')
    assert probe(server.url) == (0, "healthy: one token answered")


def timed(text: str, folder: Path) -> tuple[str, Callable[[], float]]:
    """The script, which notes how long it ran, without the start of the interpreter; and what it noted."""
    place = folder / "spent"
    note = f"atexit.register(lambda: Path({str(place)!r}).write_text(str(time.monotonic() - begun)))"
    head = f"import atexit\nbegun = time.monotonic()\n{note}\n"
    before, main, after = text.partition('if __name__ == "__main__":\n')
    assert main
    return before + head + main + after, lambda: float(place.read_text())


def test_probe_ends_before_docker_kills_it(tmp_path: Path, server: FakeVllm) -> None:
    server.mood = "hung-idle"
    text, spent = timed(script(tmp_path, PROBE_S=0.5), tmp_path)
    # Any other limit is beyond this test's own.
    assert Probe(tmp_path, text)(server.url, patience_s=60)[0] == 1
    assert spent() < 20
    assert json.loads((tmp_path / "canary.json").read_text())[2] == 1


BUSY_LIMITS = ("METRICS", "BUSY_ANSWER", "PROMPT")


def test_a_busy_api_leaves_room_below_the_limit_of_docker(tmp_path: Path, server: FakeVllm) -> None:
    """Docker's 10 s begin before the interpreter does, and a flood keeps the host busy too."""
    server.mood = "flooded"
    # Its own limits end it; the whole of PROBE_S is longer than this test waits.
    text, spent = timed(script(tmp_path, PROBE_S=60.0), tmp_path)
    limits = [float(re.search(rf"^{name}_S = (.+)$", text, re.MULTILINE)[1]) for name in BUSY_LIMITS]  # type: ignore[index]
    assert Probe(tmp_path, text)(server.url, patience_s=8.0)[0] == 1
    assert spent() > sum(limits) - 0.1
    assert sum(limits) == 7.0


def until_gone(pid: str, tries: int) -> str:
    """Shell that waits until a process has ended that was just killed, for a tenth of a second a try at most."""
    return f"for i in $(seq {tries}); do kill -0 {pid} 2>/dev/null || break; sleep 0.1; done"


def can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not can_unshare(), reason="no PID namespace can be made here (needs root)")
@pytest.mark.parametrize("word", ["vllm", "other"])
def test_hang_kills_all_but_the_init_of_vllm(tmp_path: Path, word: str) -> None:
    """A shell stands for Docker's init; `word` is on its command line."""
    canary = copied(tmp_path / "scripts", HANG_S=0.0, HANG_MISSES=1) / "canary.py"
    (tmp_path / "canary.json").write_text("[{}, 0.0, 0, {}, []]")
    init = f"""
        sleep 60 & engine=$!
        {sys.executable} {canary} {LOADING} ernie
        {until_gone("$engine", tries=2 if word == "other" else 200)}
        kill -0 $engine 2>/dev/null && echo engine lives || echo engine killed
        kill -9 $engine 2>/dev/null
        echo init lives
    """
    command = ["unshare", "--pid", "--fork", "--mount-proc", "bash", "-c", init, word]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("init lives\n")
    assert ("engine killed" in done.stdout) == (word == "vllm"), done
    assert ("canary: no answer to one token (Conn" in done.stderr) == (word == "vllm")


LITTLE_MEMORY = "import resource; resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\n"


@pytest.mark.parametrize(
    ("mood", "verdict"),
    [
        ("endless-metrics", (0, "healthy: one token answered")),
        ("endless-answer", (1, "not healthy yet: no answer to one token (HTTPException)")),
        ("nonsense", (0, "healthy: one token answered")),
        ("not-an-object", (1, "not healthy yet: an error instead of one token")),
    ],
)
def test_an_answer_without_end_or_sense_costs_neither_memory_nor_the_probe(
    probe: Probe, server: FakeVllm, mood: str, verdict: tuple[int, str]
) -> None:
    server.mood = mood
    text, spent = timed(probe.text, probe.folder)
    assert (
        probe._replace(text=text.replace("\nimport os", f"\n{LITTLE_MEMORY}import os"))(server.url) == verdict
    )
    assert spent() < 9
