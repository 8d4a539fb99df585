"""The scripts that make nodes one server: the check before the engine, the head's beacon, a worker's probe."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import resource
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import free_port
from container_scripts import SCRIPTS, copied
from test_canary import can_unshare, until_gone

from ernie_deploy.stack.waiting import poll_until

# Addresses of this host that are not the loopback's own 127.0.0.1: any in 127/8 can be bound.
HEAD, OTHER, STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
SECRET = "5" * 64
BECOMES = [sys.executable, "-c", "import sys; print('engine', *sys.argv[1:])", "vllm", "serve", "--headless"]


def source(name: str, folder: Path, **constants: object) -> tuple[Path, str]:
    """A script in a folder of its own with the others, with constants that a test can wait for; and its text."""
    path = copied(folder / f"scripts-{name}", **constants) / name
    return path, path.read_text()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Ended]:
    """Run node.py as a container would, with options by name."""

    def run(role: str, path: str = "", bound_to: str = "", interfaces: str = "lo", **said: object) -> Ended:
        places = {name: f"Path({str(tmp_path / file)!r})" for name, file in PLACES.items()}
        place, text = source("node.py", tmp_path, RETRY_S=0.05, **places)
        # Here every address is one of this host's, so those of one host stand for it.
        text = text.replace(".is_loopback", ".is_multicast")
        # Those of this host come and go with its containers.
        if interfaces:
            there = [*enumerate(interfaces.split(), start=1)]
            text = text.replace("socket.if_nameindex()", repr(there))
        text = text.replace("probe.bind((address, 0))", f"assert address == {HERE[role]!r} or raise_()")
        if bound_to:
            group = place.with_name("group.py")
            asking = group.read_text().replace(
                "source_address=(host, 0)", f"source_address=({bound_to!r}, 0)"
            )
            group.write_text(asking)
        place.write_text(text.replace("def is_here(", "def raise_():\n    raise OSError\n\n\ndef is_here("))
        known = {
            "rank": "0" if role == "head" else "1", "head": HEAD, "host_ip": HERE[role], "nic": "lo",
            "secret_file": "./group-secret/secret", "nodes": 2, "port": free_port(), "beacon_port": free_port(), "wait_s": 0.3, **said,
        }  # fmt: skip
        options = [
            f"--{name.replace('_', '-')}={value}" for name, value in known.items() if value is not True
        ]
        options += [f"--{name}" for name, value in known.items() if value is True]
        done = subprocess.run(
            [sys.executable, "-IS", place, role, *options, "--", *BECOMES],
            capture_output=True, text=True, timeout=120,
            env={**os.environ, "PATH": f"{path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    (tmp_path / "group-secret").write_text(f"{SECRET}\n")
    return run


PLACES = {"START": "head-start", "SECRET": "group-secret"}
HERE = {"head": HEAD, "worker": OTHER}


@pytest.mark.parametrize(
    ("role", "said", "code", "sentence"),
    [
        ("head", {"rank": ""}, 30,
         "node: NODE_RANK is not set: write it into .env with `ernie-deploy doctor TARGET --nodes 2 --write-env "),
        ("worker", {"rank": "2"}, 30,
         "node: NODE_RANK '2' is not a number from 0 to 1: correct it in .env, then run `docker compose --profile "),
        ("worker", {"rank": "-1"}, 30, "node: NODE_RANK '-1' is not a number from 0 to 1: "),
        ("worker", {"rank": "0"}, 30,
         "node: NODE_RANK is 0, but this is the profile worker and rank 0 is the head alone: "),
        ("head", {"rank": "1"}, 30, "node: NODE_RANK is 1, but this is the profile head "),
        ("worker", {"host_ip": "192.0.2.7"}, 31,
         "node: HOST_IP '192.0.2.7' is no address of this host, likely from another node's .env: "),
        ("worker", {"host_ip": ""}, 31, "node: HOST_IP '' is no address of this host"),
        ("worker", {"nic": "eth9"}, 32, "node: NIC 'eth9' is no interface of this host, which has "),
        ("worker", {"head": ""}, 33, "node: HEAD_ADDR '' does not resolve "),
        ("worker", {"head": "no.such.host.invalid"}, 33, "node: HEAD_ADDR 'no.such.host.invalid' does not resolve ("),
        ("worker", {"head": OTHER}, 33, f"node: HEAD_ADDR {OTHER} is this very host, but NODE_RANK is 1: "),
        ("head", {"head": OTHER}, 33, f"node: HEAD_ADDR {OTHER} is no address of this host, but NODE_RANK is 0: "),
        ("head", {"secret_file": "/dev/null"}, 38,
         "node: GROUP_SECRET_FILE is not set: write it into .env with `ernie-deploy doctor TARGET --nodes 2 --write-env "),
        ("worker", {"secret_file": ""}, 38, "node: GROUP_SECRET_FILE is not set: "),
    ],
)  # fmt: skip
def test_wrong_values_are_one_sentence_and_their_code(
    node: Callable[..., Ended], role: str, said: dict[str, object], code: int, sentence: str
) -> None:
    ended = node(role, **said)
    assert ended.code == code
    assert ended.err.startswith(sentence), ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


@pytest.mark.parametrize("secret", ["", "short"])
def test_a_worker_without_a_secret_worth_the_name_is_refused(
    node: Callable[..., Ended], tmp_path: Path, secret: str
) -> None:
    (tmp_path / "group-secret").write_text(secret)
    ended = node("worker")
    assert ended.code == 38
    assert ended.err.startswith(
        "node: GROUP_SECRET_FILE ./group-secret/secret holds no secret that can be read: copy the head's file here, "
    )


def test_the_interfaces_that_are_there_are_listed(node: Callable[..., Ended]) -> None:
    err = node("head", nic="eth9", interfaces="lo ens1f0 bond0").err
    assert "which has bond0, ens1f0, lo: correct it in .env" in err


DOCKERS = ["docker0", "docker_gwbridge", "br-0123456789ab", *(f"veth{number:07x}" for number in range(200))]


def test_dockers_own_interfaces_are_not_offered(node: Callable[..., Ended]) -> None:
    """They lead to no other node, and a host of many containers has hundreds."""
    err = node("head", nic="eth9", interfaces=" ".join([*DOCKERS, "br-lan", "eth0", "lo", "veth0"])).err
    assert "which has br-lan, eth0, lo, veth0: correct it in .env" in err


def test_an_interface_of_dockers_may_be_chosen(node: Callable[..., Ended]) -> None:
    assert node("head", nic=DOCKERS[2], interfaces=" ".join(DOCKERS)).code == 0


def test_the_kernels_own_list_of_interfaces_is_read(node: Callable[..., Ended]) -> None:
    assert re.search(
        r"which has (?:\S+, )*lo(?:, \S+)*: correct", node("head", nic="eth9", interfaces="").err
    )


def test_loopback_is_no_head() -> None:
    words = ["worker", "--rank=1", "--head=localhost", "--host-ip=127.0.0.1", "--nic=lo"]
    words += ["--nodes=2", "--port=1", "--beacon-port=2", "--", "true"]
    done = subprocess.run(
        [sys.executable, "-IS", SCRIPTS / "node.py", *words], capture_output=True, text=True
    )
    assert done.returncode == 33
    assert (
        "HEAD_ADDR localhost is every host's own: give the address that the other nodes reach" in done.stderr
    )


def test_the_head_becomes_the_engine_and_notes_its_start(node: Callable[..., Ended], tmp_path: Path) -> None:
    before = time.time_ns()
    ended = node("head")
    assert (ended.code, ended.out) == (0, "engine vllm serve --headless\n"), ended.err
    assert ended.err == f"node: rank 0 of 2 nodes, {HEAD} on lo, head {HEAD}\n"
    assert before < int((tmp_path / "head-start").read_text()) < time.time_ns()


def test_a_worker_joins_a_head_that_listens(node: Callable[..., Ended]) -> None:
    with socket.create_server((HEAD, 0)) as listening:
        ended = node("worker", port=listening.getsockname()[1])
    assert (ended.code, ended.out) == (0, "engine vllm serve --headless\n"), ended.err


def test_no_head_is_one_sentence_within_the_limit(node: Callable[..., Ended]) -> None:
    port = free_port()
    ended = node("worker", port=port)
    first, last = ended.err.splitlines()
    reason = "nothing answers, so it is not up, or a firewall closes its ports"
    assert first == f"node: waiting for the head at {HEAD}:{port}, 0 of 0 s: {reason}"
    assert last == (
        f"node: the head at {HEAD}:{port} let no rank in within 0 s: {reason};"
        " start the head, or open the port on it, then run `docker compose --profile worker up -d`"
    )
    assert ended.code == 34


@pytest.fixture
def ray(tmp_path: Path) -> Path:
    """A `ray` that says how many GPUs have joined."""
    script = tmp_path / "ray"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n'
        f'[ $1 = status ] && echo " 0.0/128.0 CPU\\n 0.0/$(cat {tmp_path}/gpus).0 GPU"\nexit 0\n'
    )
    script.chmod(0o755)
    return tmp_path


def test_ray_is_started_and_every_gpu_awaited(node: Callable[..., Ended], ray: Path) -> None:
    (ray / "gpus").write_text("16")
    ended = node("head", path=str(ray), ray=True, gpus=8, port=6379)
    assert (ended.code, ended.out) == (0, "engine vllm serve --headless\n"), ended.err
    start, status = (ray / "asked").read_text().splitlines()
    assert start == (
        f"start --head --node-ip-address={HEAD} --port=6379 --num-gpus=8 --object-store-memory=4000000000"
        " --include-dashboard=false --disable-usage-stats"
    )
    assert status == "status"


def test_a_worker_starts_no_head_of_a_cluster_of_its_own(node: Callable[..., Ended], ray: Path) -> None:
    """It becomes `ray start --address`, which joins the head's."""
    (ray / "gpus").write_text("8")
    with socket.create_server((HEAD, 0)) as listening:
        ended = node("worker", path=str(ray), ray=True, gpus=8, port=listening.getsockname()[1])
    assert (ended.code, ended.out) == (0, "engine vllm serve --headless\n"), ended.err
    assert not (ray / "asked").exists()


