"""Kubernetes manifests as far as containers go: command, resources, shared memory, probes, volumes, privileges."""

import re
from collections.abc import Iterator

from ernie_deploy.check.docker_run import Member
from ernie_deploy.check.tree import Items, Table, Value, Word, read_all, tables
from ernie_deploy.check.values import shown, whole
from ernie_deploy.errors import UsageError

# The resource names of GPUs, each as the CDI devices that the rules count.
GPUS = {"nvidia.com/gpu": "nvidia.com/gpu", "amd.com/gpu": "amd.com/gpu"}
MOST_GPUS = 64
DEFAULT_GRACE_S = "30"
# `$(NAME)` is Kubernetes' own variable.
OWN_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)")
PROBES = ("livenessProbe", "readinessProbe", "startupProbe")


def containers(data: bytes, name: str) -> list[Member]:
    """Each container of each pod in the manifests; raises `UsageError` where there is none."""
    stacks = [
        container
        for document in read_all(data, name)
        if isinstance(document, Table)
        for manifest in _manifests(document)
        for spec in _pod_specs(manifest)
        for container in _Pod(spec, manifest).containers()
    ]
    if not stacks:
        raise UsageError(
            f"{name}: there is no container in it.",
            cause="in Kubernetes manifests, only Pods and what starts them are checked",
            next_step="name the file with the Deployment, StatefulSet, Job or LeaderWorkerSet",
        )
    return stacks


def unjudged(data: bytes, name: str) -> list[str]:
    """The kinds in the manifests that start no container."""
    kinds = [
        _text(manifest, "kind") or "a document without a kind"
        for document in read_all(data, name)
        if isinstance(document, Table)
        for manifest in _manifests(document)
        if not list(_pod_specs(manifest))
    ]
    return [shown(kind) for kind in dict.fromkeys(kinds)]


def _manifests(document: Table) -> Iterator[Table]:
    items = document.values.get("items")
    if _text(document, "kind").endswith("List") and isinstance(items, Items):
        yield from (item for item in items.values if isinstance(item, Table))
    else:
        yield document


def _pod_specs(value: Value | None, depth: int = 12) -> Iterator[Table]:
    """The pod specs below a manifest: every table that has `containers`."""
    if not isinstance(value, Table) or not depth:
        return
    if isinstance(value.values.get("containers"), Items):
        yield value
        return
    for child in value.values.values():
        yield from _pod_specs(child, depth - 1)


def _at(value: Value | None, *keys: str) -> Value | None:
    for key in keys:
        value = value.values.get(key) if isinstance(value, Table) else None
    return None if isinstance(value, Word) and value.null else value


def _text(value: Value | None, *keys: str) -> str:
    word = _at(value, *keys)
    return word.raw if isinstance(word, Word) else ""


class _Pod:
    def __init__(self, spec: Table, manifest: Table) -> None:
        self.spec = spec
        self.name = _text(manifest, "metadata", "name") or _text(manifest, "kind") or "pod"
        self.volumes = {_text(volume, "name"): volume for volume in tables(_at(spec, "volumes"))}

    def containers(self) -> Iterator[Member]:
        for key in ("initContainers", "containers"):
            for container in tables(_at(self.spec, key)):
                name = f"{self.name}/{_text(container, 'name')}"
                yield Member(name, _Container(container, self).table(), "kubernetes")


