"""The script of `fetch` and `serve` as its containers run it, against a fake hub."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from container_scripts import SCRIPTS, copied, loaded
from fake_hub import FakeHub

from ernie_deploy.stack import containers

MODEL = "baidu/ERNIE-tiny"
TOKEN = "hf_" + "secret0" * 5
NOWHERE = "http://127.0.0.1:9"
LFS = "model.safetensors"
OWNER = "2000:0" if os.geteuid() == 0 else f"{os.geteuid()}:{os.getegid()}"
# What the compose file leaves to root.
THREE_CAPABILITIES = ("setpriv", "--bounding-set", "-all,+chown,+dac_override,+fowner")
NO_CAPABILITIES = ("setpriv", "--bounding-set", "-all")

needs_setpriv = pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to the serving user")


def can_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


def safetensors(content_bytes: int) -> bytes:
    header = json.dumps(
        {"w": {"dtype": "U8", "shape": [content_bytes], "data_offsets": [0, content_bytes]}}
    ).encode()
    return struct.pack("<Q", len(header)) + header + os.urandom(content_bytes)


def fill(folder: Path) -> Path:
    """A small checkpoint, with files beside it that the engine never reads."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["Ernie4_5_MoeForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / LFS).write_bytes(safetensors(200_000))
    for name in ("README.md", "pytorch_model.bin", "model.gguf", ".gitattributes"):
        (folder / name).write_text("unwanted")
    return folder


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Stack(NamedTuple):
    """The volumes of one stack and the hub that it sees."""

    folder: Path
    endpoint: str = NOWHERE

    @property
    def cache(self) -> Path:
        return self.folder / "hf"

    @property
    def engine(self) -> Path:
        return self.folder / "engine"

    @property
    def state(self) -> Path:
        return self.folder / "stack"

    @property
    def stamp(self) -> Path:
        return self.cache / "ernie" / "baidu--ERNIE-tiny@main.json"

    def file(self, name: str = LFS) -> Path:
        return self.cache / "ernie" / "ERNIE-tiny" / name

    def run(self, script: str, *arguments: str, before: tuple[str, ...] = (),
            constants: dict[str, object] | None = None, **environment: str) -> Done:  # fmt: skip
        (self.folder / "token").touch(0o600)
        environment = {
            "PATH": os.environ["PATH"],
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN_PATH": str(self.folder / "token"),
            "HTTPS_PROXY": "",
            "SSL_CERT_FILE": "/dev/null",
        } | environment
        places = {"CACHE": self.cache, "ENGINE": self.engine, "STACK": self.state}
        places = {name: f"Path({str(path)!r})" for name, path in places.items()}  # type: ignore[misc]
        scripts = copied(Path(tempfile.mkdtemp(dir=self.folder)), **places, **(constants or {}))
        command = [*before, sys.executable, "-B", str(scripts / script), *arguments]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert TOKEN not in done.stdout + done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def fetch(self, *arguments: str, **options: object) -> Done:
        script = "own_folder.py" if "--weights" in arguments else "fetch.py"
        at = arguments.index("--before") if "--before" in arguments else len(arguments)
        given = ["--model", MODEL, "--owner", OWNER, "--revision", "main", *arguments[:at]]
        words = [*map("=".join, zip(given[::2], given[1::2], strict=True)), *arguments[at:]]
        return self.run("with_code.py" if "--before" in arguments else script, *words, **options)  # type: ignore[arg-type]

    def serve(self, *, stamp: Path | None = None, back_off_s: float = 60) -> Done:
        words = [str(stamp or self.stamp), "echo", "vllm", "serve", "--port=1"]
        return self.run("serve.py", *words, constants={"BACK_OFF_S": back_off_s})


def patched(folder: Path, name: str, code: str) -> str:
    """A folder for PYTHONPATH that changes the interpreter of the script."""
    (folder / "patch").mkdir()
    (folder / "patch" / f"{name}.py").write_text(code)
    return str(folder / "patch")


def rewrite(path: Path, content: bytes, mtime_step_ns: int = 1) -> None:
    mtime_ns = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(mtime_ns + mtime_step_ns, mtime_ns + mtime_step_ns))


