"""A stack is locked against a real registry with a login: digests, a tag that moves, a mirror, and what `up` pulls."""

import base64
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import ROOT, free_port, kit, missing, planned

from ernie_deploy.plan.lock import read_lock, short
from ernie_deploy.stack.containers import client

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]
# me:secret, as htpasswd -B writes it.
HTPASSWD = "me:$2b$04$p1HiI4J.RLSOB1qkLS85DewvZOU2is2JTEtenyzc10NbxQnvykCba\n"
LOGIN = {"username": "me", "password": "secret"}
NAME = "ernie-locked"
PLAN = planned("cpu")
START_S = 60


class Registry:
    """Debian's docker-registry on loopback, which Docker asks without TLS."""

    def __init__(self, folder: Path) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        (folder / "htpasswd").write_text(HTPASSWD)
        config = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": "r", "path": str(folder / "htpasswd")}},
        }
        (folder / "config.yml").write_text(json.dumps(config))
        self.engine, self.pushed = client(), set[str]()
        words = ["docker-registry", "serve", str(folder / "config.yml")]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.await_start()

    def await_start(self) -> None:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            try:
                socket.create_connection(tuple(self.host.split(":")), 1).close()  # type: ignore[arg-type]
            except OSError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError(f"docker-registry does not listen on {self.host} after {START_S} s")

    def push(self, name: str, tag: str, content: str) -> None:
        """Put an image of one small file under a name."""
        packed = BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            info = tarfile.TarInfo("content")
            info.size = len(content)
            tar.addfile(info, BytesIO(content.encode()))
        repository = f"{self.host}/{name}"
        self.engine.api.import_image_from_data(packed.getvalue(), repository=repository, tag=tag)
        self.pushed.add(f"{repository}:{tag}")
        said = self.engine.images.push(repository, tag=tag, auth_config=LOGIN)
        assert "digest: sha256:" in str(said), said
        self.forget()

    def forget(self) -> None:
        """Leave nothing of the images on this machine, so that it has them from the registry alone."""
        for image in self.engine.images.list():
            if any(self.host in name for name in (*image.tags, *image.attrs.get("RepoDigests", []))):
                self.engine.images.remove(image.id, force=True)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.forget()


