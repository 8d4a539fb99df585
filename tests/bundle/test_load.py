"""A bundle made by a stand-in for Docker is loaded by another, in three shells, and is what `fetch` left."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, kit, planned
from container_scripts import loaded

from ernie_deploy.bundle import manifest, stacks

FAKE = Path(__file__).with_name("fake_docker.py")
MODEL, FLAT, COMMIT = "baidu/ERNIE-4.5-0.3B-PT", "baidu--ERNIE-4.5-0.3B-PT", "c" * 40
IMAGE = planned("cpu").image
TOKEN = "hf_" + "Zq9" * 11
BLOBS = {
    "config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 12_000, "sub/chat.jinja": b"x" * 2000,
}  # fmt: skip
# Where `sh` is dash, as on Debian, one of the two is enough.
SHELLS = list(
    {os.path.realpath(shutil.which(name) or name): name for name in ("dash", "sh", "busybox")}.values()
)


class Side(NamedTuple):
    """One of the two machines."""

    folder: Path
    env: dict[str, str]

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


def side(folder: Path, compose: str, tools: str = "") -> Side:
    """A machine whose `docker` is the stand-in; with `tools`, nothing else is on its PATH."""
    (folder / "bin").mkdir(parents=True)
    docker = folder / "bin/docker"
    state = f'PATH="{os.environ["PATH"]}" FAKE_DOCKER="{folder}" FAKE_COMPOSE="{compose}"'
    docker.write_text(f'#!/bin/sh\n{state} exec {sys.executable} -SE {FAKE} "$@"\n')
    docker.chmod(0o755)
    path = f"{folder}/bin:{tools or os.environ['PATH']}"
    return Side(folder, {"PATH": path, "HOME": str(folder), "PYTHONPATH": str(ROOT)})


def blob_name(data: bytes) -> str:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return git if len(data) < 1000 else hashlib.sha256(data).hexdigest()


def hub_cache(top: Path, model: str = MODEL, revision: str = "main") -> None:
    """What `fetch` leaves of a model, written by its own functions."""
    flat = model.replace("/", "--")
    fetch, storage = loaded("fetch"), top / f"hub/models--{flat}"
    snapshot = storage / "snapshots" / COMMIT
    for name, data in BLOBS.items():
        blob = storage / "blobs" / blob_name(data)
        for folder in (blob.parent, (snapshot / name).parent):
            folder.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    (storage / "blobs" / ("d" * 64)).write_bytes(b"of another revision")
    (storage / "refs" / revision).parent.mkdir(parents=True)
    (storage / "refs" / revision).write_text(COMMIT)
    (top / "ernie").mkdir()
    files = fetch.hashed(snapshot, {name: blob_name(data) for name, data in BLOBS.items()})
    stamp = {"repo": model, "revision": revision, "commit": COMMIT, "files": files}
    fetch.write_stamp(
        top / f"ernie/{flat}@{revision.replace('/', '-')}.json",
        stamp | {"folder": f"../hub/models--{flat}/snapshots/{COMMIT}"},
    )


@pytest.fixture(scope="module")
def here(compose: str, tmp_path_factory: pytest.TempPathFactory) -> Side:
    """A machine with a stack, a registry and a hub."""
    made = side(tmp_path_factory.mktemp("here"), compose)
    stack = made.folder / "stack"
    assert kit("render", "cpu", "-o", str(stack / "compose.yml")).returncode == 0
    (stack / "token").write_text(TOKEN)
    (stack / ".env").write_text(
        f"# mine\nHF_TOKEN_FILE=token\nMY_TOKEN={TOKEN}\nHTTPS_PROXY=http://me:pw-4711@proxy.example:3128\nBENCH_SEED=7\n"
        "HF_CACHE_DIR=\nexport HF_ENDPOINT='http://hub.example\n/second line'\n"
    )
    (made.folder / "registry.json").write_text(json.dumps({IMAGE: "sha256:" + "1" * 64}))
    hub_cache(made.folder / "hub")
    return made


def bundled(here: Side, folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return kit(
        "bundle",
        "-o",
        str(folder),
        "--stack",
        str(here.folder / "stack"),
        "--no-wheels",
        *options,
        env=here.env,
    )


@pytest.fixture(scope="module")
def bundle(here: Side, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "b"
    done = bundled(here, folder, "--split", "1M")
    assert done.returncode == 0, done.stderr
    assert "HF_TOKEN_FILE, MY_TOKEN, HTTPS_PROXY, HF_ENDPOINT" in done.stdout
    return folder


@pytest.fixture(params=SHELLS)
def there(request: pytest.FixtureRequest, compose: str, tmp_path: Path) -> tuple[Side, list[str]]:
    """A machine that has a shell of its kind, and for busybox no other program than busybox's."""
    shell = shutil.which(request.param)
    if not shell:
        pytest.skip(f"{request.param} is not installed")
    tools = ""
    if request.param == "busybox":
        (tmp_path / "tools").mkdir()
        for applet in subprocess.run([shell, "--list"], capture_output=True, text=True).stdout.split():
            (tmp_path / "tools" / applet).symlink_to(shell)
        tools = str(tmp_path / "tools")
    return side(tmp_path / "there", compose, tools), [shell, "sh"] if tools else [shell]


