"""The secrets of a rehearsal: planted where the stack reads them, to be looked for everywhere else."""

import os
import secrets
import time
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.gateway import key_file, keys, tls_files
from ernie_deploy.host import grafana_password
from ernie_deploy.rehearsal.override import Rehearsal

# The files that are to hold them.
TOKEN_FILE, KEY_FILE = "token", "api-key.yaml"
GATEWAY_DIR, TLS_KEY_FILE = "gateway", "gateway/tls/tls.key"
SECRET_FILES = (TOKEN_FILE, KEY_FILE, TLS_KEY_FILE, grafana_password.FILE)
# The names of a gateway's keys.
CLIENT, LIMITED, LIMITED_RATE = "rehearsal", "rehearsal-limited", 2


class Planted(Struct, frozen=True, kw_only=True):
    """What nobody may find: the hub's token, the API's key, a gateway's further key, its certificate's, a password.

    `limited_key` may ask LIMITED_RATE times a minute. Of a certificate's key one line is looked for. The password is
    that of Grafana, which a rehearsal does not start. What a proof makes later it adds to `made`.
    """

    token: str
    api_key: str = ""
    limited_key: str = ""
    tls_key: str = ""
    grafana_password: str = ""
    made: list[str] = []

    @property
    def all(self) -> tuple[bytes, ...]:
        """Each secret as it would stand in a file."""
        words = (self.token, self.api_key, self.limited_key, self.tls_key, self.grafana_password, *self.made)
        return tuple(word.encode() for word in words if word)


def plant(rehearsal: Rehearsal) -> Planted:
    """Write fresh secrets into the rehearsal's folder, as open as the stack needs them."""
    planted = Planted(token=f"hf_{secrets.token_hex(17)}", api_key=_fresh_key(rehearsal))
    _write(rehearsal.folder / TOKEN_FILE, planted.token)
    if rehearsal.plan.monitoring:
        planted = replace(planted, grafana_password=secrets.token_urlsafe(grafana_password.RANDOM_BYTES))
        _write(rehearsal.folder / grafana_password.FILE, f"{planted.grafana_password}\n")
    if rehearsal.plan.gateway:
        return _plant_gateway(rehearsal, planted)
    if planted.api_key:
        _write(rehearsal.folder / KEY_FILE, f"api-key: {planted.api_key}\n")
        _open_to(rehearsal.folder / KEY_FILE, rehearsal.plan.user or "0:0")
    return planted


def _plant_gateway(rehearsal: Rehearsal, planted: Planted) -> Planted:
    """The gateway's folder with two keys in its map, one of them of few requests."""
    folder = rehearsal.folder / GATEWAY_DIR
    made = replace(planted, api_key=keys.new_key(), limited_key=keys.new_key())
    now = int(time.time())
    for name, key, rate in ((CLIENT, made.api_key, 0), (LIMITED, made.limited_key, LIMITED_RATE)):
        entry = keys.Key(
            digest=keys.hashed(key), name=name, rate_per_minute=rate, concurrency=0, expires=0, added=now
        )
        key_file.add(folder, entry)
    return (
        replace(made, tls_key=_plant_certificate(rehearsal, folder)) if rehearsal.plan.request.tls else made
    )


def _plant_certificate(rehearsal: Rehearsal, folder: Path) -> str:
    """A certificate for this host, which this process trusts from now on; a line of its key, to be looked for."""
    chain, key = tls_files.self_signed(["127.0.0.1"])
    tls_files.put(folder, chain, key, gateway_owner(rehearsal))
    os.environ["SSL_CERT_FILE"] = str(folder / tls_files.FOLDER / tls_files.CERTIFICATE)
    return max(key.splitlines(), key=len)


def gateway_owner(rehearsal: Rehearsal) -> tuple[int, int] | None:
    """Whom the certificate's key is given, as `tls install` does; None where this user cannot give a file away."""
    gateway = rehearsal.plan.gateway
    assert gateway, "only a gateway has a certificate"
    uid, gid = map(int, gateway.user.split(":"))
    return (uid, gid) if os.geteuid() == 0 else None


def variables(rehearsal: Rehearsal) -> dict[str, str]:
    """The variables by which the stack finds them, and a port for Prometheus that is free."""
    known = {"HF_TOKEN_FILE": str(rehearsal.folder / TOKEN_FILE)}
    if rehearsal.plan.request.api_key_file:
        known["API_KEY_FILE"] = str(rehearsal.folder / KEY_FILE)
    if rehearsal.plan.gateway:
        known["GATEWAY_DIR"] = str(rehearsal.folder / GATEWAY_DIR)
    if rehearsal.plan.monitoring:
        # Docker takes any that is free; the address stays the rendering's.
        known["PROMETHEUS_PORT"] = "0"
    if rehearsal.plan.request.tls and os.geteuid():
        # The key of the certificate is this user's, and nobody else may read it.
        known["GATEWAY_USER"] = f"{os.geteuid()}:{os.getegid()}"
    return known


def _fresh_key(rehearsal: Rehearsal) -> str:
    return f"sk-{secrets.token_hex(16)}" if rehearsal.plan.request.api_key_file else ""


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _open_to(path: Path, owner: str) -> None:
    """Let the serving user read, whom root in a container without capabilities is not.

    Who may not give a file away opens it to all: the folder around it is closed.
    """
    uid, gid = map(int, owner.split(":"))
    if os.geteuid() == 0:
        os.chown(path, uid, gid)
        path.chmod(0o400)
    elif os.geteuid() != uid:
        path.chmod(0o444)
