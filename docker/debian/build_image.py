#!/usr/bin/env python3
"""Makes `ernie-deploy/NAME-debian`: Debian's haproxy, prometheus or node-exporter, laid out as its official image is.

For where no registry is reached. As docker-library/haproxy has it: the binary in /usr/local/sbin, the user haproxy
99:99, bash, no Python. As the projects prometheus and node_exporter have it: the program in /bin beside busybox, the
user nobody 65534:65534, nothing else. `docker import` takes no STOPSIGNAL, which a rendering names itself.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "engine-cpu"))
import base

HAPROXY_USER, NOBODY = 99, 65534
ENTRYPOINT = """#!/bin/sh
set -e
if [ "${1#-}" != "$1" ]; then set -- haproxy "$@"; fi
if [ "$1" = haproxy ]; then shift; set -- haproxy -W -db "$@"; fi
exec "$@"
"""
# What stands for the user in each file: a user's and a group's number, or a group's.
NUMBERS = {
    "passwd": re.compile(r"^(haproxy:x:)\d+:\d+", re.MULTILINE),
    "group": re.compile(r"^(haproxy:x:)\d+", re.MULTILINE),
}
NAMES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nnobody:x:{NOBODY}:{NOBODY}:nobody:/home:/bin/false\n",
    "group": f"root:x:0:\nnobody:x:{NOBODY}:\n",
}
# What the health check of a rendering asks promtool; it came after Prometheus 2.42.
ASKS_READY = ("check", "ready")
PROMTOOL = """#!/bin/sh
# Debian's promtool is too old for `check ready --url=URL`; everything else is its own.
if [ "$1 $2" = "check ready" ]; then exec wget -q -O /dev/null "${3#--url=}/-/ready"; fi
exec /usr/lib/prometheus/promtool "$@"
"""
PATH = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def haproxy(root: Path) -> None:
    """Debian with HAProxy; moves what Debian puts elsewhere, and gives its user the official image's numbers."""
    base.debootstrap(base.Archive(), root, "ca-certificates,haproxy")
    shutil.move(root / "usr/sbin/haproxy", root / "usr/local/sbin/haproxy")
    executable(root / "usr/local/bin/docker-entrypoint.sh", ENTRYPOINT)
    for file, numbers in (("passwd", 2), ("group", 1)):
        path = root / "etc" / file
        text, count = NUMBERS[file].subn(r"\g<1>" + ":".join([str(HAPROXY_USER)] * numbers), path.read_text())
        if count != 1:
            raise SystemExit(f"haproxy-debian: {count} users haproxy in /etc/{file}, where one was expected")
        path.write_text(text)
    base.clean(root)


def prometheus(root: Path) -> None:
    """busybox with Prometheus and promtool, its settings and a folder for its data."""
    programs = {"prometheus": "prometheus", "promtool": "promtool"}
    with tempfile.TemporaryDirectory() as folder:
        beside_busybox(root, Path(folder), "prometheus", programs)
        settings, data = root / "etc/prometheus", root / "prometheus"
        for place in (settings, data):
            place.mkdir()
        file = shutil.copy2(Path(folder, "etc/prometheus/prometheus.yml"), settings)
    for path in (settings, data, file):
        shutil.chown(path, NOBODY, NOBODY)
    knows_ready(root)


def knows_ready(root: Path) -> None:
    """Where promtool does not know yet what health checks ask it, let a script answer that one question."""
    tool = root / "bin/promtool"
    asked = [str(tool), *ASKS_READY, "--help"]
    if subprocess.run(asked, check=False, capture_output=True).returncode:  # noqa: S603 - the image's own program
        own = root / "usr/lib/prometheus/promtool"
        own.parent.mkdir(parents=True)
        shutil.move(tool, own)
        executable(tool, PROMTOOL)


def node_exporter(root: Path) -> None:
    """busybox with the node exporter."""
    with tempfile.TemporaryDirectory() as folder:
        programs = {"prometheus-node-exporter": "node_exporter"}
        beside_busybox(root, Path(folder), "prometheus-node-exporter", programs)


def beside_busybox(root: Path, unpacked: Path, package: str, programs: dict[str, str]) -> None:
    """A root folder with busybox, its users and the package's programs under the official names."""
    base.unpack(unpacked, ["busybox-static", "libc6", package])
    for name in ("bin", "etc", "home", "root", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name, text in NAMES.items():
        (root / "etc" / name).write_text(text)
    shutil.copy2(unpacked / "bin/busybox", root / "bin")
    for applet in base.output([str(root / "bin/busybox"), "--list"]).split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    for name, official in programs.items():
        shutil.copy2(unpacked / "usr/bin" / name, root / "bin" / official)
        base.libraries(root / "bin" / official, unpacked, root)


def executable(path: Path, script: str) -> None:
    """Write a script that anybody may run."""
    path.write_text(script)
    path.chmod(0o755)


class Image(NamedTuple):
    """What fills the root of one image, and the words of a Dockerfile that go with it."""

    fill: Callable[[Path], None]
    settings: tuple[str, ...]


IMAGES = {
    "haproxy": Image(
        haproxy,
        (
            PATH,
            'ENTRYPOINT ["docker-entrypoint.sh"]',
            "USER haproxy",
            "WORKDIR /var/lib/haproxy",
            'CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]',
        ),
    ),
    "prometheus": Image(
        prometheus,
        (
            PATH,
            "USER nobody",
            "WORKDIR /prometheus",
            "VOLUME /prometheus",
            "EXPOSE 9090",
            'ENTRYPOINT ["/bin/prometheus"]',
            'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]',
        ),
    ),
    "node-exporter": Image(
        node_exporter,
        (
            PATH,
            "USER nobody",
            "EXPOSE 9100",
            'ENTRYPOINT ["/bin/node_exporter"]',
        ),
    ),
}


def name(which: str) -> str:
    """Name of one image as this host can make it."""
    return f"ernie-deploy/{which}-debian:{platform.freedesktop_os_release()['VERSION_CODENAME']}"


def build(which: str) -> str:
    """Make one image, unless the engine has it; its name."""
    if not base.exists(name(which)):
        # What it holds is read by other users than this one.
        os.umask(0o022)
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "root")
            IMAGES[which].fill(root)
            base.load(root, name(which), IMAGES[which].settings)
    return name(which)


if __name__ == "__main__":
    if unknown := [word for word in sys.argv[1:] if word not in IMAGES]:
        raise SystemExit(
            f"{__doc__}\nNo image is called {unknown[0]!r}: {', '.join(IMAGES)}; all of them without a name."
        )
    for word in sys.argv[1:] or IMAGES:
        print(build(word))