def load(
    there: tuple[Side, list[str]], bundle: Path, *words: str, **env: str
) -> "subprocess.CompletedProcess[str]":
    where, shell = there
    return subprocess.run([*shell, str(bundle / "load.sh"), *words], env=where.env | env, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, cwd=where.folder)  # fmt: skip


def test_no_secret_and_nothing_of_this_site_is_in_it(bundle: Path) -> None:
    for path in bundle.rglob("*"):
        if path.is_file():
            for secret in (TOKEN, "pw-4711", "hub.example", "second line"):
                assert secret.encode() not in path.read_bytes(), path
    env = (bundle / "stacks/ernie-03b/.env").read_text()
    assert "# mine\n" in env
    assert "\nBENCH_SEED=7\n" in env
    assert not list(bundle.rglob("d" * 64)), "a file of another revision"


def test_it_is_loaded_whole_and_twice(there: tuple[Side, list[str]], bundle: Path) -> None:
    done = load(there, bundle, "far")
    assert done.returncode == 0, done.stderr
    where = there[0]
    assert json.loads((where.folder / "images.json").read_text()) == {IMAGE: "sha256:" + "1" * 64}
    assert done.stdout.splitlines()[-1] == f"  cd {where.folder}/far/ernie-03b && docker compose up -d --wait"
    cache = where.volumes / "ernie-hf-cache"
    stamp = cache / f"ernie/{FLAT}@main.json"
    serve = loaded("serve")
    assert serve.differences(stamp, serve.read_stamp(stamp))[1:] == ([], "")
    assert (cache / "ernie/ERNIE-4.5-0.3B-PT/sub/chat.jinja").read_bytes() == BLOBS["sub/chat.jinja"]
    assert (cache / f"hub/models--{FLAT}/refs/main").read_text() == COMMIT
    assert not list(cache.rglob("*.part"))
    assert "com.docker.compose.volume=hf-cache" in (where.folder / "ernie-hf-cache.labels").read_text()
    loads = where.calls().count("load")
    again = load(there, bundle, "far")
    assert again.returncode == 0, again.stderr
    assert where.calls().count("load") == loads == 1
    assert "is here already" in again.stdout
    assert again.stdout.count(" has hub/") == len(BLOBS)


