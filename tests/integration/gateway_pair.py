"""Two real vLLM behind the real HAProxy as a stack: clients that ask it, and the requests that its logs name."""

import json
import re
import secrets
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from integration.stack import Asked

from ernie_deploy.rehearsal.client import chat
from ernie_deploy.safe_io.http_client import ask as get
from ernie_deploy.stack import containers
from ernie_deploy.stack.compose import Stack

KEY = f"ek_{secrets.token_urlsafe(32)}"
CLIENTS, TOKENS, LIMIT_S = 6, 60, 180
# Of a request that vLLM took, by its own log; the gateway gave it the id.
TAKEN = re.compile(r"Received request (?:chatcmpl-)([0-9a-f-]{36})")


class Pair:
    """The running stack, and every request that was sent to it."""

    def __init__(self, stack: Stack, model: str) -> None:
        self.stack, self.model, self.engine = stack, model, containers.client()
        self.asked: list[Asked] = []
        # By container: the ids of requests that a server took, and of those that the gateway logged.
        self.taken: dict[str, list[str]] = {}
        self.sent: dict[str, list[str]] = {}

    def state(self, service: str) -> containers.State:
        return next(
            one for one in containers.states(self.engine, self.stack.project) if one.service == service
        )

    def container(self, service: str) -> Any:
        return self.engine.containers.get(self.state(service).id)

    def note(self, service: str, container: str = "") -> None:
        """Keep the ids in a container's log, which goes with it: one made anew or taken down has none later."""
        made = self.engine.containers.get(container or self.state(service).id)
        log = made.logs().decode(errors="replace")
        if service == "gateway":
            self.sent[made.id] = [
                json.loads(line)["request_id"] for line in log.splitlines() if line.startswith("{")
            ]
        else:
            self.taken[made.id] = TAKEN.findall(log)

    def noted(self) -> int:
        """Note every container's log; how many requests were taken so far, by those that are gone too."""
        for service in ("gateway", "serve", "serve-2"):
            self.note(service)
        return sum(map(len, self.taken.values()))

    def url(self) -> str:
        return f"http://{self.state('gateway').ports['8443/tcp']}"

    def ask(self, tokens: int = TOKENS, question: str = "Count to ten.") -> Asked:
        begun = time.monotonic()
        answer = chat(
            self.url(),
            self.model,
            max_tokens=tokens,
            stream=True,
            timeout_s=LIMIT_S,
            api_key=KEY,
            question=question,
        )
        self.asked.append(Asked(answer, tokens, time.monotonic() - begun, LIMIT_S))
        return self.asked[-1]

    def metrics(self) -> str:
        """HAProxy's own, by its address on the internal network: it is published nowhere."""
        networks = self.container("gateway").attrs["NetworkSettings"]["Networks"]
        address = next(one["IPAddress"] for name, one in networks.items() if name.endswith("_back"))
        return get(f"http://{address}:8405/metrics").decode()

    def at_gateway(self, service: str) -> str:
        """What the gateway thinks of a server: UP, DOWN, NOLB."""
        match = re.search(
            rf'^haproxy_server_status{{proxy="serve",server="{service}",state="(\w+)"}} 1',
            self.metrics(),
            re.MULTILINE,
        )
        assert match
        return match[1]

    def running(self, service: str) -> int:
        match = re.search(
            rf'^haproxy_server_current_sessions{{proxy="serve",server="{service}"}} (\d+)',
            self.metrics(),
            re.MULTILINE,
        )
        assert match
        return int(match[1])

    def pids(self, service: str, word: str) -> list[str]:
        rows = self.container(service).top(ps_args=containers.WIDE)["Processes"]
        return [row[1] for row in rows if word in row[-1]]

    def signal(self, service: str, name: str, word: str) -> None:
        pids = self.pids(service, word)
        assert pids, f"no process with {word}"
        subprocess.run(["kill", f"-{name}", *pids], check=True)


def until(met: Callable[[], bool], limit_s: float, what: str) -> float:
    """Seconds until it was met."""
    begun = time.monotonic()
    while not met():
        assert time.monotonic() - begun < limit_s, f"{what}: not within {limit_s} s"
        time.sleep(0.1)
    return time.monotonic() - begun


class Load(NamedTuple):
    """Clients that ask without a pause until they are told to end."""

    over: threading.Event
    results: list[Asked]
    pool: ThreadPoolExecutor
    futures: list[Any]

    def end(self) -> Counter[str]:
        self.over.set()
        for future in self.futures:
            future.result(LIMIT_S + 60)
        self.pool.shutdown()
        return Counter(one.answer.ending for one in self.results)


def load(pair: Pair, tokens: int = TOKENS) -> Load:
    # On a busy machine a server that the last fault did not touch may miss a check or two as well.
    for service in ("serve", "serve-2"):
        waited_s = until(lambda s=service: pair.at_gateway(s) == "UP", 30, f"{service} up")  # type: ignore[misc]
        if waited_s > 1:
            print(f"{service} was out of rotation for {waited_s:.0f} s before the load")
    made = Load(threading.Event(), [], ThreadPoolExecutor(CLIENTS), [])

    def keep_asking() -> None:
        while not made.over.is_set():
            made.results.append(pair.ask(tokens))
            if made.results[-1].answer.ending != "complete":
                time.sleep(0.5)

    made.futures.extend(made.pool.submit(keep_asking) for _ in range(CLIENTS))
    for service in ("serve", "serve-2"):
        until(lambda s=service: pair.running(s) > 0, 60, f"requests at {service}")  # type: ignore[misc]
    return made


def changed(pair: Pair, service: str) -> Stack:
    """The same stack with another variable in the environment of one server."""
    path = pair.stack.files[0].parent / "changed.yml"
    path.write_text(f'services: {{{service}: {{environment: {{CHANGED: "1"}}}}}}\n')
    return Stack(files=(*pair.stack.files, path), project=pair.stack.project, env_file=pair.stack.env_file)
