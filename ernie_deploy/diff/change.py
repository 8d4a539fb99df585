"""One difference between two stacks, and all of them: plain data for people, programs and `upgrade`."""

from typing import Literal, NamedTuple, TypeAlias

from msgspec import Struct

Section: TypeAlias = Literal[
    "engine", "image", "model", "flags", "variables", "memory", "ports", "security", "volumes",
    "resources", "health", "start", "services", "other",
]  # fmt: skip
Kind: TypeAlias = Literal["added", "removed", "changed", "renamed", "default"]
By: TypeAlias = Literal["", "user", "kit"]

# In the order in which they are shown.
SECTIONS: dict[Section, str] = {
    "engine": "engine",
    "image": "images",
    "model": "model",
    "flags": "flags",
    "variables": "variables",
    "memory": "memory per GPU",
    "ports": "ports and networks",
    "security": "security",
    "volumes": "volumes",
    "resources": "GPUs and limits",
    "health": "health and lifetime",
    "start": "what is started",
    "services": "services",
    "other": "other",
}


class Key(NamedTuple):
    """Where a fact of a stack stands; `service` is empty for the stack's own."""

    section: Section
    service: str
    name: str


class Change(Struct, frozen=True, kw_only=True):
    """One thing that is another one; `old` or `new` is empty where it is absent, secrets are masked.

    `renamed` has the new name in `new_name`; `default` is a flag that neither side gives and whose default moved.
    `by` says whose change it is, where a file is compared with its own first line.
    """

    section: Section
    service: str
    name: str
    kind: Kind
    old: str = ""
    new: str = ""
    new_name: str = ""
    why: str = ""
    by: By = ""


class Touched(Struct, frozen=True, kw_only=True):
    """One change that another engine makes to the kit's own stacks, and which of them it touches.

    `where` says the same in a few words: `all on amd`.
    """

    change: Change
    stacks: tuple[str, ...]
    where: str


class Differences(Struct, frozen=True, kw_only=True):
    """What differs between two stacks by meaning, and which services `docker compose up` recreates.

    Those of `on_demand` among them have a profile, so that only a command that names it starts them.
    `recreated` may name services without a change: Compose compares spellings too. Between two engines,
    `touched` says what of the kit's `matrix` of stacks each change touches.
    """

    old: str
    new: str
    changes: tuple[Change, ...] = ()
    recreated: tuple[str, ...] = ()
    on_demand: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    touched: tuple[Touched, ...] = ()
    matrix: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether both mean the same stack."""
        return not self.changes
