"""A failed start is known by what Docker, the kit or the engine printed, and by nothing that a client wrote."""

import re
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]
from urllib.parse import quote

import pytest
from conftest import ROOT

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.failure_schema import Failure
from ernie_deploy.stack import containers
from ernie_deploy.stack.containers import State, log_of_start
from ernie_deploy.stack.evidence import SCRIPTS, SERVING, Evidence, Line, gathered
from ernie_deploy.stack.failures import placeholders, recognise
from ernie_deploy.stack.log_prefixes import MOST_CHARACTERS
from ernie_deploy.stack.progress import phase

EXCERPTS = ROOT / "tests/failures"
CATALOG = Catalog()
FAILURES = [failure for failure in CATALOG.failures if failure.weight != "generic"]
each_failure = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.id)

START = (
    "(APIServer pid=1) INFO 11-22 00:00:00 [api_server.py:1] vLLM API server version 0.32.0\n"
    "(EngineCore pid=212) INFO 11-22 00:00:09 [core.py:109] Initializing a V1 LLM engine\n"
)
# How what a client sends comes into a log: asked for, named as a model or as itself, as a prompt, in an error.
CLIENT_LINES = (
    'INFO:     10.0.0.9:51234 - "GET /{} HTTP/1.1" 404 Not Found',
    '(APIServer pid=1) INFO:     10.0.0.9:51234 - "POST /v1/completions?x={} HTTP/1.1" 200 OK',
    '10.0.0.9 - - [22/Nov/2026:03:31:57 +0000] "GET / HTTP/1.1" 200 15 "-" "{}"',
    "(APIServer pid=1) ERROR 11-22 03:31:57 [serving.py:274] Error with model error=ErrorInfo(message='No model `{}`')",
    "(APIServer pid=1) INFO 11-22 03:31:57 [logger.py:39] Received request cmpl-1: prompt: '{}', params: None.",
    "ValueError: cannot read '{}'",
    "(APIServer pid=1) ERROR 11-22 03:31:57 [utils.py:9] ValueError: {}",
    "WARNING:  Invalid HTTP request received: {}",
)


def excerpt(failure: Failure) -> str:
    return (EXCERPTS / f"{failure.id}.txt").read_text(encoding="utf-8")


@each_failure
def test_each_known_failure_is_recognised_by_its_excerpt_as_up_reads_it(failure: Failure) -> None:
    docker = recognise(gathered(docker=excerpt(failure)), CATALOG) if failure.host else None
    match = docker or recognise(gathered(logs=[START + excerpt(failure) + START]), CATALOG)
    assert match is not None
    assert match.id == failure.id
    for sentence in (match.what, match.next, match.kit):
        assert sentence
        assert "(unnamed)" not in sentence


@each_failure
def test_what_a_sentence_wants_a_pattern_has(failure: Failure) -> None:
    patterns = (failure.host, failure.script, failure.engine, failure.near)
    groups = {name.rstrip("0123456789") for pattern in patterns for name in re.compile(pattern).groupindex}
    for sentence in (failure.what, failure.next, failure.kit):
        assert set(placeholders(sentence)) - {"render"} <= groups, sentence


def test_every_excerpt_belongs_to_a_failure_and_every_source_is_named() -> None:
    assert {path.stem for path in EXCERPTS.glob("*.txt")} == {failure.id for failure in CATALOG.failures}
    assert all(len(failure.source) > 5 for failure in CATALOG.failures)


