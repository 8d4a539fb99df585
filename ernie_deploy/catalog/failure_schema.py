"""The types of the known failures."""

from typing import Literal

from msgspec import field

from ernie_deploy.catalog.schema import Fact


class Failure(Fact, frozen=True):
    """A failure by what the host (Docker, Kubernetes, the kernel), the kit's scripts or the engine print of it.

    `{name}` in `what`, `next` and `kit` is the text of the group `name`, `{name:words}` stands for `words` where
    there is none; `near` finds groups in the lines around, `confirmed_by` has to stand anywhere in an engine's
    lines, and `refuted_by` in none of the lines before. `kit` is the next step where the kit rendered the stack,
    `{render:OPTIONS}` in it the command that renders it anew. A `consequence` is told where no cause stands in the
    text, and a `generic` line never is.
    """

    id: str
    what: str
    next: str
    source: str
    kit: str = ""
    host: str = ""
    script: str = ""
    engine: str = ""
    near: str = ""
    confirmed_by: str = ""
    refuted_by: str = ""
    weight: Literal["cause", "consequence", "generic"] = "cause"
    until_serving: bool = False


class Failures(Fact, frozen=True):
    """Known failures; of those whose patterns match one line, the first holds."""

    failures: list[Failure] = field(name="failure")
