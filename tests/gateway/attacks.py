"""Requests that have got past gateways, byte for byte, and how many of them a server may see at most."""

import re
import socket
from contextlib import suppress
from typing import NamedTuple

from gateway.front_door import is_whole, key, read

BODY = b'{"id":"z"}'
AUTH = b"Authorization: Bearer " + key("alice").encode() + b"\r\n"
JSON = b"Content-Type: application/json\r\n"
COMMON = b"Host: x\r\n" + JSON
POST = b"POST /v1/completions HTTP/1.1\r\n"
LENGTH = b"Content-Length: 10\r\n"
INNER = b"GET /invocations HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


class Attack(NamedTuple):
    """`most` is how many requests the server may see; `statuses` what the client may hear, in order."""

    name: str
    data: bytes
    statuses: tuple[int, ...]
    most: int = 0


def _post(headers: bytes, body: bytes = BODY, line: bytes = POST) -> bytes:
    return line + COMMON + AUTH + headers + b"\r\n" + body


SMUGGLING = [
    Attack("CL.TE", _post(b"Content-Length: 6\r\n" + CHUNKED, b"0\r\n\r\nG"), (411,)),
    Attack("TE.CL", _post(CHUNKED + b"Content-Length: 4\r\n", b"2c\r\n" + INNER + b"\r\n0\r\n\r\n"), (411,)),
    Attack("TE alone", _post(CHUNKED, b"a\r\n" + BODY + b"\r\n0\r\n\r\n"), (411,)),
    Attack("TE xchunked", _post(b"Transfer-Encoding: xchunked\r\n" + LENGTH), (400,)),
    Attack("TE with a space before the colon", _post(b"Transfer-Encoding : chunked\r\n" + LENGTH), (400,)),
    Attack("TE twice", _post(CHUNKED + b"Transfer-Encoding: x\r\n", b"0\r\n\r\n"), (400,)),
    Attack("TE identity, chunked", _post(b"Transfer-Encoding: identity, chunked\r\n", b"0\r\n\r\n"), (422,)),
    Attack("TE chunked, identity", _post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"), (400,)),
    Attack("TE after a tab", _post(b"Transfer-Encoding:\tchunked\r\nContent-Length: 3\r\n", b"0\r\n\r\n" + INNER), (411,)),
    Attack("TE after a vertical tab", _post(b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"), (400,)),
    Attack("TE on a folded line", _post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), (411,)),
    Attack("TE of HTTP/1.0", _post(CHUNKED, b"0\r\n\r\n", b"POST /v1/completions HTTP/1.0\r\n"), (411,)),
    Attack("TE of a GET", b"GET /v1/models HTTP/1.1\r\n" + COMMON + AUTH + CHUNKED + b"\r\n0\r\n\r\n", (411,)),
    Attack("body of a GET", b"GET /v1/models HTTP/1.1\r\n" + COMMON + AUTH + b"Content-Length: 40\r\n\r\n" + INNER + b" ", (400,)),
    Attack("CL twice, unlike", _post(LENGTH + b"Content-Length: 11\r\n"), (400,)),
    Attack("CL twice, alike", _post(LENGTH + LENGTH), (200,), 1),
    Attack("CL as a list", _post(b"Content-Length: 10, 10\r\n"), (200,), 1),
    Attack("CL with a plus", _post(b"Content-Length: +10\r\n"), (400,)),
    Attack("CL negative", _post(b"Content-Length: -1\r\n"), (400,)),
    Attack("CL hexadecimal", _post(b"Content-Length: 0x0a\r\n"), (400,)),
    Attack("CL with a space inside", _post(b"Content-Length: 1 0\r\n"), (400,)),
    Attack("CL above 2^64", _post(b"Content-Length: 99999999999999999999999\r\n"), (400,)),
    Attack("CL empty", _post(b"Content-Length: \r\n"), (400,)),
    Attack("CL with an underscore", _post(b"Content_Length: 3\r\nTransfer_Encoding: chunked\r\n" + LENGTH), (200,), 1),
    Attack("no length", _post(b""), (411, 400)),
    Attack("bare LF", _post(LENGTH).replace(b"\r\n", b"\n"), (200,), 1),
    Attack("bare LF in one header", _post(b"X: a\n" + LENGTH), (200,), 1),
    Attack("bare CR in a header", _post(b"X: a\rTransfer-Encoding: chunked\r\n" + LENGTH), (400,)),
    Attack("chunk extension", _post(CHUNKED, b'a;x="\r\n' + BODY + b"\r\n0\r\n\r\n"), (411,)),
    Attack("chunk extension, bare LF", _post(CHUNKED, b"a;x\n" + BODY + b"\r\n0\r\n\r\n"), (411,)),
    Attack("trailers", _post(CHUNKED, b"a\r\n" + BODY + b"\r\n0\r\nX-Evil: 1\r\nContent-Length: 5\r\n\r\n"), (411,)),
    Attack("folded header", _post(b"X-A: a\r\n b\r\n" + LENGTH), (200,), 1),
    Attack("folded first header", POST + b" X: y\r\n" + COMMON + AUTH + LENGTH + b"\r\n" + BODY, (400,)),
    Attack("pipelined without a key", _post(LENGTH) + POST + COMMON + LENGTH + b"\r\n" + BODY, (200, 401), 1),
    Attack("a second request in the body", _post(b"Content-Length: %d\r\n" % len(INNER), INNER), (200,), 1),
]  # fmt: skip

LINES = [
    Attack("hop-by-hop Authorization", _post(b"Connection: Authorization, X-Request-Id\r\n" + LENGTH), (200,), 1),
    Attack("hop-by-hop close, length and host", _post(b"Connection: close, X-Request-Id, Content-Length, Host\r\nX-Request-Id: evil\r\n" + LENGTH), (200,), 1),
    Attack("absolute form of another host", _post(LENGTH, line=b"POST http://evil.example/v1/completions HTTP/1.1\r\n"), (400,)),
    Attack("absolute form of this host", _post(LENGTH, line=b"POST http://x/v1/completions HTTP/1.1\r\n"), (404,)),
    Attack("absolute form, ftp", _post(LENGTH, line=b"POST ftp://x/v1/completions HTTP/1.1\r\n"), (404,)),
    Attack("authority form", _post(LENGTH, line=b"POST x:80 HTTP/1.1\r\n"), (400,)),
    Attack("CONNECT", b"CONNECT serve:8000 HTTP/1.1\r\nHost: serve:8000\r\n" + AUTH + b"\r\n", (404,)),
    Attack("asterisk form", b"OPTIONS * HTTP/1.1\r\n" + COMMON + AUTH + b"\r\n", (404,)),
    Attack("HTTP/0.9", b"GET /v1/models\r\n\r\n", (400,)),
    Attack("HTTP/1.0 without a host", b"POST /v1/completions HTTP/1.0\r\n" + JSON + AUTH + LENGTH + b"\r\n" + BODY, (200,), 1),
    Attack("two hosts", _post(b"Host: y\r\n" + LENGTH), (400,)),
    Attack("HTTP/1.2", _post(LENGTH, line=b"POST /v1/completions HTTP/1.2\r\n"), (505,)),
    Attack("HTTP/2.0 on the line", _post(LENGTH, line=b"POST /v1/completions HTTP/2.0\r\n"), (505,)),
    Attack("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), (400,)),
    Attack("websocket", b"GET /v1/models HTTP/1.1\r\n" + COMMON + AUTH + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", (200,), 1),
    Attack("h2c", _post(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n" + LENGTH), (200,), 1),
    Attack("method override", _post(b"X-HTTP-Method-Override: DELETE\r\nX-Method-Override: GET\r\n" + LENGTH), (200,), 1),
    Attack("lower method", _post(LENGTH, line=b"post /v1/completions HTTP/1.1\r\n"), (404,)),
    Attack("quotes in the method", _post(LENGTH, line=b'"}{ /v1/completions HTTP/1.1\r\n'), (400,)),
    Attack("TRACE", b"TRACE /v1/models HTTP/1.1\r\n" + COMMON + AUTH + b"\r\n", (404,)),
    Attack("NUL in the path", _post(LENGTH, line=b"POST /v1/completions\x00 HTTP/1.1\r\n"), (400,)),
    Attack("NUL in a name", _post(b"X\x00: a\r\n" + LENGTH), (400,)),
    Attack("query", _post(LENGTH, line=b"POST /v1/completions?a=b&c=%0a HTTP/1.1\r\n"), (200,), 1),
    Attack("fragment", _post(LENGTH, line=b"POST /v1/completions#x HTTP/1.1\r\n"), (400,)),
    Attack("what vLLM would read", _post(b"X-Data-Parallel-Rank: 3\r\nX-Request-Id: evil\r\nX_Request_Id: evil\r\nX-Session-Id: 1\r\nContent-Encoding: gzip\r\nCookie: a\r\nUser-Agent: \xff\r\n" + LENGTH), (200,), 1),
    Attack("forged origin", _post(b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1\r\nX-Real-IP: 1\r\nX-Forwarded-Prefix: /x\r\n" + LENGTH), (200,), 1),
    Attack("control characters in what is kept", _post(b"Accept: \x01\r\n" + LENGTH).replace(b"/json", b"/json; x=\x0bX: y"), (200,), 1),
    Attack("another content type", _post(LENGTH).replace(JSON, b"Content-Type: text/plain\r\n"), (415,)),
    Attack("two content types", _post(LENGTH + b"Content-Type: text/plain\r\n"), (415,)),
    Attack("expect", _post(b"Expect: 100-continue\r\n" + LENGTH), (100, 200), 1),
    Attack("expect of something else", _post(b"Expect: 200-ok\r\n" + LENGTH), (200,), 1),
    Attack("expect without a key", POST + COMMON + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n", (401,)),
    Attack("200 headers", _post(b"".join(b"X-%d: a\r\n" % number for number in range(200)) + LENGTH), (400,)),
    Attack("a header of 20 kB", _post(b"X: " + b"a" * 20_000 + b"\r\n" + LENGTH), (431,)),
    Attack("a header of 2 MB", _post(b"X: " + b"a" * 2_000_000 + b"\r\n" + LENGTH), (400,)),
    Attack("a query of 20 kB", _post(LENGTH, line=b"POST /v1/completions?" + b"a" * 20_000 + b" HTTP/1.1\r\n"), (200,), 1),
    Attack("gibberish", bytes(range(256)), (400,)),
    Attack("TLS to a clear port", bytes.fromhex("16030100f5010000f10303") + bytes(240), (400,)),
]  # fmt: skip

_PLAIN = POST + COMMON
_MESSAGES = b"POST /v1/messages HTTP/1.1\r\n" + COMMON
_KEY = key("alice").encode()


def _keyed(header: bytes, line: bytes = _PLAIN) -> bytes:
    return line + header + LENGTH + b"\r\n" + BODY


KEYS = [
    Attack("two keys, the valid one first", _keyed(AUTH + b"Authorization: Bearer no\r\n"), (400,)),
    Attack("two keys, the valid one last", _keyed(b"Authorization: Bearer no\r\n" + AUTH), (400,)),
    Attack("two keys in one header", _keyed(b"Authorization: Bearer no, Bearer " + _KEY + b"\r\n"), (400,)),
    Attack("lower case", _keyed(b"authorization: bearer " + _KEY + b"\r\n"), (200,), 1),
    Attack("Basic", _keyed(b"Authorization: Basic " + _KEY + b"\r\n"), (401,)),
    Attack("a tab before the key", _keyed(b"Authorization: Bearer\t" + _KEY + b"\r\n"), (401,)),
    Attack("words behind the key", _keyed(b"Authorization: Bearer " + _KEY + b" x\r\n"), (401,)),
    Attack("NUL behind the key", _keyed(b"Authorization: Bearer " + _KEY + b"\x00\r\n"), (401,)),
    Attack("empty", _keyed(b"Authorization: Bearer \r\n"), (401,)),
    Attack("the scheme alone", _keyed(b"Authorization: Bearer\r\n"), (401,)),
    Attack("no scheme", _keyed(b"Authorization: " + _KEY + b"\r\n"), (401,)),
    Attack("the digest itself", _keyed(b"Authorization: Bearer " + b"0" * 64 + b"\r\n"), (401,)),
    Attack("the key's name", _keyed(b"Authorization: Bearer alice\r\n"), (401,)),
    Attack("x-api-key where it is none", _keyed(b"x-api-key: " + _KEY + b"\r\n"), (401,)),
    Attack("x-api-key", _keyed(b"x-api-key: " + _KEY + b"\r\n", _MESSAGES), (200,), 1),
    Attack("x-api-key beside a wrong bearer", _keyed(b"Authorization: Bearer no\r\nx-api-key: " + _KEY + b"\r\n", _MESSAGES), (400,)),
    Attack("x-api-key twice", _keyed(b"x-api-key: no\r\nx-api-key: " + _KEY + b"\r\n", _MESSAGES), (400,)),
    Attack("in the query", _keyed(b"", b"POST /v1/completions?api_key=" + _KEY + b" HTTP/1.1\r\n" + COMMON), (401,)),
    Attack("in a cookie", _keyed(b"Cookie: Authorization=Bearer " + _KEY + b"\r\n"), (401,)),
    Attack("Proxy-Authorization", _keyed(b"Proxy-Authorization: Bearer " + _KEY + b"\r\n"), (401,)),
]  # fmt: skip

PATHS = [
    "//v1/completions", "/v1//completions", "/v1/%63ompletions", "/v1%2fcompletions", "/v1/completions/", "/metrics",
    "/v1/./completions", "/v1/models/../completions", "/v1/completions;x", "/v1/completions%00", "/V1/completions",
    "/v1/completions%20", "/v1/completions/../../invocations", "/v1\\completions", "/v1/completions.", "/invocations",
    "/v1/responses/resp_1", "/v1/responses/resp_1/cancel", "/health", "/version", "/docs", "/v1", "/",
]  # fmt: skip
DISGUISED = [
    Attack(path, _post(LENGTH, line=b"POST " + path.encode() + b" HTTP/1.1\r\n"), (404,)) for path in PATHS
]
ALL = [*SMUGGLING, *LINES, *KEYS, *DISGUISED]


def heard(port: int, attack: Attack) -> list[bytes]:
    """As many answers as are due, each whole, and what comes within a moment after them."""
    raw = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as peer, suppress(ConnectionError):
        with suppress(ConnectionError):
            peer.sendall(attack.data)
        while len(got := _answers(raw)) < len(attack.statuses) or not is_whole(got[-1]):
            if not (part := peer.recv(1 << 16)):
                break
            raw += part
        raw += read(peer, 0.05)[0]
    return _answers(raw)


def statuses(answers: list[bytes]) -> tuple[int, ...]:
    """What each says."""
    return tuple(int(answer.split()[1]) for answer in answers)


def _answers(raw: bytes) -> list[bytes]:
    """One after the other: the body before need not end in a line's end."""
    return re.split(rb"(?=HTTP/1\.[01] \d{3} )", raw)[1:]
