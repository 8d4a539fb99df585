"""A rehearsed stack that tests may break, and what every request to it is held to."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

from conftest import missing

from ernie_deploy.rehearsal.client import Answer, chat
from ernie_deploy.rehearsal.group import address, members
from ernie_deploy.rehearsal.override import Rehearsal, debian_image
from ernie_deploy.stack import containers, metrics
from ernie_deploy.stack.compose import Done, Stack, ask
from ernie_deploy.stack.servers import Server

HAPROXY = debian_image("haproxy")
# A request may use the whole of its limit and a moment to be judged.
GRACE_S = 5
FLOOD_BYTES, FLOOD_WAYS = 20_000_000, 4
# What keeps the event loop busy, and what keeps the thread that tokenizes.
FLOODS = {
    "messages": ('"messages": [', '{"role": "user", "content": "a"},', '{"role": "user", "content": "a"}]'),
    "text": ('"prompt": "', "ab ", '"'),
}


class Asked(NamedTuple):
    """One request of this file, for the invariant at its end."""

    answer: Answer
    tokens: int
    elapsed_s: float
    limit_s: float

    def fault(self) -> str:
        """What no request may do: hang, or be counted a success and be short."""
        if "timed out" in self.answer.detail or self.elapsed_s > self.limit_s + GRACE_S:
            return "hung"
        return "short" if self.answer.ending == "complete" and self.answer.tokens != self.tokens else ""


def require_haproxy() -> None:
    """Skip, or fail where nothing may be missing, without the image of the gateway."""
    if ask(["docker", "image", "inspect", HAPROXY]).returncode:
        missing(HAPROXY, "python docker/debian/build_image.py haproxy makes it")


def recovered(fault: str, elapsed_s: float) -> None:
    """One line of the recovery table."""
    print(f"recovery | {fault} | {elapsed_s:.0f} s")


@contextlib.contextmanager
def signals_and_ends(project: str) -> Iterator[list[tuple[str, str]]]:
    """What happens to a project's containers meanwhile, in order: ("kill" or "die", service); whole after the block."""
    seen: list[tuple[str, str]] = []
    words = ["docker", "events", "--since", f"{time.time():.0f}", "--filter", "event=die", "--filter", "event=kill",
             "--filter", f"label={containers.PROJECT}={project}",
             "--format", '{{.Action}} {{index .Actor.Attributes "com.docker.compose.service"}}']  # fmt: skip
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as events:
        try:
            yield seen
        finally:
            time.sleep(1)
            events.terminate()
            assert events.stdout
            for line in events.stdout.read().splitlines():
                action, _, service = line.partition(" ")
                seen.append((action, service))


@contextlib.contextmanager
def flood(url: str, model: str, kind: str) -> Iterator[None]:
    """Send large bodies to /tokenize, as a stranger without a key may; nothing is generated."""
    begin, part, end = FLOODS[kind]
    body = f'{{"model": "{model}", {begin}{part * (FLOOD_BYTES // len(part))}{end}}}'.encode()
    over = threading.Event()

    def keep_sending() -> None:
        while not over.is_set():
            connection = HTTPConnection(url.removeprefix("http://"), timeout=120)
            try:
                with contextlib.closing(connection):
                    connection.request("POST", "/tokenize", body, {"Content-Type": "application/json"})
                    connection.getresponse().read()
            except (OSError, HTTPException):
                over.wait(1)

    for _ in range(FLOOD_WAYS):
        threading.Thread(target=keep_sending, daemon=True).start()
    try:
        yield
    finally:
        over.set()


class Running:
    """One rehearsed stack that the faults of this file are done to."""

    def __init__(self, rehearsal: Rehearsal, stack: Stack) -> None:
        self.rehearsal, self.stack = rehearsal, stack
        self.engine = containers.client()
        self.asked: list[Asked] = []

    def serve(self) -> containers.State:
        return members(self.rehearsal)[0].state()

    def url(self) -> str:
        return address(self.rehearsal)

    def pids(self, word: str) -> list[str]:
        """Process ids on the host of the serving container's processes that carry `word`."""
        rows = self.engine.containers.get(self.serve().id).top(ps_args=containers.WIDE)["Processes"]
        return [row[1] for row in rows if word in row[-1]]

    def probes(self) -> list[str]:
        """What the last health checks said."""
        health = self.engine.containers.get(self.serve().id).attrs["State"]["Health"]
        return [entry["Output"].strip() for entry in health["Log"]]

    def signal(self, name: str, word: str) -> None:
        pids = self.pids(word)
        assert pids, f"no process with {word}"
        subprocess.run(["kill", f"-{name}", *pids], check=True)

    def ask(self, max_tokens: int = 16, *, stream: bool = True, timeout_s: float = 120) -> Answer:
        name, url, begun = self.rehearsal.plan.served_name, self.url(), time.monotonic()
        answer = chat(url, name, max_tokens=max_tokens, stream=stream, timeout_s=timeout_s)
        self.asked.append(Asked(answer, max_tokens, time.monotonic() - begun, timeout_s))
        return answer

    def healthy_again(self, restarts: int, limit_s: float) -> float:
        begun = time.monotonic()
        while not ((now := self.serve()).restarts > restarts and now.health == "healthy"):
            assert time.monotonic() - begun < limit_s, f"not healthy after {limit_s} s: {now}"
            time.sleep(0.5)
        return time.monotonic() - begun

    def answers_again(self, limit_s: float) -> float:
        """What a flood left in the queues of the API is worked off first."""
        begun = time.monotonic()
        while self.ask().ending != "complete":
            assert time.monotonic() - begun < limit_s, f"no answer after {limit_s} s"
            time.sleep(1)
        return time.monotonic() - begun

    def started_anew(self, restarts: int, limit_s: float) -> float:
        begun = time.monotonic()
        while self.serve().restarts <= restarts:
            assert time.monotonic() - begun < limit_s, f"not killed after {limit_s} s"
            time.sleep(0.5)
        return time.monotonic() - begun

    def busy(self, requests: int = 1, limit_s: float = 30) -> None:
        """Wait until so many requests are being worked on."""
        url, end = self.url(), time.monotonic() + limit_s
        while metrics.scrape([Server(url=url)]).get("vllm:num_requests_running", 0) < requests:
            assert time.monotonic() < end, "no request is running"
            time.sleep(0.2)

    def with_env(self, folder: Path, **variables: object) -> Stack:
        """The same stack with other settings in its .env."""
        env = folder / "other.env"
        env.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
        return Stack(files=self.stack.files, project=self.rehearsal.project, env_file=env)

    def fetch(self, stack: Stack, *options: str) -> Done:
        """Run `fetch` once beside the running stack, against its hub."""
        return ask(stack.words("run", "--rm", "--no-deps", "-T", *options, "fetch"), timeout_s=90)
