"""What `status` says of a gateway: HAProxy's counts of all requests, and what its log has of some."""

from typing import Any

SPANS = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def servers(front: dict[str, Any]) -> str:
    """Servers that are up, and requests that wait for one."""
    return f"{front['servers_up']} of {front['servers']} servers up, {front['queue']} requests wait"


def answers(front: dict[str, Any]) -> str:
    """All answers by their class, and those that a key's limit refused."""
    classes = ", ".join(f"{count} x {name}" for name, count in front["answers"].items())
    return f"{classes}, {front['limited']} over a key's limit"


def logged(front: dict[str, Any]) -> str:
    """What the log has, which is not each refusal: of an address that is refused on and on it has 30 a minute."""
    seen = front["logged"]
    refused = ", ".join(f"{count} x {status}" for status, count in seen["refused"].items())
    least = "at least " if seen["cut"] else ""
    return f"{least}{sum(seen['requests_by_key'].values())} requests with a key, {refused}"


def span(seconds: float) -> str:
    """A time in its two largest units: `3 h 2 min`."""
    rest, parts = max(0, int(seconds)), []
    for unit, size in SPANS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
