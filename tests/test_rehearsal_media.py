"""What a rehearsal shows of a model that sees: pictures, a video, packages from its own index, no way out."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import ROOT, planned
from test_checkpoints import hub

from ernie_deploy.rehearsal import cpu_plan, media, override, proofs, runner
from ernie_deploy.rehearsal.client import Answer
from ernie_deploy.rehearsal.network_isolation import secluded
from ernie_deploy.rehearsal.planted import Planted
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.stack import containers

SEEING = ["picture answered", "video answered", "benchmark with pictures"]


def names(**options: Any) -> list[str]:
    return [name for name, _ in runner.script(planned("h100", **options))]


def test_a_model_that_sees_is_shown_pictures_and_others_are_not() -> None:
    assert [name for name in names(model="vl-28b") if name in SEEING] == SEEING
    assert not set(SEEING) & {*names(), *names(model="vl-28b", profiles=("text-only",))}


@pytest.mark.parametrize(
    ("target", "options", "added"),
    [
        ("mi300x", {"model": "vl-28b"}, True),
        ("h100", {"model": "vl-28b"}, False),
        ("h100", {"model": "300b"}, False),
    ],
)
def test_ranks_that_share_a_vision_tower_do_not_try_it_first(
    target: str, options: dict[str, Any], *, added: bool
) -> None:
    plan, replaced = cpu_plan.for_cpu(planned(target, **options), 64)
    assert bool([line for line in replaced if line.startswith("--skip-mm-profiling added: ")]) == added
    assert (plan.setting("skip-mm-profiling") is not None) == added


# --- the picture and the video ---


def test_the_picture_is_one(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    with image.open(io.BytesIO(media.picture())) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("PNG", (media.WIDTH, media.HEIGHT))
        assert picture.getpixel((0, 0)) < picture.getpixel((0, media.HEIGHT - 1))


def test_opencv_reads_the_video_again(tmp_path: Path) -> None:
    import base64

    cv2 = pytest.importorskip("cv2")
    done = subprocess.run(
        [sys.executable, "-c", media.MAKE_VIDEO], capture_output=True, text=True, check=True, timeout=300
    )
    (tmp_path / "a.mp4").write_bytes(base64.b64decode(done.stdout))
    video, frames = cv2.VideoCapture(str(tmp_path / "a.mp4")), 0
    while video.read()[0]:
        frames += 1
    assert frames == 8
    assert len(done.stdout) < 10_000


def stage() -> Stage:
    rehearsal = override.decide(planned("h100", model="vl-28b"), Path("f"), "p")
    return Stage(rehearsal=rehearsal, members=(), base_url="http://nobody", planted=Planted(token="t"))


def sees(seeing: Answer, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the proof says where a question with a picture is answered like this, and one without takes 29 tokens."""
    blind = Answer(ending="complete", text="", tokens=proofs.TOKENS, prompt_tokens=29)

    def chat(*_: Any, question: list[dict[str, Any]], **__: Any) -> Answer:
        return blind if len(question) == 1 else seeing

    monkeypatch.setattr(proofs, "chat", chat)
    return media.sees_a_picture(stage())


def test_a_picture_is_part_of_the_prompt_and_answered_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Answer(ending="complete", text="", tokens=proofs.TOKENS, prompt_tokens=80)
    assert sees(whole, monkeypatch) == "16 tokens, after 51 of the prompt for 64 x 48 pixels"
    with pytest.raises(Disproved, match="29 tokens, 29 without it"):
        sees(Answer(ending="complete", text="", tokens=proofs.TOKENS, prompt_tokens=29), monkeypatch)
    with pytest.raises(Disproved, match="3 of 16 tokens"):
        sees(Answer(ending="complete", text="", tokens=3, prompt_tokens=80), monkeypatch)


def test_the_line_of_the_weights_is_not_that_of_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    log = "fetch-1  | packages: decord-0.6.0 verified\nfetch-1  | fetch: 12 files of m verified\n"
    monkeypatch.setattr(proofs, "demand", lambda _: log)
    member = SimpleNamespace(stack=SimpleNamespace(logs=lambda _: []))
    assert proofs._verified(member) == "12 files of m verified"  # type: ignore[arg-type]


# --- no way out ---


