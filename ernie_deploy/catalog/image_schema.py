"""The catalog's types for container images that hold vLLM."""

from typing import Literal

from msgspec import field

from ernie_deploy.catalog.schema import Fact


class ImageKind(Fact, frozen=True):
    """Images of one origin: what their entrypoint does with the command, and what their tags say.

    `variant` is that of vLLM's own images ("" is CUDA) and None for others; `since`, `module_before`
    and the values of `versions` are versions of vLLM.
    """

    image: str
    entrypoint: Literal["server", "bare", "script"]
    tags: Literal["release", "inside", "own"]
    source: str
    variant: str | None = None
    hardware: Literal["nvidia", "amd", "cpu", "intel", ""] = ""
    since: str = ""
    module_before: str = ""
    versions: dict[str, str] = field(default_factory=dict)


class ImageKinds(Fact, frozen=True):
    """All of them, the most telling first."""

    images: list[ImageKind]
