"""The script that brings the packages of remote code, as its container runs it, against a package index of our own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from container_scripts import SCRIPTS, copied

WHEEL, SDIST = "tiny-1.0-py3-none-any.whl", "tiny-font-0.1.tar.gz"
NOWHERE = "http://127.0.0.1:9"
PASSWORD = "s3cret/p@ss"
THEN = ", then run `docker compose up -d`\n"
UNREACHABLE, DAMAGED, NO_SUCH_MACHINE, NOT_STORED = range(53, 57)
NO_CAPABILITIES = (
    "setpriv",
    "--bounding-set",
    "-all",
    "--inh-caps",
    "-all",
    "--reuid",
    "1234",
    "--clear-groups",
)
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv"
)


def wheel(**files: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (
            files or {"tiny/__init__.py": b"WORD = 'imported'\n", "tiny/lib.so": b"\0" * 5000}
        ).items():
            archive.writestr(name, content)
    return made.getvalue()


def source(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    made = io.BytesIO()
    files = members or (
        entry("tiny-font-0.1/setup.py", b"open('/tmp/it-ran', 'w')"), entry("tiny-font-0.1/Tiny.ttf", b"glyphs" * 99),
    )  # fmt: skip
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for info, content in files:
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def entry(name: str, content: bytes = b"", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in changes.items():
        setattr(info, field, value)
    return info, content


class FakeIndex(ThreadingHTTPServer):
    """Serves archives from memory; `answer` may take over a request."""

    daemon_threads = True

    def __init__(self, **archives: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.archives = archives
        self.html = False
        self.log: list[tuple[str, str]] = []
        self.answer: Callable[[Handler], bool] = lambda _: False

    def handle_error(self, *_: object) -> None:
        """A client that went away is no news."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}/simple"


class Handler(BaseHTTPRequestHandler):
    server: FakeIndex

    def do_GET(self) -> None:
        self.server.log.append((self.path, self.headers.get("Authorization", "")))
        name = self.path.rpartition("/")[2]
        if self.server.answer(self):
            return
        if name in self.server.archives:
            self.send(200, self.server.archives[name], "application/octet-stream")
        elif re.fullmatch(r"/simple/tiny(-font)?/", self.path):
            self.send_page()
        else:
            self.send(404, b"")

    def send_page(self) -> None:
        names = sorted(self.server.archives)
        if self.server.html:
            text = "".join(f'<a href="../../files/{name}#sha256=00">{name}</a><br/>' for name in names)
            self.send(200, text.encode(), "text/html; charset=utf-8")
        else:
            files = [{"filename": name, "url": f"/files/{name}", "hashes": {}} for name in names]
            self.send(200, json.dumps({"files": files}).encode(), "application/vnd.pypi.simple.v1+json")

    def send(self, status: int, content: bytes, form: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": form, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Done(NamedTuple):
    code: int
    out: str
    err: str


class Place(NamedTuple):
    """A folder of packages and the index that fills it."""

    into: Path
    index: FakeIndex

    def pin(self, name: str, content: bytes = b"") -> str:
        return f"{name}#sha256={hashlib.sha256(content or self.index.archives[name]).hexdigest()}"

    def bring(
        self,
        *words: str,
        before: tuple[str, ...] = (),
        following: tuple[str, ...] = (),
        scripts: Path = SCRIPTS,
        **env: str,
    ) -> Done:
        """Run the script with the environment that Compose gives it: what the host did not set is empty."""
        pins = words or tuple(self.pin(name) for name in self.index.archives)
        command = [
            *before,
            sys.executable,
            "-I",
            str(scripts / "packages.py"),
            "bring",
            "--into",
            str(self.into),
            *pins,
            *following,
        ]
        given = {"PATH": os.environ["PATH"], "PIP_INDEX_URL": self.index.url, "PIP_CONFIG_FILE": "/dev/null"}
        given |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"), "")
        done = subprocess.run(command, env=given | env, capture_output=True, text=True, timeout=300)
        assert "s3cret" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    def file(self, name: str) -> Path:
        return self.into / name


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with FakeIndex(**{WHEEL: wheel(), SDIST: source()}) as index:
        threading.Thread(target=index.serve_forever, daemon=True).start()
        yield Place(tmp_path / "packages", index)
        index.shutdown()


@pytest.mark.parametrize("html", [False, True], ids=["json", "html"])
def test_brings_verifies_unpacks_and_goes_on(place: Place, html: bool) -> None:
    place.index.html = html
    done = place.bring(following=("--", "echo", "judge", "--"))
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "packages: tiny-1.0 verified, 0.0 MB\npackages: tiny-font-0.1 verified, 0.0 MB\njudge --\n"
    )
    assert place.file("tiny-1.0/tiny/lib.so").read_bytes() == b"\0" * 5000
    assert place.file("tiny-font-0.1/tiny-font-0.1/Tiny.ttf").read_bytes() == b"glyphs" * 99
    # Whoever serves may read, and nobody else may write.
    assert place.file("tiny-1.0/tiny/lib.so").stat().st_mode & 0o777 == 0o644
    assert place.file("tiny-1.0/tiny").stat().st_mode & 0o777 == 0o755
    assert not Path("/tmp/it-ran").exists()


