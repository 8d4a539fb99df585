"""What --balance does to vLLM's prefix cache: conversations by key through the real HAProxy to two servers that run.

    python tests/gateway/measure_balance.py http://127.0.0.1:9101 http://127.0.0.1:9102 MODEL

Both are asked with both ways in turn, each with conversations of its own. Needs the tests' dependencies and HAProxy.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[:0] = [str(folder) for folder in Path(__file__).parents[1:3]]
from gateway import haproxy  # noqa: E402
from gateway.upstream import exchange, head, status_of  # noqa: E402

from ernie_deploy.safe_io.http_client import ask  # noqa: E402

KEYS, ANSWER_TOKENS, MORE_TOKENS, VOCABULARY = 12, 8, 128, 64
THINKS_S = 3.0
# Turns of a conversation and tokens of its first: long talks, and few questions about a long text.
SHAPES = ((10, 512), (3, 1536))
LIMIT_S = 300.0


def counters(servers: list[str]) -> tuple[float, float]:
    """Tokens that were looked up in the prefix caches, and those that were there."""
    text = "\n".join(ask(f"{server}/metrics").decode() for server in servers)
    sums = [
        sum(map(float, re.findall(rf"^vllm:prefix_cache_{name}_total\{{.*\}} (\S+)$", text, re.MULTILINE)))
        for name in ("queries", "hits")
    ]
    return sums[0], sums[1]


def converse(port: int, model: str, key: str, seed: int, shape: tuple[int, int]) -> None:
    """One conversation: each turn sends all of those before it and more."""
    chance = random.Random(seed)
    prompt = [chance.randrange(10, VOCABULARY) for _ in range(shape[1])]
    for _ in range(shape[0]):
        body = {"model": model, "prompt": prompt, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        words = ["Content-Type: application/json", f"Authorization: Bearer {key}"]
        answer = exchange(port, head("POST", "/v1/completions", *words, body=json.dumps(body)), LIMIT_S)
        if status_of(answer) != 200:
            raise SystemExit(answer.decode(errors="replace"))
        # As a person does: who asks again at once takes the place that he just left, which is leastconn's choice too.
        time.sleep(chance.uniform(0, THINKS_S))
        prompt += [chance.randrange(10, VOCABULARY) for _ in range(MORE_TOKENS)]


def measure(balance: str, servers: list[str], model: str, seed: int, shape: tuple[int, int]) -> str:
    """One line of the table."""
    keys = {f"ek_{number:043d}": f"user-{number}:100000:1000:0" for number in range(KEYS)}
    addresses = tuple(server.removeprefix("http://") for server in servers)
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(KEYS) as pool,
        haproxy.running(Path(folder), "", keys, upstreams=addresses, balance=balance) as front,
    ):
        asked, hit = counters(servers)
        begun = time.monotonic()
        conversations = [
            pool.submit(converse, front.port, model, key, seed + n, shape) for n, key in enumerate(keys)
        ]
        for conversation in conversations:
            conversation.result()
        elapsed_s = time.monotonic() - begun
        asked, hit = (now - then for now, then in zip(counters(servers), (asked, hit), strict=True))
        at = [entry["server"] for entry in front.log()]
    share = max(at.count(name) for name in set(at)) / len(at)
    return f"{balance:<10} {hit / asked:6.1%} of {asked:,.0f} prompt tokens, {share:.0%} of requests at the busier server, {elapsed_s:.0f} s"


def main(first: str, second: str, model: str) -> None:
    """Each way twice, in turn, for each shape."""
    for kind, (turns, tokens) in enumerate(SHAPES):
        sent = [tokens + turn * MORE_TOKENS for turn in range(turns)]
        at_most = sum(sent[:-1]) / sum(sent)
        print(
            f"{KEYS} keys, {turns} turns from {tokens} tokens; at most {at_most:.1%} can be had from a cache"
        )
        for round_ in range(2):
            for number, balance in enumerate(("leastconn", "sticky")):
                seed = int(time.time()) * 1000 + 100 * (4 * kind + 2 * round_ + number)
                print(measure(balance, [first, second], model, seed, (turns, tokens)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