class FakeEngine:
    """Docker's networks, as a list of what was done to them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.networks = self

    def create(self, name: str, *, internal: bool, labels: dict[str, str]) -> SimpleNamespace:
        self.log.append(f"create {name} internal={internal} {labels[containers.PROJECT]}")
        return self.network(name)

    def get(self, name: str) -> SimpleNamespace:
        return self.network(name)

    def network(self, name: str) -> SimpleNamespace:
        def connect(container: Any, aliases: Any = None) -> None:
            self.log.append(f"connect {name} {aliases}")

        return SimpleNamespace(
            connect=connect,
            disconnect=lambda *_, force: self.log.append(f"disconnect {name}"),
            remove=lambda: self.log.append(f"remove {name}"),
        )


def container(networks: dict[str, Any]) -> Any:
    return SimpleNamespace(
        id="0123456789abcdef", name="p-serve-1", labels={containers.PROJECT: "p"}, reload=lambda: None,
        attrs={"NetworkSettings": {"Networks": networks}},
    )  # fmt: skip


def test_a_container_is_moved_to_a_network_without_a_way_out_and_back_whatever_happens() -> None:
    engine = FakeEngine()
    serve = container({"p_default": {"Aliases": ["serve", "p-serve-1", "0123456789ab"]}})
    with pytest.raises(Disproved), secluded(engine, serve) as apart:  # type: ignore[arg-type]
        assert apart
        engine.log.append("start")
        raise Disproved
    assert engine.log == [
        "create p-serve-1-nowhere internal=True p", "connect p-serve-1-nowhere None", "disconnect p_default", "start",
        "connect p_default ['serve', 'p-serve-1']", "disconnect p-serve-1-nowhere", "remove p-serve-1-nowhere",
    ]  # fmt: skip


@pytest.mark.parametrize("networks", [{}, {"host": {"Aliases": None}}])
def test_a_container_in_anothers_network_stays_there(networks: dict[str, Any]) -> None:
    engine = FakeEngine()
    with secluded(engine, container(networks)) as apart:  # type: ignore[arg-type]
        assert not apart
    assert engine.log == []


@pytest.mark.parametrize("comes_up", [True, False])
def test_the_restart_offline_starts_and_leaves_the_server_in_its_own_network(
    monkeypatch: pytest.MonkeyPatch, *, comes_up: bool
) -> None:
    engine = FakeEngine()
    serve = container({"p_default": {"Aliases": ["serve"]}})
    serve.stop = lambda **_: engine.log.append("stop")
    serve.start = lambda: engine.log.append("start")
    engine.containers = SimpleNamespace(get=lambda _: serve)  # type: ignore[attr-defined]
    monkeypatch.setattr(proofs.containers, "client", lambda: engine)
    monkeypatch.setattr(proofs, "RECOVERY_S", 0)
    monkeypatch.setattr(Stage, "serve", lambda _: SimpleNamespace(id="1"))
    monkeypatch.setattr(Stage, "healthy", lambda _: comes_up)
    if comes_up:
        assert "after the start, with no way out of the network" in proofs.becomes_healthy(stage())
    else:
        with pytest.raises(Disproved):
            proofs.becomes_healthy(stage())
    assert [line.partition(" ")[0] for line in engine.log] == [
        "stop", "create", "connect", "disconnect", "start", "connect", "disconnect", "remove",
    ]  # fmt: skip


# --- packages from the rehearsal's own index ---


def test_the_hub_is_an_index_that_the_packages_script_fetches_from(tmp_path: Path) -> None:
    archives, into, wheel = tmp_path / "archives", tmp_path / "into", "decoy-1.0-py3-none-any.whl"
    archives.mkdir()
    with zipfile.ZipFile(archives / wheel, "w") as archive:
        archive.writestr("decoy.py", "a = 1\n")
    digest = hashlib.sha256((archives / wheel).read_bytes()).hexdigest()
    server = hub.Hub(("127.0.0.1", 0), {}, "hf_token", archives=archives)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script, index = ROOT / "docker/scripts/packages.py", f"http://127.0.0.1:{server.server_port}/simple"

    def bring(requirement: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", script, "bring", f"--into={into}", requirement, "--", "echo", "next"],
            env={"PATH": "/usr/bin:/bin", "PIP_INDEX_URL": index, "PIP_CONFIG_FILE": "/dev/null", "NO_PROXY": "*"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    done = bring(f"{wheel}#sha256={digest}")
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["next"]), done.stderr
    assert (into / "decoy-1.0/decoy.py").read_text() == "a = 1\n"
    assert bring(f"other-1.0-py3-none-any.whl#sha256={digest}").returncode == 53
    server.shutdown()
    server.server_close()


def test_a_rehearsal_brings_the_packages_of_its_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(runner, "demand", lambda words, **_: asked.append(words))
    rehearsal = override.decide(planned("h100", model="vl-28b"), tmp_path, "p")
    runner.bring_packages(rehearsal)
    (words,) = asked
    assert words[3:5] == ["bring", f"--into={tmp_path}/packages"]
    assert [word.partition("#")[0] for word in words[5:-2]] == [
        one.archive for one in rehearsal.plan.packages
    ]
    text = override.override_file(rehearsal)
    assert "PIP_INDEX_URL: http://hub:8080/simple" in text
    assert f"{tmp_path}/packages/archives" in text
    assert "PIP_INDEX_URL" not in override.override_file(override.decide(planned("h100"), tmp_path, "p"))
