"""The preflight of `up`: doctor's checks of this host, before Docker is asked for anything."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ernie_deploy.commands.header import request_of_header
from ernie_deploy.errors import KitError, ToolFailed, ToolMissing, UsageError
from ernie_deploy.plan.request import Request
from ernie_deploy.safe_io.reading import first_line
from ernie_deploy.safe_io.terminal import say
from ernie_deploy.stack.rendered import RENDERED

if TYPE_CHECKING:
    from ernie_deploy.host.findings import Finding, Report
    from ernie_deploy.host.probes import Host


def request_of_file(path: Path) -> Request | None:
    """The request behind a rendered file, from its first line; None where it has none that can be read."""
    try:
        head = first_line(path)
    except OSError as fault:
        raise UsageError(f"{path} cannot be read: {fault.strerror}.") from fault
    if not head.startswith(RENDERED):
        return None
    for locked in (True, False):
        # Without its lock a file is still known, and `up` says what became of the lock.
        with suppress(click.ClickException, KitError, ValueError):
            return request_of_header(head, path.parent, locked=locked)
    return None


def refuse_open_stack(request: Request, env_file: Path, *, renders: bool) -> None:
    """Raise `Refused` where this request, or BIND_ADDR of its .env, opens vLLM to other hosts and nobody accepted it."""
    import os

    from ernie_deploy.catalog import Catalog
    from ernie_deploy.host import examine, settings
    from ernie_deploy.plan.exposure import REMEDY, is_open, refuse_open_routes, remedy_of_file
    from ernie_deploy.plan.resolve import resolve

    values = settings.decided(examine.read_env(env_file), os.environ)
    address, rank = values.get("BIND_ADDR", ""), values.get("NODE_RANK", "0")
    # The API is the head's.
    if not is_open(request, address) or (request.nodes > 1 and rank != "0"):
        return
    catalog, plan = Catalog(), None
    # Of what today's kit cannot plan the routes are unknown; the preflight says why.
    with suppress(KitError):
        plan = resolve(catalog, request)
    if plan:
        remedy = REMEDY if renders else remedy_of_file(request, str(env_file.parent))
        refuse_open_routes(plan, catalog, address, remedy)


def preflight(request: Request, env_file: Path, host: "Host | None" = None) -> None:
    """Print what doctor warns of; raises with its first error, and the command that mends it."""
    import os

    from ernie_deploy.catalog import Catalog
    from ernie_deploy.host import examine
    from ernie_deploy.host.probes import LocalHost

    subject = examine.inspect(host or LocalHost(), Catalog(), request)
    report = examine.judge(subject, examine.read_env(env_file), os.environ, env_file.parent)
    for finding in report.findings:
        if finding.severity == "warning":
            say(_line(finding), err=True)
    if errors := [finding for finding in report.findings if finding.severity == "error"]:
        raise _failed(report, errors)


def _line(finding: "Finding") -> str:
    from ernie_deploy.render.yaml import comment

    # A process names itself, and may do so with control characters.
    return f"warning: {comment(finding.sentence)}\n  next:  {comment(finding.remedy)}"


def _failed(report: "Report", errors: "list[Finding]") -> KitError:
    from ernie_deploy.render.yaml import comment

    kind = ToolMissing if report.exit_code == ToolMissing.exit_code else ToolFailed
    more = f", and of {len(errors) - 1} more" if errors[1:] else ""
    return kind(
        comment(errors[0].sentence),
        cause=f"the preflight of this host found it ({errors[0].id}){more}: `ernie-deploy doctor` lists everything; "
        "--no-preflight starts anyway",
        next_step=comment(errors[0].remedy),
    )
