"""A run end to end, against a server that fools it in every known way, with a client as trusting as vLLM's own."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from bench.fake_openai import LIES, FakeOpenAI
from conftest import ROOT, kit
from msgspec.structs import replace

from ernie_deploy.bench.journal import store
from ernie_deploy.bench.journal.record import Attempt, Cell, Journal
from ernie_deploy.bench.measure import run as running
from ernie_deploy.bench.measure import watch
from ernie_deploy.bench.measure.compose_deployment import ComposeDeployment
from ernie_deploy.bench.measure.deployment import Attached, wait_until
from ernie_deploy.bench.measure.run import Reporter, Runner, RunOptions
from ernie_deploy.errors import ServerDied
from ernie_deploy.stack.containers import State

SMALL = ("--shapes", "80/10", "--num-prompts", "4", "--rate", "inf")
# What a background job of a script has ignored, its children would too.
AT_A_TERMINAL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
Bench = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shim(tmp_path: Path) -> dict[str, str]:
    """Variables under which `vllm` is the stand-in."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(f'#!/bin/sh\nexec {sys.executable} {ROOT}/tests/bench/fake_client.py "$@"\n')
    (folder / "vllm").chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.fixture
def bench(shim: dict[str, str], tmp_path: Path) -> Bench:
    def call(
        url: str, *words: str, results: str = "r", timeout: int = 100
    ) -> "subprocess.CompletedProcess[str]":
        return kit(
            "bench",
            "run",
            "--attach",
            url,
            "--tokenizer",
            "dir",
            "--results",
            str(tmp_path / results),
            *words,
            env=shim,
            timeout=timeout,
        )

    return call


@pytest.fixture
def fake(request: pytest.FixtureRequest) -> Iterator[FakeOpenAI]:
    with FakeOpenAI(getattr(request, "param", "ok")) as server:
        yield server


def read(tmp_path: Path, results: str = "r") -> Journal:
    return store.read(tmp_path / results / store.NAME)


