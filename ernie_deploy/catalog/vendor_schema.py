"""The catalog's types of a vendor: what containers with its devices are allowed."""

from typing import Literal, TypeAlias

from ernie_deploy.catalog.schema import Fact, Vendor

Security: TypeAlias = Literal["strict", "recipe", "vendor"]


class SecuritySet(Fact, frozen=True):
    """What `serve` may beyond an unprivileged container; all that is left out stays closed.

    `gives_up` and `unproven` go on from the set's name in a sentence of the plan; an empty one is not printed.
    """

    source: str
    gives_up: str = ""
    unproven: str = ""
    host_ipc: bool = False
    unconfined: bool = False
    device_groups: bool = False
    capabilities: list[str] = []  # noqa: RUF012


class ModuleRelease(Fact, frozen=True):
    """The release of the driver whose kernel module has this version, and of newer modules up to the next row."""

    module: str
    release: str
    source: str


class DriverFacts(Fact, frozen=True):
    """The vendor's driver, and the platform that its images bring: CUDA or ROCm.

    `option` is the option of the kit that chooses an image by the platform's version; `make_whole` is the command that
    ends a partition of `{gpu}`. `modules` are the newest first, and empty where the driver tells its release itself.
    """

    title: str
    platform: str
    option: Literal["cuda", "rocm"]
    make_whole: str
    source: str
    modules: list[ModuleRelease] = []  # noqa: RUF012


class VendorVariable(Fact, frozen=True):
    """A variable of every server on the vendor's hardware; `reason` stands beside it in the rendering."""

    name: str
    value: str
    reason: str
    source: str


class VendorFacts(Fact, frozen=True):
    """One vendor; `security` holds its sets by name, one of which is the default; a processor has no driver.

    `architectures` are those that its images are published for, as `uname -m` has them. `visible_devices` is the
    variable that names the GPUs in use where no runtime hands out the chosen ones, and `grouped_devices` says that
    their files belong to groups. `kv_cache_gib` is the KV cache in host memory where the engine does not size it itself.
    """

    id: Vendor
    architectures: list[str]
    architectures_source: str
    default_security: Security
    security: dict[Security, SecuritySet]
    driver: DriverFacts | None = None
    visible_devices: str = ""
    grouped_devices: bool = False
    kv_cache_gib: float | None = None
    environment: list[VendorVariable] = []  # noqa: RUF012
