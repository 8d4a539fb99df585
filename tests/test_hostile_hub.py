"""A hub or mirror that lies: nothing leaves the cache, no token goes astray, and each lie is one sentence."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fake_hub
import pytest
from fake_hub import FakeHub, Handler
from test_weights import LFS, MODEL, NOWHERE, TOKEN, Stack, fill, safetensors

from ernie_deploy.stack.waiting import poll_until

UP = "../" * 4
# Where nobody cuts it off, the disk of who tests shall not be full.
ENDLESS_BYTES = 1 << 30
SPARE: dict[str, object] = {"SPARE_BYTES": "1 << 20"}
LIES: dict[str, Callable[[Answer], None]] = {}
Headers = dict[str, str]


class Answer:
    """One answer of the hub on its way, to be changed."""

    def __init__(self, path: str, status: int, body: bytes, headers: Headers) -> None:
        self.path, self.status, self.body, self.headers = path, status, body, headers

    @property
    def is_file(self) -> bool:
        return "/resolve/" in self.path

    def change(self, **fields: object) -> None:
        """Set fields of the information, and of each file that it lists."""
        if self.is_file:
            return
        data = json.loads(self.body)
        if isinstance(data, dict) and "sha" in fields:
            data["sha"] = fields["sha"]
        for file in data if isinstance(data, list) else data["siblings"]:
            for name, value in fields.items():
                if name == "file":
                    file["rfilename" if "rfilename" in file else "path"] = value
                if name in ("size", "lfs") and (name in file or name == "size"):
                    file[name] = value
        self.body = json.dumps(data).encode()


class Lying(Handler):
    server: LyingHub

    def answer(
        self, status: int, body: bytes, headers: Headers | None = None, *, breakable: bool = False
    ) -> None:
        self.server.tokens.append((self.headers.get("Host", ""), self.headers.get("Authorization", "")))
        made = Answer(self.path, status, body, dict(headers or {}))
        self.server.lie(made)
        if made.status == 0:
            self.send_response(200)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.end_headers()
            while self.command == "GET" and self.server.sent < ENDLESS_BYTES:
                self.wfile.write(b"x" * (1 << 20))
                self.server.sent += 1 << 20
            return
        super().answer(made.status, made.body, made.headers)


class LyingHub(FakeHub):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.RequestHandlerClass = Lying
        self.lie: Callable[[Answer], None] = lambda _: None
        self.tokens: list[tuple[str, str]] = []
        self.sent = 0


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LyingHub]:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    fill(tmp_path / "hub" / MODEL)
    with LyingHub(tmp_path / "hub") as fake:
        threading.Thread(target=fake.serve_forever, args=(0.02,), daemon=True).start()
        yield fake
        fake.shutdown()


@pytest.fixture
def stack(tmp_path: Path, hub: LyingHub) -> Stack:
    made = Stack(tmp_path, hub.url)
    (tmp_path / "token").write_text(TOKEN)
    return made


def named(name: str) -> Callable[[Callable[[Answer], None]], Callable[[Answer], None]]:
    def keep(lie: Callable[[Answer], None]) -> Callable[[Answer], None]:
        LIES[name] = lie
        return lie

    return keep


@named("sha that leads out")
def sha(answer: Answer) -> None:
    answer.change(sha=f"{UP}engine/pwned")


@named("sha that is a ref's name")
def ref(answer: Answer) -> None:
    answer.change(sha="main")


@named("file that leads out")
def file(answer: Answer) -> None:
    answer.change(file=f"{UP}{UP}engine/pwned.json")


@named("file from the root")
def root(answer: Answer) -> None:
    answer.change(file="/tmp/pwned.json")


@named("file with a backslash")
def backslash(answer: Answer) -> None:
    answer.change(file="..\\..\\pwned.json")


@named("file with an escape")
def escape(answer: Answer) -> None:
    answer.change(file="a\x1b[2Jpwned.json")


@named("ETag that leads out")
def etag(answer: Answer) -> None:
    if answer.is_file:
        answer.headers |= {"ETag": f'"{UP}engine/pwned.py"', "X-Linked-Etag": f'"{UP}engine/pwned.py"'}


@named("hash of a large file that leads out")
def lfs(answer: Answer) -> None:
    answer.change(
        lfs={"sha256": f"{UP}engine/pwned.py", "oid": f"{UP}engine/pwned.py", "size": 9, "pointerSize": 9}
    )


@named("commit of a file that leads out")
def commit(answer: Answer) -> None:
    if answer.is_file:
        answer.headers["X-Repo-Commit"] = f"{UP}engine/pwned"


@named("commit of a missing file that leads out")
def missing(answer: Answer) -> None:
    if answer.is_file:
        answer.status, answer.body = 404, b"{}"
        answer.headers = {
            "X-Error-Code": "EntryNotFound",
            "X-Repo-Commit": f"{UP}engine/pwned",
            "Content-Length": "2",
        }


@named("file of another commit")
def elsewhere(answer: Answer) -> None:
    if answer.is_file:
        answer.headers["X-Repo-Commit"] = "a" * 40


@named("no weights")
def none(answer: Answer) -> None:
    if not answer.is_file:
        data = json.loads(answer.body)

        def keep(entry: object) -> bool:
            return "safetensors" not in str(entry)

        if isinstance(data, dict):
            data["siblings"] = [*filter(keep, data["siblings"])]
        answer.body = json.dumps(data if isinstance(data, dict) else [*filter(keep, data)]).encode()


@named("size that is another")
def size(answer: Answer) -> None:
    answer.change(size=1)


@named("no size")
def unsized(answer: Answer) -> None:
    answer.change(size=None)


def outside(stack: Stack) -> set[Path]:
    top = stack.folder.parent
    return {path for path in top.rglob("*") if not path.is_relative_to(stack.cache) and "pwned" in str(path)}


@pytest.mark.parametrize("name", LIES)
def test_a_lie_is_one_sentence_and_leaves_the_cache_nowhere(name: str, stack: Stack, hub: LyingHub) -> None:
    hub.lie = LIES[name]
    done = stack.fetch()
    assert (done.code, done.out.count("verified")) == (26, 0), done
    assert done.err.startswith("fetch: the hub names "), done.err
    assert done.err.count("\n") == 1
    assert done.err.rstrip("\n").isprintable()
    assert not outside(stack)
    assert not stack.stamp.exists()


def test_the_answers_are_fine_without_a_lie(stack: Stack, hub: LyingHub) -> None:
    assert stack.fetch().code == 0
    assert {token for _, token in hub.tokens} == {f"Bearer {TOKEN}", ""}


def empty_beside(answer: Answer) -> None:
    """One more file, of no bytes: an honest hub may have it too."""
    if not answer.is_file:
        data = json.loads(answer.body)
        files = data["siblings"] if isinstance(data, dict) else data
        files += [
            dict(file, **{("rfilename" if "rfilename" in file else "path"): "empty.txt"}, size=0)
            for file in files[:1]
        ]
        answer.body = json.dumps(data).encode()
    elif answer.path.endswith("empty.txt"):
        answer.status, answer.body = 200, b""
        commit, etag = answer.path.split("/")[-2], "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
        answer.headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "X-Linked-Size": "0"}


@pytest.mark.parametrize("beside", [lambda _: None, empty_beside], ids=["alone", "beside an empty file"])
def test_what_is_sent_without_end_is_cut_off(
    beside: Callable[[Answer], None], stack: Stack, hub: LyingHub
) -> None:

    def endless(answer: Answer) -> None:
        beside(answer)
        if answer.is_file and answer.path.endswith(LFS):
            answer.status = 0
            answer.headers = {
                name: value for name, value in answer.headers.items() if name != "Content-Length"
            }

    hub.lie = endless
    done = stack.fetch(constants=SPARE)
    assert (done.code, "sends more" in done.err) == (26, True), done
    assert not list(stack.cache.rglob("*.incomplete"))
    assert hub.sent < 1 << 30


def test_two_revisions_fetched_at_once_do_not_end_each_other(stack: Stack, hub: LyingHub) -> None:
    large = fill(hub.folder / f"{MODEL}@refs-pr-1") / LFS
    large.write_bytes(safetensors(4 << 20))
    asked = threading.Event()

    def waits() -> bool:
        """Whether a process waits for a lock in this cache, by the kernel's list."""
        inodes = {f":{path.stat().st_ino} " for path in stack.folder.rglob("*.lock")}
        lines = Path("/proc/locks").read_text().splitlines()
        return any("-> FLOCK" in line and any(inode in line for inode in inodes) for line in lines)

    def slow(answer: Answer) -> None:
        if answer.is_file and answer.path.endswith(f"{fake_hub.commit(hub.folder / MODEL)}/{LFS}"):
            asked.set()
            poll_until(waits, 30)

    hub.lie = slow
    with ThreadPoolExecutor() as pool:
        first = pool.submit(stack.fetch, constants=SPARE)
        assert asked.wait(55)
        second = stack.fetch("--revision", "refs/pr/1", constants=SPARE)
    assert (first.result().code, second.code) == (0, 0), (first.result(), second)
    assert f"fetch: another stack downloads {MODEL} into this cache: waiting for it\n" in second.out


