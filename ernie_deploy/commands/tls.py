"""`tls`: the certificate of a gateway: installed from files, self-signed for testing, and shown."""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.gateway_of import in_kubernetes, reload_words, take_up, tls_folder, utc_text
from ernie_deploy.commands.key import NO_RELOAD, PROJECT
from ernie_deploy.commands.options import COMPOSE_FILES, DRY_RUN, JSON
from ernie_deploy.commands.stack_of import stack_of
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.gateway.certificate import Certificate, Fault
    from ernie_deploy.stack.compose import Stack

EXAMPLE = """\b
Examples:
  ernie-deploy tls install /etc/letsencrypt/live/llm.example.org/{fullchain,privkey}.pem
  ernie-deploy tls self-signed --host llm.lab
  ernie-deploy tls show"""
PEM = click.Path(path_type=Path, dir_okay=False)


@click.group(epilog=EXAMPLE)
def tls() -> None:
    """Install, make and show the certificate of a gateway."""


@tls.command(epilog="Example: ernie-deploy tls install fullchain.pem privkey.pem")
@click.argument("cert", type=PEM, required=False, metavar="[CERT")
@click.argument("key", type=PEM, required=False, metavar="KEY]")
@COMPOSE_FILES
@PROJECT
@NO_RELOAD
@DRY_RUN
@JSON
def install(cert: Path | None, key: Path | None, **options: Any) -> None:
    """Check a certificate and its key, copy them for the gateway, and have it read them.

    Without CERT and KEY it takes TLS_CERT_FILE and TLS_KEY_FILE of .env.
    """
    from ernie_deploy.gateway import tls_files
    from ernie_deploy.gateway.certificate import BLOCK

    stack = stack_of(options["files"], options["project"])
    tls_folder(stack)
    paths = _given(cert, key, stack)
    chain = tls_files.text_of(paths[0], "certificate")
    private, certificate = _checked(chain, tls_files.text_of(paths[1], "private key"), paths)
    if len(BLOCK.findall(chain)) == 1 and not certificate.is_self_signed:
        say(f"note: {paths[0]} has no chain; clients need those certificates too that vouch for it", err=True)
    _put(stack, chain, private, certificate, options)


@tls.command(
    name="self-signed", epilog="Example: ernie-deploy tls self-signed --host llm.lab --host 10.0.0.4"
)
@click.option("--host", "hosts", multiple=True, metavar="NAME",
              help="Name or address that clients use; repeatable.  [default: this host's name and its loopback]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace a certificate that somebody else has signed.")
@COMPOSE_FILES
@PROJECT
@NO_RELOAD
@DRY_RUN
@JSON
def self_signed(hosts: tuple[str, ...], force: bool, **options: Any) -> None:
    """Make a self-signed certificate for testing, which no client trusts unless it is told to."""
    from ernie_deploy.gateway import tls_files

    stack = stack_of(options["files"], options["project"])
    _refuse_to_replace(tls_folder(stack) / tls_files.FOLDER, force=force)
    make_self_signed(stack, hosts, options)


def has_certificate(stack: "Stack") -> bool:
    """Whether a certificate lies where the gateway reads it."""
    from ernie_deploy.gateway import tls_files

    return (tls_folder(stack) / tls_files.FOLDER / tls_files.CERTIFICATE).exists()


def make_self_signed(stack: "Stack", hosts: tuple[str, ...], options: dict[str, Any]) -> None:
    """Make a self-signed certificate for these hosts and this one, and put it where the gateway reads it."""
    from ernie_deploy.gateway import certificate, tls_files

    chain, private = tls_files.self_signed([*hosts, *_own_names(stack)])
    (made,) = certificate.chain_of(chain, "the certificate that was made")
    _put(stack, chain, private, made, options)
    say(
        f"self-signed, for testing: clients must be given {tls_folder(stack) / 'tls/tls.crt'}"
        " (curl --cacert, SSL_CERT_FILE), and `ernie-deploy tls install` puts one of a CA in its place",
        err=True,
    )


