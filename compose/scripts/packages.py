"""Installs the packages that a model's remote code imports (`bring`): pinned by hash, never run; or only looks them up (`find`)."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import ssl
import stat
import sys
import tarfile
import traceback
import urllib.request
import zipfile
from base64 import b64encode
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urldefrag, urljoin, urlsplit

PAGE_FORMS = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
MOST_PAGE_BYTES = 16 << 20
MOST_ARCHIVE_BYTES = 256 << 20
MOST_UNPACKED_BYTES = 1 << 30
MOST_FILES = 10_000
CHUNK_BYTES = 1 << 20
# Between two bytes, and for a whole answer.
SILENCE_S = 30
PAGE_S = 60
ARCHIVE_S = 900
SUFFIXES = (".whl", ".tar.gz")
# Kubernetes sets it in every pod, which it starts again by itself.
AGAIN = (
    "let Kubernetes start the pod again"
    if "KUBERNETES_SERVICE_HOST" in os.environ
    else "run `docker compose up -d`"
)

# Exit codes.
UNREACHABLE, DAMAGED, NO_SUCH_MACHINE, NOT_STORED = range(53, 57)


class KnownError(Exception):
    """A failure with a known cause: its exit code, what happened, why, and what to do before the next start."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(f"{sentence}, then {AGAIN}")
        self.code = code


class Archive(NamedTuple):
    """A wheel or a source archive by its file name, which says project, version and machine."""

    file: str
    sha256: str

    @property
    def parts(self) -> list[str]:
        """The parts of the name between hyphens, without its ending."""
        return self.file.removesuffix(".whl").removesuffix(".tar.gz").split("-")

    @property
    def project(self) -> str:
        """The project as the index spells it."""
        name = self.parts[0] if self.file.endswith(".whl") else "-".join(self.parts[:-1])
        return re.sub(r"[-_.]+", "-", name).lower()

    @property
    def folder(self) -> str:
        """Where it is unpacked: NAME-VERSION."""
        return f"{self.project}-{self.parts[1] if self.file.endswith('.whl') else self.parts[-1]}"

    def fits(self, machine: str) -> bool:
        """Tell whether it is made for this kind of processor; source archives are for any."""
        platforms = self.parts[-1].split(".") if self.file.endswith(".whl") else ["any"]
        return any(platform == "any" or platform.endswith(f"_{machine}") for platform in platforms)


def say(text: str, file: Any = None) -> None:
    """Print one line of the container's log, without what steers a terminal."""
    print("".join(c if c.isprintable() else "?" for c in text), file=file or sys.stdout, flush=True)


# --- the index ---


def index_url() -> str:
    """Return the index that pip would ask here: PIP_INDEX_URL, PIP_CONFIG_FILE, the image's settings, pip's default."""
    try:
        from pip._internal.configuration import Configuration
        from pip._internal.models.index import PyPI

        settings = Configuration(isolated=False)
        settings.load()
        stated = (
            setting(settings, key) for key in (":env:.index-url", "install.index-url", "global.index-url")
        )
        return str(next(filter(None, stated), PyPI.simple_url))
    except Exception as fault:
        if url := os.environ.get("PIP_INDEX_URL"):
            return url
        raise KnownError(
            UNREACHABLE,
            f"pip's settings cannot be read ({type(fault).__name__}), likely because the file of PIP_CONFIG_FILE is "
            "none of pip's, or the image has no pip: correct it, or set PIP_INDEX_URL",
        ) from None


def setting(settings: Any, key: str) -> str:
    """Return one setting of pip's; empty where it is not set, for which pip has an error of its own."""
    try:
        return str(settings.get_value(key)).strip()
    except Exception as fault:
        if type(fault).__name__ == "ConfigurationError":
            return ""
        raise


def origin(url: str) -> tuple[str, str]:
    """Return what has to be the same where credentials may go: the way, and the host with its port."""
    parts = urlsplit(url)
    return parts.scheme, host_of(parts)


def host_of(parts: SplitResult) -> str:
    """Return host and port, without the user's name and password."""
    return parts.netloc.rpartition("@")[2].lower()


