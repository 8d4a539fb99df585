"""The secrets of a rehearsal: planted where the stack reads them, to be looked for everywhere else."""

import os
import secrets
from pathlib import Path

from msgspec import Struct

from ernie_deploy.rehearsal.override import Rehearsal

# The files that are to hold them.
TOKEN_FILE, KEY_FILE = "token", "api-key.yaml"


class Planted(Struct, frozen=True, kw_only=True):
    """What nobody may find: the hub's token, and with --api-key-file the API's key."""

    token: str
    api_key: str = ""

    @property
    def all(self) -> tuple[bytes, ...]:
        """Each secret as it would stand in a file."""
        return tuple(word.encode() for word in (self.token, self.api_key) if word)


def plant(rehearsal: Rehearsal) -> Planted:
    """Write fresh secrets into the rehearsal's folder, as open as the stack needs them."""
    planted = Planted(token=f"hf_{secrets.token_hex(17)}", api_key=_fresh_key(rehearsal))
    _write(rehearsal.folder / TOKEN_FILE, planted.token)
    if planted.api_key:
        _write(rehearsal.folder / KEY_FILE, f"api-key: {planted.api_key}\n")
        _open_to(rehearsal.folder / KEY_FILE, rehearsal.plan.user or "0:0")
    return planted


def variables(rehearsal: Rehearsal) -> dict[str, str]:
    """The variables by which the stack finds them."""
    known = {"HF_TOKEN_FILE": str(rehearsal.folder / TOKEN_FILE)}
    if rehearsal.plan.request.api_key_file:
        known["API_KEY_FILE"] = str(rehearsal.folder / KEY_FILE)
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
