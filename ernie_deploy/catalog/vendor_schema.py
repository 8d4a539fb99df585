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


class VendorFacts(Fact, frozen=True):
    """One vendor; `security` holds its sets by name, one of which is the default."""

    id: Vendor
    default_security: Security
    security: dict[Security, SecuritySet]
