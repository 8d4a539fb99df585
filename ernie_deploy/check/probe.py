"""What a health check asks: addresses of its own container and of others, and the words that ask."""

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct

from ernie_deploy.check.interpolate import known
from ernie_deploy.check.service import Service
from ernie_deploy.check.tree import Items, Table, Value, Word

LOOPBACK = ("127.0.0.1", "localhost", "::1")
OWN = re.compile(r"127(?:\.\d{1,3}){3}|localhost|0\.0\.0\.0|\[?::1?\]?|ip6-localhost", re.IGNORECASE)
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>/[^\s'\"|;&<>()]*)?(?=[\s'\"|;&<>(),]|$)"
)
# `curl localhost:8000/health`, `HTTPConnection("localhost", 8000)`.
BEFORE_HOST = r"(?<![\w./@:-])"
AFTER_HOST = r"(?::|['\"]\s*,\s*)(?P<port>\d{1,5})(?P<path>/[^\s'\"|;&<>()]*)?(?![\w.])"
STANDARD_PORTS = {"http": 80, "https": 443}
# A longer word is a program of somebody's.
LONGEST_WORD = 4096


class Asked(Struct, frozen=True):
    """One address in a health check; `scheme` is empty where the client chooses."""

    scheme: str
    host: str
    port: int
    path: str


def addresses(service: Service, test: Sequence[Word] | None = None) -> list[Asked]:
    """Every address that the health check, or another `test`, asks, as far as the file says."""
    words = service.health_test if test is None else test
    texts = [word.text for word in words if len(word.text) < LONGEST_WORD]
    return [asked for text in texts for asked in (*urls(text), *_bare(text, service))]


def urls(text: str) -> Iterator[Asked]:
    """Every URL in a text."""
    for match in URL.finditer(text):
        port = int(match["port"] or STANDARD_PORTS[match["scheme"]])
        yield Asked(match["scheme"], match["host"], port, match["path"] or "/")


def _bare(text: str, service: Service) -> Iterator[Asked]:
    hosts = "|".join(
        ["127\\.0\\.0\\.1", "localhost", *(re.escape(name) for name in sorted(own_names(service)))]
    )
    rest = URL.sub(" ", text)
    for match in re.finditer(rf"{BEFORE_HOST}(?P<host>{hosts}){AFTER_HOST}", rest, re.IGNORECASE):
        yield Asked("", match["host"], int(match["port"]), match["path"] or "/")


def own_names(service: Service) -> set[str]:
    """Names by which the container finds itself, in small letters, as Docker's resolver compares them."""
    names = {service.name, service.text("container_name"), service.text("hostname"), *_aliases(service)}
    return {name.lower() for name in names if name and known(name)}


def _aliases(service: Service) -> Iterator[str]:
    networks = service.value("networks")
    for value in networks.values.values() if isinstance(networks, Table) else ():
        aliases: Value | None = value.values.get("aliases") if isinstance(value, Table) else None
        yield from (
            (getattr(item, "text", "") for item in aliases.values) if isinstance(aliases, Items) else ()
        )


def is_own(asked: Asked, service: Service) -> bool:
    """Whether the address is the container's own."""
    return bool(OWN.fullmatch(asked.host)) or asked.host.lower() in own_names(service)


def own(service: Service, test: Sequence[Word] | None = None) -> list[Asked]:
    """The addresses of the container itself; none where it shares another's network or has a second server."""
    if service.text("network_mode").startswith(("service:", "container:")) or _has_company(service):
        return []
    return [asked for asked in addresses(service, test) if is_own(asked, service)]


def _has_company(service: Service) -> bool:
    """Whether the script around vLLM starts something else as well, which may be what is asked."""
    script = service.process.script
    return script is not None and bool(re.search(r"(?<!&)&(?!&|\d)|nginx|haproxy|caddy|litellm", script.text))


def speaks_tls(service: Service) -> bool:
    """Whether the server is given a certificate."""
    argv = service.serve
    return argv is not None and bool(argv.text("ssl-certfile"))
