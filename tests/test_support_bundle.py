"""The archive for a ticket names what it lacks, and holds no secret and no prompt, or is not written."""

import base64
import json
import os
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import ROOT, kit

from ernie_deploy.errors import ToolFailed, UsageError
from ernie_deploy.safe_io.secret_masks import masked
from ernie_deploy.stack import support_bundle as bundle

TOKEN = "hf_" + "Zq9" * 11
KEY = "north-key-81723"


def read(path: Path) -> dict[str, str]:
    with tarfile.open(path) as tar:
        return {Path(m.name).name: tar.extractfile(m).read().decode() for m in tar.getmembers()}  # type: ignore[union-attr]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert kit("render", "cpu", "-o", str(tmp_path / "compose.yml")).returncode == 0
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "key.yaml").write_text(f"api-key: {KEY}\n")
    (tmp_path / ".env").write_text(
        f"HF_TOKEN_FILE=token\nAPI_KEY_FILE=key.yaml\nHTTPS_PROXY=http://me:pw-4711@proxy.example:3128\nPORT=8123\nOTHER={KEY}\n"
    )
    return tmp_path


def test_without_docker_the_archive_is_made_and_says_what_it_lacks(folder: Path) -> None:
    path = folder / "t.tar.gz"
    env = {"PYTHONPATH": str(ROOT), "PATH": "/nowhere", "HOME": str(folder), "VLLM_API_KEY": "shell-key-9911"}
    done = kit("support-bundle", "-o", str(path), cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    parts = read(path)
    assert {"MANIFEST.txt", "versions.txt", "env.txt", "plan.txt", "doctor.txt"} <= set(parts)
    manifest = parts["MANIFEST.txt"]
    assert "logs.txt: missing: " in manifest
    assert "docker" in manifest
    whole = "\n".join(parts.values())
    for secret in (TOKEN, KEY, "pw-4711", "shell-key-9911"):
        assert secret not in whole
    assert "PORT=8123" in parts["env.txt"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert "logs.txt" in done.stdout


def test_a_file_that_is_there_is_kept(folder: Path) -> None:
    path = folder / "t.tar.gz"
    path.write_text("mine")
    assert (
        kit(
            "support-bundle", "-o", str(path), cwd=folder, env={"PYTHONPATH": str(ROOT), "PATH": ""}
        ).returncode
        == 2
    )
    assert path.read_text() == "mine"
    with pytest.raises(UsageError):
        bundle.write(folder / "absent/t.tar.gz", {"a": "b"}, set())
    assert sorted(p.name for p in folder.iterdir()) == [
        ".env",
        "compose.yml",
        "key.yaml",
        "t.tar.gz",
        "token",
    ]


@pytest.mark.parametrize("form", [KEY, quote("a/b+c d-12", safe=""), base64.b64encode(KEY.encode()).decode()])
def test_an_archive_with_a_secret_in_it_is_not_written(form: str, tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match=r"Nothing was written: a secret stands in b\.txt"):
        bundle.write(tmp_path / "t.tar.gz", {"a.txt": "fine", "b.txt": f"x {form} y"}, {KEY, "a/b+c d-12"})
    assert not list(tmp_path.iterdir())


def test_a_token_of_nobody_known_is_found_too(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed):
        bundle.write(tmp_path / "t.tar.gz", {"a.txt": TOKEN}, set())


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        (f"HF_TOKEN={TOKEN}", TOKEN),
        ("Authorization: Bearer abc.def-12345", "abc.def-12345"),
        ('{"headers": {"authorization": "Basic dXNlcjpwdw=="}}', "dXNlcjpwdw=="),
        ("curl -H 'X-API-Key: k-123456'", "k-123456"),
        ("--api-key my-own-key-1", "my-own-key-1"),
        ("VLLM_API_KEY: plainwordkey1", "plainwordkey1"),
        ("pip --index-url https://user:s3cr3t/x@pypi.example/simple", "s3cr3t"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
    ],
)
def test_what_looks_like_a_secret_is_blanked_out(text: str, secret: str) -> None:
    assert secret not in masked(text)
    assert masked(masked(text)) == masked(text)


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN_FILE=/srv/north/token",
        "HF_TOKEN_PATH: /run/secrets/hf_token",
        "token: ${HF_TOKEN}",
        'vllm:prompt_tokens_total{engine="0"} 12345.0',
        "max_num_batched_tokens=8192",
        "The hub does not take the token: it is wrong, expired or missing.",
        "generation_tokens_per_s: 123456.7",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert masked(text) == text


LOG = """\
(APIServer pid=1) INFO 11-24 06:02:11 [api_server.py:1] vLLM API server version 0.32.0
INFO:     Application startup complete.
(APIServer pid=1) INFO 11-24 06:02:12 [logger.py:39] Received request cmpl-1: prompt: 'my diary', params: None.
the second line of my diary
INFO:     10.0.0.9:5 - "GET /v1/models?q=diary HTTP/1.1" 200 OK
(EngineCore pid=2) ERROR 11-24 06:02:13 [core.py:9] torch.OutOfMemoryError: CUDA out of memory.
"""


def test_prompts_are_left_out_of_logs_and_the_engines_own_lines_stay() -> None:
    text = bundle.without_prompts(LOG)
    assert "diary" not in text
    assert "OutOfMemoryError" in text
    assert "/v1/models?..." in text


def test_secrets_in_a_stacks_own_file_are_known() -> None:
    services = {
        "serve": {
            "environment": {"MY_TOKEN": "tttttt1"},
            "command": ["--api-key", "kkkkkk2", "--api-key=kkkkkk3"],
        }
    }
    assert bundle.in_services(services) == {"tttttt1", "kkkkkk2", "kkkkkk3"}


def test_what_would_be_gathered_is_listed(folder: Path) -> None:
    done = kit(
        "support-bundle", "--dry-run", "--json", cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert "logs.txt" in json.loads(done.stdout)["parts"]
    assert not list(folder.glob("*.tar.gz"))
