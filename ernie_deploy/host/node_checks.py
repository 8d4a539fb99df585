"""Checks of one node among several: its rank, its way to the head, RDMA, and the head's ports."""

from collections.abc import Iterator
from pathlib import PurePath
from shlex import quote

from ernie_deploy.host.examination import Examination
from ernie_deploy.host.file_checks import NO_FILE, OTHERS, READ
from ernie_deploy.host.findings import Finding, error, ok, unknown, warning
from ernie_deploy.host.group_secret import FOLDER, SECRET_BYTES, SHORTEST_SECRET
from ernie_deploy.host.port_checks import clash

ENTER = 0o1
ANYWHERE = "0.0.0.0"  # noqa: S104 - compared, not bound


def node(examination: Examination) -> Iterator[Finding]:
    """The node knows who it is, and its .env says what the host says."""
    if not examination.plan.several_nodes:
        return
    rank, head, link = examination.values["NODE_RANK"], examination.values["HEAD_ADDR"], examination.link
    write = examination.command("doctor", "--write-env", "--node-rank", rank or "R", "--head", head or "ADDR")
    if fault := _fault(examination):
        yield error("node", fault, write)
        return
    assert link, "a node without HEAD_ADDR is a fault"
    values = {"HOST_IP": link.address, "NIC": link.interface}
    wrong = [
        f"{name}={examination.values[name]}"
        for name, value in values.items()
        if examination.values[name] != value
    ]
    way = f"{link.address} on {link.interface}"
    if wrong:
        sentence = f"{' and '.join(wrong)} in .env, but this host reaches {head} from {way}."
        yield error("node", sentence, write)
    else:
        role = "is the head" if link.local else f"leads to the head {head}"
        yield ok("node", f"Rank {rank} of {examination.plan.topology.nodes} nodes; {way} {role}.")


def _fault(examination: Examination) -> str:
    """What keeps this node from being one of the server's; empty where nothing does."""
    rank, head, nodes = (
        examination.values["NODE_RANK"],
        examination.values["HEAD_ADDR"],
        examination.plan.topology.nodes,
    )
    if not rank or not head or examination.link is None:
        return "This node does not know its rank and its head yet (NODE_RANK and HEAD_ADDR in .env)."
    if not (rank.isascii() and rank.isdigit()) or int(rank) >= nodes:
        return f"NODE_RANK={rank} is not a number from 0 to {nodes - 1}."
    if examination.link.fault:
        return f"There is no route to the head {head}: {examination.link.fault}."
    if examination.link.address.startswith("127."):
        return f"HEAD_ADDR={head} is every host's own; the other nodes cannot reach it."
    if examination.link.local != (int(rank) == 0):
        whose = "this very host" if examination.link.local else "another host"
        return f"NODE_RANK={rank}, but HEAD_ADDR={head} is {whose}, and rank 0 is the head alone."
    return ""


def rdma(examination: Examination) -> Iterator[Finding]:
    """The devices that --rdma hands over are there, and not left unused."""
    if not examination.plan.several_nodes or examination.link is None:
        return
    devices, asked = ", ".join(examination.link.rdma), examination.plan.request.rdma
    if asked and not devices:
        sentence = "The plan hands over /dev/infiniband, but this host has no InfiniBand or RoCE device."
        yield error("rdma", sentence, f"load its driver, or: {examination.command('render', rdma=False)}")
    elif asked:
        yield ok("rdma", f"InfiniBand or RoCE devices: {devices}.")
    elif devices and examination.plan.target.gpus:
        sentence = f"The devices {devices} stay unused: between the nodes everything goes over TCP."
        yield warning("rdma", sentence, examination.command("render", rdma=True))
    else:
        yield ok("rdma", "No InfiniBand or RoCE device; between the nodes everything goes over TCP.")


def node_ports(examination: Examination) -> Iterator[Finding]:
    """Nobody holds a port of the head where the other nodes will look for it."""
    if not examination.plan.several_nodes or examination.values["NODE_RANK"] != "0" or examination.runs:
        return
    numbers = [
        examination.plan.port(port.id)
        for port in examination.plan.ports
        if port.to == "workers" and port.on == "head"
    ]
    for number in numbers:
        if any(clash(socket, ANYWHERE, number) for socket in examination.facts.machine.sockets):
            yield error(
                "node-ports", f"Port {number}, where the other nodes will look for the head, is taken.",
                f"see by whom: sudo ss -ltnp 'sport = :{number}'",
            )  # fmt: skip
            return
    yield ok("node-ports", f"The ports {', '.join(map(str, numbers))} for the other nodes are free.")


def group_secret(examination: Examination) -> Iterator[Finding]:
    """The nodes have a secret, those who serve can read it, and nobody else of this host."""
    if not examination.plan.several_nodes:
        return
    path, (uid, gid) = examination.values["GROUP_SECRET_FILE"], examination.owner
    secret, folder = examination.files.group_secret, examination.files.group_folder
    rank, head = examination.values["NODE_RANK"] or "R", examination.values["HEAD_ADDR"] or "ADDR"
    write = examination.command("doctor", "--write-env", "--node-rank", rank, "--head", head)
    copy = write if rank == "0" else f"scp -rp {head}:FOLDER/{FOLDER} . && {write}"
    if path == NO_FILE:
        yield error(
            "group-secret", "This node has no secret of its group; a stranger could take its rank.", copy
        )
    elif secret is None:
        yield error(
            "group-secret", f"GROUP_SECRET_FILE={path} does not exist; Compose refuses to start.", copy
        )
    elif secret.kind == "closed" or examination.facts.docker.other_users:
        yield unknown("group-secret", f"Whether the nodes can read {path} could not be seen.")
    elif examination.files.secret_too_short:
        sentence = f"{path} is shorter than {SHORTEST_SECRET} bytes, and the nodes take no such secret."
        anew = f"openssl rand -hex {SECRET_BYTES} > {quote(path)}, and copy it to the other nodes"
        yield error("group-secret", sentence, anew if rank == "0" else copy)
    elif not secret.allows(uid, gid, READ):
        sentence = f"User {uid}:{gid}, who serves, cannot read {path}."
        yield error("group-secret", sentence, f"chmod 444 {quote(path)}")
    elif secret.mode & OTHERS and (folder is None or folder.mode & ENTER):
        sentence = f"Everybody on this host can read {path} ({secret.mode:04o})."
        yield warning("group-secret", sentence, f"chmod 700 {quote(str(PurePath(path).parent))}")
    else:
        yield ok("group-secret", f"{path} is the secret of this group.")


CHECKS = (node, group_secret, rdma, node_ports)
