"""`lock` asks registry and hub, writes what they say, and says what moved; each failure is a sentence with its exit code."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from conftest import ROOT, planned
from fake_engine import FakeEngine

from ernie_deploy import cli
from ernie_deploy.commands.lock_state import tell
from ernie_deploy.commands.preflight import request_of_file
from ernie_deploy.plan.lock import LockFile, read_lock
from ernie_deploy.rehearsal.override import hub_map
from ernie_deploy.stack.hub import Hub

PLAN = planned("h100")
HF_ID = PLAN.model.hf_id


def module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = made
    spec.loader.exec_module(made)
    return made


HUB = module(ROOT / "docker/rehearsal/hub.py")
HUB.Handler.log_message = lambda *_: None


def digest(digit: str) -> str:
    return "sha256:" + digit * 64


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def checkpoint(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights * 2000)
    return folder


class World:
    """A stack's folder, a Docker engine and a hub."""

    def __init__(self, folder: Path, engine: FakeEngine, hub: Any) -> None:
        self.folder, self.engine, self.hub = folder, engine, hub
        self.lock = folder / "ernie.lock"

    def run(self, *words: str, code: int = 0) -> str:
        """Run a command in the folder; what it printed, both streams."""
        process = CliRunner().invoke(cli.cli, list(words), standalone_mode=False, catch_exceptions=True)
        fault = process.exception
        ended = getattr(fault, "exit_code", 0 if fault is None else 1)
        ended = process.return_value if isinstance(process.return_value, int) else ended
        text = f"{process.output}{fault or ''}"
        assert ended == code, text
        return text


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    old = checkpoint(tmp_path / "old", b"a")
    hub = HUB.Hub(("127.0.0.1", 0), {HF_ID: {"main": old}})
    folder = tmp_path / "stack"
    folder.mkdir()
    monkeypatch.chdir(folder)
    engine = FakeEngine()
    with serving(engine), serving(hub) as url:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        (folder / ".env").write_text(f"HF_ENDPOINT={url}\n")
        engine.digests = {PLAN.image: digest("1"), PLAN.bench_image: digest("2")}
        made = World(folder, engine, hub)
        made.run("render", "h100", "-o", "compose.yml")
        yield made


def test_lock_writes_what_registry_and_hub_say_and_pulls_nothing(world: World, tmp_path: Path) -> None:
    text = world.run("lock")
    held = read_lock(world.lock)
    assert held.images == world.engine.digests
    assert [name for name, _ in world.engine.asked] == sorted(world.engine.digests)
    model = held.models[HF_ID]
    assert model.revisions == {"main": HUB.commit(tmp_path / "old")} == {"main": model.commit}
    files = HUB.files(tmp_path / "old")
    assert {name: file.digest for name, file in model.files.items()} == {
        "config.json": f"git:{files['config.json'].hash}",
        "model.safetensors": f"sha256:{files['model.safetensors'].hash}",
    }
    assert f"locked  {PLAN.image} at sha256:111111111111" in text
    assert "next: ernie-deploy upgrade compose.yml" in text
    before = world.lock.read_bytes()
    assert "ernie.lock is as it was" in world.run("lock")
    assert world.lock.read_bytes() == before
    assert len(world.engine.asked) == 2  # what is held is not asked for again


def test_the_next_step_renders_what_is_locked_and_then_there_is_none(world: World) -> None:
    world.run("lock")
    world.run("render", "-o", "compose.yml", "h100", "--lock", "ernie.lock")
    text = (world.folder / "compose.yml").read_text()
    assert text.count(f"{PLAN.image}@{digest('1')}") == 2
    assert "next:" not in world.run("lock")


def test_a_folder_of_init_is_rendered_by_init(world: World) -> None:
    world.run("init", "mine", "h100", "--env", f"HF_ENDPOINT=http://127.0.0.1:{world.hub.server_port}")
    text = world.run("lock", "mine")
    assert "next: ernie-deploy upgrade mine" in text
    world.run("upgrade", "mine")
    assert (
        (world.folder / "mine/compose.yml")
        .read_text()
        .startswith("# ernie-deploy render h100 --lock ernie.lock\n")
    )
    assert "mine/ernie.lock holds" in world.run("lock", "mine", "--check")


