"""The last line of a file that the kit writes: while it is the SHA-256 of the lines above, nobody edited them.

A rendering cannot be told from an edited one by rendering line 1 again: another version of the kit renders other bytes.
"""

from pathlib import Path

from ernie_deploy.safe_io.reading import read_bounded

MARK = "# sha256 of the lines above: "
# The largest rendering has a tenth of this.
MOST_BYTES = 2 << 20


def with_checksum(text: str) -> str:
    """`text`, which ends with a line feed, and the line that vouches for it."""
    return f"{text}{MARK}{digest(text)}\n"


def is_unedited(path: Path) -> bool:
    """Whether the kit wrote this file and nobody changed it since; a link, or what cannot be read, is somebody's own."""
    try:
        if path.is_symlink():
            return False
        text = read_bounded(path, MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        return False
    return is_original(text)


def is_original(text: str) -> bool:
    """Whether a text is as the kit wrote it, with either kind of line ends."""
    above, below = _parts(text)
    return below == f"{digest(above)}\n"


def stated(text: str) -> str:
    """The digest that a rendering's last line states, edited or not; empty where there is no such line."""
    return _parts(text)[1].partition("\n")[0].strip()


def _parts(text: str) -> tuple[str, str]:
    """What stands above the last checksum's mark, and what below."""
    above, _, below = text.replace("\r\n", "\n").rpartition(MARK)
    return above, below if MARK in text else ""


def digest(text: str) -> str:
    """SHA-256 of a text, in hexadecimal digits."""
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()
