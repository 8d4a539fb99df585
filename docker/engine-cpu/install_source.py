#!/usr/bin/env python3
"""Lays the Python of other vLLM versions beside vLLM for CPU: install_source.py [--python PYTHON] [VERSION ...].

A version that nobody built for CPU cannot serve here, but its sdist's Python parses and configures with the packages
of the version that was built. It goes to share/vllm-VERSION of the environment, pinned by sources/VERSION.lock.
"""

# ruff: noqa: S603 - the commands are this script's own words

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from install_engine import HERE, NETWORK_SIGNS, step

SOURCES = HERE / "sources"
# What pip needs to read an sdist's metadata, and what newer versions import that vLLM for CPU lacks.
TOOLS, EXTRAS = "tools", "extras"
# The package and its metadata, and what the sources in the catalog name; neither kernels nor tests.
KEPT = ("vllm", "vllm.egg-info", "docker", "docs", ".buildkite")
STAMP = "installed-from"


class DownloadError(SystemExit):
    """A download that failed, in one sentence with the next step."""


def versions() -> list[str]:
    """The versions that have a lock here, the oldest first."""
    names = (path.stem for path in SOURCES.glob("*.lock") if path.stem not in (TOOLS, EXTRAS))
    return sorted(names, key=lambda name: [int(part) for part in name.split(".")])


def lock_of(version: str) -> Path:
    """The file that pins a version's sdist."""
    return SOURCES / f"{version}.lock"


def stamp_of(version: str) -> str:
    """What a version is laid by: its lock, and that of what it needs besides."""
    return lock_of(version).read_text() + lock_of(EXTRAS).read_text()


def place(prefix: Path, version: str) -> Path:
    """Where a version lies in the environment `prefix`."""
    return prefix / "share" / f"vllm-{version}"


def variables(folder: Path) -> dict[str, str]:
    """The environment in which a Python imports the vLLM of that folder, and takes the CPU for its platform."""
    return {"PYTHONPATH": str(folder), "VLLM_TARGET_DEVICE": "cpu"}


def is_installed(prefix: Path, version: str) -> bool:
    """Tell whether the version lies there as its lock has it."""
    return lock_of(version).exists() and is_laid(prefix, version, stamp_of(version))


def is_laid(prefix: Path, version: str, stamp: str) -> bool:
    """Tell whether the version was laid there by these very locks."""
    kept = place(prefix, version) / STAMP
    return kept.exists() and kept.read_text() == stamp


def pip(python: str, *arguments: str, **environment: str) -> None:
    """Run pip, a second time after a network error; raises DownloadError."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    for last in (False, True):
        done = subprocess.run(
            command, check=False, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        if done.returncode == 0:
            return
        if last or not is_network_error(done.stderr):
            raise DownloadError(failure(arguments, done.stderr))
        step("network error, trying once more")


def is_network_error(complaint: str) -> bool:
    """Tell whether pip did not reach its index."""
    return any(sign in complaint.lower() for sign in NETWORK_SIGNS)


def failure(arguments: tuple[str, ...], complaint: str) -> str:
    """Say why pip failed, and what to do."""
    absent = re.search(r"No matching distribution found for (\S+)", complaint)
    if is_network_error(complaint):
        return "install-source: pip does not reach its package index. Try again with a network."
    if absent:
        return f"install-source: the package index has no {absent[1]}. See what there is: pip index versions vllm"
    return f"install-source: pip {' '.join(arguments)} failed:\n{complaint.rstrip()}"


def install_tools(python: str, folder: Path) -> None:
    """Bring what pip needs to read the metadata of an sdist of vLLM, which it does at every download."""
    words = ["--target", str(folder), "--requirement", str(lock_of(TOOLS))]
    pip(python, "install", "--no-deps", "--require-hashes", *words)


def download(python: str, version: str, folder: Path, *wanted: str) -> None:
    """Let pip put a version's sdist, and wheels, into a folder; `wanted` are pip's words for them."""
    with tempfile.TemporaryDirectory() as tools:
        install_tools(python, Path(tools))
        # Without them the sdist calls itself VERSION+empty, which pip refuses, or looks for CUDA's compiler.
        environment = {"PYTHONPATH": tools, "VLLM_VERSION_OVERRIDE": version, "VLLM_TARGET_DEVICE": "empty"}
        words = ["--no-deps", "--no-build-isolation", "--no-binary", "vllm", "--dest", str(folder)]
        pip(python, "download", *words, *wanted, **environment)


def unpack(downloads: Path, folder: Path) -> None:
    """Unpack the sdist's kept folders and the wheels side by side."""
    for sdist in downloads.glob("*.tar.gz"):
        with tarfile.open(sdist) as archive:
            archive.extractall(downloads, [m for m in archive if is_kept(m.name)], filter="data")
        shutil.copytree(downloads / sdist.name.removesuffix(".tar.gz"), folder, symlinks=True)
    for wheel in downloads.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)  # noqa: S202 - its hash is in the lock


def is_kept(name: str) -> bool:
    """Tell whether a file of the sdist is of use here."""
    return name.split("/")[1:2] != [] and name.split("/")[1] in KEPT


def install(python: str, prefix: Path, version: str) -> None:
    """Bring a version by its lock."""
    step(f"the Python of vLLM {version}, by {lock_of(version).name}")
    with tempfile.TemporaryDirectory() as downloads:
        download(python, version, Path(downloads), *locked(version))
        lay(python, Path(downloads), place(prefix, version), stamp_of(version))


def lay(python: str, downloads: Path, folder: Path, stamp: str) -> None:
    """Put an sdist that was downloaded, and what it needs besides, where they are imported from; all or nothing."""
    pip(python, "download", "--no-deps", "--dest", str(downloads), *locked(EXTRAS))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary, "made")
        unpack(downloads, made)
        (made / STAMP).write_text(stamp)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def locked(name: str) -> list[str]:
    """Pip's words for what a lock has, by its hashes."""
    return ["--require-hashes", "--requirement", str(lock_of(name))]


def prefix_of(python: str) -> Path:
    """The environment that a Python belongs to."""
    done = subprocess.run(
        [python, "-c", "import sys; print(sys.prefix)"], check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(done.stdout.strip())


def main(arguments: list[str]) -> None:
    """Install each version that is not there as its lock has it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="of the environment that has vLLM for CPU")
    parser.add_argument(
        "versions", nargs="*", metavar="VERSION", help="of sources/*.lock; all of them by default"
    )
    options = parser.parse_args(arguments)
    prefix = prefix_of(options.python)
    for version in options.versions or versions():
        if not lock_of(version).exists():
            parser.error(
                f"no {lock_of(version).name}; known are {', '.join(versions())}; add one: .ci/add-engine {version}"
            )
        if is_installed(prefix, version):
            step(f"the Python of vLLM {version} is installed")
        else:
            install(options.python, prefix, version)
    step("done")


if __name__ == "__main__":
    main(sys.argv[1:])
