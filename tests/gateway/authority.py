"""A CA of the tests' own: certificates with any dates and names, made with openssl as its users make them."""

import datetime as dt
import shutil
import subprocess
from pathlib import Path

from conftest import missing
from msgspec import Struct

from ernie_deploy.gateway import tls_files

CONFIG = """\
[ca]
default_ca = own
[own]
dir = {folder}
database = {folder}/index
serial = {folder}/serial
new_certs_dir = {folder}
default_md = sha256
unique_subject = no
policy = any
copy_extensions = copy
[any]
commonName = supplied
"""


class Pair(Struct, frozen=True):
    """A certificate with its chain, and the key, as files."""

    cert: Path
    key: Path


def openssl(*words: str | Path, text: str = "") -> str:
    """What openssl prints; raises where it fails."""
    if not shutil.which("openssl"):
        missing("openssl", "apt-get install --no-install-recommends openssl")
    done = subprocess.run(["openssl", *words], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Authority:
    """Signs what it is asked for, and keeps everything in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index").touch()
        (folder / "serial").write_text("1000\n")
        (folder / "ca.cnf").write_text(CONFIG.format(folder=folder))
        self.root = Pair(folder / "root.crt", folder / "root.key")
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(
            "req",
            "-x509",
            *ec,
            "-subj",
            "/CN=test root",
            "-days",
            "30",
            "-keyout",
            self.root.key,
            "-out",
            self.root.cert,
        )

    def issue(
        self, name: str = "localhost", begins_days: float = -1, ends_days: float = 90, *, chain: bool = True
    ) -> Pair:
        """A certificate for a host, valid between two times from now, with the root behind it."""
        at = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        pair, request = Pair(Path(f"{at}.crt"), Path(f"{at}.key")), Path(f"{at}.csr")
        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(
            "req",
            *ec,
            "-subj",
            f"/CN={name}",
            "-addext",
            f"subjectAltName=DNS:{name}",
            "-keyout",
            pair.key,
            "-out",
            request,
        )
        openssl(
            "ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-cert", self.root.cert, "-keyfile", self.root.key,
            "-startdate", _time(begins_days), "-enddate", _time(ends_days), "-in", request, "-out", pair.cert,
        )  # fmt: skip
        if chain:
            with pair.cert.open("a") as file:
                file.write(self.root.cert.read_text())
        return pair

    def fill(self, folder: Path) -> Path:
        """A gateway's folder in which nothing is wrong: a key, and a certificate of 90 days."""
        pair = self.issue("llm.example.org")
        tls_files.put(folder, pair.cert.read_text(), pair.key.read_text(), None)
        keys = folder / "keys.map"
        keys.write_text(f"{'0' * 64} team-a:60:8:0:0\n")
        keys.chmod(0o644)
        return folder


def _time(days: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(days=days)).strftime("%Y%m%d%H%M%SZ")
