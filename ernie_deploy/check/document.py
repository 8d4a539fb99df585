"""One stack taken apart into services, and judged by every rule."""

import re
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.check.assemble import NO_TEXTS, Assembly
from ernie_deploy.check.findings import RULES, SEVERITIES, Finding
from ernie_deploy.check.forms import form_of, stacks
from ernie_deploy.check.input_rules import spot_of
from ernie_deploy.check.interpolate import NOTHING_SET
from ernie_deploy.check.kubernetes import unjudged
from ernie_deploy.check.line import Line
from ernie_deploy.check.lock_rules import Ask, join
from ernie_deploy.check.project import Project
from ernie_deploy.check.remark import Remark
from ernie_deploy.check.service import Form, Stack
from ernie_deploy.check.stacks import stack_of
from ernie_deploy.check.tree import Table, Value, Word
from ernie_deploy.check.values import shown

MAX_REFUSAL = 400
# What a vLLM without a container can be told, and what a cluster sees to itself.
OF_A_PROCESS = re.compile(r"ED1|ED20[12]|ED21[12]|ED22[01]|ED24|ED4")
OF_COMPOSE = {
    "ED130", "ED134", "ED145", "ED147", "ED149", "ED154", "ED221", "ED222", "ED306", "ED308", "ED309", "ED310", "ED311", "ED325", "ED326", "ED327", "ED328", "ED329",
}  # fmt: skip
# Rules that know themselves what Compose refuses.
SAY_THE_SAME = ("ED320", "ED401")
# How Compose names the place that it means.
YAML_LINE = re.compile(r"(?<!\S)(\S{1,4096}): line (\d{1,9})\b")
PATH = re.compile(r"services[.\[]([^:\s]+)|service [\"']([^\"']+)")
EXTRA_KEY = re.compile(r"additional propert\S+ '([^']+)'")


class Verdict(Struct, frozen=True):
    """What was found in a stack, and what is to be said beside it."""

    stack: Stack
    findings: list[Finding]
    asides: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """The files that the stack was read from."""
        return self.stack.files


def judge(data: bytes, name: str, catalog: Catalog) -> list[Finding]:
    """Everything to say about the text `data`, by line; raises `UsageError` if nothing in it can be judged."""
    return judge_text(data, name, catalog).findings


def judge_text(data: bytes, name: str, catalog: Catalog) -> Verdict:
    """As `judge`, with the stack that it was found in."""
    every = stacks(data, name, catalog)
    asides = _unjudged(data, name) if form_of(data, name) == "kubernetes" else ()
    findings = [finding for stack in every for finding in findings_of(stack)]
    return Verdict(every[0], findings, (*asides, *_nothing_of_vllm(every)))


def _nothing_of_vllm(every: list[Stack]) -> tuple[str, ...]:
    """A clean bill for what runs no vLLM would mean little."""
    if any(service.uses_vllm or service.partial for stack in every for service in stack.services.values()):
        return ()
    return (
        f"{every[0].name}: nothing in it runs vLLM; only the rules for every service were held against it.",
    )


def _unjudged(data: bytes, name: str) -> tuple[str, ...]:
    kinds = ", ".join(unjudged(data, name))
    return (f"{name}: only containers are judged, not {kinds}.",) if kinds else ()


def judge_project(
    project: Project,
    catalog: Catalog,
    *,
    ask_compose: bool = False,
    texts: Mapping[str, bytes] = NO_TEXTS,
    ask: Ask | None = None,
) -> Verdict:
    """Everything to say about the stack that Compose would start, Compose's own words too; raises `UsageError`.

    `texts` is what some of its files are to say instead of what they do; `ask` says where its lock no longer holds.
    """
    assembly = Assembly(project.variables, exact=project.exact)
    top, aside = assembly.stack(project.files, texts), ""
    if ask_compose:
        top, aside = _by_compose(project, assembly, top)
    stack = stack_of(top, assembly, catalog)
    stack.folder = Path(project.files[0]).parent
    join(stack, Path(project.files[0]), ask)
    stack.profiles = project.profiles if project.exact or project.profiles else None
    asides = [*([aside] if aside else []), *_nothing_of_vllm([stack])]
    return Verdict(stack, findings_of(stack), tuple(asides))


def _by_compose(project: Project, assembly: Assembly, top: Table) -> tuple[Table, str]:
    """The stack as Compose merges it, and what it could not be asked."""
    from ernie_deploy.check.compose_config import REMOTE, configured
    from ernie_deploy.check.reconcile import reconciled

    if assembly.remote:
        return top, REMOTE
    answer = configured(project, uncertain=bool(assembly.unset))
    if answer.refusal and not (assembly.unset and "required variable" in answer.refusal):
        line, value = _spoken_of(answer.refusal, top)
        if project.exact or not (isinstance(value, Word) and "$" in value.raw):
            sentence = f"Compose refuses it: {shown(answer.refusal, MAX_REFUSAL)}"
            assembly.remarks.append(Remark("ED401", line, sentence))
    return top if answer.services is None else reconciled(top, answer.services), answer.unasked


def _spoken_of(refusal: str, top: Table) -> tuple[int, Value | None]:
    """The line and the value that Compose's words speak of: as much of their path as the stack has."""
    if of_yaml := YAML_LINE.search(refusal):
        return Line(int(of_yaml[2]), of_yaml[1]), None
    path, extra = PATH.search(refusal), EXTRA_KEY.search(refusal)
    keys = re.split(r"[.\[\]']+", path[1] or path[2]) if path else []
    line, value = top.line, top.values.get("services")
    for key in [*keys, *([extra[1]] if extra else [])]:
        if not isinstance(value, Table) or key not in value.values:
            break
        line, value = value.lines[key], value.values[key]
    return line, value


def findings_of(stack: Stack) -> list[Finding]:
    """What every rule finds, by file, line and weight."""
    findings = [
        finding
        for service in stack.services.values()
        for rule in RULES.values()
        if _applies(rule.id, service.form)
        for finding in rule.findings(service, stack.name)
    ]
    findings = [_weighed(finding, stack) for finding in findings]
    errors = {(f.file, f.line) for f in findings if f.id in SAY_THE_SAME}
    of_stack = (remark for remark in stack.remarks if remark.service not in stack.services)
    of_stack_found = [RULES[remark.rule].finding(spot_of(remark), "", stack.name) for remark in of_stack]
    findings += [f for f in of_stack_found if f.id != "ED401" or (f.file, f.line) not in errors]
    places = {name: at for at, name in enumerate(stack.files)}
    return sorted(
        findings, key=lambda f: (places.get(f.file, len(places)), f.line, SEVERITIES.index(f.severity), f.id)
    )


def _weighed(finding: Finding, stack: Stack) -> Finding:
    """An error in a service that is not started is none yet: it is a warning that names the profile."""
    service = stack.services[finding.service]
    if service.started or finding.severity != "error":
        return finding
    profile = shown(service.words("profiles")[0].text)
    return replace(
        finding, severity="warning", sentence=f"{finding.sentence} (with --profile {profile} only)"
    )


def _applies(identity: str, form: Form) -> bool:
    """Whether a rule can speak of a service that was written so."""
    if form == "command":
        return OF_A_PROCESS.match(identity) is not None
    return form != "kubernetes" or identity not in OF_COMPOSE


def load(data: bytes, name: str, catalog: Catalog) -> Stack:
    """The services of a compose file; raises `UsageError` with the line."""
    assembly = Assembly(NOTHING_SET)
    return stack_of(assembly.file(data, name, None), assembly, catalog)