def test_a_matrix_is_measured_once(bench: Bench, fake: FakeOpenAI, tmp_path: Path) -> None:
    words = ("--shapes", "80/10,10/80", "--num-prompts", "1,2,4", "--rate", "inf")
    done = bench(fake.url, *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "6 valid\n"
    first = read(tmp_path)
    assert Counter(a.status for a in first.attempts) == {"valid": 6}
    assert [a.result["total_output_tokens"] for a in first.attempts] == [10, 20, 40, 80, 160, 320]
    assert "  1/6 valid     80/10 n=1 rate=inf" in done.stderr
    again = bench(fake.url, *words)
    assert again.stdout == "6 valid\n"
    assert read(tmp_path).attempts == first.attempts


def test_the_environment_is_kept(bench: Bench, fake: FakeOpenAI, tmp_path: Path) -> None:
    bench(fake.url, *SMALL, "--model", "0.3b", "--target", "h100", "--skip-coherence")
    (home,) = read(tmp_path).environments.values()
    assert (home.hf_id, home.vllm_version, home.model, home.target) == (
        "baidu/ERNIE-4.5-0.3B-PT",
        "0.32.0",
        "0.3b",
        "h100",
    )
    assert (home.kv_cache_tokens, home.max_model_len, home.coherence) == (65536, 131072, "skipped: as asked")


FOOLED = {**LIES, "no-metrics": (0, "suspect", "counters")}


@pytest.mark.parametrize(("fake", "expected"), FOOLED.items(), indirect=["fake"], ids=FOOLED)
def test_every_way_to_be_fooled_is_named(
    bench: Bench, fake: FakeOpenAI, expected: tuple[int, str, str], tmp_path: Path
) -> None:
    code, status, word = expected
    done = bench(fake.url, *SMALL, "--no-warm-up")
    attempt = read(tmp_path).attempts[-1]
    assert (attempt.status, done.returncode) == (status, code), done.stderr
    assert any(word in reason for reason in attempt.reasons), attempt.reasons


def test_nothing_listening_is_known_at_once(bench: Bench) -> None:
    begun = time.monotonic()
    done = bench("http://127.0.0.1:9", *SMALL)
    assert done.returncode == 12
    assert "No OpenAI server answers at http://127.0.0.1:9." in done.stderr
    assert time.monotonic() - begun < 30


def test_a_client_that_is_missing_is_said(fake: FakeOpenAI, tmp_path: Path) -> None:
    empty = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = kit(
        "bench",
        "run",
        "--attach",
        fake.url,
        "--tokenizer",
        "dir",
        "--results",
        str(tmp_path / "r"),
        *SMALL,
        env=empty,
    )
    assert done.returncode == 14
    assert "There is no `vllm` on this machine's PATH." in done.stderr


def test_two_runs_have_the_same_identities_and_other_prompts(
    bench: Bench, fake: FakeOpenAI, tmp_path: Path
) -> None:
    for results in ("a", "b"):
        assert bench(fake.url, *SMALL, results=results).returncode == 0
    a, b = (read(tmp_path, results).attempts[0] for results in ("a", "b"))
    assert a.identity == b.identity
    assert a.seed != b.seed
    prompts = [body["prompt"] for body in fake.bodies if body.get("stream")]
    assert len(set(prompts)) == len(prompts)


def _clients_of(url: str) -> list[str]:
    """The clients that ask this server."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if "fake_client.py" in line and url in line]


@pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
def test_the_client_of_a_killed_run_ends_with_it(shim: dict[str, str], tmp_path: Path) -> None:
    # It would go on asking, and the next run's first cell would find its requests in the server's counters.
    with FakeOpenAI(token_s=2) as fake:
        words = [sys.executable, "-m", "ernie_deploy", "bench", "run", "--attach", fake.url, "--tokenizer", "dir",
                 "--results", str(tmp_path / "r"), "--shapes", "20/40", "--num-prompts", "1", "--rate", "inf", "--no-warm-up"]  # fmt: skip
        run = subprocess.Popen(words, env=shim, cwd=ROOT, stderr=subprocess.DEVNULL, process_group=0)
        _until(lambda: bool(_clients_of(fake.url)))
        run.kill()
        run.wait()
        _until(lambda: not _clients_of(fake.url))


def begun(tmp_path: Path) -> int:
    """How many cells of the journal have begun."""
    if not (tmp_path / "r" / store.NAME).exists():
        return 0
    journal = read(tmp_path)
    return len(journal.cut) + len(journal.attempts)


def test_a_run_that_is_killed_twice_ends_with_the_same_cells(shim: dict[str, str], tmp_path: Path) -> None:
    with FakeOpenAI(token_s=0.02) as fake:
        words = [sys.executable, "-m", "ernie_deploy", "bench", "run", "--attach", fake.url, "--tokenizer", "dir", "--results", str(tmp_path / "r"),
                 "--shapes", "20/10,10/20", "--num-prompts", "1,2,4", "--rate", "inf", "--no-warm-up"]  # fmt: skip
        for _ in range(2):
            before = begun(tmp_path)
            cut = subprocess.Popen(words, env=shim, cwd=ROOT, stderr=subprocess.DEVNULL, process_group=0)
            # In its first cell, whether the kill before came within one or just after its end.
            _until(lambda n=before: begun(tmp_path) > n)
            time.sleep(random.uniform(0, 0.2))
            cut.kill()
            cut.wait()
        last = subprocess.run(words, env=shim, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert last.stdout == "6 valid\n", last.stderr
    proven = [a.identity for a in read(tmp_path).attempts if a.status == "valid"]
    assert len(proven) == len(set(proven)) == 6
    assert len(read(tmp_path).cut) in (1, 2), "a kill may come a moment after a cell's end"


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_and_goes_on(name: int, shim: dict[str, str], tmp_path: Path) -> None:
    with FakeOpenAI(token_s=0.5) as fake:
        words = [sys.executable, "-m", "ernie_deploy", "bench", "run", "--attach", fake.url, "--tokenizer", "dir", "--results", str(tmp_path / "r"),
                 "--shapes", "20/30", "--num-prompts", "2", "--rate", "inf", "--no-warm-up"]  # fmt: skip
        cut = subprocess.Popen([*words[:1], "-c", AT_A_TERMINAL, *words], env=shim, cwd=ROOT, stderr=subprocess.PIPE,
                               text=True, process_group=0)  # fmt: skip
        _until(lambda: fake.running > 0)
        cut.send_signal(name)
        _, said = cut.communicate(timeout=120)
        assert cut.returncode == 130
        assert "the same command continues from here" in said
        _until(lambda: fake.running == 0)
        fake.token_s = 0.001
        assert subprocess.run(words, env=shim, cwd=ROOT, capture_output=True, timeout=300).returncode == 0
    assert [a.status for a in read(tmp_path).attempts] == ["interrupted", "valid"]


def test_a_run_under_nohup_outlives_its_terminal(shim: dict[str, str], tmp_path: Path) -> None:
    with FakeOpenAI(token_s=0.1) as fake:
        words = ["nohup", sys.executable, "-m", "ernie_deploy", "bench", "run", "--attach", fake.url, "--tokenizer", "dir", "--results", str(tmp_path / "r"),
                 "--shapes", "20/10", "--num-prompts", "2", "--rate", "inf", "--no-warm-up"]  # fmt: skip
        run = subprocess.Popen(words, env=shim, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, process_group=0)  # fmt: skip
        _until(lambda: fake.running > 0)
        run.send_signal(signal.SIGHUP)
        assert run.communicate(timeout=300)[0] == "1 valid\n"


def _until(met: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not met():
        assert time.monotonic() < end
        time.sleep(0.05)


class Ear:
    """Hears what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @property
    def reporter(self) -> Reporter:
        return Reporter(say=self.said.append, ended=lambda *_: None, progress=lambda *_: None)


def runner(fake: FakeOpenAI, writer: store.Writer, ear: Ear, folder: Path, run: str = "") -> Runner:
    options = RunOptions(folder=folder, warms_up=False, run=run)
    return Runner(Attached(fake.url, tokenizer="dir"), options, writer, Journal(lines=()), ear.reporter)


@pytest.fixture
def in_process(
    shim: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[store.Writer]:
    monkeypatch.setenv("PATH", shim["PATH"])
    with store.writing(tmp_path / store.NAME) as writer:
        yield writer


CELL = Cell(shape="600/5", input_len=600, output_len=5, num_prompts=4, request_rate=None)


def test_the_recipes_own_seed_finds_a_warm_cache(
    fake: FakeOpenAI, in_process: store.Writer, tmp_path: Path
) -> None:
    cell = replace(CELL, seed=0)
    first, second = runner(fake, in_process, Ear(), tmp_path).measure([cell, replace(cell, repeat=2)])
    assert first.status == "valid", first.reasons
    assert second.status == "invalid"
    assert any(reason.startswith("warm-cache") for reason in second.reasons), second.reasons


def test_the_default_policy_stays_cold(fake: FakeOpenAI, in_process: store.Writer, tmp_path: Path) -> None:
    done = list(runner(fake, in_process, Ear(), tmp_path).measure([CELL, replace(CELL, repeat=2)]))
    assert [attempt.status for attempt in done] == ["valid", "valid"], [a.reasons for a in done]


def test_reset_empties_the_caches_before_each_cell(
    fake: FakeOpenAI, in_process: store.Writer, tmp_path: Path
) -> None:
    cell = replace(CELL, cold="reset")
    (done,) = runner(fake, in_process, Ear(), tmp_path).measure([cell])
    assert done.status == "valid", done.reasons
    posted = [path for path in fake.paths if not path.startswith("/v1")]
    assert posted == ["/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache"]


@pytest.mark.parametrize("fake", ["stall"], indirect=True)
def test_a_server_that_stands_still_is_given_up(
    fake: FakeOpenAI, in_process: store.Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watch, "STALL_S", 1.0)
    monkeypatch.setattr(running, "MOST_ATTEMPTS", 1)
    (done,) = runner(fake, in_process, Ear(), tmp_path).measure([CELL])
    assert done.status == "failed"
    assert done.reasons[0].startswith("server-died: no token for 2 s with 4 requests running"), done.reasons


@pytest.mark.parametrize("fake", ["dies"], indirect=True)
def test_a_server_that_dies_ends_the_run_with_12(
    fake: FakeOpenAI, in_process: store.Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(running, "COME_BACK_S", 1.0)
    with pytest.raises(ServerDied, match="did not come back within 1 s"):
        list(runner(fake, in_process, Ear(), tmp_path).measure([CELL]))
    lines = [json.loads(line) for line in (tmp_path / store.NAME).read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["environment", "start", "attempt"]
    assert lines[-1]["status"] == "failed"


class Restartable(Attached):
    """A server that its owner may restart, as that of a stack."""

    can_restart = True

    def __init__(self, fake: FakeOpenAI) -> None:
        super().__init__(fake.url, tokenizer="dir")
        self.fake, self.done = fake, list[str]()

    def alive(self) -> bool:
        """Docker's last look, which a dying server passed."""
        return True

    def wait_healthy(self, limit_s: float) -> None:
        self.done.append("waited")
        wait_until(self.endpoint.server.is_healthy, limit_s, "the fake")

    def restart(self) -> None:
        self.done.append("restarted")
        self.fake.mood = "ok"
        self.fake.restart()


@pytest.mark.parametrize("fake", ["stall"], indirect=True)
def test_a_server_that_stands_still_is_restarted_and_measured_again(
    fake: FakeOpenAI, in_process: store.Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(watch, "STALL_S", 1.0)
    made = runner(fake, in_process, Ear(), tmp_path)
    made.deployment = deployment = Restartable(fake)
    real = deployment.restart

    def restart() -> None:
        real()
        fake.running = 0

    monkeypatch.setattr(deployment, "restart", restart)
    (done,) = made.measure([CELL])
    assert (done.status, done.attempt, deployment.done) == ("valid", 2, ["restarted"]), done.reasons


@pytest.mark.parametrize("fake", ["dies"], indirect=True)
def test_a_server_that_died_and_starts_anew_was_lost(
    fake: FakeOpenAI, in_process: store.Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Docker calls it alive, and nothing answers at its old port: the client's errors are no measurement."""
    monkeypatch.setattr(watch, "SETTLE_S", 1.0)
    monkeypatch.setattr(running, "MOST_ATTEMPTS", 1)
    made = runner(fake, in_process, Ear(), tmp_path)
    made.deployment = Restartable(fake)
    (done,) = made.measure([CELL])
    assert (done.status, done.reasons[0]) == ("failed", f"server-died: {watch.LOST}")


def test_a_server_that_restarted_between_two_cells_is_waited_for(
    fake: FakeOpenAI, in_process: store.Writer, tmp_path: Path
) -> None:
    made = runner(fake, in_process, Ear(), tmp_path)
    made.deployment = deployment = Restartable(fake)
    first, second = [], []
    for done in made.measure([CELL, replace(CELL, repeat=2)]):
        (second if first else first).append(done.status)
        fake.restart()
    assert (first, second, deployment.done) == (["valid"], ["valid"], ["waited"])


def test_a_server_that_is_dying_between_two_cells_is_waited_for(
    fake: FakeOpenAI, in_process: store.Writer, tmp_path: Path
) -> None:
    made = runner(fake, in_process, Ear(), tmp_path)
    made.deployment = deployment = Restartable(fake)

    def come_back() -> None:
        fake.restart()
        fake.dying = False

    found = []
    for done in made.measure([CELL, replace(CELL, repeat=2)]):
        found.append(done.status)
        fake.dying = True
        threading.Timer(1.0, come_back).start()
    assert (found, deployment.done) == (["valid", "valid"], ["waited"])


def test_a_stack_is_back_when_its_server_says_so(fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's last look at a server whose engine died was healthy."""
    serve = State(service="serve", id="1", status="running", health="healthy", exit_code=0, restarts=0,
                  started_at="", last_probe="", ports={"8000/tcp": fake.url.removeprefix("http://")})  # fmt: skip
    deployment = ComposeDeployment.__new__(ComposeDeployment)
    deployment.config, deployment._services, deployment._found = {"name": "p"}, {"serve": {}}, None
    monkeypatch.setattr(deployment, "serving", lambda: serve)
    fake.dying = True
    with pytest.raises(ServerDied, match=r"The stack p did not come back within 0\.2 s"):
        deployment.wait_healthy(0.2)
    fake.dying = False
    deployment.wait_healthy(0.2)


def test_a_client_that_fails_is_no_lost_server(
    fake: FakeOpenAI, shim: dict[str, str], bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "vllm").write_text("#!/bin/sh\necho 'OSError: no tokenizer at /models/x'; exit 1\n")
    done = bench(fake.url, *SMALL, "--no-warm-up")
    assert done.returncode == 1
    assert "vLLM's client failed at 80/10 n=4 rate=inf." in done.stderr
    assert "OSError: no tokenizer at /models/x" in done.stderr
    assert "--tokenizer names the model's tokenizer" in done.stderr


def test_a_server_that_came_back_is_measured_again(
    fake: FakeOpenAI, in_process: store.Writer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ear, real = Ear(), running.attempt

    def once_killed(context: object, start: object) -> Attempt:
        done = real(context, start)  # type: ignore[arg-type]
        if start.attempt == 1:  # type: ignore[attr-defined]
            fake.restart()
            return replace(done, status="failed", reasons=("server-died: the server was restarted",))
        return done

    monkeypatch.setattr(running, "attempt", once_killed)
    (done,) = runner(fake, in_process, ear, tmp_path).measure([CELL])
    assert (done.status, done.attempt) == ("valid", 2), done.reasons
    assert "the server is lost; waiting for it to come back" in ear.said


def test_the_search_ends_at_the_edge(shim: dict[str, str], tmp_path: Path) -> None:
    """10 ms a token and request: 45 ms are kept by four at a time, and on a busy machine by fewer, now and then by none."""
    edges = (searched(shim, tmp_path / f"{number}") for number in range(3))
    assert any(2 <= edge <= 5 for edge in edges)


def searched(shim: dict[str, str], folder: Path) -> int:
    """The concurrency that a search ends at."""
    folder.mkdir()
    with FakeOpenAI(token_s=0.01, crowded=True) as fake:
        done = kit("bench", "search", "--attach", fake.url, "--tokenizer", "dir", "--results", str(folder / "r"), "--slo", "tpot:45", "--most", "16",
                   "--shape", "20/10", "--share", "0.5", "--no-warm-up", "--json", env=shim)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    shares = {int(number): share for number, share in found["probes"].items()}
    # What is asked is kept below the edge, and by the next one no more.
    assert all(shares[number] >= 0.5 for number in shares if number <= found["concurrency"])
    assert min(share for number, share in shares.items() if number > found["concurrency"]) < 0.5
    assert {a.cell.max_concurrency for a in read(folder).attempts} == set(shares)
    return int(found["concurrency"])
