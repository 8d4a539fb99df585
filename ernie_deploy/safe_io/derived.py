"""Keeps what is made of the kit's own files where Python keeps its bytecode, so that a start reads instead of parsing.

Whoever can write there can change the program itself. Files that are not the kit's have nothing kept.
"""

import os
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path


def kept(source: Path, kind: str) -> bytes | None:
    """What `keep` wrote for `source`; the reader checks that it belongs to the text of today."""
    with suppress(OSError, NotImplementedError):
        return _place(source, kind).read_bytes()
    return None


def keep(source: Path, kind: str, data: bytes) -> None:
    """Write `data` beside `source`, whole or not at all; silently nothing where Python could not keep its own."""
    if sys.dont_write_bytecode:
        return
    with suppress(OSError, NotImplementedError):
        place = _place(source, kind)
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        try:
            with fresh.open("xb") as file:
                file.write(data)
            fresh.replace(place)
        finally:
            fresh.unlink(missing_ok=True)


def _place(source: Path, kind: str) -> Path:
    """PYTHONPYCACHEPREFIX moves it; the name holds the version of Python. `kind` is of letters and digits."""
    return Path(cache_from_source(str(source), optimization=kind))
