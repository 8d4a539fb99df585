"""Remote code is read and never run: what it needs, asks of the network at import, names, writes and hides."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from container_scripts import SCRIPTS, loaded
from hypothesis import given, settings
from hypothesis import strategies as st

FONT = "Roboto-Regular.ttf"


code_reader, judge = loaded("code_reader"), loaded("judge")
# The module that the judge loaded.
model_code = sys.modules["model_code"]
ASK = model_code.ask


def notes(source: str, kind: str, placed: list[str] | None = None) -> list[str]:
    """What the reader notes of one kind, as `line text`."""
    facts = code_reader.read(source, ["is_torch_available"], placed or [])
    assert "fault" not in facts
    return [f"{line} {text}" for line, text in facts[kind]]


class Model:
    """A folder with remote code, and an image that has a few modules besides Python's own."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.record, self.capture = folder / "model", folder / "model.code.json", capture
        self.image, self.packages = folder / "image", folder / "packages"
        for name in (
            "requests",
            "urllib3",
            "httpx",
            "huggingface_hub",
            "numpy",
            "sentencepiece",
            "transformers",
        ):
            (self.image / name).mkdir(parents=True)
            (self.image / name / "__init__.py").write_text("raise SystemExit('imported')")
        (self.packages / "decord").mkdir(parents=True)
        self.folder.mkdir()
        self.write("config.json", json.dumps({"auto_map": {"AutoConfig": "configuration.Config"}}))
        self.write("processor_config.json", json.dumps({"auto_map": {"AutoProcessor": "processing.P"}}))
        self.write("configuration.py", "class Config: pass\n")
        self.write("processing.py", "class P: pass\n")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def judge(self, *words: str) -> tuple[int, str, str]:
        self.capture.readouterr()
        code = judge.main([*words, str(self.folder), str(self.record)])
        out, err = self.capture.readouterr()
        assert "Traceback" not in out + err
        assert all(char.isprintable() or char == "\n" for char in out + err)
        return code, out, err


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Model:
    model = Model(tmp_path, capsys)
    own = [path for path in sys.path if "site-packages" not in path and path not in ("", str(ROOT))]
    monkeypatch.setattr(sys, "path", [*own, str(model.image)])
    # The reader in this process, which is faster; `by_processes` has it as `fetch` has it.
    monkeypatch.setattr(model_code, "ask", code_reader.read)
    return model


