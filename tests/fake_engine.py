"""A Docker engine that answers what a lock asks of it: which digest a registry has, and which image lies here."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeEngine(ThreadingHTTPServer):
    """`digests` are the registries', `local` this machine's, by reference; `fault` is (status, words) for every question."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.digests: dict[str, object] = {}
        self.local: dict[str, list[str]] = {}
        self.fault: tuple[int, str] | None = None
        self.asked: list[tuple[str, str]] = []

    @property
    def host(self) -> str:
        return f"tcp://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeEngine

    def do_HEAD(self) -> None:
        self.answer(200, {})

    def do_GET(self) -> None:
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words[-1] in ("_ping", "version"):
            return self.answer(200, {"ApiVersion": "1.41", "Version": "20.10.24", "MinAPIVersion": "1.12"})
        name = "/".join(words[2:-1])
        if words[1] == "images":
            if name not in self.server.local:
                return self.answer(404, {"message": f"No such image: {name}"})
            return self.answer(200, {"Id": "sha256:0", "RepoDigests": self.server.local[name]})
        self.server.asked.append((name, self.headers.get("X-Registry-Auth", "")))
        if self.server.fault:
            return self.answer(self.server.fault[0], {"message": self.server.fault[1]})
        if name not in self.server.digests:
            return self.answer(404, {"message": f"manifest unknown: {name}"})
        return self.answer(200, {"Descriptor": {"digest": self.server.digests[name]}, "Platforms": []})

    def answer(self, status: int, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Api-Version", "1.41")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""
