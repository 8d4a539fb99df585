"""Checks of a gateway's folder: keys and certificate are there, in date, and open to the gateway and to nobody else."""

import time
from collections.abc import Iterable, Iterator
from shlex import quote

from ernie_deploy.gateway import faults
from ernie_deploy.gateway.certificate import Fault
from ernie_deploy.gateway.faults import ADD, INSTALL
from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.front_files import Front
from ernie_deploy.host.probes import Stat

READ = 0o4
AGAIN = "ernie-deploy tls install, which gives both to the gateway"


def keys(examination: Examination) -> Iterator[Finding]:
    """The map of keys is there, the gateway can read it, and nobody but its owner can write to it."""
    if not (front := examination.front):
        return
    path, stat = f"{front.folder}/keys.map", front.keys
    if stat is None:
        yield from _findings("gateway-keys", [faults.absent(path, ADD)])
    elif not stat.size:
        yield warning("gateway-keys", f"{path} is empty: the gateway lets nobody in.", ADD)
    elif wrong := _findings("gateway-keys", faults.of_map(path, stat.mode, front.map_text)):
        yield from wrong
    else:
        yield from _readable(examination, "gateway-keys", path, stat, f"chmod o+r {quote(path)}") or [
            ok("gateway-keys", f"{path} is the gateway's to read, and its owner's to write.")
        ]


def _findings(name: str, found: Iterable[Fault]) -> list[Finding]:
    """Faults of a gateway's files as findings of a check."""
    kinds = {"error": error, "warning": warning}
    return [kinds[fault.severity](name, fault.sentence, fault.remedy) for fault in found]


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
        own = "; self-signed, for testing" if one.is_self_signed else ""
        findings.append(
            ok("tls", f"The certificate is for {names}, {one.days_left(time.time())} days left{own}.")
        )
    yield from findings


def _files(examination: Examination, front: Front) -> Iterator[Finding]:
    """Owner and mode of certificate and key."""
    certificate, key = f"{front.folder}/tls/tls.crt", f"{front.folder}/tls/tls.key"
    for path, stat in ((certificate, front.certificate_file), (key, front.key_file)):
        if stat is None:
            yield from _findings("tls", [faults.absent(path, INSTALL)])
        else:
            yield from _readable(examination, "tls", path, stat, AGAIN)
    if front.key_file and front.key_file.kind == "file":
        yield from _findings("tls", faults.of_key_mode(key, front.key_file.mode))


def _content(front: Front) -> Iterator[Finding]:
    """What openssl says of them."""
    if not front.openssl:
        yield unknown("tls", "Without openssl nobody here reads the certificate.", "apt-get install openssl")
    elif front.certificate or front.certificate_file:
        of_pair = faults.of_pair(
            f"{front.folder}/tls", front.certificate, pair_ok=front.pair_ok, now_s=time.time()
        )
        yield from _findings("tls", of_pair)


CHECKS = (keys, tls)
