"""Whether the server answers sensibly before it is measured: garbage comes out fast."""

import base64
import struct
import zlib
from typing import Any

from ernie_deploy.bench.journal.record import Environment
from ernie_deploy.bench.measure.server import Endpoint
from ernie_deploy.errors import BenchInvalid, ServerDied

ANSWER_TOKENS = 1024
REPEATED_TOKENS = 16
QUESTIONS = {
    "What is the capital of France? Answer with one word.": ("paris", "巴黎"),
    "What is 17 + 25? Answer with the number.": ("42",),
}
COLOUR = "Which single colour fills this image? Answer with one word."
RED = ("red", "红")
SIDE_PIXELS = 64


def require(
    endpoint: Endpoint, name: str, environment: Environment, *, chat: bool = True, vision: bool = False
) -> str:
    """Ask before the first cell; returns what was shown, raises `BenchInvalid` on garbage.

    A rehearsal's random weights know nothing: there, only that the answer is whole and repeatable.
    """
    repeated = _repeats(endpoint, name)
    if environment.rehearsal:
        return f"{repeated}; known answers skipped: random weights"
    if not environment.model:
        return f"{repeated}; known answers skipped: not a model of the catalog"
    answers = [_knows(endpoint, name, question, words, chat=chat) for question, words in QUESTIONS.items()]
    if vision:
        answers.append(_sees(endpoint, name))
    return "; ".join([repeated, *answers])


def red_square() -> str:
    """A PNG of one red square as a data URL."""
    row = b"\0" + b"\xff\0\0" * SIDE_PIXELS
    header = struct.pack(">IIBBBBB", SIDE_PIXELS, SIDE_PIXELS, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(row * SIDE_PIXELS)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _repeats(endpoint: Endpoint, name: str) -> str:
    """The same greedy question twice gives the same whole answer."""
    body = {"prompt": "One, two, three,", "max_tokens": REPEATED_TOKENS, "temperature": 0, "ignore_eos": True}
    first, second = (_completed(endpoint, "/v1/completions", {"model": name, **body}) for _ in range(2))
    if first != second:
        raise _garbage(
            f"the same greedy question had two answers: {first['text'][:60]!r} and {second['text'][:60]!r}"
        )
    return f"{REPEATED_TOKENS} tokens, the same twice"


def _knows(endpoint: Endpoint, name: str, question: str, words: tuple[str, ...], *, chat: bool) -> str:
    path, asked = "/v1/chat/completions", {"messages": [{"role": "user", "content": question}]}
    if not chat:
        path, asked = "/v1/completions", {"prompt": f"Q: {question}\nA:"}  # type: ignore[dict-item]
    body = {"model": name, "max_tokens": ANSWER_TOKENS, "temperature": 0, **asked}
    return _one_of(words, _completed(endpoint, path, body)["text"], question)


def _sees(endpoint: Endpoint, name: str) -> str:
    image = {"type": "image_url", "image_url": {"url": red_square()}}
    content = [image, {"type": "text", "text": COLOUR}]
    body = {"model": name, "max_tokens": ANSWER_TOKENS, "temperature": 0, "messages": [{"role": "user", "content": content}]}  # fmt: skip
    return _one_of(RED, _completed(endpoint, "/v1/chat/completions", body)["text"], COLOUR)


def _one_of(words: tuple[str, ...], text: str, question: str) -> str:
    expected = next((word for word in words if word in text.lower()), None)
    if expected is None:
        raise _garbage(f"to {question!r} it said {text.strip()[-80:]!r}")
    return f"{question.split('?', maxsplit=1)[0]}? {expected}"


def _completed(endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """Text and token count of a whole answer; raises where it is cut, empty or an error in disguise."""
    try:
        answer = endpoint.post(path, body)
    except (OSError, ValueError) as fault:
        raise ServerDied(f"The server did not answer a question at {path}.", cause=str(fault)) from fault
    try:
        return _read(answer)
    except (LookupError, TypeError, AttributeError) as fault:
        raise _garbage(f"an answer of another shape: {str(answer)[:160]}") from fault


def _read(answer: Any) -> dict[str, Any]:
    if "error" in answer or not answer.get("choices"):
        raise _garbage(f"an error instead of an answer: {str(answer)[:160]}")
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    if choice.get("finish_reason") not in ("stop", "length") or not usage.get("completion_tokens"):
        raise _garbage("an answer without finish_reason or usage")
    return {"text": _text(choice), "tokens": usage["completion_tokens"]}


def _text(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return str(choice["text"] or "")
    message = choice.get("message") or {}
    return (
        f"{message.get('reasoning_content') or message.get('reasoning') or ''}{message.get('content') or ''}"
    )


def _garbage(detail: str) -> BenchInvalid:
    return BenchInvalid(
        "The server's answers make no sense, so its speed means nothing.",
        cause=detail,
        next_step="check model, quantization and image; --skip-coherence measures anyway",
    )
