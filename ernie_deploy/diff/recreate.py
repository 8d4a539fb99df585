"""Which services `docker compose up` recreates: by the hash of their definition, or a volume of another name.

Source: Compose 2.40 pkg/compose/hash.go ServiceHash, which leaves out what `UNHASHED` names; convergence.go mustRecreate
and checkExpectedVolumes.
"""

from collections.abc import Iterable

from ernie_deploy.check.merge import PAIRS, as_table
from ernie_deploy.check.ports_and_mounts import mount_of, port_of
from ernie_deploy.check.service import Service, Stack, command_words
from ernie_deploy.check.tree import Items, Value, Word
from ernie_deploy.diff.normalize import Plain, plain

UNHASHED = {"build", "pull_policy", "scale", "depends_on", "profiles", "extends"}


def recreated(old: Stack, new: Stack) -> tuple[str, ...]:
    """Services of both stacks that Compose replaces by new containers; all of them where the project is another."""
    another = _project(old) != _project(new)
    return tuple(
        name
        for name, service in new.services.items()
        if (before := old.services.get(name))
        and before.form == service.form == "compose"
        and (another or _definition(before) != _definition(service) or _volumes(before) != _volumes(service))
    )


def on_demand(names: Iterable[str], stack: Stack) -> tuple[str, ...]:
    """Those of the services that start with a profile alone."""
    return tuple(name for name in names if stack.services[name].words("profiles"))


def _project(stack: Stack) -> str:
    name = stack.top.values.get("name")
    return name.text if isinstance(name, Word) else ""


def _volumes(service: Service) -> set[str]:
    """What the named volumes that it mounts are called on the host, without the project's name."""
    names = [mount.source for mount in service.mounts if mount.kind == "volume" and mount.source]
    return {service.stack.field("volumes", name, "name") or name for name in names}


def _definition(service: Service) -> Plain:
    """What Compose hashes: words in their order, each in the one spelling that Compose gives it."""
    return {key: _spelt(key, value) for key, value in service.table.values.items() if key not in UNHASHED}


def _spelt(key: str, value: Value) -> Plain:
    if key in ("command", "entrypoint"):
        words = command_words(value)
        return None if words is None else [word.text for word in words]
    if key == "ports" and isinstance(value, Items):
        return [_parts(port_of(item)) or plain(item) for item in value.values]
    if key == "volumes" and isinstance(value, Items):
        return [_parts(mount_of(item)) or plain(item) for item in value.values]
    normalized = plain(as_table(value) if (key,) in PAIRS else value, (key,))
    if key == "deploy" and isinstance(normalized, dict):
        return {name: part for name, part in normalized.items() if name != "replicas"}
    return normalized


def _parts(value: object) -> list[str]:
    """A port or mount without its line."""
    fields = getattr(value, "__struct_fields__", ())
    return [str(getattr(value, name)) for name in fields if name != "line"]