def test_a_variable_that_the_host_did_not_set_is_none(place: Place) -> None:
    """An empty SSL_CERT_FILE would be a file without certificates, here and for what follows."""
    variables = place.bring(following=("--", "env")).out.splitlines()
    assert f"PIP_INDEX_URL={place.index.url}" in variables
    assert not [line for line in variables if line.endswith("=")]


@pytest.mark.parametrize("url", ["http://[bad/simple", "https://user:s3cret@ho\u2100st/simple"])
def test_an_address_that_is_none_is_a_sentence_without_it(place: Place, url: str) -> None:
    done = place.bring(PIP_INDEX_URL=url)
    assert (done.code, done.out) == (53, "")
    assert "the address of the package index cannot be read: correct PIP_INDEX_URL" in done.err


def test_the_second_time_asks_nobody(place: Place) -> None:
    place.bring()
    asked = len(place.index.log)
    began = time.monotonic()
    done = place.bring(PIP_INDEX_URL=NOWHERE)
    assert done.code == 0, done.err
    assert "tiny-1.0 is as verified before" in done.out
    assert len(place.index.log) == asked
    assert time.monotonic() - began < 30


def test_an_archive_that_lies_there_needs_no_index(place: Place) -> None:
    place.file("archives").mkdir(parents=True)
    for name, content in place.index.archives.items():
        place.file(f"archives/{name}").write_bytes(content)
    assert place.bring(PIP_INDEX_URL=NOWHERE).code == 0
    assert place.file("tiny-1.0/tiny/__init__.py").exists()
    assert place.index.log == []


@needs_root
def test_what_is_whole_needs_nothing_to_write_to(place: Place) -> None:
    place.bring()
    place.into.parent.chmod(0o755)
    for parent in place.into.parents:
        if parent.stat().st_mode & 0o777 == 0o700:
            parent.chmod(0o711)
    # The checkout may be closed to others.
    scripts = copied(place.into.parent / "scripts")
    assert place.bring(before=NO_CAPABILITIES, scripts=scripts).code == 0


def as_link(path: Path, target: object) -> None:
    remove(path)
    path.symlink_to(str(target))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def moved(path: Path) -> None:
    path.rename(path.parent / "else")
    path.symlink_to("else")