def flip(path: Path) -> None:
    """Change one byte: same size, same inode, another mtime."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    rewrite(path, bytes(content))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    fill(tmp_path / "hub" / MODEL)
    with FakeHub(tmp_path / "hub") as fake:
        threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True).start()
        yield fake
        fake.shutdown()


@pytest.fixture
def stack(tmp_path: Path, hub: FakeHub) -> Stack:
    return Stack(tmp_path, hub.url)


@pytest.fixture(scope="module")
def downloaded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One download for all tests that begin after it."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    folder = tmp_path_factory.mktemp("downloaded")
    fill(folder / "hub" / MODEL)
    with FakeHub(folder / "hub") as fake:
        threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True).start()
        assert Stack(folder, fake.url).fetch().code == 0
        fake.shutdown()
    return folder


@pytest.fixture
def offline(tmp_path: Path, downloaded: Path) -> Stack:
    """A stack after its first fetch, with the hub out of reach."""
    shutil.copytree(downloaded / "hf", tmp_path / "hf", symlinks=True)
    stack = Stack(tmp_path)
    assert stack.fetch() == (0, f"fetch: 3 files of {MODEL} are as verified before\n", "")
    return stack


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_a_script_can_be_inlined(script: Path) -> None:
    text = script.read_text()
    assert text.isascii()
    assert not set("$\t") & set(text)


@needs_root
@needs_setpriv
def test_first_fetch(stack: Stack, hub: FakeHub) -> None:
    """With a token file of somebody else, a connection that breaks off, and what a killed download left."""
    (stack.folder / "hub" / MODEL / LFS).write_bytes(safetensors(12 << 20))
    hub.token, hub.breaks_at = TOKEN, 11 << 20
    (stack.folder / "token").write_text(TOKEN + "\n")
    (stack.folder / "token").chmod(0o600)
    os.chown(stack.folder / "token", 1000, 1000)
    blobs = stack.cache / "hub" / "models--baidu--ERNIE-tiny" / "blobs"
    blobs.mkdir(parents=True)
    partial = blobs / "abc.01234567.incomplete"
    partial.touch()
    os.utime(partial, (0, 0))

    done = stack.fetch(constants={"PROGRESS_S": 0.05}, before=THREE_CAPABILITIES)

    assert (done.code, done.err) == (0, "")
    first, *middle, last = done.out.splitlines()
    assert first == f"fetch: 0.0 GB of {MODEL} at main to download"
    assert middle
    assert all(
        re.fullmatch(r"(fetch|verify): 0\.\d of 0\.\d GB, \d+ MB/s(, about \d+ s left)?", line)
        for line in middle
    )
    assert last == f"fetch: 3 files of {MODEL} verified"
    assert not partial.exists()
    assert any(line.endswith(f"{LFS} bytes={10 << 20}-") for line in hub.log)
    assert not any("README" in line or ".bin" in line or "gguf" in line for line in hub.log)

    stamp = json.loads(stack.stamp.read_text())
    assert (stamp["repo"], stamp["revision"]) == (MODEL, "main")
    assert sorted(stamp["files"]) == ["config.json", LFS, "tokenizer.json"]
    info = stack.file().stat()
    assert stamp["files"][LFS] == {
        "size": info.st_size,
        "mtime_ns": info.st_mtime_ns,
        "inode": info.st_ino,
        "ctime_ns": info.st_ctime_ns,
        "hash": stack.file().resolve().name,
    }
    link = (stack.cache / "ernie" / "ERNIE-tiny").readlink()
    assert str(link) == f"../hub/models--baidu--ERNIE-tiny/snapshots/{stamp['commit']}"


@needs_root
def test_owner_and_mode(downloaded: Path) -> None:
    everything = [path for name in ("hf", "engine", "stack") for path in (downloaded / name).rglob("*")]
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in everything} == {(2000, 0)}
    for name in ("hf", "engine", "hf/hub", "hf/ernie", "stack"):
        assert (downloaded / name).stat().st_mode & 0o7777 == 0o2775
    blobs = (downloaded / "hf/hub/models--baidu--ERNIE-tiny/blobs").iterdir()
    assert {path.stat().st_mode & 0o777 for path in blobs} == {0o664}


@needs_root
def test_folder_of_somebody_else_stays_theirs(stack: Stack) -> None:
    theirs = [stack.cache, stack.cache / "theirs", stack.cache / "hub/models--baidu--ERNIE-tiny/theirs"]
    for path in theirs:
        path.mkdir(parents=True)
        os.chown(path, 1000, 1000)
    assert stack.fetch().code == 0
    assert [path.stat().st_uid for path in theirs] == [1000] * 3


@needs_root
def test_closed_folder_is_a_sentence(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    stack.engine.mkdir(mode=0o755)
    os.chown(stack.engine, 1000, 1000)
    why = f"{stack.engine} of user 1000 is closed to the serving user 2000:0"
    assert stack.fetch() == (25, "", f"fetch: {why}\n")


def test_good_stamp_needs_neither_hub_nor_library(offline: Stack) -> None:
    blocked = patched(offline.folder, "huggingface_hub", "raise SystemExit('imported')")
    (offline.folder / "patch" / "_socket.py").write_text("raise SystemExit('a socket')")
    started = time.monotonic()
    done = offline.fetch(PYTHONPATH=blocked)
    assert done == (0, f"fetch: 3 files of {MODEL} are as verified before\n", "")
    assert time.monotonic() - started < 20


def test_touched_file_is_hashed_and_stamped_anew(offline: Stack) -> None:
    rewrite(offline.file(), offline.file().read_bytes())
    assert offline.fetch().code == 0
    stamped = json.loads(offline.stamp.read_text())["files"][LFS]["mtime_ns"]
    assert stamped == offline.file().stat().st_mtime_ns


def test_damaged_file_is_downloaded_again(stack: Stack, hub: FakeHub) -> None:
    stack.fetch()
    flip(stack.file())
    hub.log.clear()
    done = stack.fetch()
    assert done.code == 0
    assert done.out.splitlines()[0] == f"fetch: {LFS} has the wrong hash: deleted, to be downloaded again"
    assert [line for line in hub.log if line.startswith("GET /baidu")] == [
        line for line in hub.log if line.startswith("GET") and line.endswith(LFS)
    ]
    assert stack.serve().code == 0


def test_truncated_file_without_hub_is_deleted(offline: Stack) -> None:
    os.truncate(offline.file(), 10)
    done = offline.fetch()
    assert done.code == 22
    assert done.out == f"fetch: {LFS} has 10 bytes instead of 200078: deleted, to be downloaded again\n"
    assert not offline.file().exists()


def test_complete_snapshot_does_without_the_hub(offline: Stack) -> None:
    offline.stamp.unlink()
    done = offline.fetch()
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "fetch: the hub is out of reach; going on with the complete snapshot in the cache",
        f"fetch: 3 files of {MODEL} verified",
    ]


def test_update_by_another_program_is_noticed(offline: Stack) -> None:
    (offline.cache / "hub/models--baidu--ERNIE-tiny/refs/main").write_text("0" * 40)
    assert offline.fetch().out == "fetch: main is another commit by now\n"
    assert "main is another commit by now" in offline.serve().err


def test_unreachable_hub(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    done = Stack(tmp_path).fetch()
    assert (done.code, done.out, done.err.count("\n")) == (22, "", 1)
    assert done.err.startswith("fetch: the hub is out of reach: ConnectError: ")


def test_a_hub_whose_certificate_nobody_knows_is_out_of_reach(stack: Stack, hub: FakeHub) -> None:
    """OpenSSL's error has the number of EPERM, which would be a folder that is closed."""
    key, bundle = stack.folder / "key.pem", stack.folder / "ca.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(bundle)]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, key)
    hub.socket = context.wrap_socket(hub.socket, server_side=True)
    secure = Stack(stack.folder, f"https://localhost:{hub.server_port}")
    done = secure.fetch()
    assert (done.code, "certificate verify failed" in done.err) == (22, True), done
    assert secure.fetch(SSL_CERT_FILE=str(bundle)).code == 0
    secure.stamp.unlink()
    again = secure.fetch()
    assert (again.code, "going on with the complete snapshot" in again.out) == (0, True), again


