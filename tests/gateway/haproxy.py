"""The real HAProxy with the configuration of a plan, its files and ports moved to where a test may have them."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from conftest import CATALOG, free_port, missing, planned
from gateway.upstream import exchange, head, status_of
from msgspec import Struct

from ernie_deploy.plan.gateway import PASSED_ON_PORT, PEERS_PORT
from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.compose import defaults_of
from ernie_deploy.render.gateway import configuration


def binary() -> str:
    """HAProxy's path; skips, or fails where nothing may be missing."""
    found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if not found:
        missing("HAProxy", "apt-get install --no-install-recommends haproxy")
    return str(found)


def variables(plan: Plan, **limits: int) -> dict[str, str]:
    """The variables of the gateway's container, as .env leaves them or as `limits` say."""
    values = {k: v for k, v in defaults_of(plan, CATALOG.defaults).items() if k.startswith("GATEWAY_")}
    return values | {f"GATEWAY_{name.upper()}": str(value) for name, value in limits.items()}


def written(folder: Path, target: str = "h100", **options: object) -> tuple[Plan, Path]:
    """A plan with a gateway, and its configuration with files below `folder`."""
    plan = planned(target, gateway=True, **options)
    (folder / "keys.map").touch()
    path = folder / "haproxy.cfg"
    text = configuration(plan).replace("/gateway/", f"{folder}/")
    for port in (PEERS_PORT, PASSED_ON_PORT):
        text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
    path.write_text(text, encoding="utf-8")
    return plan, path


def check(plan: Plan, path: Path) -> "subprocess.CompletedProcess[str]":
    """HAProxy's own verdict on a configuration."""
    return subprocess.run(
        [binary(), "-c", "-f", path],
        capture_output=True, text=True, timeout=60, env={**os.environ, **variables(plan)},
    )  # fmt: skip


class Running(Struct):
    """HAProxy with a plan's configuration before a server of the test's; its log is what it printed so far."""

    plan: Plan
    folder: Path
    port: int
    own_port: int
    process: Any

    def ask(self, method: str, target: str, *headers: str, body: str | None = None) -> tuple[int, bytes]:
        """Status and all bytes of one answer."""
        answer = exchange(self.port, head(method, target, *headers, body=body))
        return status_of(answer), answer

    def log(self) -> list[dict[str, Any]]:
        """The log's objects, one for each request."""
        lines = whole_lines(self.folder / "stdout")
        return [json.loads(line) for line in lines if line.startswith("{")]

    def reload(self) -> None:
        """Have a new HAProxy take over, and wait until it has."""
        taken_over(self.process, self.folder / "stderr")


def whole_lines(log: Path) -> list[str]:
    """What a log has, without a line that is being written."""
    return log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()


STARTED = "Loading success"


def taken_over(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Signal HAProxy's master until its log has one more start: while it executes itself anew it may lose a signal."""
    started = lambda: log.read_text().count(STARTED)  # noqa: E731
    until(lambda: started() > 0)
    before, end = started(), time.monotonic() + 60
    while started() == before:
        assert time.monotonic() < end, log.read_text()
        process.send_signal(signal.SIGUSR2)
        with suppress(AssertionError):
            until(lambda: started() > before, 5)


def key_line(key: str, grant: str) -> str:
    """A line of keys.map."""
    return f"{hashlib.sha256(key.encode()).hexdigest()} {grant}\n"


@contextmanager
def running(
    folder: Path,
    upstream: str,
    keys: dict[str, str],
    limits: dict[str, int] | None = None,
    certificate: tuple[Path, Path] | None = None,
    **options: Any,
) -> Iterator[Running]:
    """HAProxy as the container runs it, until a server is up behind it; `keys` are key -> grant.

    `upstream` is the address of `serve`, or those of all replicas with a space between them. `times` are pieces of the
    configuration and what a test need not wait so long for: each must stand there.
    """
    times: dict[str, str] = options.pop("times", {})
    plan, path = written(folder, options.pop("target", "h100"), **options)
    if certificate:
        place = folder / "tls"
        place.mkdir()
        for path_of, name in zip(certificate, ("tls.crt", "tls.key"), strict=True):
            (place / name).write_text(path_of.read_text())
    (folder / "keys.map").write_text("".join(key_line(key, grant) for key, grant in keys.items()))
    port, own_port = free_port(), free_port()
    text = path.read_text(encoding="utf-8")
    for number, address in enumerate(upstream.split(), 1):
        text = text.replace(f" {'serve' if number == 1 else f'serve-{number}'}:8000 ", f" {address} ")
    for old, new in times.items():
        assert old in text, old
        text = text.replace(old, new)
    text = text.replace("bind :8443", f"bind 127.0.0.1:{port}")
    text = text.replace("bind :8405", f"bind 127.0.0.1:{own_port}")
    path.write_text(re.sub(r"check port \d+", "check", text), encoding="utf-8")
    environment = {**os.environ, **variables(plan, **limits or {})}
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as err:
        process = subprocess.Popen(
            [binary(), "-W", "-db", "-f", path], stdout=out, stderr=err, env=environment
        )
        try:
            made = Running(plan, folder, port, own_port, process)
            _wait(made)
            yield made
        finally:
            process.terminate()
            process.wait(timeout=20)


def _wait(made: Running) -> None:
    """Until the gateway answers; raises AssertionError with its own words."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        # On the port of its own, which speaks no TLS.
        with suppress(OSError):
            if status_of(exchange(made.own_port, head("GET", "/healthz"))):
                return
        assert made.process.poll() is None, (made.folder / "stderr").read_text()
        time.sleep(0.02)
    raise AssertionError((made.folder / "stderr").read_text())


def until(met: Any, limit_s: float = 60) -> None:
    """Wait for a condition; raises AssertionError where it is never met."""
    end = time.monotonic() + limit_s
    while not met():
        assert time.monotonic() < end, "the condition was never met"
        time.sleep(0.02)
