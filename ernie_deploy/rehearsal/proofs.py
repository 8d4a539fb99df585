"""What a rehearsal proves, each a small function that returns a sentence or raises `Disproved`."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ernie_deploy.plan.memory import GIB
from ernie_deploy.rehearsal.client import QUESTION, Answer, chat, status
from ernie_deploy.rehearsal.group import Member
from ernie_deploy.rehearsal.leaks import places
from ernie_deploy.rehearsal.network_isolation import secluded
from ernie_deploy.rehearsal.override import KV_CACHE_GIB, tiny_kv_bytes
from ernie_deploy.rehearsal.stage import Disproved, Stage, until
from ernie_deploy.stack import containers, metrics
from ernie_deploy.stack.compose import ask, demand
from ernie_deploy.stack.servers import Server

BENCH_S = 300
# Two cores that start four ranks take minutes; the time that was measured is printed.
RECOVERY_S = 600
# A gateway asks each server once a second, under the address that its name has by then.
OPEN_S = 60
TOKENS = 16
DRAIN_S = 10.0
STREAMS = 3
MOST_TOKENS = 2000
# In the arguments of the process that has the scheduler.
ENGINE = "EngineCore"
CACHE = re.compile(r"^vllm:cache_config_info\{.*\}", re.MULTILINE)
LABEL = re.compile(r'(?<!\w)(\w+)="([^"]*)"')


def fetched_and_verified(stage: Stage) -> str:
    """The fetch service downloaded with the token and verified every file."""
    reports = {_verified(member) for member in stage.members}
    return stage.everywhere(reports.pop())


def _verified(member: Member) -> str:
    log = demand(member.stack.logs("fetch"))
    # Packages are verified too, in words of another script.
    line = next((line for line in log.splitlines() if "fetch: " in line and "verified" in line), "")
    if not line:
        raise Disproved(f"no line says so: {log[-300:]}")
    return line.partition("fetch: ")[2]


def hardened(stage: Stage) -> str:
    """The ranks' processes have no capability and no way to new privileges."""
    unconfined = stage.rehearsal.plan.security.unconfined
    uids = {_uid_of_hardened(member, "0" if unconfined else "2") for member in stage.members}
    seccomp = "off, as --security recipe has it" if unconfined else "on"
    return stage.everywhere(f"uid {uids.pop()}, no capability, no new privileges, seccomp {seccomp}")


def _uid_of_hardened(member: Member, seccomp: str) -> str:
    status = demand(member.stack.words("exec", "-T", member.service, "cat", "/proc/1/status"))
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if (facts["CapEff"], facts["NoNewPrivs"], facts["Seccomp"]) != ("0000000000000000", "1", seccomp):
        raise Disproved(
            f"CapEff {facts['CapEff']}, NoNewPrivs {facts['NoNewPrivs']}, Seccomp {facts['Seccomp']}"
        )
    return facts["Uid"].split()[0]


def answers(stage: Stage) -> str:
    """One chat answer with as many tokens as asked for."""
    return f"{complete(asked(stage, TOKENS, stream=False), TOKENS)} tokens"


def streams(stage: Stage) -> str:
    """The same as a stream, ended by a finish_reason and no error event."""
    return f"{complete(asked(stage, TOKENS), TOKENS)} tokens"


def asked(
    stage: Stage, tokens: int, *, stream: bool = True, question: str | list[dict[str, Any]] = QUESTION
) -> Answer:
    """The answer to one question."""
    name, key = stage.rehearsal.plan.served_name, stage.planted.api_key
    return chat(stage.base_url, name, max_tokens=tokens, stream=stream, api_key=key, question=question)


def complete(answer: Answer, tokens: int) -> int:
    """The tokens of an answer; raises `Disproved` where it is not complete."""
    if answer.ending != "complete" or answer.tokens != tokens:
        raise Disproved(
            f"the answer ended {answer.ending} with {answer.tokens} of {tokens} tokens {answer.detail}"
        )
    return tokens


