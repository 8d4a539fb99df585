"""What is wrong with the files in a gateway's folder: the map of keys, the certificate and its key; whoever reads them says it so."""

import stat
from collections.abc import Iterator
from shlex import quote

from ernie_deploy.gateway.certificate import Certificate, Fault, dated, nameless
from ernie_deploy.gateway.key_file import OTHERS_WRITE
from ernie_deploy.gateway.keys import FORM, parse

ADD = "ernie-deploy key add NAME"
INSTALL = "ernie-deploy tls install CERT KEY, or for testing: ernie-deploy tls self-signed"
# Of one map: more of them say nothing new.
MOST_LINES = 5


def absent(path: str, remedy: str) -> Fault:
    """That a file is missing without which HAProxy ends at once."""
    return Fault("error", f"{path} does not exist: the gateway does not start without it.", remedy)


def of_map(path: str, mode: int, text: str | None) -> Iterator[Fault]:
    """Who else can write to the map of keys, and the lines that grant nothing; None is a text that nobody could read."""
    if mode & OTHERS_WRITE:
        sentence = f"Others than its owner can write to {path} ({mode:04o}), and grant themselves a key."
        yield Fault("error", sentence, f"chmod go-w {quote(path)}")
    for fault in parse(text or "")[1][:MOST_LINES]:
        yield Fault("error", f"{path}, {fault}.", f"take the line out, or correct it: it is {FORM}")


def of_key_mode(path: str, mode: int) -> Iterator[Fault]:
    """Whether anybody on the host can read the private key, or change it."""
    if mode & stat.S_IRWXO:
        sentence = f"Everybody on this host can read {path} ({mode:04o})."
        remedy = f"chmod 600 {quote(path)}, and ask the CA for another certificate if anybody was there"
        yield Fault("error", sentence, remedy)


def of_pair(
    folder: str, certificate: Certificate | None, *, pair_ok: bool | None, now_s: float
) -> Iterator[Fault]:
    """Of the certificate in a folder, as openssl describes it; `pair_ok` is None where its key could not be read."""
    if certificate is None:
        yield Fault("error", f"{folder}/tls.crt is no certificate that openssl reads.", INSTALL)
        return
    if pair_ok is False:
        sentence = f"{folder}/tls.key is not the key of tls.crt: the gateway refuses the pair."
        yield Fault("error", sentence, INSTALL)
    yield from (*nameless(certificate), *dated(certificate, now_s))
