"""What a rehearsal decides and says before Docker is asked for anything."""

import json
import sys
from pathlib import Path

import pytest
from conftest import kit, planned

from ernie_deploy.compose import Done
from ernie_deploy.errors import ToolFailed, ToolMissing
from ernie_deploy.rehearsal import override, runner

# Of every tiny checkpoint.
CONFIG = {"num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 32}


def absent(*_: object, **__: object) -> Done:
    return Done(1, "", "No such image")


def test_a_missing_image_is_a_sentence_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ask", absent)
    with pytest.raises(ToolMissing, match=override.IMAGE) as raised:
        runner.require_image()
    assert "docker/engine-cpu/build.py" in raised.value.next_step
    assert "--build-base" in raised.value.next_step


def test_a_missing_image_is_built_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def hand_over(words: list[str], *, output: object) -> int:
        assert output is sys.stderr
        ran.append(words)
        return len(ran) - 1

    monkeypatch.setattr(runner, "ask", absent)
    monkeypatch.setattr(runner, "hand_over", hand_over)
    runner.require_image(build_base=True)
    assert ran[0][1].endswith("docker/engine-cpu/build.py")
    assert ran[0][2:] == ["--build-base"]
    with pytest.raises(ToolFailed, match="ended with 1"):
        runner.require_image(build_base=True)


def test_an_image_that_is_there_is_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ask", lambda *_, **__: Done(0, "", ""))
    monkeypatch.setattr(runner, "hand_over", lambda *_, **__: pytest.fail("built"))
    runner.require_image(build_base=True)


@pytest.mark.parametrize(
    ("target", "options", "kv_bytes"),
    [
        ("cpu", {}, 2 * 4 * 4 * 32 * 2),
        ("mi300x", {"tp": 1}, 2 * 4 * 4 * 32 * 2),
        ("mi300x", {"tp": 4}, 2 * 4 * 1 * 32 * 2),
        ("mi300x", {"tp": 4, "profiles": ("mtp",)}, 2 * 5 * 1 * 32 * 2),
    ],
)
def test_kv_bytes_of_the_tiny_checkpoint(
    target: str, options: dict[str, object], kv_bytes: int, tmp_path: Path
) -> None:
    rehearsal = override.decide(planned(target, **options), tmp_path, "p")
    folder = tmp_path / "checkpoints" / rehearsal.checkpoint
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    assert override.tiny_kv_bytes(rehearsal) == kv_bytes


def test_dry_run_prints_the_override_and_the_command() -> None:
    done = kit("rehearse", "mi300x", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert 'VLLM_CPU_KVCACHE_SPACE: "1"' in done.stdout
    assert done.stdout.splitlines()[-1].startswith("docker compose --project-name ernie-rehearsal-")
