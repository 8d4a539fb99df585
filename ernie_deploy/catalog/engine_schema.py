"""The catalog's types for one pinned vLLM: its images, caches, limits, open routes and the lifetimes of its flags."""

from collections.abc import Collection
from typing import Literal

from msgspec import field

from ernie_deploy.catalog.schema import Fact, Value, Vendor


class Image(Fact, frozen=True):
    """One vendor's container image of an engine; `user` is empty where root is the only one."""

    reference: str
    source: str
    user: str = ""
    min_driver: str = ""
    older_cuda: dict[str, str] = field(default_factory=dict)


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
    """

    name: str
    value: Value
    reason: str
    source: str
    vision: bool = False
    host_variable: str = ""


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


class Engine(Fact, frozen=True):
    """One pinned vLLM version: an image per vendor, what its API key leaves open, its limits of a request, its caches and the lifetimes of its flags."""

    version: str
    gpu_memory_utilization: float
    gpu_memory_utilization_source: str
    images: dict[Vendor, Image]
    api_key: ApiKey
    request_limits: list[RequestLimit]
    caches: list[Cache]
    lifetimes: list[Lifetime]
