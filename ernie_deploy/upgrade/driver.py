"""Whether the driver that runs the images of a stack runs the new ones too."""

from ernie_deploy.catalog import Catalog
from ernie_deploy.errors import Refused
from ernie_deploy.host.auto import with_image
from ernie_deploy.host.facts import Facts
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request


def another_image(facts: Facts, old: Plan, new: Plan, catalog: Catalog) -> Request | None:
    """The new request with the CUDA or ROCm that the host's driver runs; None where it needs no other.

    A host that does not run the old images decides nothing. Raises `Refused` where no image of the new engine runs.
    """
    try:
        if with_image(facts, catalog, old.request) != old.request:
            return None
    except Refused:
        return None
    fitting = with_image(facts, catalog, new.request)
    return fitting if fitting != new.request else None
