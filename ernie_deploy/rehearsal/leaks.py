"""Everywhere a secret could be seen: each place a name and the bytes that stand there."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ernie_deploy.rehearsal import prometheus_api
from ernie_deploy.rehearsal.planted import SECRET_FILES
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack, demand

if TYPE_CHECKING:
    from docker.models.containers import Container

    from docker import DockerClient

Place = tuple[str, bytes]
VOLUMES = ("/cache/hf", "/cache/engine", "/stack", "/packages", "/prometheus")
PROCESSES = r"for p in /proc/[0-9]*; do cat $p/environ $p/cmdline; echo; done 2>/dev/null || true"


def places(stack: Stack, project: str, folder: Path) -> Iterator[Place]:
    """The files of the stack, its containers, their images and processes, and the volumes' content."""
    engine = containers.client()
    yield from _files(folder)
    yield "resolved configuration", demand(stack.words("--profile", "*", "config")).encode()
    for state in containers.states(engine, project):
        yield from _container(engine.containers.get(state.id), state)
        yield from _image(engine, engine.containers.get(state.id).image.id)
        if state.status == "running":
            yield from _running(engine.containers.get(state.id), stack, state.service)
        if state.service == prometheus_api.SERVICE:
            # Its blocks and its log of writes are compressed.
            yield f"series of {state.service}", prometheus_api.every_series(state)


def _files(folder: Path) -> Iterator[Place]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path not in {folder / name for name in SECRET_FILES}:
            yield f"file {path.relative_to(folder)}", path.read_bytes()


def _container(container: "Container", state: containers.State) -> Iterator[Place]:
    yield f"inspection of {state.service}", json.dumps(container.attrs).encode()
    yield f"log of {state.service}", container.logs()


def _image(engine: "DockerClient", image_id: str) -> Iterator[Place]:
    image = engine.images.get(image_id)
    yield f"image {image.short_id}", json.dumps(image.attrs).encode()
    yield f"history of image {image.short_id}", json.dumps(image.history()).encode()


def _running(container: "Container", stack: Stack, service: str) -> Iterator[Place]:
    yield f"processes of {service}", json.dumps(container.top(ps_args=containers.WIDE)).encode()
    seen = demand(stack.words("exec", "-T", service, "sh", "-c", PROCESSES))
    yield f"environments and arguments in {service}", seen.encode()
    mounted = {mount["Destination"] for mount in container.attrs["Mounts"]}
    for volume in sorted(mounted.intersection(VOLUMES)):
        # As an archive through the engine: the token would be an argument of any search inside.
        chunks, _ = container.get_archive(volume)
        yield f"volume {volume}", b"".join(chunks)