def test_a_missing_ray_node_is_told(node: Callable[..., Ended], ray: Path) -> None:
    (ray / "gpus").write_text("8")
    ended = node("head", path=str(ray), ray=True, gpus=8, nodes=3, port=6379)
    assert ended.code == 36
    # The limit is 0.3 s; what a busy machine adds is told too.
    assert re.sub(r"after \d+ s", "after 0 s", ended.err.splitlines()[-1]) == (
        "node: 8 of 24 GPUs have joined, 2 nodes are missing after 0 s: start the profile worker on them,"
        " and open port 6379, then run `docker compose --profile head up -d`"
    )


# --- the beacon and the probe ---


class Api(ThreadingHTTPServer):
    """A head's API, healthy or not."""

    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Health)


class Health(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Group(NamedTuple):
    """A head with its beacon, and a worker's container."""

    folder: Path
    api: Api
    port: int

    def start(self, stamp: str) -> None:
        (self.folder / "head-start").write_text(f"{stamp}\n")

    def probe(self, rank: str = "1", host: str = OTHER, port: int = 0) -> tuple[int, str]:
        starts = f"Path({str(self.folder / 'starts')!r})"
        script, _ = source("group.py", self.folder, STARTS=starts, SECRET=self.secret)
        words = [sys.executable, "-IS", script, "probe", HEAD, str(port or self.port), rank, host]
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
        assert done.stderr == ""
        return done.returncode, done.stdout.rstrip("\n")

    @property
    def secret(self) -> str:
        return f"Path({str(self.folder / 'group-secret')!r})"

    def say(self, line: str, host: str = OTHER) -> str:
        """One line to the beacon from an address of this host, and its answer."""
        address = (HEAD, self.port)
        with socket.create_connection(address, timeout=60, source_address=(host, 0)) as connection:
            connection.sendall(f"{line}\n".encode())
            # Closed with some of it unread, by a beacon that had enough.
            with contextlib.suppress(ConnectionResetError):
                return connection.makefile("r").read()
        return ""

    def ask(self, rank: str, host: str, start: str = "-", *, true: str = "") -> tuple[int, str]:
        """A signed question, from `true` where `host` is a lie; the answer is signed too."""
        nonce = secrets.token_hex(16)
        words = [rank, host, start, nonce]
        answer = self.say(" ".join([*words, sign("ask", *words)]), true or host)
        status, signature, text = answer.rstrip("\n").split(" ", 2)
        assert signature == sign("answer", nonce, status, text)
        return int(status), text


def sign(*words: str, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), "\n".join(words).encode(), "sha256").hexdigest()


