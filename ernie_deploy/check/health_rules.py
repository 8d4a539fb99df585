"""ED15x: health checks that can never succeed, or never fail."""

import re
from collections.abc import Iterator
from functools import lru_cache

from ernie_deploy.check.findings import Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.probe import addresses, is_own, own, own_names, speaks_tls
from ernie_deploy.check.service import Service, Stack
from ernie_deploy.check.tree import Items, Table, Word
from ernie_deploy.check.values import shown

# vLLM 0.32.0, every `@router` of vllm/entrypoints; below /v1 the second part decides.
ROUTES = {
    "abort_requests", "classify", "cohere", "collective_rpc", "detokenize", "docs", "fault_tolerance",
    "generative_scoring", "get_world_size", "health", "inference", "invocations", "is_paused",
    "is_scaling_elastic_ep", "is_sleeping", "kv_event_sources", "load", "metrics", "openapi.json", "ping",
    "pooling", "ready", "readyz", "redoc", "rerank", "score", "server_info", "tokenize", "tokenizer_info",
    "v1", "v2", "version", "weight_info",
}  # fmt: skip
V1 = {
    "audio", "chat", "completions", "embeddings", "messages", "models", "realtime", "rerank", "responses",
    "score", "systemone",
}  # fmt: skip
OPERATORS = {"||", "&&", "|", ";", "&", ">", ">>", "2>&1"}
FAILS = re.compile(r"(?<!\S)(?:-[a-zA-Z]*f[a-zA-Z]*|--fail(?:-with-body|-early)?)(?!\S)")
# Other programs may take an address and ask a path of their own.
CLIENT = re.compile(r"\b(?:curl|wget|urlopen|(?:requests|httpx)\.get)\b")
# What looks at the answer itself.
READS = re.compile(r"\bgrep\b|\bjq\b|\btest\b|\[ |-w\b|--write-out|http_code|raise_for_status|python")
SHOWS_KEY = re.compile(r"[Aa]uthorization|[Bb]earer|--header|-H\b|--netrc|API_KEY")
# In no package list of vLLM's images.
NOT_INSTALLED = {
    "nc",
    "ncat",
    "netcat",
    "telnet",
    "http",
    "xh",
    "grpc_health_probe",
    "grpcurl",
    "lynx",
    "busybox",
}
PROGRAM = re.compile(r"(?:^|[|;&(]|\bthen\b|\bif\b|!)\s*(?:exec\s+)?([\w./-]+)")
OUTSIDE = {"host.docker.internal", "gateway.docker.internal", "host-gateway"}


def _line(service: Service) -> int:
    value = service.value("healthcheck", "test")
    return value.line if value is not None else service.line_of("healthcheck")


@rule(
    "ED150",
    "error",
    "The health check's command does not reach a shell as intended.",
    remedy='test: ["CMD", "curl", "-f", "URL"], or the whole command as one text after CMD-SHELL',
    source="run with Compose 2.40.3: must start either by CMD, CMD-SHELL or NONE; moby daemon/health.go: CMD runs no"
    " shell, and CMD-SHELL hands over its first word alone",
)
def misheard_check(service: Service) -> Iterator[Spot]:
    """No CMD, operators behind CMD, a whole command in its one item, several words behind CMD-SHELL."""
    value = service.value("healthcheck", "test")
    words = [item.text for item in value.values if isinstance(item, Word)] if isinstance(value, Items) else []
    if not words or not service.health_test:
        return
    first, rest = words[0], words[1:]
    if first not in ("CMD", "CMD-SHELL", "NONE"):
        yield Spot(_line(service), f"the list begins with {shown(first)}, which Compose refuses")
    elif first == "CMD-SHELL" and len(rest) > 1:
        yield Spot(
            _line(service), f"the shell runs {shown(rest[0])} alone; the other words are its arguments"
        )
    elif first == "CMD" and (operators := OPERATORS & set(rest)):
        yield Spot(_line(service), f"CMD runs no shell, so {min(operators)} is a word for the program")
    elif first == "CMD" and rest and re.search(r"\s", rest[0].strip()) and known(rest[0]):
        yield Spot(_line(service), f"no program is called {shown(rest[0])}")


