"""Parent of the server behind a gateway: GET /ready says whether it takes requests, and says no once a stop begins."""

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from canary import ENGINE_LABEL, METRICS, SAMPLE, load_state
from common import say

PORT = 8001
API = ("127.0.0.1", 8000)
LOOK_S = 1.0
REPLY_S = 3.0
# The gateway asks every second, and gives up a server after two answers that say no.
SEEN_S = 3.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
# Python ignores them, and a child would too.
PYTHONS = (signal.SIGPIPE, signal.SIGXFSZ)


class Watch:
    """What is known of the server: `fault` says why it takes no requests, and is empty where it does."""

    def __init__(self, hang_s: float) -> None:
        self.hang_s, self.fault, self.stopping = hang_s, "vLLM has not answered yet", False
        self.answered_at = time.monotonic()
        # Of each engine what its metrics last showed, and when that changed.
        self.engines: dict[str, tuple[list[float], float]] = {}

    def keep_looking(self) -> None:
        while not self.stopping:
            self.change(self.current_fault())
            time.sleep(LOOK_S)

    def change(self, fault: str) -> None:
        if fault != self.fault:
            self.fault = fault
            say(f"ready: takes no requests: {fault}" if fault else "ready: takes requests")

    @property
    def reason(self) -> str:
        """Why it takes no requests; empty where it does."""
        return "it stops" if self.stopping else self.fault

    def current_fault(self) -> str:
        """What is wrong now; a busy API that says nothing in time is as it was, for a while."""
        try:
            status = get("/health")[0]
            metrics = get("/metrics")[1] if status == 200 and self.hang_s else ""
        except TimeoutError:
            silent_s = time.monotonic() - self.answered_at
            return (
                f"vLLM has been silent for {self.hang_s:.0f} s" if 0 < self.hang_s < silent_s else self.fault
            )
        except (OSError, HTTPException) as error:
            return f"vLLM does not answer ({type(error).__name__})"
        self.answered_at = time.monotonic()
        return f"vLLM's /health says {status}" if status != 200 else self.hang(metrics)

    def hang(self, metrics: str) -> str:
        """Which engine stands still: one with requests for `hang_s`, one at rest by the health check's word."""
        if not self.hang_s:
            return ""
        now, before = time.monotonic(), self.engines
        self.engines = {
            label: (one, before[label][1] if one[0] and before.get(label, ([],))[0] == one else now)
            for label, one in read_engines(metrics).items()
        }
        stuck = [label for label, (_, moved_at) in self.engines.items() if now - moved_at >= self.hang_s]
        seen = load_state()
        # A probe that comes before the first answer does not tell a hang from loading.
        stuck = stuck or (seen.stuck if seen.misses and seen.healthy_at is not None else [])
        # An engine has no label where its metrics have none, or cannot be read.
        return f"engine {', '.join(stuck) or '?'} stands still" if stuck else ""


def read_engines(metrics: str) -> dict[str, list[float]]:
    """Of each engine how many requests run, and what moves while it works."""
    engines: dict[str, list[float]] = {}
    for metric, labels, value in SAMPLE.findall(metrics):
        label = ENGINE_LABEL.search(labels)
        engines.setdefault(label[1] if label else "", [0.0] * 3)[METRICS.index(metric)] += float(value)
    return engines


def get(path: str) -> tuple[int, str]:
    connection = HTTPConnection(*API, timeout=REPLY_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def handler(watch: Watch) -> type[BaseHTTPRequestHandler]:
    class Ready(BaseHTTPRequestHandler):
        timeout = 5
        # The answer goes in one piece: HAProxy is gone once it has read the status, and each check would raise here.
        wbufsize = -1

        def do_GET(self) -> None:
            known, reason = self.path == "/ready", watch.reason
            body = json.dumps({"ready": not reason, "reason": reason}).encode() if known else b"{}"
            # HAProxy takes 404 for a server that ends what it has, and 503 for one whose streams it must cut.
            self.send_response(404 if watch.stopping or not known else 503 if reason else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """One line a second would bury vLLM's."""

    return Ready


def main(hang_s: str, *command: str) -> int:
    """Run the command as a child until it ends, and end as it did; `hang_s` is 0 where no hang is looked for."""
    watch = Watch(float(hang_s))
    server = ThreadingHTTPServer(("", PORT), handler(watch))
    # Waited for and not caught: Python runs no handler for one that comes just before it blocks in wait().
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.posix_spawnp(command[0], command, os.environ, setsigmask=before, setsigdef=PYTHONS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=watch.keep_looking, daemon=True).start()
    while True:
        number = signal.sigwait(SIGNALS)
        if number != signal.SIGCHLD:
            stop(watch, child, number)
        elif (code := ended(child)) is not None:
            return code


def stop(watch: Watch, child: int, number: int) -> None:
    """Say no at once, and pass the signal on when the gateway has heard it."""
    if not watch.stopping:
        watch.stopping = True
        seen_s = 0.0 if watch.fault else SEEN_S
        say(f"ready: takes no requests: it stops in {seen_s:.0f} s")
        passed_on = threading.Timer(seen_s, os.kill, (child, number))
        passed_on.daemon = True
        passed_on.start()


def ended(child: int) -> int | None:
    """The child's exit code; None while it runs."""
    with suppress(ChildProcessError):
        # All that the kernel hands over: where this is PID 1, nobody else would bury orphans.
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            if one[0] == child:
                code = os.waitstatus_to_exitcode(one[1])
                return code if code >= 0 else 128 - code
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
