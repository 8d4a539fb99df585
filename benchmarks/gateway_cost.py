"""What the gateway costs: the time it adds to a streamed event, the throughput it leaves, and its memory.

    python benchmarks/gateway_cost.py [--streams 200] [--events 60] [--interval-ms 100] [--pairs 5] [--tls]
    python benchmarks/gateway_cost.py --server HOST:PORT --model NAME    # before a vLLM that runs

Streams directly and through the real HAProxy run side by side, so that whatever else the machine does meets both. Without
--server a fake one writes the time into each event, so that an event's way is measured alone; of vLLM the time between
events is. Exits with 1 where the gateway costs more than --most-added-ms at the median or at p99, or leaves less than
--least-ratio; with 3 where the machine is too busy to say.
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
import ssl
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
from ernie_deploy.gateway.tls_files import self_signed
from ernie_deploy.plan.gateway import CERTIFICATE_PORT, FRONT_PORT, OWN_PORT, PASSED_ON_PORT, PEERS_PORT
from ernie_deploy.plan.request import Request
from ernie_deploy.plan.resolve import resolve
from ernie_deploy.render.compose import defaults_of
from ernie_deploy.render.gateway import configuration

KEY = "ek_" + "b" * 43
SENT = re.compile(rb'"sent": ([0-9.]+)')
# What the issue asks of it.
MOST_ADDED_MS, LEAST_RATIO = 1.0, 0.98
MEDIAN, P99 = 0.5, 0.99
# Where an event comes this late without any gateway, its time is the machine's (estimated: a quiet one takes 2 ms).
TOO_LATE_MS, TOO_BUSY = 20.0, 3


class Stream(Struct):
    """One stream: when each event came, and how long it was under way where its server says so (seconds)."""

    began: float
    arrivals: list[float]
    ways: list[float]

    @property
    def gaps(self) -> list[float]:
        """Seconds between one event and the next."""
        return [later - earlier for earlier, later in zip(self.arrivals, self.arrivals[1:], strict=False)]


class Side(Struct, frozen=True):
    """Where streams are asked for: the server itself, or the gateway, perhaps by TLS."""

    port: int
    tls: ssl.SSLContext | None = None


async def stream(side: Side, body: bytes) -> Stream:
    """Ask for one stream and note each event; raises SystemExit for an answer that is none."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", side.port, ssl=side.tls)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n"
    writer.write(
        f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    status = await reader.readline()
    if b" 200 " not in status:
        raise SystemExit(f"port {side.port} answered {status!r}")
    made = Stream(began, [], [])
    while data := await reader.read(65536):
        now, count = time.monotonic(), data.count(b"data: ")
        made.arrivals += [now] * count
        made.ways += [now - float(sent) for sent in SENT.findall(data)]
    writer.close()
    return made


async def streams(side: Side, count: int, body: bytes) -> tuple[float, list[Stream]]:
    """Streams at once, begun within a second of each other, and their events a second over all."""

    async def later(number: int) -> Stream:
        await asyncio.sleep(number / count)
        return await stream(side, body)

    made = await asyncio.gather(*map(later, range(count)))
    took_s = max(one.arrivals[-1] for one in made) - min(one.began for one in made)
    return sum(len(one.arrivals) for one in made) / took_s, list(made)


def gateway(folder: Path, server: str, port: int, *, tls: bool) -> "subprocess.Popen[bytes]":
    """HAProxy with a rendered configuration before a server, as its container runs it."""
    catalog = Catalog()
    plan = resolve(catalog, Request(target="h100", gateway=True, tls="self-signed" if tls else ""))
    text = configuration(plan).replace("/gateway/", f"{folder}/").replace(" serve:8000 ", f" {server} ")
    text = re.sub(r"check port \d+", "check", text).replace("uri /ready", "uri /health")
    text = text.replace(f"bind :{FRONT_PORT}", f"bind 127.0.0.1:{port}")
    for own in (OWN_PORT, CERTIFICATE_PORT):
        text = text.replace(f"bind :{own}", f"bind 127.0.0.1:{free_port()}")
    for own in (PEERS_PORT, PASSED_ON_PORT):
        text = text.replace(f"127.0.0.1:{own}", f"127.0.0.1:{free_port()}")
    (folder / "haproxy.cfg").write_text(text)
    if tls:
        certificate(folder / "tls")
    (folder / "keys.map").write_text(f"{hashlib.sha256(KEY.encode()).hexdigest()} cost:1000000:1000:0\n")
    limits = {
        name: value
        for name, value in defaults_of(plan, catalog.defaults).items()
        if name.startswith("GATEWAY_")
    }
    words = [shutil.which("haproxy") or "/usr/sbin/haproxy", "-W", "-db", "-f", str(folder / "haproxy.cfg")]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **limits})


def certificate(folder: Path) -> None:
    """A pair that signs itself, where the configuration reads it."""
    folder.mkdir()
    for name, text in zip(("tls.crt", "tls.key"), self_signed(["localhost"]), strict=True):
        (folder / name).write_text(text)


