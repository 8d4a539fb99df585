"""A bundle of a stack is broken off, goes on, and serves in a second engine that has no network at all."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ENGINE, FULL, ROOT, kit, rendered

from ernie_deploy.rehearsal.override import cpu_image
from ernie_deploy.stack.compose import ask, demand
from ernie_deploy.stack.waiting import poll_until

pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(2400),
    # An image of 2.7 GB is written, verified twice and loaded, and vLLM starts: eight minutes beside other work.
    pytest.mark.skipif(not FULL, reason="only with .ci/run --full"),
]
# A name of its own, so that the image of every other test stays.
IMAGE = cpu_image(ENGINE)
COPY = IMAGE.replace("ernie-deploy/", "ernie-bundled/")
TOKEN = "hf_" + "Zq9" * 11
MODEL = "baidu/ERNIE-4.5-0.3B-PT"
CACHE, KERNELS = "ernie-bundled-hf-cache", "ernie-bundled-kernels"
CHANGES = f"""
volumes:
  hf-cache: {{name: {CACHE}}}
  engine-cache: {{name: {KERNELS}}}
services:
  fetch: {{image: "{COPY}", environment: {{HF_TOKEN_HTTP_HOST: GATEWAY}}}}
  bench: {{image: "{COPY}"}}
  serve:
    image: "{COPY}"
    ports: !override ["127.0.0.1::8000"]
    environment: {{VLLM_CPU_KVCACHE_SPACE: "1", VLLM_CPU_OMP_THREADS_BIND: nobind, OMP_NUM_THREADS: "1"}}