def test_what_moved_is_found_and_upgrade_takes_it(world: World, tmp_path: Path) -> None:
    world.run("lock")
    old = read_lock(world.lock).models[HF_ID].commit
    world.engine.digests[PLAN.image] = digest("9")
    world.hub.models[HF_ID] = {"main": checkpoint(tmp_path / "new", b"b"), "old": tmp_path / "old"}
    new = HUB.commit(tmp_path / "new")
    text = world.run("lock", "--check", code=5)
    assert (
        f"{PLAN.image} moved: the registry has sha256:999999999999 now, the lock sha256:111111111111." in text
    )
    assert f"{HF_ID} main moved: the hub has {new[:12]} now, the lock {old[:12]}." in text
    assert read_lock(world.lock).images[PLAN.image] == digest("1")
    text = world.run("lock", "--upgrade")
    assert f"moved   {PLAN.image} sha256:111111111111 -> sha256:999999999999" in text
    assert f"moved   {HF_ID} main {old[:12]} -> {new[:12]}" in text
    assert read_lock(world.lock).models[HF_ID].commit == new
    assert "holds: each image and the model" in world.run("lock", "--check")


def test_a_commit_that_is_gone_is_one_sentence(world: World, tmp_path: Path) -> None:
    world.run("lock")
    commit = read_lock(world.lock).models[HF_ID].commit
    world.hub.models[HF_ID] = {"main": checkpoint(tmp_path / "new", b"b")}
    text = world.run("lock", "--check", code=5)
    assert f"The commit {commit[:12]} of {HF_ID} is gone from the hub" in text


def test_a_tag_that_is_gone_is_found_and_the_other_image_is_still_compared(world: World) -> None:
    world.run("lock")
    del world.engine.digests[PLAN.bench_image]
    world.engine.digests[PLAN.image] = digest("9")
    text = world.run("lock", "--check", code=5)
    assert f"docker.io has no {PLAN.bench_image}. The lock has sha256:222222222222." in text
    assert f"{PLAN.image} moved" in text


def test_a_hub_that_lists_other_bytes_at_the_locked_commit_is_found(world: World) -> None:
    world.run("lock")
    world.lock.write_text(world.lock.read_text().replace("size = 2,", "size = 3,"))
    assert "lists other files than the lock" in world.run("lock", "--check", code=5)


def test_what_this_machine_has_by_the_tag_is_compared(world: World) -> None:
    world.run("lock")
    world.engine.local[PLAN.image] = [f"{PLAN.image.partition(':')[0]}@{digest('7')}"]
    text = world.run("lock", "--check")
    assert f"This machine has another image by the tag {PLAN.image}: sha256:777777777777" in text
    world.engine.local[PLAN.image] = [f"x@{digest('1')}"]
    assert "This machine" not in world.run("lock", "--check")


def test_a_new_model_is_added_and_the_old_one_leaves(world: World, tmp_path: Path) -> None:
    world.run("lock")
    other = planned("h100", model="0.3b").model.hf_id
    world.hub.models[other] = {"main": checkpoint(tmp_path / "small", b"c")}
    world.run("render", "h100", "--model", "0.3b", "--lock", "none", "-o", "compose.yml")
    text = world.run("lock")
    assert f"moved   {other} main new at" in text
    assert f"moved   {HF_ID} main no longer there" in text
    assert list(read_lock(world.lock).models) == [other]


def test_the_registry_of_env_is_the_one_that_is_asked(world: World) -> None:
    world.run("render", "h100", "--registry", "mirror.example/hub", "-o", "compose.yml")
    with (world.folder / ".env").open("a") as env:
        env.write("IMAGE_REGISTRY=127.0.0.1:5000/other\n")
    world.engine.digests = {
        f"127.0.0.1:5000/other/{image}": value for image, value in world.engine.digests.items()
    }
    world.run("lock")
    assert sorted(read_lock(world.lock).images) == [
        f"mirror.example/hub/{image}" for image in (PLAN.bench_image, PLAN.image)
    ]


def test_an_image_of_ones_own_is_locked_too(world: World) -> None:
    world.run("render", "h100", "--image", "127.0.0.1:5000/mine:1", "-o", "compose.yml")
    world.engine.digests["127.0.0.1:5000/mine:1"] = digest("5")
    world.run("lock")
    world.run("render", "h100", "--image", "127.0.0.1:5000/mine:1", "-o", "compose.yml")
    assert (
        f'image: "${{ENGINE_IMAGE:-127.0.0.1:5000/mine:1@{digest("5")}}}"'
        in (world.folder / "compose.yml").read_text()
    )