def authorization(url: str) -> str:
    """Return the header's value for the user and password of a URL; empty where it has none."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = user.partition(":")
    return "Basic " + b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode() if at else ""


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and leaves credentials behind where they lead to another host."""

    def __init__(self, index: Index) -> None:
        self.index = index

    def redirect_request(self, *answer: Any) -> Any:
        """Return the next request, if there is one."""
        fresh = super().redirect_request(*answer)
        if fresh is not None:
            # urllib copies that of a proxy along; its handler adds it again where the way leads through one.
            fresh.remove_header("Proxy-authorization")
            self.index.authorize(fresh)
        return fresh


class Index:
    """A package index as PEP 503 and PEP 691 have it."""

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            self.host, self.secret = host_of(parts), authorization(url)
        except ValueError:
            # Its words would quote the address, and a password in it.
            raise KnownError(
                UNREACHABLE, "the address of the package index cannot be read: correct PIP_INDEX_URL"
            ) from None
        self.url = parts._replace(netloc=self.host, query="", fragment="").geturl().rstrip("/")
        if parts.scheme not in ("http", "https") or not self.host:
            raise KnownError(
                UNREACHABLE, "the package index is not at an address of http or https: set PIP_INDEX_URL"
            )
        if (
            self.secret
            and parts.scheme != "https"
            and parts.hostname not in ("localhost", "127.0.0.1", "::1")
        ):
            raise KnownError(
                UNREACHABLE,
                f"the package index is http://{self.host}, so whoever is on the way could read its password: use https",
            )
        self.opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=trust()),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.UnknownHandler(),
            Redirects(self),
        ):
            self.opener.add_handler(handler)

    def authorize(self, request: urllib.request.Request) -> None:
        """Add the credentials to a request of the index's own host."""
        if self.secret and origin(request.full_url) == origin(self.url):
            request.add_unredirected_header("Authorization", self.secret)

    def open(self, url: str, **headers: str) -> Any:
        """Return an answer to read from."""
        if urlsplit(url).scheme not in ("http", "https"):
            raise URLError(f"it names an address of {urlsplit(url).scheme!r:.20}")
        request = urllib.request.Request(url, headers={"User-Agent": "ernie-deploy", **headers})  # noqa: S310
        self.authorize(request)
        return self.opener.open(request, timeout=SILENCE_S)

    def link(self, archive: Archive) -> str:
        """Return the address of the archive; raises where the index does not list it."""
        with within(PAGE_S), self.open(f"{self.url}/{archive.project}/", Accept=PAGE_FORMS) as answer:
            page, form, base = (
                answer.read(MOST_PAGE_BYTES),
                answer.headers.get_content_type(),
                answer.geturl(),
            )
        for name, url in links(page.decode(errors="replace"), form):
            if name == archive.file:
                return str(urldefrag(urljoin(base, url)).url)
        raise URLError(f"it does not list {archive.file}")

    def download(self, archive: Archive, path: Path) -> None:
        """Bring the archive to a path, and check it there; raises `KnownError`."""
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)
        try:
            with within(ARCHIVE_S), self.open(self.link(archive)) as answer, part.open("wb") as file:
                copy(answer, file, MOST_ARCHIVE_BYTES)
            if digest(part) != archive.sha256:
                raise KnownError(
                    DAMAGED,
                    f"{archive.file} from {self.host} has the wrong hash, likely from a faulty proxy or mirror, and was "
                    "deleted: check PIP_INDEX_URL and HTTPS_PROXY",
                )
            part.chmod(0o644)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def trust() -> ssl.SSLContext:
    """Return the certificates of SSL_CERT_FILE or the image's; in an image without any, those that pip brings."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath):
        with contextlib.suppress(ImportError):
            from pip._vendor import certifi

            context.load_verify_locations(certifi.where())
    return context


def links(page: str, form: str) -> Iterator[tuple[str, str]]:
    """Yield the name and address of each file on a project's page."""
    if form.endswith("json"):
        try:
            yield from [(file["filename"], file["url"]) for file in json.loads(page)["files"]]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise URLError("its answer is no page of a package index") from None
        return
    parser = Anchors()
    parser.feed(page)
    yield from ((unquote(PurePosixPath(urlsplit(url).path).name), url) for url in parser.addresses)