# What became of the folder since, by the folder and what is within.
BROKEN: dict[str, Callable[[Path, Path], object]] = {
    "changed": lambda _, inside: (inside / "__init__.py").write_bytes(b"WORD = 'replaced'\n"),
    "missing": lambda _, inside: remove(inside / "lib.so"),
    "a file more": lambda folder, _: (folder / "sitecustomize.py").write_text("raise SystemExit"),
    "a link more": lambda _, inside: (inside / "extra").symlink_to("/etc"),
    "a file as a link": lambda _, inside: as_link(inside / "lib.so", "/dev/zero"),
    "a pipe": lambda _, inside: pipe(inside / "lib.so"),
    "a folder as a link": lambda _, inside: moved(inside),
    "all of it as a link": lambda folder, _: moved(folder),
    "a file instead": lambda folder, _: (remove(folder), folder.write_text("")),
    "left by a kill": lambda folder, _: (folder.parent / f".{folder.name}").mkdir(),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_folder_that_is_not_as_the_archive_is_made_anew(place: Place, how: str) -> None:
    place.bring()
    asked = len(place.index.log)
    BROKEN[how](place.file("tiny-1.0"), place.file("tiny-1.0/tiny"))
    assert place.bring(PIP_INDEX_URL=NOWHERE).code == 0
    there = sorted(
        str(path.relative_to(place.file("tiny-1.0"))) for path in place.file("tiny-1.0").rglob("*")
    )
    assert there == ["tiny", "tiny/__init__.py", "tiny/lib.so"]
    assert not any(path.is_symlink() for path in place.file("tiny-1.0").rglob("*"))
    assert not place.file("tiny-1.0").is_symlink()
    assert place.file("tiny-1.0/tiny/__init__.py").read_bytes() == b"WORD = 'imported'\n"
    assert len(place.index.log) == asked


def test_a_damaged_archive_is_downloaded_again(place: Place) -> None:
    place.bring()
    place.file(f"archives/{WHEEL}").write_bytes(b"cut")
    done = place.bring()
    assert done.code == 0
    assert f"archives/{WHEEL} has the wrong hash, and is replaced" in done.out
    assert place.file(f"archives/{WHEEL}").read_bytes() == place.index.archives[WHEEL]


def test_a_wrong_hash_leaves_nothing(place: Place) -> None:
    pin = place.pin(WHEEL)
    place.index.archives[WHEEL] += b"more"
    done = place.bring(pin)
    assert done.code == DAMAGED
    assert done.err == (
        f"packages: {WHEEL} from {place.index.address} has the wrong hash, likely from a faulty proxy or mirror, and was "
        f"deleted: check PIP_INDEX_URL and HTTPS_PROXY{THEN}"
    )
    assert list(place.file("archives").iterdir()) == []
    assert not place.file("tiny-1.0").exists()


# --- an index that cannot be had, or is none ---


def test_out_of_reach_says_what_to_copy_where(place: Place) -> None:
    done = place.bring(PIP_INDEX_URL=f"{NOWHERE}/simple")
    assert done.code == UNREACHABLE
    assert done.err.startswith(
        f"packages: {WHEEL} cannot be had from the package index at 127.0.0.1:9 ([Errno 111]"
    )
    assert "or copy that file into the folder `archives` of PACKAGES_DIR" in done.err
    assert "--extra-packages none" in done.err
    assert done.err.endswith(THEN)
    assert done.err.count("\n") == 1


def status(code: int) -> Callable[[Handler], bool]:
    return lambda handler: handler.send(code, b"") is None


def sends(content: bytes, form: str) -> Callable[[Handler], bool]:
    return lambda handler: handler.send(200, content, form) is None


def drips(handler: Handler) -> bool:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(600):
        handler.wfile.write(b" ")
        time.sleep(0.1)
    return True


JSON = "application/vnd.pypi.simple.v1+json"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(404), "HTTP 404"),
        (status(401), "HTTP 401"),
        (status(500), "HTTP 500"),
        (sends(b"{}", JSON), "its answer is no page of a package index"),
        (sends(b"[" * 100_000, JSON), "its answer is no page of a package index"),
        (sends(b'{"files": 7}', JSON), "its answer is no page of a package index"),
        (sends(b'{"files": []}', JSON), f"it does not list {WHEEL}"),
        (sends(b"<html>sign in, please", "text/html"), f"it does not list {WHEEL}"),
        (sends(f'<a href="file:///etc/{WHEEL}">'.encode(), "text/html"), "it names an address of 'file'"),
        (sends(f'<a href="http://[{WHEEL}">'.encode(), "text/html"), "Invalid IPv6 URL"),
        (drips, "no whole answer within 1 s"),
    ],
)
def test_an_answer_of_no_index_ends_in_a_sentence(
    place: Place, answer: Callable[[Handler], bool], reason: str
) -> None:
    place.index.answer = answer
    began = time.monotonic()
    scripts = copied(place.into.parent / "scripts", PAGE_S=1) if answer is drips else SCRIPTS
    done = place.bring(place.pin(WHEEL), scripts=scripts)
    assert done.code == UNREACHABLE
    assert f"({reason}" in done.err
    assert done.err.count("\n") == 1
    assert time.monotonic() - began < 50
    assert list(place.file("archives").iterdir()) == []


