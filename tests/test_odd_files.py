"""Pipes, devices, folders, dangling links, huge files, deep nesting and full disks: one sentence, nothing hangs or is lost."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from bench.journals import ENVIRONMENT, measured
from conftest import ROOT

from ernie_deploy.bench.journal import store
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.reading import read_bounded

GIB = 1 << 30
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(3 * GIB)


def unreadable_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00services")


def deep_yaml(path: Path) -> None:
    path.write_text("[" * 100_000)


def deep_json(path: Path) -> None:
    path.write_text('{"services": ' + '{"a": ' * 50_000 + "1" + "}" * 50_000 + "}")


def deep_block(path: Path) -> None:
    path.write_text("".join(" " * depth + "a:\n" for depth in range(3_000)))


def deep_flag(path: Path) -> None:
    table = "[" * 50_000 + "]" * 50_000
    words = [
        "m",
        '--hf-overrides={"a": ' + table + "}",
        f"--speculative-config={table}",
        "--speculative-config",
        table,
    ]
    path.write_text(json.dumps({"services": {"s": {"image": "vllm/vllm-openai", "command": words}}}))


ODD: list[Callable[[Path], None]] = [
    fifo, folder, dangling, loop, device, sparse, unreadable_text, deep_yaml, deep_json, deep_block, deep_flag,
]  # fmt: skip
each_odd = pytest.mark.parametrize("make", ODD, ids=lambda make: make.__name__)


def ended(*words: object, cwd: Path, codes: set[int]) -> str:
    """What a command says on standard error; it ends soon, in a sentence, with little memory."""
    done = subprocess.run(
        [sys.executable, "-m", "ernie_deploy", *map(str, words)], capture_output=True, text=True, timeout=300,
        cwd=cwd, env=ENV, stdin=subprocess.DEVNULL,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 * GIB, 2 * GIB)),
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-2_000:]
    assert done.returncode in codes, (done.returncode, done.stderr[-500:])
    return done.stderr


@each_odd
@pytest.mark.parametrize(
    "words",
    [
        ["check", "{}"], ["check", "--sarif", "{}"], ["up", "--dry-run", "{}"], ["down", "--dry-run", "-f", "{}"],
        ["status", "--dry-run", "-f", "{}"], ["logs", "--dry-run", "--file", "{}"], ["bench", "plan", "-f", "{}"],
        ["bench", "report", "{}"], ["bench", "compare", "{}", "{}"], ["bench", "baseline", "accept", "{}", "-o", "b"],
        ["render", "h100", "-o", "{}"], ["init", "{}", "h100"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_odd_file_is_one_sentence(make: Callable[[Path], None], words: list[str], tmp_path: Path) -> None:
    odd = tmp_path / "odd.yml"
    make(odd)
    before = {path.name for path in tmp_path.iterdir()}
    text = ended(*(word.format(odd) for word in words), cwd=tmp_path, codes={0, 1, 2, 3, 6, 10, 11, 13})
    if make is folder and words[0] == "check":
        # A folder is the stack in it, and there is none.
        assert "nothing to check" in text
    elif make in (fifo, dangling, loop, device) and words[0] == "check":
        assert "error: " in text
        assert "cannot be read" in text
    assert make in (fifo, folder) or os.path.lexists(odd)
    assert before <= {path.name for path in tmp_path.iterdir()}


def test_what_a_shell_hands_over_is_read() -> None:
    tool = f"{sys.executable} -m ernie_deploy"
    words = f"{tool} render cpu | {tool} check /dev/stdin && {tool} check <({tool} render cpu)"
    done = subprocess.run(
        ["bash", "-c", words], capture_output=True, text=True, timeout=120, env=ENV, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("make", [fifo, folder, dangling, device], ids=lambda make: make.__name__)
def test_the_reason_is_named(make: Callable[[Path], None], tmp_path: Path) -> None:
    reasons = {
        fifo: "a pipe",
        folder: "a folder",
        dangling: "a link to a file that is not there",
        device: "a device",
    }
    make(tmp_path / "odd")
    with pytest.raises(OSError, match=reasons[make]):
        read_bounded(tmp_path / "odd")


def test_a_file_larger_than_may_be_is_not_read(tmp_path: Path) -> None:
    sparse(tmp_path / "odd")
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_bounded(tmp_path / "odd", 1 << 20)


@pytest.mark.parametrize("flag", ["hf-overrides", "speculative-config", "compilation-config"])
def test_deep_json_in_an_option_is_refused(flag: str, tmp_path: Path) -> None:
    table = '{"a":' * 20_000 + "1" + "}" * 20_000
    text = ended("render", "h100", "--set", f"{flag}={table}", cwd=tmp_path, codes={2})
    assert "not JSON" in text


# --- a full disk ---


# Python keeps as much of a module's bytecode as fits, and later takes that for the whole.
LIMITED_ENV = {**ENV, "PYTHONDONTWRITEBYTECODE": "1"}


def limited(most_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


APPENDS = """
import sys
from pathlib import Path
from bench.journals import ENVIRONMENT, measured
from ernie_deploy.bench.journal import store
from ernie_deploy.errors import UsageError
try:
    with store.writing(Path(sys.argv[1])) as writer:
        for _ in range(int(sys.argv[2])):
            writer.write(ENVIRONMENT)
except UsageError as fault:
    print(fault)
    sys.exit(2)
"""


def test_a_journal_on_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with store.writing(path) as writer:
        writer.write(ENVIRONMENT)
        writer.write(measured())
    before = path.read_bytes()
    env = {**LIMITED_ENV, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-c", APPENDS, str(path), "1000"], capture_output=True, text=True, timeout=300, env=env,
        preexec_fn=lambda: limited(len(before) + 5_000),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith(f"{path} cannot be written: File too large.")
    whole = path.read_bytes()
    assert whole.startswith(before)
    assert whole.endswith(b"\n")
    assert store.read(path).torn == 0
    with store.writing(path) as writer:
        writer.write(ENVIRONMENT)
    assert path.read_bytes() == whole + msgspec.json.encode(ENVIRONMENT) + b"\n"


@pytest.mark.parametrize("path", ["/dev/full", "/dev/null"])
def test_a_journal_is_no_device(path: str) -> None:
    with pytest.raises(UsageError, match="cannot be written"), store.writing(Path(path)):
        pass


@pytest.mark.parametrize("words", [["render", "h100", "-o", "compose.yml"], ["init", "s", "h100"],
                                   ["render", "--all", "--out-dir", "compose"]], ids=" ".join)  # fmt: skip
def test_a_full_disk_leaves_nothing_half_written(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ernie_deploy", *words], capture_output=True, text=True, timeout=120, env=LIMITED_ENV,
        cwd=tmp_path, preexec_fn=lambda: limited(2_000),
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "could not be written: File too large." in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_standard_output_is_a_sentence(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ernie_deploy", "render", "h100"], stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=300, env=ENV, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
