"""The dry import: what a model's remote code does at its import is one sentence, or nothing stands in vLLM's way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = (ROOT / "docker" / "scripts" / "dry_import.py").read_text()
NOT_IMPORTED, HANGS, UNFIT = 57, 58, 59
MODEL = "org/Tiny-VL.1"
FONT = b"\0\1\0\0 a font"
ALWAYS_WRITES = (
    'import os\nos.path.exists(FONT) and os.remove(FONT)\nopen(FONT, "wb").write(b"<html>404</html>")\n'
)
# What the tests need of transformers, whose own functions are tried at the end of this file.
FAKE = """
import importlib, os, re, shutil, sys
from pathlib import Path
HF_MODULES_CACHE = os.environ["HF_MODULES_CACHE"]
def get_cached_module_file(name, file, revision=None, local_files_only=False):
    assert os.environ["HF_HUB_OFFLINE"] == "1" and local_files_only
    for word in re.findall(r"^import (\\w+)$", (Path(name) / file).read_text(), re.M):
        try: importlib.import_module(word)
        except ImportError: raise ImportError(
            "This modeling file requires the following packages that were not found in your environment: "
            f"{word}. Run `pip install {word}`")
    place = Path("transformers_modules", Path(name).name, file)
    (HF_MODULES_CACHE / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(Path(name) / file, HF_MODULES_CACHE / place)
    return str(place)
"""
FAKE_LOADERS = """
from pathlib import Path
from transformers.dynamic_module_utils import HF_MODULES_CACHE
class AutoConfig:
    def from_pretrained(name, trust_remote_code, **_): assert trust_remote_code
class AutoProcessor:
    def from_pretrained(name, trust_remote_code, **_):
        for path in Path(HF_MODULES_CACHE).rglob("processing.py"):
            exec(compile(path.read_text(), str(path), "exec"), {"__file__": str(path), "__name__": "processing",
                 "FONT": str(path.with_name("Roboto-Regular.ttf"))})
"""


class Bed:
    """A folder with remote code, a fake transformers, a pinned font, and the script over them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.model, self.site = folder, folder / "model", folder / "site"
        self.font = folder / "font" / "Roboto-Regular.ttf"
        self.modules = folder / "modules"
        for path in (self.model, self.site / "transformers", self.font.parent):
            path.mkdir(parents=True)
        self.font.write_bytes(FONT)
        (self.site / "transformers/dynamic_module_utils.py").write_text(FAKE)
        (self.site / "transformers/__init__.py").write_text(FAKE_LOADERS)
        # The seconds of the real one are not what is tried.
        (self.site / "torch.py").touch()
        self.remote("")

    def remote(self, code: str) -> None:
        """Let this be the processor's module."""
        (self.model / "processing.py").write_text(code)
        auto = {"auto_map": {"AutoProcessor": "processing.P", "AutoImageProcessor": "processing.I"}}
        (self.model / "preprocessor_config.json").write_text(json.dumps(auto))

    @property
    def pinned(self) -> str:
        return f"{self.font}=sha256:{hashlib.sha256(FONT).hexdigest()}"

    def run(
        self, *words: str, code: str = "print('engine')", limit_s: float = 30.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the script as a rendered file does, before a command that stands for vLLM."""
        own = ["--path", str(self.site), "--timeout-s", str(limit_s), "--model", str(self.model), *words]
        return subprocess.run(
            [sys.executable, "-I", "-c", SCRIPT, *own, "--", sys.executable, "-c", code, "--", "-x"],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env={"PATH": os.environ["PATH"], "HF_MODULES_CACHE": str(self.modules)} | environment,
        )


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> str:
    """One sentence that names what happened and what to do, and no engine."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("import: ")
    assert line.endswith(", then run `docker compose up -d`")
    for word in words:
        assert word in line
    return line


def test_good_code_is_imported_and_the_engine_starts(bed: Bed) -> None:
    bed.remote("assert open(FONT, 'rb').read() == b'\\0\\1\\0\\0 a font'\nprint('noise')\n")
    result = bed.run("--file", bed.pinned)
    assert (result.returncode, result.stderr) == (0, "")
    said, engine = result.stdout.splitlines()
    assert re.fullmatch(rf"import: the remote code of {bed.model} can be imported, \d+\.\d s", said)
    assert engine == "engine"
    (placed,) = bed.modules.rglob("*.ttf")
    assert (placed.read_bytes(), placed.stat().st_mode & 0o777) == (FONT, 0o444)


def test_the_engine_gets_its_words_and_finds_the_packages_after_what_the_image_sets(bed: Bed) -> None:
    code = "import os, sys; print(os.environ['PYTHONPATH'], sys.argv[1:], transformers.__file__)"
    first = bed.folder / "image"
    first.mkdir()
    result = bed.run(code=f"import transformers; {code}", PYTHONPATH=str(first))
    path, *rest = result.stdout.splitlines()[-1].split(" ", 1)
    assert path == f"{first}:{bed.site}"
    assert rest == [f"['--', '-x'] {bed.site}/transformers/__init__.py"]


def test_as_a_file_it_takes_no_word_of_the_engine_for_its_own_text(bed: Bed) -> None:
    own = [ROOT / "docker/scripts/dry_import.py", "--path", bed.site, "--model", bed.model, "--"]
    result = subprocess.run(
        [sys.executable, "-I", *own, sys.executable, "-c", "print('engine')"],
        capture_output=True, text=True, timeout=120,
        env={"PATH": os.environ["PATH"], "HF_MODULES_CACHE": str(bed.modules)},
    )  # fmt: skip
    assert (result.returncode, result.stdout.splitlines()[-1:]) == (0, ["engine"]), result.stderr


def test_an_empty_python_path_adds_no_working_directory(bed: Bed) -> None:
    (bed.folder / "decoy.py").touch()
    bed.remote("import decoy\n")
    result = bed.run(PYTHONPATH="")
    fails(result, NOT_IMPORTED, "needs decoy, a Python package")


def test_a_model_without_remote_code_starts(bed: Bed) -> None:
    (bed.model / "preprocessor_config.json").write_text("[]")
    result = bed.run("--file", bed.pinned)
    assert (result.returncode, result.stdout.splitlines()[-1]) == (0, "engine")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import decord_of_nobody\n", ["needs decord_of_nobody, a Python package that", "--extra-packages"]),
        (
            "try:\n import os\nfinally:\n import decord_of_nobody.editor\n",
            ["needs decord_of_nobody, a", "processing.py:4"],
        ),
        (
            "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/font')\n",
            ["asks the network at processing.py:2", "URLError", "--extra-packages fetch"],
        ),
        (
            "\nraise ValueError('no')\n",
            ["cannot be imported: ValueError: no at processing.py:2", "--set revis"],
        ),
        ("def f(:\n", ["SyntaxError"]),
        ("raise SystemExit(0)\n", ["SystemExit: 0"]),
        ("import sys\nsys.setrecursionlimit(50)\ndef f(): f()\nf()\n", ["RecursionError"]),
        ("import os\nprint('last word')\nos.close(1)\nos._exit(3)\n", ["exit code 3"]),
        ("import os\nos._exit(0)\n", ["exit code 0 and without a word"]),
        ("import os\nos.abort()\n", ["signal 6"]),
    ],
)
def test_code_that_cannot_be_imported_is_one_sentence(bed: Bed, code: str, words: list[str]) -> None:
    bed.remote(code)
    fails(bed.run(), NOT_IMPORTED, *words)


