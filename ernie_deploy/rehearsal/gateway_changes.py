"""What a rehearsal changes at its running gateway, by the kit's own commands and under streams that must end whole."""

import os
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlsplit

from ernie_deploy.gateway import tls_files
from ernie_deploy.gateway.certificate import chain_of
from ernie_deploy.rehearsal.client import status
from ernie_deploy.rehearsal.planted import GATEWAY_DIR, gateway_owner
from ernie_deploy.rehearsal.proofs import STREAMS, asked, busy, complete, tokens_in
from ernie_deploy.rehearsal.stage import Disproved, Stage, until
from ernie_deploy.stack.compose import ask, demand

ADDED = "rehearsal-added"
# Longer than a command takes; where no stream outlasted one, the next are twice as long.
STREAM_S = 20.0
FIRST_S = 30
COMMAND_S = 120
TAKEN_UP_S = 10
# What the kit says of files that are not one pair, and HAProxy's refusal of them.
NO_PAIR, NOT_READ = "do not belong together", "The gateway refuses its files"


class Pair(NamedTuple):
    """A certificate and a private key, as PEM and where they lie."""

    chain: str
    key: str
    chain_path: Path
    key_path: Path


class Span(NamedTuple):
    """When something began and ended, in seconds of one clock."""

    begun: float
    ended: float

    def within(self, other: "Span") -> bool:
        """Whether the other began before it and ended after it."""
        return other.begun < self.begun and self.ended < other.ended


class Commands:
    """The kit's own commands for a stack, each a process as a user starts it, and when they ran."""

    def __init__(self, stage: Stage) -> None:
        self.spans: list[Span] = []
        self.files = [word for file in stage.stack.files for word in ("--file", str(file))]
        self.project = stage.stack.project

    def words(self, *words: str) -> list[str]:
        """A command line that is right from any folder."""
        own = [sys.executable, "-P", "-m", "ernie_deploy"]
        return [*own, *words, *self.files, "--project-name", self.project]

    def run(self, *words: str) -> str:
        """What a command prints; raises `ToolFailed` where it fails."""
        begun = time.monotonic()
        output = demand(self.words(*words), timeout_s=COMMAND_S)
        self.spans.append(Span(begun, time.monotonic()))
        return output

    def refused(self, sentence: str, *words: str) -> None:
        """Run what must end with an error of that sentence; raises `Disproved`."""
        done = ask(self.words(*words), timeout_s=COMMAND_S)
        if not done.returncode or sentence not in done.stderr:
            last = " ".join(done.stderr.split())[-300:]
            raise Disproved(f"instead of {sentence!r} it ended with {done.returncode}: {last}")


def key_comes_and_goes(stage: Stage) -> str:
    """`key add` lets a client in and `key revoke` shuts it out again, with a stream of another key under way."""
    return _under_streams(stage, lambda commands: _key_added_and_revoked(stage, commands))


def _key_added_and_revoked(stage: Stage, commands: Commands) -> str:
    begun = time.monotonic()
    key = commands.run("key", "add", ADDED).strip()
    stage.planted.made.append(key)
    added_s = _answered(stage, key, HTTPStatus.OK, begun)
    begun = time.monotonic()
    commands.run("key", "revoke", ADDED)
    revoked_s = _answered(stage, key, HTTPStatus.UNAUTHORIZED, begun)
    return f"200 {added_s:.1f} s after `key add` began, 401 {revoked_s:.1f} s after `key revoke`"


def _answered(stage: Stage, key: str, code: int, begun: float) -> float:
    """Seconds since `begun` when a key is answered with that status; raises `Disproved` where it is not."""
    seen: list[int] = []

    def asked_again() -> bool:
        seen.append(status(f"{stage.base_url}/v1/models", api_key=key))
        return seen[-1] == code

    try:
        until(asked_again, TAKEN_UP_S)
    except Disproved as fault:
        raise Disproved(f"the key was answered {seen[-1]} instead of {code:d}, {fault}") from fault
    return time.monotonic() - begun


def certificate_renewed(stage: Stage) -> str:
    """`tls install` refuses a wrong pair and `reload` takes up none; a right one is served at once, and no stream ends."""
    with _kept(stage), _pair(stage) as new, _pair(stage) as other, _trusted(stage, new.chain):
        _wrong_pair_refused(stage, new, other)
        installed = _under_streams(stage, lambda commands: _installed(stage, commands, new))
    return f"a wrong pair refused twice, the old one served on; {installed}"


