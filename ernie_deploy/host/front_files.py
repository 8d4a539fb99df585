"""What lies in a gateway's folder on this host: the map of keys, the certificate and its key."""

from msgspec import Struct

from ernie_deploy.gateway import certificate, key_file, tls_files
from ernie_deploy.gateway.certificate import Certificate
from ernie_deploy.host.probes import NOT_FOUND, Host, Stat


class Front(Struct, frozen=True, kw_only=True):
    """The files of one gateway and what openssl says of them.

    `pair_ok` is None where the key cannot be read, and `openssl` says whether the host has that program.
    """

    folder: str
    keys: Stat | None
    map_text: str | None = None
    certificate_file: Stat | None = None
    key_file: Stat | None = None
    certificate: Certificate | None = None
    pair_ok: bool | None = None
    openssl: bool = True


def look_at(host: Host, folder: str, *, tls: bool) -> Front:
    """Ask the host for the files of the gateway whose folder this is."""
    path, place = f"{folder}/{key_file.NAME}", f"{folder}/{tls_files.FOLDER}"
    keys, text = host.stat(path), host.read(path)
    if not tls:
        return Front(folder=folder, keys=keys, map_text=text)
    paths = [f"{place}/{name}" for name in (tls_files.CERTIFICATE, tls_files.KEY)]
    described = host.run(certificate.words_for_certificate(paths[0]))
    own = certificate.described(described.stdout)
    half = certificate.public_key(host.run(certificate.words_for_key(paths[1])).stdout) if own else ""
    return Front(
        folder=folder,
        keys=keys,
        map_text=text,
        certificate_file=host.stat(paths[0]),
        key_file=host.stat(paths[1]),
        certificate=own,
        pair_ok=certificate.pair_ok(own, half),
        openssl=described.rc != NOT_FOUND,
    )
