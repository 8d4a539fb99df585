"""Images as files of `docker save`, under names that another engine can know."""

from collections.abc import Iterable

from msgspec import Struct

from ernie_deploy.bundle.parts import Part
from ernie_deploy.errors import ToolFailed, UsageError
from ernie_deploy.stack.compose import ask, bytes_of, relay

DIGEST_DIGITS = 12


class Image(Struct, frozen=True, kw_only=True):
    """An image of this engine: `reference` as the stack has it, `name` as the other engine will know it."""

    reference: str
    name: str
    id: str
    size_bytes: int


def name_of(reference: str) -> str:
    """The name that an image has where nothing is pulled: `docker load` restores tags but never digests."""
    name, _, digest = reference.partition("@")
    if not digest or ":" in name.rpartition("/")[2]:
        return name
    return f"{name}:sha256-{digest.removeprefix('sha256:')[:DIGEST_DIGITS]}"


def inspect_image(reference: str) -> Image | None:
    """The image that this engine has under a reference; None where it has none."""
    done = ask(inspection(reference))
    if done.returncode and "No such image" in done.stderr:
        return None
    words = done.stdout.split()
    if done.returncode or [word.isdigit() for word in words] != [False, True]:
        raise ToolFailed(
            f"Docker could not look at the image {reference}.",
            cause=done.last_words,
            next_step="check that it answers: docker version",
        )
    return Image(reference=reference, name=name_of(reference), id=words[0], size_bytes=int(words[1]))


def inspection(reference: str) -> list[str]:
    """The command that says an image's id and size."""
    return ["docker", "image", "inspect", "--format", "{{.Id}} {{.Size}}", reference]


def pulling(reference: str) -> list[str]:
    """The command that brings an image."""
    return ["docker", "pull", reference]


def bring(reference: str) -> Image:
    """The image, pulled where this engine does not have it; raises `ToolFailed`."""
    if image := inspect_image(reference):
        return image
    code = relay(pulling(reference), err=True)
    if not (image := inspect_image(reference)):
        raise ToolFailed(
            f"The image {reference} is not on this host and could not be pulled.",
            cause=f"docker pull ended with {code}",
            next_step="make the bundle where the registry can be reached; build your own images first",
        )
    return image


def saving(image: Image) -> list[str]:
    """The command that writes an image: by its name where that still means it, else by its id."""
    tagged = inspect_image(image.name)
    return ["docker", "save", image.name if tagged and tagged.id == image.id else image.id]


def path_of(image: Image) -> str:
    """The place of an image in a bundle: its name, with two characters that no name has for two that no path takes."""
    return f"images/{image.name.replace('/', '+').replace(':', '@')}.tar"


def part_of(image: Image) -> Part:
    """The part of a bundle that holds an image."""
    words = saving(image)
    return Part(
        path=path_of(image),
        key=f"image {image.id} saved as {words[-1]}",
        size_bytes=image.size_bytes,
        open=lambda: bytes_of(words),
    )


def require_distinct(images: Iterable[Image]) -> None:
    """Raise `UsageError` where two images would have one name on the other side."""
    known: dict[str, Image] = {}
    for image in images:
        other = known.setdefault(image.name, image)
        if other.id != image.id:
            raise UsageError(
                f"{image.reference} and {other.reference} would both be {image.name} after loading.",
                cause="`docker load` restores tags but never digests",
                next_step="make a bundle for each of the two stacks",
            )
