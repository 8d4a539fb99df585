"""`explain` names the cause in anybody's output, calls an unknown one unknown, and is safe on hostile text."""

import json
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, kit

from ernie_deploy.catalog import Catalog
from ernie_deploy.commands.explain import decoded
from ernie_deploy.stack import containers, inspection, lifecycle, status
from ernie_deploy.stack.containers import State
from ernie_deploy.stack.evidence import SERVING, of_text
from ernie_deploy.stack.log_prefixes import peeled
from ernie_deploy.stack.rendered import Rendered
from ernie_deploy.stack.verdict import Verdict, as_text, judge

CATALOG = Catalog()
EXCERPTS = sorted((ROOT / "tests/failures").glob("*.txt"))
HEALTHY = sorted((ROOT / "tests/logs").glob("*.log"))
KNOWN = {failure.id: failure for failure in CATALOG.failures}
START = (
    "(APIServer pid=1) INFO 11-22 00:00:00 [api_server.py:1] vLLM API server version 0.32.0\n"
    "(EngineCore pid=212) INFO 11-22 00:00:09 [core.py:109] Initializing a V1 LLM engine\n"
)
# How every failed start of vLLM ends.
END = (
    "(APIServer pid=1) Traceback (most recent call last):\n"
    '(APIServer pid=1)   File "/usr/lib/python3/vllm/v1/engine/utils.py", line 900, in wait_for_engine_startup\n'
    "(APIServer pid=1)     raise RuntimeError(\n"
    "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}\n"
)


def of(text: str) -> Verdict:
    return judge(of_text(text), CATALOG)


def identity(text: str) -> str:
    known = of(text).known
    return known.id if known else "unknown"


def expected(path: Path) -> str:
    return "unknown" if KNOWN[path.stem].weight == "generic" else path.stem


def test_no_excerpt_gets_a_wrong_cause() -> None:
    """The confusion table: every excerpt alone, in a start that ends as every one does, and under other prefixes."""
    table: Counter[tuple[str, str]] = Counter()
    for path in EXCERPTS:
        text = path.read_text(encoding="utf-8")
        for form in (text, f"{START}{text}{END}", _stamped(text), _as_json_file(text)):
            table[expected(path), identity(form)] += 1
    wrong = {pair: count for pair, count in table.items() if pair[0] != pair[1]}
    print(f"{len(EXCERPTS)} excerpts, {sum(table.values())} texts, {sum(wrong.values())} with a wrong cause")
    for (want, has), count in sorted(table.items()):
        print(f"{'WRONG' if want != has else '     '} {want:<32} {has:<32} {count}")
    assert not wrong


OTHER_WORDS = tomllib.loads((ROOT / "tests/failures/words.toml").read_text(encoding="utf-8"))["words"]


@pytest.mark.parametrize("words", OTHER_WORDS, ids=lambda words: f"{words['id']}:{words['text'][:30]}")
def test_a_failure_in_other_words_is_the_same(words: dict[str, str]) -> None:
    for form in (words["text"], f"{START}{words['text']}{END}"):
        made = of(form)
        assert (made.known.id if made.known else "unknown") == words["id"]
        assert "(unnamed)" not in as_text(made)


def _stamped(text: str) -> str:
    """As `docker logs -t` of a terminal prints it."""
    return "".join(f"2026-11-24T06:02:11.118273645Z \x1b[31m{line}\x1b[0m\r\n" for line in text.splitlines())


def _as_json_file(text: str) -> str:
    """As Docker's json-file driver keeps it."""
    lines = [
        {"log": f"{line}\n", "stream": "stderr", "time": "2026-11-24T06:02:11Z"} for line in text.splitlines()
    ]
    return "\n".join(map(json.dumps, lines))


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.stem)
def test_nothing_is_found_in_a_healthy_log(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for form in (text, "".join(f"serve-1  | {line}\n" for line in text.splitlines())):
        made = of(form)
        assert made.known is None, made.known
        assert made.unknown
        assert made.unknown.exception is None, made.unknown


def test_the_healthy_logs_are_a_thousand_lines() -> None:
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in HEALTHY) >= 1_000


