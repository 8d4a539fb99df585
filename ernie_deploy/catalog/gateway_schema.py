"""The catalog's types of the gateway: its image, the routes that it may let through, and its limits."""

from typing import Literal

from msgspec import field

from ernie_deploy.catalog.schema import Fact


class GatewayImage(Fact, frozen=True):
    """The image, and who it runs as: `UID:GID`."""

    reference: str
    user: str
    source: str


class AnswerTime(Fact, frozen=True):
    """What bounds the longest answer: so long a token, and so long before the first."""

    ms_per_token: int
    ms_per_token_source: str
    waiting_s: int
    waiting_source: str


class BodySize(Fact, frozen=True):
    """The largest body of a request, in MiB, for text alone and where images may be in it."""

    text_mib: int
    text_source: str
    media_mib: int
    media_source: str


class Route(Fact, frozen=True):
    """One path that is let through, with its methods; `asked` is what --route calls it where it is not open unasked.

    `needs` is what a model must have for it.
    """

    path: str
    methods: list[str]
    summary: str
    source: str
    needs: Literal["", "chat"] = ""
    asked: str = ""


class GatewayFacts(Fact, frozen=True):
    """Everything about the gateway that is no decision."""

    image: GatewayImage
    answer: AnswerTime
    body: BodySize
    routes: list[Route] = field(name="route")