def test_others_words_steer_no_terminal_and_hold_no_secret(bed: Bed) -> None:
    bed.remote(
        "raise ValueError('\\x1b[2J\\u202e hf_' + 'a' * 30 + '\\n https://me:word@host/ ' + 'x' * 9000)\n"
    )
    line = fails(bed.run(), NOT_IMPORTED, "https://***@host", "***")
    assert line.isprintable()
    assert "aaaa" not in line
    assert "word@" not in line
    assert len(line) < 900


def test_a_hang_ends_with_all_that_it_started(bed: Bed) -> None:
    bed.remote(
        "import subprocess, time\n"
        f"started = subprocess.Popen(['sleep', '600'])\nopen({str(bed.folder / 'pid')!r}, 'w').write(str(started.pid))\n"
        "time.sleep(600)\n"
    )
    begun = time.monotonic()
    fails(
        bed.run(limit_s=2), HANGS, "within 2 s and stands at processing.py:4", "REMOTE_CODE_IMPORT_TIMEOUT_S"
    )
    assert time.monotonic() - begun < 60
    assert not alive(int((bed.folder / "pid").read_text()))


def alive(pid: int) -> bool:
    """Whether a process runs, which one that waits for its parent's look does not."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_hang_in_native_code_that_ignores_signals_ends_too(bed: Bed) -> None:
    bed.remote(
        "import re, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nre.match('(a*)*b', 'a' * 99)\n"
    )
    fails(bed.run(limit_s=2), HANGS, "within 2 s", "processing.py:3")


def test_a_log_of_garbage_and_notes_of_its_own_are_no_traceback(bed: Bed) -> None:
    bed.remote("import os, sys\nprint('x' * 3_000_000)\nopen(sys.argv[2], 'w').write('{[')\nos._exit(4)\n")
    line = fails(bed.run(), NOT_IMPORTED, "exit code 4")
    assert len(line) < 900


@pytest.mark.parametrize(
    "note", [["failed", [0, "fine"]], ["failed", 3], ["failed", ["x"]], ["failed", [True, "x"]]], ids=str
)
def test_what_remote_code_writes_as_a_failure_decides_nothing(bed: Bed, note: list[object]) -> None:
    bed.remote(f"import os, sys\nopen(sys.argv[2], 'w').write({json.dumps(note)!r} + '\\n')\nos._exit(4)\n")
    fails(bed.run(), NOT_IMPORTED, "exit code 4")


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "inf", "soon", ""])
def test_a_limit_that_is_none_is_refused(bed: Bed, limit: str) -> None:
    result = bed.run(f"--timeout-s={limit}")
    assert result.returncode == 2
    assert "--timeout-s: invalid seconds value" in result.stderr


def test_the_limit_is_the_remote_codes_own(bed: Bed) -> None:
    (bed.site / "torch.py").write_text("import time; time.sleep(3)")
    result = bed.run(limit_s=2)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda bed: bed.font.unlink(), ["Roboto-Regular.ttf is missing", "`fetch` brings it"]),
        (lambda bed: bed.font.write_bytes(b"<html>"), ["SHA-256", "the volume was changed"]),
        (lambda bed: (bed.site / "torch.py").rename(bed.folder / "x") and bed.site.rename(bed.folder / "y"), ["/site is missing"]),
        (lambda bed: bed.remote(ALWAYS_WRITES), ["the remote code wrote it"]),
    ],
)  # fmt: skip
def test_what_was_brought_is_as_pinned_before_and_after(bed: Bed, change: object, words: list[str]) -> None:
    change(bed)  # type: ignore[operator]
    fails(bed.run("--file", bed.pinned), UNFIT, *words)


def test_code_that_writes_over_the_font_is_refused_by_the_file(bed: Bed) -> None:
    bed.remote("open(FONT, 'wb').write(b'<html>')\n")
    result = bed.run("--file", bed.pinned)
    # Root with its capabilities writes everywhere; a serving user has none.
    fails(result, UNFIT if os.geteuid() == 0 else NOT_IMPORTED, "Roboto-Regular.ttf")


# --- transformers' own functions, over a cache as huggingface_hub keeps it ---

PROCESSOR = """
import os
from transformers import PretrainedConfig
from transformers.processing_utils import ProcessorMixin
if not os.path.exists(os.path.join(os.path.dirname(__file__), "Roboto-Regular.ttf")):
    raise RuntimeError("no font beside " + __file__)
