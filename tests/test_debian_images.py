"""Debian's programs as images: laid out as the official ones are, and filled by packages alone."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, missing

from ernie_deploy.rehearsal.override import debian_image

PATH = ROOT / "docker/debian/build_image.py"
spec = importlib.util.spec_from_file_location("build_image", PATH)
assert spec
assert spec.loader
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
HARDENED = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]
# What a rendering asks of each image: its program, the user it names, what its health check runs.
PROGRAMS = {
    "haproxy": ("haproxy", "-v", "HAProxy version"),
    "prometheus": ("/bin/prometheus", "--version", "prometheus, version"),
    "node-exporter": ("/bin/node_exporter", "--version", "node_exporter, version"),
}


def test_the_names_are_those_that_a_rehearsal_looks_for() -> None:
    assert [build.name(which) for which in build.IMAGES] == [debian_image(which) for which in PROGRAMS]


def test_a_name_that_is_none_is_a_sentence() -> None:
    done = subprocess.run(["python3", str(PATH), "grafana"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "No image is called 'grafana': haproxy, prometheus, node-exporter" in done.stderr


def test_libraries_come_from_the_packages_and_what_they_lack_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n"
    monkeypatch.setattr(build.base, "output", lambda _: printed)
    unpacked, root = tmp_path / "unpacked", tmp_path / "root"
    (unpacked / "usr/lib/x").mkdir(parents=True)
    (unpacked / "usr/lib/x/libc.so.6").write_text("libc")
    with pytest.raises(SystemExit, match=r"prog needs /lib64/ld.so.2, which no unpacked package has"):
        build.base.libraries(Path("prog"), unpacked, root)
    (unpacked / "usr/lib/x/ld.so.2").write_text("ld")
    (unpacked / "lib64").mkdir()
    (unpacked / "lib64/ld.so.2").symlink_to("/lib/x/ld.so.2")
    build.base.libraries(Path("prog"), unpacked, root)
    assert (root / "lib/x/libc.so.6").read_text() == "libc"
    assert (root / "lib64/ld.so.2").read_text() == "ld"


@pytest.mark.parametrize("knows", [True, False])
def test_a_promtool_that_knows_no_check_ready_is_helped_and_another_is_left_alone(
    tmp_path: Path, *, knows: bool
) -> None:
    (tmp_path / "bin").mkdir()
    text = f'#!/bin/sh\n[ "$2" = ready ] && exit {int(not knows)}\necho own "$@"\n'
    build.executable(tmp_path / "bin/promtool", text)
    build.knows_ready(tmp_path)
    own = tmp_path / "usr/lib/prometheus/promtool"
    assert own.exists() != knows
    assert (own if own.exists() else tmp_path / "bin/promtool").read_text() == text


def test_the_script_asks_for_readiness_and_passes_on_everything_else(tmp_path: Path) -> None:
    build.executable(tmp_path / "wget", '#!/bin/sh\necho wget "$@"\n')
    build.executable(tmp_path / "own", '#!/bin/sh\necho own "$@"\n')
    build.executable(
        tmp_path / "promtool", build.PROMTOOL.replace("/usr/lib/prometheus/promtool", f"{tmp_path}/own")
    )
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run(*words: str) -> str:
        return subprocess.run(
            [str(tmp_path / "promtool"), *words], env=env, capture_output=True, text=True, check=True
        ).stdout

    assert (
        run("check", "ready", "--url=http://127.0.0.1:9090")
        == "wget -q -O /dev/null http://127.0.0.1:9090/-/ready\n"
    )
    assert run("check", "config", "a b") == "own check config a b\n"


@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
@pytest.mark.parametrize("which", PROGRAMS)
def test_it_runs_confined_as_the_official_image_would(which: str) -> None:
    if not build.base.exists(build.name(which)):
        missing(build.name(which), f"python docker/debian/build_image.py {which}")
    program, option, version = PROGRAMS[which]
    inspect = ["docker", "image", "inspect", build.name(which)]
    settings = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)[0]["Config"]
    words = [*settings["Entrypoint"], option] if which != "haproxy" else [program, option]
    run = ["docker", "run", *HARDENED, "--entrypoint", words[0], build.name(which), *words[1:]]
    assert version in subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout
    assert settings["User"] == ("haproxy" if which == "haproxy" else "nobody")
    if which != "haproxy":
        assert settings["Entrypoint"] == [program]
        asked = [
            "docker",
            "run",
            *HARDENED,
            "--entrypoint",
            "sh",
            build.name(which),
            "-c",
            "id -u; cat /etc/hostname",
        ]
        lines = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=120).stdout.split()
        assert lines[0] == "65534"
