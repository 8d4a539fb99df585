"""Imports a model's remote code in a child process with a time limit, then execs the command after `--`.

The child lays out the cache of modules with transformers' own functions, puts files beside the modules and loads
what vLLM loads. The parent needs the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple, TextIO

# For transformers and torch, before the remote code: a cold disk is no fault of the code.
LIBRARIES_S = 600.0
POLL_S = 0.05
DUMP_S = 1.0
MOST_CHARACTERS, MOST_INPUT, MOST_OUTPUT_BYTES = 400, 20_000, 1 << 20
# A modeling file is not among them: vLLM has its own, and theirs may import what only training needs.
LOADED = ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoImageProcessor", "AutoVideoProcessor")
NETWORK = re.compile("ConnectionError|Timeout|Max retries exceeded|NameResolution|URLError|gaierror")
MISSING = re.compile(r"not found in your environment: ([\w, -]{1,200})|No module named '?(\w+)")
FRAME = re.compile(r'File "([^"]+)", line (\d+)')
AGAIN = (
    "let Kubernetes start the pod again"
    if "KUBERNETES_SERVICE_HOST" in os.environ
    else "run `docker compose up -d`"
)
OTHER_CODE = "pin a revision of the code that does without it (--set revision=COMMIT)"
BRING = f"render with `--extra-packages fetch`, which brings what is known to be needed, or {OTHER_CODE}"
SLOW = "on a slow host raise REMOTE_CODE_IMPORT_TIMEOUT_S"

# Exit codes.
NOT_IMPORTED, HANGS, UNFIT = 57, 58, 59


class KnownError(Exception):
    """A failure with a known cause: its exit code, what happened, why, and what to do before the next start."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class PinnedFile(NamedTuple):
    """A file that belongs beside the module, and its SHA-256."""

    path: Path
    sha256: str

    @classmethod
    def parse(cls, word: str) -> PinnedFile:
        """Read `PATH=sha256:HEX`; raises ValueError."""
        path, _, digest = word.rpartition("=sha256:")
        if not path or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(word)
        return cls(Path(path), digest)

    def require(self, path: Path, cause: str) -> None:
        """Raise unless the file at `path` has the pinned content."""
        require(path, path.is_file())
        if (actual := hashlib.sha256(path.read_bytes()).hexdigest()) != self.sha256:
            raise KnownError(
                UNFIT, f"{path} has the SHA-256 {actual} instead of {self.sha256}, likely {cause}"
            )

    def place(self, folders: set[Path]) -> None:
        """Copy it into folders, closed to code that would write it again, or see that it is as it was."""
        for target in (folder / self.path.name for folder in folders):
            if not target.exists():
                shutil.copyfile(self.path, target)
                target.chmod(0o444)
            self.require(target, f"because the remote code wrote it: {OTHER_CODE}")


class Options(argparse.Namespace):
    """The words before `--`."""

    timeout_s: float
    path: list[Path]
    file: list[PinnedFile]
    model: str
    revision: str | None
    child: Path | None
    command: list[str]


def seconds(word: str) -> float:
    """Read a time limit; raises ValueError, also for what is none (0, nan)."""
    if not 0 < (value := float(word)) < LIBRARIES_S**2:
        raise ValueError(word)
    return value


def parse(words: list[str]) -> Options:
    """Split the words at the first `--`: the command behind it has options of its own."""
    end = words.index("--")
    parser = argparse.ArgumentParser("dry_import", allow_abbrev=False)
    parser.add_argument("--timeout-s", type=seconds, default=60.0)
    parser.add_argument("--path", type=Path, action="append", default=[])
    parser.add_argument("--file", type=PinnedFile.parse, action="append", default=[])
    parser.add_argument("--model", required=True)
    parser.add_argument("--revision")
    parser.add_argument(
        "--child", type=Path, help="where this script, called by itself, notes how far it got"
    )
    return parser.parse_args(words[:end], Options(command=words[end + 1 :]))


def say(text: str, file: TextIO = sys.stdout) -> None:
    """Print one line of the container's log, without what steers a terminal."""
    print("".join(c if c.isprintable() else "?" for c in text), file=file, flush=True)


def clean(text: str) -> str:
    """Make one short line of others' words, without what may be a token, or a name and password in a URL."""
    words = re.sub(r"hf_[A-Za-z0-9]{8,}", "***", text[:MOST_INPUT]).split()
    line = " ".join(map(without_login, words))
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."


