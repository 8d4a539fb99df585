"""A stack as facts: what each part of it means, by section, service and name."""

from collections.abc import Iterator

from ernie_deploy.check.interpolate import known
from ernie_deploy.check.ports_and_mounts import Mount, Port, mount_of
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.tree import Items, Table, Value, Word
from ernie_deploy.check.versions import spelled
from ernie_deploy.diff.change import Key, Section
from ernie_deploy.diff.flags import meanings
from ernie_deploy.diff.normalize import Plain, flat, plain, shown
from ernie_deploy.diff.words import SCRIPTS, around, options, without_checksum

Facts = dict[Key, str]
SERVER, CLIENT = "vLLM's server", "vLLM's bench client"

# What has facts of its own kind; the rest is taken as it stands.
READ = {"image", "command", "entrypoint", "environment", "ports", "volumes", "tmpfs", "extends"}
SECTION_OF: dict[str, Section] = {
    **dict.fromkeys(
        ("user", "cap_add", "cap_drop", "security_opt", "read_only", "privileged", "init", "ipc", "pid", "uts",
         "userns_mode", "cgroup", "cgroup_parent", "pids_limit", "devices", "device_cgroup_rules", "group_add",
         "sysctls", "ulimits", "secrets", "configs", "isolation"), "security"),
    **dict.fromkeys(
        ("network_mode", "networks", "expose", "extra_hosts", "dns", "dns_search", "dns_opt", "hostname", "links",
         "domainname", "mac_address"), "ports"),
    **dict.fromkeys(
        ("deploy", "gpus", "shm_size", "mem_limit", "mem_reservation", "memswap_limit", "mem_swappiness", "cpus",
         "cpuset", "cpu_shares", "runtime", "blkio_config", "oom_kill_disable", "oom_score_adj", "scale"), "resources"),
    **dict.fromkeys(
        ("healthcheck", "restart", "stop_grace_period", "stop_signal", "depends_on", "post_start", "pre_stop"), "health"),
    **dict.fromkeys(("build", "working_dir", "platform", "pull_policy", "profiles", "stdin_open", "tty"), "start"),
}  # fmt: skip
# Lists whose order means nothing.
UNORDERED = {
    "cap_add", "cap_drop", "security_opt", "group_add", "devices", "secrets", "configs", "profiles", "expose",
    "device_cgroup_rules", "extra_hosts", "links", "env_file",
}  # fmt: skip
TOP = {"services", "include", "version", "name"}
MODEL_FLAGS = ("revision", "code-revision", "tokenizer-revision", "tokenizer", "model")


def facts_of(stack: Stack) -> Facts:
    """Every fact of a stack, in the order of its file."""
    facts: Facts = {}
    for service in stack.services.values():
        facts[Key("services", "", service.name)] = _role(service)
        facts |= _of_service(service)
    facts |= _of_top(stack.top)
    facts = _without_model(facts, stack)
    engines = {spelled(s.engine) for s in stack.services.values() if s.serve and s.engine}
    if engines:
        facts[Key("engine", "", "vLLM")] = ", ".join(sorted(engines))
    return facts


def _role(service: Service) -> str:
    return (
        {"serve": "vLLM's server", "bench": "vLLM's bench client"}[service.argv.tool] if service.argv else ""
    )


def _without_model(facts: Facts, stack: Stack) -> Facts:
    """Where other words only repeat the model or its stamp, it is named as such: one change is told once."""
    server = next((service for service in stack.services.values() if service.serve), None)
    model = server.model_word.text if server and server.model_word else ""
    if not server or not server.serve or not known(model) or "/" not in model:
        return facts
    revision = server.serve.text("revision", "main").replace("/", "-")
    stamp = f"{model.replace('/', '--')}@{revision}"
    return {
        key: value.replace(stamp, "STAMP").replace(model, "MODEL")
        if key.section in ("start", "health")
        else value
        for key, value in facts.items()
    }


def _of_service(service: Service) -> Facts:
    parts: list[Iterator[tuple[Section, str, str]]] = [
        _image(service), _words(service), _variables(service), _ports(service), _mounts(service), _rest(service),
    ]  # fmt: skip
    return {Key(section, service.name, name): value for part in parts for section, name, value in part}


def _image(service: Service) -> Iterator[tuple[Section, str, str]]:
    if text := service.text("image"):
        yield "image", "image", text


def _words(service: Service) -> Iterator[tuple[Section, str, str]]:
    """The arguments of its vLLM, or of another program, and what stands around them."""
    if service.argv:
        if service.model_word:
            yield "model", "model", service.model_word.text
        for name, value in meanings(service.argv).items():
            if name != "--model":
                yield _section_of_flag(name), name, value
        for place, word in enumerate(service.argv.positionals[1:], 1):
            yield "flags", f"word {place + 1}", word.text
    for name, value in options(around(service)).items():
        of_model = service.argv is None and name in ("--model", "--revision")
        yield "model" if of_model else "start", name, value