def test_json(world: World) -> None:
    wrote = world.run("lock", "--json")
    data = json.loads(wrote[: wrote.rindex("}") + 1])
    assert data["lock"]["images"] == world.engine.digests
    world.engine.digests[PLAN.image] = digest("9")
    text = world.run("lock", "--check", "--json", code=5)
    assert [one["kind"] for one in json.loads(text[: text.rindex("]") + 1])] == ["moved"]


def test_the_users_login_goes_to_the_registry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.folder / "config.json").write_text(
        json.dumps({"auths": {"127.0.0.1:5000": {"auth": "bWU6cGFzcw=="}}})
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(world.folder))
    world.run("render", "h100", "--image", "127.0.0.1:5000/mine:1", "-o", "compose.yml")
    world.engine.digests["127.0.0.1:5000/mine:1"] = digest("5")
    world.run("lock")
    logins = dict(world.engine.asked)
    assert logins["127.0.0.1:5000/mine:1"]
    assert not logins[PLAN.bench_image]


@pytest.mark.parametrize(
    ("fault", "said", "step"),
    [
        ((500, "Get https://registry-1.docker.io/v2/: dial tcp: connection refused"), "docker.io does not answer for", "mirror"),
        ((401, "unauthorized: authentication required"), "docker.io refuses to tell of", "docker login"),
        ((403, "denied: requested access to the resource is denied"), "docker.io refuses to tell of", "docker login"),
        ((500, "errors:\ndenied: \x1b[31mx"), "docker.io refuses to tell of", "docker login"),
        ((500, 'Head "https://x/v2/y": no basic auth credentials'), "docker.io refuses to tell of", "docker login"),
        ((404, "no such manifest"), "docker.io has no", "check the name"),
    ],
)  # fmt: skip
def test_a_registry_that_fails_is_a_sentence(
    world: World, fault: tuple[int, str], said: str, step: str
) -> None:
    world.engine.fault = fault
    text = world.run("lock", code=1)
    assert said in text
    assert step in text
    assert "\x1b" not in text
    assert not world.lock.exists()


@pytest.mark.parametrize("answer", ["", "md5:0", None, 7, digest("1") + '"\n', "sha256:zz"])
def test_a_tag_without_a_digest_is_refused(world: World, answer: object) -> None:
    world.engine.digests[PLAN.image] = answer
    assert f"docker.io names no digest for {PLAN.image}" in world.run("lock", code=1)
    assert not world.lock.exists()


def test_without_docker_the_exit_code_is_6(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    assert "The Docker engine does not answer" in world.run("lock", code=6)


def test_a_hub_that_is_down_refuses_or_knows_nothing_is_a_sentence(world: World) -> None:
    world.hub.token = "hf_other"
    assert f"refuses {HF_ID} at main" in world.run("lock", code=1)
    world.hub.token = ""
    world.hub.models.clear()
    assert f"has no {HF_ID} at main" in world.run("lock", code=1)
    (world.folder / ".env").write_text("HF_ENDPOINT=http://127.0.0.1:9\n")
    assert f"The hub 127.0.0.1 does not answer for {HF_ID} at main" in world.run("lock", code=1)
    assert not world.lock.exists()


def test_the_token_of_the_stack_goes_to_its_hub_and_never_over_an_open_line(world: World) -> None:
    (world.folder / "token").write_text("hf_mine\n")
    world.hub.token = "hf_mine"
    with (world.folder / ".env").open("a") as env:
        env.write("HF_TOKEN_FILE=./token\n")
    world.run("lock")
    (world.folder / ".env").write_text("HF_TOKEN_FILE=./token\nHF_ENDPOINT=http://hub.example\n")
    assert "where others could read the token" in world.run("lock", "--upgrade", code=2)
    (world.folder / ".env").write_text("HF_TOKEN_FILE=./nowhere\n")
    assert "HF_TOKEN_FILE=nowhere cannot be read" in world.run("lock", "--upgrade", code=2)


def test_who_does_not_answer_a_check_is_named(world: World) -> None:
    world.run("lock")
    world.engine.fault = (500, "dial tcp: i/o timeout")
    text = world.run("lock", "--check", code=1)
    assert f"docker.io does not answer for {PLAN.bench_image}. (dial tcp: i/o timeout)" in text
    assert text.count("dial tcp") == 1  # each registry costs its time limit once
    assert "could not be compared in whole" in text


SIBLING = {"rfilename": "model.safetensors", "size": 5, "blobId": "a" * 40, "lfs": {"sha256": "b" * 64}}
GOOD = {"sha": "c" * 40, "siblings": [SIBLING]}


@pytest.mark.parametrize(
    "answer",
    [
        [], "x", None, {}, {"sha": "c" * 40}, {"sha": "main", "siblings": [SIBLING]}, {**GOOD, "sha": 7},
        {**GOOD, "siblings": []}, {**GOOD, "siblings": 7}, {**GOOD, "siblings": [None]}, {**GOOD, "siblings": {"a": 1}},
        *({**GOOD, "siblings": [{**SIBLING, "rfilename": name}]}
          for name in ("../x.safetensors", "/x.safetensors", "a\\b.safetensors", "a\nb.safetensors", "a//b.safetensors", 7)),
        *({**GOOD, "siblings": [{**SIBLING, "size": size}]} for size in (None, -1, "5", True, 1 << 60)),
        *({**GOOD, "siblings": [{**SIBLING, "lfs": lfs}]} for lfs in ({"sha256": "x"}, {"sha256": None}, {"a": 1}, 7)),
        {**GOOD, "siblings": [{**SIBLING, "lfs": None, "blobId": "x"}]},
        {**GOOD, "siblings": [{**SIBLING, "rfilename": "config.json"}]},
    ],
)  # fmt: skip
def test_a_hub_that_lies_is_not_believed(world: World, answer: object) -> None:
    class Liar(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Liar)) as url:
        (world.folder / ".env").write_text(f"HF_ENDPOINT={url}\n")
        assert "is not believed" in world.run("lock", code=1)
    assert not world.lock.exists()


