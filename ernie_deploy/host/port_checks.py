"""Checks of the ports that a stack publishes on this host: each is one, and nobody else has it."""

from collections.abc import Iterator

from msgspec import Struct

from ernie_deploy.host.examination import Examination
from ernie_deploy.host.facts import Container, Socket
from ernie_deploy.host.findings import Finding, error, ok
from ernie_deploy.plan.request import LOOPBACK

LAST_PORT = 65535
# The services of the monitoring that are published, and the variable of each one's port.
MONITORING = {"prometheus": "PROMETHEUS_PORT", "grafana": "GRAFANA_PORT"}


class Published(Struct, frozen=True):
    """One port that the stack publishes, by the variable that sets it; the number is as .env has it."""

    variable: str
    address: str
    number: str

    @property
    def where(self) -> str:
        """ADDRESS:PORT."""
        return f"{self.address}:{self.number}"


def published(examination: Examination) -> list[Published]:
    """The API's, which a gateway has where there is one, and those of Prometheus and Grafana; a worker has none."""
    if examination.is_worker:
        return []
    values, services = examination.values, [one.id for one in examination.plan.monitoring]
    names = [MONITORING[service] for service in services if service in MONITORING]
    own = Published("PORT", values["BIND_ADDR"].strip("[]"), values["PORT"])
    return [own, *(Published(name, LOOPBACK, values[name]) for name in names)]


def ports(examination: Examination) -> Iterator[Finding]:
    """Nobody listens where the stack is to be published, and no two of its services want the same port."""
    before: dict[str, str] = {}
    for one in published(examination):
        if other := before.get(one.number):
            sentence = f"{other} and {one.variable} are both {one.number}."
            yield error("port", sentence, f"set another {one.variable} in .env")
        else:
            yield _judged(examination, one)
        before[one.number] = one.variable


def _judged(examination: Examination, one: Published) -> Finding:
    """The finding about one port."""
    if not one.number.isdigit() or not 0 < int(one.number) <= LAST_PORT:
        return error(
            "port", f"{one.variable}={one.number} is not a port.", "write a number up to 65535 in .env"
        )
    if _is_own(examination, one):
        return ok("port", f"{one.where} is published by this stack, which runs.")
    if any(clash(socket, one.address, int(one.number)) for socket in examination.facts.machine.sockets):
        return _taken(examination, one)
    return ok("port", f"{one.where} is free.")


def _is_own(examination: Examination, one: Published) -> bool:
    """Whether this stack has it already: the API's where it runs, the others where a container of it says so."""
    if not examination.runs or one.variable == "PORT":
        return examination.runs
    return any(holder.project == examination.plan.project for holder in _holders(examination, one))


def _holders(examination: Examination, one: Published) -> list[Container]:
    return [c for c in examination.facts.docker.containers if f":{one.number}->" in c.ports]


def clash(socket: Socket, address: str, number: int) -> bool:
    """Whether a socket keeps another from binding the address."""
    anywhere = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
    same = socket.address == address or socket.address in anywhere or address in anywhere
    return socket.port == number and same


def _taken(examination: Examination, one: Published) -> Finding:
    names = [holder.name for holder in _holders(examination, one)]
    holder = f"the container {names[0]}" if names else "another process"
    find = f"docker stop {names[0]}" if names else f"sudo ss -ltnp 'sport = :{one.number}'"
    return error(
        "port", f"{one.where} is taken by {holder}.", f"set another {one.variable} in .env, or see: {find}"
    )
