"""What `check` says: findings, and the register of the rules that make them."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

from msgspec import Struct, structs

from ernie_deploy.check.line import file_of
from ernie_deploy.check.next_steps import next_step
from ernie_deploy.check.service import Service

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


class Spot(Struct, frozen=True):
    """One place where a rule is broken; an empty remedy or severity is the rule's own."""

    line: int
    sentence: str
    remedy: str = ""
    severity: Severity | None = None


class Finding(Struct, frozen=True, kw_only=True):
    """One broken rule in one file, with what to do about it.

    `lacks` names what the service has nothing of; such findings of one service are shown in one line.
    """

    id: str
    severity: Severity
    file: str
    line: int
    service: str
    sentence: str
    remedy: str
    lacks: str = ""


Search: TypeAlias = Callable[[Service], Iterator[Spot]]


class Rule(Struct, frozen=True, kw_only=True):
    """One rule: what it forbids, what to do instead, where the fact is from, how it is found.

    `of_absence` rules judge what a service lacks: they are silent where a part of the service
    stands in another file. `lacks` names it in two or three words, where lacking it is no error.
    """

    id: str
    severity: Severity
    sentence: str
    remedy: str
    source: str
    search: Search
    of_absence: bool = False
    lacks: str = ""

    @property
    def name(self) -> str:
        """The rule in words: `unknown-flag`."""
        return self.search.__name__.replace("_", "-")

    def findings(self, service: Service, file: str) -> Iterator[Finding]:
        """Every place where `service` breaks the rule."""
        if self.of_absence and service.partial:
            return
        for spot in self.search(service):
            remedy = spot.remedy or next_step(self.id, service.form)
            finding = self.finding(structs.replace(spot, remedy=remedy), service.name, file)
            # What stands in the file, wrong as it is, has a line of its own.
            absent = self.lacks and finding.severity != "error" and _same(spot.line, service.line)
            yield structs.replace(finding, lacks=self.lacks) if absent else finding

    def finding(self, spot: Spot, service: str, file: str) -> Finding:
        """A place where the rule is broken as a finding, in the file that its line knows."""
        return Finding(
            id=self.id,
            severity=spot.severity or self.severity,
            file=file_of(spot.line, file),
            line=int(spot.line),
            service=service,
            sentence=spot.sentence,
            remedy=spot.remedy or self.remedy,
        )


def _same(one: int, other: int) -> bool:
    return one == other and file_of(one, "") == file_of(other, "")


RULES: dict[str, Rule] = {}


def rule(  # noqa: PLR0913 - a rule is this much
    identity: str,
    severity: Severity,
    sentence: str,
    *,
    remedy: str,
    source: str,
    of_absence: bool = False,
    lacks: str = "",
) -> Callable[[Search], Search]:
    """Register the decorated search as the rule `identity`."""

    def register(search: Search) -> Search:
        assert identity not in RULES, f"two rules are called {identity}"
        RULES[identity] = Rule(
            id=identity, severity=severity, sentence=sentence, remedy=remedy, source=source,
            search=search, of_absence=of_absence or bool(lacks), lacks=lacks,
        )  # fmt: skip
        return search

    return register