@tls.command(epilog="Example: ernie-deploy tls show --json")
@COMPOSE_FILES
@DRY_RUN
@JSON
def show(files: tuple[Path, ...], dry_run: bool, as_json: bool) -> int:
    """Show the gateway's certificate: whom it names, when it ends, and whether the key is its own; 1 where it fails."""
    from ernie_deploy.gateway import certificate, tls_files

    place = tls_folder(stack_of(files)) / tls_files.FOLDER
    if dry_run:
        say(f"read {place / tls_files.CERTIFICATE} and {place / tls_files.KEY}")
        return 0
    chain = certificate.chain_of(
        tls_files.text_of(place / tls_files.CERTIFICATE, "certificate"), str(place / tls_files.CERTIFICATE)
    )
    half = _half_of(place / tls_files.KEY)
    faults = certificate.faults_of(chain, half, time.time())
    data = described(chain[0], place, None if half is None else half == chain[0].public_key, faults)
    say(json.dumps(data, indent=2) if as_json else _as_text(data), as_json=as_json)
    return int(any(fault.severity == "error" for fault in faults))


def described(
    certificate: "Certificate", place: Path, pair_ok: bool | None, faults: Sequence["Fault"]
) -> dict[str, Any]:
    """What is told of a certificate; `pair_ok` is null where this user may not read the key."""
    return {
        "path": str(place),
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": list(certificate.names),
        "not_before": utc_text(certificate.not_before_s),
        "not_after": utc_text(certificate.not_after_s),
        "days_left": certificate.days_left(time.time()),
        "fingerprint_sha256": certificate.fingerprint,
        "self_signed": certificate.is_self_signed,
        "pair_ok": pair_ok,
        "faults": [fault.sentence for fault in faults],
    }


def _as_text(data: dict[str, Any]) -> str:
    pair = {
        True: "the key is its own",
        False: "the key is of another certificate",
        None: "the key is not ours to read",
    }
    rows = {
        "subject": data["subject"] or "-",
        "names": " ".join(data["names"]) or "none",
        "issuer": f"{data['issuer']} (self-signed, for testing)" if data["self_signed"] else data["issuer"],
        "valid": f"{data['not_before']} to {data['not_after']}, {data['days_left']} days left",
        "SHA-256": data["fingerprint_sha256"],
        "pair": pair[data["pair_ok"]],
    }
    return "\n".join([*(f"{name:<8} {value}" for name, value in rows.items()), *data["faults"]])


def _half_of(path: Path) -> str | None:
    """The public half of the key in a file; None where it may not be read. Raises `UsageError`."""
    from ernie_deploy.gateway import tls_files
    from ernie_deploy.gateway.certificate import private_key_of

    if path.exists() and not os.access(path, os.R_OK):
        return None
    return private_key_of(tls_files.text_of(path, "private key"), str(path))[1]


def _values(stack: "Stack") -> dict[str, str]:
    from ernie_deploy.check.project import with_env

    named = (str(stack.env_file),) if stack.env_file else ()
    return with_env({**os.environ}, named, stack.files[0].parent)


def _given(cert: Path | None, key: Path | None, stack: "Stack") -> tuple[Path, Path]:
    """The files to install, those of .env where none are named; raises `UsageError` where one is missing."""
    if cert and key:
        return cert, key
    values, folder = _values(stack), stack.files[0].parent
    own = values.get("TLS_CERT_FILE"), values.get("TLS_KEY_FILE")
    if cert or not (own[0] and own[1]):
        raise UsageError(
            "Which certificate, and which key?",
            cause="a certificate is named without its key"
            if cert
            else "TLS_CERT_FILE and TLS_KEY_FILE are not both set",
            next_step="ernie-deploy tls install CERT KEY, or set both in .env",
        )
    return folder / Path(own[0]).expanduser(), folder / Path(own[1]).expanduser()


def _checked(chain: str, key: str, paths: tuple[Path, Path]) -> tuple[str, "Certificate"]:
    """The private key and the server's certificate, once they belong together and are valid; raises `UsageError`."""
    from ernie_deploy.gateway import certificate

    every = certificate.chain_of(chain, str(paths[0]))
    private, half = certificate.private_key_of(key, str(paths[1]))
    if fault := certificate.order_fault(every, half):
        raise UsageError(
            f"{paths[0]} and {paths[1]} do not belong together as they are.",
            cause=fault,
            next_step="name a certificate and its own key, with the chain in order: each certificate signs the one before",
        )
    dates = certificate.dated(every[0], time.time())
    for one in dates:
        if one.severity == "error":
            raise UsageError(one.sentence, cause="clients refuse it", next_step=one.remedy)
    # A private CA's clients may be told to look at the subject.
    for one in (*certificate.nameless(every[0]), *dates):
        say(f"warning: {one.sentence}", err=True)
    return private, every[0]


