"""Certificates and private keys as the host's openssl reads them: names, dates, and whether they belong together."""

import re
import shlex
import ssl
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from msgspec import Struct

from ernie_deploy.errors import ExtraMissing, ToolFailed, UsageError

DAY_S = 86_400
# Time enough for a person to renew it; Let's Encrypt renews its own 30 days before the end.
SOON_DAYS = 30
LONGEST_S = 20
# More than any chain that a CA hands out.
MOST_CERTIFICATES = 10
DESCRIBED = (
    "-noout", "-subject", "-issuer", "-startdate", "-enddate", "-fingerprint", "-sha256", "-pubkey",
    "-nameopt", "RFC2253", "-ext", "subjectAltName",
)  # fmt: skip
FIELD = re.compile(
    r"^(subject|issuer|notBefore|notAfter|sha256 Fingerprint|SHA256 Fingerprint)=(.{0,2000})$", re.MULTILINE
)
PUBLIC_KEY = re.compile(r"-----BEGIN PUBLIC KEY-----[^-]{1,20000}-----END PUBLIC KEY-----")
NAMES = re.compile(r"(?:DNS|IP Address):([^,\s]{1,300})")
BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----[^-]{1,100000}-----END CERTIFICATE-----")
PRIVATE = re.compile(
    r"-----BEGIN (?P<kind>(?:RSA |EC )?PRIVATE KEY)-----[^-]{1,100000}(?:-[^-]{1,100000}){0,20}?-----END (?P=kind)-----"
)
ENCRYPTED = ("ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")


class Certificate(Struct, frozen=True, kw_only=True):
    """The certificate of a server; times in seconds since 1970, `public_key` as PEM."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before_s: int
    not_after_s: int
    fingerprint: str
    public_key: str

    @property
    def is_self_signed(self) -> bool:
        """Whether nobody but its own key vouches for it."""
        return self.subject == self.issuer

    def days_left(self, now_s: float) -> int:
        """Whole days until it ends; below 0 once it has."""
        return int((self.not_after_s - now_s) // DAY_S)


class Fault(Struct, frozen=True):
    """What is wrong with a certificate, and what to do about it."""

    severity: Literal["error", "warning"]
    sentence: str
    remedy: str


def words_for_certificate(path: str) -> tuple[str, ...]:
    """The command that describes the first certificate of a file."""
    return ("openssl", "x509", "-in", path, *DESCRIBED)


def words_for_key(path: str) -> tuple[str, ...]:
    """The command that prints the public half of a private key, and asks for no passphrase."""
    return ("openssl", "pkey", "-in", path, "-pubout", "-passin", "pass:")


def described(output: str) -> Certificate | None:
    """The certificate that openssl's output describes; None where it describes none."""
    fields, key = dict(FIELD.findall(output)), PUBLIC_KEY.search(output)
    try:
        return Certificate(
            subject=fields["subject"].strip(),
            issuer=fields["issuer"].strip(),
            names=tuple(
                map(
                    _name,
                    NAMES.findall(output.partition("Subject Alternative Name")[2].partition("-----")[0]),
                )
            ),
            not_before_s=ssl.cert_time_to_seconds(fields["notBefore"].strip()),
            not_after_s=ssl.cert_time_to_seconds(fields["notAfter"].strip()),
            fingerprint=(fields.get("sha256 Fingerprint") or fields["SHA256 Fingerprint"]).strip(),
            public_key=_plain(key[0]) if key else "",
        )
    except (KeyError, ValueError):
        return None


def public_key(output: str) -> str:
    """The public key in openssl's output; empty where there is none."""
    match = PUBLIC_KEY.search(output)
    return _plain(match[0]) if match else ""


def _plain(pem: str) -> str:
    return "".join(pem.split())


def openssl(words: Sequence[str], text: str = "") -> "subprocess.CompletedProcess[str]":
    """Run the host's openssl over a text; raises `ExtraMissing` where there is none, `ToolFailed` where it hangs."""
    try:
        return subprocess.run(  # noqa: S603 - words of this module, and no shell
            ["openssl", *words],  # noqa: S607 - the host's own, wherever it lies
            input=text, capture_output=True, text=True, errors="replace",
            timeout=LONGEST_S, check=False,
        )  # fmt: skip
    except OSError as fault:
        raise ExtraMissing(
            "The program openssl is missing.",
            cause="it is needed to read and make certificates, and is not on PATH",
            next_step="install it: apt-get install openssl, dnf install openssl or apk add openssl",
        ) from fault
    except subprocess.TimeoutExpired as fault:
        raise ToolFailed(f"openssl did not finish within {LONGEST_S} s.") from fault


