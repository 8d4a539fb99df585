"""The catalog's types of a vendor: what its containers are allowed, and what its driver, exporter and cluster call things."""

from typing import Literal, TypeAlias

from ernie_deploy.catalog.monitoring_schema import Unit
from ernie_deploy.catalog.schema import Fact, Vendor

Security: TypeAlias = Literal["strict", "recipe", "vendor"]


class SecuritySet(Fact, frozen=True):
    """What `serve` may beyond an unprivileged container; all that is left out stays closed.

    `gives_up` and `unproven` go on from the set's name in a sentence of the plan, and `comment` stands in the rendered
    file; an empty one is not printed.
    """

    source: str
    gives_up: str = ""
    unproven: str = ""
    comment: str = ""
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


class GpuPanel(Fact, frozen=True):
    """A panel of the dashboard: a metric of each card, narrowed to the stack's where `expr` has `{cards}`."""

    title: str
    unit: Unit
    expr: str
    why: str


class GpuMetrics(Fact, frozen=True):
    """What the vendor's exporter shows of its cards; the names are those of metrics.toml, with their sources.

    `card_label` is the label that tells cards apart, and `shows_all_cards` says that the exporter sees those of other
    stacks too. Each of `errors` has a series where a card has an error that no restart heals; `power` is in watts.
    """

    card_label: str
    errors: list[str]
    errors_source: str
    power: str
    panel: list[GpuPanel]
    shows_all_cards: bool = False


class KubernetesFacts(Fact, frozen=True):
    """The resource that the vendor's device plugin hands out, empty for none, and how to choose a node."""

    node_hint: str
    source: str
    resource: str = ""


class VendorFacts(Fact, frozen=True):
    """One vendor; `security` holds its sets by name, one of which is the default; a processor has no driver.

    `architectures` are those that its images are published for, as `uname -m` has them. `visible_devices` is the
    variable that names the GPUs in use where no runtime hands out the chosen ones, and `grouped_devices` says that
    their files belong to groups. `root_reason` says why a server without a user of its own is root. `kv_cache_gib` is the KV cache in host memory where the engine does not size it itself.
    """

    id: Vendor
    default_model: str
    architectures: list[str]
    architectures_source: str
    default_security: Security
    security: dict[Security, SecuritySet]
    kubernetes: KubernetesFacts
    driver: DriverFacts | None = None
    gpu_metrics: GpuMetrics | None = None
    root_reason: str = ""
    visible_devices: str = ""
    visible_devices_reason: str = ""
    grouped_devices: bool = False
    kv_cache_gib: float | None = None
    environment: list[VendorVariable] = []  # noqa: RUF012
