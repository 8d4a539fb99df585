"""Checks of a gateway's folder: keys and certificate are there, in date, and open to the gateway and to nobody else."""

import time
from collections.abc import Iterator
from shlex import quote

from ernie_deploy.gateway.certificate import dated, nameless
from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.front_files import Front
from ernie_deploy.host.probes import Stat

READ, OTHERS, OTHERS_WRITE = 0o4, 0o7, 0o022
INSTALL = "ernie-deploy tls install CERT KEY, or for a laboratory: ernie-deploy tls self-signed"
AGAIN = "ernie-deploy tls install, which gives both to the gateway"


def keys(examination: Examination) -> Iterator[Finding]:
    """The map of keys is there, the gateway can read it, and nobody but its owner can write to it."""
    if not (front := examination.front):
        return
    path, stat = f"{front.folder}/keys.map", front.keys
    if stat is None:
        sentence = f"{path} does not exist: the gateway does not start without it."
        yield error("gateway-keys", sentence, "ernie-deploy key add NAME")
    elif not stat.size:
        yield warning(
            "gateway-keys", f"{path} is empty: the gateway lets nobody in.", "ernie-deploy key add NAME"
        )
    elif stat.mode & OTHERS_WRITE:
        sentence = f"Others than its owner can write to {path} ({stat.mode:04o}), and give themselves a key."
        yield error("gateway-keys", sentence, f"chmod go-w {quote(path)}")
    else:
        yield from _readable(examination, "gateway-keys", path, stat, f"chmod o+r {quote(path)}") or [
            ok("gateway-keys", f"{path} is the gateway's to read, and its owner's to write.")
        ]


def _readable(examination: Examination, name: str, path: str, stat: Stat, remedy: str) -> list[Finding]:
    """The finding where the gateway's user may not read a file; none where it may."""
    user = examination.values["GATEWAY_USER"]
    uid, _, gid = user.partition(":")
    if stat.kind == "closed" or examination.facts.docker.other_users or not (uid + gid).isdecimal():
        return [unknown(name, f"Whether the gateway can read {path} could not be seen.")]
    if stat.allows(int(uid), int(gid or 0), READ):
        return []
    sentence = (
        f"{path} belongs to {stat.uid}:{stat.gid} ({stat.mode:04o}); the gateway, {user}, may not read it."
    )
    return [error(name, sentence, remedy)]


def tls(examination: Examination) -> Iterator[Finding]:
    """With --tls: the certificate and its key are there, belong together and are in date."""
    front = examination.front
    if not front or not examination.plan.request.tls:
        return
    findings = [*_files(examination, front), *_content(front)]
    if not findings and front.certificate:
        one = front.certificate
        names = " ".join(one.names) or one.subject
        own = "; self-signed, for a laboratory" if one.is_self_signed else ""
        findings.append(
            ok("tls", f"The certificate is for {names}, {one.days_left(time.time())} days left{own}.")
        )
    yield from findings


def _files(examination: Examination, front: Front) -> Iterator[Finding]:
    """Owner and mode of certificate and key."""
    certificate, key = f"{front.folder}/tls/tls.crt", f"{front.folder}/tls/tls.key"
    for path, stat in ((certificate, front.certificate_file), (key, front.key_file)):
        if stat is None:
            yield error("tls", f"{path} does not exist: the gateway does not start without it.", INSTALL)
        else:
            yield from _readable(examination, "tls", path, stat, AGAIN)
    if front.key_file and front.key_file.kind == "file" and front.key_file.mode & OTHERS:
        sentence = f"Everybody on this host can read {key} ({front.key_file.mode:04o})."
        yield error(
            "tls",
            sentence,
            f"chmod 600 {quote(key)}, and ask the CA for another certificate if anybody was there",
        )


def _content(front: Front) -> Iterator[Finding]:
    """What openssl says of them."""
    if not front.openssl:
        yield unknown("tls", "Without openssl nobody here reads the certificate.", "apt-get install openssl")
    elif front.certificate is None:
        if front.certificate_file:
            yield error("tls", f"{front.folder}/tls/tls.crt is no certificate that openssl reads.", INSTALL)
    else:
        if front.pair_ok is False:
            sentence = f"{front.folder}/tls/tls.key is not the key of tls.crt: the gateway refuses the pair."
            yield error("tls", sentence, INSTALL)
        for fault in (*nameless(front.certificate), *dated(front.certificate, time.time())):
            kind = error if fault.severity == "error" else warning
            yield kind("tls", fault.sentence, fault.remedy)


CHECKS = (keys, tls)