@pytest.mark.parametrize(
    ("source", "line", "known", "words"),
    [
        ("docker", "listen tcp4 0.0.0.0:8000: bind: address already in use", "port-busy", "0.0.0.0:8000 "),
        ("docker", "failed to bind host port for 0.0.0.0:8000:172.18.0.2:8000/tcp: address already in use", "port-busy", "0.0.0.0:8000 "),
        ("docker", "failed to bind host port [::]:8000/tcp: address already in use", "port-busy", "[::]:8000 "),
        ("docker", "Bind for :::8000 failed: port is already allocated", "port-busy", ":::8000 "),
        ("docker", 'failed to resolve reference "docker.io/a/b:v9": docker.io/a/b:v9: not found', "image-not-found", "docker.io/a/b:v9"),
        ("docker", "write /usr/lib/libtorch_cuda.so: no space left on device", "docker-disk-full", "full"),
        ("logs", "vllm serve: error: argument --tp: invalid int value: 'x'", "flag-rejected", "--tp"),
        ("logs", "(EngineCore pid=1) OSError: [Errno 28] No space left on device: '/cache/x'", "disk-full", "full"),
        ("logs", "PermissionError: [Errno 13] Permission denied: '/dev/kfd'", "device-permission", "devices"),
        ("logs", "(Worker pid=7) torch.cuda.OutOfMemoryError: HIP out of memory. Tried", "out-of-memory", "memory"),
        ("logs", "/opt/torch/__init__.py:174: UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found", "driver-too-old", "older"),
    ],
)  # fmt: skip
def test_other_words_for_the_same(source: str, line: str, known: str, words: str) -> None:
    match = recognise(gathered(line) if source == "docker" else gathered(logs=[line]), CATALOG)
    assert match is not None
    assert (match.id, words in match.what) == (known, True), match


# As vLLM 0.11 printed it in vllm-project/vllm pull request 22514, comment of 2025-11-25, and as a worker does.
MISSING = "ImportError: This modeling file requires the following packages that were not found in your environment: {}"
FROM_REMOTE = (
    '  File "/tmp/modules/transformers_modules/weights/0334/processing_ernie4_5_vl.py", line 5, in <module>'
)
FROM_VLLM = '  File "/opt/venv/lib/python3.11/site-packages/vllm/usage/usage_lib.py", line 5, in <module>'
ASKED = "requests.exceptions.{}: HTTPSConnectionPool(host='fonts.example.org', port=443): {}"
EXPERTS = '(Worker pid=7) ERROR 11-26 03:22:33 [multiproc_executor.py:953]   File "/opt/vllm/model_executor/models/{}.py", line 303, in _recursive_replace'


@pytest.mark.parametrize(
    ("lines", "known", "words"),
    [
        (["(APIServer pid=1) Encountered exception while importing decord: No module named 'decord'",
          f"(APIServer pid=1) {MISSING.format('decord. Run `pip install decord`')}"], "remote-code-package", "lacks: decord."),
        ([f"(Worker pid=7) ERROR 11-26 03:22:33 [core.py:9] {MISSING.format('decord, moviepy. Run `pip install decord moviepy`')}"],
         "remote-code-package", "decord, moviepy"),
        (["import: the remote code needs decord, moviepy, a Python package that the image lacks: render with it"],
         "remote-code-package", "decord, moviepy"),
        (["import: the remote code asks the network at processing.py:2 (URLError: refused), and a server has none: x"],
         "remote-code-fails", "at processing.py:2 (URLError: refused)."),
        (["import: the remote code ended the process that imports it, with signal 6 and without a word: pin a revision of x"],
         "remote-code-fails", "signal 6 and without a word."),
        (["import: transformers was not imported within 600 s, likely because the disk is slow"], None, ""),
        ([FROM_REMOTE, ASKED.format("ConnectTimeout", "Max retries exceeded with url: /Roboto-Regular.ttf")],
         "remote-code-unanswered", "fonts.example.org"),
        ([FROM_REMOTE, ASKED.format("SSLError", "Max retries exceeded")], "remote-code-unanswered", "fonts.example.org"),
        ([EXPERTS.format("transformers/moe"), "(Worker pid=7) ERROR 11-26 03:22:33 [multiproc_executor.py:953] IndexError: list index out of range"],
         "transformers-layout", "layout"),
        ([EXPERTS.format("ernie45_vl"), "AttributeError: 'Ernie4_5_VLMoeVisionConfig' object has no attribute 'embed_dim'"],
         "transformers-layout", "layout"),
        ([FROM_VLLM, ASKED.format("ConnectTimeout", "Max retries exceeded")], None, ""),
        ([EXPERTS.format("llama"), "IndexError: list index out of range"], None, ""),
    ],
)  # fmt: skip
def test_what_remote_code_and_the_layout_of_a_vl_model_cause(
    lines: list[str], known: str | None, words: str
) -> None:
    match = recognise(gathered(logs=["\n".join(lines)]), CATALOG)
    assert (match.id if match else None) == known
    assert not match or words in match.what