@pytest.mark.parametrize(
    ("raised", "code"),
    [("RuntimeError('IO Error: No space left on device (os error 28)')", 23),
     ("httpx.ConnectError('x') from PermissionError(1, 'Operation not permitted')", 22),
     ("PermissionError(13, 'Permission denied', '/cache/hf/x')", 25)],
    ids=["a disk that Rust finds full", "a socket that a firewall closes", "a closed folder"],
)  # fmt: skip
def test_a_failure_is_known_by_what_it_says(raised: str, code: int, stack: Stack) -> None:
    text = f"import httpx, huggingface_hub\ndef fail(*_, **__):\n    raise {raised}\nhuggingface_hub.hf_hub_download = fail\n"
    done = stack.fetch(PYTHONPATH=patched(stack.folder, "sitecustomize", text))
    assert (done.code, done.err.count("\n")) == (code, 1), done


def test_two_models_fetched_at_once_get_a_name_each(stack: Stack, hub: FakeHub) -> None:
    fill(hub.folder / f"{MODEL}-2")
    code = """
import os, pathlib, time
link = pathlib.Path.symlink_to
def meet(path, *words):
    link(path, *words)
    if path.parent.name == "ernie":
        path.with_name(f"met-{os.getpid()}").touch()
        end = time.monotonic() + 60
        while len(list(path.parent.glob("met-*"))) < 2 and time.monotonic() < end:
            time.sleep(0.05)
pathlib.Path.symlink_to = meet
"""
    path = patched(stack.folder, "sitecustomize", code)
    with ThreadPoolExecutor() as pool:
        every = [
            pool.submit(stack.fetch, "--model", model, PYTHONPATH=path) for model in (MODEL, f"{MODEL}-2")
        ]
    assert [one.result().code for one in every] == [0, 0], [one.result() for one in every]
    for name in ("ERNIE-tiny", "ERNIE-tiny-2"):
        assert f"models--baidu--{name}/" in str((stack.cache / "ernie" / name).readlink())


