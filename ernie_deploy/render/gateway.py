"""The configuration of the gateway, HAProxy's, as one of the stack's files."""

from ernie_deploy.plan.gateway import (
    BUFFER_KIB,
    CERTIFICATE_PORT,
    FILES,
    FRONT_PORT,
    MOST_RELOADS,
    OWN_PORT,
    PASSED_ON_PORT,
    PEERS_PORT,
)
from ernie_deploy.plan.plan import Plan
from ernie_deploy.render.templates import jinja

NAME = "haproxy.cfg"
# A client as the limits count it: a network of IPv6 has 2^64 addresses, and whoever has it may use them all.
ADDRESS = "src,ipmask(32,64)"


def configuration(plan: Plan, pods: str = "", most_pods: int = 0) -> str:
    """The text of haproxy.cfg of a plan that has a gateway, its servers by name, or up to so many that `pods` names."""
    template = jinja(autoescape=False).get_template("gateway/haproxy.cfg.j2")
    return template.render(
        plan=plan, gateway=plan.gateway, files=FILES,
        front_port=FRONT_PORT, own_port=OWN_PORT, peers_port=PEERS_PORT, certificate_port=CERTIFICATE_PORT,
        passed_on_port=PASSED_ON_PORT, buffer_kib=BUFFER_KIB, address=ADDRESS,
        pods=pods, most_pods=most_pods, most_reloads=MOST_RELOADS,
    )  # fmt: skip
