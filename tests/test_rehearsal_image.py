"""The build of the CPU engine image: what it takes of a host, and that none of it stays in the image."""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT, missing

SCRIPTS = ROOT / "docker" / "engine-cpu"
HARDENED = ["--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"]


def load(name: str) -> ModuleType:
    """A script as a module; it finds its neighbours as it does when it is run."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location(f"engine_cpu_{name}", SCRIPTS / f"{name}.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SCRIPTS))


build, base, install = load("build"), load("base"), load("install_engine")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """pip's settings on a host behind a proxy, with a folder of wheels of its own."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name in ("torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", "numpy-2.3.0-cp311-cp311-linux_x86_64.whl"):
        (wheels / name).write_bytes(b"wheel")
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    settings = {
        "index-url": "https://user:secret@mirror.invalid/simple",
        "extra-index-url": "file:///srv/packages/simple",
        "find-links": str(wheels),
        "cert": str(tmp_path / "ca.pem"),
        "timeout": "180",
    }
    monkeypatch.setattr(build, "pip_settings", lambda: settings)
    return settings


def inputs(image: str = build.BASE, torch_index: str = "") -> object:
    return build.Inputs(argparse.Namespace(base=image, torch_index=torch_index))


def test_pips_environment_wins_over_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = "global.timeout='60'\n:env:.timeout='180'\n:env:.find-links='/srv/wheels'\n"
    answer = subprocess.CompletedProcess([], 0, listed, "")
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: answer)
    assert build.pip_settings() == {"timeout": "180", "find-links": "/srv/wheels"}


def test_the_builds_pip_configuration_names_no_folder_of_the_host(host: dict[str, str]) -> None:
    assert build.pip_configuration(host) == (
        "[global]\nindex-url = https://user:secret@mirror.invalid/simple\ntimeout = 180\n"
    )