BENIGN = """\
(APIServer pid=1) WARNING 11-24 06:02:11 [system_utils.py:255] Found ulimit of 4096 and failed to raise it. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.
(EngineCore pid=9) INFO 11-24 06:02:11 [shm_broadcast.py:466] No available shared memory broadcast block found in 60 seconds.
[transformers] Encountered exception while importing decord: No module named 'decord'
(APIServer pid=1) ERROR 11-24 06:02:11 [config.py:306] Error retrieving safetensors: Repo id must be in the form 'repo_name' or 'namespace/repo_name': '/w', retrying 1 of 2
Matplotlib created a temporary cache directory at /tmp/m because the default path (/.config/matplotlib) is not a writable directory
[W1124 06:02:11.118 ProcessGroupGloo.cpp:727] Warning: Unable to resolve hostname to a (local) address. Using the loopback address as fallback.
(Worker pid=7) WARNING 11-24 06:02:11 [custom_all_reduce.py:144] Custom allreduce is disabled because your platform lacks GPU P2P capability
(APIServer pid=1) WARNING 11-24 06:02:11 [interface.py:171] Failed to import from vllm._C: ImportError('libcuda.so.1: cannot open shared object file')
(EngineCore pid=9) WARNING 11-24 06:02:11 [topk_topp_sampler.py:66] FlashInfer is not available. Falling back to the PyTorch-native implementation of top-p & top-k sampling.
INFO:     10.0.0.9:51234 - "GET /v1/models/CUDA%20out%20of%20memory HTTP/1.1" 404 Not Found
Exception ignored in: <function _ConnectionBase.__del__ at 0x7f>
(Worker pid=7) INFO 11-24 06:02:11 [pynccl.py:113] vLLM is using nccl==2.27.7
north:71:90 [0] NCCL INFO Bootstrap: Using eth0:172.18.0.2<0>
 Container north-serve-1  Started
4b00ab: Pull complete
(EngineCore pid=9) Error while downloading from https://cdn.example/north: Read timed out.
"""


@pytest.mark.parametrize("line", BENIGN.splitlines())
def test_a_harmless_line_is_no_cause(line: str) -> None:
    assert identity(line) == "unknown"
    assert (
        identity(f"{line}\n{(ROOT / 'tests/failures/out-of-memory.txt').read_text()}{line}\n")
        == "out-of-memory"
    )