def without_login(word: str) -> str:
    """Blank out all from `//` to the last `@`."""
    before, slashes, rest = word.partition("//")
    _, at, host = rest.rpartition("@")
    return f"{before}{slashes}***{at}{host}" if at else word


def require(path: Path, there: bool) -> None:  # noqa: FBT001 - one fact about the one path
    """Raise where something is missing that `fetch` brings."""
    if not there:
        raise KnownError(
            UNFIT, f"{path} is missing, likely because the volume was emptied: `fetch` brings it"
        )


# --- the parent ---


def extend_python_path(paths: list[Path]) -> None:
    """Let every process to come find the packages, after what the image sets."""
    for path in paths:
        require(path, path.is_dir())
    known = [word for word in (os.environ.get("PYTHONPATH", ""), *map(str, paths)) if word]
    if known:
        os.environ["PYTHONPATH"] = os.pathsep.join(known)


def own_source() -> str:
    """This script's text: from its file, or from the command line where that carries it."""
    if "__file__" in globals():
        return Path(__file__).read_text()
    return sys.orig_argv[sys.orig_argv.index("-c") + 1]


def import_in_child(words: list[str], limit_s: float) -> None:
    """Call this script again as a child; raises KnownError where it fails, or does not end."""
    with tempfile.TemporaryDirectory() as folder:
        notes, output = Path(folder, "notes"), Path(folder, "output")
        notes.touch()
        with output.open("wb") as sink:
            child = subprocess.Popen(  # noqa: S603 - this script
                # -P: what lies in the working directory is no module.
                [sys.executable, "-P", "-c", own_source(), "--child", str(notes), *words],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"},
            )
        try:
            wait(child, notes, output, limit_s)
        finally:
            # Whatever it started ends with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        judge(child.returncode, notes, output)


def wait(child: subprocess.Popen[bytes], notes: Path, output: Path, limit_s: float) -> None:
    """Wait for the child's end; raises KnownError where it does not come in time."""
    limit, what, cause, begun = (
        LIBRARIES_S,
        "transformers",
        "the disk of the image is slow: look at the host's disk",
        time.monotonic(),
    )
    while child.poll() is None:
        if what == "transformers" and notes.stat().st_size:
            limit, what, begun = limit_s, "the remote code", time.monotonic()
            cause = f"it asks the network, and a server has none: {BRING}; {SLOW}"
        if time.monotonic() - begun > limit:
            reason = f"{what} was not imported within {limit:g} s{place_of(child, output)}"
            raise KnownError(HANGS, f"{reason}, likely because {cause}")
        time.sleep(POLL_S)


def place_of(child: subprocess.Popen[bytes], output: Path) -> str:
    """Ask the child where it stands, in the remote code or else in a library; empty where it does not answer."""
    before = output.stat().st_size
    child.send_signal(signal.SIGUSR1)
    time.sleep(DUMP_S)
    frames = FRAME.findall(text_of(output, before))
    frames = [frame for frame in frames if is_remote(frame[0])] or frames
    return f" and stands at {Path(frames[0][0]).name}:{frames[0][1]}" if frames else ""


def text_of(path: Path, start: int) -> str:
    """A part of a file that the child may have filled with anything."""
    with path.open("rb") as file:
        file.seek(max(0, start))
        return file.read(MOST_OUTPUT_BYTES).decode(errors="replace")


def judge(code: int, notes: Path, output: Path) -> None:
    """Raise KnownError unless the child noted its success."""
    outcome: dict[str, Any] = {}
    # The remote code may have written there too.
    with contextlib.suppress(ValueError, TypeError):
        outcome = dict(json.loads(line) for line in text_of(notes, 0).splitlines())
    if "imported" in outcome:
        return
    match outcome.get("failed"):
        case [int(known), str(sentence)] if known in (NOT_IMPORTED, HANGS, UNFIT):
            raise KnownError(known, sentence)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    end = text_of(output, output.stat().st_size - MOST_OUTPUT_BYTES)
    words = clean(end.strip().rpartition("\n")[2])
    raise KnownError(
        NOT_IMPORTED,
        f"the remote code ended the process that imports it, with {how} and "
        f"{f'the words {words!r}' if words else 'without a word'}: {OTHER_CODE}",
    )