class Anchors(HTMLParser):
    """Collects the addresses of a page's links."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep one link."""
        self.addresses += [value for name, value in attrs if tag == "a" and name == "href" and value]


@contextlib.contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Cut off what takes longer, however slowly its bytes come."""

    def late(*_: object) -> None:
        raise TimeoutError(f"no whole answer within {limit_s:g} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


# --- archives and what they hold ---


def copy(source: IO[bytes], target: IO[bytes], most: int) -> None:
    """Copy no more than so many bytes."""
    while chunk := source.read(CHUNK_BYTES):
        if (most := most - len(chunk)) < 0:
            raise URLError("it sends more than any of these packages has")
        target.write(chunk)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, size and content of each file; raises where one is no file, or would leave its folder."""
    left, count = MOST_UNPACKED_BYTES, MOST_FILES
    for name, size, regular, content in of_wheel(path) if path.suffix == ".whl" else of_source(path):
        left, count = left - size, count - 1
        inside = name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(name.split("/"))
        if not (regular and inside) or left < 0 or count < 0:
            raise KnownError(
                DAMAGED,
                f"{path.name} holds {name!r:.80}, which is no file of a package: report it to ernie-deploy",
            )
        with content as file:
            yield name, size, file


def of_wheel(path: Path) -> Iterator[tuple[str, int, bool, Any]]:
    """Yield the files of a zip archive."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if not info.is_dir():
                yield info.filename, info.file_size, kind in (0, stat.S_IFREG), archive.open(info)


def of_source(path: Path) -> Iterator[tuple[str, int, bool, Any]]:
    """Yield the files of a tar archive."""
    with tarfile.open(path, "r:gz") as archive:
        for info in archive:
            if not info.isdir():
                content = archive.extractfile(info) if info.isreg() else contextlib.nullcontext()
                yield info.name, info.size, info.isreg(), content


def is_unpacked(path: Path, folder: Path) -> bool:
    """Tell whether a folder holds what the archive holds, byte for byte, and nothing else."""
    there = {entry for entry in folder.rglob("*") if entry.is_symlink() or not entry.is_dir()}
    for name, size, content in members(path):
        file = folder / name
        if file not in there or file.is_symlink() or not file.is_file() or file.stat().st_size != size:
            return False
        there.remove(file)
        with file.open("rb") as now:
            while chunk := content.read(CHUNK_BYTES):
                if now.read(len(chunk)) != chunk:
                    return False
    return folder.is_dir() and not folder.is_symlink() and not there


def unpack(path: Path, folder: Path) -> None:
    """Make the folder anew beside the old one, and put it in its place."""
    fresh = folder.with_name(f".{folder.name}")
    remove(fresh)
    for name, size, content in members(path):
        file = fresh / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as target:
            copy(content, target, size)
    remove(folder)
    fresh.rename(folder)


def remove(path: Path) -> None:
    """Delete whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- bring ---


def bring(arguments: list[str]) -> None:
    """Make each package ready, then become the command behind `--`."""
    at = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser("bring")
    parser.add_argument("--into", type=Path, default=Path("/packages"))
    parser.add_argument("archives", nargs="+", type=pinned)
    options, following = parser.parse_args(arguments[:at]), arguments[at + 1 :]
    os.umask(0o022)
    drop_empty_variables()
    for archive in options.archives:
        require_machine(archive)
    with known_errors(options.into):
        for archive in options.archives:
            ready(archive, options.into)
    if following:
        os.execvp(following[0], following)


def find(arguments: list[str]) -> None:
    """Say whether an index lists each archive, and bring nothing: `doctor` asks so."""
    drop_empty_variables()
    index = Index(index_url())
    for archive in map(pinned, arguments):
        with known_faults(archive, index):
            index.link(archive)
    say(f"packages: listed at {index.host}")


