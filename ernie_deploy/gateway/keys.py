"""The keys of a gateway's clients: what a line of `keys.map` says, and what HAProxy can count of a limit."""

import hashlib
import re
import secrets

from msgspec import Struct

from ernie_deploy.errors import UsageError

PREFIX = "ek_"
# 256 bits: nobody finds such a key from its hash, so that a fast hash without salt is enough.
KEY_BYTES = 32
# It stands in a map, a log and a metric's label, none of which quotes.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
LINE = re.compile(
    rf"(?P<digest>[0-9a-f]{{64}})[ \t]+(?P<name>{NAME.pattern}):(?P<rate>\d{{1,7}}):(?P<concurrency>\d{{1,7}})"
    r":(?P<expires>\d{1,12})(?::(?P<added>\d{1,12}))?"
)
FORM = (
    "SHA256HEX NAME:RATE_PER_MINUTE:CONCURRENCY:EXPIRES_EPOCH[:ADDED_EPOCH], where 0 is no limit of its own"
)
MOST_PER_MINUTE = 1_000_000
RATE = re.compile(r"(?P<count>\d{1,12})/(?P<unit>[a-z]{1,6})")
PER_MINUTE = {"s": 60, "sec": 60, "second": 60, "m": 1, "min": 1, "minute": 1}
DURATION = re.compile(r"(?P<count>\d{1,6})(?P<unit>[mhdw])")
SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
LONGEST_S = 3_650 * SECONDS["d"]


class Key(Struct, frozen=True, kw_only=True):
    """One client's key: its SHA-256 in hex, the client's name and limits; times in seconds since 1970.

    A limit of 0 is the gateway's own for everybody, `expires` 0 is never, and `added` 0 is unknown.
    """

    digest: str
    name: str
    rate_per_minute: int = 0
    concurrency: int = 0
    expires: int = 0
    added: int = 0

    def line(self) -> str:
        """The key as a line of the map."""
        return (
            f"{self.digest} {self.name}:{self.rate_per_minute}:{self.concurrency}:{self.expires}:{self.added}"
        )

    def is_expired(self, now_s: float) -> bool:
        """Whether the gateway no longer takes the key at that time."""
        return 0 < self.expires <= now_s


def new_key() -> str:
    """A key that nobody else has: `ek_` and 43 characters that a URL may hold."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hashed(key: str) -> str:
    """The SHA-256 in hex that stands for a key in the map."""
    return hashlib.sha256(key.encode()).hexdigest()


def named(name: str) -> str:
    """The name of a key, which is one; raises `UsageError`."""
    if NAME.fullmatch(name):
        return name
    raise UsageError(
        f"{name[:80]!r} is no name for a key.",
        cause="it appears in a map, in log lines and in metrics: at most 64 letters, digits, `_`, `.` and `-`",
        next_step="ernie-deploy key add team-a",
    )


def rate_per_minute(text: str) -> int:
    """Requests a minute from `60/m` or `1/s`; raises `UsageError` where HAProxy cannot count it."""
    match = RATE.fullmatch(text)
    factor = PER_MINUTE.get(match["unit"], 0) if match else 0
    count = int(match["count"]) * factor if match else 0
    if 0 < count <= MOST_PER_MINUTE:
        return count
    raise UsageError(f"{text[:40]!r} is no rate that the gateway can count.", cause=_uncounted(text, factor),
                     next_step="write requests a minute, such as --rate 60/m, or a second, such as --rate 2/s")  # fmt: skip


def _uncounted(text: str, factor: int) -> str:
    if factor:
        return f"a rate is a whole number from 1 to {MOST_PER_MINUTE} a minute"
    unit = text.partition("/")[2][:1]
    if unit in {"h", "d"}:
        return "HAProxy counts over one minute: the same number over an hour or a day may come in one burst"
    return "a rate is a whole number of requests, a slash and `m` or `s`"


def duration_s(text: str) -> int:
    """Seconds of a time such as `90d` or `12h`; raises `UsageError`."""
    match = DURATION.fullmatch(text)
    seconds = int(match["count"]) * SECONDS[match["unit"]] if match else 0
    if 0 < seconds <= LONGEST_S:
        return seconds
    raise UsageError(
        f"{text[:40]!r} is no time after which a key can end.",
        cause="a time is a whole number and one of m, h, d and w, at most ten years; without one a key never expires",
        next_step="write it such as --expires 90d",
    )


def parse(text: str) -> tuple[list[Key], list[str]]:
    """The keys of a map, and each fault with its line number; the words of a faulty line are never quoted."""
    by_name: dict[str, Key] = {}
    by_digest: dict[str, Key] = {}
    faults: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = _words(line)
        if not words or words.startswith("#"):
            continue
        key = _key(words)
        if key is None:
            faults.append(f"line {number}: {_fault(words)}")
        elif twin := by_name.get(key.name) or by_digest.get(key.digest):
            what = "name" if key.name == twin.name else "key"
            faults.append(f"line {number}: the {what} of {twin.name} once more; HAProxy takes the first")
        else:
            by_name[key.name] = by_digest[key.digest] = key
    return list(by_name.values()), faults


def _key(words: str) -> Key | None:
    match = LINE.fullmatch(words)
    return match and Key(
        digest=match["digest"],
        name=match["name"],
        rate_per_minute=int(match["rate"]),
        concurrency=int(match["concurrency"]),
        expires=int(match["expires"]),
        added=int(match["added"] or 0),
    )


def _fault(words: str) -> str:
    """Why a line is none: a person may have pasted the key itself, so nothing of it is said."""
    digest, _, rest = words.replace("\t", " ").partition(" ")
    if digest.startswith((PREFIX, "sk-")):
        return "a plain key, which belongs in no file: revoke it, and add another"
    if re.fullmatch(r"[0-9A-Fa-f]{64}", digest) and digest != digest.lower():
        return "the hash is in capitals, and HAProxy looks for small letters"
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        return "it does not begin with a SHA-256 in hex"
    if not NAME.fullmatch(rest.strip().partition(":")[0]):
        return "the name is missing, or holds more than letters, digits, `_`, `.` and `-`"
    return "after the name there are not three or four whole numbers, a colon before each"


def without(text: str, name: str) -> str:
    """The map without the line of this key; every other byte stays."""
    return "\n".join(line for line in text.split("\n") if not _is_of(line, name))


def replaced(text: str, new: Key) -> str:
    """The map with the line of the key of this name written anew; every other byte stays, its end of line too."""
    lines = text.split("\n")
    return "\n".join(_with(line, new) if _is_of(line, new.name) else line for line in lines)


def _with(line: str, new: Key) -> str:
    """The line of a key with the new words in place of its own."""
    return line.replace(_words(line), new.line())


def _is_of(line: str, name: str) -> bool:
    key = _key(_words(line))
    return key is not None and key.name == name


def _words(line: str) -> str:
    """What a line says, without the blanks around it."""
    return line.strip(" \t\r")