@pytest.fixture
def by_processes(model: Model, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(model_code, "ask", ASK)
    return model


# What the issue tells of the published processor, in our own words.
PUBLISHED = f"""
import os
from pathlib import Path
import decord
import numpy as np
import requests
import sentencepiece as spm
from transformers.utils import logging
from .configuration import Config

TMP = "./download_tmp"
font = os.path.join(Path(__file__).parent.absolute(), "{FONT}")
if not os.path.exists(font):
    answer = requests.get("https://store.example/materials/{FONT}")
    with open(font, "wb") as file:
        file.write(answer.content)

class Reader(decord.VideoReader):
    def __getitem__(self, key):
        return super().__getitem__(key)

def download(url):
    os.makedirs(TMP + "/videos", exist_ok=True)
    return requests.get(url, timeout=9).content

def gif(path):
    try:
        import moviepy.editor as mp
    except ImportError:
        return None
    mp.VideoFileClip(path).write_videofile(path + ".mp4")

class P:
    pass
"""


def test_the_published_shape_is_refused_with_its_package_and_approved_with_it(by_processes: Model) -> None:
    model = by_processes
    model.write("processing.py", PUBLISHED)
    code, out, err = model.judge("--file", FONT)
    assert code == judge.MISSING == 50
    assert err == (
        "judge: processing.py:4 imports decord (package decord), which this image has not: render with "
        "`--extra-packages fetch`, or with an image of your own that has it, then run `docker compose up -d`\n"
    )
    assert not model.record.exists()
    [line] = [line for line in out.splitlines() if "processing.py" in line]
    digest = hashlib.sha256(PUBLISHED.encode()).hexdigest()
    assert line == (
        f"judge: processing.py {digest[:12]} (loaded): imports what is not here: decord, moviepy (optional); "
        f"network while imported: line 14 requests.get (not with {FONT} in place); "
        f"addresses: https://store.example/materials/{FONT}; "
        "writes: line 15 open wb, 23 os.makedirs, 31 moviepy.editor.VideoFileClip.write_videofile"
    )

    code, out, err = model.judge("--file", FONT, "--path", str(model.packages))
    assert (code, err) == (0, "")
    record = json.loads(model.record.read_text())["files"]
    assert set(record) == {"configuration.py", "processing.py"}
    assert record["processing.py"]["sha256"] == digest
    assert record["processing.py"]["loaded"] is True
    assert [5, "numpy"] in record["processing.py"]["imports"]


def test_the_download_at_import_is_refused_where_nobody_places_the_file(model: Model) -> None:
    model.write("processing.py", PUBLISHED)
    path = ("--path", str(model.packages))
    code, _, err = model.judge(*path)
    assert code == judge.NETWORK == 51
    assert err.startswith("judge: processing.py:14 calls requests.get while it is imported: ")
    assert model.judge(*path, "--file", "Another.ttf")[0] == 51
    code, out, err = model.judge(*path, "--network", "allow")
    assert (code, err) == (0, "")
    assert "network while imported: line 14 requests.get" in out


def test_only_files_that_are_loaded_are_refused(model: Model) -> None:
    model.write(
        "config.json", json.dumps({"auto_map": {"AutoModel": "modeling.M", "AutoConfig": "configuration.C"}})
    )
    model.write("modeling.py", "import paddle\n")
    model.write("tool.py", "this is no Python\n")
    code, out, _ = model.judge()
    assert code == 0
    assert "modeling.py" in out
    assert "(not loaded): imports what is not here: paddle" in out
    assert "(not loaded): cannot be judged: line 1: invalid syntax" in out
    model.write("processing.py", "from .modeling import M\n")
    assert model.judge()[0] == 50


@pytest.mark.parametrize(
    ("place", "auto_map", "what"),
    [
        ("config.json", {"AutoConfig": "gone.C"}, "config.json needs gone.py, which is not there"),
        ("tokenizer_config.json", {"AutoTokenizer": ["gone.T", None]}, "tokenizer_config.json needs gone.py"),
        ("tokenizer_config.json", ["gone.T", None], "tokenizer_config.json needs gone.py"),
        ("config.json", {"AutoConfig": "some/other--gone.C"}, "takes some/other--gone.C from elsewhere"),
        ("config.json", {"AutoConfig": "../../etc/gone.C"}, "takes ../../etc/gone.C from elsewhere"),
        ("config.json", {"AutoConfig": "/etc/gone.C"}, "needs /etc/gone.py, which is not there"),
        ("config.json", {"AutoConfig": "a\0b.C"}, "needs a?b.py, which is not there"),
        ("config.json", {"AutoConfig": "\ud800.C"}, "needs ?.py, which is not there"),
    ],
)
def test_what_a_configuration_names_must_be_there(model: Model, place: str, auto_map: Any, what: str) -> None:
    model.write(place, json.dumps({"auto_map": auto_map}))
    code, _, err = model.judge()
    assert code == judge.UNREADABLE == 52
    assert what in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", 52),
        ("[" * 100_000, 52),
        ("[1]", 52),
        ("", 52),
        ('{"auto_map": 7}', 0),
        ('{"auto_map": {"A": {}}}', 0),
    ],
    ids=range(6),
)
def test_a_configuration_that_cannot_be_read_is_refused_for_what_it_may_load(
    model: Model, text: str, code: int
) -> None:
    model.write("tokenizer_config.json", text)
    result, _, err = model.judge()
    assert result == code
    assert ("tokenizer_config.json cannot be read, so what it loads is not known" in err) == bool(code)


def test_what_lies_under_the_records_names_is_neither_followed_nor_waited_for(
    model: Model, tmp_path: Path
) -> None:
    # With a folder of weights the record lies where `serve` may write.
    victim = tmp_path / "victim.py"
    victim.write_text("mine")
    model.record.with_suffix(".new").symlink_to(victim)
    os.mkfifo(model.record)
    assert model.judge()[0] == 0
    assert victim.read_text() == "mine"
    assert json.loads(model.record.read_text())["files"].keys() == {"configuration.py", "processing.py"}


# --- hostile files ---

MARKER = "open({path!r}, 'w').write('ran')\n"


def deep(before: str, times: int, middle: str, after: str = "") -> str:
    return f"x = {before * times}{middle}{after * times}\n"


