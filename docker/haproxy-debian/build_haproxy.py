#!/usr/bin/env python3
"""Makes `ernie-deploy/haproxy-debian`: Debian's HAProxy laid out as the official image is, where no registry is reached.

As docker-library/haproxy has it: the binary in /usr/local/sbin, the user haproxy 99:99, bash, no Python. `docker import`
takes no STOPSIGNAL, which a rendering names itself.
"""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "engine-cpu"))
import base

IMAGE = "ernie-deploy/haproxy-debian"
PACKAGES = "ca-certificates,haproxy"
USER = 99
ENTRYPOINT = """#!/bin/sh
set -e
if [ "${1#-}" != "$1" ]; then set -- haproxy "$@"; fi
if [ "$1" = haproxy ]; then shift; set -- haproxy -W -db "$@"; fi
exec "$@"
"""
SETTINGS = (
    "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    'ENTRYPOINT ["docker-entrypoint.sh"]',
    "USER haproxy",
    "WORKDIR /var/lib/haproxy",
    'CMD ["haproxy", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]',
)

# What stands for the user in each file: a user's and a group's number, or a group's.
NUMBERS = {
    "passwd": re.compile(r"^(haproxy:x:)\d+:\d+", re.MULTILINE),
    "group": re.compile(r"^(haproxy:x:)\d+", re.MULTILINE),
}


def name() -> str:
    """Name of the image that this host can make."""
    return f"{IMAGE}:{platform.freedesktop_os_release()['VERSION_CODENAME']}"


def lay_out(root: Path) -> None:
    """Move what Debian puts elsewhere, and give its user the official image's numbers."""
    shutil.move(root / "usr/sbin/haproxy", root / "usr/local/sbin/haproxy")
    script = root / "usr/local/bin/docker-entrypoint.sh"
    script.write_text(ENTRYPOINT)
    script.chmod(0o755)
    for file, numbers in (("passwd", 2), ("group", 1)):
        path = root / "etc" / file
        text, count = NUMBERS[file].subn(r"\g<1>" + ":".join([str(USER)] * numbers), path.read_text())
        if count != 1:
            raise SystemExit(f"haproxy-debian: {count} users haproxy in /etc/{file}, where one was expected")
        path.write_text(text)


def build() -> str:
    """Make the image, unless the engine has it; its name."""
    if not base.exists(name()):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder, "root")
            base.debootstrap(base.Archive(), root, PACKAGES)
            lay_out(root)
            base.clean(root)
            base.load(root, name(), SETTINGS)
    return name()


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(f"{__doc__}\nIt takes no arguments.")
    print(build())
