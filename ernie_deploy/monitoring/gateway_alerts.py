"""Alerts on the gateway: gone, full, without a server, failing, refusing or queueing requests, and its certificate's end."""

from collections.abc import Collection, Iterator

from ernie_deploy.monitoring.rule import Alert, Record
from ernie_deploy.plan.plan import Plan

RESPONSES = "ernie:gateway_responses:increase5m"
LIMITED = "ernie:gateway_limited:increase5m"
SERVERS_UP = 'haproxy_backend_active_servers{job="gateway",proxy="serve"}'
ERROR_SHARE = 0.05
LIMITED_SHARE = 0.5
FEWEST = 20
FULL_CONNECTIONS = 0.9
# Renewals come 30 days before the end (ACME clients' usual time): two weeks later something is wrong with them.
CERTIFICATE_DAYS = 14


def records(jobs: Collection[str]) -> Iterator[Record]:
    """Answers by class to requests that a key and its limits let through, and the refusals of those limits.

    The frontend also counts strangers without a key and the probes of load balancers: whoever sends enough of them would
    make these alerts fire, or keep them from it.
    """
    if "gateway" in jobs:
        responses = 'haproxy_backend_http_responses_total{job="gateway",proxy="serve"}'
        yield Record(name=RESPONSES, expr=f"sum by (code) (increase({responses}[5m]))")
        # The gateway denies nothing else: templates/gateway/limits.cfg.j2 has its only `deny`.
        limited = 'haproxy_frontend_requests_denied_total{job="gateway",proxy="front"}'
        yield Record(name=LIMITED, expr=f"sum(increase({limited}[5m]))")


def alerts(plan: Plan, jobs: Collection[str]) -> Iterator[Alert]:
    """Those of the gateway, where the stack has one."""
    if "gateway" in jobs:
        yield from (*_unreachable(plan), *_refusing(), _queue(), _full())
    if "certificate" in jobs:
        yield _certificate()


def _unreachable(plan: Plan) -> Iterator[Alert]:
    yield Alert(
        name="ErnieGatewayDown",
        expr='up{job="gateway"} == 0',
        # It starts within a second: four scrapes without it are no restart.
        hold="1m",
        severity="critical",
        summary="The gateway does not answer",
        description="It has missed 4 scrapes. Clients reach no server, whatever the servers' state: the gateway alone is published.",
    )
    yield Alert(
        name="ErnieGatewayNoServer",
        # Before the first server has loaded there is nothing that went away: ErnieNotStarted watches that.
        expr=f"{SERVERS_UP} == 0\nand max_over_time({SERVERS_UP}[7d]) > 0",
        hold="2m",
        severity="critical",
        summary="The gateway has no server to send requests to",
        description="Every request is answered with 503 and Retry-After. A server that loads is back within"
        f" {plan.ready_timeout_s} s, the plan's limit for a start.",
    )


def _refusing() -> Iterator[Alert]:
    yield Alert(
        name="ErnieGatewayErrors",
        expr=f'sum({RESPONSES}{{code="5xx"}}) > {ERROR_SHARE} * sum({RESPONSES})\n'
        f'and sum({RESPONSES}{{code="5xx"}}) >= {FEWEST}',
        hold="5m",
        severity="critical",
        summary="The gateway answers with errors",
        description=f"{{{{ $value | humanize }}}} answers of the last five minutes were 5xx, more than {ERROR_SHARE:.0%} of"
        " those to requests with a key: no server, a full queue or a server's own error. Its log names the reason of each.",
    )
    yield Alert(
        name="ErnieGatewayLimited",
        expr=f"{LIMITED} > {LIMITED_SHARE} * ({LIMITED} + sum({RESPONSES}))\nand {LIMITED} >= {FEWEST}",
        hold="10m",
        severity="warning",
        summary="More than half of all requests with a key exceed a key's limit",
        description="{{ $value | humanize }} requests of the last five minutes got 429: a client that does not wait for"
        " Retry-After, or a limit that is too small for its load.",
    )


def _queue() -> Alert:
    return Alert(
        name="ErnieGatewayQueue",
        expr='min_over_time(haproxy_backend_current_queue{job="gateway",proxy="serve"}[5m]) > 0',
        hold="5m",
        severity="warning",
        summary="Requests have waited at the gateway all the time",
        description="{{ $value }} or more requests were in its queue for ten minutes: every server has as many as it"
        " takes, and the deadline of the queue will refuse the next with 503.",
    )


def _full() -> Alert:
    front = '{job="gateway",proxy="front"}'
    return Alert(
        name="ErnieGatewayFull",
        expr=f"haproxy_frontend_current_sessions{front} > {FULL_CONNECTIONS} * haproxy_frontend_limit_sessions{front}",
        # Whoever shows no key keeps a connection for a minute at most: a burst is over by then.
        hold="2m",
        severity="critical",
        summary="The gateway has hardly a connection left for clients",
        description=f"{{{{ $value | humanize }}}} connections are open, more than {FULL_CONNECTIONS:.0%} of those that clients"
        " may open together: the next ones wait until others end. A few addresses can hold them all.",
    )


def _certificate() -> Alert:
    return Alert(
        name="ErnieCertificateEnds",
        expr=f"ernie_certificate_not_after_seconds - time() < {CERTIFICATE_DAYS} * 86400",
        hold="10m",
        severity="critical",
        summary="The certificate ends within {{ $value | humanizeDuration }}",
        description="It is the one that the gateway serves at this moment: a renewed file that was not taken up does"
        f" not count. A renewal comes 30 days before the end, so {CERTIFICATE_DAYS} days before it one has failed.",
    )