def test_the_hubs_own_library_finds_the_model(
    there: tuple[Side, list[str]], bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    assert load(there, bundle, "far").returncode == 0
    cache = there[0].volumes / "ernie-hf-cache/hub"
    assert (
        Path(hub.snapshot_download(MODEL, revision="main", cache_dir=cache, local_files_only=True)).name
        == COMMIT
    )


def test_a_flipped_byte_is_refused_and_named(
    there: tuple[Side, list[str]], bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "b"
    shutil.copytree(bundle, copy)
    flipped = next(copy.glob(f"weights/hub/models--{FLAT}/blobs/*.0001"))
    data = bytearray(flipped.read_bytes())
    data[1000] ^= 1
    flipped.write_bytes(data)
    (copy / "CONTENTS").unlink()
    done = load(there, copy, "far")
    assert done.returncode == 1
    name = flipped.relative_to(copy)
    assert {f"wrong    {name}", "missing  CONTENTS"} <= set(done.stderr.splitlines())
    assert there[0].calls() == [], "Docker is not asked for anything before all is verified"


def test_what_is_slipped_into_a_stack_is_refused(
    there: tuple[Side, list[str]], bundle: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "b"
    shutil.copytree(bundle, copy)
    (copy / "Thumbs.db").write_text("harmless")
    assert load(there, copy, "--verify").returncode == 0
    (copy / "stacks/ernie-03b/compose.override.yml").write_text("services: {}\n")
    done = load(there, copy, "far")
    assert done.returncode == 1
    assert "extra    stacks/ernie-03b/compose.override.yml" in done.stderr
    (copy / "stacks/ernie-03b/compose.override.yml").unlink()
    (copy / "images/link").symlink_to("/etc/passwd")
    assert "is a link or a device" in load(there, copy, "far").stderr
    assert there[0].calls() == []


def test_a_stack_of_the_same_name_stays(there: tuple[Side, list[str]], bundle: Path) -> None:
    other = there[0].folder / "far/ernie-03b"
    other.mkdir(parents=True)
    (other / "compose.yml").write_text("services: {}\n")
    done = load(there, bundle, "far")
    assert done.returncode == 1
    assert "name another folder" in done.stderr
    assert (other / "compose.yml").read_text() == "services: {}\n"


def test_weights_go_where_the_site_has_them(
    there: tuple[Side, list[str]], bundle: Path, tmp_path: Path
) -> None:
    done = load(there, bundle, "far", HF_CACHE_DIR=str(tmp_path / "disk"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"disk/hub/models--{FLAT}/refs/main").exists()
    assert not (there[0].volumes / "ernie-hf-cache").exists()
    assert f"write HF_CACHE_DIR={tmp_path}/disk to .env" in done.stdout
    assert "no absolute path" in load(there, bundle, "far", HF_CACHE_DIR="a/disk").stderr


def test_a_second_run_makes_nothing_again(here: Side, bundle: Path) -> None:
    before = {path: path.stat().st_ino for path in bundle.rglob("*") if path.is_file()}
    saves = sum(call.startswith("save") for call in here.calls())
    done = bundled(here, bundle, "--split", "1M", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == []
    assert {path: path.stat().st_ino for path in bundle.rglob("*") if path.is_file()} == before
    assert sum(call.startswith("save") for call in here.calls()) == saves == 1


def test_the_dry_run_prints_commands_that_a_shell_runs(here: Side, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    done = bundled(here, folder, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not folder.exists()
    (folder / "images").mkdir(parents=True)
    first = [line for line in done.stdout.splitlines() if "image inspect" in line or " save " in line]
    ran = subprocess.run(["sh", "-ec", "\n".join(first)], env=here.env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (folder / f"images/{IMAGE.replace('/', '+').replace(':', '@')}.tar").stat().st_size == 1000


def test_a_secret_in_a_compose_file_is_refused(here: Side, tmp_path: Path) -> None:
    stack = tmp_path / "stack"
    shutil.copytree(here.folder / "stack", stack)
    (stack / "compose.override.yml").write_text(
        f"services: {{serve: {{environment: {{HF_TOKEN: {TOKEN}}}}}}}\n"
    )
    done = kit("bundle", "-o", str(tmp_path / "b"), "--stack", str(stack), "--no-wheels", env=here.env)
    assert done.returncode == 4
    assert "compose.override.yml" in done.stderr
    assert TOKEN not in done.stderr
    assert [path.name for path in (tmp_path / "b").iterdir()] == [".ernie-bundle.jsonl"]


def test_damaged_weights_do_not_get_into_a_bundle(here: Side, compose: str, tmp_path: Path) -> None:
    other = side(tmp_path / "other", compose)
    shutil.copytree(here.folder / "hub", other.volumes / "ernie-hf-cache", symlinks=True)
    shutil.copy(here.folder / "registry.json", other.folder)
    shutil.copytree(here.folder / "stack", other.folder / "stack")
    blob = other.volumes / f"ernie-hf-cache/hub/models--{FLAT}/blobs" / blob_name(BLOBS["model.safetensors"])
    blob.write_bytes(BLOBS["model.safetensors"][:-1] + b"!")
    done = bundled(other, tmp_path / "b")
    assert done.returncode == 1
    assert f"{blob.name} has a wrong hash" in done.stderr
    assert not (tmp_path / "b" / manifest.SUMS).exists()
    blob.write_bytes(BLOBS["model.safetensors"])
    assert bundled(other, tmp_path / "b").returncode == 0


def test_an_image_by_digest_has_a_name_on_the_other_side(
    there: tuple[Side, list[str]], here: Side, compose: str, tmp_path: Path
) -> None:
    other, digest = side(tmp_path / "other", compose), f"{IMAGE}@sha256:{'5' * 64}"
    shutil.copytree(here.folder / "hub", other.volumes / "ernie-hf-cache", symlinks=True)
    shutil.copytree(here.folder / "stack", other.folder / "stack")
    (other.folder / "registry.json").write_text(
        json.dumps({digest: "sha256:" + "2" * 64, IMAGE: "sha256:" + "3" * 64})
    )
    file = other.folder / "stack/compose.yml"
    file.write_text(file.read_text().replace(f'"{IMAGE}"', f'"{digest}"'))
    done = bundled(other, tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert load(there, tmp_path / "b", "far").returncode == 0
    assert json.loads((there[0].folder / "images.json").read_text())[IMAGE] == "sha256:" + "2" * 64
    stack = there[0].folder / "far/ernie-03b"
    resolved = subprocess.run(["docker", "compose", "--profile", "*", "config", "--format", "json"], cwd=stack,
                              env=there[0].env | {"PATH": f"{there[0].folder}/bin:{os.environ['PATH']}"},
                              capture_output=True, text=True)  # fmt: skip
    services = json.loads(resolved.stdout)["services"]
    assert {(service["image"], service["pull_policy"]) for service in services.values()} == {(IMAGE, "never")}


def prepared(compose: str, top: Path, *words: str, model: str = MODEL, revision: str = "main") -> Side:
    """A machine whose stack is rendered with these words, whose registry has all, and whose volumes are filled."""
    made = side(top, compose)
    file = made.folder / "stack/compose.yml"
    assert kit("render", *words, "-o", str(file)).returncode == 0
    named = re.findall(r'image: "([^"]+)"', file.read_text())
    (made.folder / "registry.json").write_text(json.dumps(dict.fromkeys(named, "sha256:" + "4" * 64)))
    hub_cache(made.volumes / "ernie-hf-cache", model, revision)
    return made


def test_packages_and_an_owner_come_along(
    there: tuple[Side, list[str]], compose: str, tmp_path: Path
) -> None:
    plan = planned("h100", model="vl-28b")
    here = prepared(
        compose,
        tmp_path / "here",
        "h100",
        "--model",
        "vl-28b",
        model=plan.model.hf_id,
        revision=plan.revision,
    )
    file, archives = here.folder / "stack/compose.yml", here.volumes / "ernie-packages/archives"
    archives.mkdir(parents=True)
    for package in plan.packages:
        name, _, sha256 = package.requirement.partition("#sha256=")
        (archives / name).write_bytes(name.encode())
        file.write_text(file.read_text().replace(sha256, hashlib.sha256(name.encode()).hexdigest()))
    done = bundled(here, tmp_path / "b")
    assert done.returncode == 0, done.stderr
    assert not any("run --rm --no-TTY fetch" in call for call in here.calls()), "all was there"
    loading = load(there, tmp_path / "b", "far")
    assert loading.returncode == 0, loading.stderr
    brought = there[0].volumes / "ernie-packages/archives"
    assert {path.name: path.read_bytes() for path in brought.iterdir()} == {
        path.name: path.read_bytes() for path in archives.iterdir()
    }
    flat = plan.model.hf_id.replace("/", "--")
    cache = there[0].volumes / "ernie-hf-cache"
    assert (cache / f"hub/models--{flat}/refs/{plan.revision}").read_text() == COMMIT
    if os.geteuid() == 0:
        owners = {path.lstat().st_uid for path in (cache / f"hub/models--{flat}").rglob("*")}
        assert owners == {int((plan.user or "0:0").split(":")[0])}


def test_a_locked_commit_and_its_lock_come_along(
    there: tuple[Side, list[str]], compose: str, tmp_path: Path
) -> None:
    here = prepared(compose, tmp_path / "here", "cpu", revision=COMMIT)
    file = here.folder / "stack/compose.yml"
    text = (
        file.read_text()
        .replace("--revision=main", f"--revision={COMMIT}")
        .replace("@main.json", f"@{COMMIT}.json")
    )
    file.write_text(text)
    (here.folder / "stack/ernie.lock").write_text("format = 1\n")
    assert bundled(here, tmp_path / "b").returncode == 0
    assert load(there, tmp_path / "b", "far").returncode == 0
    cache = there[0].volumes / "ernie-hf-cache"
    assert (cache / f"hub/models--{FLAT}/snapshots/{COMMIT}/config.json").read_bytes() == BLOBS["config.json"]
    assert not (cache / f"hub/models--{FLAT}/refs").exists()
    assert (there[0].folder / "far/ernie-03b/ernie.lock").read_text() == "format = 1\n"


def test_what_no_bundle_can_bring_is_said(compose: str, tmp_path: Path) -> None:
    here = prepared(compose, tmp_path / "here", "cpu", "--api-key-file", "--weights", "/data/w")
    key = here.folder / "stack/api-key.yaml"
    key.write_text("api-key: north-key-81723\n")
    done = bundled(here, tmp_path / "b")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "b/CONTENTS").read_text()
    assert "note\ternie-03b serves /data/w: copy that folder to the same place\n" in table
    assert "secret\ternie-03b\tvllm_config\tapi-key.yaml\n" in table
    assert not list((tmp_path / "b").rglob("api-key*"))


def test_weights_beside_the_compose_file_are_refused(compose: str, tmp_path: Path) -> None:
    here = prepared(compose, tmp_path / "here", "cpu")
    file = here.folder / "stack/compose.yml"
    file.write_text(file.read_text().replace("${HF_CACHE_DIR:-hf-cache}", "./hf"))
    shutil.copytree(here.volumes / "ernie-hf-cache", here.folder / "stack/hf", symlinks=True)
    done = bundled(here, tmp_path / "b")
    assert done.returncode == 2
    assert "ernie-03b keeps /cache/hf in ./hf" in done.stderr


@pytest.mark.parametrize("size", ["4", "0G", "10K", "4GiB", "-1M", "4g"])
def test_a_size_that_is_none_is_usage(size: str) -> None:
    done = kit("bundle", "-o", "/nonexistent/b", "--split", size)
    assert done.returncode == 2
    assert "such as 4G" in done.stderr


def test_load_sh_pleases_shellcheck() -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        ["shellcheck", "--shell=sh", ROOT / "docker/bundle/load.sh"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_keys_and_certificate_of_a_gateway_stay_here(tmp_path: Path) -> None:
    """They are of this site: the other one makes its own, and nobody carries a private key by bundle."""
    for name in ("gateway/keys.map", "gateway/tls/tls.key", "scripts/haproxy.cfg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    mounts = [
        {"type": "bind", "source": str(tmp_path / "gateway"), "target": "/gateway", "read_only": True},
        {"type": "bind", "source": str(tmp_path / "scripts"), "target": "/scripts/1", "read_only": True},
    ]
    taken = stacks._mounted({"services": {"gateway": {"volumes": mounts}}}, tmp_path)
    assert [path.name for path in taken] == ["haproxy.cfg"]