def test_a_tampered_lock_is_refused_until_it_is_made_anew(world: World) -> None:
    world.run("lock")
    good = world.lock.read_text()
    world.lock.write_text(good.replace(digest("1"), digest("1")[:-1]))
    for words in (["lock"], ["lock", "--check"], ["render", "h100", "-o", "compose.yml"]):
        assert "is no digest" in world.run(*words, code=2)
    world.run("lock", "--upgrade")
    assert world.lock.read_text() == good


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("services: {}\n", "it begins with no command of the kit's"),
        ("# ernie-deploy render --nonsense\n", "What rendered compose.yml cannot be read"),
        ("# ernie-deploy render 'h100\n", "What rendered compose.yml cannot be read"),
    ],
)
def test_a_file_that_the_kit_did_not_render_is_refused(world: World, text: str, said: str) -> None:
    (world.folder / "compose.yml").write_text(text)
    assert said in world.run("lock", code=2)


def test_usage(world: World) -> None:
    assert "There is no nothing.yml" in world.run("lock", "nothing.yml", code=2)
    (world.folder / "empty").mkdir()
    assert "There is no compose file in empty" in world.run("lock", "empty", code=2)
    assert "give either" in world.run("lock", "--upgrade", "--check", code=2)
    assert "ernie.lock cannot be read" in world.run("lock", "--check", code=2)


def test_a_lock_is_written_whole_or_not_at_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    world.run("lock")
    before = world.lock.read_bytes()
    world.engine.digests[PLAN.image] = digest("9")
    monkeypatch.setattr("ernie_deploy.paths._put", full)
    assert "ernie.lock could not be written: No space left on device" in world.run(
        "lock", "--upgrade", code=2
    )
    assert world.lock.read_bytes() == before
    assert sorted(path.name for path in world.folder.iterdir()) == [".env", "compose.yml", "ernie.lock"]


# --- what `check`, `up` and `rehearse` say ---


def locked(world: World) -> None:
    world.run("lock")
    world.run("render", "-o", "compose.yml", "h100")


def of_lock(text: str) -> list[dict[str, Any]]:
    """The findings about the lock in what `check --json` prints."""
    return [one for one in json.loads(text[text.index("[") : text.rindex("]") + 1]) if one["id"] == "ED163"]


def test_check_says_nothing_of_a_lock_that_holds_and_asks_nobody_unasked(world: World) -> None:
    locked(world)
    asked = len(world.engine.asked)
    assert of_lock(world.run("check", "--json")) == []
    assert len(world.engine.asked) == asked
    assert of_lock(world.run("check", "--json", "--online")) == []
    assert len(world.engine.asked) == asked + 2