def test_an_archive_without_end_is_cut_off(place: Place) -> None:
    pin = place.pin(WHEEL)
    place.index.archives[WHEEL] = b"\0" * 3_000_000
    done = place.bring(pin, scripts=copied(place.into.parent / "scripts", MOST_ARCHIVE_BYTES="1 << 20"))
    assert done.code == UNREACHABLE
    assert "it sends more than any of these packages has" in done.err
    assert list(place.file("archives").iterdir()) == []


# --- which index, and who learns its password ---


def test_the_index_is_the_one_that_pip_would_ask(place: Place, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {place.index.url}\n")
    assert place.bring(PIP_INDEX_URL="", PIP_CONFIG_FILE=str(tmp_path / "pip.conf")).code == 0
    shutil.rmtree(place.into)
    # A variable is heeded before a file.
    done = place.bring(PIP_INDEX_URL=NOWHERE, PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert "at 127.0.0.1:9 (" in done.err


@pytest.mark.parametrize("path", ["/none/pip.conf", "/dev/null"])
def test_no_file_of_pips_is_no_fault(place: Place, path: str) -> None:
    """A Secret of Kubernetes may be missing; Compose mounts /dev/null in place of a file."""
    assert place.bring(PIP_CONFIG_FILE=path).code == 0


def test_a_file_that_is_none_of_pips_is_told(place: Place, tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text("no section")
    done = place.bring(PIP_INDEX_URL="", PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    assert done.code == UNREACHABLE
    assert "likely because the file of PIP_CONFIG_FILE is none of pip's" in done.err


def test_without_a_setting_it_is_pips_own_default(place: Place) -> None:
    """Taken from pip at run time; nothing listens where this way leads."""
    # In a process of its own: pip warns where something here imported distutils before it, as some tests do.
    ask_pip = "from pip._internal.models.index import PyPI; print(PyPI.netloc)"
    default = subprocess.run(
        [sys.executable, "-c", ask_pip], capture_output=True, text=True, check=True
    ).stdout
    done = place.bring(PIP_INDEX_URL="", HTTPS_PROXY=NOWHERE, HTTP_PROXY=NOWHERE)
    assert done.code == UNREACHABLE
    assert f"the package index at {default.strip()} (" in done.err
    assert not [path for path in SCRIPTS.glob("*.py") if default.strip() in path.read_text(encoding="utf-8")]


def test_the_password_goes_to_the_index_and_to_nobody_else(place: Place) -> None:
    url = place.index.url.replace("http://", "http://user:s3cret%2Fp%40ss@")
    with FakeIndex(**place.index.archives) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()

        def elsewhere(handler: Handler) -> bool:
            if not handler.path.startswith("/files/"):
                return False
            handler.send(302, b"", Location=f"http://{other.address}{handler.path}")
            return True

        place.index.answer = elsewhere
        assert place.bring(PIP_INDEX_URL=url).code == 0
        other.shutdown()
    assert {said for _, said in place.index.log} == {"Basic dXNlcjpzM2NyZXQvcEBzcw=="}
    assert [said for _, said in other.log] == ["", ""]


def test_a_redirect_within_the_index_keeps_the_password(place: Place) -> None:
    def home(handler: Handler) -> bool:
        if not handler.path.startswith("/old/"):
            return False
        handler.send(301, b"", Location=handler.path.replace("/old/", "/simple/"))
        return True

    place.index.answer = home
    url = place.index.url.replace("http://", "http://user:s3cret@").replace("/simple", "/old")
    assert place.bring(PIP_INDEX_URL=url).code == 0
    assert all(said for _, said in place.index.log)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://user:s3cret@index.example/simple", "read its password: use https"),
        ("file:///opt/s3cret/simple", "not at an address of http or https"),
        ("//user:s3cret@index.example", "not at an address of http or https"),
        ("https://user:s3cret@", "not at an address of http or https"),
    ],
)
def test_an_index_that_will_not_be_asked(place: Place, url: str, reason: str) -> None:
    done = place.bring(PIP_INDEX_URL=url)
    assert done.code == UNREACHABLE
    assert reason in done.err


def test_a_proxy_is_asked_and_hosts_of_no_proxy_are_not(place: Place) -> None:
    through = place.bring(
        place.pin(WHEEL), PIP_INDEX_URL="http://index.example/simple", HTTP_PROXY=place.index.url
    )
    assert through.code == UNREACHABLE
    assert place.index.log[0][0] == "http://index.example/simple/tiny/"
    assert place.bring(HTTP_PROXY=NOWHERE, NO_PROXY="127.0.0.1").code == 0


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_an_index_behind_tls_is_trusted_by_its_certificate_alone(place: Place, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FakeIndex(**place.index.archives) as index:
        index.socket = context.wrap_socket(index.socket, server_side=True)
        threading.Thread(target=index.serve_forever, daemon=True).start()
        url = f"https://user:s3cret@localhost:{index.server_port}/simple"
        for bundle in ("", "/dev/null"):
            refused = place.bring(PIP_INDEX_URL=url, SSL_CERT_FILE=bundle)
            assert refused.code == UNREACHABLE
            assert "certificate verify failed" in refused.err
        assert index.log == []
        assert place.bring(PIP_INDEX_URL=url, SSL_CERT_FILE=str(certificate)).code == 0
        index.shutdown()


# --- archives that would leave their folder ---


def link(name: str, target: str, kind: bytes) -> bytes:
    return source(entry(name, type=kind, linkname=target))


def linked_wheel() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo("tiny/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (WHEEL, wheel(**{"../out.py": b"x"})),
        (WHEEL, wheel(**{"tiny/../../out.py": b"x"})),
        (WHEEL, wheel(**{"/out.py": b"x"})),
        (WHEEL, wheel(**{"tiny//out.py": b"x"})),
        (WHEEL, linked_wheel()),
        (SDIST, source(entry("../out.py", b"x"))),
        (SDIST, source(entry("/out.py", b"x"))),
        (SDIST, source(entry("a\nb.py", b"x"))),
        (SDIST, link("tiny/link", "/etc/passwd", tarfile.SYMTYPE)),
        (SDIST, link("tiny/link", "../../out.py", tarfile.LNKTYPE)),
        (SDIST, link("tiny/pipe", "", tarfile.FIFOTYPE)),
        (SDIST, link("tiny/device", "", tarfile.CHRTYPE)),
    ],
    ids=str.split(
        "zip-up zip-within zip-absolute zip-empty zip-link tar-up tar-absolute tar-newline tar-link tar-hardlink tar-pipe tar-device"
    ),
)
def test_what_would_leave_its_folder_is_never_written(place: Place, name: str, content: bytes) -> None:
    place.index.archives[name] = content
    done = place.bring(place.pin(name))
    assert done.code == DAMAGED
    assert "which is no file of a package" in done.err
    written = {path.name for path in place.into.parent.rglob("*") if path.is_file()}
    assert written <= {name, ".lock"}


@pytest.mark.parametrize("limits", [{"MOST_UNPACKED_BYTES": 4000}, {"MOST_FILES": 1}])
def test_more_than_any_package_holds_is_refused(place: Place, limits: dict[str, int]) -> None:
    done = place.bring(place.pin(WHEEL), scripts=copied(place.into.parent / "scripts", **limits))
    assert done.code == DAMAGED
    assert not place.file("tiny-1.0").exists()


@pytest.mark.parametrize("name", [WHEEL, SDIST])
@pytest.mark.parametrize(
    "content", [b"no archive", wheel()[:150], source()[:100]], ids=["none", "zip", "tar"]
)
def test_a_broken_archive_ends_in_a_sentence(place: Place, name: str, content: bytes) -> None:
    place.index.archives[name] = content
    done = place.bring(place.pin(name))
    assert done.code == DAMAGED
    assert "cannot be unpacked (" in done.err


# --- the host ---


def test_a_package_for_other_processors_is_refused_before_any_question(place: Place) -> None:
    name = "tiny-1.0-py3-none-manylinux2010_m68k.whl"
    done = place.bring(place.pin(name, b"x"), place.pin(SDIST))
    assert done.code == NO_SUCH_MACHINE
    assert done.err == (
        f"packages: tiny-1.0 is not published for {os.uname().machine} ({name}): use your own image that has tiny, "
        f"and render with --extra-packages none{THEN}"
    )
    assert place.index.log == []


@pytest.mark.parametrize("tag", ["any", "manylinux2014_{}", "linux_m68k.manylinux_2_17_{}"])
def test_a_package_for_this_processor_is_not(place: Place, tag: str) -> None:
    name = f"tiny-1.0-cp37-abi3-{tag.format(os.uname().machine)}.whl"
    place.index.archives[name] = wheel()
    assert place.bring(place.pin(name)).code == 0


@needs_root
def test_a_folder_that_cannot_be_written_is_told(place: Place) -> None:
    place.into.mkdir()
    for parent in (place.into, *place.into.parents):
        if parent != Path("/") and not parent.stat().st_mode & 0o1:
            parent.chmod(0o711)
    done = place.bring(before=NO_CAPABILITIES, scripts=copied(place.into.parent / "scripts"))
    assert done.code == NOT_STORED
    assert done.err == (
        f"packages: {place.into}/archives cannot be written (Permission denied): check PACKAGES_DIR, its mount and its "
        f"owner{THEN}"
    )


@needs_root
@pytest.mark.skipif(not shutil.which("unshare"), reason="unshare is not installed")
@pytest.mark.parametrize("size", ["4k", "24k"])
def test_a_full_disk_is_told(place: Place, size: str) -> None:
    place.into.mkdir()
    place.index.archives[WHEEL] = wheel(**{"tiny/random.bin": os.urandom(15_000)})
    mount = f'mount -t tmpfs -o size={size} none "{place.into}" && exec "$@"'
    if subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", "true"], capture_output=True
    ).returncode:
        pytest.skip("nothing may be mounted here")
    done = place.bring(place.pin(WHEEL), before=("unshare", "--mount", "sh", "-c", mount, "sh"))
    assert done.code == NOT_STORED
    assert done.err == (
        f"packages: {place.into} is full: free space or set PACKAGES_DIR to a folder of a larger disk{THEN}"
    )


def test_two_stacks_at_once_do_not_disturb_each_other(place: Place) -> None:
    with ThreadPoolExecutor(6) as pool:
        ended = list(pool.map(lambda _: place.bring(), range(6)))
    assert [done.code for done in ended] == [0] * 6, ended
    assert [path for path, _ in place.index.log if path.startswith("/files/")] == [
        f"/files/{WHEEL}",
        f"/files/{SDIST}",
    ]


@pytest.mark.parametrize(
    "word",
    [
        "tiny==1.0",
        "tiny.whl",
        f"{WHEEL}#sha256=12",
        f"../{WHEEL}#sha256={'0' * 64}",
        f"x.exe#sha256={'0' * 64}",
    ],
)
def test_a_word_that_pins_nothing_is_refused(place: Place, word: str) -> None:
    done = place.bring(word)
    assert done.code == 2
    assert "is not FILE#sha256=DIGITS" in done.err