UNREADABLE = {
    "syntax": "def (:\n",
    "indentation": "  x\n y\n",
    "nul": "x = 1\0\n",
    "bytes": b"x = '\xff'\n",
    "cookie": b"# coding: utf-7\nx = 1 # +AAo-import os\n",
    "no encoding": b"# coding: rot13\nvzcbeg bf\n",
    "unknown encoding": b"# coding: nobody-knows\n",
    "utf-16": "x = 1".encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbfimport os\n",
    "10 MB": "x = 1\n" * 1_700_000,
    "parentheses": deep("(", 5000, "", ")"),
    "minus": deep("-", 200_000, "1"),
    "lambda": deep("lambda:", 100_000, "1"),
    "attributes": deep("", 1, "a" + ".b" * 200_000),
    "sum": deep("", 1, "1" + "+1" * 200_000),
    "elif": "if 1:\n pass\n" + "elif 1:\n pass\n" * 40_000,
    "number": "x = " + "9" * 100_000,
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_judged_is_said_and_refused_where_it_is_loaded(
    by_processes: Model, name: str, tmp_path: Path
) -> None:
    model = by_processes
    content = UNREADABLE[name]
    marker = MARKER.format(path=str(tmp_path / "marker")).encode()
    model.write("processing.py", marker + (content if isinstance(content, bytes) else content.encode()))
    if name in ("cookie", "no encoding", "unknown encoding", "utf-16", "byte order mark"):
        model.write("processing.py", content)
    code, out, err = model.judge()
    assert code == 52
    assert "(loaded): cannot be judged: " in out
    assert err.startswith("judge: processing.py is loaded and cannot be judged: ")
    assert len(err) < 400
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "loop", "dangling"])
def test_what_is_no_file_is_not_followed_nor_waited_for(model: Model, kind: str, tmp_path: Path) -> None:
    path = model.folder / "processing.py"
    path.unlink()
    (tmp_path / "elsewhere.py").write_text("x = 1\n")
    make: dict[str, Callable[[], None]] = {
        "link": lambda: path.symlink_to(tmp_path / "elsewhere.py"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
        "dangling": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    code, _, err = model.judge()
    assert (code, err.count("\n")) == (52, 1)


def test_a_snapshot_of_links_to_blobs_is_read(model: Model) -> None:
    snapshot, blobs = model.folder.parent / "snapshots" / "abc", model.folder.parent / "blobs"
    blobs.mkdir()
    snapshot.parent.mkdir()
    model.folder.rename(snapshot)
    for path in snapshot.iterdir():
        path.rename(blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    model.folder = snapshot
    assert model.judge()[0] == 0
    assert set(json.loads(model.record.read_text())["files"]) == {"configuration.py", "processing.py"}


def test_nothing_in_a_file_runs_not_even_what_python_would_evaluate(
    by_processes: Model, tmp_path: Path
) -> None:
    model = by_processes
    run = f"__import__('os').mkdir({str(tmp_path / 'marker')!r})"
    model.write(
        "processing.py",
        f"import requests, json\n{run}\nx: {run} = 1\n@({run})\nclass P(metaclass={run}):\n    y = {run}\n"
        f'def f(a={run}) -> {run}: pass\nz = f"{{{run}}}"\n',
    )
    # Modules beside it would be found first, were the folder on the path.
    for name in ("json", "requests", "ast", "decord"):
        model.write(f"{name}.py", run)
    assert model.judge()[0] == 0
    assert not (tmp_path / "marker").exists()


def test_a_file_named_like_a_module_is_not_that_module(model: Model) -> None:
    model.write("decord.py", "x = 1\n")
    model.write("json.py", "import paddle\n")
    model.write("processing.py", "import json\nimport decord\n")
    code, _, err = model.judge()
    assert code == 50
    assert "processing.py:2 imports decord" in err
    assert "paddle" not in err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("exec('import decord')", ["1 exec"]),
        ("run = eval\nrun('1')", ["1 eval", "2 eval"]),
        ("__builtins__['ex' + 'ec']('')", ["1 __builtins__"]),
        ("import importlib\nimportlib.import_module('de' + 'cord')", ["2 importlib.import_module"]),
        ("from importlib import import_module as load\nload(name)",
         ["1 importlib.import_module", "2 importlib.import_module"]),
        ("__import__(x)", ["1 __import__"]),
        ("import os as o\no.system('curl x')", ["2 os.system"]),
        ("import os\ngetattr(os, 'sys' + 'tem')('x')", ["2 os.?"]),
        ("import os\ngetattr(os, 'system')('x')", ["2 os.system"]),
        ("from subprocess import *", ["1 subprocess.*"]),
        ("import subprocess\ndef f():\n    subprocess.run(['x'])", ["3 subprocess.run"]),
        ("import sys\nsys.modules['requests'].get('x')", ["2 sys.modules"]),
        ("import pickle\npickle.loads(b'')", ["2 pickle.loads"]),
        ("import re, torch\nre.compile('x')\nmodel.eval()\ntorch.nn.Linear(1, 1)", []),
    ],
)  # fmt: skip
def test_what_is_hidden_is_named(source: str, expected: list[str]) -> None:
    assert notes(source, "unclear") == expected


def test_an_import_by_a_constant_name_is_an_import() -> None:
    source = "import importlib as i\ni.import_module('decord.bridge')\ndef f():\n    __import__('moviepy')"
    assert notes(source, "imports") == ["1 importlib", "2 decord"]
    assert notes(source, "optional") == ["4 moviepy"]
    assert notes(source, "unclear") == []


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("x = 'see http://a.example/b?c=d'", "http://a.example/b?c=d"),
        ("x = f'https://{host}/v1/{name}.ttf'", "https://{}/v1/{}.ttf"),
        ("x = 'https://' + 'a.example' + '/b' + c", "https://a.example/b{}"),
        ("x = '/'.join(['s3:/', 'bucket', key])", "s3://bucket/{}"),
        ("x = b'ftp://a.example/b'", "ftp://a.example/b"),
        ("x = 'https://a.example/' 'b'", "https://a.example/b"),
        ("x = ('10.1.2.3', 80)", "10.1.2.3"),
        ("def f(url='wss://a.example'): 'doc gs://b/c'", "wss://a.example"),
    ],
)
def test_addresses_are_found_where_they_are_joined(source: str, address: str) -> None:
    assert notes(source, "addresses")[0] == f"1 {address}"


