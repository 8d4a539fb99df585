"""ED201 and ED202: a server that is published beyond its host."""

from collections.abc import Iterator

from ernie_deploy.check.argv import Argv
from ernie_deploy.check.findings import Severity, Spot, rule
from ernie_deploy.check.interpolate import known
from ernie_deploy.check.ports_and_mounts import Port
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Word
from ernie_deploy.check.values import shown, truth, whole

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What --accept-open-routes writes, and anybody may.
ACCEPTED = "x-accept-open-routes"


@rule(
    "ED201",
    "error",
    "The API is published beyond this host without an API key.",
    remedy='publish it as "127.0.0.1:8000:8000"; for others, put a gateway in front of it',
    source="vLLM 0.32.0 docs/usage/security.md; Docker publishes on every address and past the firewall",
)
def open_api(service: Service) -> Iterator[Spot]:
    """A server that strangers may use."""
    if service.answers and not _has_key(service):
        for line, where in _exposures(service):
            sentence = f"anyone who can reach {where} can use the model"
            # What an env_file holds cannot be seen here.
            mild = service.value("env_file") or accepts_open_routes(service)
            yield Spot(line, sentence, severity="warning" if mild else "error")


@rule(
    "ED202",
    "error",
    "vLLM is published beyond this host, and its API key leaves routes open.",
    remedy='publish it as "127.0.0.1:8000:8000", and for others put a gateway with a list of allowed paths in front of it',
    source="run with vLLM 0.32.0 (authenticate.py GUARDED_PREFIX): /invocations infers without a key",
)
def half_guarded_api(service: Service) -> Iterator[Spot]:
    """A published server that relies on vLLM's own key."""
    if service.answers and _has_key(service) and not _wants_certificate(service):
        routes = ", ".join(service.engine_facts.api_key.left_open(_switches(service)))
        severity: Severity = "warning" if accepts_open_routes(service) else "error"
        for line, where in _exposures(service):
            yield Spot(line, f"without the key, {where} answers {routes}", severity=severity)


def accepts_open_routes(service: Service) -> bool:
    """Whether the stack says that vLLM may be published: a proxy or a firewall of its owner's keeps strangers out."""
    word = service.stack.top.values.get(ACCEPTED)
    return isinstance(word, Word) and truth(word.text)


def _has_key(service: Service) -> bool:
    """Whether clients must show a key or a certificate, as far as the file says."""
    argv, word = service.serve, service.environment.get("VLLM_API_KEY")
    if argv is None or argv.text("api-key") or _reads_config(argv) or _wants_certificate(service):
        return True
    return word is not None and (word.null or word.text != "")


def _reads_config(argv: Argv) -> bool:
    """Whether vLLM reads a configuration file, which may hold a key; `--config=FILE` it passes over."""
    argument = argv.last("config")
    return argument is not None and not argument.equals


def _wants_certificate(service: Service) -> bool:
    """Whether no client without a certificate is let in, to any route."""
    return service.serve is not None and service.serve.text("ssl-cert-reqs") == "2"


def _switches(service: Service) -> set[str]:
    """The flags of the server that are on."""
    argv = service.serve
    return {argument.name for argument in argv.arguments if argv.has(argument.name)} if argv else set()


def _exposures(service: Service) -> Iterator[tuple[int, str]]:
    """Lines and addresses by which other hosts reach the API."""
    argv = service.serve
    if argv is None or argv.has("uds"):
        return
    if service.host_network and not _on_loopback(argv):
        yield service.line_of("network_mode"), "any address of this host"
    # `ports` has no effect beside the host's network, or beside none.
    for port in () if service.text("network_mode") in ("host", "none") else service.ports:
        if not port.loopback and _leads_to_api(port, service):
            where = port.address if port.address not in ("", "0.0.0.0", "::") else "any address of this host"  # noqa: S104
            yield port.line, shown(where)


def _on_loopback(argv: Argv) -> bool:
    """Whether the server listens on the host's loopback only, or nobody can tell."""
    host = argv.text("host")
    return host in LOOPBACK or host.startswith("127.") or not known(host)


def _leads_to_api(port: Port, service: Service) -> bool:
    return whole(port.target) in (None, service.api_port) or service.api_port is None
