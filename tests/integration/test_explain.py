"""A stack that fails on real Docker is explained by its containers, and its ticket holds no secret."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ENGINE, ROOT, kit

from ernie_deploy.rehearsal.override import cpu_image
from ernie_deploy.stack.compose import Stack, ask, demand

IMAGE = cpu_image(ENGINE)
pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
ENV = {"PYTHONPATH": str(ROOT)}
TOKEN = "hf_" + "Rt7" * 11
FILE = f"""\
name: ernie-explained
services:
  serve:
    image: {IMAGE}
    entrypoint: [python3, -c]
    command:
      - |
        import sys
        print("(APIServer pid=1) INFO 11-24 06:02:11 [api_server.py:1] vLLM API server version 0.32.0")
        print("vllm serve: error: unrecognized arguments: --moon-phase", file=sys.stderr)
        sys.exit(2)
    environment: {{HF_TOKEN: {TOKEN}}}
  absent:
    image: {IMAGE}
    entrypoint: [moonlight]
"""


@pytest.fixture
def failed(docker_engine: None, tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "compose.yml").write_text(FILE)
    stack = Stack(files=(tmp_path / "compose.yml",))
    # One after the other: a container that cannot start makes Compose give up those that it has not started yet.
    demand(stack.words("up", "--detach", "serve"))
    ask(stack.words("wait", "serve"), timeout_s=120)
    ask(stack.words("up", "--detach", "--no-recreate", "absent"), timeout_s=120)
    yield tmp_path
    ask(stack.words("down", "--timeout", "1"), timeout_s=120)


def test_the_stack_of_the_folder_is_explained(failed: Path) -> None:
    done = kit("explain", cwd=failed, env={**_env(), **ENV})
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    assert "--moon-phase" in done.stdout
    assert "also: program-missing" in done.stdout
    named = kit("explain", "ernie-explained", "--json", cwd=failed, env={**_env(), **ENV})
    assert json.loads(named.stdout)["evidence"]["container"] == "serve"
    status = kit("status", "--json", cwd=failed, env={**_env(), **ENV})
    assert json.loads(status.stdout)["cause"]["id"] == "flag-rejected", status.stderr


def test_its_ticket_has_every_part_but_those_it_names_and_no_secret(failed: Path) -> None:
    path = failed / "t.tar.gz"
    done = kit("support-bundle", "-o", str(path), cwd=failed, env={**_env(), **ENV}, timeout=120)
    assert done.returncode == 0, done.stderr
    with tarfile.open(path) as tar:
        parts = {Path(m.name).name: tar.extractfile(m).read().decode() for m in tar.getmembers()}  # type: ignore[union-attr]
    assert "flag-rejected" in parts["explain.txt"]
    assert "--moon-phase" in parts["logs.txt"]
    assert "HF_TOKEN: '***'" in parts["compose-config.yml"] or "HF_TOKEN: ***" in parts["compose-config.yml"]
    assert "plan.txt: missing: " in parts["MANIFEST.txt"]
    assert not any(TOKEN in text for text in parts.values())
    inspected = json.loads(parts["containers.json"])
    assert {one["service"] for one in inspected} == {"serve", "absent"}


def _env() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"}}
