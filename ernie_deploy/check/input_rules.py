"""ED4xx: what is to be said of the input itself: what Compose refuses, what is missing, what was not looked at."""

from collections.abc import Iterator

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.remark import Remark
from ernie_deploy.check.service import Service


def spot_of(remark: Remark) -> Spot:
    """A remark as the place of its rule."""
    return Spot(remark.line, remark.sentence, remark.remedy, "error" if remark.severe else None)


def _of(service: Service, identity: str) -> Iterator[Spot]:
    remarks = service.stack.remarks
    return (spot_of(each) for each in remarks if (each.rule, each.service) == (identity, service.name))


@rule(
    "ED401",
    "error",
    "Compose refuses the file; nothing starts.",
    remedy="ask Compose itself with: docker compose config --quiet",
    source="`docker compose config` where Docker Compose is installed; run with Compose 2.40.3",
)
def refused_by_compose(service: Service) -> Iterator[Spot]:
    """What `docker compose config` says, and services without an image."""
    yield from _of(service, "ED401")
    lacks = not service.text("image") and service.value("build") is None and service.value("provider") is None
    if lacks and service.form == "compose" and not service.partial:
        sentence = "the service has neither an image nor a build context"
        remedy = "name it together with the file that it overrides: ernie-deploy check -f BASE -f OVERRIDE"
        yield Spot(service.line, sentence, remedy)


@rule(
    "ED402",
    "note",
    "A variable without a default is not set.",
    remedy="set it in .env beside the file",
    source="Compose 2.40.3: `${NAME:?text}` ends with `required variable NAME is missing a value`",
)
def required_variable(service: Service) -> Iterator[Spot]:
    """Variables that Compose asks for; of the whole stack, so that no service has them."""
    yield from _of(service, "ED402")


@rule(
    "ED403",
    "warning",
    "A part of the stack was not looked at.",
    remedy="hand the whole over: docker compose config | ernie-deploy check -",
    source="this reader: it fetches nothing and runs nothing that the input names",
)
def not_looked_at(service: Service) -> Iterator[Spot]:
    """Files that are remote or cannot be read."""
    yield from _of(service, "ED403")