def _section_of_flag(name: str) -> Section:
    return "model" if name.removeprefix("--") in MODEL_FLAGS else "flags"


def _variables(service: Service) -> Iterator[tuple[Section, str, str]]:
    for name, word in service.environment.items():
        yield "variables", name, f"${name}" if word.null else word.text


def _ports(service: Service) -> Iterator[tuple[Section, str, str]]:
    published: dict[str, list[str]] = {}
    for port in service.ports:
        published.setdefault(f"{port.target}/{port.protocol}", []).append(_host_side(port))
    for target, places in published.items():
        yield "ports", f"port {target.removesuffix('/tcp')}", ", ".join(sorted(places))


def _host_side(port: Port) -> str:
    address = f"[{port.address}]" if ":" in port.address else port.address
    return f"{address or '0.0.0.0'}:{port.published or 'any'}"  # noqa: S104 - what Docker takes for none


def _mounts(service: Service) -> Iterator[tuple[Section, str, str]]:
    for mount in service.mounts:
        yield "volumes", without_checksum(mount.target), _source(mount)
    value = service.value("volumes")
    for item in value.values if isinstance(value, Items) else ():
        for key, text in _more(item).items():
            yield "volumes", f"{_target(item)} {key}", text


def _target(item: Value) -> str:
    mount = mount_of(item)
    return mount.target if mount else ""


def _source(mount: Mount) -> str:
    given = mount.options.split(",")
    words = {"ro": "read-only", "rw": ""}
    options = sorted(words.get(option, option) for option in given if words.get(option, option))
    source = mount.source or (mount.kind if mount.kind == "tmpfs" else "anonymous")
    return " ".join([source, *([f"({', '.join(options)})"] if options else [])])


def _more(item: Value) -> dict[str, str]:
    """What the long spelling of a mount says beside its ends."""
    if not isinstance(item, Table):
        return {}
    rest = {key: plain(value, (key,)) for key, value in item.values.items()
            if key not in ("type", "source", "target", "read_only")}  # fmt: skip
    return {name: text for key, value in rest.items() for name, text in flat(value, key).items()}


def _rest(service: Service) -> Iterator[tuple[Section, str, str]]:
    """Every other key, taken apart."""
    for key, value in service.table.values.items():
        if key in READ:
            continue
        section = SECTION_OF.get(key, "other")
        for name, text in flat(_plain(key, value), key).items():
            yield section, name, without_checksum(text)


def _plain(key: str, value: Value) -> Plain:
    """One key's value: lists without an order sorted, short spellings of tables written out."""
    normalized = plain(value, (key,))
    if key == "depends_on" and isinstance(normalized, dict):
        return {name: {"condition": "service_started", **(each if isinstance(each, dict) else {})}
                for name, each in normalized.items()}  # fmt: skip
    if key == "healthcheck" and isinstance(normalized, dict) and isinstance(normalized.get("test"), str):
        return {**normalized, "test": ["CMD-SHELL", normalized["test"]]}
    if key in UNORDERED:
        items = normalized if isinstance(normalized, list) else [normalized]
        return sorted({shown(_named(each)) for each in items if each is not None})
    return normalized


def _named(value: Plain) -> Plain:
    """`{source: hf_token}` -> `hf_token`, and a device with its ends written out."""
    return str(value["source"]) if isinstance(value, dict) and set(value) == {"source"} else value


def _of_top(top: Table) -> Facts:
    facts: Facts = {}
    name = top.values.get("name")
    if isinstance(name, Word) and not name.null:
        facts[Key("other", "", "name")] = name.text
    for section, value in top.values.items():
        if section in TOP or section.startswith("x-"):
            continue
        place: Section = (
            "volumes"
            if section == "volumes"
            else "security"
            if section in ("secrets", "configs")
            else "other"
        )
        if section == "networks":
            place = "ports"
        tables = value.values if isinstance(value, Table) else {}
        for entry, inner in tables.items():
            noun = section.removesuffix("s")
            for path, text in flat(_entry(inner), f"{noun} {entry}").items():
                facts[Key(place, "", path)] = text
    return facts


def _entry(value: Value) -> Plain:
    """A declaration; one without anything is an empty table."""
    if isinstance(value, Table):
        return {
            key: plain(inner, ("labels",) if key == "labels" else (key,))
            for key, inner in value.values.items()
        }
    return plain(value) or {}


def scripts_of(stack: Stack) -> str:
    """The checksum of the kit's scripts that the stack runs; empty where it runs none."""
    words = [w.text for s in stack.services.values() for w in (*(s.entrypoint or ()), *(s.command or ()))]
    match = next((match for word in words if (match := SCRIPTS.search(word))), None)
    return match[0].rpartition("/")[2] if match else ""
