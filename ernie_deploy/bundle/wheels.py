"""The kit itself for the other side: its wheel and those of its dependencies, as pip brings them."""

import hashlib
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ernie_deploy import __version__
from ernie_deploy.bundle.parts import Part
from ernie_deploy.errors import ToolFailed
from ernie_deploy.paths import DOCKER, PACKAGE, ROOT, TEMPLATES
from ernie_deploy.safe_io.reading import opened
from ernie_deploy.stack.compose import ask

WHEELS = "wheels"
# Measured: the kit and its seven dependencies, 4 MB; what a download may take beside them.
SIZE_BYTES = 16_000_000
PIP_S = 600
OWN_PACKAGE = "ernie-deploy"


def commands(folder: Path) -> list[list[str]]:
    """The commands that fill a folder: a checkout builds its own wheel, an installed kit is downloaded."""
    pip = [sys.executable, "-I", "-m", "pip"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    download = [*pip, "download", *quiet, "--only-binary", ":all:", "--dest", str(folder)]
    if not _is_checkout():
        return [[*download, f"{OWN_PACKAGE}=={__version__}"]]
    wheel = folder / f"ernie_deploy-{__version__}-py3-none-any.whl"
    build = [*pip, "wheel", *quiet, "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    return [build, [*download, str(wheel)]]


def _is_checkout() -> bool:
    return (ROOT / "pyproject.toml").is_file()


def remark() -> str:
    """How the kit is installed there; nothing else needs it."""
    return f"the kit itself, from this bundle's folder ({_for_whom()}): pip install --no-index --find-links {WHEELS} {OWN_PACKAGE}"


def _for_whom() -> str:
    return f"Python {sys.version_info[0]}.{sys.version_info[1]} on {platform.machine()}"


def key() -> str:
    """What the wheels are made of: the version, for a checkout its files too, and whom they fit."""
    state = hashlib.sha256()
    if _is_checkout():
        for path in sorted(path for top in (PACKAGE, TEMPLATES, DOCKER) for path in top.rglob("*")):
            if path.suffix != ".pyc" and path.is_file():
                state.update(
                    f"{path.relative_to(ROOT)} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode()
                )
    return f"wheels {__version__} {state.hexdigest()} {_for_whom()}"


@contextmanager
def made() -> Iterator[list[Part]]:
    """The wheels as parts, in a folder of their own until the block ends; raises `ToolFailed`."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="ernie-wheels-") as name:
        folder = Path(name)
        for words in commands(folder):
            done = ask(words, timeout_s=PIP_S)
            if done.returncode:
                raise ToolFailed(
                    "The wheels of the kit could not be gathered.",
                    cause=done.last_words,
                    next_step="check that pip reaches a package index, or leave them out with --no-wheels",
                )
        yield [_part(path) for path in sorted(folder.glob("*.whl"))]


def _part(path: Path) -> Part:
    return Part(
        path=f"{WHEELS}/{path.name}",
        key=path.name,
        size_bytes=path.stat().st_size,
        open=lambda: opened(path),
    )
