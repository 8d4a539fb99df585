"""`tls`: the certificate of a gateway: installed from files, made for a laboratory, and shown."""

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ernie_deploy.commands.key import NO_RELOAD, PROJECT
from ernie_deploy.commands.options import COMPOSE_FILES, DRY_RUN, JSON
from ernie_deploy.errors import UsageError
from ernie_deploy.safe_io.terminal import say

if TYPE_CHECKING:
    from ernie_deploy.gateway.certificate import Certificate
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

    stack = _stack(options["files"], options["project"])
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
    """Make a certificate for a laboratory, which no client trusts unless it is told to."""
    from ernie_deploy.gateway import tls_files

    stack = _stack(options["files"], options["project"])
    _refuse_to_replace(_folder(stack) / tls_files.FOLDER, force=force)
    make_self_signed(stack, hosts, options)


def has_certificate(stack: "Stack") -> bool:
    """Whether a certificate lies where the gateway reads it."""
    from ernie_deploy.gateway import tls_files

    return (_folder(stack) / tls_files.FOLDER / tls_files.CERTIFICATE).exists()


def make_self_signed(stack: "Stack", hosts: tuple[str, ...], options: dict[str, Any]) -> None:
    """Make the certificate of a laboratory for these hosts and this one, and put it where the gateway reads it."""
    from ernie_deploy.gateway import certificate, tls_files

    chain, private = tls_files.self_signed([*hosts, *_own_names(stack)])
    (made,) = certificate.chain_of(chain, "the certificate that was made")
    _put(stack, chain, private, made, options)
    say(
        f"self-signed, for a laboratory: clients must be given {_folder(stack) / 'tls/tls.crt'}"
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

    place = _folder(_stack(files)) / tls_files.FOLDER
    if dry_run:
        say(f"read {place / tls_files.CERTIFICATE} and {place / tls_files.KEY}")
        return 0
    chain = certificate.chain_of(
        tls_files.text_of(place / tls_files.CERTIFICATE, "certificate"), str(place / tls_files.CERTIFICATE)
    )
    data = described(chain[0], place, _pair_of(chain[0], place / tls_files.KEY))
    say(json.dumps(data, indent=2) if as_json else _as_text(data), as_json=as_json)
    failed = data["pair_ok"] is False or any(
        fault.severity == "error" for fault in certificate.dated(chain[0], time.time())
    )
    return int(failed)


def described(certificate: "Certificate", place: Path, pair_ok: bool | None) -> dict[str, Any]:
    """What is told of a certificate; `pair_ok` is null where this user may not read the key."""
    from ernie_deploy.gateway.certificate import dated

    now_s = time.time()
    return {
        "path": str(place),
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "names": list(certificate.names),
        "not_before": _date(certificate.not_before_s),
        "not_after": _date(certificate.not_after_s),
        "days_left": certificate.days_left(now_s),
        "fingerprint_sha256": certificate.fingerprint,
        "self_signed": certificate.is_self_signed,
        "pair_ok": pair_ok,
        "faults": [fault.sentence for fault in dated(certificate, now_s)],
    }


def _as_text(data: dict[str, Any]) -> str:
    pair = {
        True: "the key is its own",
        False: "the key is of another certificate",
        None: "the key is not ours to read",
    }
    rows = {
        "subject": data["subject"] or "-",
        "names": " ".join(data["names"]) or "none: clients refuse it",
        "issuer": f"{data['issuer']} (self-signed, for a laboratory)"
        if data["self_signed"]
        else data["issuer"],
        "valid": f"{data['not_before']} to {data['not_after']}, {data['days_left']} days left",
        "SHA-256": data["fingerprint_sha256"],
        "pair": pair[data["pair_ok"]],
    }
    return "\n".join([*(f"{name:<8} {value}" for name, value in rows.items()), *data["faults"]])


def _date(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _pair_of(certificate: "Certificate", path: Path) -> bool | None:
    """Whether the key in a file is the certificate's; None where it may not be read. Raises `UsageError`."""
    from ernie_deploy.gateway import tls_files
    from ernie_deploy.gateway.certificate import private_key_of

    if path.exists() and not os.access(path, os.R_OK):
        return None
    return private_key_of(tls_files.text_of(path, "private key"), str(path))[1] == certificate.public_key


def _stack(files: tuple[Path, ...], name: str = "") -> "Stack":
    from ernie_deploy.commands.stack_of import stack_of

    return stack_of(files, name)


def _folder(stack: "Stack") -> Path:
    from ernie_deploy.commands.gateway_of import gateway_folder

    return gateway_folder(stack)


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
            next_step="name the pair of one certificate, its chain in the order in which each vouches for the one before",
        )
    for found in certificate.dated(every[0], time.time()):
        if found.severity == "error":
            raise UsageError(found.sentence, cause="clients refuse it", next_step=found.remedy)
        say(f"warning: {found.sentence}", err=True)
    return private, every[0]


def _put(
    stack: "Stack", chain: str, private: str, certificate: "Certificate", options: dict[str, Any]
) -> None:
    """Copy the pair into the gateway's folder, say what it is, and have a running gateway read it."""
    from ernie_deploy.commands.gateway_of import reload_words, take_up
    from ernie_deploy.gateway import tls_files

    folder = _folder(stack)
    if options["dry_run"]:
        say(f"write {folder / tls_files.FOLDER}: tls.crt and tls.key")
        say("" if options["no_reload"] else reload_words(stack))
        return
    owner, moved = _owner(stack)
    tls_files.put(folder, chain, private, owner)
    data = described(certificate, folder / tls_files.FOLDER, True)
    taken = not moved and not options["no_reload"] and take_up(stack)
    if options["as_json"]:
        say(json.dumps({**data, "reloaded": taken}, indent=2), as_json=True)
    names = " ".join(data["names"]) or data["subject"]
    say(f"wrote {data['path']}: {names}, until {data['not_after']}", err=True)
    if moved:
        say(f"next: {moved}", err=True)


def _owner(stack: "Stack") -> tuple[tuple[int, int] | None, str]:
    """Who is to own the key, and what to do where the gateway had to become this user.

    Root gives it to the gateway's user. Nobody else may give a file away: then the gateway runs as who installs.
    """
    from ernie_deploy.catalog import Catalog
    from ernie_deploy.host import examine, settings

    named = _values(stack).get("GATEWAY_USER") or Catalog().gateway.image.user
    own = f"{os.getuid()}:{os.getgid()}"
    if os.getuid() == 0:
        uid, _, gid = named.partition(":")
        if not (uid.isdecimal() and gid.isdecimal()):
            raise UsageError(
                f"GATEWAY_USER={named[:40]} in .env is not UID:GID.", next_step="write numbers, such as 99:99"
            )
        return (int(uid), int(gid)), ""
    if named == own:
        return None, ""
    path = stack.env_file or stack.files[0].parent / ".env"
    settings.write(path, settings.edited(examine.read_env(path), {"GATEWAY_USER": own}))
    say(
        f"note: wrote GATEWAY_USER={own} to {path}: the gateway runs as you, who alone may read the key",
        err=True,
    )
    return None, "ernie-deploy up, which makes a running gateway anew as that user"


def _refuse_to_replace(place: Path, *, force: bool) -> None:
    """Raise `UsageError` where the certificate of a CA would be lost."""
    from ernie_deploy.gateway import certificate, tls_files

    path = place / tls_files.CERTIFICATE
    if force or not path.exists():
        return
    if not certificate.chain_of(tls_files.text_of(path, "certificate"), str(path))[0].is_self_signed:
        raise UsageError(
            f"{path} is the certificate of a CA.",
            cause="a self-signed one in its place is refused by every client that was not told",
            next_step="--force replaces it all the same",
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