@pytest.mark.parametrize("given", [True, False])
def test_refused_token(stack: Stack, hub: FakeHub, *, given: bool) -> None:
    hub.token = "another"
    (stack.folder / "token").write_text(TOKEN if given else "")
    done = stack.fetch()
    why = "fetch: the hub refuses the model or the token: HTTPStatusError: Client error '401 Unauthorized' "
    assert (done.code, done.out, done.err.count("\n")) == (20, "", 1)
    assert done.err.startswith(why)


def test_unknown_revision_and_no_token_in_a_sentence(stack: Stack) -> None:
    done = stack.fetch("--revision", TOKEN)
    assert (done.code, done.out, done.err.count("\n")) == (21, "", 1)
    assert done.err.startswith("fetch: the hub has no such model or revision: ")
    assert "/revision/***" in done.err


def test_other_revision_beside_main(stack: Stack) -> None:
    fill(stack.folder / "hub" / f"{MODEL}@refs-pr-17")
    assert stack.fetch("--revision", "refs/pr/17").code == 0
    assert (stack.cache / "ernie" / "baidu--ERNIE-tiny@refs-pr-17.json").exists()
    assert (stack.cache / "hub/models--baidu--ERNIE-tiny/refs/refs/pr/17").exists()


def test_small_disk_is_refused_before_the_first_byte(stack: Stack, hub: FakeHub) -> None:
    code = "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(0, 0, 200_200)"
    done = stack.fetch(PYTHONPATH=patched(stack.folder, "sitecustomize", code))
    why = f"the download needs 0.0 GB and {stack.cache} has 0.0 GB free"
    assert done == (23, "", f"fetch: {why}\n")
    assert not any("resolve" in line for line in hub.log)


@needs_root
@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_full_disk(stack: Stack) -> None:
    code = "import shutil; shutil.disk_usage = lambda _: shutil._ntuple_diskusage(0, 0, 10**9)"
    stack.cache.mkdir()
    small = f'mount -t tmpfs -o size=100k none {stack.cache} && exec "$@"'
    done = stack.fetch(
        before=("unshare", "--mount", "sh", "-c", small, "sh"),
        PYTHONPATH=patched(stack.folder, "sitecustomize", code),
    )
    assert (done.code, done.err) == (
        23,
        "fetch: the disk is full: OSError: [Errno 28] No space left on device\n",
    )


@needs_root
@pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")
def test_read_only_cache(stack: Stack) -> None:
    stack.cache.mkdir()
    read_only = f'mount -t tmpfs -o ro none {stack.cache} && exec "$@"'
    done = stack.fetch(before=("unshare", "--mount", "sh", "-c", read_only, "sh"))
    why = f"a folder is closed: OSError: [Errno 30] Read-only file system: '{stack.cache}'"
    assert done == (25, "", f"fetch: {why}\n")


