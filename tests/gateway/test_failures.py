"""What the real HAProxy says of files that are not there or wrong is known by name, with the command that mends it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import missing, planned
from gateway.haproxy import variables

from ernie_deploy.catalog import Catalog
from ernie_deploy.render.gateway import configuration
from ernie_deploy.stack.evidence import gathered
from ernie_deploy.stack.failures import recognise


def openssl(*words: str, folder: Path) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def no_map(folder: Path) -> None:
    (folder / "keys.map").unlink()


def no_certificate(folder: Path) -> None:
    (folder / "tls/tls.crt").unlink()


def no_private_key(folder: Path) -> None:
    (folder / "tls/tls.key").unlink()


def another_key(folder: Path) -> None:
    openssl("genrsa", "-out", "tls.key", "2048", folder=folder / "tls")


def no_pem(folder: Path) -> None:
    (folder / "tls/tls.crt").write_text("hello\n")


def no_pem_key(folder: Path) -> None:
    (folder / "tls/tls.key").write_text("hello\n")


@pytest.mark.parametrize(
    ("damage", "known", "step"),
    [
        (no_map, "gateway-keys", "ernie-deploy key add"),
        (no_certificate, "gateway-certificate-missing", "ernie-deploy tls install"),
        (no_private_key, "gateway-certificate-missing", "ernie-deploy tls install"),
        (another_key, "gateway-certificate-pair", "ernie-deploy tls install"),
        (no_pem, "gateway-certificate-unreadable", "ernie-deploy tls install"),
        (no_pem_key, "gateway-certificate-", "ernie-deploy tls install"),
        ({"GATEWAY_QUEUE": "many"}, "gateway-configuration", "GATEWAY_"),
    ],
)
def test_each_damage_is_named(
    damage: Callable[[Path], None] | dict[str, str], known: str, step: str, tmp_path: Path
) -> None:
    for program in ("haproxy", "openssl"):
        if not shutil.which(program):
            missing(program, f"apt-get install {program}")
    plan, folder = planned("h100", gateway=True), tmp_path / "gateway"
    (folder / "tls").mkdir(parents=True)
    (folder / "keys.map").touch()
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "tls.key", "-out", "tls.crt",
            "-days", "1", "-subj", "/CN=x", folder=folder / "tls")  # fmt: skip
    text = configuration(plan).replace("/gateway/", f"{folder}/")
    certificate = f"bind :8443 ssl crt {folder}/tls/tls.crt"
    text = text.replace("bind :8443", certificate).replace(
        "global\n", "global\n    ssl-load-extra-del-ext\n", 1
    )
    assert certificate in text
    (tmp_path / "haproxy.cfg").write_text(text)
    values = variables(plan)
    if isinstance(damage, dict):
        values |= damage
    else:
        damage(folder)
    done = subprocess.run(["haproxy", "-c", "-f", "haproxy.cfg"], cwd=tmp_path, capture_output=True, text=True,
                          env=os.environ | values)  # fmt: skip
    assert done.returncode
    match = recognise(gathered(logs=[done.stderr]), Catalog())
    assert match is not None, done.stderr
    assert match.id.startswith(known), done.stderr
    assert step in match.next
