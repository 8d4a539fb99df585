"""`docker run` and `vllm serve` lines as the service tables that they stand for."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from ernie_deploy.check.process import ASSIGNED, MODULE, program
from ernie_deploy.check.service import Form
from ernie_deploy.check.tree import Items, Table, Value, Word

ENGINES = {"docker", "podman", "nerdctl"}
WRAPPERS = {"sudo", "nohup", "exec", "time", "env", "command", "then", "do", "else", "doas"}
# Such a command prints something and ends.
ASKS = {"--help", "--version"}
# Options of `docker run` without a value; every other one has one.
SWITCHES = {
    "detach", "interactive", "tty", "rm", "privileged", "init", "read-only", "no-healthcheck", "oom-kill-disable",
    "publish-all", "sig-proxy", "disable-content-trust", "quiet", "replace", "help", "tls-verify", "rmi", "use-api-socket",
}  # fmt: skip
SHORT = {
    "d": "detach", "i": "interactive", "t": "tty", "P": "publish-all", "q": "quiet", "p": "publish", "v": "volume",
    "e": "env", "u": "user", "w": "workdir", "m": "memory", "h": "hostname", "l": "label", "c": "cpu-shares", "a": "attach",
}  # fmt: skip
LISTS = {
    "publish": "ports", "volume": "volumes", "env": "environment", "env-file": "env_file", "device": "devices",
    "cap-add": "cap_add", "cap-drop": "cap_drop", "security-opt": "security_opt", "group-add": "group_add",
    "tmpfs": "tmpfs", "label": "labels",
}  # fmt: skip
TEXTS = {
    "shm-size": "shm_size", "ipc": "ipc", "pid": "pid", "network": "network_mode", "net": "network_mode",
    "restart": "restart", "user": "user", "runtime": "runtime", "memory": "mem_limit", "pids-limit": "pids_limit",
    "hostname": "hostname", "privileged": "privileged", "init": "init", "read-only": "read_only", "name": "container_name",
}  # fmt: skip
HEALTH = {"interval", "timeout", "retries", "start-period"}


class Member(Struct, frozen=True):
    """One service that a command stands for."""

    name: str
    table: Table
    form: Form


def services(commands: Iterator[list[Word]]) -> Iterator[Member]:
    """Those of the commands that start containers or vLLM."""
    for words in commands:
        if any(word.text.partition("=")[0] in ASKS for word in words):
            continue
        variables, rest = _without_wrappers(words)
        arguments = _run_arguments(rest)
        if arguments is not None:
            table = _Run(rest[0]).table(arguments)
            yield Member(_name(table), table, "docker run")
        elif _runs_vllm(rest):
            yield Member(f"line {int(rest[0].line)}", _process(rest, variables), "command")


def _without_wrappers(words: Sequence[Word]) -> tuple[list[Word], list[Word]]:
    """The variables before a command, and the command without `sudo` and its like."""
    variables, rest = [], list(words)
    while rest:
        if ASSIGNED.match(rest[0].text):
            variables.append(rest.pop(0))
        elif program(rest[0]) in WRAPPERS:
            rest.pop(0)
            while rest and rest[0].text.startswith("-"):
                option = rest.pop(0).text
                if option in ("-u", "-g") and rest:
                    rest.pop(0)
        else:
            break
    return variables, rest


def _run_arguments(words: Sequence[Word]) -> list[Word] | None:
    """What follows `docker run`; None for every other command."""
    if not words or program(words[0]) not in ENGINES:
        return None
    at = next((at for at, word in enumerate(words[1:6], 1) if word.text in ("run", "create")), None)
    return None if at is None else list(words[at + 1 :])


def _runs_vllm(words: Sequence[Word]) -> bool:
    for word, following in pairwise(words):
        if program(word) == "vllm" and following.text in ("serve", "bench"):
            return True
        if word.text == "-m" and following.text.startswith(MODULE):
            return True
    return False


def _process(words: Sequence[Word], variables: Sequence[Word]) -> Table:
    """A vLLM without a container: on the host's network, with the variables before it."""
    line = words[0].line
    values: dict[str, Value] = {
        "entrypoint": Items((), line), "command": Items(tuple(words), line), "network_mode": Word("host", line),
    }  # fmt: skip
    if variables:
        values["environment"] = Items(tuple(variables), variables[0].line)
    return Table(values, dict.fromkeys(values, line), line)


def _name(table: Table) -> str:
    for key in ("container_name", "image"):
        word = table.values.get(key)
        text = word.text.rpartition("/")[2].partition(":")[0] if isinstance(word, Word) else ""
        if text and "$" not in text:
            return text
    return f"line {int(table.line)}"