"""
CHAT = f"""
import json, urllib.request
body = json.dumps({{"model": "{MODEL}", "max_tokens": 8, "messages": [{{"role": "user", "content": "Hello"}}]}})
request = urllib.request.Request("http://127.0.0.1:8000/v1/chat/completions", body.encode(), {{"Content-Type": "application/json"}})
print(json.load(urllib.request.urlopen(request, timeout=120))["usage"]["completion_tokens"])
"""
WAYS_OUT = "import socket; socket.create_connection(('1.1.1.1', 443), 3)"


class Engine(NamedTuple):
    """A second Docker engine, in a network of its own that leads nowhere."""

    env: dict[str, str]

    def run(
        self, *words: str, cwd: Path | None = None, timeout_s: float = 900
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(words, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture(scope="module")
def stack(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A stack whose hub asks for a token and runs beside it, on the bridge's own address."""
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, ROOT / "docker/rehearsal/checkpoints.py", folder, "dense"]
    subprocess.run(words, check=True)
    (folder / "map.json").write_text(f'{{"{MODEL}": {{"main": "{folder}/dense"}}}}')
    made = folder / "stack"
    made.mkdir()
    (made / "token").write_text(TOKEN)
    (made / "compose.yml").write_text(rendered("cpu", name="ernie-bundled"))
    gateway = demand(
        ["docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]
    ).strip()
    (made / "compose.override.yml").write_text(CHANGES.replace("GATEWAY", gateway))
    (made / ".env").write_text(f"HF_ENDPOINT=http://{gateway}:28461\nHF_TOKEN_FILE=token\nBENCH_SEED=7\n")
    demand(["docker", "tag", IMAGE, COPY])
    hub = [
        sys.executable,
        ROOT / "docker/rehearsal/hub.py",
        folder / "map.json",
        "--host",
        gateway,
        "--port",
        "28461",
    ]
    with subprocess.Popen([*hub, "--token-file", made / "token"], stdout=subprocess.DEVNULL) as serving:
        try:
            yield made
        finally:
            serving.kill()
            ask(["docker", "compose", "--profile", "*", "down", "--volumes"], cwd=str(made), timeout_s=120)
            ask(["docker", "volume", "rm", CACHE, KERNELS])
            ask(["docker", "rmi", COPY])


@pytest.fixture(scope="module")
def bundle(stack: Path) -> Path:
    """The stack's bundle; its first run is killed while the image is written."""
    folder = stack.parent / "bundle"
    words = [sys.executable, "-m", "ernie_deploy", "bundle", "-o", str(folder), "--split", "1G"]
    with subprocess.Popen(words, cwd=stack, env={**os.environ, "PYTHONPATH": str(ROOT)}) as first:
        assert poll_until(lambda: any((folder / "images").glob("*.0001.part")), 600) or not first.poll()
        first.send_signal(signal.SIGKILL)
    assert not (folder / "SHA256SUMS").exists()
    kept = {
        path: path.stat().st_ino for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"
    }
    begun = time.monotonic()
    done = kit(
        "bundle",
        "-o",
        str(folder),
        "--split",
        "1G",
        cwd=stack,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    print(f"goes on after SIGKILL and is complete after {time.monotonic() - begun:.0f} s:\n{done.stdout}")
    # Notes are added to; all else that was complete is the very file.
    assert {path: path.stat().st_ino for path in kept} == kept
    assert len(kept) > 3
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine with a data root of its own; its network has the loopback alone."""
    top = Path(f"/tmp/ernie-engine-{os.getpid()}")
    top.mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DOCKER_HOST": f"unix://{top}/sock"}
    daemon = f"ip link set lo up; exec dockerd --data-root {top}/data --exec-root {top}/exec --pidfile {top}/pid -H unix://{top}/sock"
    with (top / "log").open("w") as log, subprocess.Popen(
        ["unshare", "--net", "--", "sh", "-c", daemon], stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            engine = Engine(env)
            assert poll_until(lambda: engine.run("docker", "info").returncode == 0, 60), (
                top / "log"
            ).read_text()
            yield engine
        finally:
            process.terminate()
            process.wait(60)
            shutil.rmtree(top, ignore_errors=True)


def test_no_token_is_in_it(bundle: Path) -> None:
    found = subprocess.run(["grep", "-rlF", TOKEN, bundle], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (1, "")


def test_a_flipped_byte_is_refused_and_named(bundle: Path, other: Engine) -> None:
    piece = sorted((bundle / "images").iterdir())[1]
    _flip(piece)
    try:
        done = other.run("sh", str(bundle / "load.sh"), str(bundle.parent / "far"))
        assert done.returncode == 1
        assert f"wrong    images/{piece.name}" in done.stderr
        assert other.run("docker", "images", "--quiet").stdout == ""
        verified = kit("bundle", "verify", str(bundle), timeout=300)
        assert (verified.returncode, f"wrong    images/{piece.name}" in verified.stdout) == (1, True)
    finally:
        _flip(piece)


def _flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(12_345_678)
        byte = file.read(1)[0]
        file.seek(12_345_678)
        file.write(bytes([byte ^ 1]))


def test_it_serves_where_there_is_no_network(bundle: Path, other: Engine) -> None:
    far = bundle.parent / "far"
    begun = time.monotonic()
    done = other.run("sh", str(bundle / "load.sh"), str(far))
    assert done.returncode == 0, done.stderr
    print(f"loaded after {time.monotonic() - begun:.0f} s:\n{done.stdout}")
    folder = far / "ernie-bundled"
    up = other.run("docker", "compose", "up", "-d", "--wait", "--wait-timeout", "800", cwd=folder)
    logs = other.run("docker", "compose", "logs", cwd=folder)
    try:
        assert up.returncode == 0, up.stderr + logs.stdout[-5000:]
        assert "7 files of baidu/ERNIE-4.5-0.3B-PT are as verified before" in logs.stdout
        assert "was not created by Docker Compose" not in up.stderr
        chat = other.run("docker", "compose", "exec", "-T", "serve", "python3", "-c", CHAT, cwd=folder)
        assert chat.stdout.strip() == "8", chat.stderr
        way_out = other.run("docker", "compose", "exec", "-T", "serve", "python3", "-c", WAYS_OUT, cwd=folder)
        # Its code is 0 whatever the program's was, on Docker Engine 20.10.
        assert "Network is unreachable" in way_out.stderr
    finally:
        down = other.run(
            "docker", "compose", "--profile", "*", "down", "--volumes", "--timeout", "5", cwd=folder
        )
        assert down.returncode == 0, down.stderr
