"""One examination from end to end: facts, plan, findings."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.schema import Vendor
from ernie_deploy.errors import Refused
from ernie_deploy.host import (
    amd_checks,
    auto,
    docker_checks,
    env_checks,
    file_checks,
    front_checks,
    group_secret,
    link,
    machine_checks,
    node_checks,
    nvidia_checks,
    package_checks,
    settings,
)
from ernie_deploy.host.examination import FILES, FOLDERS, Check, Examination, from_folder, is_path, read_files
from ernie_deploy.host.facts import Facts, collect
from ernie_deploy.host.file_checks import NO_FILE
from ernie_deploy.host.findings import Report
from ernie_deploy.host.front_files import Front, look_at
from ernie_deploy.host.guess import guess
from ernie_deploy.host.probes import Host
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.safe_io.reading import read_bounded

GPU_CHECKS: dict[Vendor, tuple[Check, ...]] = {
    "nvidia": nvidia_checks.CHECKS,
    "amd": amd_checks.CHECKS,
    "cpu": (),
}
LOCAL_SOCKET = "unix://"


class Subject(Struct, frozen=True):
    """A host that was asked, and what it is to serve."""

    host: Host
    catalog: Catalog
    facts: Facts
    plan: Plan
    guess: str = ""


def inspect(host: Host, catalog: Catalog, request: Request) -> Subject:
    """Ask the host; a request without a target gets the one that the host looks like."""
    if request.target:
        # First: what is refused is refused without a probe.
        plan = resolve(catalog, request)
        return Subject(host, catalog, collect(host, plan.target.vendor), plan)
    facts = collect(host)
    guessed = guess(facts, catalog)
    own = replace(request, target=guessed.target)
    # Where no image fits, the check of the driver says so.
    with suppress(Refused):
        own = auto.with_image(facts, catalog, own)
    return Subject(host, catalog, facts, resolve(catalog, own), guessed.sentence)


def judge(subject: Subject, env_text: str, environ: Mapping[str, str], folder: Path = Path()) -> Report:
    """Every check of this host for this plan, whose stack lies in `folder`."""
    plan = subject.plan
    examination = examination_of(subject, env_text, environ, folder)
    checks = _checks(plan)
    return Report(
        target=plan.target.id,
        stack=plan.variant,
        headline=_headline(plan),
        guess=subject.guess,
        findings=tuple(finding for check in checks for finding in check(examination)),
        environment=_environment(subject, examination, settings.decided(env_text, environ)),
    )


def _checks(plan: Plan) -> tuple[Check, ...]:
    """All of them; of a gateway alone those that are about Docker, its port, its variables and its files."""
    if not plan.replicas:
        return (
            *docker_checks.CHECKS,
            *machine_checks.OF_A_GATEWAY,
            *env_checks.CHECKS,
            *front_checks.CHECKS,
        )
    return (
        *docker_checks.CHECKS,
        *GPU_CHECKS[plan.target.vendor],
        *machine_checks.CHECKS,
        *env_checks.CHECKS,
        *file_checks.CHECKS,
        *front_checks.CHECKS,
        *package_checks.CHECKS,
        *node_checks.CHECKS,
    )


def _environment(subject: Subject, examination: Examination, decided: Mapping[str, str]) -> dict[str, str]:
    """What this host's .env should say; a gateway alone asks nothing of it."""
    if not subject.plan.replicas:
        return {}
    own = settings.of_host(subject.facts, subject.plan, examination.values, decided)
    return own | link.variables(examination.link, examination.values)


def examination_of(
    subject: Subject, env_text: str, environ: Mapping[str, str], folder: Path = Path()
) -> Examination:
    """The host beside the plan, with the values of .env and the environment; paths from the stack's folder."""
    plan, docker = subject.plan, environ.get("DOCKER_HOST", "")
    values = settings.values(plan, subject.catalog, env_text, environ)
    values |= {name: from_folder(folder, values[name]) for name in FILES}
    values |= {name: from_folder(folder, values[name]) for name in FOLDERS if is_path(values[name])}
    files = read_files(subject.host, plan, values, subject.facts.docker.root, folder)
    return Examination(
        facts=subject.facts,
        files=files,
        plan=plan,
        engine=subject.catalog.engine(plan.engine),
        engines=tuple(map(subject.catalog.engine, reversed(subject.catalog.ids("engines")))),
        vendor=subject.catalog.vendor(plan.target.vendor),
        values=values,
        remote="" if docker.startswith(LOCAL_SOCKET) else docker,
        index=package_checks.ask(subject.host, plan, files, values),
        link=_link(subject, values),
        front=_front(subject, values, folder),
        folder=os.path.realpath(folder),
        strangers=env_checks.strangers(
            subject.host, settings.names(env_text), subject.catalog.defaults, folder
        ),
        addresses=env_checks.addresses(subject.host, values["BIND_ADDR"]),
    )


def _front(subject: Subject, values: Mapping[str, str], folder: Path) -> Front | None:
    """The folder of the gateway, where the stack has one."""
    if not subject.plan.gateway:
        return None
    place = from_folder(folder, values["GATEWAY_DIR"])
    return look_at(subject.host, place, tls=bool(subject.plan.request.tls))


def _link(subject: Subject, values: Mapping[str, str]) -> link.Link | None:
    return link.route_to_head(subject.host, values["HEAD_ADDR"]) if subject.plan.several_nodes else None


def _headline(plan: Plan) -> str:
    nodes = f" of each of {plan.topology.nodes} nodes" if plan.several_nodes else ""
    gpus = f" on {plan.gpus} of {plan.target.gpus} GPUs{nodes}" if plan.target.gpus else nodes
    return f"{plan.model.title} for {plan.target.id}{gpus}, vLLM {plan.engine}"


def write_env(subject: Subject, path: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Put the facts of the host into .env where they differ; returns what was written."""
    text = read_env(path)
    in_file = settings.decided(text, {})
    now = settings.values(subject.plan, subject.catalog, text, environ)
    proposed = settings.of_host(subject.facts, subject.plan, now, settings.decided(text, environ))
    proposed |= link.variables(_link(subject, now), now)
    if subject.plan.several_nodes and now[group_secret.VARIABLE] == NO_FILE and "NODE_RANK" in proposed:
        proposed |= group_secret.ready(path.parent, now["NODE_RANK"])
    new = {name: value for name, value in proposed.items() if in_file.get(name) != value}
    if new:
        comments = settings.reasons(subject.facts, subject.plan, now)
        settings.write(path, settings.edited(text, new, comments))
    return new


def read_env(path: Path) -> str:
    """The text of .env, line ends as they are; empty where there is none."""
    from ernie_deploy.errors import UsageError

    try:
        return read_bounded(path).decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as fault:
        raise UsageError(
            f"{path} cannot be read: {getattr(fault, 'strerror', None) or 'it is not UTF-8'}.",
            cause="Compose would not read it either",
            next_step=f"check it with: ls -l {path}",
        ) from fault
