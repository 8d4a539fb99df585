"""What the gateway costs: the time it adds to a streamed event, the throughput it leaves, and its memory.

    python benchmarks/gateway_cost.py [--streams 200] [--events 60] [--interval-ms 100] [--pairs 5]
    python benchmarks/gateway_cost.py --server HOST:PORT --model NAME    # before a vLLM that runs

Streams directly and through the real HAProxy take turns, and a quiet pair runs side by side, so that whatever else the
machine does meets both. Without --server a fake one writes the time into each event, so that an event's way is measured
alone; of vLLM the time between events is.
"""

import argparse
import asyncio
import hashlib
import json
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from ernie_deploy.catalog import Catalog
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.render.compose import defaults_of
from ernie_deploy.render.gateway import configuration

KEY = "ek_" + "b" * 43
SENT = re.compile(rb'"sent": ([0-9.]+)')
# What the issue asks of it.
MOST_ADDED_MS, LEAST_RATIO = 1.0, 0.98


class Stream(Struct):
    """One stream: when each event came, and how long it was under way where its server says so (seconds)."""

    began: float
    arrivals: list[float]
    ways: list[float]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one event and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def serve(port: int, events: int, interval_s: float) -> None:
    """A server of streams, each event with the time at which it was written."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            else:
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                await _events(writer, events, interval_s)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


async def _events(writer: asyncio.StreamWriter, events: int, interval_s: float) -> None:
    """Each on its own time, whatever the one before took."""
    start = time.monotonic()
    for number in range(events):
        await asyncio.sleep(max(0.0, start + number * interval_s - time.monotonic()))
        event = (
            f'data: {{"sent": {time.monotonic():.7f}, "choices": [{{"delta": {{"content": "word"}}}}]}}\n\n'
        )
        writer.write(f"{len(event):x}\r\n{event}\r\n".encode())
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def stream(port: int, body: bytes) -> Stream:
    """Ask for one stream and note each event; raises SystemExit for an answer that is none."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    writer.write(
        f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"port {port} answered {status!r}")
    made = Stream(began, [], [])
    while data := await reader.read(65536):
        now, count = time.monotonic(), data.count(b"data: ")
        made.arrivals += [now] * count
        made.ways += [now - float(sent) for sent in SENT.findall(data)]
    writer.close()
    return made


async def streams(port: int, count: int, body: bytes) -> tuple[float, list[Stream]]:
    """Streams at once, begun within a second of each other, and their events a second over all."""

    async def later(number: int) -> Stream:
        await asyncio.sleep(number / count)
        return await stream(port, body)

    made = await asyncio.gather(*map(later, range(count)))
    took_s = max(one.arrivals[-1] for one in made) - min(one.began for one in made)
    return sum(len(one.arrivals) for one in made) / took_s, list(made)


def gateway(folder: Path, server: str, port: int) -> "subprocess.Popen[bytes]":
    """HAProxy with a rendered configuration before a server, as its container runs it."""
    catalog = Catalog()
    plan = resolve(catalog, Request(target="h100", gateway=True))
    text = configuration(plan).replace("/gateway/", f"{folder}/").replace(" serve:8000 ", f" {server} ")
    text = (
        re.sub(r"check port \d+", "check", text)
        .replace("uri /ready", "uri /health")
        .replace("bind :8443", f"bind 127.0.0.1:{port}")
    )
    (folder / "haproxy.cfg").write_text(text.replace("bind :8405", f"bind 127.0.0.1:{free_port()}"))
    (folder / "keys.map").write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} cost:1000000:1000:0\n")
    limits = {
        name: value
        for name, value in defaults_of(plan, catalog.defaults).items()
        if name.startswith("GATEWAY_")
    }
    words = [shutil.which("haproxy") or "/usr/sbin/haproxy", "-W", "-db", "-f", str(folder / "haproxy.cfg")]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **limits})


def free_port() -> int:
    """A port that nobody has, below those that the kernel gives to connections: it stays free until it is bound."""
    while True:
        port = random.randrange(10_000, 20_000)  # noqa: S311 not for secrets
        with socket.socket() as made, suppress(OSError):
            made.bind(("127.0.0.1", port))
            return port


def reachable(port: int) -> None:
    """Wait until something listens; raises SystemExit after half a minute."""
    for _ in range(300):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def memory_mib(process: "subprocess.Popen[bytes]") -> float:
    """The most that the master and its worker ever had resident."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    peaks = (Path(f"/proc/{pid}/status").read_text() for pid in (str(process.pid), *children))
    return sum(int(match[1]) for text in peaks if (match := re.search(r"VmHWM:\s+(\d+) kB", text))) / 1024


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def added(direct: Sequence[float], through: Sequence[float], what: str) -> None:
    """Print both sides of a distribution and what the gateway adds."""
    for name, share in (("median", 0.5), ("p99", 0.99)):
        one, other = (quantile(side, share) * 1000 for side in (direct, through))
        print(f"{what}, {name}: {one:.3f} ms directly, {other:.3f} ms through it: {other - one:+.3f} ms")


async def measure(options: argparse.Namespace, server: int, front: int) -> None:
    """Take turns and print."""
    body = json.dumps(
        {"model": options.model, "prompt": "Once upon a time", "stream": True, "ignore_eos": True,
         "max_tokens": options.events, "temperature": 0}
    ).encode()  # fmt: skip
    await stream(front, body)
    quiet = [await asyncio.gather(stream(server, body), stream(front, body)) for _ in range(options.pairs)]
    timed = "time under way" if quiet[0][0].ways else "time between events"
    sides = [[way for pair in quiet for way in (pair[side].ways or pair[side].gaps)] for side in (0, 1)]
    print(f"{len(sides[0])} events a side, one stream directly beside one through the gateway")
    added(sides[0], sides[1], timed)
    rates: dict[int, list[float]] = {server: [], front: []}
    ways: dict[int, list[float]] = {server: [], front: []}
    for number in range(options.pairs):
        for port in (server, front) if number % 2 else (front, server):
            rate, made = await streams(port, options.streams, body)
            rates[port].append(rate)
            ways[port] += [way for one in made for way in (one.ways or one.gaps)]
    ratios = [through / direct for direct, through in zip(rates[server], rates[front], strict=True)]
    print(f"{options.streams} streams at once, {options.pairs} turns each")
    added(ways[server], ways[front], timed)
    print(
        f"events a second: {statistics.median(rates[server]):.0f} directly, {statistics.median(rates[front]):.0f} through it"
    )
    print(
        f"ratio {statistics.median(ratios):.4f} (median of {', '.join(f'{ratio:.4f}' for ratio in ratios)})"
    )


def main() -> None:
    """Start both sides, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--events", type=int, default=60)
    parser.add_argument("--interval-ms", type=float, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--server", default="")
    parser.add_argument("--model", default="any")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.serve, options.events, options.interval_ms / 1000))
        return
    port, front = int(options.server.rpartition(":")[2] or 0) or free_port(), free_port()
    own = [sys.executable, __file__, "--serve", str(port), "--events", str(options.events)]
    fake = None if options.server else subprocess.Popen([*own, "--interval-ms", str(options.interval_ms)])
    with tempfile.TemporaryDirectory() as folder:
        reachable(port)
        process = gateway(Path(folder), f"127.0.0.1:{port}", front)
        try:
            reachable(front)
            asyncio.run(measure(options, port, front))
            print(f"memory of HAProxy, at most: {memory_mib(process):.1f} MiB (master and worker)")
        finally:
            process.terminate()
            if fake:
                fake.terminate()


if __name__ == "__main__":
    main()
