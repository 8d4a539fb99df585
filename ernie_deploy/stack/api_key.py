"""The API key file of a stack as its containers read it: through the very script that they run."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from ernie_deploy.errors import UsageError
from ernie_deploy.paths import SCRIPTS


def key_in(path: Path) -> str:
    """The first key; empty where the file is not ours to read. Raises `UsageError` where it is unfit."""
    script = _script()
    try:
        return str(script.read_keys(path)[0])
    except OSError:
        return ""
    except script.KnownError as fault:
        raise UsageError(
            f"{path} {fault.what}.",
            cause="a server of a rendered stack refuses it too",
            next_step=fault.remedy,
        ) from None


def fault_in(content: bytes) -> tuple[str, str] | None:
    """What the server will say is wrong with a file of this content, and what to do; None where nothing is."""
    script = _script()
    try:
        script.keys_in(content)
    except script.KnownError as fault:
        return fault.what, fault.remedy
    return None


def fault_of_size(size_bytes: int) -> tuple[str, str] | None:
    """The same of a file so large that nobody reads it."""
    script = _script()
    if size_bytes <= script.MOST_BYTES:
        return None
    return f"is larger than {script.MOST_BYTES >> 10} KiB", script.LINE


@cache
def _script() -> ModuleType:
    """docker/scripts/with_api_key.py as a module."""
    spec = importlib.util.spec_from_file_location("with_api_key", SCRIPTS / "with_api_key.py")
    assert spec, "the script is part of the package"
    assert spec.loader, "a file has one"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
