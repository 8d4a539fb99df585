"""HAProxy says when the certificate ends that it serves, in seconds, as Prometheus and the alert want it."""

import itertools
import re
import ssl
import subprocess
import urllib.request
from calendar import isleap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import free_port, planned
from gateway import haproxy
from gateway.haproxy import variables

from ernie_deploy.render.gateway import configuration

# The next leap year that has not begun.
LEAP = next(year for year in itertools.count(datetime.now(UTC).year + 1) if isleap(year))
# Ends around the days that a calendar's arithmetic gets wrong; 2099 is beyond the two digits' usual turn.
ENDS = [
    f"{LEAP + 1}-02-28",
    f"{LEAP + 1}-03-01",
    f"{LEAP}-02-29",
    f"{LEAP}-03-01",
    f"{LEAP - 1}-12-31",
    f"{LEAP}-01-01",
    f"{LEAP + 3}-07-15",
    "2099-10-10",
]


def make(folder: Path, days: int) -> None:
    (folder / "tls").mkdir(exist_ok=True)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=a",
         "-days", str(days), "-keyout", folder / "tls/tls.key", "-out", folder / "tls/tls.crt"],
        check=True, capture_output=True,
    )  # fmt: skip


def end_of(path: Path) -> float:
    """What openssl says of the file."""
    done = subprocess.run(
        ["openssl", "x509", "-in", path, "-noout", "-enddate"], check=True, capture_output=True, text=True
    )
    return ssl.cert_time_to_seconds(done.stdout.strip().partition("=")[2])


def asked(port: int) -> float:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urllib.request.urlopen(f"https://127.0.0.1:{port}/metrics", context=context, timeout=10) as answer:
        match = re.fullmatch(r"ernie_certificate_not_after_seconds (\d+)\n", answer.read().decode())
    assert match
    return float(match[1])


@pytest.fixture
def configured(tmp_path: Path) -> tuple[Path, int]:
    plan, port = planned("h100", gateway=True, tls="files"), free_port()
    (tmp_path / "keys.map").touch()
    text = configuration(plan).replace("/gateway/", f"{tmp_path}/").replace(":8406", f"127.0.0.1:{port}")
    for number in ("8443", "8405"):
        text = text.replace(f"bind :{number}", f"bind 127.0.0.1:{free_port()}")
    (tmp_path / "haproxy.cfg").write_text(text)
    return tmp_path, port


def served(folder: Path, port: int) -> float:
    words = [haproxy.binary(), "-W", "-db", "-f", str(folder / "haproxy.cfg")]
    plan = planned("h100", gateway=True, tls="files")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=variables(plan))
    answer: list[float] = []

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            answer.append(asked(port))
        except OSError:
            return False
        return True

    try:
        haproxy.until(answers)
    finally:
        process.terminate()
        process.wait(timeout=20)
    return answer[0]


@pytest.mark.parametrize("end", ENDS)
def test_it_is_what_openssl_says_of_the_file(end, configured):
    folder, port = configured
    day = datetime.fromisoformat(end).replace(tzinfo=UTC)
    make(folder, (day - datetime.now(UTC)) // timedelta(days=1) + 1)
    wanted = end_of(folder / "tls/tls.crt")
    assert datetime.fromtimestamp(wanted, UTC).date() == day.date()
    assert served(folder, port) == wanted


def test_without_tls_nobody_is_asked():
    assert "frontend certificate" not in configuration(planned("h100", gateway=True))