def drafts(stage: Stage) -> str:
    """The MTP layer really drafted."""
    drafted = metrics.scrape(stage.servers()).get("vllm:spec_decode_num_drafts_total", 0)
    if not drafted:
        raise Disproved("vllm:spec_decode_num_drafts_total is 0")
    return f"{drafted:g} drafts"


def benchmarks(stage: Stage) -> str:
    """The bench service completes a cell, counted by its tokens."""
    return completes_a_cell(stage, ())


def completes_a_cell(stage: Stage, words: Sequence[str]) -> str:
    """Run a small cell of the bench service, with these words beside its own; raises `Disproved`."""
    overridden = ("--random-input-len=64", "--random-output-len=16", "--num-prompts=4", "--request-rate=50")
    base = [str(word) for word in _bench_command(stage)]
    done = ask(stage.stack.bench(*base, *words, *overridden), timeout_s=BENCH_S)
    figures = dict(line.rsplit(":", 1) for line in done.stdout.splitlines() if ":" in line)
    printed = {name.strip(): value.strip() for name, value in figures.items()}
    if printed.get("Successful requests") != "4" or printed.get("Total generated tokens") != "64":
        raise Disproved(f"exit {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    return "4 requests, 64 of 64 tokens"


def _bench_command(stage: Stage) -> list[str]:
    resolved = json.loads(demand(stage.stack.words("--profile", "bench", "config", "--format", "json")))
    command: list[str] = resolved["services"]["bench"]["command"]
    return [word.replace("$$", "$") for word in command]


def keeps_the_secret(stage: Stage) -> str:
    """What was planted is in no file, inspection, image, log, process or volume."""
    # Nodes share the rendered files and the image, which are counted once.
    seen = {
        place
        for member in stage.members
        for place in places(member.stack, member.stack.project, stage.rehearsal.folder)
    }
    leaks = sorted(name for name, content in seen if any(secret in content for secret in stage.planted.all))
    if leaks:
        raise Disproved(f"a secret stands in: {', '.join(leaks)}")
    kinds = sorted({name.partition(" ")[0] for name, _ in seen})
    return f"in none of {len(seen)} places ({', '.join(kinds)})"


def asks_for_the_key(stage: Stage) -> str:
    """/v1 is closed without the key and open with it."""
    body = {
        "model": stage.rehearsal.plan.served_name,
        "messages": [{"role": "user", "content": "1"}],
        "max_tokens": 1,
    }
    seen = {}
    for path, question in (("/v1/models", None), ("/v1/chat/completions", body)):
        for key in ("", f"{stage.planted.api_key}x", stage.planted.api_key):
            seen[path, key] = status(f"{stage.base_url}{path}", question, api_key=key)
    if list(seen.values()) != [401, 401, 200] * 2:
        raise Disproved(f"without a key, with a wrong one and with the right one: {list(seen.values())}")
    return "401 without it or with another, 200 with it, on /v1/models and /v1/chat/completions"


def caches_as_planned(stage: Stage) -> str:
    """vLLM makes of each GiB as many tokens of KV cache as the memory plan's arithmetic says."""
    predicted = KV_CACHE_GIB * GIB // tiny_kv_bytes(stage.rehearsal)
    match = CACHE.search(stage.servers()[0].text("/metrics"))
    if not match:
        raise Disproved("/metrics has no vllm:cache_config_info")
    labels = dict(LABEL.findall(match[0]))
    block = int(labels["block_size"])
    tokens = int(labels["num_gpu_blocks"]) * block
    if abs(tokens - predicted) >= block:
        raise Disproved(f"{tokens:,} tokens instead of {predicted:,}, a block has {block}")
    return f"{tokens:,} tokens in {KV_CACHE_GIB} GiB a rank, {predicted:,} predicted"


def drains(stage: Stage) -> str:
    """A stream that is under way when the server is told to stop ends complete."""
    for _ in range(STREAMS):
        tokens = tokens_in(DRAIN_S, stage)
        if _stopped_midway(stage, tokens):
            return f"{tokens} of {tokens} tokens after SIGTERM"
    raise Disproved(f"{STREAMS} streams of {DRAIN_S:g} s each were over before the server was told to stop")


def _stopped_midway(stage: Stage, tokens: int) -> bool:
    """Stop the server under a stream; returns whether the stream lasted until the stop.

    On a machine whose disk stalls, the server may tell of a request only after it. Raises `Disproved` where
    the stream is not complete.
    """
    return stopped_midway(stage, tokens, lambda: _stop(stage))


def stopped_midway(stage: Stage, tokens: int, stop: Callable[[], object]) -> bool:
    """Stop something under a stream; returns whether the stream lasted until then.

    Raises `Disproved` where the stream is not complete.
    """
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(asked, stage, tokens)
        until(lambda: answering.done() or bool(busy(stage)), 30)
        lasted = not answering.done()
        if lasted:
            stop()
        answer = answering.result()
    complete(answer, tokens)
    return lasted


def _stop(stage: Stage) -> None:
    """Stop the server that has the stream."""
    working = busy(stage)
    server = working[0].container_id if working else ""
    container = containers.client().containers.get(server or stage.serve().id)
    container.stop(timeout=stage.rehearsal.plan.stop_grace_period_s)


def busy(stage: Stage) -> list[Server]:
    """The servers that work on a request."""
    return [
        server
        for server in stage.servers()
        if metrics.scrape([server]).get("vllm:num_requests_running", 0) > 0
    ]


def tokens_in(seconds: float, stage: Stage) -> int:
    """How many tokens this machine streams in so many seconds, measured on a short answer."""
    begun = time.monotonic()
    complete(asked(stage, TOKENS), TOKENS)
    return max(TOKENS, min(MOST_TOKENS, int(TOKENS * seconds / (time.monotonic() - begun))))


def restarts(stage: Stage) -> str:
    """Killing the engine process brings the server back by itself."""
    return f"healthy again {killed(stage, stage.members[0], ENGINE):.0f} s after the engine was killed"


def killed(stage: Stage, member: Member, word: str) -> float:
    """Kill a member's processes that carry `word`; return the seconds until everything was healthy again."""
    before, begun = member.state(), time.monotonic()
    rows = containers.client().containers.get(before.id).top(ps_args=containers.WIDE)["Processes"]
    pids = [row[1] for row in rows if word in row[-1] and row[1].isdigit()]
    if not pids:
        raise Disproved(f"no process is called {word}")
    subprocess.run(["kill", "-9", *pids], check=True)  # noqa: S603, S607 - the host's view of the container's processes
    until(lambda: member.state().restarts > before.restarts, RECOVERY_S)
    until(stage.healthy, RECOVERY_S)
    until(stage.is_open, RECOVERY_S)
    return time.monotonic() - begun


def becomes_healthy(stage: Stage) -> str:
    """The same container starts again from the verified weights, with no way out of the network where it has its own."""
    engine = containers.client()
    # The drain stopped whichever server had the stream, and none starts again by itself.
    for replica in stage.replicas():
        engine.containers.get(replica.id).start()
    container = engine.containers.get(stage.serve().id)
    container.stop(timeout=stage.rehearsal.plan.stop_grace_period_s)
    with secluded(engine, container) as apart:
        begun = time.monotonic()
        # By the engine: `docker compose start` would run fetch again.
        container.start()
        until(stage.healthy, RECOVERY_S)
        how = ", with no way out of the network" if apart else ""
        sentence = f"healthy {time.monotonic() - begun:.0f} s after the start{how}"
    # Apart, no gateway reached it either.
    until(stage.is_open, OPEN_S)
    return sentence
