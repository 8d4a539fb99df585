"""The secret by which the nodes of one server know each other: made on the head, copied to the others by their owner."""

from pathlib import Path

from ernie_deploy.errors import UsageError
from ernie_deploy.paths import write_whole

# Compose mounts a file with the host's owner and mode, and the containers' root has no capabilities: the file is
# open to whoever serves, in a folder that only its owner, and Docker's own service, can enter.
FOLDER, FILE = "group-secret", "secret"
VARIABLE = "GROUP_SECRET_FILE"
SECRET_BYTES = 32
# As docker/scripts/node.py and docker/scripts/group.py have it.
SHORTEST_SECRET = 32


def ready(folder: Path, rank: str) -> dict[str, str]:
    """Make the secret beside the head's .env, or set its modes where it is there; returns the variable of .env.

    Another node's is copied there by hand, so until then there is nothing to say. Raises `UsageError`.
    """
    place = folder / FOLDER / FILE
    try:
        if not place.exists():
            if rank != "0":
                return {}
            _make(place)
        place.parent.chmod(0o700)
        # Whatever the umask was, here or where it was copied.
        place.chmod(0o444)
    except OSError as fault:
        raise UsageError(
            f"{place} could not be written: {fault.strerror}.",
            cause="the folder is not yours, or the disk is full",
            next_step=f"check it with: ls -ld {folder}",
        ) from fault
    return {VARIABLE: f"./{FOLDER}/{FILE}"}


def is_long_enough(data: bytes) -> bool:
    """Whether the nodes take this file's content for a secret."""
    return len(data.strip()) >= SHORTEST_SECRET


def _make(place: Path) -> None:
    """Write a new secret; nobody else can enter its folder at any moment."""
    import secrets

    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.parent.chmod(0o700)
    # Where the stack's folder is under version control, the secret is not.
    write_whole(place.with_name(".gitignore"), "*\n")
    write_whole(place, f"{secrets.token_hex(SECRET_BYTES)}\n")
