#!/usr/bin/env python3
"""Builds the image `ernie-deploy/engine-cpu`: vLLM for CPU, laid out as the official images are."""

# ruff: noqa: S603 - the commands are this script's own words

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import base
import install_engine

HERE = Path(__file__).parent
SOURCES = ("Dockerfile", "install_engine.py", "engine.lock", "torch-cpu.lock", "torch-cuda.lock")
# The wheel of torch for CPU whose hash torch-cpu.lock has is for this Python.
BASE = "python:3.11-slim"
LABEL = "ernie-deploy.inputs"
# What pip must know of this host inside the build; its certificates enter as a file of their own.
PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def version() -> str:
    """The vLLM version that the install script installs."""
    return install_engine.VERSION


def image_name() -> str:
    """Name of the image."""
    return f"ernie-deploy/engine-cpu:{version()}"


def shown(command: list[str], **environment: str) -> None:
    """Print a command and run it."""
    print(f"$ {shlex.join(command)}", flush=True)
    if (code := subprocess.run(command, check=False, env=os.environ | environment).returncode) != 0:
        raise SystemExit(f"build: {shlex.join(command)} ended with {code}")


def pip_settings() -> dict[str, str]:
    """What pip goes by on this host, from files and from PIP_*; a PIP_* variable wins."""
    command = ["python3", "-m", "pip", "config", "list"]
    listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    found = dict(re.findall(r"^((?:global|install|:env:)\.[\w-]+)='(.*)'$", listed, re.MULTILINE))
    ranks = ("global.", "install.", ":env:.")
    return {name.removeprefix(rank): found[name] for rank in ranks for name in found if name.startswith(rank)}


def pip_configuration(settings: dict[str, str]) -> str:
    """The pip.conf of the build: a folder of this host does not exist in it."""
    kept = {name: settings[name] for name in PIP_SETTINGS if name in settings}
    urls = {
        name: [url for url in value.split() if not url.startswith(("file:", "/"))]
        for name, value in kept.items()
    }
    return "[global]\n" + "".join(f"{name} = {' '.join(words)}\n" for name, words in urls.items() if words)


def ca_bundle(settings: dict[str, str]) -> str:
    """The certificates that this host trusts, where its owner named a file; without it, none."""
    named = [settings.get("cert", ""), *(os.environ.get(name, "") for name in CA_VARIABLES)]
    return next((path for path in named if path and Path(path).is_file()), "")


def torch_wheels(settings: dict[str, str]) -> list[Path]:
    """torch for CPU out of the folders that pip's find-links names on this host."""
    folders = (Path(word) for word in settings.get("find-links", "").split() if Path(word).is_dir())
    return sorted(path for folder in folders for path in folder.glob("torch-*cpu*.whl"))


class Inputs:
    """Everything that the image depends on, and what the build gets of this host."""

    def __init__(self, options: argparse.Namespace) -> None:
        settings = pip_settings()
        self.base: str = options.base
        self.torch_index: str = options.torch_index
        self.ca = ca_bundle(settings)
        self.pip = pip_configuration(settings)
        self.wheels = torch_wheels(settings)

    @property
    def digest(self) -> str:
        """A hash over what changes the image; secrets change only the way to it."""
        texts = [(HERE / name).read_text() for name in SOURCES]
        facts = [self.base, self.torch_index, *(path.name for path in self.wheels), *texts]
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def is_current(inputs: Inputs) -> bool:
    """Tell whether the engine has the image of these inputs."""
    form = '{{index .Config.Labels "' + LABEL + '"}}'
    command = ["docker", "image", "inspect", "--format", form, image_name()]
    return (
        subprocess.run(command, check=False, capture_output=True, text=True).stdout.strip() == inputs.digest
    )


def compose_file(inputs: Inputs, folder: Path) -> dict[str, object]:
    """The build as a compose file: Compose speaks BuildKit with an engine that has no buildx."""
    proxies = {name: os.environ[name] for name in PROXIES if os.environ.get(name)}
    secrets = {"pip": {"file": str(folder / "pip.conf")}}
    if inputs.ca:
        secrets["ca"] = {"file": inputs.ca}
    build = {
        "context": str(folder / "context"),
        "args": {"BASE": inputs.base, "TORCH_INDEX": inputs.torch_index} | proxies,
        "labels": {LABEL: inputs.digest},
        "secrets": list(secrets),
    }
    service = {"image": image_name(), "build": build}
    return {"name": "ernie-deploy-build", "services": {"engine-cpu": service}, "secrets": secrets}


def lay_out(inputs: Inputs, folder: Path) -> None:
    """Write what the build reads into a folder of this process."""
    wheels = folder / "context" / "wheels"
    wheels.mkdir(parents=True)
    for path in (*(HERE / name for name in SOURCES), HERE / ".dockerignore"):
        shutil.copy(path, folder / "context")
    for path in inputs.wheels:
        shutil.copy(path, wheels)
    (folder / "pip.conf").write_text(inputs.pip)
    # A `$` in a path or an argument would be a variable to Compose.
    text = json.dumps(compose_file(inputs, folder), indent=2).replace("$", "$$")
    (folder / "compose.json").write_text(text)


def notes(inputs: Inputs) -> Iterator[str]:
    """What the user should know before minutes of downloads."""
    if inputs.ca:
        yield f"certificates of this host, for the build only: {inputs.ca}"
    if inputs.wheels:
        yield f"torch for CPU: {', '.join(path.name for path in inputs.wheels)}"
    elif not inputs.torch_index:
        yield "no --torch-index: where PyPI's torch is the CUDA one, this downloads and keeps gigabytes more"


def build(inputs: Inputs) -> None:
    """Build the image."""
    for note in notes(inputs):
        print(f"build: {note}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(inputs, folder)
        shown(["docker", "compose", "--file", str(folder / "compose.json"), "build"], DOCKER_BUILDKIT="1")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--base", default=BASE, metavar="IMAGE", help=f"to build upon (default: {BASE})")
    where.add_argument("--build-base", action="store_true", help="make the base by debootstrap: no registry")
    parser.add_argument("--torch-index", default="", metavar="URL", help="package index with torch for CPU")
    parser.add_argument("--force", action="store_true", help="build although nothing changed")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """Build what is missing, and print the image's name last."""
    options = parse(arguments)
    if options.build_base:
        options.base = base.name()
        if not base.exists(options.base):
            base.build()
    inputs = Inputs(options)
    if options.force or not is_current(inputs):
        build(inputs)
    print(image_name())


if __name__ == "__main__":
    main(sys.argv[1:])
