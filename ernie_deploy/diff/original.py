"""Whose a difference is: the last line of a rendered file vouches for the bytes that the kit wrote, edited or not."""

from ernie_deploy.render.checksum import MARK, digest


def is_original(text: str) -> bool:
    """Whether the text is as the kit wrote it."""
    above, mark, stated = _parts(text)
    return bool(mark) and stated == digest(above)


def states_checksum(text: str) -> bool:
    """Whether it has such a line at all: manifests have none, and it may be edited away."""
    return bool(_parts(text)[1])


def made_from(text: str, rendering: str) -> bool:
    """Whether an edited text still states the checksum of this rendering."""
    _, mark, stated = _parts(text)
    return bool(mark) and stated == _parts(rendering)[2]


def _parts(text: str) -> tuple[str, str, str]:
    """What stands above the last checksum, its mark, and the digest that it states."""
    above, mark, stated = text.replace("\r\n", "\n").rpartition(MARK)
    return above, mark, stated.partition("\n")[0].strip()