def test_writes_are_found() -> None:
    source = """
import os, shutil, tempfile, io
from pathlib import Path
from urllib.request import urlretrieve as get
open("a"); open("a", "r"); open("b", "w")
open("c", mode="ab")
open("d", mode)
Path("e").open("x")
Path("f").write_bytes(b"")
os.makedirs("g"); os.path.join("h")
shutil.copy("i", "j"); shutil.which("k")
tempfile.mkdtemp()
get("http://l", "m")
image.save("n")
io.open("o", "r+")
put = open
put("p", "wb")
"""
    assert notes(source, "writes") == [
        "5 open w", "6 open ab", "7 open in a computed mode", "8 open x", "9 pathlib.Path.write_bytes",
        "10 os.makedirs", "11 shutil.copy", "12 tempfile.mkdtemp", "13 urllib.request.urlretrieve",
        "14 image.save", "15 open r+", "17 open wb",
    ]  # fmt: skip


# --- the network while a module is imported ---

AT_IMPORT = {
    "statement": "import requests\nrequests.get(u)",
    "alias": "import requests as r\nfetch = r.get\nfetch(u)",
    "session": "import requests\ns = requests.Session()\ns.get(u)",
    "with": "import httpx\nwith httpx.Client() as c:\n    c.get(u)",
    "attribute": "import requests\nclass A:\n    def __init__(self):\n        self.s = requests.Session()\n"
                 "        self.ask()\n    def ask(self):\n        return self.s.get(u)\nA()",
    "class body": "from urllib.request import urlopen\nclass A:\n    x = urlopen(u)",
    "default": "from urllib import request\ndef f(x=request.urlopen(u)): pass",
    "decorator": "import requests\ndef d(f):\n    requests.get(u)\n    return f\n@d\ndef g(): pass",
    "called decorator": "import requests\ndef d(x):\n    def i(f):\n        requests.get(u)\n    return i\n@d(1)\ndef g(): pass",
    "chain": "import socket\ndef a(): b()\ndef b(): c()\ndef c(): socket.create_connection(u)\na()",
    "lambda": "import requests\nf = lambda: requests.get(u)\nf()",
    "called lambda": "import requests\n(lambda: requests.get(u))()",
    "thread": "import requests, threading\ndef f(): requests.get(u)\nthreading.Thread(target=f).start()",
    "getattr": "import requests\ngetattr(requests, 'g' + 'et')(u)",
    "dynamic": "import importlib\nr = importlib.import_module('requests')\nr.get(u)",
    "in a try": "try:\n    import requests\n    requests.get(u)\nexcept Exception:\n    requests = None",
    "either": "try:\n    import requests\nexcept ImportError:\n    requests = None\nrequests.get(u)",
    "hub": "from huggingface_hub import hf_hub_download\nx = hf_hub_download('a', 'b')",
    "pretrained": "from transformers import AutoTokenizer\nt = AutoTokenizer.from_pretrained('a')",
    "comprehension": "import requests\nx = [requests.get(v) for v in u]",
    "not the main program": "import requests\nif __name__ != '__main__':\n    requests.get(u)",
}  # fmt: skip
NOT_AT_IMPORT = {
    "function": "import requests\ndef f(): return requests.get(u)",
    "method": "import requests\nclass A:\n    def get(self): return requests.get(u)\nA()",
    "main": "import requests\nif __name__ == '__main__':\n    requests.get(u)",
    "typing": "from typing import TYPE_CHECKING\nimport requests\nif TYPE_CHECKING:\n    requests.get(u)",
    "session": "import requests, urllib3\nS = requests.Session()\nurllib3.disable_warnings()",
    "parse": "from urllib.parse import urlsplit\nx = urlsplit('http://a')",
    "other get": "import os\nx = os.environ.get('x')\ny = {}.get(1)",
    "exception": "import requests\nE = (requests.RequestException,)\nclass A(requests.Session): pass",
}


