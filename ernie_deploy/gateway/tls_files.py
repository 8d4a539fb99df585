"""The folder `tls` of a gateway: its certificate and key, replaced together and readable by the gateway alone."""

import ipaddress
import os
import re
import shlex
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path

from ernie_deploy.errors import ToolFailed, UsageError
from ernie_deploy.gateway.certificate import BLOCK, PRIVATE, openssl
from ernie_deploy.gateway.key_file import locked
from ernie_deploy.paths import spare
from ernie_deploy.safe_io.reading import read_bounded

FOLDER, CERTIFICATE, KEY = "tls", "tls.crt", "tls.key"
MOST_BYTES = 256 << 10
FOLDER_MODE, CERTIFICATE_MODE, KEY_MODE = 0o755, 0o644, 0o600
# What of a mode lets anybody but the owner in.
OTHERS = stat.S_IRWXG | stat.S_IRWXO
LABORATORY_DAYS = 365
HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_-]{1,63}){0,8}\.?")
LONGEST_COMMON_NAME = 64


def text_of(path: Path, what: str) -> str:
    """The text of a PEM file; raises `UsageError` that says `what` it should have been."""
    try:
        return read_bounded(path, MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as fault:
        reason = getattr(fault, "strerror", None) or "it is not PEM"
        raise UsageError(
            f"The {what} {path} cannot be read: {reason}.",
            next_step="name it: ernie-deploy tls install CERT KEY, or TLS_CERT_FILE and TLS_KEY_FILE in .env",
        ) from fault


def put(folder: Path, chain: str, key: str, owner: tuple[int, int] | None) -> None:
    """Replace certificate and key in a gateway's folder, both or neither; `owner` is given the key, None leaves it.

    Of `chain` the certificates alone are written: a key in it would lie where everybody reads.
    """
    place = folder / FOLDER
    certificates = "".join(f"{block}\n" for block in BLOCK.findall(chain))
    texts = {
        KEY: (f"{key.strip()}\n".encode(), KEY_MODE),
        CERTIFICATE: (certificates.encode(), CERTIFICATE_MODE),
    }
    try:
        # One writer at a time: two could leave the certificate of one and the key of the other.
        with locked(folder), ExitStack() as staged:
            _make(place)
            spares = [
                (staged.enter_context(_spare(place / name, *how, owner)), place / name)
                for name, how in texts.items()
            ]
            _swap(spares)
    except OSError as fault:
        raise UsageError(
            f"{place} could not be written: {fault.strerror}.",
            cause="the disk is full, the folder is not yours, or you may not give its user the key",
            next_step=f"check it with: ls -ld {shlex.quote(str(place))}",
        ) from fault


def _make(folder: Path) -> None:
    """The folder, open to the gateway whatever the umask; one that is there stays as it is."""
    if not folder.is_dir():
        folder.mkdir()
        folder.chmod(FOLDER_MODE)


def _spare(
    path: Path, data: bytes, mode: int, owner: tuple[int, int] | None
) -> AbstractContextManager[Callable[[], None]]:
    """The bytes on the disk beside `path`, never readable by more than it will be, and what gives them its name."""

    def protect(handle: int) -> None:
        if owner:
            os.fchown(handle, *owner)
        os.fchmod(handle, mode)

    return spare(path, data, protect, mode=KEY_MODE, to_disk=True)


def _swap(spares: Sequence[tuple[Callable[[], None], Path]]) -> None:
    """Give every spare its name; where one cannot have it, those before it go back to what they were."""
    before = [(path, path.with_name(f".{path.name}.before")) for _, path in spares if path.exists()]
    for path, kept in before:
        kept.unlink(missing_ok=True)
        _keep(path, kept)
    try:
        for put_in_place, _ in spares:
            put_in_place()
    except OSError:
        for path, kept in before:
            kept.replace(path)
        raise
    finally:
        for _, kept in before:
            kept.unlink(missing_ok=True)


def _keep(path: Path, kept: Path) -> None:
    """A second name for a file, or a copy where the kernel or the file system gives none (fs.protected_hardlinks)."""
    try:
        os.link(path, kept)
    except OSError:
        info = path.stat()
        owner = (info.st_uid, info.st_gid) if os.getuid() == 0 else None
        with _spare(kept, path.read_bytes(), stat.S_IMODE(info.st_mode), owner) as put_in_place:
            put_in_place()


def self_signed(hosts: Sequence[str]) -> tuple[str, str]:
    """A certificate for these names and addresses and its key, both as PEM; raises `KitError`."""
    names = ",".join(dict.fromkeys(_alternative(host) for host in hosts))
    common = next((host for host in hosts if len(host) <= LONGEST_COMMON_NAME), "ernie-deploy")
    done = openssl((
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
        "-keyout", "-", "-out", "-", "-days", str(LABORATORY_DAYS), "-subj", f"/CN={common}",
        "-addext", f"subjectAltName={names}", "-addext", "extendedKeyUsage=serverAuth",
    ))  # fmt: skip
    block, key = BLOCK.search(done.stdout), PRIVATE.search(done.stdout)
    if done.returncode or not block or not key:
        raise ToolFailed("openssl made no certificate.", cause=done.stderr.strip()[-300:])
    return block[0], key[0]


def _alternative(host: str) -> str:
    """A host as openssl writes it in a certificate; raises `UsageError` for what is none."""
    with suppress(ValueError):
        return f"IP:{ipaddress.ip_address(host.strip('[]'))}"
    if not HOST.fullmatch(host):
        raise UsageError(
            f"{host[:80]!r} is neither a host name nor an address.", next_step="--host llm.example.org"
        )
    return f"DNS:{host}"
