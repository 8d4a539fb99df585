"""The gateway over TLS, with the real HAProxy and openssl as its client: versions, bad certificates, renewal."""

import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway import haproxy
from gateway.authority import Authority, Pair
from gateway.haproxy import Running
from gateway.upstream import Upstream, exchange, head

from ernie_deploy.stack.reload import YOUNGEST_S

KEY = "ek_" + "t" * 43
BEARER = f"Authorization: Bearer {KEY}"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


@pytest.fixture(scope="module")
def front(upstream: Upstream, ca: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    pair = ca.issue()
    folder = tmp_path_factory.mktemp("gateway")
    with haproxy.running(
        folder, upstream.address, {KEY: "alice:0:0:0"}, certificate=(pair.cert, pair.key), tls="files"
    ) as made:
        yield made


def client(port: int, *words: str) -> str:
    """What `openssl s_client` says of a handshake; its input ends at once."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", *words],
        input="", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def connected(front: Running, ca: Authority) -> ssl.SSLSocket:
    """A client that trusts the CA and asks for localhost."""
    context = ssl.create_default_context(cafile=str(ca.root.cert))
    plain = socket.create_connection(("127.0.0.1", front.port), timeout=20)
    return context.wrap_socket(plain, server_hostname="localhost")


# The client's own level is lowered: it must be the gateway that refuses.
LOW = ("-cipher", "ALL:@SECLEVEL=0")


@pytest.mark.parametrize(("version", "works"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)])
def test_the_versions_that_are_spoken(front: Running, ca: Authority, version: str, works: bool) -> None:
    low = LOW if version == "-tls1_1" else ()
    output = client(front.port, version, *low, "-CAfile", str(ca.root.cert), "-verify_return_error")
    assert ("Verify return code: 0 (ok)" in output and "Cipher is (NONE)" not in output) == works, output
    if not works:
        assert "alert protocol version" in output


@pytest.mark.parametrize(
    "cipher", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384"]
)
def test_ciphers_without_forward_secrecy_or_authentication_are_refused(front: Running, cipher: str) -> None:
    assert "handshake failure" in client(front.port, "-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")


def test_http_is_answered_over_tls_and_speaks_http_1_alone(front: Running, ca: Authority) -> None:
    with connected(front, ca) as tls:
        tls.sendall(head("GET", "/v1/models", BEARER))
        assert tls.recv(65536).startswith(b"HTTP/1.1 200")
    assert "ALPN protocol: http/1.1" in client(front.port, "-alpn", "h2,http/1.1")


@pytest.mark.parametrize(
    "first",
    [head("GET", "/v1/models", BEARER), b"\x00" * 512, b"SSH-2.0-x\r\n"],
    ids=["http", "zeros", "ssh"],
)
def test_what_is_no_tls_is_cut_at_once_and_reaches_nobody(
    front: Running, upstream: Upstream, first: bytes
) -> None:
    before, began = len(upstream.arrived), time.monotonic()
    try:
        answer = exchange(front.port, first)
    except ConnectionError:
        answer = b""
    assert b"HTTP/" not in answer
    assert time.monotonic() - began < 8
    asked = [one for one in upstream.arrived[before:] if "/health" not in one.line]
    assert asked == []


def verdict(front: Running) -> "subprocess.CompletedProcess[str]":
    """What `reload` asks first: HAProxy's own check of the files as they are now."""
    return haproxy.check(front.plan, front.folder / "haproxy.cfg")


def place(front: Running, cert: Path, key: Path) -> None:
    for path, name in ((cert, "tls.crt"), (key, "tls.key")):
        (front.folder / "tls" / f".{name}").write_text(path.read_text())
        (front.folder / "tls" / f".{name}").replace(front.folder / "tls" / name)


def serial(front: Running) -> int:
    """The serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", front.port), timeout=20) as plain,
        context.wrap_socket(plain) as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown
    done = subprocess.run(
        ["openssl", "x509", "-inform", "DER", "-noout", "-serial"],
        input=shown,
        capture_output=True,
        check=True,
    )
    return int(done.stdout.decode().strip().rpartition("=")[2], 16)


def serial_of(pair: Pair) -> int:
    done = subprocess.run(
        ["openssl", "x509", "-in", pair.cert, "-noout", "-serial"], capture_output=True, check=True
    )
    return int(done.stdout.decode().strip().rpartition("=")[2], 16)


def reload(front: Running) -> None:
    """What `ernie-deploy reload` does inside the container, to a gateway of some age: a master that has just started
    may lose the signal, because it executes itself anew."""
    time.sleep(YOUNGEST_S)
    os.kill(front.process.pid, signal.SIGUSR2)


EVENTS = 30


def slow(connection: socket.socket) -> None:
    """A stream of events over three seconds."""
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    for number in range(EVENTS):
        connection.sendall(b"data: %d\n\n" % number)
        time.sleep(0.1)
    connection.sendall(b"data: [DONE]\n\n")


def test_a_renewal_during_a_stream_cuts_nothing_and_new_clients_see_the_new_certificate(
    front: Running, upstream: Upstream, ca: Authority
) -> None:
    renewed, old = ca.issue(), serial(front)
    upstream.answer, usual = slow, upstream.answer
    try:
        with connected(front, ca) as stream:
            stream.sendall(head("POST", "/v1/completions", BEARER, body="{}"))
            received = stream.recv(65536)
            place(front, renewed.cert, renewed.key)
            reload(front)
            haproxy.until(lambda: serial(front) == serial_of(renewed))
            assert b"[DONE]" not in received
            while more := stream.recv(65536):
                received += more
    finally:
        upstream.answer = usual
    assert serial(front) != old
    for number in range(EVENTS):
        assert b"data: %d\n\n" % number in received
    assert received.count(b"[DONE]") == 1


def test_a_wrong_pair_is_refused_before_the_reload_and_the_old_one_goes_on(
    front: Running, ca: Authority
) -> None:
    before = serial(front)
    good = [(front.folder / "tls" / name).read_text() for name in ("tls.crt", "tls.key")]
    place(front, ca.issue().cert, ca.issue().key)
    done = verdict(front)
    assert done.returncode != 0
    assert "tls.key" in done.stderr or "inconsistencies" in done.stderr
    # Even a reload that nobody checked leaves the listener to the old process.
    reload(front)
    time.sleep(1)
    assert front.process.poll() is None
    assert serial(front) == before
    for name, text in zip(("tls.crt", "tls.key"), good, strict=True):
        (front.folder / "tls" / name).write_text(text)
    assert verdict(front).returncode == 0
    reload(front)
    with connected(front, ca) as tls:
        tls.sendall(head("GET", "/v1/models", BEARER))
        assert tls.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_expired_certificate_is_one_that_clients_refuse_so_that_the_kit_must_see_it(
    front: Running, ca: Authority
) -> None:
    """HAProxy itself serves it without a word: `tls install`, `doctor` and the alert are what tells."""
    old = ca.issue("localhost", -30, -1)
    place(front, old.cert, old.key)
    assert verdict(front).returncode == 0
    reload(front)
    haproxy.until(lambda: serial(front) == serial_of(old))
    assert "certificate has expired" in client(front.port, "-CAfile", str(ca.root.cert))
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connected(front, ca)
