"""Takes every way out of the network from a container for a while, as in a data centre without one."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ernie_deploy.stack import containers

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

# Docker adds it by itself, and no two containers have it.
OWN_ALIAS_DIGITS = 12


@contextmanager
def secluded(engine: "DockerClient", container: "Container") -> Iterator[bool]:
    """Move a stopped container to a network that leads nowhere, and back at the end.

    Yields whether that was possible: a node's container lives in the network of another one.
    """
    container.reload()
    networks = container.attrs["NetworkSettings"]["Networks"]
    if "host" in networks or not networks:
        yield False
        return
    with ExitStack() as undo:
        # It keeps an address, which the engine's ranks talk over.
        nowhere = engine.networks.create(
            f"{container.name}-nowhere",
            internal=True,
            labels={containers.PROJECT: container.labels[containers.PROJECT]},
        )
        undo.callback(nowhere.remove)
        nowhere.connect(container)
        undo.callback(nowhere.disconnect, container, force=True)
        for name, facts in networks.items():
            network = engine.networks.get(name)
            network.disconnect(container, force=True)
            aliases = [word for word in facts["Aliases"] or () if word != container.id[:OWN_ALIAS_DIGITS]]
            undo.callback(network.connect, container, aliases=aliases)
        yield True