def _wrong_pair_refused(stage: Stage, new: Pair, other: Pair) -> None:
    """Neither by the kit nor by the gateway, which goes on with the pair that it has; raises `Disproved`."""
    commands, before = Commands(stage), served(stage)
    commands.refused(NO_PAIR, "tls", "install", str(new.chain_path), str(other.key_path))
    # As a copy by hand leaves them: HAProxy in its container is asked, and goes on with what it has read.
    tls_files.put(stage.rehearsal.folder / GATEWAY_DIR, new.chain, other.key, gateway_owner(stage.rehearsal))
    commands.refused(NOT_READ, "reload")
    if (now := served(stage)) != before:
        raise Disproved(f"after a wrong pair {now} is served, and {before} was")


def _installed(stage: Stage, commands: Commands, new: Pair) -> str:
    begun, wanted = time.monotonic(), fingerprint(new.chain)
    commands.run("tls", "install", str(new.chain_path), str(new.key_path))
    until(lambda: served(stage) == wanted, TAKEN_UP_S)
    taken_s = time.monotonic() - begun
    return f"another handshake had the new certificate {taken_s:.1f} s after `tls install` began"


@contextmanager
def _kept(stage: Stage) -> Iterator[None]:
    """Where the block ends in a fault, the pair of before is put back: the later proofs trust what is served."""
    place = stage.rehearsal.folder / GATEWAY_DIR
    before = [
        (place / tls_files.FOLDER / name).read_text() for name in (tls_files.CERTIFICATE, tls_files.KEY)
    ]
    try:
        yield
    except BaseException:
        tls_files.put(place, before[0], before[1], gateway_owner(stage.rehearsal))
        raise


@contextmanager
def _trusted(stage: Stage, chain: str) -> Iterator[None]:
    """Have this process trust a certificate beside that of before: a stream may begin while either is served."""
    own, both = os.environ["SSL_CERT_FILE"], stage.rehearsal.folder / "trusted.pem"
    both.write_text(f"{Path(own).read_text()}\n{chain}\n")
    os.environ["SSL_CERT_FILE"] = str(both)
    try:
        yield
    finally:
        os.environ["SSL_CERT_FILE"] = own


@contextmanager
def _pair(stage: Stage) -> Iterator[Pair]:
    """A fresh pair for this host; its key is looked for later, and its files are gone by then."""
    chain, key = tls_files.self_signed(["127.0.0.1"])
    stage.planted.made.append(max(key.splitlines(), key=len))
    with TemporaryDirectory(prefix="pair-", dir=stage.rehearsal.folder) as name:
        pair = Pair(chain, key, Path(name) / "fullchain.pem", Path(name) / "privkey.pem")
        pair.chain_path.write_text(chain)
        pair.key_path.touch(mode=0o600)
        pair.key_path.write_text(key)
        yield pair


def served(stage: Stage) -> str:
    """The fingerprint of the certificate that a handshake of now shows; raises OSError."""
    parts = urlsplit(stage.base_url)
    assert parts.hostname, "an address of this host"
    return fingerprint(ssl.get_server_certificate((parts.hostname, parts.port or 443), timeout=TAKEN_UP_S))


def fingerprint(chain: str) -> str:
    """The SHA-256 of the first certificate of a PEM text."""
    return chain_of(chain, "the certificate")[0].fingerprint


def _under_streams(stage: Stage, change: Callable[[Commands], str]) -> str:
    """What `change` returns, made while one stream follows another: each ends whole, and one at least outlasts a command.

    How long a stream of so many tokens takes is another's load to say, so that none is made to outlast them all.
    """
    tokens = tokens_in(STREAM_S, stage)
    for _ in range(STREAMS):
        commands, streams, over = Commands(stage), list[Span](), threading.Event()
        with ThreadPoolExecutor(1) as pool:
            streaming = pool.submit(_keep_streaming, stage, tokens, streams, over)
            try:
                until(lambda stream=streaming: stream.done() or bool(busy(stage)), FIRST_S)  # type: ignore[misc]
                outcome = change(commands)
            finally:
                over.set()
        streaming.result()
        outlasted = sum(any(one.within(stream) for stream in streams) for one in commands.spans)
        if outlasted:
            whole = f"{len(streams) * tokens:,} of {len(streams) * tokens:,} tokens"
            return f"{outcome}; {whole} of streams meanwhile, open before and after {outlasted} of {len(commands.spans)} commands"
        tokens *= 2
    raise Disproved(f"no stream was open before a command and after it, the last of {tokens // 2} tokens")


def _keep_streaming(stage: Stage, tokens: int, streams: list[Span], over: threading.Event) -> None:
    """Ask for one stream after another, each judged at its end; raises `Disproved`."""
    while not over.is_set():
        begun = time.monotonic()
        complete(asked(stage, tokens), tokens)
        streams.append(Span(begun, time.monotonic()))