class _Run:
    """Reads the words after `docker run` into the keys of a compose service."""

    def __init__(self, first: Word) -> None:
        self.line = first.line
        self.values: dict[str, Value] = {}
        self.lines: dict[str, int] = {}
        self.health: dict[str, Value] = {}

    def table(self, words: Sequence[Word]) -> Table:
        rest = list(words)[::-1]
        while rest and rest[-1].text.startswith("-") and len(rest[-1].text) > 1:
            self._option(rest.pop(), rest)
        if rest:
            self._set("image", rest.pop())
        if rest:
            self._set("command", Items(tuple(rest[::-1]), rest[-1].line))
        if self.health:
            self._set("healthcheck", Table(self.health, dict.fromkeys(self.health, self.line), self.line))
        return Table(self.values, self.lines, self.line)

    def _option(self, word: Word, rest: list[Word]) -> None:
        """One option, with its value from behind `=` or from the next word."""
        spelling, equals, value = word.text.partition("=")
        name = spelling.lstrip("-")
        if not spelling.startswith("--"):
            name, equals, value = self._short(word.text[1:])
        if name in SWITCHES and not equals:
            value = "true"
        elif not equals and rest:
            following = rest.pop()
            value, word = following.text, following
        if name:
            self._take(name, Word(value.replace("$", "$$"), word.line))

    def _short(self, letters: str) -> tuple[str, str, str]:
        """`-itp8000:8000`: switches, then one option whose value may follow at once."""
        for at, letter in enumerate(letters):
            name = SHORT.get(letter, letter)
            if name not in SWITCHES:
                value = letters[at + 1 :].removeprefix("=")
                return name, "=" if value else "", value
        return "interactive", "=", "true"

    def _take(self, name: str, word: Word) -> None:
        if name in LISTS:
            self._add(LISTS[name], word)
        elif name in TEXTS:
            self._set(TEXTS[name], word)
        elif name in READERS:
            key, reader = READERS[name]
            self._set(key, reader(word))
        elif name == "mount":
            self._add("volumes", _mount(word))
        elif name in ("log-driver", "log-opt"):
            self._log(name, word)
        else:
            self._check_of_health(name, word)

    def _check_of_health(self, name: str, word: Word) -> None:
        if name == "health-cmd":
            self.health["test"] = Items((Word("CMD-SHELL", word.line), word), word.line)
        elif name == "no-healthcheck":
            self.health["disable"] = word
        elif name.removeprefix("health-") in HEALTH:
            self.health[name.removeprefix("health-").replace("-", "_")] = word

    def _set(self, key: str, value: Value) -> None:
        self.values[key], self.lines[key] = value, value.line

    def _add(self, key: str, value: Value) -> None:
        before = self.values.get(key)
        values = before.values if isinstance(before, Items) else ()
        self._set(key, Items((*values, value), before.line if before else value.line))

    def _log(self, name: str, word: Word) -> None:
        before = self.values.get("logging")
        values = dict(before.values) if isinstance(before, Table) else {}
        if name == "log-driver":
            values["driver"] = word
        else:
            option, _, value = word.raw.partition("=")
            options = values.get("options")
            known = dict(options.values) if isinstance(options, Table) else {}
            known[option] = Word(value, word.line)
            values["options"] = Table(known, dict.fromkeys(known, word.line), word.line)
        self._set("logging", Table(values, dict.fromkeys(values, word.line), word.line))


def _gpus(word: Word) -> Value:
    """`all`, `2`, `device=0,1` and `"device=0,1",capabilities=compute` as Compose's `gpus`."""
    text, line = word.raw.strip("\"'"), word.line
    if text == "all":
        return Word("all", line)
    values: dict[str, Value] = {"capabilities": Items((Word("gpu", line),), line)}
    devices = re.search(r'device=([^"\']*)', text)
    if devices:
        names = [part for part in devices[1].split(",") if part and "=" not in part]
        values["device_ids"] = Items(tuple(Word(name, line) for name in names), line)
    else:
        values["count"] = Word(text.removeprefix("count="), line)
    return Items((Table(values, dict.fromkeys(values, line), line),), line)


def _mount(word: Word) -> Table:
    """`type=bind,source=/a,target=/b,readonly` in Compose's long form."""
    values: dict[str, Value] = {"type": Word("volume", word.line)}
    names = {
        "src": "source",
        "dst": "target",
        "destination": "target",
        "readonly": "read_only",
        "ro": "read_only",
    }
    for part in word.raw.split(","):
        key, equals, value = part.partition("=")
        values[names.get(key, key)] = Word(value if equals else "true", word.line)
    return Table(values, dict.fromkeys(values, word.line), word.line)


READERS: dict[str, tuple[str, Callable[[Word], Value]]] = {
    "gpus": ("gpus", _gpus),
    "entrypoint": ("entrypoint", lambda word: Items((word,) if word.text else (), word.line)),
    "stop-timeout": ("stop_grace_period", lambda word: Word(f"{word.raw}s", word.line)),
}
