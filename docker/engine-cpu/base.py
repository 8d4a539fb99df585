#!/usr/bin/env python3
"""Makes a Debian base image by debootstrap and `docker import`, where no registry is reached."""

# ruff: noqa: S603 - the commands are this script's own words

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

IMAGE = "ernie-deploy/base"
# g++ and Python.h, because torch compiles at run time; vLLM binds memory with libnuma.
PACKAGES = "ca-certificates,g++,libnuma1,python3-dev,python3-venv"
# Nothing of the host stays: debootstrap copies its names and its servers, logs tell its mirror.
EMPTIED = ("etc/apt/sources.list", "etc/hostname", "etc/resolv.conf", "etc/machine-id")
REMOVED = (
    "etc/apt/apt.conf.d/*proxy*",
    "usr/lib/python3*/config-*/*.a",
    "usr/share/doc/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "var/cache/apt/*.bin",
    "var/cache/apt/archives/*.deb",
    "var/lib/apt/lists/*",
    "var/log/*",
)
# A line of ldd: `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, or the loader's path alone.
LIBRARY = re.compile(r"(?<!\S)(/\S{1,4096}) \(0x")
APT_TARGETS = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]


class Archive:
    """Where this host's own distribution comes from: the base is of the same one."""

    def __init__(self) -> None:
        self.suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
        lines = [line.split() for line in output([*APT_TARGETS, "Created-By: Packages"]).splitlines()]
        found = [(uri, component) for uri, release, component in lines if release == self.suite]
        if not found:
            raise SystemExit(f"base: apt of this host knows no archive of {self.suite}")
        self.mirror = found[0][0]
        components = [component for uri, component in found if uri == self.mirror]
        self.components = ",".join(dict.fromkeys(components))


def output(command: list[str]) -> str:
    """Run a command for what it prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(command: list[str], cwd: str | None = None) -> None:
    """Run a command, showing it, and its output only where it fails."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout[-2000:]}\nbase: {command[0]} ended with {done.returncode}")


def debootstrap(archive: Archive, root: Path, packages: str = PACKAGES) -> None:
    """Unpack and configure the packages in a folder."""
    if not shutil.which("debootstrap"):
        raise SystemExit("base: debootstrap is missing: apt-get install debootstrap, then run this again")
    options = ["--variant=minbase", f"--components={archive.components}", f"--include={packages}"]
    run(["debootstrap", *options, archive.suite, str(root), archive.mirror])


def unpack(folder: Path, packages: Sequence[str]) -> None:
    """Unpack packages of this host's own release in a folder; nothing is configured, and none brings another."""
    with tempfile.TemporaryDirectory() as downloaded:
        download = ["apt-get", "download", "-q", *packages]
        # Whoever has installed nothing yet may have no lists of packages.
        if subprocess.run(download, cwd=downloaded, check=False, capture_output=True).returncode:
            run(["apt-get", "update", "-q"])
            run(download, cwd=downloaded)
        for archive in sorted(Path(downloaded).glob("*.deb")):
            run(["dpkg-deb", "--extract", str(archive), str(folder)])


def libraries(program: Path, unpacked: Path, root: Path) -> None:
    """Copy what a program is linked with from unpacked packages to where its loader looks."""
    for library in map(Path, LIBRARY.findall(output(["ldd", str(program)]))):
        files = [path for path in unpacked.rglob(library.name) if path.is_file() and not path.is_symlink()]
        if not files:
            raise SystemExit(f"base: {program.name} needs {library}, which no unpacked package has")
        to = root / library.relative_to("/")
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(files[0], to)


def clean(root: Path) -> None:
    """Remove what names this host, and what a container never reads."""
    for path in (path for pattern in REMOVED for path in root.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for name in EMPTIED:
        (root / name).unlink(missing_ok=True)
        (root / name).write_text("")


def load(root: Path, image: str, settings: Sequence[str] = ('CMD ["/bin/bash"]',)) -> None:
    """Make the folder an image of one layer; `settings` are words of a Dockerfile."""
    pack = ["tar", "--numeric-owner", "--exclude=./dev/*", "--exclude=./proc/*", "-C", str(root), "-c", "."]
    changes = [word for setting in settings for word in ("--change", setting)]
    take = ["docker", "import", *changes, "-", image]
    print(f"$ {shlex.join(pack)} | {shlex.join(take)}", flush=True)
    with subprocess.Popen(pack, stdout=subprocess.PIPE) as packing:
        subprocess.run(take, check=True, stdin=packing.stdout)
    if packing.returncode != 0:
        raise SystemExit(f"base: tar ended with {packing.returncode}")


def name() -> str:
    """Name of the image that this host can make."""
    return f"{IMAGE}:{platform.freedesktop_os_release()['VERSION_CODENAME']}"


def exists(image: str) -> bool:
    """Tell whether the engine has the image."""
    inspect = ["docker", "image", "inspect", image]
    return subprocess.run(inspect, check=False, capture_output=True).returncode == 0


def build() -> str:
    """Make the image and return its name."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        debootstrap(Archive(), root)
        clean(root)
        load(root, name())
    return name()


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(f"{__doc__}\nIt takes no arguments.")
    print(build())