def network(model: Model, source: str, *words: str) -> int:
    model.write("processing.py", source + "\n")
    return model.judge(*words)[0]


@pytest.mark.parametrize("name", AT_IMPORT)
def test_the_network_at_import_is_found(model: Model, name: str) -> None:
    assert network(model, AT_IMPORT[name]) == 51


@pytest.mark.parametrize("name", NOT_AT_IMPORT)
def test_the_network_on_demand_is_no_fault(model: Model, name: str) -> None:
    assert network(model, NOT_AT_IMPORT[name]) == 0


def test_the_network_in_a_function_of_another_file_is_found(model: Model) -> None:
    model.write("tools.py", "import requests\ndef bring(u): return requests.get(u)\n")
    assert network(model, "from .tools import bring") == 0
    assert network(model, "from .tools import bring as b\nb('x')") == 51
    assert network(model, "from . import tools\ntools.bring('x')") == 51
    assert network(model, "from .tools import *\nbring('x')") == 51


GUARDED = {
    "early return": f"import os, requests\ndef f():\n    p = os.path.join(d, '{FONT}')\n    if os.path.isfile(p):\n"
                    "        return p\n    open(p, 'wb').write(requests.get(u).content)\nf()",
    "parameter": "import os, requests\ndef f(p):\n    if not os.path.exists(p):\n        requests.get(u)\n"
                 f"f(os.path.join(d, '{FONT}'))",
    "pathlib": f"import requests\nfrom pathlib import Path\np = Path(__file__).parent / '{FONT}'\n"
               "if not p.exists():\n    requests.get(u)",
}  # fmt: skip
NOT_GUARDED = {
    "always": f"import requests\nrequests.get('http://a/{FONT}')",
    "another": "import os, requests\nif not os.path.exists('Other.ttf'):\n    requests.get('http://a/Other.ttf')",
    "behind": f"import os, requests\nif not os.path.exists('{FONT}'):\n    pass\nrequests.get(u)",
}


@pytest.mark.parametrize("name", GUARDED)
def test_a_download_that_a_placed_file_prevents_is_only_listed(model: Model, name: str) -> None:
    assert network(model, GUARDED[name], "--file", FONT) == 0
    assert network(model, GUARDED[name]) == 51


@pytest.mark.parametrize("name", NOT_GUARDED)
def test_a_download_that_happens_all_the_same_is_refused(model: Model, name: str) -> None:
    assert network(model, NOT_GUARDED[name], "--file", FONT) == 51


# --- the record ---


def test_a_change_is_shown_once_without_what_steers_a_terminal(model: Model) -> None:
    model.write("processing.py", "".join(f"line_{n} = {n}\n" for n in range(50)))
    assert model.judge()[0] == 0
    assert "since the last approval" not in model.judge()[1]
    model.write(
        "processing.py", "".join(f"line_{n} = {n + (n == 20)}\n" for n in range(50)) + "# \x1b[2J\u202e\r#!\n"
    )
    (model.folder / "configuration.py").rename(model.folder / "new.py")
    model.write("config.json", "{}")
    out = model.judge()[1].splitlines()
    assert out[:3] == [
        "judge: configuration.py is gone since the last approval",
        "judge: new.py is new since the last approval",
        "judge: processing.py changed since the last approval",
    ]
    assert "judge:   -line_20 = 20" in out
    assert "judge:   +line_20 = 21" in out
    assert "judge:   +# ?[2J?" in out
    assert len(out) < 20
    assert "since the last approval" not in model.judge()[1]