def _put(
    stack: "Stack", chain: str, private: str, certificate: "Certificate", options: dict[str, Any]
) -> None:
    """Copy the pair into the gateway's folder, say what it is, and have a running gateway read it."""
    from ernie_deploy.gateway import tls_files
    from ernie_deploy.gateway.certificate import faults_of

    folder = tls_folder(stack)
    if options["dry_run"]:
        say(f"write {folder / tls_files.FOLDER}: tls.crt and tls.key")
        if not options["no_reload"]:
            say(reload_words(stack, "certificate"))
        return
    owner, own_user = _owner(stack)
    tls_files.put(folder, chain, private, owner)
    if own_user:
        _run_as(stack, own_user)
    faults = faults_of([certificate], None, time.time())
    data = described(certificate, folder / tls_files.FOLDER, True, faults)
    taken = not own_user and not options["no_reload"] and take_up(stack, "certificate")
    if options["as_json"]:
        say(json.dumps({**data, "reloaded": taken}, indent=2), as_json=True)
    names = " ".join(data["names"]) or data["subject"]
    say(f"wrote {data['path']}: {names}, until {data['not_after']}", err=True)
    if own_user:
        say("next: ernie-deploy up, which makes a running gateway anew as that user", err=True)


def _owner(stack: "Stack") -> tuple[tuple[int, int] | None, str]:
    """Who is to be given the key, and the `UID:GID` that the gateway has to become, empty where it need not.

    Root gives it to the gateway's user. Nobody else may give a file away: then the gateway runs as who installs.
    In Kubernetes the key goes into a Secret, and no user of this host counts.
    """
    from ernie_deploy.catalog import Catalog

    if in_kubernetes(stack):
        return None, ""
    named = _values(stack).get("GATEWAY_USER") or Catalog().gateway.image.user
    own = f"{os.getuid()}:{os.getgid()}"
    if os.getuid() == 0:
        uid, _, gid = named.partition(":")
        if not (uid.isdecimal() and gid.isdecimal()):
            raise UsageError(
                f"GATEWAY_USER={named[:40]} in .env is not UID:GID.", next_step="write numbers, such as 99:99"
            )
        return (int(uid), int(gid)), ""
    return None, "" if named == own else own


def _run_as(stack: "Stack", user: str) -> None:
    """Write into .env that the gateway runs as this user."""
    from ernie_deploy.host import examine, settings

    path = stack.env_file or stack.files[0].parent / ".env"
    settings.write(path, settings.edited(examine.read_env(path), {"GATEWAY_USER": user}))
    say(
        f"note: wrote GATEWAY_USER={user} to {path}: the gateway runs as you, who alone may read the key",
        err=True,
    )


def _refuse_to_replace(place: Path, *, force: bool) -> None:
    """Raise `UsageError` where the certificate of a CA would be lost."""
    from ernie_deploy.gateway import certificate, tls_files

    path = place / tls_files.CERTIFICATE
    if force or not path.exists():
        return
    if not certificate.chain_of(tls_files.text_of(path, "certificate"), str(path))[0].is_self_signed:
        raise UsageError(
            f"{path} is the certificate of a CA.",
            cause="clients that do not trust a self-signed one would refuse it",
            next_step="--force replaces it anyway",
        )


def _own_names(stack: "Stack") -> list[str]:
    """What this host is called by itself and on the address that is published."""
    import socket

    from ernie_deploy.gateway.tls_files import HOST
    from ernie_deploy.host.env_checks import ANYWHERE

    address = _values(stack).get("BIND_ADDR", "").strip("[]")
    names = [
        "localhost",
        socket.gethostname(),
        "127.0.0.1",
        "::1",
        *([] if address in ("", *ANYWHERE) else [address]),
    ]
    return [name for name in names if HOST.fullmatch(name) or ":" in name]
