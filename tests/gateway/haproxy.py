"""The real HAProxy with the configuration of a plan, its files and ports moved to where a test may have them."""

import os
import shutil
import subprocess
from pathlib import Path

from conftest import CATALOG, missing, planned

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
    path.write_text(configuration(plan).replace("/gateway/", f"{folder}/"), encoding="utf-8")
    return plan, path


def check(plan: Plan, path: Path) -> "subprocess.CompletedProcess[str]":
    """HAProxy's own verdict on a configuration."""
    return subprocess.run(
        [binary(), "-c", "-f", path],
        capture_output=True, text=True, timeout=60, env={**os.environ, **variables(plan)},
    )  # fmt: skip
