"""Checks that this node is the one that its .env names, waits for the head, then execs the command after `--`."""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from common import KnownError, run, say
from group import JOINS, START, STRANGER, ask, read_secret

RETRY_S = 2.0
TOLD_EVERY_S = 60.0
ANSWER_S = 3.0
SERVING, ELSEWHERE, TAKEN = 200, 403, 409
# Ray takes 30 % of the host's memory otherwise, which SHM_SIZE does not have.
OBJECT_STORE_BYTES = 4_000_000_000
# Bridges and the ends of cables to containers lead to no other node.
DOCKERS = re.compile("docker0|docker_gwbridge|br-[0-9a-f]{12}|veth[0-9a-f]{7}")
GPUS = re.compile(r"/([\d.]+) GPU")

# Exit codes.
BAD_RANK, NOT_MY_ADDRESS, NO_INTERFACE, BAD_HEAD, HEAD_ABSENT, RANK_TAKEN, NODES_MISSING = range(30, 37)
# 37 is the beacon's own.
NO_SECRET = 38


def parse(words: list[str]) -> Any:
    """Split the words at the first `--`: the command behind it has options of its own."""
    own, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser("node", allow_abbrev=False)
    parser.add_argument("role", choices=("head", "worker"))
    for name in ("rank", "head", "host-ip", "nic", "secret-file"):
        parser.add_argument(f"--{name}", default="")
    for name in ("nodes", "port", "beacon-port"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--wait-s", type=float, default=900.0)
    options = parser.parse_args(own)
    options.command = command
    return options


# --- what .env says ---


def check_rank(options: Any) -> None:
    """Rank 0 is the head and no other: two heads would wait for each other forever."""
    last = options.nodes - 1
    if not options.rank:
        write = f"ernie-deploy doctor TARGET --nodes {options.nodes} --write-env --node-rank R --head ADDR"
        raise KnownError(BAD_RANK, f"NODE_RANK is not set: write it into .env with `{write}`")
    if not options.rank.isascii() or not options.rank.isdigit() or int(options.rank) > last:
        reason = f"NODE_RANK {options.rank!r} is not a number from 0 to {last}: correct it in .env"
        raise KnownError(BAD_RANK, reason)
    if (int(options.rank) == 0) != (options.role == "head"):
        reason = f"NODE_RANK is {options.rank}, but this is the profile {options.role} and rank 0 is the head alone"
        raise KnownError(BAD_RANK, f"{reason}: correct NODE_RANK in .env, or choose the other profile")


def check_secret(options: Any) -> None:
    """Without the secret anybody could claim this rank; the head's `serve` knows its file's name alone."""
    write = f"ernie-deploy doctor TARGET --nodes {options.nodes} --write-env --node-rank {options.rank} --head ADDR"
    if options.secret_file in ("", os.devnull):
        reason = f"GROUP_SECRET_FILE is not set: write it into .env with `{write}`"
        raise KnownError(NO_SECRET, reason)
    if options.role == "worker" and not read_secret():
        reason = f"GROUP_SECRET_FILE {options.secret_file} holds no secret that can be read: copy the head's file here"
        raise KnownError(NO_SECRET, reason)


def check_interface(options: Any) -> None:
    """NCCL and gloo stop with a much longer text where the interface is not there."""
    there = sorted(name for _, name in socket.if_nameindex())
    if options.nic not in there:
        offered = ", ".join(name for name in there if not DOCKERS.fullmatch(name))
        reason = f"NIC {options.nic!r} is no interface of this host, which has {offered}"
        raise KnownError(NO_INTERFACE, f"{reason}: correct it in .env")


def check_address(options: Any) -> None:
    """An address of another host makes the ranks meet nowhere."""
    if not is_here(options.host_ip):
        reason = f"HOST_IP {options.host_ip!r} is no address of this host, likely from another node's .env"
        raise KnownError(NOT_MY_ADDRESS, f"{reason}: correct it there (`ip -brief address` lists them)")


def check_head(options: Any) -> None:
    """The head is this host exactly where the rank is 0."""
    try:
        found = socket.getaddrinfo(options.head or "\0", options.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = f"HEAD_ADDR {options.head!r} does not resolve ({error}): give its address in .env"
        raise KnownError(BAD_HEAD, reason) from error
    addresses = sorted({str(entry[4][0]) for entry in found})
    if any(ipaddress.ip_address(address).is_loopback for address in addresses):
        reason = f"HEAD_ADDR {options.head} is every host's own: give the address that the other nodes reach"
        raise KnownError(BAD_HEAD, reason)
    if any(map(is_here, addresses)) != (options.role == "head"):
        fault = "no address of this host" if options.role == "head" else "this very host"
        reason = f"HEAD_ADDR {options.head} is {fault}, but NODE_RANK is {options.rank}: correct one of them in .env"
        raise KnownError(BAD_HEAD, reason)


def is_here(address: str) -> bool:
    """Tell whether the address is one of this host's: only then can it be bound."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except (OSError, ValueError):
        return False
    return True


# --- waiting for the other nodes, each time bounded ---


def wait_for_head(options: Any) -> None:
    """Wait until the head listens for ranks; one that already serves has no room for this rank."""
    place, begun, reported_at = f"{options.head}:{options.port}", time.monotonic(), -TOLD_EVERY_S
    while (waited := time.monotonic() - begun) < options.wait_s:
        status, text = ask_beacon(options)
        if status == TAKEN:
            raise KnownError(RANK_TAKEN, f"{text}: give this node another NODE_RANK in .env")
        if status == ELSEWHERE:
            reason = (
                f"HOST_IP {options.host_ip!r} is not how the head sees this node, {text}: correct it in .env"
            )
            raise KnownError(NOT_MY_ADDRESS, reason)
        if status != SERVING and listens(options):
            return
        if waited - reported_at >= TOLD_EVERY_S:
            say(
                f"node: waiting for the head at {place}, {waited:.0f} of {options.wait_s:.0f} s: {obstacle(status, options.port)}",
                sys.stderr,
            )
            reported_at = waited
        time.sleep(RETRY_S)
    raise KnownError(
        HEAD_ABSENT,
        f"the head at {place} let no rank in within {options.wait_s:.0f} s: {obstacle(ask_beacon(options)[0], options.port)}; "
        "start the head, or open the port on it",
    )


def obstacle(status: int, port: int) -> str:
    """Say in words what the beacon's answer means for a worker that waits."""
    if status == SERVING:
        return "it still serves with the former process of this rank, until its own health check ends it"
    if status == STRANGER:
        return (
            "what answers there has another group's secret, so copy the head's GROUP_SECRET_FILE to this node"
        )
    if status:
        return f"its host answers, but its engine does not listen yet, or a firewall closes port {port}"
    return "nothing answers, so it is not up, or a firewall closes its ports"


def ask_beacon(options: Any) -> tuple[int, str]:
    """Ask whether the head serves, and claim the rank; 0 for silence."""
    return ask(options.head, options.beacon_port, options.rank, options.host_ip)


def listens(options: Any) -> bool:
    """Tell whether the head's port lets somebody in."""
    try:
        with socket.create_connection((options.head, options.port), timeout=ANSWER_S):
            return True
    except OSError:
        return False


def start_ray(options: Any) -> None:
    """Start Ray's head in this container: the engine must share its raylet's sockets and memory."""
    words = ["ray", "start", "--head", f"--node-ip-address={options.host_ip}", f"--port={options.port}"]
    words += [f"--num-gpus={options.gpus}", f"--object-store-memory={OBJECT_STORE_BYTES}"]
    words += ["--include-dashboard=false", "--disable-usage-stats"]
    subprocess.run(words, check=True)  # noqa: S603 - words of this file, and no shell


def wait_for_gpus(options: Any) -> None:
    """Wait until every node's GPUs are in Ray's cluster: vLLM itself would wait without a word, and longer."""
    wanted, begun, reported_at = options.gpus * options.nodes, time.monotonic(), -TOLD_EVERY_S
    while (joined := gpus_of_cluster()) < wanted:
        waited, missing = time.monotonic() - begun, who_is_missing(options, joined)
        if waited >= options.wait_s:
            reason = f"{missing} after {waited:.0f} s: start the profile worker on them, and open port {options.port}"
            raise KnownError(NODES_MISSING, reason)
        if waited - reported_at >= TOLD_EVERY_S:
            say(f"node: waiting for Ray, {waited:.0f} of {options.wait_s:.0f} s: {missing}", sys.stderr)
            reported_at = waited
        time.sleep(RETRY_S)


def who_is_missing(options: Any, joined: int) -> str:
    """Say in words how much of the cluster is there."""
    wanted = options.gpus * options.nodes
    nodes = -(-(wanted - joined) // options.gpus)
    are = "node is" if nodes == 1 else "nodes are"
    return f"{joined} of {wanted} GPUs have joined, {nodes} {are} missing"


def gpus_of_cluster() -> int:
    """Read the number of GPUs from `ray status`; 0 where it has none yet."""
    done = subprocess.run(["ray", "status"], capture_output=True, text=True, check=False)  # noqa: S607 - the image's
    found = GPUS.search(done.stdout)
    return int(float(found[1])) if found else 0


def note_start() -> None:
    """Say for the beacon when this head was started."""
    fresh = START.with_suffix(".new")
    fresh.write_text(f"{time.time_ns()}\n")
    fresh.replace(START)


def main(words: list[str]) -> None:
    """Check, wait, and become the command."""
    options = parse(words)
    try:
        for check in (check_rank, check_interface, check_address, check_head, check_secret):
            check(options)
        if options.role == "worker":
            wait_for_head(options)
            JOINS.touch()
        else:
            note_start()
        # A worker becomes `ray start --address`, which joins the head's cluster.
        if options.ray and options.role == "head":
            start_ray(options)
            wait_for_gpus(options)
    except KnownError as error:
        code, line = error.args
        raise KnownError(code, f"{line}, then run `docker compose --profile {options.role} up -d`") from error
    where = f"{options.host_ip} on {options.nic}, head {options.head}"
    say(f"node: rank {options.rank} of {options.nodes} nodes, {where}", sys.stderr)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    sys.exit(run("node", main))
