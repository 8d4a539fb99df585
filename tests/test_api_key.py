"""The one reader of the API key file: what is not surely a key is refused, and what was read is what is asked for."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_key_files import FILES, KEYS, TEXTS
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st

from ernie_deploy.errors import UsageError
from ernie_deploy.stack import api_key

SCRIPT = ROOT / "docker/scripts/with_api_key.py"
SECRET = "sk-very-secret"


def keys_in(text: str) -> list[str] | None:
    """The keys that the script reads; None where it refuses the file."""
    script = api_key._script()
    try:
        return script.keys_in(text.encode(errors="surrogatepass"))  # type: ignore[no-any-return]
    except script.KnownError:
        return None


@pytest.mark.parametrize(("text", "keys"), FILES.items(), ids=lambda value: repr(value)[:30])
def test_a_file_gives_a_key_or_is_refused(text: str, keys: list[str] | None) -> None:
    assert keys_in(text) == keys


@given(TEXTS)
@example("? [a]\n: b\n")
@example("[" * 500)
@example('api-key: "\\U00110000"\n')
@example("%YAML 1." + "9" * 4090)
def test_no_file_is_read_otherwise_than_by_yaml(text: str) -> None:
    if (keys := keys_in(text)) is None:
        return
    ((name, value),) = yaml.safe_load(text).items()
    assert name in ("api-key", "api_key")
    assert (value if isinstance(value, list) else [value]) == keys
    assert all(key and key.isascii() and key.isprintable() and key.strip() == key for key in keys)


@given(st.lists(KEYS, min_size=1, max_size=3))
def test_any_key_that_a_header_carries_is_taken(keys: list[str]) -> None:
    for name in ("api-key", "api_key"):
        assert keys_in(json.dumps({name: keys})) == keys
    assert keys_in(f"api-key: {json.dumps(keys[0])}\n") == keys[:1]


def run(*words: object, script: Path = SCRIPT) -> "subprocess.CompletedProcess[str]":
    """Run the script as the container does, with this Python's packages."""
    words = (sys.executable, "-I", "-c", script.read_text(), *map(str, words))
    return subprocess.run(words, capture_output=True, text=True, timeout=300)


SHOW = [
    sys.executable,
    "-c",
    "import os, sys; print(os.environ.get('OPENAI_API_KEY'), open(sys.argv[1]).read())",
]


def test_the_server_gets_what_was_read(tmp_path: Path) -> None:
    source, config = tmp_path / "key.yaml", tmp_path / "vllm_config.yaml"
    source.write_text(f"# ours\napi-key:\n  - {SECRET}\n  - sk-next\n")
    # As a pod's /tmp has it after a restart.
    config.write_text("api-key: sk-old")
    done = run("serve", source, config, *SHOW, config)
    assert done.stdout == f'None {{"api-key": ["{SECRET}", "sk-next"]}}\n', done.stderr
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert yaml.safe_load(config.read_text()) == {"api-key": [SECRET, "sk-next"]}
    assert not [path for path in tmp_path.iterdir() if path not in (source, config)]


def test_a_client_gets_the_first_key_and_no_file(tmp_path: Path) -> None:
    source = tmp_path / "key.yaml"
    source.write_text(f"api_key: [{SECRET}, sk-next]\n")
    done = run("bench", source, *SHOW, os.devnull)
    assert done.stdout == f"{SECRET} \n", done.stderr
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("mode", ["serve", "bench"])
@pytest.mark.parametrize("text", [text for text, keys in FILES.items() if keys is None][:12], ids=repr)
def test_what_is_refused_starts_nothing_and_is_one_sentence(tmp_path: Path, mode: str, text: str) -> None:
    source, config = tmp_path / "key.yaml", tmp_path / "config.yaml"
    source.write_bytes(text.encode())
    words = ["serve", source, config] if mode == "serve" else ["bench", source]
    done = run(*words, "touch", tmp_path / "started")
    assert done.returncode == 40
    assert done.stderr.startswith("api-key: the file of API_KEY_FILE ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    "text", [f"api-key: {SECRET}: x", f"{SECRET}: x", f"api-key: !{SECRET} x", f"[{SECRET}", f"api-key: '{SECRET}",
             f"api-key: [{SECRET}, -x]", f"api-key:{SECRET}"]
)  # fmt: skip
def test_no_refusal_quotes_the_file(tmp_path: Path, text: str) -> None:
    (source := tmp_path / "key.yaml").write_text(text)
    done = run("bench", source, "true")
    assert done.returncode == 40
    assert SECRET not in done.stderr


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "large"])
def test_what_is_no_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "key.yaml"
    make: dict[str, Any] = {
        "missing": lambda: None,
        "folder": source.mkdir,
        "fifo": lambda: os.mkfifo(source),
        "large": lambda: source.write_text("api-key: sk-a\n" + "#" * 5000),
    }
    make[kind]()
    done = run("bench", source, "true")
    assert (done.returncode, done.stderr.count("\n")) == (40, 1)
    assert "Traceback" not in done.stderr


def test_a_repaired_file_starts(tmp_path: Path) -> None:
    source, config = tmp_path / "key.yaml", tmp_path / "config.yaml"
    source.write_text("api-key:\n")
    assert run("serve", source, config, "true").returncode == 40
    source.write_text("api-key: sk-a\n")
    assert run("serve", source, config, "true").returncode == 0
    assert json.loads(config.read_text()) == {"api-key": ["sk-a"]}


def test_the_kit_reads_with_the_same_script(tmp_path: Path) -> None:
    source = tmp_path / "key.yaml"
    assert api_key.key_in(source) == ""
    source.write_text(f"api-key: [{SECRET}, b]\n")
    assert api_key.key_in(source) == SECRET
    source.write_text("api-key: 0123\n")
    with pytest.raises(UsageError, match="reads as a number, a date or a boolean"):
        api_key.key_in(source)