@rule(
    "ED151",
    "error",
    "The health check asks a path that vLLM does not serve; it answers 404.",
    remedy="ask /health, or for one token /v1/completions",
    source="vLLM 0.32.0, the routes of vllm/entrypoints",
)
def unserved_path(service: Service) -> Iterator[Spot]:
    """`/healthz` and its like; where the client takes 404 for an answer, the check can never fail."""
    argv = service.serve
    if argv is None or not service.answers or any(argv.has(flag) for flag in ("root-path", "middleware")):
        return
    asked = [one for one in own(service) if one.port == service.api_port]
    text = _text(service)
    if not asked or not CLIENT.search(text) or any(_served(one.path) or not known(one.path) for one in asked):
        return
    names = shown(asked[0].path)
    if "curl" in text and not FAILS.search(text) and not READS.search(text):
        yield Spot(
            _line(service), f"{names} answers 404, which curl without -f calls healthy", severity="warning"
        )
    else:
        yield Spot(_line(service), f"{names} answers 404: the server is never healthy")


def _served(path: str) -> bool:
    first, _, rest = re.split(r"[?#]", path, maxsplit=1)[0].strip("/").partition("/")
    second = rest.partition("/")[0]
    return first in ROUTES and (first != "v1" or second in V1)


def _text(service: Service) -> str:
    return " ".join(word.text for word in service.health_test)


@rule(
    "ED152",
    "warning",
    "curl without --fail accepts every answer, even the 503 of a dead engine.",
    remedy="curl -f",
    source="curl(1) --fail; vLLM 0.32.0 /health answers 503 when the engine has died",
)
def every_answer_is_healthy(service: Service) -> Iterator[Spot]:
    """`curl URL || exit 1`."""
    text = _text(service)
    if service.answers and re.search(r"\bcurl\b", text) and not FAILS.search(text) and not READS.search(text):
        yield Spot(_line(service), "curl without -f exits 0 whatever the server answers")


@rule(
    "ED153",
    "error",
    "The image has no such program: the health check fails each time.",
    remedy='test: ["CMD", "curl", "-f", "http://localhost:8000/health"]; curl and python3 are in vLLM\'s images',
    source="the packages that docker/Dockerfile, Dockerfile.rocm and Dockerfile.cpu of vLLM 0.32.0 install: curl, no netcat",
)
def missing_program(service: Service) -> Iterator[Spot]:
    """`nc -z localhost 8000` in one of vLLM's own images."""
    if service.image.variant is None or service.value("build") is not None:
        return
    started = " ".join(word.text for word in (*(service.entrypoint or ()), *(service.command or ())))
    for program in _programs(service):
        name = program.rpartition("/")[2]
        if name in NOT_INSTALLED and name not in started:
            yield Spot(_line(service), f"{shown(name)} is not in {shown(service.image.name)}")
            return


def _programs(service: Service) -> list[str]:
    words = [word.text for word in service.health_test]
    if words[:1] == ["CMD"]:
        shell = words[1:2] and words[1].rpartition("/")[2] in ("sh", "bash")
        return PROGRAM.findall(words[-1]) if shell else words[1:2]
    return PROGRAM.findall(" ".join(words[1:] if words[:1] == ["CMD-SHELL"] else words))


@rule(
    "ED154",
    "error",
    "The health check asks a host that is no service of this stack.",
    remedy="ask localhost: the check runs inside the container itself",
    source="Docker's resolver knows the services, their aliases and names of containers on the same network",
)
def unknown_host(service: Service) -> Iterator[Spot]:
    """`http://api:8000/health` where nothing is called api."""
    if not service.answers or _other_names(service):
        return
    names = _names(service.stack)
    for asked in addresses(service):
        host = asked.host.lower()
        if not is_own(asked, service) and "." not in host and host not in names and ":" not in host:
            yield Spot(_line(service), f"{shown(host)} is no service of this stack")
            return