PREFIXES = (
    "",
    "serve-1  | ",
    "north-serve-1  | \x1b[36m(EngineCore pid=9)\x1b[0;0m ERROR 11-24 06:02:11 [core.py:1136] ",
    "2026-11-24T06:02:11.118Z stderr F (EngineCore pid=9) ERROR 11-24 06:02:11 [core.py:1136] ",
    "[pod/north-0/vllm] 2026-11-24T06:02:11Z ",
    "Nov 24 06:02:11 north docker[812]: ",
    "(VllmWorkerProcess pid=812) ERROR 02-20 16:43:12 engine.py:389] ",
    "(RayWorkerWrapper pid=812, ip=10.8.0.3) ERROR 11-24 06:02:11 [core.py:1136] ",
    "[rank3]: ",
    "> ",
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_others_write_before_a_line_is_taken_off(prefix: str) -> None:
    said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert [part.text for part in peeled(prefix + said)] == [said]
    assert identity(prefix + said) == "out-of-memory"


def test_json_and_logrus_are_read() -> None:
    inner = json.dumps(
        {"levelname": "ERROR", "message": "Traceback:\nRuntimeError: No CUDA GPUs are available"}
    )
    assert identity(json.dumps({"log": inner + "\n", "stream": "stderr"})) == "no-gpu-seen"
    line = 'time="2026-11-24T06:02:11Z" level=error msg="Bind for 10.8.0.3:8000 failed: port is already allocated"'
    assert identity(line) == "port-busy"
    assert identity("[" * 100_000) == identity('{"a":' * 20_000) == "unknown"


def test_the_last_of_several_starts_counts_and_the_others_are_named() -> None:
    first = "Error response from daemon: Bind for 10.8.0.3:8000 failed: port is already allocated\n"
    second = f"{START}(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9] torch.OutOfMemoryError: CUDA out of memory.\n{END}"
    made = of(first + second)
    assert made.known
    assert made.known.id == "out-of-memory"
    assert [one.id for one in made.also] == ["port-busy"]
    assert "also: port-busy (line 1)" in as_text(made)


def test_a_cause_wins_over_what_follows_from_it() -> None:
    text = (
        "(EngineCore pid=2) UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found 12020).\n"
        "(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9] RuntimeError: No CUDA GPUs are available\n"
        "(APIServer pid=1) ERROR 11-24 06:02:11 [x.py:1] Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting down executor.\n"
    )
    assert identity(text) == "driver-too-old"


UNKNOWN = (
    f"{START}"
    '(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9]   File "/opt/venv/lib/python3.12/site-packages/vllm/moon/tide.py", line 7, in rise\n'
    "(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9]     raise TideError(height)\n"
    "(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9] vllm.moon.TideError: the tide at 0x7f3311aa is 48211 too high\n"
    f"{END}"
)


def test_an_unknown_failure_is_called_so_with_its_exception_and_what_to_search_for() -> None:
    made = of(UNKNOWN)
    assert made.known is None
    assert as_text(made).splitlines() == [
        "unknown: the table has no failure for this text",
        "  last exception, line 5: vllm.moon.TideError: the tide at 0x7f3311aa is 48211 too high",
        "  worth searching for:",
        "    vllm.moon.TideError: the tide at ... is ... too high",
        "    vllm/moon/tide.py rise",
    ]


def test_where_an_unknown_exception_was_raised_is_named_in_any_package_and_in_vllm() -> None:
    text = UNKNOWN.replace(
        "raise TideError(height)\n",
        "north.wave(height)\n"
        '(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9]   File "/usr/lib/python3/dist-packages/north/wave.py", line 3, in crest\n'
        "(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9]     raise TideError(height)\n",
    )
    other = of(text).unknown
    assert other
    assert other.search[1:] == ("north/wave.py crest", "vllm/moon/tide.py rise")


def test_an_exception_of_compiled_code_that_nothing_catches_is_unknown_and_quoted() -> None:
    text = f"{START}terminate called after throwing an instance of 'north::Tide'\n  what():  the moon is full\n{END}"
    made = of(text)
    assert made.known is None
    assert made.unknown
    assert made.unknown.exception
    assert "north::Tide" in made.unknown.exception.text
    assert "what():  the moon is full" in made.unknown.search


OPENED = f"INFO:     {SERVING}\n"
BUSY = "OSError: [Errno 98] Address already in use\n"


def test_a_failure_after_which_the_server_came_to_serve_is_told_as_an_earlier_one() -> None:
    made = of(BUSY + START + OPENED)
    assert made.known
    assert made.known.line.survived
    assert "an earlier start" in as_text(made)
    for later in (
        f"vllm-1  | {BUSY}vllm-1  | {OPENED}vllm-1 exited with code 137\n",
        f"vllm-1  | {OPENED}" + "".join(f"vllm-1  | {line}\n" for line in (START + BUSY).splitlines()),
        f"vllm-1  | {BUSY}other-1  | {OPENED}",
    ):
        other = of(later)
        assert other.known
        assert not other.known.line.survived
        assert "an earlier start" not in as_text(other)
    assert identity(f"vllm-1  | {BUSY}vllm-1  | {OPENED}vllm-1 exited with code 137\n") == "killed"


def test_an_exception_that_a_start_survived_is_not_told() -> None:
    made = of(f"{START}north.TideError: too high\n{OPENED}")
    assert made.unknown
    assert made.unknown.exception is None
    assert "the server did start" in as_text(made)


def test_a_probe_that_failed_while_a_ready_pod_was_loading_is_no_failure() -> None:
    event = (ROOT / "tests/failures/probe-kills.txt").read_text()
    assert identity(f"Conditions:\n  Ready             True \nEvents:\n{event}") == "unknown"
    assert identity(f"Conditions:\n  Ready             False \nEvents:\n{event}") == "probe-kills"


def test_what_the_scheduler_lacks_is_a_gpu_before_a_taint() -> None:
    made = of(
        "0/4 nodes are available: 1 node(s) had untolerated taint {a.b/c: }, 1 Insufficient cpu, 2 Insufficient amd.com/gpu."
    )
    assert made.known
    assert made.known.what.endswith("no node for the pod: Insufficient amd.com/gpu.")


def test_the_name_of_a_kubernetes_secret_is_shown_and_a_secret_is_not() -> None:
    assert '"north-key-1" not found' in as_text(of('Error: secret "north-key-1" not found'))
    assert "Secret llm/north-1" in as_text(of("Error: couldn't find key token in Secret llm/north-1"))
    for line in ('ValueError: secret "pa55-word!" is wrong', "ValueError: secret: ab12/cd34"):
        assert "***" in as_text(of(line))


def test_the_kits_own_error_is_passed_on() -> None:
    text = "error: The moon is full.\n  cause: it is the 14th\n  next:  wait with: sleep 1d\n"
    made = of(text)
    assert made.known
    assert (made.known.what, made.next) == ("The moon is full.", "wait with: sleep 1d")


def test_what_clients_write_once_it_serves_is_no_evidence_and_what_the_engine_logs_is() -> None:
    serving = f"{START}INFO:     {SERVING}\n"
    assert (
        identity(f"{serving}torch.OutOfMemoryError: CUDA out of memory.\nCUDA out of memory. Tried\n")
        == "unknown"
    )
    logged = (
        "(EngineCore pid=2) ERROR 11-24 06:02:11 [core.py:9] torch.OutOfMemoryError: CUDA out of memory.\n"
    )
    assert identity(serving + logged) == "out-of-memory"
    ipc = (ROOT / "tests/failures/hip-ipc.txt").read_text()
    assert identity(ipc) == "hip-ipc"
    assert identity(serving + ipc) == "nccl-unspecific"


def test_values_are_passed_on_in_words_of_the_rendered_file(tmp_path: Path) -> None:
    log = tmp_path / "serve.log"
    log.write_text((ROOT / "tests/failures/kv-cache-too-small.txt").read_text())
    alone = kit("explain", str(log))
    assert alone.returncode == 0
    assert "serve with --max-model-len 75856" in alone.stdout
    assert kit("render", "h100", "--tp", "2", "-o", str(tmp_path / "compose.yml")).returncode == 0
    beside = kit("explain", str(log), "--json")
    step = json.loads(beside.stdout)["next"]
    command = f"ernie-deploy render h100 --tp 2 --max-model-len 75856 -o {tmp_path}/compose.yml --force"
    assert command in step
    assert kit(*command.split()[1:], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}).returncode == 0
    assert "75856" in (tmp_path / "compose.yml").read_text()


