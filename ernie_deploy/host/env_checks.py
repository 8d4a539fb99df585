"""Checks of what .env says: names that nobody reads, and the address on which the API is published."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from ernie_deploy.host.examination import Examination
from ernie_deploy.host.findings import Finding, error, unknown, warning
from ernie_deploy.host.probes import ADDRESSES, Host
from ernie_deploy.plan.request import bind_address

# Read by Docker, Compose and what they start, wherever they stand.
TOOLS = ("COMPOSE_", "DOCKER_", "BUILDKIT_", "BUILDX_")
ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
NEAR = 0.6
MOST_NAMED = 4


def strangers(
    host: Host, names: Mapping[str, object], known: Mapping[str, object], folder: Path
) -> tuple[str, ...]:
    """Names in .env that neither the stack reads, nor Compose, nor any other YAML file of the folder."""
    unread = [name for name in names if name not in known and not name.startswith(TOOLS)]
    if not unread:
        return ()
    paths = [path for end in ("yml", "yaml") for path in host.glob(f"{folder.absolute()}/*.{end}")]
    texts = [host.read(path) or "" for path in paths]
    return tuple(name for name in unread if not any(f"${name}" in t or f"${{{name}" in t for t in texts))


def addresses(host: Host, address: str) -> tuple[str, ...]:
    """This host's own addresses, where they say something of the one asked for; none where they are not known."""
    try:
        plain = bind_address(address).strip("[]")
    except ValueError:
        return ()
    if plain in ANYWHERE or plain == "::1" or plain.startswith("127."):
        return ()
    ran = host.run(ADDRESSES)
    try:
        rows = json.loads(ran.stdout or "[]") if ran.rc == 0 else []
        return tuple(info["local"] for row in rows for info in row.get("addr_info") or () if "local" in info)
    except (ValueError, TypeError, AttributeError):
        return ()


def names(examination: Examination) -> Iterator[Finding]:
    """Every variable of .env is one that somebody reads."""
    from difflib import get_close_matches

    for name in examination.strangers:
        near = get_close_matches(name.upper(), examination.values, n=1, cutoff=NEAR)
        remedy = f"did you mean {near[0]}?" if near else "remove it; .env.example lists what a stack reads"
        yield warning("env", f"{name} in .env is no variable of this stack: nothing reads it.", remedy)


def bind(examination: Examination) -> Iterator[Finding]:
    """BIND_ADDR is an address, and one of this host's."""
    address = examination.values["BIND_ADDR"]
    try:
        plain = bind_address(address).strip("[]")
    except ValueError as fault:
        sentence = f"BIND_ADDR={address}: {fault}; Compose refuses to start."
        yield error("bind-address", sentence, "write 127.0.0.1 in .env, or an address of this host")
        return
    own = examination.addresses
    if own and plain not in own:
        sentence = f"BIND_ADDR={address} is no address of this host: Docker cannot publish the API there."
        others = [one for one in own if "." in one and not one.startswith("127.")][:MOST_NAMED]
        remedy = f"write 127.0.0.1 in .env, or one of this host's: {', '.join(others)}"
        # What runs elsewhere has other addresses.
        yield (
            unknown("bind-address", sentence)
            if examination.remote
            else error("bind-address", sentence, remedy)
        )


CHECKS = (names, bind)
