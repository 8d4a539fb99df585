"""What cannot be written ends in one sentence, in every command: a full disk, a closed stream, a folder of the kernel's."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from bench.journals import journal_of, measured
from conftest import ROOT, kit

OWN = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
PRINTING = [
    "--help", "--version", "models", "targets --json", "profiles", "engines", "plan mi300x", "plan mi300x --json", "render mi300x",
    "render h100 --format kubernetes", "diff h100 a100", "doctor cpu --dry-run", "check compose.yml --json", "check --list",
    "bench plan", "bench report journal.jsonl", "bench report journal.jsonl --json",
    "bench compare journal.jsonl journal.jsonl", "up --dry-run --no-preflight", "status --dry-run", "logs --dry-run",
    "down --dry-run", "rehearse cpu --dry-run", "volumes remove x --dry-run", "bundle verify x --dry-run",
    "upgrade --check", "rollback --list", "key add x -f front.yml --no-reload", "key list -f front.yml",
    "key limit y --rate 60/m -f front.yml --dry-run", "key revoke y -f front.yml --dry-run", "reload -f front.yml --dry-run",
    "tls self-signed -f front.yml --no-reload --json", "tls show -f front.yml --dry-run", "tls install a b -f front.yml --help",
]  # fmt: skip
WRITING = [
    "render mi300x -o {}/x.yml", "render --all --out-dir {}/x", "init {}/x cpu", "doctor cpu --write-env --env-file {}/.env",
    "bench report journal.jsonl --csv {}/x.csv", "bench report journal.jsonl --html {}/x.html",
    "bench report journal.jsonl --markdown {}/x.md", "bench report journal.jsonl --junit {}/x.xml",
    "bench baseline accept journal.jsonl -o {}/x.json",
    "bundle -o {}/x",
    "bench run --results {}/x --attach http://127.0.0.1:1 --model 21b --target h100",
    "bench search --slo ttft:9 --results {}/x --attach http://127.0.0.1:1 --model 21b --target h100",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a stack and a journal."""
    made = tmp_path_factory.mktemp("stack")
    assert kit("render", "cpu", "-o", "compose.yml", cwd=made, env=OWN).returncode == 0
    (made / "front.yml").write_text("# ernie-deploy render cpu --gateway --tls self-signed\nservices: {}\n")
    lines = journal_of(measured(), measured(n=512)).lines
    (made / "journal.jsonl").write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return made


def shell(words: str, redirection: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    line = f"exec {sys.executable} -m ernie_deploy {words} {redirection}"
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=cwd, env=OWN, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("redirection", "why"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("words", PRINTING)
def test_an_output_that_cannot_be_written_is_one_sentence(
    words: str, redirection: str, why: str, folder: Path
) -> None:
    done = shell(words, redirection, folder)
    told = [line for line in done.stderr.splitlines() if not line.startswith(("note: ", "warning: "))]
    assert told == [f"error: Standard output cannot be written: {why}."], done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    "words", ["models", "plan mi300x", "render mi300x", "check --list", "bench report journal.jsonl"]
)
def test_a_reader_that_is_gone_is_no_fault(words: str, folder: Path) -> None:
    done = shell(words, "| head -c 0; exit 0", folder)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("render h100 --bind 0.0.0.0 --accept-open-routes", 0),
        ("render h100 --bind 0.0.0.0", 4),
        ("render nosuch", 3),
        ("plan h100 --tp 3", 4),
        ("render", 2),
    ],
)
def test_a_full_standard_error_changes_neither_output_nor_code(
    words: str, code: int, redirection: str, folder: Path
) -> None:
    done, usual = shell(words, redirection, folder), shell(words, "", folder)
    assert (done.returncode, done.stdout) == (code, usual.stdout)
    assert usual.returncode == code


@pytest.mark.parametrize("place", ["/proc", "/dev/null"])
@pytest.mark.parametrize("words", WRITING)
def test_a_file_that_cannot_be_written_is_one_sentence(words: str, place: str, folder: Path) -> None:
    """Both are closed to root too."""
    done = shell(words.format(place), "", folder)
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert lines[0].startswith(f"error: {place}/")
    assert [line.split(":")[0].strip() for line in lines] == ["error", "cause", "next"]


@pytest.mark.parametrize("words", ["up cpu --no-preflight", "init x cpu", "render cpu -o compose.yml"])
def test_a_working_folder_that_takes_no_file_is_one_sentence(words: str) -> None:
    done = shell(words, "", Path("/proc"))
    assert done.returncode == 2
    assert "compose.yml could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_command_is_tried() -> None:
    from ernie_deploy.cli import COMMANDS

    tried: Sequence[str] = [words.split()[0] for words in (*PRINTING, *WRITING)]
    assert set(COMMANDS) - set(tried) <= {"explain", "support-bundle", "lock"}, (
        "these have tests of their own"
    )