class C(PretrainedConfig):
    model_type = "tiny_of_nobody"
class P(ProcessorMixin):
    def __init__(self, **others): super().__init__()
"""


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """A cache that holds MODEL at its commit, as `fetch` leaves it."""
    commit = "1" * 40
    storage = tmp_path / "hf/hub" / f"models--{MODEL.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (storage / "refs/refs/pr").mkdir(parents=True)
    (storage / "refs/refs/pr/17").write_text(commit)
    (snapshot / "processing.py").write_text(PROCESSOR)
    auto = {"AutoConfig": "processing.C", "AutoModel": "modeling.M"}
    (snapshot / "config.json").write_text(json.dumps({"model_type": "tiny_of_nobody", "auto_map": auto}))
    (snapshot / "preprocessor_config.json").write_text(
        json.dumps({"auto_map": {"AutoProcessor": "processing.P"}})
    )
    return tmp_path


@pytest.mark.parametrize("with_font", [True, False])
def test_the_file_lies_where_transformers_itself_looks(cached: Path, *, with_font: bool) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    font = cached / "Roboto-Regular.ttf"
    font.write_bytes(FONT)
    words = ["--model", MODEL, "--revision", "refs/pr/17"]
    words += ["--file", f"{font}=sha256:{hashlib.sha256(FONT).hexdigest()}"] if with_font else []
    result = subprocess.run(
        [sys.executable, "-I", "-c", SCRIPT, *words, "--", "echo", "engine"],
        capture_output=True, text=True, timeout=300,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(cached / "hf"), "HF_MODULES_CACHE": str(cached / "modules")},
    )  # fmt: skip
    if not with_font:
        fails(result, NOT_IMPORTED, "RuntimeError: no font beside", "processing.py:6")
        return
    assert result.returncode == 0, result.stderr
    places = {str(path.parent.relative_to(cached / "modules")) for path in cached.rglob("modules/**/*.ttf")}
    # By the model's name, and by the folder of its snapshot, which vLLM gives transformers for the processor.
    assert f"transformers_modules/org/Tiny_hyphen_VL_dot_1/{'1' * 40}" in places
    assert len(places) == 2
