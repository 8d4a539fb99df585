"""A server elsewhere is measured, not obeyed: nothing that it answers decides what runs here or what it is given."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.fake_openai import NAME, FakeOpenAI
from conftest import ROOT, kit

from ernie_deploy.bench.measure.local_client import environment
from ernie_deploy.catalog import Catalog

SMALL = ("--shapes", "80/10", "--num-prompts", "1", "--rate", "inf", "--no-warm-up", "--skip-coherence")
CATALOG = Catalog()
AT_MAIN = [model for model in CATALOG.models() if model.revision == "main"]
PINNED = [model for model in CATALOG.models() if model.revision != "main"]
SECRETS = {
    name: f"planted-{name}"
    for name in (
        "OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "VLLM_API_KEY",
        "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "ANTHROPIC_API_KEY", "PGPASSWORD", "SSH_AUTH_SOCK",
    )
}  # fmt: skip


@pytest.fixture
def fake() -> Iterator[FakeOpenAI]:
    with FakeOpenAI() as server:
        server.card["root"] = "evil/tokenizer"
        yield server


def dry_run(fake: FakeOpenAI, *words: str) -> list[str]:
    done = kit("bench", "run", "--attach", fake.url, "--dry-run", *SMALL, *words)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


@pytest.mark.parametrize("model", AT_MAIN, ids=lambda model: model.id)
def test_tokenizer_and_trust_are_the_catalogs(fake: FakeOpenAI, model: object) -> None:
    words = dry_run(fake, "--model", model.id)  # type: ignore[attr-defined]
    assert f"--tokenizer={model.hf_id}" in words  # type: ignore[attr-defined]
    assert ("--trust-remote-code" in words) == model.trust_remote_code  # type: ignore[attr-defined]
    assert "evil" not in " ".join(words)


@pytest.mark.parametrize("model", PINNED, ids=lambda model: model.id)
def test_a_pinned_tokenizer_is_never_taken_from_another_revision(fake: FakeOpenAI, model: object) -> None:
    """vLLM's client has no option for a revision, and `main` is not what the catalog trusts."""
    done = kit("bench", "run", "--attach", fake.url, "--model", model.id, *SMALL)  # type: ignore[attr-defined]
    assert done.returncode == 2, done.stderr
    assert f"hf download {model.hf_id} --revision {model.revision}" in done.stderr  # type: ignore[attr-defined]
    assert "--tokenizer=dir" in dry_run(fake, "--model", model.id, "--tokenizer", "dir")  # type: ignore[attr-defined]


def test_the_targets_default_model_is_the_catalogs_too(fake: FakeOpenAI) -> None:
    words = dry_run(fake, "--target", "h100")
    assert any(word.startswith("--tokenizer=baidu/") for word in words)


def test_the_users_own_tokenizer_wins_and_brings_no_trust(fake: FakeOpenAI) -> None:
    words = dry_run(fake, "--tokenizer", "mine/own")
    assert "--tokenizer=mine/own" in words
    assert "--trust-remote-code" not in words


def test_without_model_and_tokenizer_nothing_is_guessed_from_the_answer(fake: FakeOpenAI) -> None:
    done = kit("bench", "run", "--attach", fake.url, *SMALL)
    assert done.returncode == 2
    assert "--model or --tokenizer" in done.stderr
    unknown = kit("bench", "run", "--attach", fake.url, "--model", "evil", *SMALL)
    assert unknown.returncode == 3


@pytest.mark.parametrize(
    "card",
    [
        {"id": "a\0b"}, {"id": "a\x1b[2Jb"}, {"id": "\ud800"}, {"id": "\u202eb"}, {"id": ""}, {"id": 7}, {"id": "x" * 3000},
        {"id": NAME, "root": ["x"]}, {"id": NAME, "root": "a\nb"}, {"id": NAME, "max_model_len": "many"},
    ],
)  # fmt: skip
def test_a_card_that_is_none_is_one_sentence(fake: FakeOpenAI, card: dict[str, object]) -> None:
    fake.card = card
    done = kit("bench", "run", "--attach", fake.url, "--tokenizer", "dir", "--dry-run", *SMALL)
    assert done.returncode == 12, done.stderr
    assert "No OpenAI server answers" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_looks_like_an_option_stays_one_word(fake: FakeOpenAI) -> None:
    fake.card["id"] = "--trust-remote-code"
    words = dry_run(fake, "--tokenizer", "dir")
    assert "--model=--trust-remote-code" in words
    assert "--trust-remote-code" not in words


@pytest.fixture
def spy(tmp_path: Path) -> dict[str, str]:
    """Variables under which `vllm` writes down its own and fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vllm").write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\nexit 1\n")
    (folder / "vllm").chmod(0o755)
    return {**os.environ, **SECRETS, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def test_no_secret_of_the_shell_reaches_client_or_server(
    fake: FakeOpenAI, spy: dict[str, str], tmp_path: Path
) -> None:
    words = ("--tokenizer", "dir", "--results", str(tmp_path / "r"))
    done = kit("bench", "run", "--attach", fake.url, *words, *SMALL, env=spy)
    assert "vLLM's client failed" in done.stderr
    seen = (tmp_path / "seen").read_text()
    assert "planted-" not in seen
    assert "HF_HUB_DISABLE_IMPLICIT_TOKEN=1" in seen
    assert not any("planted-" in str(headers) for headers in fake.headers)
    assert fake.headers


def test_the_servers_key_is_in_a_file_that_the_user_names(
    fake: FakeOpenAI, spy: dict[str, str], tmp_path: Path
) -> None:
    key = tmp_path / "key.yaml"
    key.write_text("api-key: sk-of-this-server\n")
    words = ("--tokenizer", "dir", "--results", str(tmp_path / "r"), "--api-key-file", str(key))
    done = kit("bench", "run", "--attach", fake.url, *words, *SMALL, env=spy)
    assert "OPENAI_API_KEY=sk-of-this-server" in (tmp_path / "seen").read_text()
    assert any(headers.get("Authorization") == "Bearer sk-of-this-server" for headers in fake.headers)
    assert "sk-of-this-server" not in done.stdout + done.stderr
    assert all("sk-of-this-server" not in file.read_text() for file in (tmp_path / "r").rglob("*.jsonl"))


@pytest.mark.parametrize("text", ["", "port: 8000\n", "api-key:\n"])
def test_a_file_without_a_key_is_refused(fake: FakeOpenAI, text: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(text)
    words = ("--tokenizer", "dir", "--api-key-file", str(tmp_path / "key"))
    done = kit("bench", "run", "--attach", fake.url, *words, *SMALL)
    assert done.returncode == 2, done.stderr
    assert not fake.headers


def test_what_the_client_needs_is_kept() -> None:
    shell = {
        "PATH": "/bin", "HOME": "/h", "LC_ALL": "C", "HF_HOME": "/c", "HF_ENDPOINT": "http://m", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", "HTTPS_PROXY": "http://p:1", "SSL_CERT_FILE": "/ca", "VLLM_TARGET_DEVICE": "cpu",
    }  # fmt: skip
    assert environment("http://h:1", shell).items() >= shell.items()
