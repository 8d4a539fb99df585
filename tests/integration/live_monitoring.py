"""Real Prometheus before real vLLM, without Docker: what both need to run in a test, and clients that ask for much."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from conftest import ROOT
from monitoring.promtool import binary

MODEL = "ernie"
# Of 128 tokens each on a processor: the KV cache of four or five requests of the clients below.
BLOCKS = 20
SEQUENCES = 8
START_S = 600


def until(met: Any, limit_s: float, what: str) -> Any:
    """Wait until `met` returns something; raises AssertionError that says what never came."""
    end = time.monotonic() + limit_s
    while not (result := met()):
        assert time.monotonic() < end, f"{what}: not within {limit_s:.0f} s"
        time.sleep(0.5)
    return result


class Vllm:
    """`vllm serve` of a tiny ERNIE with MTP on the processor, with a KV cache that is soon full."""

    def __init__(self, engine: str, folder: Path, port: int) -> None:
        self.port, self.log = port, folder / "vllm.log"
        checkpoint = folder / "checkpoints"
        if not checkpoint.exists():
            subprocess.run([engine, ROOT / "docker/rehearsal/checkpoints.py", checkpoint, "moe"], check=True)
        words = [
            engine, "-m", "vllm.entrypoints.cli.main", "serve", checkpoint / "moe",
            "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", port, "--enforce-eager",
            "--max-model-len", 2048, "--max-num-seqs", SEQUENCES, "--num-gpu-blocks-override", BLOCKS,
            "--speculative-config", '{"method":"mtp","num_speculative_tokens":1}',
        ]  # fmt: skip
        environment = {
            **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_HOST_IP": "127.0.0.1",
        }  # fmt: skip
        with self.log.open("ab") as log:
            # A session of its own: what is left of it can be ended together.
            self.process = subprocess.Popen(
                [*map(str, words)], stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        until(self._is_up, START_S, f"vLLM's start ({self.log.read_text()[-500:]})")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def engine_core(self) -> int:
        """The process of the engine, a child of the API's."""
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                title = (path.parent / "cmdline").read_text()
            except (OSError, ValueError):
                continue
            if parent == self.process.pid and title.startswith("VLLM::EngineCore"):
                return int(path.parent.name)
        raise AssertionError("vLLM has no engine")

    def kill(self) -> None:
        """End every process of it, stopped ones too."""
        for sent in (signal.SIGCONT, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sent)
            except ProcessLookupError:
                break
        self.process.wait(timeout=30)


class Clients:
    """Threads that ask again and again, whatever comes back, until they are told to stop."""

    def __init__(self, count: int, port: int, *, key: str = "", tokens: int = 300) -> None:
        self.stopping = threading.Event()
        self.statuses: list[int] = []
        words = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.threads = [
            threading.Thread(target=self._ask, args=(port, words, tokens, number), daemon=True)
            for number in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def _ask(self, port: int, headers: dict[str, str], tokens: int, number: int) -> None:
        # Five sixths of each prompt are the same, for the prefix cache: with one block a request of its own, what waits is
        # let in as soon as a block or two are free, and the cache stays above 90%.
        prompt = "a" * 640 + f"{number:08d}" * 16
        body = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        while not self.stopping.is_set():
            connection = HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("POST", "/v1/completions", json.dumps(body), headers)
                answer = connection.getresponse()
                self.statuses.append(answer.status)
                while not self.stopping.is_set() and answer.read(4096):
                    pass
            except (OSError, HTTPException):
                pass
            finally:
                connection.close()
            # A refusal comes at once.
            self.stopping.wait(0.05)

    def stop(self) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(timeout=65)


class NodeExporter:
    """The two metrics of a node exporter that alerts read, of a real folder."""

    def __init__(self, folder: Path) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                disk = os.statvfs(folder)
                labels = '{device="tmpfs",fstype="tmpfs",mountpoint="/disk/weights"}'
                text = (
                    f"node_filesystem_avail_bytes{labels} {disk.f_bavail * disk.f_frsize}\n"
                    f"node_filesystem_size_bytes{labels} {disk.f_blocks * disk.f_frsize}\n"
                )
                self.send_response(200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Prometheus:
    """The real Prometheus with a stack's files; targets are the test's, and it looks every second."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        words = [
            binary("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log)
        until(self._is_up, 60, "Prometheus' start")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The instant vector of a query; raises AssertionError with Prometheus' own words."""
        url = f"{self.url}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                document = json.loads(answer.read())
        except urllib.error.HTTPError as fault:
            raise AssertionError(f"{expr}: {fault.read().decode()}") from None
        result: list[dict[str, Any]] = document["data"]["result"]
        return result

    def firing(self) -> set[str]:
        return {one["metric"]["alertname"] for one in self.query('ALERTS{alertstate="firing"}')}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


def quick(rules: str, holds: dict[str, str]) -> str:
    """The rules, judged every second, with the durations of some alerts replaced."""
    document = yaml.safe_load(rules)
    for group in document["groups"]:
        for rule in group["rules"]:
            rule["for"] = holds.get(rule.get("alert", ""), rule.get("for"))
            if rule["for"] is None:
                del rule["for"]
    return yaml.safe_dump(document, width=1000)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, in memory; only root may mount it."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "ernie-alerts", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