def test_wrong_content_is_deleted_and_downloaded_by_the_next_start(stack: Stack, hub: FakeHub) -> None:
    hub.lies = True
    done = stack.fetch()
    assert (done.code, done.err) == (24, f"fetch: {LFS} arrived with a wrong hash and was deleted\n")
    hub.lies = False
    assert stack.fetch().code == 0


# --- a folder of the user's ---


@pytest.fixture
def local(tmp_path: Path) -> tuple[Stack, Path]:
    return Stack(tmp_path), fill(tmp_path / "weights")


ARGUMENTS = ("--architecture", "Ernie4_5_MoeForCausalLM", "--weights")


def test_folder_is_stamped_without_network(local: tuple[Stack, Path]) -> None:
    stack, folder = local
    blocked = patched(stack.folder, "huggingface_hub", "raise SystemExit('imported')")
    done = stack.fetch(*ARGUMENTS, str(folder), PYTHONPATH=blocked)
    assert done == (0, f"fetch: 3 files in {folder} stamped, 3 of them new or changed\n", "")
    assert not stack.cache.exists()
    assert stack.serve(stamp=stack.state / "weights.json") == (0, "vllm serve --port=1\n", "")


@needs_root
@needs_setpriv
def test_a_file_that_even_fetch_cannot_read_is_a_sentence(local: tuple[Stack, Path]) -> None:
    """As on a network's file system, where root is nobody."""
    stack, folder = local
    os.chown(folder / LFS, 1000, 1000)
    (folder / LFS).chmod(0o600)
    done = stack.fetch(*ARGUMENTS, str(folder), before=("setpriv", "--bounding-set", "-all,+chown,+fowner"))
    assert (done.code, done.err.count("\n")) == (25, 1), done
    assert done.err.startswith("fetch: a folder is closed: PermissionError: ")


def test_changed_folder_is_refused_by_serve_and_trusted_by_fetch(local: tuple[Stack, Path]) -> None:
    stack, folder = local
    stack.fetch(*ARGUMENTS, str(folder))
    flip(folder / LFS)
    assert stack.serve(stamp=stack.state / "weights.json").code == 24
    assert "3 files" in stack.fetch(*ARGUMENTS, str(folder)).out
    assert stack.serve(stamp=stack.state / "weights.json").code == 0


def test_stacks_on_one_engine_volume_serve_folders_of_their_own(tmp_path: Path) -> None:
    mounted, stacks = tmp_path / "weights", [Stack(tmp_path / "one"), Stack(tmp_path / "other")]
    (tmp_path / "engine").mkdir()
    for stack in stacks:
        fill(stack.folder / "weights")
        stack.engine.symlink_to(tmp_path / "engine")

    def mount(stack: Stack) -> None:
        """Each container sees its own folder at the same path."""
        mounted.unlink(missing_ok=True)
        mounted.symlink_to(stack.folder / "weights")

    for stack in stacks:
        mount(stack)
        assert stack.fetch(*ARGUMENTS, str(mounted)).code == 0
    for stack in stacks:
        mount(stack)
        # As the restart policy has it: without a fetch.
        assert stack.serve(stamp=stack.state / "weights.json").code == 0


def break_architecture(folder: Path) -> str:
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    return "holds LlamaForCausalLM instead of Ernie4_5_MoeForCausalLM"


def break_config(folder: Path) -> str:
    (folder / "config.json").unlink()
    return "has no config.json that names an architecture, or a broken index"