# --- the child ---


def is_remote(name: str) -> bool:
    """Tell whether a file lies in the cache of modules."""
    return "/transformers_modules/" in name


def note(options: Options, what: str, value: Any) -> None:
    """Tell the parent how far it got."""
    with (options.child or Path(os.devnull)).open("a") as file:
        file.write(json.dumps([what, value]) + "\n")


def import_as_vllm(options: Options) -> None:
    """Lay out the cache of modules under each name that vLLM uses, then load what it loads."""
    transformers: Any = importlib.import_module("transformers")
    loaders: Any = importlib.import_module("transformers.dynamic_module_utils")
    config, processor = transformers.AutoConfig, transformers.AutoProcessor
    with contextlib.suppress(ImportError):
        importlib.import_module("torch")
    note(options, "libraries", value=True)
    snapshot, asked = snapshot_of(options), {"revision": options.revision, "local_files_only": True}
    # vLLM loads the configuration by the model's name, tokenizer and processor from the snapshot.
    modules = {(name, file) for name in (options.model, str(snapshot)) for file in modules_in(snapshot)}
    places = [loaders.get_cached_module_file(name, file, **asked) for name, file in sorted(modules)]
    folders = {(Path(loaders.HF_MODULES_CACHE) / place).parent for place in places}
    for pinned in options.file:
        pinned.place(folders)
    if folders:
        config.from_pretrained(options.model, trust_remote_code=True, **asked)
        processor.from_pretrained(str(snapshot), trust_remote_code=True, **asked)
    for pinned in options.file:
        pinned.place(folders)


def snapshot_of(options: Options) -> Path:
    """The folder of the model's files."""
    if Path(options.model).is_dir():
        return Path(options.model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(options.model, revision=options.revision, local_files_only=True))


def modules_in(snapshot: Path) -> set[str]:
    """The Python files that a folder's configurations name, of those that vLLM loads."""
    names: set[str] = set()
    for path in snapshot.glob("*config.json"):
        document = json.loads(path.read_text())
        entries = document.get("auto_map", {}) if isinstance(document, dict) else {}
        for value in map(entries.get, LOADED):
            classes = value if isinstance(value, list) else [value]
            # `other/repository--module.Class` lies elsewhere, where nothing was fetched.
            names |= {f"{word.split('.')[0]}.py" for word in classes if word and "--" not in word}
    return names


def explain(error: BaseException) -> str:
    """One sentence on why the import failed, and the way out."""
    raised = clean(f"{type(error).__name__}: {error}")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_remote(frame.filename)]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    if match := MISSING.search(str(error)):
        lacking = clean(match[1] or match[2])
        return f"the remote code needs {lacking}, a Python package that the image lacks{place}: {BRING}"
    if NETWORK.search(raised):
        return f"the remote code asks the network{place} ({raised}), and a server has none: {BRING}"
    cause = "it was written for other versions of its libraries, or is damaged"
    return f"the remote code cannot be imported: {raised}{place}, likely because {cause}: {OTHER_CODE}"


def run_child(options: Options) -> int:
    """Import and note the outcome; whatever the remote code raises is an outcome too."""
    import faulthandler

    faulthandler.register(signal.SIGUSR1)
    try:
        import_as_vllm(options)
        note(options, "imported", value=True)
    except KnownError as error:
        note(options, "failed", [error.code, str(error)])
    except BaseException as error:
        traceback.print_exc()
        note(options, "failed", [NOT_IMPORTED, explain(error)])
    return 0


def prepare(options: Options, words: list[str]) -> None:
    """Check what was brought, and import once; raises KnownError."""
    extend_python_path(options.path)
    for file in options.file:
        file.require(file.path, "because the volume was changed: empty it, so that `fetch` fills it again")
    import_in_child(words, options.timeout_s)


def main(*words: str) -> int:
    """Prepare and become the command; a failure is a one-line error."""
    options, begun = parse(list(words)), time.monotonic()
    if options.child:
        return run_child(options)
    try:
        prepare(options, list(words))
    except KnownError as error:
        say(f"import: {error}, then {AGAIN}", sys.stderr)
        return error.code
    say(f"import: the remote code of {options.model} can be imported, {time.monotonic() - begun:.1f} s")
    return os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
