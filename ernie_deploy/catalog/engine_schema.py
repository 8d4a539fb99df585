"""The catalog's types for one vLLM: what was proven of it, its images, caches, limits, open routes and lifetimes."""

import datetime as dt
import math
from collections.abc import Collection
from typing import Literal

from msgspec import field

from ernie_deploy.catalog.schema import Fact, Value, Vendor


class Proof(Fact, frozen=True):
    """One step that an engine was taken through, by its own code, with the day and what shows it."""

    step: Literal["parsed", "configured", "served"]
    on: dt.date
    source: str


class Variant(Fact, frozen=True):
    """An image by its CUDA or ROCm; `min_driver` is the oldest release of the host's driver it runs on, "" where none is known."""

    reference: str
    source: str
    min_driver: str = ""


class Image(Fact, frozen=True):
    """One vendor's container image of an engine; `user` is empty where root is the only one.

    `platform` is the version of CUDA or ROCm in it, and `older` are the images with older ones, by that version.
    """

    reference: str
    source: str
    user: str = ""
    platform: str = ""
    min_driver: str = ""
    older: dict[str, Variant] = field(default_factory=dict)

    @property
    def variants(self) -> dict[str, Variant]:
        """Every image of the vendor by its CUDA or ROCm, the default first."""
        default = Variant(reference=self.reference, source=self.source, min_driver=self.min_driver)
        return {self.platform: default, **self.older}

    @property
    def references(self) -> list[str]:
        """Every image of the vendor, the default first."""
        return [variant.reference for variant in self.variants.values()]


class CpuBuild(Fact, frozen=True):
    """The package that holds an engine built for CPU, which rehearsals serve with."""

    package: str
    source: str


class ExpertTiles(Fact, frozen=True):
    """In what steps a kernel takes a rank's share of the experts' intermediate_size.

    `backend` is a value of --moe-backend ("" is any), `quantization` one of --quantization ("" is none). A share of
    at most `narrow` columns comes in steps of `narrow_multiple`. vLLM allocates it rounded up where it is `padded`,
    and elsewhere leaves it to the kernel to refuse what does not fit.
    """

    multiple: int
    source: str
    backend: str = ""
    quantization: str = ""
    narrow: int = 0
    narrow_multiple: int = 0
    padded: bool = True

    def rounded(self, columns: float) -> int:
        """The columns that are allocated for a share of so many."""
        step = self.narrow_multiple if self.narrow and columns <= self.narrow else self.multiple
        return math.ceil(columns / step) * step


class Cache(Fact, frozen=True):
    """Where a library keeps what it compiles; without a variable that says so, the folder is below HOME."""

    folder: str
    source: str
    variable: str = ""
    vendors: list[Vendor] = field(default_factory=list)

    def is_of(self, vendor: Vendor) -> bool:
        """Tell whether an image of this vendor has the library; all have it where none is named."""
        return vendor in (self.vendors or [vendor])


class Lifetime(Fact, frozen=True):
    """A flag, or a value of one, that works in this engine and soon will not; removed flags have a table of their own."""

    flag: str
    state: Literal["deprecated"]
    since: str
    remedy: str
    source: str
    value: str = ""


class FlagRun(Fact, frozen=True):
    """The releases that have a flag: [first, last] of each run, without a last where the newest has it."""

    spans: list[list[str]]
    switch: bool = False


class FlagHistory(Fact, frozen=True):
    """Every flag of `vllm serve` in the releases that were read, the oldest first."""

    source: str
    releases: list[str]
    flags: dict[str, FlagRun]


class RemovedFlag(Fact, frozen=True):
    """A flag of an older vLLM, and what to write instead; its releases stand in the history."""

    flag: str
    remedy: str
    source: str


class RemovedFlags(Fact, frozen=True):
    """The removed flags that people's files hold."""

    removed: list[RemovedFlag]


class RequestLimit(Fact, frozen=True):
    """What one request may ask of the server: a flag of vLLM, or in capitals a variable of its environment.

    `vision` limits are of models that take images; `host_variable` is the `${VAR}` that changes the value.
    `gateway_value` and `gateway_reason` take the place of the others where a gateway counts requests.
    """

    name: str
    value: Value
    reason: str
    source: str
    vision: bool = False
    host_variable: str = ""
    gateway_value: str = ""
    gateway_reason: str = ""


class OpenRoute(Fact, frozen=True):
    """A path that asks for no API key; `closed_by` is the flag without which it is served."""

    path: str
    does: str
    source: str
    closed_by: str = ""


class ApiKey(Fact, frozen=True):
    """What vLLM's own API key guards, by the beginning of the path, and what it leaves open."""

    guards: list[str]
    source: str
    open: list[OpenRoute]

    def left_open(self, flags: Collection[str]) -> list[str]:
        """The paths that are open on a server with these flags, the most harmful first."""
        return [route.path for route in self.open if route.closed_by not in flags]


class Change(Fact, frozen=True):
    """What the same command line does otherwise than in the version before.

    Only for servers on these `vendors`, of models with `vision`, or that decode speculatively, where it says so.
    """

    of: Literal["bench", "speed", "limits", "images", "flags"]
    what: str
    source: str
    vendors: list[Vendor] = field(default_factory=list)
    vision: bool = False
    speculative: bool = False


class ExpectedWarning(Fact, frozen=True):
    """A warning of a correct command line, by words of it, and why nobody needs to act on it."""

    text: str
    reason: str


class Engine(Fact, frozen=True):
    """One vLLM version: an image per vendor, what its API key leaves open, its limits of a request, its caches and the lifetimes of its flags."""

    version: str
    gpu_memory_utilization: float
    gpu_memory_utilization_source: str
    images: dict[Vendor, Image]
    api_key: ApiKey
    request_limits: list[RequestLimit]
    caches: list[Cache]
    lifetimes: list[Lifetime]
    proofs: list[Proof]
    cpu_build: CpuBuild | None = None
    changes: list[Change] = field(default_factory=list)
    expert_tiles: list[ExpertTiles] = field(default_factory=list)
    expected_warnings: list[ExpectedWarning] = field(default_factory=list)

    @property
    def served(self) -> bool:
        """Whether it answered requests in a rehearsal."""
        return any(proof.step == "served" for proof in self.proofs)

    @property
    def status(self) -> str:
        """What was proven of it, in words: `parsed and configured by its own code; not served (no CPU build yet)`."""
        steps = [proof.step for proof in self.proofs]
        if self.served:
            return f"{', '.join(steps)} in rehearsal"
        known = f"{' and '.join(steps)} by its own code; " if steps else ""
        return f"{known}not served{'' if self.cpu_build else ' (no CPU build yet)'}"

    def expert_tiles_of(self, quantization: str, backend: str) -> ExpertTiles | None:
        """The steps of one --quantization ("" is none) on one --moe-backend; None where any width is taken as it is."""
        rows = (row for row in self.expert_tiles if row.quantization == quantization)
        return next((row for row in rows if row.backend in ("", backend)), None)
