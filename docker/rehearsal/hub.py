#!/usr/bin/env python3
"""A Hugging Face hub over local folders: hub.py MAP.json, where MAP is {"org/name": {"revision": "folder"}}.

It is a package index too, and the place from which the remote code downloads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from functools import cached_property, lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# The hub keeps what is larger in its large-file storage, named by SHA-256 instead of git's hash.
LARGE = 1000
# What the remote code of `remote_code` downloads where it misses it, from a place that asks for no token.
MATERIALS = "materials"
HANG, PAGE = "hang", "page"
UNANSWERED_S = 3600
NOWHERE = Path("/nonexistent")
CHUNK_BYTES = 1 << 20
COMMIT = re.compile("[0-9a-f]{40}")


class File:
    """One file as the hub describes it."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.name, self.path, self.size = str(path.relative_to(folder)), path, path.stat().st_size
        self.large = self.size > LARGE

    @cached_property
    def hash(self) -> str:
        """What huggingface_hub names the blob, and `fetch` verifies: SHA-256, or git's of a small file."""
        if not self.large:
            return hashlib.sha1(b"blob %d\0" % self.size + self.path.read_bytes()).hexdigest()  # noqa: S324
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def described(self, name_key: str, id_key: str, hash_key: str) -> dict[str, object]:
        """The file in a listing; the two listings of the hub spell the same with other words."""
        entry: dict[str, object] = {"type": "file", name_key: self.name, "size": self.size, id_key: self.hash}
        if self.large:
            entry["lfs"] = {hash_key: self.hash, "size": self.size, "pointerSize": 130}
        return entry


@lru_cache
def files(folder: Path) -> dict[str, File]:
    """All files of a folder by name; hashed once, so a folder must not change while it is served."""
    found = (File(folder, path) for path in sorted(folder.rglob("*")) if path.is_file())
    return {file.name: file for file in found}


@lru_cache
def commit(folder: Path) -> str:
    """The commit that a revision stands for: a hash of its files, so the same bytes are the same commit."""
    listing = "".join(f"{file.name} {file.hash}\n" for file in files(folder).values())
    return hashlib.sha1(listing.encode()).hexdigest()  # noqa: S324 - git's


class Hub(ThreadingHTTPServer):
    """The models it serves, the token it asks for, if any, and what becomes of who asks for a material."""

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        models: dict[str, dict[str, Path]],
        token: str = "",
        materials: str = HANG,
        archives: Path = NOWHERE,
    ) -> None:
        super().__init__(address, Handler)
        self.models, self.token, self.materials, self.archives = models, token, materials, archives

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    def folder(self, model: str, revision: str) -> Path | None:
        """The folder of a revision, or of the commit that one stands for."""
        revisions = self.models.get(model, {})
        commits = {self.commit(model, folder): folder for folder in revisions.values()}
        return revisions.get(revision) or commits.get(revision)

    def commit(self, model: str, folder: Path) -> str:
        """The commit of a folder: the one by which the map names it, so that a locked stack finds its own, or its hash."""
        revisions = self.models[model].items()
        named = (revision for revision, at in revisions if at == folder and COMMIT.fullmatch(revision))
        return next(named, None) or commit(folder)