def drop_empty_variables() -> None:
    """Take those for unset that are empty: Compose passes a variable so that the host did not set."""
    for name in [name for name, value in os.environ.items() if not value]:
        del os.environ[name]


def pinned(word: str) -> Archive:
    """Read `FILE#sha256=DIGITS`, as a package index writes its links."""
    file, _, digits = word.partition("#sha256=")
    if "/" in file or not file.endswith(SUFFIXES) or not re.fullmatch("[0-9a-f]{64}", digits):
        raise argparse.ArgumentTypeError(f"{word!r:.80} is not FILE#sha256=DIGITS")
    return Archive(file, digits)


def require_machine(archive: Archive) -> None:
    """Refuse a package of another kind of processor, for which there is none to download."""
    machine = os.uname().machine
    if not archive.fits(machine):
        raise KnownError(
            NO_SUCH_MACHINE,
            f"{archive.folder} is not published for {machine} ({archive.file}): use your own image that has "
            f"{archive.project}, and render with --extra-packages none",
        )


def ready(archive: Archive, into: Path) -> None:
    """See that one package is there and whole; what is needs neither a network nor a folder to write to."""
    path, folder = into / "archives" / archive.file, into / archive.folder
    if is_whole(path, archive) and is_unpacked(path, folder):
        say(f"packages: {archive.folder} is as verified before")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (into / ".lock").open("a") as lock:
        # Two stacks of one host bring the same; a file system without locks has to do without.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_whole(path, archive):
            if path.exists():
                say(f"packages: {path} has the wrong hash, and is replaced")
            remove(path)
            index = Index(index_url())
            with known_faults(archive, index):
                index.download(archive, path)
        if not is_unpacked(path, folder):
            unpack(path, folder)
    say(f"packages: {archive.folder} verified, {path.stat().st_size / 1e6:.1f} MB")


def is_whole(path: Path, archive: Archive) -> bool:
    """Tell whether the archive lies there with its hash."""
    return path.is_file() and path.stat().st_size <= MOST_ARCHIVE_BYTES and digest(path) == archive.sha256


@contextlib.contextmanager
def known_faults(archive: Archive, index: Index) -> Iterator[None]:
    """Translate what an index or the way to it raised; what the disk raised is told apart by its file."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as fault:
        if isinstance(fault, OSError) and fault.filename and not isinstance(fault, HTTPError):
            raise
        if isinstance(fault, OSError) and fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = f"HTTP {fault.code}" if isinstance(fault, HTTPError) else getattr(fault, "reason", fault)
        raise KnownError(
            UNREACHABLE,
            f"{archive.file} cannot be had from the package index at {index.host} ({reason!s:.200}): check PIP_INDEX_URL, "
            "PIP_CONFIG_FILE, HTTPS_PROXY, NO_PROXY and CA_BUNDLE, or copy that file into the folder `archives` of "
            "PACKAGES_DIR, or render with --extra-packages none",
        ) from None


@contextlib.contextmanager
def known_errors(into: Path) -> Iterator[None]:
    """Translate what the disk and a broken archive raise."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as fault:
        raise KnownError(
            DAMAGED, f"an archive in {into}/archives cannot be unpacked ({type(fault).__name__}): remove it"
        ) from None
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            reason = f"{into} is full: free space or set PACKAGES_DIR to a folder of a larger disk"
        elif fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            reason = f"{fault.filename} cannot be written ({fault.strerror}): check PACKAGES_DIR, its mount and its owner"
        else:
            raise
        raise KnownError(NOT_STORED, reason) from None


def main(mode: str = "", *arguments: str) -> int:
    """Run one mode; a known cause ends in a one-line error, anything else in a traceback."""
    try:
        {"bring": bring, "find": find}[mode](list(arguments))
    except KnownError as error:
        say(f"packages: {error}", sys.stderr)
        return error.code
    except Exception:
        for line in traceback.format_exc().splitlines():
            say(f"packages: {line}", sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