class _Container:
    """One container in the keys of a compose service, each on its own line."""

    def __init__(self, container: Table, pod: _Pod) -> None:
        self.container = container
        self.pod = pod
        self.values: dict[str, Value] = {}
        self.lines: dict[str, int] = {}

    def table(self) -> Table:
        self._process()
        self._devices()
        self._mounts()
        self._privileges()
        self._probe()
        self._host()
        return Table(self.values, self.lines, self.container.line)

    def _set(self, key: str, value: Value | None) -> None:
        if value is not None:
            self.values[key], self.lines[key] = value, value.line

    def _word(self, key: str, text: str, at: Value | None) -> None:
        if text:
            self._set(key, Word(text, at.line if at else self.container.line))

    def _process(self) -> None:
        self._set("image", _at(self.container, "image"))
        for key, ours in (("command", "entrypoint"), ("args", "command")):
            words = _at(self.container, key)
            if isinstance(words, Items):
                own = [_own(word) for word in words.values if isinstance(word, Word)]
                self._set(ours, Items(tuple(own), words.line))
        if "entrypoint" in self.values and "command" not in self.values:
            self._set("command", Items((), self.values["entrypoint"].line))
        variables = {
            _text(entry, "name"): _own(value)
            if isinstance(value := _at(entry, "value"), Word)
            else Word("", entry.line, null=True)
            for entry in tables(_at(self.container, "env"))
        }
        if variables:
            lines = {name: word.line for name, word in variables.items()}
            self._set("environment", Table(dict(variables), lines, min(lines.values())))

    def _devices(self) -> None:
        """GPUs by their number; a cluster gives out whole ones."""
        for resource, kind in GPUS.items():
            word = _at(self.container, "resources", "limits", resource)
            count = whole(word.raw) if isinstance(word, Word) else None
            if word and count and 0 < count <= MOST_GPUS:
                names = tuple(Word(f"{kind}={number}", word.line) for number in range(count))
                self._set("devices", Items(names, word.line))
        memory = _at(self.container, "resources", "limits", "memory")
        if isinstance(memory, Word):
            self._word("mem_limit", memory.raw.removesuffix("i"), memory)

    def _mounts(self) -> None:
        mounts = tables(_at(self.container, "volumeMounts"))
        self._set("volumes", Items(tuple(map(self._mount, mounts)), mounts[0].line) if mounts else None)
        for mount in mounts:
            memory = _at(self.pod.volumes.get(_text(mount, "name")), "emptyDir")
            if _text(mount, "mountPath").rstrip("/") == "/dev/shm" and _text(memory, "medium") == "Memory":  # noqa: S108
                # Without a limit it may grow to half of the node's memory, or to the container's own limit.
                self._word("shm_size", _text(memory, "sizeLimit").removesuffix("i") or "${NODE}", mount)

    def _mount(self, mount: Table) -> Value:
        name = _text(mount, "name")
        volume = self.pod.volumes.get(name)
        path = _text(volume, "hostPath", "path")
        memory = _text(volume, "emptyDir", "medium") == "Memory"
        values: dict[str, Value] = {
            "type": Word("bind" if path else "tmpfs" if memory else "volume", mount.line),
            "source": Word(path or name, mount.line),
            "target": Word(_text(mount, "mountPath"), mount.line),
            "read_only": Word(_text(mount, "readOnly") or "false", mount.line),
        }
        return Table(values, dict.fromkeys(values, mount.line), mount.line)

    def _privileges(self) -> None:
        security = _at(self.container, "securityContext")
        self._set("privileged", _at(security, "privileged"))
        self._set("read_only", _at(security, "readOnlyRootFilesystem"))
        for key in ("add", "drop"):
            self._set(f"cap_{key}", _at(security, "capabilities", key))
        user = _at(security, "runAsUser") or _at(self.pod.spec, "securityContext", "runAsUser")
        if isinstance(user, Word):
            group = _text(security, "runAsGroup") or _text(self.pod.spec, "securityContext", "runAsGroup")
            self._word("user", f"{user.raw}:{group}" if group else user.raw, user)
        options = []
        if _text(security, "allowPrivilegeEscalation") == "false":
            options.append(Word("no-new-privileges:true", security.line if security else 1))
        if _text(security, "seccompProfile", "type") == "Unconfined":
            options.append(Word("seccomp:unconfined", security.line if security else 1))
        self._set("security_opt", Items(tuple(options), options[0].line) if options else None)

    def _probe(self) -> None:
        """The first probe there is as a health check, and each by its name."""
        given = {key: probe for key in PROBES if (probe := _at(self.container, key))}
        tests: dict[str, Value] = {key: test for key, probe in given.items() if (test := self._test(probe))}
        lines = {key: given[key].line for key in tests}
        if tests:
            first = next(iter(tests))
            line = lines[first]
            self._set("healthcheck", Table({"test": tests[first]}, {"test": line}, line))
            self._set("probes", Table(tests, lines, line))

    def _test(self, probe: Value) -> Items | None:
        words = _at(probe, "exec", "command")
        if isinstance(words, Items):
            return Items((Word("CMD", words.line), *words.values), words.line)
        request = _at(probe, "httpGet")
        if request:
            scheme = _text(request, "scheme").lower() or "http"
            url = f"{scheme}://localhost:{self._port(_text(request, 'port'))}{_text(request, 'path') or '/'}"
            return Items(
                (Word("CMD-SHELL", request.line), Word(f"curl -fsS {url}", request.line)), request.line
            )
        return None

    def _port(self, port: str) -> str:
        """The number of a port that may be given by its name."""
        named = {_text(p, "name"): _text(p, "containerPort") for p in tables(_at(self.container, "ports"))}
        return named.get(port, port) or "80"

    def _host(self) -> None:
        """What the pod shares with its node, and how it stops and starts again."""
        spec = self.pod.spec
        for key, ours in (("hostNetwork", "network_mode"), ("hostIPC", "ipc"), ("hostPID", "pid")):
            if _text(spec, key) == "true":
                self._word(ours, "host", _at(spec, key))
        published = [port for port in tables(_at(self.container, "ports")) if _text(port, "hostPort")]
        ports = tuple(map(_port, published))
        self._set("ports", Items(ports, published[0].line) if ports else None)
        policies = {"Never": "no", "OnFailure": "on-failure"}
        self._word(
            "restart", policies.get(_text(spec, "restartPolicy"), "always"), _at(spec, "restartPolicy")
        )
        grace = _at(spec, "terminationGracePeriodSeconds")
        self._word("stop_grace_period", f"{_text(grace) or DEFAULT_GRACE_S}s", grace)


def _port(port: Table) -> Word:
    """A port of the node; without an address it is open on every one."""
    number = f"{_text(port, 'hostPort')}:{_text(port, 'containerPort')}"
    address = _text(port, "hostIP")
    return Word(f"{address}:{number}" if address else number, port.line)


def _own(word: Word) -> Word:
    """A word with Kubernetes' `$(NAME)` as a variable; any other `$` is the program's own."""
    raw = OWN_VARIABLE.sub(lambda match: f"\0{match[1]}\1", word.raw).replace("$", "$$")
    return Word(raw.replace("\0", "${").replace("\1", "}"), word.line, block=word.block)