def anybody() -> ssl.SSLContext:
    """TLS of a client that takes any certificate: what it costs does not depend on who signed it."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


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


class Bound(Struct, frozen=True):
    """A figure, and the most that it may be."""

    what: str
    measured: float
    most: float

    @property
    def broken(self) -> str:
        """By how much it is beyond; empty where it is not."""
        over = self.measured - self.most
        return (
            f"{self.what}: {self.measured:.4f}, which is {over:.4f} beyond {self.most:g}" if over > 0 else ""
        )


def added_ms(sides: Sequence[Sequence[float]], share: float, what: str) -> float:
    """Print this quantile of both sides, and return what the gateway adds."""
    direct, through = (quantile(side, share) * 1000 for side in sides)
    name = "median" if share == MEDIAN else f"p{share * 100:.0f}"
    print(
        f"{what}, {name}: {direct:.3f} ms directly, {through:.3f} ms through it: {through - direct:+.3f} ms"
    )
    return through - direct


def times(pairs: Sequence[Sequence[Sequence[Stream]]], options: argparse.Namespace) -> list[Bound]:
    """Print what an event takes on both sides; `pairs` are turns of streams directly and through the gateway."""
    what = "time under way" if pairs[0][0][0].ways else "time between events"
    sides = [[way for pair in pairs for one in pair[side] for way in one.ways or one.gaps] for side in (0, 1)]
    print(f"{len(pairs[0][0])} streams a side at once, {len(pairs)} turns, {len(sides[0])} events a side")
    return [
        Bound("ms added at the median", added_ms(sides, MEDIAN, what), options.most_added_ms),
        Bound("ms added at p99", added_ms(sides, P99, what), options.most_added_ms),
    ]


def throughput(rates: Sequence[Sequence[float]], least: float) -> Bound:
    """Print the events a second of both sides in each turn, and the part that the gateway leaves."""
    direct, through = (statistics.median(side) for side in zip(*rates, strict=True))
    ratios = [behind / before for before, behind in rates]
    ratio = statistics.median(ratios)
    print(f"events a second: {direct:.0f} directly, {through:.0f} through it")
    print(f"ratio {ratio:.4f} (median of {', '.join(f'{one:.4f}' for one in ratios)})")
    return Bound("part of the throughput lost", 1 - ratio, 1 - least)


class Cost(Struct, frozen=True):
    """What was measured with all streams at once, and how late an event comes without the gateway, in ms at p99."""

    bounds: list[Bound]
    late_ms: float

    def judge(self, most_late_ms: float) -> None:
        """Exit where a bound is broken, or where the machine is too busy to say so."""
        if self.late_ms > most_late_ms:
            print(f"too busy to say: without the gateway an event takes {self.late_ms:.0f} ms at p99")
            sys.exit(TOO_BUSY)
        if broken := [bound.broken for bound in self.bounds if bound.broken]:
            sys.exit("the gateway costs too much:\n" + "\n".join(broken))


async def measure(options: argparse.Namespace, direct: Side, through: Side) -> Cost:
    """Ask both sides at once, in turns, first one stream each and then all, and print."""
    body = json.dumps(
        {"model": options.model, "prompt": "Once upon a time", "stream": True, "ignore_eos": True,
         "max_tokens": options.events, "temperature": 0}
    ).encode()  # fmt: skip
    await stream(through, body)

    async def turns_of(count: int) -> list[tuple[tuple[float, list[Stream]], ...]]:
        return [
            await asyncio.gather(streams(direct, count, body), streams(through, count, body))
            for _ in range(options.pairs)
        ]

    times([[made for _, made in turn] for turn in await turns_of(1)], options)
    turns = await turns_of(options.streams)
    bounds = times([[made for _, made in turn] for turn in turns], options)
    left = throughput([[rate for rate, _ in turn] for turn in turns], options.least_ratio)
    ways = [way for turn in turns for one in turn[0][1] for way in one.ways]
    return Cost([*bounds, left], quantile(ways, P99) * 1000 if ways else 0)


def options_of() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--events", type=int, default=60)
    parser.add_argument("--interval-ms", type=float, default=100)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--server", default="")
    parser.add_argument("--model", default="any")
    parser.add_argument("--most-added-ms", type=float, default=MOST_ADDED_MS)
    parser.add_argument("--least-ratio", type=float, default=LEAST_RATIO)
    parser.add_argument("--most-late-ms", type=float, default=TOO_LATE_MS)
    return parser.parse_args()


def main() -> None:
    """Start both sides, measure, print and judge."""
    options = options_of()
    port, front = int(options.server.rpartition(":")[2] or 0) or free_port(), free_port()
    words = [
        sys.executable,
        Path(__file__).with_name("stream_server.py"),
        port,
        options.events,
        options.interval_ms,
    ]
    fake = None if options.server else subprocess.Popen([str(word) for word in words])
    with tempfile.TemporaryDirectory() as folder:
        reachable(port)
        process = gateway(Path(folder), f"127.0.0.1:{port}", front, tls=options.tls)
        try:
            reachable(front)
            cost = asyncio.run(measure(options, Side(port), Side(front, anybody() if options.tls else None)))
            print(f"memory of HAProxy, at most: {memory_mib(process):.1f} MiB (master and worker)")
        finally:
            process.terminate()
            if fake:
                fake.terminate()
    cost.judge(options.most_late_ms)


if __name__ == "__main__":
    main()
