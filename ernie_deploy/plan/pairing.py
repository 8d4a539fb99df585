"""A model on a target with what the user decided, and the numbers read out of settings."""

from collections.abc import Sequence

from msgspec import Struct

from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.schema import Model, Profile, Recipes, Target
from ernie_deploy.catalog.vendor_schema import SecuritySet, VendorFacts
from ernie_deploy.errors import UsageError
from ernie_deploy.plan.settings import Setting

# More than any host has: what lies above is a slip of the finger.
MOST_GIB = 1e6


class Pairing(Struct, frozen=True, kw_only=True):
    """A model on a target, and what the user decided about them.

    `replica_tp` is the tensor_parallel_size of the one server that `--dp` multiplies, where it is decided already.
    """

    model: Model
    target: Target
    vendor: VendorFacts
    engine: Engine
    recipes: Recipes
    profiles: tuple[Profile, ...]
    fp8: Profile
    user: tuple[Setting, ...]
    security_name: str
    security: SecuritySet
    gpu_ids: tuple[int, ...] = ()
    local_weights: bool = False
    lock_path: str = ""
    nodes: int = 1
    replicas: int = 1
    replica_tp: int | None = None

    @property
    def gpus_of_node(self) -> int:
        """GPUs that one node offers to a server of this plan; the processor of a CPU target counts as one."""
        return (len(self.gpu_ids) or self.target.gpus or self.replicas) // self.replicas


def find(settings: Sequence[Setting], name: str) -> Setting | None:
    """The setting `name`, unless it is switched off."""
    return next((s for s in settings if s.name == name and s.value is not False), None)


def whole_number(setting: Setting) -> int:
    """The value as a positive whole number; raises `UsageError`."""
    if isinstance(setting.value, int) and setting.value >= 1:
        return int(setting.value)
    raise UsageError(
        f"--{setting.name} must be a whole number of 1 or more, not {str(setting.value)[:40]!r}.",
        cause="the memory plan calculates with this number",
    )


def size_of(settings: Sequence[Setting], name: str, default: int = 1) -> int:
    """The setting `name` as a positive whole number."""
    setting = find(settings, name)
    return whole_number(setting) if setting else default


def float_of(settings: Sequence[Setting], name: str, default: float) -> float:
    """The setting `name` as a number of 0 or more."""
    setting = find(settings, name)
    if setting is None:
        return default
    if isinstance(setting.value, int | float) and 0 <= setting.value < MOST_GIB:
        return float(setting.value)
    raise UsageError(f"--{name} must be a number of 0 or more, not {str(setting.value)[:40]!r}.")


def share_of(settings: Sequence[Setting], default: float) -> float:
    """The share of each GPU's memory that vLLM may take."""
    share = float_of(settings, "gpu-memory-utilization", default)
    if not 0 < share <= 1:
        raise UsageError(
            f"--gpu-memory-utilization must lie above 0 and at most 1, not {share:g}.",
            cause="it is the share of one GPU's memory that vLLM may take",
        )
    return share
