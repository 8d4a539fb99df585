"""Where images and weights come from: the registry, the image and the lock that were asked for."""

from collections.abc import Sequence

from msgspec.structs import replace

from ernie_deploy.catalog.schema import Model
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.pairing import find
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.settings import Setting

REVISIONS = ("revision", "tokenizer-revision", "code-revision")


def image(reference: str, request: Request) -> str:
    """An image as it is rendered: with the prefix of --registry, and with the digest of the lock."""
    placed = reference if reference == request.image else placed_in(reference, request.registry)
    return request.lock.lock.image(placed) if request.lock else placed


def placed_in(reference: str, registry: str) -> str:
    """A published reference with the prefix of a mirror; without one as it is."""
    return f"{registry}/{reference}" if registry else reference


def pinned(model: Model, user: Sequence[Setting], request: Request) -> tuple[Model, tuple[Setting, ...]]:
    """The checkpoint and what the user decided, each revision as its locked commit.

    With --weights nothing is asked of the hub, so nothing is locked. Raises `UsageError` for a revision that is not.
    """
    if request.lock is None or request.weights:
        return model, tuple(user)
    lock = request.lock.lock
    settings = tuple(
        replace(one, value=lock.commit(model.hf_id, str(one.value))) if one.name in REVISIONS else one
        for one in user
    )
    if find(settings, "revision"):
        return model, settings
    return replace(model, revision=lock.commit(model.hf_id, model.revision)), settings


def check_sources(request: Request) -> None:
    """Refuse a registry or an image that Docker would read otherwise, or not at all; raises `UsageError`."""
    if request.registry and not _is_registry(request.registry):
        raise UsageError(
            f"--registry {request.registry[:80]!r} is no registry.",
            cause="Docker takes HOST:PORT/PATH in lower case; a HOST without a dot or a port is a name on Docker Hub",
            next_step="such as --registry mirror.example:5000/dockerhub",
        )
    if request.image and not is_reference(request.image):
        raise UsageError(
            f"--image {request.image[:80]!r} is no image reference.",
            cause="Docker takes REGISTRY/NAME:TAG, or NAME@sha256: with 64 hex digits",
            next_step="such as --image registry.example/ai/vllm-openai:TAG",
        )
    for option, version in (("cuda", request.cuda), ("rocm", request.rocm)):
        if request.image and version:
            raise UsageError(f"--image and --{option} exclude each other: both choose the image.")
    if request.lock and not request.lock.path.isprintable():
        raise UsageError("--lock has a character that no first line can carry (newline, NUL, control).")


def is_reference(text: str) -> bool:
    """Whether Docker takes it for an image."""
    from ernie_deploy.plan.references import DIGEST, IMAGE

    name, at, digest = text.partition("@")
    return bool(IMAGE.fullmatch(name)) and (not at or bool(DIGEST.fullmatch(digest)))


def _is_registry(text: str) -> bool:
    from ernie_deploy.plan.references import IMAGE

    host, _, _ = text.partition("/")
    named = "." in host or ":" in host or host == "localhost"
    return named and bool(IMAGE.fullmatch(f"{text}/a")) and "@" not in text