def test_a_refused_change_is_shown_again_and_a_long_one_is_cut(model: Model) -> None:
    model.judge()
    model.write("processing.py", "import decord\n" + "x = 1\n" * 500)
    for _ in range(2):
        code, out, _ = model.judge()
        assert code == 50
        assert out.splitlines()[judge.DIFF_LINES + 1] == "judge:   ..."
        assert sum("judge:   " in line for line in out.splitlines()) == judge.DIFF_LINES + 1
    assert json.loads(model.record.read_text())["files"]["processing.py"]["text"] == "class P: pass\n"


def test_a_difference_without_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "DIFF_S", 1)
    lines = [str(n % 100) for n in range(20_000)]
    assert judge.unified("\n".join(lines), "\n".join(reversed(lines))) == ["  (too different to be shown)"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"files": []}', '{"files": {"processing.py": 7}}', "[" * 100_000]
)
def test_a_record_that_is_none_counts_as_none(model: Model, text: str) -> None:
    model.record.write_text(text)
    assert model.judge()[0] == 0
    assert json.loads(model.record.read_text())["files"]["processing.py"]


def test_a_record_that_cannot_be_written_is_a_sentence(model: Model) -> None:
    model.record = model.record / "nowhere" / "x.json"
    code, _, err = model.judge()
    assert (code, err.count("\n")) == (52, 1)
    assert "cannot be read or written" in err


def test_names_of_files_do_not_steer_the_terminal(model: Model) -> None:
    model.write("\u202eevil\x1b[2J\n.py", "import \u0440aypal\n")
    code, out, _ = model.judge()
    assert code == 0
    assert "judge: ?evil??2J?.py" in out


def test_a_name_does_not_read_as_a_sentence_of_ours(model: Model) -> None:
    model.write("a.py:1 imports b (package c), which this image has not: run d.py", "x = 1\n")
    assert "judge: a.py?1?imports?b??package?c??" in model.judge()[1]


# --- as transformers counts ---


@cache
def conditions() -> list[str]:
    return model_code.names_of_transformers()  # type: ignore[no-any-return]


def test_conditions_are_those_of_transformers() -> None:
    utils = pytest.importorskip("transformers.utils.import_utils", reason="transformers is not installed")
    names = set(model_code.names_of_transformers())
    # The one that it imports for type checkers alone; nobody calls it.
    assert {name for name in names if not hasattr(utils, name)} <= {"torch"}
    assert {name for name in dir(utils) if not name.startswith("__")} <= names


def same_imports(source: str, folder: Path) -> None:
    dynamic = pytest.importorskip("transformers.dynamic_module_utils", reason="transformers is not installed")
    path = folder / "remote.py"
    path.write_text(source)
    facts = code_reader.read(source, conditions(), [])
    assert sorted({name for _, name in facts["imports"]}) == dynamic.get_imports(path)


SIMPLE = st.sampled_from([
    "import a1, a2.b", "from b1.c import d as e", "from . import x", "from .y import z", "from ..w import v",
    "import c1 as c2", "x = 1", "from d1 import *",
])  # fmt: skip
HEADS = st.sampled_from([
    "if is_torch_available():", "if not is_vision_available() and x:", "if is_flash_attn_9_available():",
    "if is_nothing_available():", "if utils.is_torch_available():", "if x:", "while x:", "def f():", "class C:",
    "async def g():", "with x:", "for y in z:", "TRY", "TRYSTAR", "IFELSE", "MATCH",
])  # fmt: skip


def nested(head: str, body: list[str]) -> str:
    inner = "\n".join(f"    {line}" for text in body for line in text.splitlines())
    if head in ("TRY", "TRYSTAR"):
        star = "*" if head == "TRYSTAR" else ""
        return f"try:\n{inner}\nexcept{star} ImportError:\n{inner}\nelse:\n{inner}\nfinally:\n    import last"
    if head == "IFELSE":
        return f"if is_torch_available():\n{inner}\nelif x:\n    import e1\nelse:\n    import e2"
    if head == "MATCH":
        return "match x:\n    case 1:\n" + "\n".join(f"    {line}" for line in inner.splitlines())
    return f"{head}\n{inner}"


