"""Asks registries for the digest of an image through the Docker engine, which pulls nothing and uses the user's logins."""

import re
from typing import TYPE_CHECKING, Any, NoReturn

from ernie_deploy.errors import ToolFailed
from ernie_deploy.plan.references import DIGEST

if TYPE_CHECKING:
    from docker import DockerClient

LIMIT_S = 10
REFUSED, NOT_FOUND = (401, 403), 404
# The engine gives some of these the status of a registry that is down.
NO_LOGIN = re.compile("denied|unauthorized|no basic auth credentials|authentication required")


class NotThere(ToolFailed):
    """The registry has no such image or tag."""


class Silent(ToolFailed):
    """The registry does not answer."""


def digest_of(engine: "DockerClient", reference: str) -> str:
    """The digest that a registry has for `name:tag`; raises `ToolFailed` with the reason."""
    from docker.errors import DockerException
    from requests import RequestException

    engine.api.timeout = LIMIT_S
    try:
        answer: Any = engine.images.get_registry_data(reference).attrs
    except (DockerException, RequestException) as fault:
        _raise(reference, fault)
    descriptor = answer.get("Descriptor") if isinstance(answer, dict) else None
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise ToolFailed(
            f"{registry_of(reference)} names no digest for {reference}.",
            cause=f"it answers {str(digest)[:80]!r}; a registry of version 2 answers sha256: and 64 hex digits",
            next_step="use another registry, or another tag",
        )
    return digest


def _raise(reference: str, fault: Exception) -> NoReturn:
    """Raise the sentence for what went wrong."""
    status, cause = getattr(fault, "status_code", None), _words(fault)
    host = registry_of(reference)
    if status in REFUSED or NO_LOGIN.search(cause):
        login = "docker login" if host == "docker.io" else f"docker login {host}"
        raise ToolFailed(
            f"{host} refuses to tell of {reference}.", cause=cause, next_step=f"check the name, or: {login}"
        ) from fault
    if status == NOT_FOUND or "manifest unknown" in cause:
        raise NotThere(
            f"{host} has no {reference}.", cause=cause, next_step="check the name and the tag"
        ) from fault
    raise Silent(
        f"{host} does not answer for {reference}.",
        cause=cause,
        next_step="check the network of the Docker engine, or name a mirror with --registry",
    ) from fault


def _words(fault: Exception) -> str:
    """The engine's own words in a line: they may hold a registry's."""
    text = str(getattr(fault, "explanation", None) or fault)
    return "".join(c if c.isprintable() else " " for c in text)[:300]


def registry_of(reference: str) -> str:
    """The host that Docker asks for an image."""
    host, slash, _ = reference.partition("/")
    return host if slash and ("." in host or ":" in host or host == "localhost") else "docker.io"


def local_digests(engine: "DockerClient", reference: str) -> list[str] | None:
    """The registries' digests of the image that this machine has by a tag; None where it has none by it."""
    from docker.errors import DockerException

    try:
        digests = engine.images.get(reference).attrs.get("RepoDigests") or []
    except DockerException:
        return None
    return [digest.rpartition("@")[2] for digest in digests]
