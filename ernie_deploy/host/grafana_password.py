"""The password of Grafana's admin: made once, readable for the user that Grafana runs as and for nobody else."""

import os
from pathlib import Path

from ernie_deploy.errors import UsageError
from ernie_deploy.paths import OWNERS, write_whole

FILE = "grafana-password"
USER = "GRAFANA_USER"
RANDOM_BYTES = 24


def user_of(folder: Path, default: str) -> str:
    """UID:GID that Grafana must run as to read its password: the file's owner, or who will own it.

    Compose mounts the file with the host's owner and mode. Root gives it to the image's user, `default`; anybody else
    keeps it, and Grafana runs as they do.
    """
    place = folder / FILE
    if place.exists():
        owner = place.stat()
        return f"{owner.st_uid}:{owner.st_gid}" if owner.st_uid else default
    return f"{os.geteuid()}:{os.getegid()}" if os.geteuid() else default


def make(folder: Path, user: str) -> bool:
    """Write a new password of mode 0600 for `user`; False where one is there, which stays. Raises `UsageError`."""
    import secrets

    place = folder / FILE
    if os.path.lexists(place):
        return False
    write_whole(place, f"{secrets.token_urlsafe(RANDOM_BYTES)}\n", private=True)
    try:
        place.chmod(OWNERS)
        if not os.geteuid():
            uid, _, gid = user.partition(":")
            os.chown(place, int(uid), int(gid or 0))
    except (OSError, ValueError) as fault:
        place.unlink(missing_ok=True)
        raise UsageError(
            f"{place} could not be given to {user}.",
            cause=str(fault),
            next_step=f"set {USER} in .env to a UID:GID that owns a file here",
        ) from fault
    return True
