"""What a server answers to everybody, and the refusal to publish that beyond this host unless it was accepted."""

import shlex
from collections.abc import Sequence

from msgspec.structs import replace

from ernie_deploy.catalog import Catalog
from ernie_deploy.catalog.engine_schema import ApiKey
from ernie_deploy.errors import Refused
from ernie_deploy.plan.plan import Plan
from ernie_deploy.plan.request import Request, beyond_loopback, command_words
from ernie_deploy.plan.settings import Setting

ACCEPT = "--accept-open-routes"
REMEDY = (
    f"add --gateway, which lets in known routes with a key alone; or {ACCEPT} where a firewall or a proxy of yours"
    " keeps strangers out"
)


def remedy_of_file(request: Request, folder: str) -> str:
    """The next step where a stack lies in a folder already, and options are for rendering it anew."""
    words = shlex.join(command_words(replace(request, accept_open_routes=True)))
    again = shlex.join(["ernie-deploy", "upgrade", folder, "--as", words])
    return f"set BIND_ADDR=127.0.0.1 in .env and leave --bind out; or {again} (or the same with --gateway in place of {ACCEPT})"


def left_open(api_key: ApiKey, settings: Sequence[Setting]) -> list[str]:
    """The paths that ask for no key, the most harmful first, where these settings switch flags of the stack off."""
    opened = {s.name.removeprefix("no-") for s in settings if s.value is False or s.name.startswith("no-")}
    return api_key.left_open({"disable-fastapi-docs"} - opened)


def is_open(request: Request, address: str = "") -> bool:
    """Whether vLLM itself answers other hosts: on the address of .env, or without one on the request's."""
    return not request.gateway and beyond_loopback(address or request.bind)


def is_in_clear(request: Request, address: str = "") -> bool:
    """Whether keys and prompts of other hosts reach the gateway as plain text."""
    return request.gateway and not request.tls and beyond_loopback(address or request.bind)


def open_in_a_cluster(plan: Plan, catalog: Catalog) -> str:
    """What a Service without a gateway leaves open to the cluster, as a sentence of a warning; '' where that is decided."""
    request = plan.request
    if request.gateway or request.accept_open_routes:
        return ""
    routes = _left_open(plan, catalog)
    # Of several nodes there is no form with a gateway.
    remedy = f"{'Add' if plan.several_nodes else 'Add --gateway, or'} {ACCEPT} once the NetworkPolicy names who may ask"
    return f"Every pod of the cluster may ask the server. {routes[0].upper()}{routes[1:]}. {remedy}."


def refuse_open_routes(plan: Plan, catalog: Catalog, address: str = "", next_step: str = REMEDY) -> None:
    """Raise `Refused` where vLLM would answer other hosts and nobody accepted it; `address` is BIND_ADDR of .env."""
    request = plan.request
    if request.accept_open_routes or not is_open(request, address):
        return
    named = f"BIND_ADDR={address[:60]}" if address else f"--bind {request.bind}"
    raise Refused(
        f"{named} would publish vLLM beyond this host, with routes that ask for no key.",
        cause=_left_open(plan, catalog),
        next_step=next_step,
    )


def _left_open(plan: Plan, catalog: Catalog) -> str:
    *others, last = left_open(catalog.engine(plan.engine).api_key, plan.settings)
    key = "the API key" if plan.request.api_key_file else "no key is required, and one (--api-key-file)"
    return f"{key} would leave these open: {', '.join(others)} and {last}"
