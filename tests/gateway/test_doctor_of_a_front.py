"""`doctor` on a gateway's folder: each fault of keys and certificate is found, and named with what mends it."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from gateway.authority import Authority
from test_doctor import FixtureHost

from ernie_deploy.catalog import Catalog
from ernie_deploy.gateway import tls_files
from ernie_deploy.host import examine
from ernie_deploy.host.probes import NOTHING, LocalHost, Ran, Stat
from ernie_deploy.plan.request import Request

ME = f"{os.getuid()}:{os.getgid()}"


class HostWithFiles(FixtureHost):
    """The recorded node, with this machine's openssl and the files below one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__("h100")
        self.folder, self.openssl = str(folder), True

    def run(self, argv: Sequence[str], env: Mapping[str, str] = NOTHING) -> Ran:
        if argv[0] == "openssl":
            return LocalHost().run(argv, env) if self.openssl else Ran(127, "", "openssl: command not found")
        return super().run(argv, env)

    def read(self, path: str) -> str | None:
        return LocalHost().read(path) if path.startswith(self.folder) else super().read(path)

    def stat(self, path: str) -> Stat | None:
        return LocalHost().stat(path) if path.startswith(self.folder) else super().stat(path)


@pytest.fixture
def gateway(tmp_path: Path, ca: Authority) -> Path:
    """A folder in which nothing is wrong."""
    return ca.fill(tmp_path / "gateway")


def found(
    gateway: Path, env: str = f"GATEWAY_USER={ME}\n", *, openssl: bool = True, tls: str = "files"
) -> list[tuple[str, str, str]]:
    host = HostWithFiles(gateway.parent)
    host.openssl = openssl
    request = Request(target="h100", gateway=True, tls=tls)  # type: ignore[arg-type]
    report = examine.judge(examine.inspect(host, Catalog(), request), env, {}, gateway.parent)
    return [
        (one.id, one.severity, f"{one.sentence} {one.remedy}")
        for one in report.findings
        if one.id in ("tls", "gateway-keys")
    ]


def test_a_folder_in_which_nothing_is_wrong(gateway: Path) -> None:
    assert [severity for _, severity, _ in found(gateway)] == ["ok", "ok"]
    assert "llm.example.org, 89 days left" in found(gateway)[1][2]
    assert [id_ for id_, _, _ in found(gateway, tls="")] == ["gateway-keys"]


def pair(ca: Authority, begins: float, ends: float) -> Callable[[Path], None]:
    def put(folder: Path) -> None:
        made = ca.issue("x", begins, ends)
        tls_files.put(folder, made.cert.read_text(), made.key.read_text(), None)

    return put


def foreign(folder: Path, ca: Authority) -> None:
    (folder / "tls/tls.key").write_text(ca.issue("y").key.read_text())


def own(folder: Path) -> None:
    tls_files.put(folder, *tls_files.self_signed(["localhost"]), None)


CASES: list[tuple[str, str, str, str]] = [
    ("expired", "tls", "error", "expired 2 days ago"),
    ("soon", "tls", "warning", "expires in 10 days"),
    ("young", "tls", "error", "is not valid yet"),
    ("foreign", "tls", "error", "is not the key of tls.crt"),
    ("open key", "tls", "error", "Everybody on this host can read"),
    ("no key", "tls", "error", "tls.key does not exist"),
    ("no certificate", "tls", "error", "tls.crt does not exist"),
    ("garbage", "tls", "error", "is no certificate that openssl reads"),
    ("self-signed", "tls", "ok", "self-signed, for testing"),
    ("no map", "gateway-keys", "error", "ernie-deploy key add NAME"),
    ("empty map", "gateway-keys", "warning", "lets nobody in"),
    ("writable map", "gateway-keys", "error", "grant themselves a key"),
    ("pasted key", "gateway-keys", "error", "line 1: a plain key, which belongs in no file"),
]


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_fault_is_found(case: tuple[str, str, str, str], gateway: Path, ca: Authority) -> None:
    name, id_, severity, words = case
    key, cert, keys = gateway / "tls/tls.key", gateway / "tls/tls.crt", gateway / "keys.map"
    breaks: dict[str, Callable[[], object]] = {
        "expired": lambda: pair(ca, -20, -2)(gateway), "soon": lambda: pair(ca, -60, 10.5)(gateway),
        "young": lambda: pair(ca, 2, 20)(gateway), "foreign": lambda: foreign(gateway, ca),
        "open key": lambda: key.chmod(0o644), "no key": key.unlink, "no certificate": cert.unlink,
        "garbage": lambda: cert.write_text("x"), "self-signed": lambda: own(gateway), "no map": keys.unlink,
        "empty map": lambda: keys.write_text(""), "writable map": lambda: keys.chmod(0o666),
        "pasted key": lambda: keys.write_text("ek_mine a:0:0:0\n"),
    }  # fmt: skip
    breaks[name]()
    wrong = [one for one in found(gateway) if one[1] != "ok"]
    assert [one for one in found(gateway) if one[:2] == (id_, severity) and words in one[2]], found(gateway)
    assert len(wrong) == (severity != "ok"), wrong


def test_a_gateway_alone_has_these_files_too(gateway: Path) -> None:
    (gateway / "keys.map").unlink()
    host = HostWithFiles(gateway.parent)
    request = Request(target="h100", gateway=True, tls="files", upstreams=("10.0.0.4:8000",))
    subject = examine.inspect(host, Catalog(), request)
    report = examine.judge(subject, f"GATEWAY_USER={ME}\n", {}, gateway.parent)
    severities = {one.id: one.severity for one in report.findings}
    assert (severities["gateway-keys"], severities["tls"]) == ("error", "ok")


def test_a_key_that_the_gateways_user_may_not_read(gateway: Path) -> None:
    other = found(gateway, "GATEWAY_USER=54321:54321\n")
    assert [one for one in other if "the gateway, 54321:54321, may not read it" in one[2]]


def test_without_openssl_nobody_says_that_it_is_well(gateway: Path) -> None:
    assert ("tls", "unknown") in [one[:2] for one in found(gateway, openssl=False)]
