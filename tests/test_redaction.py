"""A proxy's password stays with its owner: in files, on the terminal, in journals and in a container's log."""

import json
import os
import stat
from pathlib import Path

import pytest
from conftest import ROOT, kit
from container_scripts import loaded

from ernie_deploy.host import settings
from ernie_deploy.safe_io.redaction import redacted

REDACT = loaded("common").redact
PASSWORDS = ("pw", "p/w", "p@w", "p:w", "/p@/w:@", "p//w", "pä#?w", "@", "hunter2%2F@x/y")


@pytest.mark.parametrize("redact", [redacted, REDACT], ids=["kit", "scripts"])
@pytest.mark.parametrize("password", PASSWORDS)
def test_everything_before_the_host_is_blanked(redact: object, password: str) -> None:
    for text in (f"http://me:{password}@proxy:3128", f"HTTPS_PROXY='http://me:{password}@proxy:3128/' failed",
                 f"two: http://me:{password}@proxy:3128\nhttps://me:{password}@proxy:3128 end"):  # fmt: skip
        shown = redact(text)  # type: ignore[operator]
        assert "me:" not in shown
        assert shown.count("//***@proxy:3128") == text.count("proxy")


@pytest.mark.parametrize("redact", [redacted, REDACT], ids=["kit", "scripts"])
@pytest.mark.parametrize(
    "text", ["", "http://a/b", "me@example.org", "see https://a.b/c and x@y", "a // b @ c", "@//"]
)
def test_what_holds_no_password_stays(redact: object, text: str) -> None:
    assert redact(text) == text  # type: ignore[operator]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


PROXY = ("--env", "HTTPS_PROXY=http://u:p/w@p:1")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_env_is_its_owners_alone(umask: int, tmp_path: Path) -> None:
    for number, more in enumerate((PROXY, ())):
        done = kit("init", str(tmp_path / str(number)), "h100", *more, umask=umask)
        assert done.returncode == 0, done.stderr
        assert mode(tmp_path / str(number) / ".env") == 0o600
        assert mode(tmp_path / str(number) / "compose.yml") == 0o666 & ~umask


@pytest.mark.parametrize("before", [0o600, 0o640, 0o644, 0o400])
def test_force_leaves_an_env_as_it_is(before: int, tmp_path: Path) -> None:
    assert kit("init", str(tmp_path), "h100", *PROXY).returncode == 0
    (tmp_path / ".env").chmod(0o600)
    (tmp_path / ".env").write_text("PORT=1\n")
    (tmp_path / ".env").chmod(before)
    done = kit("init", str(tmp_path), "h100", "--tp", "2", "--force", umask=0o022)
    assert done.returncode == 0, done.stderr
    refused = kit("init", str(tmp_path), "h100", *PROXY, "--force")
    assert refused.returncode == 2
    assert (mode(tmp_path / ".env"), (tmp_path / ".env").read_text()) == (before, "PORT=1\n")


def test_a_link_in_the_place_of_an_env_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("")
    (tmp_path / "shared").chmod(0o666)
    (tmp_path / ".env").symlink_to(tmp_path / "shared")
    assert kit("init", str(tmp_path), "h100", *PROXY, "--force").returncode == 2
    assert kit("init", str(tmp_path), "h100", "--force").returncode == 0
    assert (tmp_path / ".env").is_symlink()
    assert (tmp_path / "shared").read_text() == ""


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        (None, "PORT=1\n", 0o600),
        (0o600, "PORT=1\n", 0o600),
        (0o644, "PORT=1\n", 0o644),
        (0o644, f"{PROXY[1]}\n", 0o600),
    ],
)
def test_what_doctor_writes_is_private_too(before: int | None, text: str, after: int, tmp_path: Path) -> None:
    env = tmp_path / ".env"
    if before is not None:
        env.write_text("")
        env.chmod(before)
    kept = os.umask(0o022)
    try:
        settings.write(env, text)
    finally:
        os.umask(kept)
    assert (mode(env), env.read_text()) == (after, text)


def test_no_error_shows_a_password(tmp_path: Path) -> None:
    secret = "hun/t@er2" + "x" * 60
    for words in (
        ("init", str(tmp_path), "h100", "--env", f"HTTPS_PROXY=http://u:{secret}@p:1'"),
        ("init", str(tmp_path), "h100", "--env", f"http://u:{secret}@p:1"),
        ("init", str(tmp_path), "h100", "--env", f"http://u:{secret}@p:1=x"),
        ("render", f"http://u:{secret}@p:1"),
        ("bench", "run", "--attach", f"http://u:{secret}@p:1", "--tokenizer", "x"),
        ("check", f"http://u:{secret}@p:1"),
    ):  # fmt: skip
        done = kit(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert done.returncode, words
        assert secret[:4] not in done.stdout + done.stderr, words
    assert not json.dumps([path.name for path in tmp_path.iterdir()]).count("hun")
