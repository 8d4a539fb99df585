"""What the gateway of a plan lets through and how much of it, in words and as data."""

from typing import Any

from ernie_deploy.plan.gateway import Gateway


def rows(gateway: Gateway) -> list[tuple[str, str]]:
    """Each route with its methods, then each limit with its reason and the variable that moves it."""
    routes = [(f"{'/'.join(route.methods)} {route.path}", route.summary) for route in gateway.routes]
    servers = ", ".join(server.address for server in gateway.servers)
    limits = [
        ("everything else", "404; GET /healthz says to everybody whether a server is up"),
        ("image", gateway.image),
        ("servers", servers),
        (
            f"{gateway.connections} requests at once",
            "what vLLM computes together (max_num_seqs); the others wait",
        ),
        (
            f"{gateway.queue} requests waiting",
            "as many again, then 503; GATEWAY_QUEUE, GATEWAY_QUEUE_TIMEOUT_S",
        ),
        (f"{gateway.max_body_bytes:,} bytes a body", "then 413; GATEWAY_MAX_BODY_BYTES"),
        ("16 KiB of headers", "far above what clients send; then 431"),
        ("10 s a head, 30 s a body", "the first 64 KiB of it, before a server is asked; then 408"),
        ("60 s of a client's silence", "in a body, between two requests; then its connection is cut"),
        (
            f"{gateway.most_connections:,} connections",
            "those computed, those that wait, and refusals; then clients wait to be accepted",
        ),
        ("connections of each address", "one client cannot take all; GATEWAY_CONNECTIONS_PER_ADDRESS"),
        (
            "30 refusals a minute",
            "of each address without a key or a route; then 429, and no more log lines (600 of all)",
        ),
        (
            f"{gateway.answer_timeout_s} s of silence",
            "above the longest answer, which may come in one piece; GATEWAY_ANSWER_TIMEOUT_S",
        ),
        ("of each key", "what it was given, else GATEWAY_RATE_PER_MINUTE and GATEWAY_CONCURRENCY; then 429"),
    ]
    return routes + limits


def as_data(gateway: Gateway) -> dict[str, Any]:
    """The same for programs."""
    return {
        "image": gateway.image,
        "user": gateway.user,
        "routes": [
            {"path": route.path, "methods": route.methods, "what": route.summary, "source": route.source}
            for route in gateway.routes
        ],
        "servers": [
            {"name": server.name, "address": server.address, "connections": server.connections}
            for server in gateway.servers
        ],
        "queue": gateway.queue,
        "max_body_bytes": gateway.max_body_bytes,
        "answer_timeout_s": gateway.answer_timeout_s,
    }