def test_an_unknown_failure_is_not_guessed() -> None:
    assert recognise(gathered("INFO fine\n", ["ValueError: something new\n"]), CATALOG) is None


def planted(failure: Failure) -> Iterator[str]:
    for line in excerpt(failure).splitlines():
        for form in CLIENT_LINES:
            yield form.format(line)
            yield form.format(quote(line))


@each_failure
def test_what_a_client_writes_is_no_evidence(failure: Failure) -> None:
    for line in planted(failure):
        log = f"{START}{line}\n{START}"
        assert recognise(gathered(logs=[log, log]), CATALOG) is None, line
        assert recognise(gathered(logs=[f"{START}{SERVING}\n{line}\n"]), CATALOG) is None, line


@each_failure
def test_nothing_proves_a_failed_start_once_clients_can_write(failure: Failure) -> None:
    # A traceback prints what was raised as it is, so a client's line break begins a line of the log.
    log = f"{START}INFO:     {SERVING}\n{excerpt(failure)}"
    assert recognise(gathered(logs=[log]), CATALOG) is None


@each_failure
def test_what_the_engine_prints_is_not_taken_for_dockers(failure: Failure) -> None:
    if failure.host and not (failure.script or failure.engine):
        assert recognise(gathered(logs=[excerpt(failure)]), CATALOG) is None


def test_looser_security_wants_what_was_raised() -> None:
    failure = next(failure for failure in FAILURES if failure.id == "hip-ipc")
    assert "--security recipe" in failure.kit
    assert failure.until_serving
    lines = excerpt(failure).splitlines()
    for left_out in lines[1:]:
        text = "\n".join(line for line in lines if line != left_out)
        match = recognise(gathered(logs=[text]), CATALOG)
        assert match is None or match.id == "nccl-unspecific", left_out
    loose = [
        f
        for f in FAILURES
        if any(word in f.next + f.kit for word in ("vendor ", "privileged", "seccomp=unconfined"))
    ]
    assert loose
    assert all(f.until_serving and not f.script for f in loose)


@each_failure
def test_a_pattern_of_a_container_is_anchored_to_its_line(failure: Failure) -> None:
    for pattern in filter(None, (failure.script, failure.engine, failure.confirmed_by)):
        first = _parser.parse(pattern)[0]
        assert first == (_constants.AT, _constants.AT_BEGINNING), pattern
    assert failure.host or failure.script or failure.engine
    assert not failure.script or any(f"{word.strip(' :')}" in failure.script for word in SCRIPTS)


def test_a_line_is_cut_and_its_colours_go() -> None:
    made = gathered(
        "x" * 10 * MOST_CHARACTERS,
        ["\x1b[31m(EngineCore pid=2) ERROR 11-22 03:31:57 [core.py:9] RuntimeError: y\x1b[0m\r\n"],
    )
    docker = Line(text="x" * MOST_CHARACTERS, by="host")
    assert made == Evidence((docker, Line(text="RuntimeError: y", by="engine", number=1, level="ERROR")))


STARTED, FIRST_FAILED = 1795318260.25, 1795318000.5


