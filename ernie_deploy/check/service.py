"""One service of a compose file, its short and long spellings read as one."""

import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import Engine
from ernie_deploy.catalog.schema import Model
from ernie_deploy.check.argv import Argv
from ernie_deploy.check.images import Image, image_of
from ernie_deploy.check.merge import pair
from ernie_deploy.check.model_names import model_named
from ernie_deploy.check.ports_and_mounts import Mount, Port, mount_of, port_of, tmpfs_of
from ernie_deploy.check.process import Process, process_of
from ernie_deploy.check.remark import Remark
from ernie_deploy.check.tree import Items, Table, Value, Word
from ernie_deploy.check.values import MAX_ARGUMENT, Version, truth, whole
from ernie_deploy.check.versions import nearest
from ernie_deploy.plan.lock import Lock

API_PORT = 8000
# What the services were written as.
Form: TypeAlias = Literal["compose", "docker run", "command", "kubernetes"]


class Stack:
    """The files around a service: its neighbours, secrets and configs, and the catalog.

    `remarks` are what reading them showed; `files` are those that were read, the first of them `name`.
    `profiles` are the active ones; None where nobody said which. `folder` is where Compose would take relative paths from;
    None for a text that lies nowhere.
    """

    def __init__(self, top: Table, catalog: Catalog) -> None:
        self.top = top
        self.catalog = catalog
        self.services: dict[str, Service] = {}
        self.name = ""
        self.files: list[str] = []
        self.remarks: list[Remark] = []
        self.profiles: tuple[str, ...] | None = None
        self.lock: Lock | None = None
        self.folder: Path | None = None

    @cached_property
    def published(self) -> Mapping[tuple[int, str], list[tuple["Service", Port]]]:
        """Who takes which fixed port of the host, by port and protocol."""
        by_port: dict[tuple[int, str], list[tuple[Service, Port]]] = {}
        for service in self.services.values():
            for port in service.host_ports:
                for number in port.numbers:
                    by_port.setdefault((number, port.protocol), []).append((service, port))
        return by_port

    @cached_property
    def models(self) -> list[Model]:
        """The catalog's models."""
        return self.catalog.models()

    def entry(self, section: str, name: str) -> Table | None:
        """One entry of a top-level section such as `secrets`."""
        table = self.top.values.get(section)
        entry = table.values.get(name) if isinstance(table, Table) else None
        return entry if isinstance(entry, Table) else None

    def field(self, section: str, name: str, key: str) -> str:
        """One scalar of such an entry; empty where there is none."""
        entry = self.entry(section, name)
        value = entry.values.get(key) if entry else None
        return value.text if isinstance(value, Word) and not value.null else ""