def break_index(folder: Path) -> str:
    weight_map = {"a": LFS, "b": "model-2.safetensors"}
    (folder / f"{LFS}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return "lacks model-2.safetensors"


def break_shard(folder: Path) -> str:
    os.truncate(folder / LFS, 1000)
    return f"has a truncated or damaged {LFS}"


def break_header(folder: Path) -> str:
    (folder / LFS).write_bytes(b"\xff" * 1000)
    return f"has a truncated or damaged {LFS}"


def lose_shards(folder: Path) -> str:
    (folder / LFS).unlink()
    return "lacks *.safetensors"


NO_CONFIG = "has no config.json that names an architecture, or a broken index"


def nest_config(folder: Path) -> str:
    (folder / "config.json").write_text("[" * 100_000)
    return NO_CONFIG


def mix_index(folder: Path) -> str:
    (folder / f"{LFS}.index.json").write_text('{"weight_map": {"a": 1, "b": "x", "c": null}}')
    return NO_CONFIG


def list_index(folder: Path) -> str:
    (folder / f"{LFS}.index.json").write_text('{"weight_map": ["x"]}')
    return NO_CONFIG


def odd_offsets(folder: Path) -> str:
    header = b'{"a": {"data_offsets": [0, "x"]}, "b": {"data_offsets": [0, 1]}}'
    (folder / LFS).write_bytes(struct.pack("<Q", len(header)) + header)
    return f"has a truncated or damaged {LFS}"


def nest_header(folder: Path) -> str:
    (folder / LFS).write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000)
    return f"has a truncated or damaged {LFS}"


def forge_log_lines_by_architecture(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"architectures": ["A\nnode7: NCCL WARN\x1b[2J\u2028x"]}))
    return "holds A?node7: NCCL WARN?[2J?x instead of Ernie4_5_MoeForCausalLM"


def forge_log_lines_by_file(folder: Path) -> str:
    (folder / "a\nserve: engine is healthy\r.safetensors").touch()
    return "has a truncated or damaged a?serve: engine is healthy?.safetensors"


@pytest.mark.parametrize(
    "damage",
    [break_architecture, break_config, break_index, break_shard, break_header, lose_shards, nest_config, mix_index,
     list_index, odd_offsets, nest_header, forge_log_lines_by_architecture, forge_log_lines_by_file],
)  # fmt: skip
def test_unfit_folder_is_a_sentence(local: tuple[Stack, Path], damage: object) -> None:
    stack, folder = local
    why = damage(folder)  # type: ignore[operator]
    assert stack.fetch(*ARGUMENTS, str(folder)) == (26, "", f"fetch: {folder} {why}\n")


# --- serve ---


def test_serve_becomes_the_engine_at_once(offline: Stack) -> None:
    started = time.monotonic()
    assert offline.serve() == (0, "vllm serve --port=1\n", "")
    assert time.monotonic() - started < 20


def test_serve_refuses_without_stamp(offline: Stack) -> None:
    offline.stamp.unlink()
    why = f"{offline.stamp} is missing, so nobody verified the weights"
    assert offline.serve() == (27, "", f"serve: {why}\n")


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip, "has the wrong hash"),
        (lambda path: os.truncate(path, 10), "has 10 bytes instead of 200078"),
        (lambda path: path.unlink(), "is missing"),
    ],
)
def test_serve_refuses_what_changed_between_two_starts(offline: Stack, damage: object, what: str) -> None:
    assert offline.serve().code == 0
    damage(offline.file().resolve())  # type: ignore[operator]
    why = f"{LFS} {what}, so these are not the verified weights"
    assert offline.serve() == (24, "", f"serve: {why}\n")


@needs_root
@needs_setpriv
def test_serve_refuses_what_its_user_cannot_read(offline: Stack) -> None:
    offline.file().chmod(0)
    done = offline.run("serve.py", str(offline.stamp), "echo", before=NO_CAPABILITIES)
    assert done.code == 24
    assert f"serve: {LFS} is not readable for user 0, so" in done.err


def test_serve_accepts_a_touched_file(offline: Stack) -> None:
    rewrite(offline.file(), offline.file().read_bytes())
    assert offline.serve().code == 0


def test_fourth_start_waits_unless_one_became_healthy(offline: Stack) -> None:
    starts = offline.state / f"starts-{os.uname().nodename}"
    assert [offline.serve().out for _ in range(3)] == ["vllm serve --port=1\n"] * 3
    count, first = starts.read_text().split()
    assert count == "3"
    assert abs(datetime.fromisoformat(first).timestamp() - time.time()) < 60
    started = time.monotonic()
    line, answer = offline.serve(back_off_s=0.5).out.splitlines()
    assert time.monotonic() - started > 0.5
    # By this line the kit finds the log of the starts that failed.
    assert (match := containers.WAITS.match(f"{line}\n"))
    assert match[1] == first
    assert line == (
        f"serve: 3 starts in a row never became healthy, the first of them at {first}, "
        "for the reason in the log above: waiting 0 s"
    )
    assert answer == "vllm serve --port=1"
    starts.unlink()
    assert offline.serve().out == "vllm serve --port=1\n"


