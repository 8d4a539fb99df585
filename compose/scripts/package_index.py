"""The package index that pip would ask on this machine: each archive by its name, its address, and its bytes by their hash."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import signal
import ssl
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from html.parser import HTMLParser
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urldefrag, urljoin, urlsplit

from common import KnownError

PAGE_FORMS = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
MOST_PAGE_BYTES = 16 << 20
MOST_ARCHIVE_BYTES = 256 << 20
CHUNK_BYTES = 1 << 20
# Between two bytes, and for a whole answer.
SILENCE_S = 30
PAGE_S = 60
ARCHIVE_S = 900
# Kubernetes sets it in every pod, which it starts again by itself.
AGAIN = (
    "let Kubernetes start the pod again"
    if "KUBERNETES_SERVICE_HOST" in os.environ
    else "run `docker compose up -d`"
)

# Exit codes; judge.py has 50 to 52, dry_import.py 57 to 59.
UNREACHABLE, DAMAGED, NO_SUCH_MACHINE, NOT_STORED = range(53, 57)


def failure(code: int, sentence: str) -> KnownError:
    """A failure with a known cause: its exit code, what happened, why, and what to do before the next start."""
    return KnownError(code, f"{sentence}, then {AGAIN}")


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
        raise failure(
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
            raise failure(
                UNREACHABLE, "the address of the package index cannot be read: correct PIP_INDEX_URL"
            ) from None
        self.url = parts._replace(netloc=self.host, query="", fragment="").geturl().rstrip("/")
        if parts.scheme not in ("http", "https") or not self.host:
            raise failure(
                UNREACHABLE, "the package index is not at an address of http or https: set PIP_INDEX_URL"
            )
        if (
            self.secret
            and parts.scheme != "https"
            and parts.hostname not in ("localhost", "127.0.0.1", "::1")
        ):
            raise failure(
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
                raise failure(
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
        raise failure(
            UNREACHABLE,
            f"{archive.file} cannot be had from the package index at {index.host} ({reason!s:.200}): check PIP_INDEX_URL, "
            "PIP_CONFIG_FILE, HTTPS_PROXY, NO_PROXY and CA_BUNDLE, or copy that file into the folder `archives` of "
            "PACKAGES_DIR, or render with --extra-packages none",
        ) from None
