"""What `up` and `rehearse` say of a lock: where the stack, registries, hub or this machine differ from it today."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ernie_deploy.check.lock_rules import UPGRADE
from ernie_deploy.errors import KitError, UsageError
from ernie_deploy.plan.lock import Lock, read_lock, unlocked_image, unlocked_revision
from ernie_deploy.safe_io.terminal import say
from ernie_deploy.stack.rendered import lock_path

if TYPE_CHECKING:
    from ernie_deploy.stack.locking import Sources

# The kit's own; what a user adds is not in the lock.
SERVICES = (
    *("serve", "worker", "fetch", "beacon", "bench", "gateway"),
    *("prometheus", "grafana", "dcgm-exporter", "device-metrics-exporter", "node-exporter"),
)


def sources_of_file(file: Path) -> "Sources":
    """Who is asked about the stack of a compose file; raises `KitError`."""
    from ernie_deploy.commands.lock import sources_of

    return sources_of(_registry_of(file), file.parent)


def _registry_of(file: Path) -> str:
    from ernie_deploy.commands.preflight import request_of_file

    request = request_of_file(file)
    return request.registry if request else ""


def tell(file: Path, services: Mapping[str, Any]) -> None:
    """Warn of each difference between the lock of a file and its services, and of each that is found by asking."""
    path = lock_path(file)
    try:
        lock = read_lock(path)
    except UsageError as fault:
        _warn(fault.what, fault.next_step)
        return
    for sentence in unlocked(services, lock):
        _warn(f"{sentence}: {file} was not rendered with {path}.", "ernie-deploy lock says how to render it")
    tell_of_today(path, lock, _registry_of(file), file.parent)


def tell_of_today(path: Path, lock: Lock, registry: str, folder: Path) -> None:
    """Warn where a lock no longer holds; who does not answer is named in a line, for a lock needs nobody to start."""
    from ernie_deploy.commands.lock import sources_of
    from ernie_deploy.stack.locking import differences

    try:
        found = list(differences(lock, sources_of(registry, folder)))
    except KitError as fault:
        say(f"note: {path} was compared with nothing: {fault.what}", err=True)
        return
    for one in found:
        if one.kind != "unasked":
            _warn(one.sentence, UPGRADE)
    if unasked := [one.sentence for one in found if one.kind == "unasked"]:
        more = f", and {len(unasked) - 1} more" if unasked[1:] else ""
        say(f"note: not compared with {path}: {unasked[0]}{more}", err=True)


def unlocked(services: Mapping[str, Any], lock: Lock) -> Iterator[str]:
    """What the services, as Compose resolves them, have otherwise than a lock."""
    ours = {name: services[name] for name in SERVICES if name in services}
    images = dict.fromkeys(str(one.get("image")) for one in ours.values() if not one.get("build"))
    yield from filter(None, (unlocked_image(image, lock) for image in images))
    hf_id, *words = map(str, services.get("serve", {}).get("command") or [""])
    named = [word.partition("=")[2] for word in words if word.startswith("--revision=")] or ["main"]
    if fault := unlocked_revision(hf_id, named[-1], lock):
        yield fault


def _warn(sentence: str, next_step: str) -> None:
    say(f"warning: {sentence}\n  next:  {next_step}", err=True)