def test_a_start_that_waits_goes_on_when_fetch_clears_the_counts(offline: Stack) -> None:
    starts = offline.state / f"starts-{os.uname().nodename}"
    starts.write_text("3\n")  # as an earlier version of the kit wrote it
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(offline.serve, back_off_s=200)
        while not starts.read_text().startswith("4 "):
            time.sleep(0.05)
        starts.unlink()
        assert waiting.result().out.endswith("vllm serve --port=1\n")
    assert time.monotonic() - started < 150


def test_redaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-a-mirror\n")
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "token"))
    redact = loaded("common").redact
    assert redact(f"in hf_hub_download: {TOKEN}, of-a-mirror at http://me:pass@proxy:8080") == (
        "in hf_hub_download: ***, *** at http://***@proxy:8080"
    )


def test_what_compose_passes_for_unset_variables_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    for bundle, kept in ((os.devnull, {"NO_PROXY"}), (__file__, {"NO_PROXY", "SSL_CERT_FILE"})):
        given = {"HF_ENDPOINT": "", "HTTPS_PROXY": "", "SSL_CERT_FILE": bundle}
        monkeypatch.setattr(os, "environ", given)
        loaded("fetch").prepare_environment()
        assert {name for name in given if not name.startswith("HF_")} == kept


def test_fetch_ends_the_waiting_after_failed_starts_when_the_weights_are_well(offline: Stack) -> None:
    count = offline.state / "starts-abc"
    count.write_text("3\n")
    assert offline.fetch("--revision", "another").code
    assert count.exists()
    assert offline.fetch().code == 0
    assert not count.exists()


HF_HOME_OF_A_USER = ("hub/models--a--b/refs", "xet/logs", "token", "stored_tokens", ".check_for_update_done")


def folder_of_root(path: Path, *entries: str) -> Path:
    path.mkdir()
    path.chmod(0o755)
    for entry in entries:
        (path / entry).parent.mkdir(parents=True, exist_ok=True)
        (path / entry).touch()
    return path


def owners(*folders: Path) -> list[tuple[int, int, int, list[str]]]:
    infos = [(folder.stat(), sorted(path.name for path in folder.iterdir())) for folder in folders]
    return [(info.st_uid, info.st_gid, info.st_mode & 0o7777, names) for info, names in infos]