def test_check_finds_a_stack_that_was_not_rendered_from_its_lock(world: World) -> None:
    world.run("lock")
    said = [one["sentence"] for one in of_lock(world.run("check", "compose.yml", "--json"))]
    assert sorted(said) == sorted(
        [
            f"{HF_ID} is at 'main', and the lock at {read_lock(world.lock).models[HF_ID].commit[:12]}",
            *[f"{image} names no digest" for image in (PLAN.image, PLAN.bench_image, PLAN.image)],
        ]
    )
    world.run("render", "-o", "compose.yml", "h100")
    text = (world.folder / "compose.yml").read_text()
    (world.folder / "compose.yml").write_text(text.replace(digest("1"), digest("8")))
    said = [one["sentence"] for one in of_lock(world.run("check", "compose.yml", "--json"))]
    assert said == [f"{PLAN.image} is at sha256:888888888888, and the lock at sha256:111111111111"] * 2


def test_check_finds_a_lock_that_is_missing_or_damaged(world: World) -> None:
    locked(world)
    world.lock.write_text(world.lock.read_text().replace("git:", "md5:"))
    (found,) = of_lock(world.run("check", "compose.yml", "--json"))
    assert "is no file's digest" in found["sentence"]
    world.lock.unlink()
    (found,) = of_lock(world.run("check", "compose.yml", "--json"))
    assert found["sentence"] == "The lock ernie.lock cannot be read: No such file or directory"


def test_check_online_finds_what_moved(world: World, tmp_path: Path) -> None:
    locked(world)
    world.engine.digests[PLAN.image] = digest("9")
    world.hub.models[HF_ID] = {"main": checkpoint(tmp_path / "new", b"b"), "old": tmp_path / "old"}
    said = " ".join(one["sentence"] for one in of_lock(world.run("check", "--json", "--online")))
    assert f"{PLAN.image} moved: the registry has sha256:999999999999 now" in said
    assert f"{HF_ID} main moved: the hub has" in said


def services(world: World) -> dict[str, Any]:
    return yaml.safe_load((world.folder / "compose.yml").read_text())["services"]


def test_up_warns_of_what_moved_and_of_a_stack_that_is_not_the_locks(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("lock")
    tell(Path("compose.yml"), services(world))
    said = capsys.readouterr().err
    assert f"warning: {PLAN.image} names no digest: compose.yml was not rendered with ernie.lock." in said
    assert f"warning: {HF_ID} is at 'main'" in said
    world.run("render", "-o", "compose.yml", "h100")
    tell(Path("compose.yml"), services(world))
    assert capsys.readouterr().err == ""
    world.engine.digests[PLAN.image] = digest("9")
    tell(Path("compose.yml"), services(world))
    assert capsys.readouterr().err == (
        f"warning: {PLAN.image} moved: the registry has sha256:999999999999 now, the lock sha256:111111111111.\n"
        "  next:  the locked stack still starts unchanged; ernie-deploy lock --upgrade takes what is there now\n"
    )


def test_a_locked_stack_starts_where_nobody_answers_and_one_line_says_so(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked(world)
    world.engine.fault = (500, "dial tcp: i/o timeout")
    tell(Path("compose.yml"), services(world))
    assert capsys.readouterr().err == (
        f"note: not compared with ernie.lock: docker.io does not answer for {PLAN.bench_image}. (dial tcp: i/o timeout)\n"
    )
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    tell(Path("compose.yml"), services(world))
    assert (
        "note: ernie.lock was compared with nothing: The Docker engine does not answer."
        in capsys.readouterr().err
    )


def test_a_file_whose_lock_is_gone_is_still_known(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    locked(world)
    world.lock.unlink()
    request = request_of_file(Path("compose.yml"))
    assert request == PLAN.request
    tell(Path("compose.yml"), services(world))
    assert "warning: The lock ernie.lock cannot be read" in capsys.readouterr().err


def test_a_rehearsal_serves_the_locked_commit_from_its_hub(world: World, tmp_path: Path) -> None:
    locked(world)
    commit = read_lock(world.lock).models[HF_ID].commit
    plan = planned("h100", lock=LockFile("ernie.lock", read_lock(world.lock)))
    models = hub_map(plan, "moe")
    assert models == {HF_ID: {commit: "/checkpoints/moe"}}
    tiny = checkpoint(tmp_path / "tiny", b"t")
    hub = HUB.Hub(("127.0.0.1", 0), {HF_ID: {commit: tiny}})
    with serving(hub) as url:
        assert Hub(endpoint=url).revision_info(HF_ID, commit).commit == commit


@pytest.mark.parametrize("words", [["diff", "stack"], ["bench", "plan", "-f", "stack/compose.yml"]])
def test_a_locked_stack_is_read_from_any_folder(
    world: World, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    locked(world)
    monkeypatch.chdir(world.folder.parent)
    world.run(*words)
