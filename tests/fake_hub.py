"""A Hugging Face hub over a folder, with faults on request: fake_hub.py DIR --port 8080 [--token T] [--lie]."""

from __future__ import annotations

import argparse
import hashlib
import json
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub(ThreadingHTTPServer):
    """Serves DIR/org/name as `main`, DIR/org/name@refs-pr-1 as that revision; files above 1 kB are LFS."""

    daemon_threads = True

    def __init__(self, folder: Path, host: str = "127.0.0.1", port: int = 0, token: str = "") -> None:
        super().__init__((host, port), Handler)
        self.folder, self.token = folder, token
        self.status = 0  # answer everything with this one
        self.breaks_at = 0  # send so many bytes of each LFS file, once, and hang up
        self.lies = False  # flip the last byte of LFS files
        self.log: list[str] = []

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def revision(self, repo: str, name: str) -> Path | None:
        at_commit = [path for path in self.folder.glob(f"{repo}*") if commit(path) == name]
        at_name = self.folder / (repo if name == "main" else f"{repo}@{name.replace('/', '-')}")
        return at_commit[0] if at_commit else at_name if at_name.is_dir() else None


def commit(folder: Path) -> str:
    return hashlib.sha1(str(folder).encode()).hexdigest()


class File:
    """One file as the hub describes it."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.name, self.path = str(path.relative_to(folder)), path
        self.content = path.read_bytes()
        self.size, self.is_lfs = len(self.content), len(self.content) > 1000

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % self.size + self.content).hexdigest()

    @property
    def sibling(self) -> dict[str, object]:
        lfs = {"lfs": {"sha256": self.sha256, "size": self.size, "pointerSize": 130}} if self.is_lfs else {}
        return {"rfilename": self.name, "size": self.size, "blobId": self.git_id} | lfs

    @property
    def leaf(self) -> dict[str, object]:
        lfs = {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 130}} if self.is_lfs else {}
        return {"type": "file", "path": self.name, "size": self.size, "oid": self.git_id} | lfs


class Handler(BaseHTTPRequestHandler):
    """Routes the three calls that huggingface_hub makes: information, tree, file."""

    server: FakeHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.log.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip())
        if self.server.status:
            return self.answer(self.server.status, b"{}")
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.answer(401, b"{}", {"X-Error-Message": "Invalid username or password."})
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        api = words[:2] == ["api", "models"]
        if len(words) < 4:
            return self.answer(404, b"{}")
        org, name, call, revision, *rest = words[2 if api else 0 :]
        folder = self.server.revision(f"{org}/{name}", revision)
        if folder is None:
            known = (self.server.folder / org / name).is_dir()
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound" if known else "RepoNotFound"})
        if not api:
            return self.send_file(folder, folder / "/".join(rest))
        files = [File(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        info = {"id": f"{org}/{name}", "sha": commit(folder), "siblings": [file.sibling for file in files]}
        return self.answer(200, json.dumps([f.leaf for f in files] if call == "tree" else info).encode())

    def send_file(self, folder: Path, path: Path) -> None:
        if not path.is_file():
            return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        file = File(folder, path)
        etag = f'"{file.sha256 if file.is_lfs else file.git_id}"'
        headers = {"X-Repo-Commit": commit(folder), "ETag": etag, "X-Linked-Etag": etag}
        headers |= {"X-Linked-Size": str(file.size), "Accept-Ranges": "bytes"}
        content = (
            file.content[:-1] + bytes([file.content[-1] ^ 1])
            if file.is_lfs and self.server.lies
            else file.content
        )
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{file.size - 1}/{file.size}"
        return self.answer(206 if start else 200, content[start:], headers, breakable=file.is_lfs)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, breakable: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if breakable and self.server.breaks_at:
            body, self.server.breaks_at = body[: self.server.breaks_at], 0
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--token", default="")
    parser.add_argument("--status", type=int, default=0)
    parser.add_argument("--breaks-at", type=int, default=0)
    parser.add_argument("--lie", action="store_true")
    options = parser.parse_args()
    hub = FakeHub(options.folder, options.host, options.port, options.token)
    hub.status, hub.breaks_at, hub.lies = options.status, options.breaks_at, options.lie
    hub.serve_forever()