@needs_root
@pytest.mark.parametrize("owner", ["2000:0", "0:0", "3000:3000"])
@pytest.mark.parametrize(
    ("variable", "entries"),
    [
        ("HF_CACHE_DIR", ("disk/file",)),
        ("HF_CACHE_DIR", ("etc/shadow", "hub/models--a--b/refs")),
        ("HF_CACHE_DIR", ("a\nserve: healthy",)),
        ("ENGINE_CACHE_DIR", ("passwd", "shadow")),
        ("ENGINE_CACHE_DIR", ("hub/models--a--b/refs",)),
    ],
)
def test_a_host_folder_of_other_things_is_refused_and_left_as_it_is(
    variable: str, entries: tuple[str, ...], owner: str, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    folders = [
        folder_of_root(stack.cache, *(entries if variable == "HF_CACHE_DIR" else ())),
        folder_of_root(stack.engine, *(entries if variable == "ENGINE_CACHE_DIR" else ())),
    ]
    entry = entries[0].partition("/")[0].replace("\n", "\\n")
    before = owners(*folders)
    done = stack.fetch("--owner", owner)
    why = (
        f"{variable} names a folder of root's that holds '{entry}', so it is not handed to the serving user\n"
    )
    assert (done.code, done.out) == (25, "")
    assert done.err == f"fetch: {why}"
    assert owners(*folders) == before
    assert not stack.state.exists()


@needs_root
@pytest.mark.parametrize("entries", [(), ("lost+found/x",), HF_HOME_OF_A_USER])
@pytest.mark.parametrize("owner", ["2000:0", "0:0", "3000:3000"])
def test_fresh_folders_and_a_used_hub_cache_are_handed_over(
    entries: tuple[str, ...], owner: str, tmp_path: Path
) -> None:
    stack = Stack(tmp_path)
    folder_of_root(stack.cache, *entries)
    folder_of_root(stack.engine, *(name for name in entries if "lost" in name))
    arguments = (*ARGUMENTS, str(fill(tmp_path / "weights"))) if not entries else ()
    assert stack.fetch("--owner", owner, *arguments).code == (0 if arguments else 22)
    uid, gid = map(int, owner.split(":"))
    handed = [stack.engine] if arguments else [stack.engine, stack.cache, stack.cache / "hub"]
    assert {found[:3] for found in owners(*handed)} == {(uid, gid, 0o2775)}


@needs_root
@pytest.mark.parametrize("owner", ["2000:0", "0:0", "3000:3000"])
def test_what_a_stack_of_roots_left_is_taken_by_the_next(owner: str, tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    arguments = (*ARGUMENTS, str(fill(tmp_path / "weights")))
    assert stack.fetch("--owner", "0:0", *arguments).code == 0
    (stack.engine / "vllm").mkdir()
    assert stack.fetch("--owner", owner, *arguments).code == 0


def test_an_unknown_failure_is_told_below_the_scripts_name(local: tuple[Stack, Path]) -> None:
    """Lines without it would count as the engine's."""
    stack, folder = local
    done = stack.fetch(*ARGUMENTS, str(folder), "--owner", "nobody")
    assert done.code == 1
    assert "ValueError" in done.err
    assert {line.partition(" ")[0] for line in done.err.splitlines()} == {"fetch:"}


def change_and_put_the_time_back(path: Path) -> None:
    info, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (info.st_mtime_ns, info.st_ino)


def test_a_change_behind_which_the_time_was_put_back_is_noticed(
    offline: Stack, local: tuple[Stack, Path]
) -> None:
    stack, folder = local
    stack.fetch(*ARGUMENTS, str(folder))
    for path, stamp in (
        (offline.file().resolve(), offline.stamp),
        (folder / LFS, stack.state / "weights.json"),
    ):
        assert stack.serve(stamp=stamp, back_off_s=0).code == 0
        change_and_put_the_time_back(path)
        done = stack.serve(stamp=stamp, back_off_s=0)
        assert (done.code, f"{LFS} has the wrong hash" in done.err) == (24, True)
    assert f"{LFS} has the wrong hash: deleted" in offline.fetch().out


ADDED = ("chat_template.jinja", "modeling_evil.py", "zz.safetensors", "consolidated.safetensors", "params.json",
         "additional_chat_templates/tool.jinja")  # fmt: skip


@pytest.mark.parametrize("name", ADDED)
def test_a_file_beside_the_verified_ones_that_vllm_would_read_is_refused(
    name: str, local: tuple[Stack, Path]
) -> None:
    stack, folder = local
    stack.fetch(*ARGUMENTS, str(folder))
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(safetensors(8))
    done = stack.serve(stamp=stack.state / "weights.json")
    assert (done.code, f"serve: {name} is not among the verified files" in done.err) == (24, True)
    assert "1 of them new" in stack.fetch(*ARGUMENTS, str(folder)).out
    assert stack.serve(stamp=stack.state / "weights.json").code == 0


def test_a_file_that_somebody_put_into_a_snapshot_is_refused_until_it_is_gone(offline: Stack) -> None:
    template = offline.file("chat_template.jinja")
    template.touch()
    why = "chat_template.jinja is not among the verified files"
    assert why in offline.serve().err
    done = offline.fetch()
    assert done.out.startswith(f"fetch: {why}\n")
    assert done.code == 26
    assert "keeps no hash for chat_template.jinja, so it did not come from a hub" in done.err
    template.unlink()
    assert offline.serve().code == offline.fetch().code == 0


@needs_root
def test_handing_files_over_costs_no_hash_at_the_next_start(offline: Stack) -> None:
    """As where a stack of root's, or root's own huggingface_hub, downloaded them."""
    hub = offline.cache / "hub"
    for path in (hub, *hub.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
    for owner in ("0:0", "2000:0", "0:0"):
        assert offline.fetch("--owner", owner).code == 0
        stamped = json.loads(offline.stamp.read_text())["files"][LFS]["ctime_ns"]
        assert stamped == offline.file().stat().st_ctime_ns