class Service:
    """One service; whatever has a shape that Compose refuses reads as absent."""

    def __init__(  # noqa: PLR0913 - what a service is
        self,
        name: str,
        table: Table,
        line: int,
        stack: Stack,
        *,
        partial: bool = False,
        form: Form = "compose",
    ) -> None:
        self.name = name
        self.table = table
        self.line = line
        self.stack = stack
        self.partial = partial
        self.form = form

    def value(self, *keys: str) -> Value | None:
        """The value at a path of keys; None where it is absent or null."""
        value: Value | None = self.table
        for key in keys:
            value = value.values.get(key) if isinstance(value, Table) else None
        return None if isinstance(value, Word) and value.null else value

    @property
    def started(self) -> bool:
        """Whether `docker compose up` starts it, as far as its profiles decide."""
        mine, active = {word.text for word in self.words("profiles")}, self.stack.profiles
        return active is None or not mine or "*" in active or bool(mine & set(active))

    def line_of(self, key: str) -> int:
        """The line of a key, or the service's own."""
        return self.table.lines.get(key, self.line)

    def text(self, *keys: str) -> str:
        """The scalar at a path of keys; empty where there is none."""
        value = self.value(*keys)
        return value.text if isinstance(value, Word) else ""

    def words(self, *keys: str) -> tuple[Word, ...]:
        """The scalars of the list, or the one scalar, at a path of keys."""
        return _words(self.value(*keys))

    def truth(self, key: str) -> bool:
        """Whether a switch such as `privileged` is on."""
        return truth(self.text(key))

    @cached_property
    def environment(self) -> Mapping[str, Word]:
        """Variables by name; a null word comes from the shell that starts the stack."""
        value = self.value("environment")
        if isinstance(value, Table):
            return {name: word for name, word in value.values.items() if isinstance(word, Word)}
        return dict(pair(word) for word in _words(value))

    def variable(self, name: str, default: str = "") -> str:
        """The value of an environment variable, with the defaults of its own variables."""
        word = self.environment.get(name)
        return default if word is None or word.null else word.text

    @cached_property
    def image(self) -> Image:
        """The image; empty for one that is built."""
        return image_of(self.text("image"))

    @cached_property
    def entrypoint(self) -> tuple[Word, ...] | None:
        """The words of `entrypoint`; None where the image's own holds."""
        return command_words(self.value("entrypoint"))

    @cached_property
    def command(self) -> tuple[Word, ...] | None:
        """The words of `command`; None where the image's own holds."""
        return command_words(self.value("command"))

    @cached_property
    def process(self) -> Process:
        """What the service runs."""
        return process_of(self.entrypoint, self.command, self.image)

    @property
    def argv(self) -> Argv | None:
        """The arguments of its vLLM, if it runs one."""
        return self.process.argv

    @property
    def serve(self) -> Argv | None:
        """The arguments of its `vllm serve`, if it runs one."""
        return self.argv if self.argv and self.argv.tool == "serve" else None

    @property
    def bench(self) -> Argv | None:
        """The arguments of its `vllm bench serve`, if it runs one."""
        return self.argv if self.argv and self.argv.tool == "bench" else None

    @property
    def uses_vllm(self) -> bool:
        """Whether it runs vLLM, or something else in vLLM's image."""
        return self.argv is not None or self.image.variant is not None

    @property
    def answers(self) -> bool:
        """Whether it runs the API server; the other nodes of a multi-node server do not."""
        return self.serve is not None and not self.serve.has("headless")

    @property
    def engine(self) -> Version | None:
        """vLLM's version, as far as the image says."""
        return self.image.engine

    @cached_property
    def engine_facts(self) -> Engine:
        """What the catalog knows of the vLLM nearest to the service's; its nearest flag table need not be of it."""
        return nearest(self.stack.catalog, self.engine)

    @property
    def api_port(self) -> int | None:
        """The port `vllm serve` listens on."""
        return self.serve.number("port", API_PORT) if self.serve else None

    @cached_property
    def model_word(self) -> Word | None:
        """What the command calls the model."""
        if not self.argv:
            return None
        flagged, positionals = self.argv.last("model"), self.argv.positionals
        # A word behind an unknown flag may be its value.
        certain = not self.process.module and all(argument.flag for argument in self.argv.arguments)
        if flagged and not (positionals and certain):
            return Word(flagged.value.replace("$", "$$"), flagged.line)
        return positionals[0] if positionals else None

    @cached_property
    def model(self) -> Model | None:
        """The catalog's model, by each of the names that it has."""
        name = self.model_word.text if self.model_word else ""
        return model_named(name, self.stack.models) if "ernie" in name.lower() else None

    @cached_property
    def ports(self) -> tuple[Port, ...]:
        """What is published on the host."""
        section = self.value("ports")
        values = section.values if isinstance(section, Items) else ()
        return tuple(port for value in values if (port := port_of(value)))

    @cached_property
    def host_ports(self) -> tuple[Port, ...]:
        """What it takes of the host: its published ports, or under the host's network the one it listens on."""
        if self.text("network_mode") not in ("host", "none"):
            return self.ports
        if not self.host_network or not self.serve or not self.answers or self.serve.has("uds"):
            return ()
        address, port = self.serve.text("host"), str(self.api_port or "")
        return (Port(address, port, port, self.line_of("network_mode")),)

    @cached_property
    def mounts(self) -> tuple[Mount, ...]:
        """Volumes, bind mounts and tmpfs."""
        section = self.value("volumes")
        values = section.values if isinstance(section, Items) else ()
        volumes = tuple(mount for value in values if (mount := mount_of(value)))
        return volumes + tuple(tmpfs_of(word) for word in self.words("tmpfs"))

    @property
    def health_test(self) -> tuple[Word, ...]:
        """The words of the health check; empty where there is none."""
        words = self.words("healthcheck", "test")
        disabled = truth(self.text("healthcheck", "disable")) or [w.text for w in words[:1]] == ["NONE"]
        return () if disabled else words

    @property
    def host_network(self) -> bool:
        """Whether the service shares the host's network."""
        return self.text("network_mode") == "host"


def _words(value: Value | None) -> tuple[Word, ...]:
    if isinstance(value, Items):
        return tuple(item for item in value.values if isinstance(item, Word))
    return (value,) if isinstance(value, Word) else ()


def command_words(value: Value | None) -> tuple[Word, ...] | None:
    """The words of a command; one written as a text is split after its variables are filled in, as Compose does."""
    if not isinstance(value, Word):
        return None if value is None else _words(value)
    # `$` is doubled again, as the words of a file are.
    parts = split(value) or value.text.split()
    return tuple(Word(raw=part.replace("$", "$$"), line=value.line) for part in parts)


def split(word: Word) -> list[str] | None:
    """The words of a command written as one text; None where its quotes do not close."""
    if len(word.text) > MAX_ARGUMENT:
        return word.text.split()
    try:
        return shlex.split(word.text)
    except ValueError:
        return None


def neighbours(service: Service) -> Iterator[Service]:
    """The other services of the file."""
    return (other for other in service.stack.services.values() if other is not service)


def never_together(one: Service, other: Service) -> bool:
    """Whether no choice of profiles starts both."""
    mine = {word.text for word in one.words("profiles")}
    theirs = {word.text for word in other.words("profiles")}
    return bool(mine and theirs) and not mine & theirs


def replicas(service: Service) -> int:
    """How many containers of the service start; 1 where only the host knows."""
    count = whole(service.text("deploy", "replicas") or service.text("scale") or "1")
    return 1 if count is None or count < 0 else count
