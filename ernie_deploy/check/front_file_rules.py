"""ED233 and ED234: the keys and the certificate of the kit's gateway, as they lie beside the compose file."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.front_rules import OF_THE_KIT, TLS_LABEL, labelled
from ernie_deploy.check.ports_and_mounts import Mount
from ernie_deploy.check.service import Service
from ernie_deploy.errors import KitError
from ernie_deploy.plan.gateway import FILES
from ernie_deploy.safe_io.reading import read_bounded

if TYPE_CHECKING:
    from ernie_deploy.gateway.certificate import Fault


@rule(
    "ED233",
    "error",
    "The gateway's keys.map is missing, has a line that grants nothing, or others can write to it.",
    remedy="ernie-deploy key add NAME, ernie-deploy key revoke NAME",
    source="the file beside the stack, read as `key list` reads it; run with HAProxy 2.6",
)
def unusable_keys(service: Service) -> Iterator[Spot]:
    """The map in the folder that the gateway mounts."""
    from ernie_deploy.gateway import faults, key_file

    for folder, mount in _folder(service):
        path = folder / key_file.NAME
        if (mode := _mode(path)) is not None:
            text = _text(path, key_file.MOST_BYTES)
            yield from _spots(mount, faults.of_map(_shown(service, path), mode, text))
        yield from _absent(service, mount, (path,), faults.ADD)


@rule(
    "ED234",
    "error",
    "The gateway's certificate or its key is missing, or one that the gateway or its clients refuse, or that others can read.",
    remedy="ernie-deploy tls install CERT KEY, or for testing: ernie-deploy tls self-signed",
    source="the files beside the stack, read by this host's openssl as `doctor` reads them",
)
def unusable_certificate(service: Service) -> Iterator[Spot]:
    """Certificate and key in the folder that a gateway with TLS mounts; one that ends soon is a warning."""
    from ernie_deploy.gateway import faults, tls_files

    for folder, mount in _folder(service) if labelled(service, TLS_LABEL) else ():
        place = folder / tls_files.FOLDER
        if place.is_symlink():
            continue
        key = place / tls_files.KEY
        if (mode := _mode(key)) is not None:
            yield from _spots(mount, faults.of_key_mode(_shown(service, key), mode))
        if _mode(place / tls_files.CERTIFICATE) is not None:
            yield from _of_certificate(service, place, mount)
        yield from _absent(service, mount, (place / tls_files.CERTIFICATE, key), faults.INSTALL)


def _of_certificate(service: Service, place: Path, mount: Mount) -> Iterator[Spot]:
    from ernie_deploy.gateway import faults, tls_files
    from ernie_deploy.gateway.certificate import read_pair

    texts = (_text(place / name, tls_files.MOST_BYTES) for name in (tls_files.CERTIFICATE, tls_files.KEY))
    try:
        certificate, pair_ok = read_pair(*texts)
    except KitError as fault:
        yield Spot(mount.line, f"nobody looked at the certificate: {fault.what.rstrip('.')}", severity="note")
        return
    of_pair = faults.of_pair(_shown(service, place), certificate, pair_ok=pair_ok, now_s=time.time())
    yield from _spots(mount, of_pair)


def _folder(service: Service) -> Iterator[tuple[Path, Mount]]:
    """The folder that the kit's gateway mounts, where it lies beside the file: a file leads to no other place."""
    folder = service.stack.folder
    if folder is None or OF_THE_KIT not in service.environment:
        return
    for mount in service.mounts:
        mounted = (folder / mount.source).resolve()
        if mount.target == FILES and mount.source and mounted.is_relative_to(folder.resolve()):
            yield mounted, mount


def _absent(service: Service, mount: Mount, paths: tuple[Path, ...], remedy: str) -> Iterator[Spot]:
    """The first of some files that is missing, for one command makes them all: a warning, for a repository holds the stack and neither keys nor a certificate."""
    from ernie_deploy.gateway import faults

    missing = [path for path in paths if not os.path.lexists(path)]
    for path in missing[:1]:
        fault = faults.absent(_shown(service, path), remedy)
        yield Spot(mount.line, fault.sentence.rstrip("."), fault.remedy, severity="warning")


def _mode(path: Path) -> int | None:
    """The permissions of a regular file; None where there is none."""
    try:
        info = path.lstat()
    except OSError:
        return None
    return stat.S_IMODE(info.st_mode) if stat.S_ISREG(info.st_mode) else None


def _text(path: Path, most_bytes: int) -> str | None:
    """The text of a file; None where this user may not read it."""
    try:
        return read_bounded(path, most_bytes).decode(errors="replace")
    except OSError:
        return None


def _shown(service: Service, path: Path) -> str:
    """The path from the folder of the stack on, as a person in it would type it."""
    folder = (service.stack.folder or Path()).resolve()
    return str(path.relative_to(folder))


def _spots(mount: Mount, faults: "Iterator[Fault]") -> Iterator[Spot]:
    for fault in faults:
        yield Spot(mount.line, fault.sentence.rstrip("."), fault.remedy, severity=fault.severity)