def chain_of(text: str, name: str) -> tuple[Certificate, ...]:
    """Every certificate of a PEM text, the server's first; raises `UsageError` that names the file."""
    blocks = BLOCK.findall(text)
    chain = [described(openssl(("x509", *DESCRIBED), block).stdout) for block in blocks[:MOST_CERTIFICATES]]
    if not blocks or len(blocks) > MOST_CERTIFICATES or None in chain:
        contents = (
            f"{len(blocks)} certificates, or one that openssl does not read" if blocks else "none in PEM"
        )
        raise UsageError(
            f"{name} is no chain of certificates.",
            cause=f"it has {contents}",
            next_step="name a file such as fullchain.pem: the server's certificate, then those that vouch for it",
        )
    return tuple(one for one in chain if one)


def private_key_of(text: str, name: str) -> tuple[str, str]:
    """The private key of a PEM text and its public half; raises `UsageError`, which quotes nothing of it."""
    match = PRIVATE.search(text)
    if any(word in text for word in ENCRYPTED):
        raise UsageError(
            f"{name} is encrypted.",
            cause="the gateway starts unattended, so nobody can type the passphrase",
            next_step=f"decrypt it: openssl pkey -in {shlex.quote(name)} -out tls.key, and name that file",
        )
    half = public_key(openssl(("pkey", "-pubout", "-passin", "pass:"), match[0]).stdout) if match else ""
    if not match or not half:
        raise UsageError(
            f"{name} is no private key in PEM.",
            next_step="name a file such as privkey.pem, which begins with -----BEGIN PRIVATE KEY-----",
        )
    return match[0], half


def read_pair(chain: str | None, key: str | None) -> tuple[Certificate | None, bool | None]:
    """The first certificate of a PEM text, and whether the key is its; None for what cannot be read; raises `KitError`."""
    own = described(openssl(("x509", *DESCRIBED), chain or "").stdout)
    half = public_key(openssl(("pkey", "-pubout", "-passin", "pass:"), key).stdout) if own and key else ""
    return own, pair_ok(own, half)


def pair_ok(certificate: Certificate | None, half: str) -> bool | None:
    """Whether the public half of a key is the certificate's; None where one of them could not be read."""
    return half == certificate.public_key if certificate and half else None


def order_fault(chain: Sequence[Certificate], half: str) -> str:
    """Why a key and a chain do not belong together as they stand; empty where they do."""
    place = next((at for at, one in enumerate(chain, 1) if one.public_key == half), 0)
    if not place:
        return f"the key is of another certificate than that of {chain[0].subject or 'the first'}"
    if place > 1:
        return f"the key is of certificate {place} in the file, and the server's own must be the first"
    for at, (one, above) in enumerate(pairwise(chain), 2):
        if one.issuer != above.subject:
            return f"certificate {at} is of {above.subject}, and the one before it was issued by {one.issuer}"
    return ""


def nameless(certificate: Certificate) -> list[Fault]:
    """What is wrong with one that has no subjectAltName, the only place where clients look for a host."""
    if certificate.names:
        return []
    sentence = f"The certificate {certificate.subject or 'without a subject'} names no host in a subjectAltName: clients refuse it."
    return [Fault("error", sentence, "have one issued that does, then: ernie-deploy tls install")]


def dated(certificate: Certificate, now_s: float) -> list[Fault]:
    """What its dates say now."""
    left, name = certificate.days_left(now_s), certificate.subject or "without a subject"
    renew = "renew it, then: ernie-deploy tls install"
    if now_s >= certificate.not_after_s:
        return [
            Fault(
                "error",
                f"The certificate {name} expired {_days(int((now_s - certificate.not_after_s) // DAY_S))} ago.",
                renew,
            )
        ]
    if now_s < certificate.not_before_s:
        ahead = int(-((now_s - certificate.not_before_s) // DAY_S))
        remedy = "look at this host's clock (timedatectl), or wait"
        return [
            Fault("error", f"The certificate {name} is not valid yet: it begins in {_days(ahead)}.", remedy)
        ]
    if left < SOON_DAYS:
        return [Fault("warning", f"The certificate {name} expires in {_days(left)}.", renew)]
    return []


def faults_of(chain: Sequence[Certificate], half: str | None, now_s: float) -> list[Fault]:
    """What is wrong with a chain beside the key of this public half; None is a key that may not be read."""
    order = order_fault(chain, chain[0].public_key if half is None else half)
    sentence = f"Certificate and key do not belong together as they are: {order}."
    remedy = "ernie-deploy tls install CERT KEY, with the pair of one certificate"
    first = [Fault("error", sentence, remedy)] if order else []
    return [*first, *nameless(chain[0]), *dated(chain[0], now_s)]


def _days(number: int) -> str:
    return "1 day" if number == 1 else f"{number} days"


def _name(text: str) -> str:
    """A host's name, or its address in the short form that users write: openssl prints 0:0:0:0:0:0:0:1."""
    import ipaddress

    return str(ipaddress.ip_address(text)) if ":" in text else text