@contextlib.contextmanager
def beacon_of(tmp_path: Path, api: Api, port: int, **constants: object) -> Iterator[None]:
    places = {name: f"Path({str(tmp_path / file)!r})" for name, file in PLACES.items()}
    script, _ = source("group.py", tmp_path / "beacon", **constants, **places)
    words = [sys.executable, "-IS", script, "beacon", HEAD, str(port), f"127.0.0.1:{api.server_port}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as beacon:
        assert beacon.stdout
        assert beacon.stdout.readline() == f"beacon: the workers may ask at {HEAD}:{port}\n"
        yield
        beacon.terminate()
        assert beacon.wait(60) == 0


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    port = free_port()
    (tmp_path / "group-secret").write_text(f"{SECRET}\n")
    (tmp_path / "joins").touch()
    with Api() as api:
        threading.Thread(target=api.serve_forever, args=(0.02,), daemon=True).start()
        with beacon_of(tmp_path, api, port):
            yield Group(tmp_path, api, port)
        api.shutdown()


def test_the_beacon_tells_the_start_of_a_head_that_serves(group: Group) -> None:
    assert group.ask("1", OTHER) == (503, "the head does not serve")  # no start noted yet
    group.start("17")
    assert group.ask("1", OTHER) == (200, "17")
    group.api.status = 503
    assert group.ask("1", OTHER) == (503, "the head does not serve")


def test_a_rank_belongs_to_the_host_that_uses_it(group: Group) -> None:
    group.start("17")
    assert group.ask("1", OTHER)[0] == 200
    assert group.ask("1", STRANGER) == (409, f"the rank 1 is {OTHER}'s")
    assert group.ask("2", STRANGER)[0] == 200


def test_a_rank_that_nobody_uses_any_more_is_free(group: Group, tmp_path: Path) -> None:
    group.start("17")
    port = free_port()
    with beacon_of(tmp_path, group.api, port, CLAIM_S=0.5):
        anew = group._replace(port=port)
        assert anew.ask("1", OTHER)[0] == 200
        # How often it is asked meanwhile is the machine's to decide: a refusal renews no claim.
        assert poll_until(lambda: anew.ask("1", STRANGER)[0] == 200, 20)


def test_who_serves_with_this_head_keeps_its_rank(group: Group) -> None:
    """The beacon alone was started anew, and a misplaced node with the secret asks first."""
    group.start("17")
    assert group.ask("1", STRANGER)[0] == 200
    assert group.ask("1", OTHER, "16")[0] == 409
    assert group.ask("1", OTHER, "17") == (200, "17")
    assert group.ask("1", STRANGER)[0] == 409


def test_a_claim_is_for_the_address_that_it_comes_from(group: Group) -> None:
    group.start("17")
    refusal = f"it is reached from {STRANGER} and not from HOST_IP {OTHER}"
    assert group.ask("1", OTHER, true=STRANGER) == (403, refusal)
    assert group.ask("1", OTHER)[0] == 200


def unsigned(*words: str) -> str:
    return " ".join(words)


@pytest.mark.parametrize(
    "line",
    [
        "GET /?rank=1&host=6.6.6.6 HTTP/1.1\r\n",
        "",
        unsigned("1", STRANGER, "-", "0" * 32, "0" * 64),
        unsigned("1", STRANGER, "-", "0" * 32, sign("ask", "1", STRANGER, "-", "0" * 32, secret="")),
        unsigned("1", STRANGER, "-", "0" * 32, sign("ask", "1", STRANGER, "-", "1" * 32)),
        unsigned("2", STRANGER, "-", "0" * 32, sign("ask", "1", STRANGER, "-", "0" * 32)),
        unsigned("1", STRANGER, "-", "0" * 32, sign("answer", "1", STRANGER, "-", "0" * 32)),
        unsigned("1", STRANGER, "-", "0" * 32, "\u00e4" * 64),
        "x" * 100_000,
    ],
)
def test_a_stranger_gets_no_word_and_no_rank(group: Group, line: str) -> None:
    group.start("17")
    assert group.say(line, STRANGER) == ""
    assert group.ask("1", OTHER) == (200, "17")


def test_a_stranger_after_the_heads_restart_does_not_end_the_worker(group: Group, tmp_path: Path) -> None:
    """It asks for every rank before the worker does."""
    group.start("17")
    assert group.probe()[0] == 0
    port = free_port()
    with beacon_of(tmp_path, group.api, port):
        anew = group._replace(port=port)
        for rank in range(8):
            assert anew.say(f"GET /?rank={rank}&host={STRANGER} HTTP/1.1\r\n\r\n", STRANGER) == ""
            anew.say(unsigned(f"{rank}", STRANGER, "17", "0" * 32, "0" * 64), STRANGER)
        assert [anew.probe() for _ in range(4)] == [(0, "healthy: the head serves")] * 4


def test_a_beacon_of_a_stranger_steers_no_worker(group: Group, node: Callable[..., Ended]) -> None:
    """Who answers without the secret is silence: no other start, no taken rank, no word in the log."""
    group.start("17")
    group.probe()
    with socket.create_server((HEAD, 0)) as false:
        port, over = false.getsockname()[1], threading.Event()

        def lie() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    connection = false.accept()[0]
                    nonce = connection.recv(1024).decode().split()[3]
                    forged = sign("answer", nonce, "200", "18", secret="0" * 64)
                    connection.sendall(f"200 {forged} 18 \x1b]0;x\x07\n".encode())
                    connection.close()

        threading.Thread(target=lie, daemon=True).start()
        assert group.probe(port=port) == (1, "unhealthy: no answer from the head that its secret signed")
        ended = node("worker", beacon_port=port)
        over.set()
    assert ended.code == 34
    assert "another group's secret, so copy the head's GROUP_SECRET_FILE to this node" in ended.err
    assert "\x1b" not in ended.err


SILENT, OTHER_FILES = 6000, 500


@pytest.fixture
def many_files() -> Iterator[int]:
    """How many connections this process may hold meanwhile: as many as are wanted, or as the hard limit lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = SILENT + OTHER_FILES if hard == resource.RLIM_INFINITY else min(SILENT + OTHER_FILES, hard)
    if most < 2 * OTHER_FILES:
        pytest.skip(f"this process may open {hard} files")
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most if soft == resource.RLIM_INFINITY else max(soft, most), hard)
    )
    try:
        yield most - OTHER_FILES
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_silent_connections_starve_no_worker(group: Group, many_files: int) -> None:
    group.start("17")
    silent = []
    try:
        for number in range(many_files):
            # From many addresses, for those of one take room from one another alone.
            host = f"127.0.{1 + number % 200}.{1 + number // 200 % 200}"
            connection = socket.create_connection((HEAD, group.port), timeout=60, source_address=(host, 0))
            connection.sendall(b"GET /")
            silent.append(connection)
            if number % 1000 == 0:
                assert group.ask("1", OTHER) == (200, "17")
        assert [group.probe() for _ in range(3)] == [(0, "healthy: the head serves")] * 3
    finally:
        for connection in silent:
            connection.close()


def test_one_host_takes_no_more_than_its_share(group: Group) -> None:
    group.start("17")
    held = [socket.create_connection((HEAD, group.port), source_address=(STRANGER, 0)) for _ in range(40)]
    begun = time.monotonic()
    assert group.ask("1", OTHER) == (200, "17")
    assert time.monotonic() - begun < 5
    for connection in held:
        # The first of them at once, the last when their time is over.
        connection.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()


def test_a_beacon_without_a_secret_is_one_sentence(tmp_path: Path) -> None:
    script, _ = source("group.py", tmp_path, SECRET=f"Path({str(tmp_path / 'none')!r})")
    words = [sys.executable, "-IS", script, "beacon", HEAD, "1", "127.0.0.1:9"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 38
    assert done.stderr.startswith(
        "beacon: GROUP_SECRET_FILE names no secret that can be read: make one with "
    )
    assert done.stderr.count("\n") == 1


def test_a_beacon_on_a_taken_port_is_one_sentence(group: Group, tmp_path: Path) -> None:
    script, _ = source("group.py", tmp_path, SECRET=group.secret)
    words = [sys.executable, "-IS", script, "beacon", HEAD, str(group.port), "127.0.0.1:9"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 37
    assert done.stderr == (
        f"beacon: {HEAD}:{group.port} cannot be listened on (Address already in use), likely because HEAD_ADDR in"
        " .env is not this host's or the port is taken: correct it, then run `docker compose --profile head up -d`\n"
    )


def test_a_second_worker_of_the_same_rank_is_refused(group: Group, node: Callable[..., Ended]) -> None:
    group.start("17")
    group.ask("1", STRANGER)
    ended = node("worker", beacon_port=group.port)
    assert ended.code == 35
    assert ended.err == (
        f"node: the rank 1 is {STRANGER}'s: give this node another NODE_RANK in .env,"
        " then run `docker compose --profile worker up -d`\n"
    )


def test_a_node_that_the_head_sees_elsewhere_is_refused(group: Group, node: Callable[..., Ended]) -> None:
    """Network address translation between the nodes."""
    group.start("17")
    ended = node("worker", beacon_port=group.port, bound_to=STRANGER)
    assert ended.code == 31
    assert ended.err.startswith(
        f"node: HOST_IP '{OTHER}' is not how the head sees this node, it is reached from {STRANGER} and not from "
    )


def test_a_worker_waits_for_the_head_to_lose_its_former_process(
    group: Group, node: Callable[..., Ended]
) -> None:
    group.start("17")
    with socket.create_server((HEAD, 0)) as listening:
        said = {"port": listening.getsockname()[1], "beacon_port": group.port}
        (group.folder / "joins").unlink()
        ended = node("worker", **said)
        assert ended.code == 34
        assert "it still serves with the former process of this rank" in ended.err
        # The head is well, and this rank is not in its group.
        assert group.probe() == (1, "not healthy yet: this rank waits to be let in")
        group.api.status = 503
        assert node("worker", **said).code == 0
        group.api.status = 200
        assert group.probe() == (0, "healthy: the head serves")


def test_an_engine_that_does_not_listen_yet_is_told_from_a_host_that_is_down(
    group: Group, node: Callable[..., Ended]
) -> None:
    ended = node("worker", beacon_port=group.port)
    assert "its host answers, but its engine does not listen yet" in ended.err


def test_a_worker_is_healthy_while_the_head_serves(group: Group) -> None:
    (group.folder / "starts").write_text("2\n")
    assert group.probe() == (1, "not healthy yet: the head does not serve")
    assert (group.folder / "starts").exists()
    group.start("17")
    assert [group.probe() for _ in range(2)] == [(0, "healthy: the head serves")] * 2
    assert not (group.folder / "starts").exists()


def test_a_head_that_never_served_is_no_loss(group: Group) -> None:
    for _ in range(4):
        assert group.probe()[1] == "not healthy yet: the head does not serve"


def test_a_secret_that_is_gone_ends_no_worker(group: Group) -> None:
    """Then nothing is known of the group."""
    group.start("17")
    group.probe()
    (group.folder / "group-secret").unlink()
    line = "unhealthy: GROUP_SECRET_FILE names no secret that can be read"
    assert [group.probe() for _ in range(4)] == [(1, line)] * 4


SPARED = "PID 1 did not start vllm or ray, so this is not its container: nothing is killed"


def test_three_misses_end_a_worker(group: Group) -> None:
    group.start("17")
    group.probe()
    group.api.status = 500
    assert [group.probe() for _ in range(2)] == [(1, "unhealthy: the head does not serve")] * 2
    assert group.probe() == (
        1, f"unhealthy: the head does not serve, 3 probes in a row: its group is gone, every process is killed for a new start\n{SPARED}",
    )  # fmt: skip


def test_silence_counts_too_and_an_answer_forgives(group: Group) -> None:
    group.start("17")
    group.probe()
    closed = free_port()
    for port in (closed, closed, 0, closed, closed):
        assert "its group is gone" not in group.probe(port=port)[1]
    assert group.probe(port=closed)[1].startswith(
        "unhealthy: no answer from the head (ConnectionRefusedError), 3 probes"
    )


def test_a_head_that_was_started_anew_ends_a_worker(group: Group) -> None:
    group.start("17")
    group.probe()
    group.start("18")
    assert group.probe() == (
        1, f"unhealthy: the head was started anew, and this rank belongs to the group before, every process is killed for a new start\n{SPARED}",
    )  # fmt: skip


@pytest.mark.skipif(not can_unshare(), reason="no PID namespace can be made here (needs root)")
@pytest.mark.parametrize("word", ["vllm", "ray", "other"])
def test_a_lost_head_kills_all_but_the_init(tmp_path: Path, word: str) -> None:
    """A shell stands for Docker's init; `word` is on its command line."""
    (tmp_path / "group-secret").write_text(SECRET)
    secret = f"Path({str(tmp_path / 'group-secret')!r})"
    script, _ = source("group.py", tmp_path, MISSES=1, SECRET=secret)
    (tmp_path / "group.json").write_text('["17", 0]')
    (tmp_path / "joins").touch()
    init = f"""
        sleep 60 & engine=$!
        {sys.executable} {script} probe 127.0.0.1 9 1 127.0.0.2
        {until_gone("$engine", tries=2 if word == "other" else 200)}
        kill -0 $engine 2>/dev/null && echo engine lives || echo engine killed
        kill -9 $engine 2>/dev/null
        echo init lives
    """
    command = ["unshare", "--pid", "--fork", "--mount-proc", "bash", "-c", init, word]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("init lives\n")
    assert ("engine killed" in done.stdout) == (word != "other"), done
    assert ("group: no answer from the head (Conn" in done.stderr) == (word != "other")