@pytest.fixture(scope="module")
def registry(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    if not shutil.which("docker-registry"):
        missing("docker-registry", "apt-get install docker-registry")
    started = Registry(tmp_path_factory.mktemp("registry"))
    try:
        yield started
    finally:
        started.stop()


class World:
    """A folder of a stack for the registry, and the rehearsals' hub."""

    def __init__(self, folder: Path, registry: Registry, hub: Any) -> None:
        self.folder, self.registry, self.hub = folder, registry, hub
        # Not the vendor's name, so that serve and bench have an image each.
        self.own, self.mirror = f"{registry.host}/own/vllm-openai-cpu:1", f"{registry.host}/dockerhub"
        self.options = ["--name", NAME, "--registry", self.mirror, "--image", self.own]

    def kit(self, *words: str, code: int = 0, login: bool = True) -> str:
        config = self.folder / ("login" if login else "no-login")
        config.mkdir(exist_ok=True)
        auth = base64.b64encode(b"me:secret").decode()
        auths = {self.registry.host: {"auth": auth}} if login else {}
        (config / "config.json").write_text(json.dumps({"auths": auths}))
        plugins = Path.home() / ".docker/cli-plugins"
        if plugins.is_dir() and not (config / "cli-plugins").exists():
            (config / "cli-plugins").symlink_to(plugins)
        environ = os.environ | {"DOCKER_CONFIG": str(config), "PYTHONPATH": str(ROOT)}
        done = kit(*words, cwd=self.folder, env=environ, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def locked(self) -> dict[str, str]:
        return read_lock(self.folder / "ernie.lock").images


def hub_module() -> Any:
    spec = importlib.util.spec_from_file_location("rehearsal_hub", ROOT / "docker/rehearsal/hub.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["rehearsal_hub"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def world(registry: Registry, tmp_path: Path) -> Iterator[World]:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.safetensors").write_bytes(b"w" * 2000)
    hub = hub_module().Hub(("127.0.0.1", 0), {PLAN.model.hf_id: {"main": weights}})
    Thread(target=hub.serve_forever, args=(0.05,), daemon=True).start()
    folder = tmp_path / "stack"
    folder.mkdir()
    (folder / ".env").write_text(f"HF_ENDPOINT=http://127.0.0.1:{hub.server_port}\n")
    made = World(folder, registry, hub)
    registry.push("own/vllm-openai-cpu", "1", "first")
    registry.push(*f"dockerhub/{PLAN.bench_image}".split(":"), "client")
    made.kit("render", "cpu", *made.options, "-o", "compose.yml")
    try:
        yield made
    finally:
        subprocess.run(
            ["docker", "compose", "--profile", "*", "down", "--volumes", "--timeout", "1"],
            cwd=folder, capture_output=True, timeout=60,
        )  # fmt: skip
        hub.shutdown()
        hub.server_close()


def test_a_stack_is_locked_starts_by_digest_and_a_moved_tag_is_found(world: World) -> None:
    mirrored = f"{world.mirror}/{PLAN.bench_image}"
    assert f"{world.registry.host} refuses to tell of" in world.kit("lock", code=1, login=False)
    world.kit("lock")
    first = world.locked()
    assert set(first) == {world.own, mirrored}
    assert not [
        image for image in world.registry.engine.images.list() if world.registry.host in str(image.tags)
    ]
    world.kit("render", "cpu", *world.options, "-o", "compose.yml")
    text = (world.folder / "compose.yml").read_text()
    assert text.count(f"${{ENGINE_IMAGE:-{world.own}@{first[world.own]}}}") == 2
    assert f"/dockerhub}}/{PLAN.bench_image}@{first[mirrored]}" in text
    assert "ernie.lock holds: each image and the model" in world.kit("lock", "--check")

    world.registry.push("own/vllm-openai-cpu", "1", "second")
    moved = f"{world.own} moved: the registry has "
    assert moved in world.kit("lock", "--check", code=5)
    assert moved in " ".join(world.kit("check", "--online").split())
    # It holds no Python, so nothing comes up, and what was pulled is the first all the same.
    assert f"warning: {moved}" in world.kit("up", "--no-preflight", "--wait-timeout", "20", code=1)
    image = world.registry.engine.images.get(f"{world.own.rpartition(':')[0]}@{first[world.own]}")
    assert image.attrs["RepoDigests"] == [f"{world.own.rpartition(':')[0]}@{first[world.own]}"]

    said = world.kit("lock", "--upgrade")
    second = world.locked()
    assert second[world.own] != first[world.own]
    assert f"moved   {world.own} {short(first[world.own])} -> {short(second[world.own])}" in said
    assert second[mirrored] == first[mirrored]
    assert "ED163" in world.kit("check", "compose.yml")
    world.kit("render", "cpu", *world.options, "-o", "compose.yml")
    assert "ED163" not in world.kit("check", "compose.yml", "--online")


def test_the_mirror_moves_by_env_and_the_lock_stays(world: World) -> None:
    world.kit("lock")
    locked = world.locked()
    world.kit("render", "cpu", *world.options, "-o", "compose.yml")
    world.registry.push(*f"elsewhere/{PLAN.bench_image}".split(":"), "client")
    with (world.folder / ".env").open("a") as env:
        env.write(f"IMAGE_REGISTRY={world.registry.host}/elsewhere\n")
    said = world.kit("lock", "--check", code=5)
    # Docker dates what it imports, so the copy is another image.
    assert f"{world.registry.host}/elsewhere/{PLAN.bench_image} moved" in said
    assert world.locked() == locked
    config = subprocess.run(["docker", "compose", "--profile", "bench", "config", "--images"], cwd=world.folder,
                            capture_output=True, text=True, timeout=60)  # fmt: skip
    mirrored = f"{world.mirror}/{PLAN.bench_image}"
    assert f"{world.registry.host}/elsewhere/{PLAN.bench_image}@{locked[mirrored]}" in config.stdout.split()


@pytest.mark.parametrize(
    ("name", "said"), [("own/nothing:1", "has no "), ("own/vllm-openai-cpu:2", "has no ")]
)
def test_a_name_or_a_tag_that_the_registry_lacks_is_a_sentence(world: World, name: str, said: str) -> None:
    world.kit(
        "render",
        "cpu",
        "--image",
        f"{world.registry.host}/{name}",
        "--registry",
        world.mirror,
        "-o",
        "compose.yml",
        "--force",
    )
    assert f"{world.registry.host} {said}{world.registry.host}/{name}" in world.kit("lock", code=1)


def test_a_registry_that_is_down_is_a_sentence(world: World) -> None:
    world.kit(
        "render",
        "cpu",
        "--image",
        "127.0.0.1:9/own/vllm:1",
        "--registry",
        world.mirror,
        "-o",
        "compose.yml",
        "--force",
    )
    said = world.kit("lock", code=1)
    assert "127.0.0.1:9 does not answer for 127.0.0.1:9/own/vllm:1." in said
    assert "connection refused" in said