class Engine:
    """A Docker engine whose one container printed parts of a log since its start, and something before."""

    def __init__(self, *parts: bytes, before: bytes = b"", oldest: str = "2026-11-22T03:26:40.5Z") -> None:
        self.containers, self.parts, self.before, self.read = self, parts, before, 0
        self.oldest = f"{oldest} a line".encode() if oldest else b""

    def get(self, _: str) -> "Engine":
        return self

    def logs(self, **asked: object) -> object:
        if "timestamps" in asked:
            return iter([self.oldest] if self.oldest else [])
        if "until" in asked:
            assert (asked["since"], asked["until"]) == (FIRST_FAILED, STARTED)
            return iter([self.before])
        return self._stream(asked["since"]) if asked.get("stream") else self.before

    def _stream(self, since: object) -> Iterator[bytes]:
        assert since in (STARTED, None)
        if since is None:
            yield self.before
        for part in self.parts:
            self.read += 1
            yield part


SERVE = State(
    service="serve", id="c1", status="restarting", health="", exit_code=1, restarts=2,
    started_at="2026-11-22T03:31:00.250000001Z", last_probe="", ports={},
)  # fmt: skip


WAITING = (
    b"serve: 3 starts in a row never became healthy, the first of them at 2026-11-22T03:26:40.500+00:00, "
    b"likely for the reason in the log above: waiting 600 s\n"
)


def test_only_the_log_of_this_start_is_read_and_no_more_than_a_start_prints(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(containers, "MOST_OF_START_BYTES", 10)
    engine = Engine(b"12345", b"67890", b"never", before=b"of former starts")
    assert log_of_start(engine, SERVE) == "1234567890"  # type: ignore[arg-type]
    assert engine.read == 2


@pytest.mark.parametrize(
    ("oldest", "text"),
    [
        ("2026-11-22T03:31:00.249Z", "its first words, the rest"),
        ("2026-11-22T03:30:54Z", "the rest"),
        ("", "the rest"),
    ],
)
def test_what_a_first_start_printed_before_the_engine_noted_it_is_read(oldest: str, text: str) -> None:
    """Docker notes the start of a container after it runs: a fast one has failed by then."""
    engine = Engine(b"the rest", before=b"its first words, ", oldest=oldest)
    assert log_of_start(engine, SERVE) == text  # type: ignore[arg-type]


def test_where_the_launcher_waits_the_starts_before_are_read_too() -> None:
    engine = Engine(WAITING, before=b"RuntimeError: No HIP GPUs are available\n")
    match = recognise(gathered(logs=[log_of_start(engine, SERVE)]), CATALOG)  # type: ignore[arg-type]
    assert match
    assert match.id == "no-gpu-seen"


@pytest.mark.parametrize(
    "parts",
    [
        (START.encode(), f"INFO:     {SERVING}\n".encode(), b"serve: x\nINFO model ", WAITING),
        (START.encode(), f"INFO:     {SERVING}\n".encode(), WAITING),
        (b"node: waits for the head\n", START.encode(), WAITING),
    ],
)
def test_a_client_does_not_word_what_the_launcher_says(parts: tuple[bytes, ...]) -> None:
    """Its words in the log, at a line's beginning too, bring back no log of former starts."""
    engine = Engine(*parts, before=b"RuntimeError: No CUDA GPUs are available\n")
    assert recognise(gathered(logs=[log_of_start(engine, SERVE)]), CATALOG) is None  # type: ignore[arg-type]


def test_what_a_client_said_in_a_former_start_is_no_evidence() -> None:
    before = f"{START}INFO:     {SERVING}\nRuntimeError: No CUDA GPUs are available\n".encode()
    engine = Engine(b"node: y\n", WAITING, before=before)
    assert recognise(gathered(logs=[log_of_start(engine, SERVE)]), CATALOG) is None  # type: ignore[arg-type]


def test_a_client_does_not_word_the_phase_of_a_start() -> None:
    running = State(
        service="serve", id="c1", status="running", health="starting", exit_code=0, restarts=0,
        started_at=SERVE.started_at, last_probe="", ports={},
    )  # fmt: skip
    line = 'INFO:     10.0.0.9:51234 - "GET /torch.compile HTTP/1.1" 404 Not Found'
    shown = phase([running], lambda _: line)
    assert (shown.name, shown.detail) == ("starting", "")
    assert phase([running], lambda _: "(EngineCore pid=2) INFO Compiling a graph").name == "compiling"
