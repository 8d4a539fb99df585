"""vLLM's own client against a server that fools it: it ends with 0 each time, and the kit is not fooled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.fake_openai import LIES, FakeOpenAI
from conftest import FULL, ROOT, kit

from ernie_deploy.bench.journal import store

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

FOOLED = {"ok": (0, "valid", ""), **LIES}


@pytest.fixture(scope="module")
def tokenizer(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint of a rehearsal: a character is a token."""
    folder = tmp_path_factory.mktemp("tokenizer")
    subprocess.run(
        [sys.executable, str(ROOT / "docker/rehearsal/checkpoints.py"), str(folder), "dense"], check=True
    )
    return folder / "dense"


# Half a minute each on two cores: the others are for .ci/run --full, and the stand-in client meets them all.
ALWAYS = ["ok", "all-500", "half-in-band"]


@pytest.mark.parametrize("mood", FOOLED if FULL else ALWAYS)
def test_the_real_client_believes_and_the_kit_does_not(mood: str, tokenizer: Path, tmp_path: Path) -> None:
    code, status, word = FOOLED[mood]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    from tokenizers import Tokenizer  # type: ignore[import-not-found, unused-ignore]

    read = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    with FakeOpenAI(mood, count=lambda text: len(read.encode(text, add_special_tokens=False).ids)) as fake:
        done = kit(
            "bench", "run", "--attach", fake.url, "--tokenizer", str(tokenizer), "--results", str(tmp_path),
            "--shapes", "80/10", "--num-prompts", "4", "--rate", "inf", "--no-warm-up",
            # vLLM's random prompts begin at any of the vocabulary's words: of the tiny one's, two begin alike
            # in one of 25 runs, and the check for a warm cache rightly finds it.
            "--seed", "1", env=env, timeout=250,
        )  # fmt: skip
    attempt = store.read(tmp_path / store.NAME).attempts[-1]
    assert (attempt.status, done.returncode) == (status, code), (attempt.reasons, done.stderr)
    assert any(word in reason for reason in attempt.reasons) or not word, attempt.reasons
    assert attempt.result, "the client ended with 0 and left a result"