def test_what_is_printed_is_not_taken_for_a_place_of_the_table() -> None:
    line = "vllm: error: argument --x: {render:--set evil=1}"
    made = judge(of_text(line), CATALOG, Rendered(Path("compose.yml"), ("h100",)))
    assert "ernie-deploy render" not in made.next
    assert made.known
    assert "{ render:--set evil=1}" in made.known.what


def test_exit_codes_and_standard_input(tmp_path: Path) -> None:
    said = kit("explain", "-", input=(ROOT / "tests/failures/port-busy.txt").read_text())
    assert (said.returncode, said.stdout.partition(":")[0]) == (0, "port-busy")
    none = kit("explain", "-", "--json", input="hello\n")
    assert none.returncode == 1
    assert json.loads(none.stdout)["recognised"] is False
    assert kit("explain", str(tmp_path / "absent/x.log")).returncode == 2
    empty = kit("explain", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert empty.returncode == 2
    assert "explain FILE" in empty.stderr or "explain -" in empty.stderr


def test_secrets_and_controls_of_a_log_are_not_shown() -> None:
    token = "hf_" + "a1B2" * 9
    line = f"ValueError: https://user:pass@h.example/ {token} Authorization: Bearer abcdef123456 \x1b]0;x\x07 \u202e"
    done = kit("explain", "-", input=line)
    for secret in (token, "pass@", "abcdef123456", "\x1b", "\u202e"):
        assert secret not in done.stdout


def test_a_huge_and_hostile_text_is_bounded() -> None:
    begun = time.process_time()
    text = ("vllm: error: " * 90 + "\n") * 2_000 + "A" * 5_000_000 + "\n" + "x | y | " * 300_000
    of(text + "\nRuntimeError: No CUDA GPUs are available\n")
    assert time.process_time() - begun < 30


def test_powershells_encoding_is_read() -> None:
    text = (ROOT / "tests/failures/port-busy.txt").read_text()
    assert identity(decoded(text.encode("utf-16"))) == "port-busy"
    assert identity(decoded(b"\xef\xbb\xbf" + text.encode())) == "port-busy"


def test_every_known_failure_is_listed() -> None:
    listed = json.loads(kit("explain", "--list", "--json").stdout)
    assert {one["id"] for one in listed} == {one.id for one in CATALOG.failures if one.weight != "generic"}
    assert "port-busy: The port" in kit("explain", "--list").stdout


def test_an_extra_word_for_vllm_stays_behind_the_dashes() -> None:
    made = Rendered(Path("my dir/compose.yml"), ("h100", "--", "--seed", "1"))
    assert (
        made.again("--tp 2") == "ernie-deploy render h100 --tp 2 -o 'my dir/compose.yml' --force -- --seed 1"
    )


def _state(service: str, status: str, exit_code: int = 0, **more: object) -> State:
    return State(
        service=service, id=service, status=status, health=str(more.pop("health", "")), exit_code=exit_code, restarts=int(str(more.pop("restarts", 0))),
        started_at="2026-11-22T03:31:00Z", last_probe="", ports={}, **more,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("states", "logs", "known", "container"),
    [
        ([_state("fetch", "exited"), _state("serve", "exited", 137, oom_killed=True)], {"serve": "quiet\n"}, "killed-for-memory", ""),
        ([_state("serve", "exited", 137)], {}, "killed", ""),
        ([_state("serve", "created", error="driver failed: Bind for 10.8.0.3:8000 failed: port is already allocated")], {}, "port-busy", ""),
        ([_state("serve", "restarting", 1, restarts=3)], {"serve": f"{START}RuntimeError: No CUDA GPUs are available\n{END}"}, "no-gpu-seen", "serve"),
        ([_state("fetch", "exited", 1)], {"fetch": "fetch: the hub answers 401 for north/x: HF_TOKEN_FILE names no token\n"}, "token-refused", "fetch"),
        ([_state("serve", "running", health="unhealthy")], {"serve": "hello\n"}, None, ""),
        ([_state("serve", "running", health="healthy")], {"serve": "RuntimeError: No CUDA GPUs are available\n"}, None, ""),
    ],
)  # fmt: skip
def test_containers_that_are_not_well_are_explained(
    states: list[State],
    logs: dict[str, str],
    known: str | None,
    container: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "log_of_start", lambda _, state: logs.get(state.service, ""))
    monkeypatch.setattr(containers, "log", lambda _, identity, lines: logs.get(identity, ""))
    made = judge(inspection.of_containers(None, states), CATALOG)  # type: ignore[arg-type]
    assert (made.known.id if made.known else None) == known
    assert not made.known or made.known.line.name == container
    cause = status._cause(None, states, None)
    assert (cause["id"] if cause else None) == known
    page = {
        "project": "north",
        "containers": [status._container(s) for s in states],
        "cause": cause,
        "server": None,
    }
    assert not cause or f"  next: {cause['next']}" in status.as_text(page).splitlines()


def test_what_up_raises_has_the_evidence_and_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    excerpt = (ROOT / "tests/failures/kv-cache-too-small.txt").read_text()
    monkeypatch.setattr(containers, "states", lambda *_: [_state("serve", "exited", 1)])
    monkeypatch.setattr(containers, "log_of_start", lambda *_: START + excerpt)
    made = lifecycle.failure(None, "north", "", 5.0, 60, Rendered(Path("compose.yml"), ("h100",)))  # type: ignore[arg-type]
    assert "the log says: ValueError: To serve" in made.cause
    assert "ernie-deploy render h100 --max-model-len 75856 -o compose.yml --force" in made.next_step
    monkeypatch.setattr(containers, "log_of_start", lambda *_: UNKNOWN)
    other = lifecycle.failure(None, "north", "", 5.0, 60, None)  # type: ignore[arg-type]
    assert other.cause == "vllm.moon.TideError: the tide at 0x7f3311aa is 48211 too high"


def test_the_target_of_the_rendered_file_stands_in_the_next_step() -> None:
    text = (ROOT / "tests/failures/device-permission.txt").read_text()
    made = judge(of_text(text), CATALOG, Rendered(Path("compose.yml"), ("mi300x", "--tp", "4")))
    assert made.next.endswith("ernie-deploy doctor mi300x --write-env")


def test_a_value_ends_without_the_sign_of_its_sentence() -> None:
    made = of((ROOT / "tests/failures/unresolvable-cdi.txt").read_text())
    assert made.known
    assert made.known.what == "Docker knows no CDI device nvidia.com/gpu=0."


def test_a_stack_that_is_well_is_said_to_be() -> None:
    made = judge(inspection.of_containers(None, [_state("serve", "running", health="healthy")]), CATALOG)  # type: ignore[arg-type]
    assert as_text(made) == "nothing to explain: every container is well, or the text is empty"