class Handler(BaseHTTPRequestHandler):
    """The three calls of huggingface_hub's snapshot_download: information, tree, file."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer one request."""
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        if words[0] == MATERIALS:
            return self.send_material(words[-1])
        if words[0] in ("simple", "archives"):
            return self.send_archive(*words)
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.send_json(401, {"error": "Invalid username or password."}, "GatedRepo")
        if words == ["health"]:
            return self.send_json(200, {})
        if words[:2] == ["api", "models"]:
            return self.describe(*words[2:])
        return self.resolve(*words)

    def describe(
        self, org: str = "", name: str = "", call: str = "", revision: str = "main", *_: str
    ) -> None:
        """Answer /api/models/ORG/NAME/(revision|tree)/REVISION."""
        if (folder := self.found(f"{org}/{name}", revision)) is None:
            return None
        if call == "tree":
            return self.send_json(
                200, [file.described("path", "oid", "oid") for file in files(folder).values()]
            )
        siblings = [file.described("rfilename", "blobId", "sha256") for file in files(folder).values()]
        return self.send_json(
            200,
            {"id": f"{org}/{name}", "sha": self.server.commit(f"{org}/{name}", folder), "siblings": siblings},
        )

    def resolve(self, org: str = "", name: str = "", _: str = "", revision: str = "", *path: str) -> None:
        """Answer /ORG/NAME/resolve/REVISION/PATH."""
        if (folder := self.found(f"{org}/{name}", revision)) is None:
            return None
        if file := files(folder).get("/".join(path)):
            return self.send_file(file, self.server.commit(f"{org}/{name}", folder))
        return self.send_json(404, {}, "EntryNotFound")

    def found(self, model: str, revision: str) -> Path | None:
        """The folder; where there is none, the answer is given."""
        if (folder := self.server.folder(model, revision)) is None:
            self.send_json(404, {}, "RevisionNotFound" if model in self.server.models else "RepoNotFound")
        return folder

    def send_material(self, name: str) -> None:
        """Send a file of the folder of materials, never answer, or answer with a page that is none."""
        self.log_message('"%s" for a material: %s', self.requestline, self.server.materials)
        if self.server.materials == HANG:
            return time.sleep(UNANSWERED_S)
        if self.server.materials == PAGE:
            return self.send_json(404, {"error": f"no {name}"})
        return self.send_file(files(Path(self.server.materials))[name], "")

    def send_archive(self, call: str, name: str, *_: str) -> None:
        """Answer /simple/PROJECT/ as a package index does, and send the archive that is linked there."""
        found = files(self.server.archives)
        if call == "archives" and name in found:
            return self.send_file(found[name], "")
        links = [f'<a href="/archives/{file}">{file}</a>' for file in found if file.startswith(f"{name}-")]
        return self.send_body(200 if links else 404, "".join(links).encode(), {"Content-Type": "text/html"})

    def send_json(self, status: int, document: object, code: str = "") -> None:
        """Send a small document, and the reason where huggingface_hub wants one."""
        self.send_body(status, json.dumps(document).encode(), {"X-Error-Code": code} if code else {})

    def send_body(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        """Send what is in memory."""
        self.send_head(status, {"Content-Length": str(len(body))} | headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_file(self, file: File, at: str) -> None:
        """Send a file, or the rest of it."""
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0] or 0)
        etag = f'"{file.hash}"'
        headers = {"Content-Length": str(file.size - start), "Accept-Ranges": "bytes", "X-Repo-Commit": at}
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(file.size)}
        headers |= {"Content-Range": f"bytes {start}-{file.size - 1}/{file.size}"} if start else {}
        self.send_head(206 if start else 200, headers)
        with file.path.open("rb") as content:
            content.seek(start)
            while self.command != "HEAD" and (chunk := content.read(CHUNK_BYTES)):
                self.wfile.write(chunk)

    def send_head(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def read_models(path: Path) -> dict[str, dict[str, Path]]:
    """Read the map; its folders are seen from where it lies."""
    document: dict[str, dict[str, str]] = json.loads(path.read_text())
    return {
        model: {revision: path.parent / folder for revision, folder in revisions.items()}
        for model, revisions in document.items()
    }


def main(arguments: list[str]) -> None:
    """Serve until the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("map", type=Path)
    parser.add_argument("--host", default="0.0.0.0", help="address to listen at")  # noqa: S104 - in a container
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--token-file", type=Path, help="ask for the token in this file")
    parser.add_argument(
        "--materials", default=HANG, help=f"the folder that the remote code downloads from, {HANG} or {PAGE}"
    )
    parser.add_argument("--archives", type=Path, default=NOWHERE, help="the folder of a package index")
    options = parser.parse_args(arguments)
    token = options.token_file.read_text().strip() if options.token_file else ""
    address = options.host, options.port
    Hub(address, read_models(options.map), token, options.materials, options.archives).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