PROGRAMS = st.recursive(
    SIMPLE, lambda inner: st.builds(nested, HEADS, st.lists(inner, min_size=1, max_size=3)), max_leaves=12
)


@settings(deadline=None, max_examples=150)
@given(programs=st.lists(PROGRAMS, min_size=1, max_size=4))
def test_imports_are_counted_as_transformers_does(
    programs: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    same_imports("\n".join(programs), folder)


def test_imports_of_real_files_are_counted_as_transformers_does(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        pytest.skip("transformers is not installed")
    folder = Path(spec.origin).parent
    paths = [*sorted(folder.glob("*.py"))[:25], *sorted(folder.glob("models/*_vl/*.py"))[:25]]
    assert len(paths) > 20
    for path in paths:
        if "import_module" not in path.read_text():
            same_imports(path.read_text(), tmp_path)


# --- time, and the script as its container runs it ---

LINE = "value_{n} = requests.get('http://a.example/{n}', x, y)\n"


def seconds(source: str) -> float:
    started = time.process_time()
    facts = code_reader.read(source, [], [FONT])
    assert "fault" not in facts
    return time.process_time() - started


def many(n: int, line: str) -> str:
    return "import requests\n" + "".join(line.format(n=i) for i in range(n))


@pytest.mark.parametrize(
    "line",
    [
        "x = a.b(c)\n",
        "value_{n} = requests.get('http://a.example/{n}')\n",
        "def f{n}(): return f{n}()\n",
        "value = value.get\n",
        "if os.path.exists(p): pass\n",
        "import m{n}\n",
    ],
)
def test_time_grows_with_the_length_alone(line: str) -> None:
    seconds(many(100, line))
    # The least of two: a neighbour on the processor makes some slow.
    short, long = (min(seconds(many(count, line)) for _ in range(2)) for count in (500, 4_000))
    assert long < 8 * 4 * max(short, 0.01)


def test_a_hundred_thousand_statements_and_a_huge_text(by_processes: Model) -> None:
    model = by_processes
    model.write("processing.py", "x=1\n" * 100_000)
    model.write("configuration.py", "x = '" + "a://" * 100_000 + "b" * 500_000 + "'\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert model.judge()[0] == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 15


@pytest.mark.parametrize("part", [".import_module('x')", "[0]", ".b(c)", "(d)", "+ 'e'", "+ '/'.join(['f'])"])
def test_a_long_chain_takes_no_longer_for_each_link(part: str) -> None:
    assert seconds(f"import importlib as a\nx = a{part * 90}\n" * 40) < 5


def test_a_text_that_grows_when_it_is_joined_is_cut() -> None:
    assert seconds(f"x = '{'a' * 900_000}'.join([{'b, ' * 60}])\n") < 5


@pytest.mark.parametrize(("before", "after"), [("f(", ")"), ("'/'.join([", "])"), ("[", "]"), ("f'{", "}'")])
def test_deep_nesting_takes_no_longer_for_each_level(before: str, after: str) -> None:
    depth = 1 if "'{" in before else 45
    assert seconds(f"x = {before * depth}y{after * depth}\n" * 200) < 5


@pytest.mark.parametrize("module", ["no_such_module_here", "common"], ids=["no module", "a script's name"])
def test_it_runs_as_its_container_runs_it(model: Model, module: str) -> None:
    model.write("processing.py", f"import json\nimport {module}\n")
    words = ["--file=x.ttf", "--network=refuse"]
    command = [sys.executable, "-I", str(SCRIPTS / "judge.py"), *words, str(model.folder), str(model.record)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=model.folder, check=False)
    assert done.returncode == 50
    assert done.stderr.startswith(
        f"judge: processing.py:2 imports {module} (package {module}), which this image has not"
    )


def test_a_stack_without_the_reader_does_not_blame_the_model(model: Model, tmp_path: Path) -> None:
    for name in ("judge.py", "model_code.py"):
        shutil.copy(SCRIPTS / name, tmp_path)
    command = [sys.executable, "-I", str(tmp_path / "judge.py"), str(model.folder), str(model.record)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 52
    assert f"{tmp_path}/code_reader.py cannot be read or written" in done.stderr
    assert not model.record.exists()