def _other_names(service: Service) -> bool:
    """Whether names may come from elsewhere than the file's services."""
    networks = service.stack.top.values.get("networks")
    tables = networks.values if isinstance(networks, Table) else {}
    entries = (service.stack.entry("networks", name) for name in tables)
    external = any(entry is not None and "external" in entry.values for entry in entries)
    own_hosts = any(
        service.value(key) for key in ("extra_hosts", "links", "external_links", "dns", "env_file")
    )
    return external or own_hosts or service.host_network or service.partial


# Only the stack that is judged is asked for, service after service.
@lru_cache(maxsize=1)
def _names(stack: Stack) -> set[str]:
    return OUTSIDE.union(*(own_names(service) for service in stack.services.values()))


@rule(
    "ED155",
    "error",
    "The server speaks TLS and its health check does not, or the other way round.",
    remedy="https:// with -k or --cacert where --ssl-certfile is given; or leave TLS to a gateway in front of vLLM",
    source="vLLM 0.32.0 hands --ssl-keyfile and --ssl-certfile to uvicorn, which then answers no plain HTTP",
)
def other_scheme(service: Service) -> Iterator[Spot]:
    """http:// to a server with a certificate, https:// to one without."""
    argv = service.serve
    if argv is None or not service.answers or argv.has("config"):
        return
    secure = speaks_tls(service)
    asked = [one for one in own(service) if one.port == service.api_port]
    schemes = {one.scheme or "http" for one in asked}
    if asked and ("https" if secure else "http") not in schemes:
        what = (
            "http://, and the server has a certificate"
            if secure
            else "https://, and the server has no certificate"
        )
        yield Spot(_line(service), f"it asks {what}", "" if secure else "ask http://")


@rule(
    "ED156",
    "error",
    "TLS needs the certificate and its key.",
    remedy="give --ssl-certfile as well, or leave out --ssl-keyfile",
    source="uvicorn's Config.load asserts ssl_certfile; vLLM 0.32.0 vllm/entrypoints/launchers/api_server/entry.py",
)
def key_without_certificate(service: Service) -> Iterator[Spot]:
    """`--ssl-keyfile` alone."""
    argv = service.serve
    if argv and argv.text("ssl-keyfile") and not argv.has("ssl-certfile") and not argv.has("config"):
        yield Spot(
            argv.line_of("ssl-keyfile"), "--ssl-keyfile without --ssl-certfile ends the server as it starts"
        )


@rule(
    "ED158",
    "error",
    "The health check sends no key to a path that requires one; vLLM answers 401.",
    remedy="ask /health, which needs no key, or send it: -H 'Authorization: Bearer KEY'",
    source="run with vLLM 0.32.0 (authenticate.py GUARDED_PREFIX): /v1 wants the key, /health does not",
)
def keyless_check(service: Service) -> Iterator[Spot]:
    """`curl -f .../v1/models` beside `--api-key`; a warning where only the host knows whether there is one."""
    key, text = _key(service), _text(service)
    guarded = tuple(f"{prefix}/" for prefix in service.engine_facts.api_key.guards)
    asked = [one for one in own(service) if one.port == service.api_port and CLIENT.search(text)]
    if (
        not key
        or not asked
        or not all(one.path.startswith(guarded) for one in asked)
        or SHOWS_KEY.search(text)
    ):
        return
    sentence = f"{shown(asked[0].path)} is asked without the key, and answers 401"
    passes = "curl" in text and not FAILS.search(text)
    yield Spot(_line(service), sentence, severity="error" if known(key) and not passes else "warning")


def _key(service: Service) -> str:
    """The key that clients must show, a `$` where only the host knows it; empty where there is none."""
    argv, word = service.serve, service.environment.get("VLLM_API_KEY")
    if argv is None or not service.answers:
        return ""
    return argv.text("api-key") or ("" if word is None else "$" if word.null else word.text)
