"""What one request may ask of the server: hosts, images, pixels and sequences, bounded for every engine."""

import re
from collections.abc import Sequence

from ernie_deploy.catalog.engine_schema import Engine, RequestLimit
from ernie_deploy.catalog.schema import Model
from ernie_deploy.errors import Refused, UsageError
from ernie_deploy.plan.pairing import find
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.settings import Setting

MEDIA_DOMAINS = "allowed-media-domains"
LONGEST_HOST_NAME = 253
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def limit_settings(
    engine: Engine, model: Model, request: Request, others: Sequence[Setting]
) -> list[Setting]:
    """The limits that are flags; `others` tell whether the model takes images here. Raises `KitError`."""
    domains = media_domains(request)
    images = takes_images(model, others)
    if domains and not images:
        raise Refused(
            f"--media-domains: {model.id} takes no images here.",
            cause="only a vision-language model fetches media, and not with --profile text-only",
            next_step="leave out --media-domains",
        )
    return [_setting(limit, domains) for limit in _limits(engine, images=images) if not limit.name.isupper()]


def limit_environment(
    engine: Engine, model: Model, others: Sequence[Setting], *, gateway: bool
) -> list[Setting]:
    """The limits that are variables of vLLM's; behind a gateway one request is few sequences."""
    limits = _limits(engine, images=takes_images(model, others))
    return [_setting(limit, (), gateway=gateway) for limit in limits if limit.name.isupper()]


def media_domains(request: Request) -> tuple[str, ...]:
    """The hosts that may be asked for media, as vLLM compares them; raises `UsageError`."""
    domains = tuple(domain.lower() for domain in request.media_domains)
    for domain in domains:
        if not is_host_name(domain):
            raise UsageError(
                f"--media-domains: {domain[:40]!r} is not a host name.",
                cause="vLLM compares the host of a URL with it, letter by letter, without scheme, port or path",
                next_step="write host names with commas between them, such as images.example.org,cdn.example.org",
            )
    return domains


def is_host_name(text: str) -> bool:
    """Whether it is a host's name in small letters, or an address of IPv4, and nothing besides."""
    return len(text) <= LONGEST_HOST_NAME and all(map(LABEL.fullmatch, text.split(".")))


def _limits(engine: Engine, *, images: bool) -> list[RequestLimit]:
    return [limit for limit in engine.request_limits if images or not limit.vision]


def _setting(limit: RequestLimit, domains: Sequence[str], *, gateway: bool = False) -> Setting:
    if limit.name == MEDIA_DOMAINS and domains:
        return Setting(name=limit.name, value=list(domains), origin="user")
    value, reason = limit.value, limit.reason
    if gateway and limit.gateway_value:
        value, reason = limit.gateway_value, limit.gateway_reason
    return Setting(name=limit.name, value=value, origin=f"kit: {reason}", variable=limit.host_variable)


def takes_images(model: Model, others: Sequence[Setting]) -> bool:
    """Whether a request may bring images: a vision model, and not with --profile text-only."""
    return model.vision is not None and not find(others, "language-model-only")
