"""Whether a file is for `docker stack deploy`, whose reading of it is another than Compose's."""

from ernie_deploy.check.hardware import GENERIC, requests
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Table

# Keys of `deploy` that only a swarm obeys; people leave `update_config` in files for Compose too.
MARKS = ("placement", "endpoint_mode", "rollback_config")
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - the container's own
TMPFS = "volumes: [{type: tmpfs, target: /dev/shm, tmpfs: {size: 17179869184}}]"


def in_swarm(service: Service) -> bool:
    """Whether a swarm runs the service; it refuses files with a reservation of `devices`."""
    if service.value(*GENERIC) is not None:
        return True
    marked = any(service.value("deploy", mark) for mark in MARKS) or _overlay(service)
    return marked and not requests(service)


def _overlay(service: Service) -> bool:
    networks = service.stack.top.values.get("networks")
    names = networks.values if isinstance(networks, Table) else ()
    return any(service.stack.field("networks", name, "driver") == "overlay" for name in names)