@pytest.mark.parametrize("named", ["cert", "variable", "nothing"])
def test_certificates_are_those_that_the_host_names(
    named: str, host: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in build.CA_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    bundle = host["cert"]
    if named != "cert":
        host["cert"] = str(tmp_path / "gone.pem")
    if named == "variable":
        monkeypatch.setenv("SSL_CERT_FILE", bundle)
    assert build.ca_bundle(host) == ("" if named == "nothing" else bundle)


def test_of_a_folder_of_wheels_only_torch_for_cpu_enters_the_build(
    host: dict[str, str], tmp_path: Path
) -> None:
    build.lay_out(inputs(), tmp_path)
    entered = {str(path.relative_to(tmp_path / "context")) for path in (tmp_path / "context").rglob("*")}
    torch = "wheels/torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
    locks = {"engine.lock", "torch-cpu.lock", "torch-cuda.lock"}
    assert entered == {"Dockerfile", "install_engine.py", ".dockerignore", "wheels", torch} | locks


def test_secrets_are_files_and_nothing_else_of_the_build(host: dict[str, str], tmp_path: Path) -> None:
    build.lay_out(inputs(), tmp_path)
    document = json.loads((tmp_path / "compose.json").read_text())
    assert document["secrets"] == {"pip": {"file": f"{tmp_path}/pip.conf"}, "ca": {"file": host["cert"]}}
    assert "mirror.invalid" not in (tmp_path / "compose.json").read_text()
    dockerfile = (SCRIPTS / "Dockerfile").read_text()
    assert set(document["services"]["engine-cpu"]["build"]["secrets"]) == set(
        re.findall("type=secret,id=([a-z]+)", dockerfile)
    )


def test_an_image_of_other_inputs_is_another(host: dict[str, str]) -> None:
    digest = inputs().digest
    assert digest == inputs().digest
    assert digest != inputs(image="debian:12").digest
    assert digest != inputs(torch_index="https://mirror.invalid/cpu").digest
    host["index-url"] = "https://other.invalid/simple"
    assert digest == inputs().digest


def test_no_line_of_the_dockerfile_pulls_a_frontend() -> None:
    assert not re.search("^# *syntax", (SCRIPTS / "Dockerfile").read_text(), re.MULTILINE)


def test_the_images_tag_is_the_version_that_is_installed() -> None:
    assert build.image_name() == f"ernie-deploy/engine-cpu:{install.VERSION}"


def test_the_base_keeps_nothing_of_its_host(tmp_path: Path) -> None:
    for name in base.EMPTIED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("of this host")
    for name in ("etc/apt/apt.conf.d/01proxy", "var/log/bootstrap.log", "var/lib/apt/lists/mirror_Packages"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("of this host")
    (tmp_path / "usr/share/man/man1").mkdir(parents=True)
    base.clean(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == set(base.EMPTIED)
    assert not any((tmp_path / name).read_text() for name in base.EMPTIED)


def test_the_archive_is_that_of_the_hosts_own_release(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "http://a.invalid/debian/ bookworm-updates main\nhttp://a.invalid/debian/ bookworm main\n"
    lines += "http://a.invalid/debian/ bookworm contrib\nhttp://b.invalid/other/ nodistro main\n"
    monkeypatch.setattr(base, "output", lambda _: lines)
    monkeypatch.setattr(base.platform, "freedesktop_os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    archive = base.Archive()
    assert (archive.mirror, archive.suite, archive.components) == (
        "http://a.invalid/debian/",
        "bookworm",
        "main,contrib",
    )
    assert base.name() == "ernie-deploy/base:bookworm"


# --- the built image ---


def in_image(*words: str) -> str:
    """What a command prints in a container that may do nothing."""
    command = ["docker", "run", *HARDENED, "--entrypoint", words[0], build.image_name(), *words[1:]]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.mark.docker
@pytest.mark.usefixtures("docker_engine")
class TestBuiltImage:
    def test_it_is_laid_out_as_the_official_images(self) -> None:
        inspect = ["docker", "image", "inspect", build.image_name()]
        settings = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)[0]["Config"]
        assert settings["Entrypoint"] == ["vllm", "serve"]
        assert settings.get("User", "") in ("", "root", "0")
        found = in_image(
            "sh",
            "-c",
            "getent passwd vllm; for word in vllm python3 g++; do command -v $word; done; ls /run/secrets",
        )
        assert found.split() == [
            "vllm:x:2000:0::/home/vllm:/bin/bash", "/opt/venv/bin/vllm", "/opt/venv/bin/python3", "/usr/bin/g++",
        ]  # fmt: skip

    def test_it_has_vllm_the_hub_client_and_nothing_for_gpus(self) -> None:
        script = (
            "import importlib.util as u, huggingface_hub, json; from importlib.metadata import version as v"
        )
        facts = "[v('vllm'), v('torch').endswith('+cpu'), u.find_spec('triton'), u.find_spec('nvidia')]"
        assert json.loads(in_image("python3", "-c", f"{script}; print(json.dumps({facts}))")) == [
            install.STAND_IN, True, None, None,
        ]  # fmt: skip

    def test_its_history_names_nothing_of_the_host(self) -> None:
        command = ["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", build.image_name()]
        history = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert "install_engine.py" in history
        for leak in (
            "://",
            "BEGIN CERTIFICATE",
            "index-url",
            *filter(None, [build.pip_settings().get("find-links")]),
        ):
            assert leak not in history

    def test_its_files_hold_no_certificate_or_package_folder_of_the_host(self) -> None:
        """Debian's own certificates are in the base; what the host has beyond them must not be."""
        settings = build.pip_settings()
        count = "find / -xdev -name '*.crt' -o -xdev -name '*.pem' | xargs cat 2>/dev/null"
        inside = in_image("sh", "-c", count)
        bundle = Path(build.ca_bundle(settings) or "/dev/null").read_text()
        mozilla = {
            path.read_text().strip() for path in Path("/usr/share/ca-certificates/mozilla").glob("*.crt")
        }
        blocks = re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", bundle, re.DOTALL)
        if mozilla:
            assert not [block for block in blocks if block not in mozilla and block in inside]
        assert (
            in_image(
                "sh",
                "-c",
                "cat /etc/pip.conf /root/.config/pip/pip.conf /root/.pip/pip.conf 2>/dev/null; true",
            )
            == ""
        )

    def test_an_image_of_the_same_inputs_is_not_built_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--build-base"] if base.exists(base.name()) else []
        if not build.is_current(inputs(base.name() if words else build.BASE)):
            missing("An image of these very inputs", "python docker/engine-cpu/build.py --build-base")
        build.main(words)
        assert capsys.readouterr().out == f"{build.image_name()}\n"
