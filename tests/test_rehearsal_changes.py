"""What a rehearsal changes at a running gateway: the kit's own commands on its files, and a stand-in that reads them."""

from __future__ import annotations

import os
import shutil
import threading
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import missing, planned

from ernie_deploy.errors import ToolFailed
from ernie_deploy.gateway import key_file
from ernie_deploy.gateway.certificate import chain_of, order_fault, private_key_of
from ernie_deploy.gateway.keys import hashed
from ernie_deploy.rehearsal import gateway_changes, override, runner
from ernie_deploy.rehearsal.client import Answer
from ernie_deploy.rehearsal.group import members
from ernie_deploy.rehearsal.leaks import _files
from ernie_deploy.rehearsal.planted import plant, variables
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.stack import compose
from ernie_deploy.stack.compose import Done

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = "# ernie-deploy render h100 --gateway --tls self-signed\nname: x\nservices: {}\n"
RENEWED, KEYS = gateway_changes.certificate_renewed, gateway_changes.key_comes_and_goes


class Front:
    """Stands for the gateway: the commands are the kit's own, and what they change counts once it has reloaded.

    `deaf` has it never reload, `trusting` take a wrong pair, `forgetful` revoke no key, and `late` none at once.
    """

    deaf = trusting = forgetful = late = False

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, list[str]()
        self.keys: set[str] = set()
        self.trusted: list[bool] = []
        self.read()

    def read(self) -> None:
        digests = {key.digest for key in key_file.read(self.folder).keys}
        self.keys = self.keys | digests if self.forgetful else digests
        self.chain = (self.folder / "tls/tls.crt").read_text()

    def reload(self) -> Done:
        half = private_key_of((self.folder / "tls/tls.key").read_text(), "tls.key")[1]
        chain = chain_of((self.folder / "tls/tls.crt").read_text(), "tls.crt")
        if order_fault(chain, half) and not self.trusting:
            return Done(1, "", "error: The gateway refuses its files as they are now\n")
        if not self.deaf:
            self.read()
        return Done(0, "", "")

    def ask(self, words: Sequence[str], *, timeout_s: float) -> Done:
        done = self.done(words, timeout_s)
        self.trusted.append(self.chain.strip() in Path(os.environ["SSL_CERT_FILE"]).read_text())
        return done

    def done(self, words: Sequence[str], timeout_s: float) -> Done:
        of_kit = words[words.index("ernie_deploy") + 1 :]
        self.ran.append(" ".join(of_kit[: of_kit.index("--file")][:2]))
        if of_kit[0] == "reload":
            return self.reload()
        done = compose.ask([*words, "--no-reload"], timeout_s=timeout_s)
        if done.returncode or (self.late and of_kit[1] == "revoke"):
            return done
        return Done(self.reload().returncode, done.stdout, done.stderr)

    def demand(self, words: Sequence[str], *, timeout_s: float) -> str:
        done = self.ask(words, timeout_s=timeout_s)
        if done.returncode:
            raise ToolFailed(done.stderr)
        return done.stdout

    def status(self, url: str, *, api_key: str) -> int:
        assert url.endswith("/v1/models")
        return 200 if hashed(api_key) in self.keys else 401


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A rehearsal whose stream lasts until the change is over."""
    if not shutil.which("openssl"):
        missing("openssl", "apt-get install openssl")
    monkeypatch.setenv("SSL_CERT_FILE", "")
    rehearsal = override.decide(planned("h100", gateway=True, tls="self-signed"), tmp_path, "p")
    planted = plant(rehearsal)
    for name in ("compose.yml", "rehearsal.yml"):
        (tmp_path / name).write_text(HEAD)
    group = members(rehearsal)
    return Stage(rehearsal=rehearsal, members=group, base_url="https://127.0.0.1:1", planted=planted)


@pytest.fixture
def front(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Front:
    made = Front(stage.rehearsal.folder / "gateway")
    for name in ("ask", "demand", "status"):
        monkeypatch.setattr(gateway_changes, name, getattr(made, name))
    monkeypatch.setattr(gateway_changes.ssl, "get_server_certificate", lambda *_, **__: made.chain)
    monkeypatch.setattr(gateway_changes, "TAKEN_UP_S", 0)
    streams(monkeypatch)
    return made


def streams(monkeypatch: pytest.MonkeyPatch, *, ending: Any = "complete") -> None:
    """A stream that lasts as long as the change."""
    asked: list[int] = []
    over = threading.Event()

    def answer(_: Stage, tokens: int) -> Answer:
        asked.append(tokens)
        assert over.wait(120)
        return Answer(ending=ending, text="", tokens=tokens)

    def tokens_in(seconds: float, *_: object) -> int:
        return int(seconds)

    def complete(result: Answer, tokens: int) -> int:
        assert result.tokens == tokens
        if result.ending != "complete":
            raise Disproved(f"the answer ended {result.ending}")
        return tokens

    class Pool(gateway_changes.ThreadPoolExecutor):
        def __exit__(self, *fault: object) -> None:
            # The block is over, and with it the change.
            over.set()
            super().__exit__(*fault)

    monkeypatch.setattr(gateway_changes, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(gateway_changes, "asked", answer)
    monkeypatch.setattr(gateway_changes, "busy", lambda _: ["serve"] if asked else [])
    monkeypatch.setattr(gateway_changes, "tokens_in", tokens_in)
    monkeypatch.setattr(gateway_changes, "complete", complete)


def test_a_key_comes_and_goes_under_a_stream(stage: Stage, front: Front) -> None:
    before = len(stage.planted.all)
    shown = KEYS(stage)
    assert front.ran == ["key add", "key revoke"]
    assert shown.endswith("; 20 of 20 tokens of streams meanwhile, open before and after 2 of 2 commands")
    # The others' keys stay, and the search for secrets knows the one that was made.
    assert len(front.keys) == 2
    assert len(stage.planted.all) == before + 1
    assert stage.planted.all[-1].startswith(b"ek_")


def test_a_gateway_that_takes_up_no_key_is_seen(stage: Stage, front: Front) -> None:
    front.deaf = True
    with pytest.raises(Disproved, match="answered 401 instead of 200"):
        KEYS(stage)


def test_a_key_that_outlives_its_revocation_is_seen(stage: Stage, front: Front) -> None:
    front.forgetful = True
    with pytest.raises(Disproved, match="answered 200 instead of 401"):
        KEYS(stage)


def test_a_revocation_that_waits_for_a_reload_is_seen(stage: Stage, front: Front) -> None:
    front.late = True
    with pytest.raises(Disproved, match="answered 200 instead of 401"):
        KEYS(stage)


def test_a_certificate_is_renewed_under_a_stream(stage: Stage, front: Front) -> None:
    old, before = front.chain, len(stage.planted.all)
    shown = RENEWED(stage)
    assert front.ran == ["tls install", "reload", "tls install"]
    assert front.chain != old
    # A stream that begins meanwhile trusts what it is shown, and so do the proofs that follow.
    assert front.trusted == [True] * 3
    assert front.chain == Path(os.environ["SSL_CERT_FILE"]).read_text()
    assert shown.startswith("a wrong pair refused twice, the old one served on; ")
    assert shown.endswith("; 20 of 20 tokens of streams meanwhile, open before and after 1 of 1 commands")
    # Both keys are looked for, and stand nowhere but where the gateway reads the one.
    assert len(stage.planted.all) == before + 2
    places = dict(_files(stage.rehearsal.folder))
    assert not [name for name, text in places.items() if any(key in text for key in stage.planted.all)]
    assert "file gateway/tls/tls.key" not in places


def test_a_gateway_that_takes_a_wrong_pair_is_seen(stage: Stage, front: Front) -> None:
    front.trusting = True
    folder = stage.rehearsal.folder / "gateway/tls"
    before = [path.read_text() for path in sorted(folder.iterdir())]
    with pytest.raises(Disproved, match="instead of 'The gateway refuses its files' it ended with 0"):
        RENEWED(stage)
    # What clients trust is what was served: the later proofs go on.
    assert [path.read_text() for path in sorted(folder.iterdir())] == before


def test_a_gateway_that_serves_the_wrong_pair_after_all_is_seen(stage: Stage, front: Front) -> None:
    refuse = front.reload

    def take_and_refuse() -> Done:
        done = refuse()
        front.read()
        return done

    front.reload = take_and_refuse  # type: ignore[method-assign]
    with pytest.raises(Disproved, match="after a wrong pair"):
        RENEWED(stage)


def test_an_install_of_a_wrong_pair_is_seen(
    stage: Stage, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "ask", lambda *_, **__: Done(0, "", ""))
    monkeypatch.setattr(gateway_changes, "ask", front.ask)
    with pytest.raises(Disproved, match="instead of 'do not belong together' it ended with 0"):
        RENEWED(stage)


def test_a_gateway_that_takes_up_no_certificate_is_seen(stage: Stage, front: Front) -> None:
    front.deaf = True
    with pytest.raises(Disproved, match="not within 0 s"):
        RENEWED(stage)


@pytest.mark.parametrize("change", [KEYS, RENEWED])
def test_a_stream_that_the_change_cuts_is_seen(
    change: Any, stage: Stage, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams(monkeypatch, ending="cut")
    with pytest.raises(Disproved, match="ended cut"):
        change(stage)


def test_streams_that_outlast_no_command_are_followed_by_longer_ones(
    stage: Stage, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []

    def streamed(_: Stage, tokens: int, streams: list[gateway_changes.Span], __: threading.Event) -> None:
        turns.append(tokens)
        streams.append(gateway_changes.Span(0.0, inf if len(turns) == 3 else 0.0))

    monkeypatch.setattr(gateway_changes, "_keep_streaming", streamed)
    assert KEYS(stage).endswith(
        "; 80 of 80 tokens of streams meanwhile, open before and after 2 of 2 commands"
    )
    assert turns == [20, 40, 80]
    with pytest.raises(Disproved, match="no stream was open before a command and after it, the last of 80"):
        KEYS(stage)


def test_the_commands_are_found_from_anywhere(stage: Stage) -> None:
    words = gateway_changes.Commands(stage).words("reload")
    folder = stage.rehearsal.folder
    assert words[1:] == ["-P", "-m", "ernie_deploy", "reload", "--file", f"{folder}/compose.yml",
                         "--file", f"{folder}/rehearsal.yml", "--project-name", "p"]  # fmt: skip
    done = compose.ask([*words, "--dry-run"], timeout_s=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("docker compose --project-name p ")


@pytest.mark.parametrize(
    ("options", "renewed"), [({}, []), ({"tls": "self-signed"}, ["certificate renewed"])]
)
def test_a_certificate_is_renewed_where_there_is_one(options: dict[str, Any], renewed: list[str]) -> None:
    names = [name for name, _ in runner.script(planned("h100", gateway=True, **options))]
    assert [name for name in names if name == "certificate renewed"] == renewed
    made = ["key added and revoked", *renewed]
    assert all(names.index(name) < names.index("token and key kept secret") for name in made)
    assert "key added and revoked" not in [name for name, _ in runner.script(planned("h100"))]


def test_who_is_not_root_has_the_gateway_run_as_them(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of its certificate was this user's alone, and the gateway another user that could not read it."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("os.getegid", lambda: 1001)
    assert variables(stage.rehearsal)["GATEWAY_USER"] == "1000:1001"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "GATEWAY_USER" not in variables(stage.rehearsal)