def test_no_token_follows_a_redirect_to_another_host(stack: Stack, hub: LyingHub) -> None:
    def away(answer: Answer) -> None:
        if answer.is_file and "stolen" not in answer.path:
            there = f"http://localhost:{hub.server_port}{answer.path}?stolen"
            answer.status, answer.body = 302, b""
            answer.headers |= {"Location": there, "X-Linked-Size": answer.headers.get("X-Linked-Size", "1")}

    hub.lie = away
    stack.fetch()
    elsewhere = [token for host, token in hub.tokens if host.startswith("localhost")]
    assert elsewhere
    assert not any(elsewhere)


@pytest.mark.parametrize(
    ("endpoint", "refused"),
    [("http://mirror.example", True), ("http://10.0.0.5:8080", True), ("http://hub:8080", True),
     ("HTTP://127.evil.example", True), ("http://[2001:db8::1]", True), ("ftp://mirror.example", True),
     (NOWHERE, False), ("http://localhost:9", False), ("http://[::1]:9", False), ("https://127.0.0.1:9", False)],
)  # fmt: skip
def test_a_token_is_sent_unencrypted_to_this_host_only(
    endpoint: str, *, refused: bool, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    stack = Stack(tmp_path, endpoint)
    (tmp_path / "token").write_text(TOKEN)
    done = stack.fetch()
    assert ("use https, or name no token" in done.err) == refused, done
    assert done.code == (20 if refused else 22)


def test_a_token_that_stays_on_this_host_passes_no_proxy(stack: Stack) -> None:
    assert stack.fetch(HTTP_PROXY=NOWHERE, NO_PROXY="mirror.example").code == 0


def test_a_rehearsals_hub_is_named(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    (tmp_path / "token").write_text(TOKEN)
    stack = Stack(tmp_path, "http://no-such-host.invalid:1")
    assert stack.fetch(HF_TOKEN_HTTP_HOST="no-such-host.invalid").code == 22


def test_what_a_hub_says_steers_no_terminal(stack: Stack, hub: LyingHub) -> None:
    def steering(answer: Answer) -> None:
        answer.status, answer.body = 500, b'{"error": "x\\u001b]0;x\\u0007"}'
        answer.headers = {
            "X-Error-Message": "bad \x1b]0;x\x07\x9b2J thing",
            "Content-Length": str(len(answer.body)),
        }

    hub.lie = steering
    done = stack.fetch("--revision", "a\x1b[2Jb")
    assert done.code
    assert all(line.isprintable() for line in (done.out + done.err).splitlines())
    assert not {"\r", "\x85", "\u2028"} & set(done.out + done.err)
