"""Asks a rehearsed server as a user would, and judges each answer: complete, clean error or cut."""

from http import HTTPStatus
from typing import Any, Literal

from msgspec import Struct

from ernie_deploy.safe_io.http_client import BadStatus, ask, ask_json, lines, read_json

# Of a stream that goes on and on.
LONGEST_S = 3600.0
COMPLETION_S = 120.0
Ending = Literal["complete", "error", "cut"]
QUESTION = "Count to ten."


class Answer(Struct, frozen=True, kw_only=True):
    """How one request ended; HTTP 200 and [DONE] alone are no success: vLLM sends both after a death."""

    ending: Ending
    text: str
    tokens: int
    detail: str = ""
    # Zero where nothing tells: a stream's usage is not read for it.
    prompt_tokens: int = 0


def chat(  # noqa: PLR0913 - each is another caller's to choose
    base_url: str,
    model: str,
    *,
    max_tokens: int,
    stream: bool,
    timeout_s: float = 120,
    api_key: str = "",
    question: str | list[dict[str, Any]] = QUESTION,
) -> Answer:
    """One chat request, judged; a question in parts may hold pictures and videos."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
        **({"stream_options": {"include_usage": True}} if stream else {}),
    }
    try:
        url = f"{base_url}/v1/chat/completions"
        if not stream:
            return _whole(ask_json(url, body, key=api_key, limit_s=timeout_s))
        return _streamed(lines(url, body, key=api_key, silence_s=timeout_s, limit_s=LONGEST_S))
    except BadStatus as error:
        return Answer(ending="error", text="", tokens=0, detail=f"HTTP {error.code}")
    except (OSError, ValueError) as fault:
        return Answer(ending="cut", text="", tokens=0, detail=str(fault) or type(fault).__name__)


class Completion(Struct, frozen=True):
    """One completion: its tokens and the log-probability of each, in nats."""

    tokens: list[str]
    logprobs: list[float]

    @property
    def steps(self) -> list[tuple[str, float]]:
        """Each token with its log-probability."""
        return list(zip(self.tokens, self.logprobs, strict=True))


def complete(base_url: str, model: str, prompt: str, *, max_tokens: int, api_key: str = "") -> Completion:
    """The greedy completion of a prompt; raises OSError where there is none, or none that can be read."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 1,
    }
    try:
        answer = ask_json(f"{base_url}/v1/completions", body, key=api_key, limit_s=COMPLETION_S)
        logprobs = answer["choices"][0]["logprobs"]
        return Completion(logprobs["tokens"], logprobs["token_logprobs"])
    except (ValueError, LookupError, TypeError) as fault:
        raise OSError(f"no completion: {fault!r}") from fault


def status(url: str, body: Any = None, *, api_key: str = "") -> int:
    """The status that one request is answered with, OK for any of 2xx; raises OSError where nothing answers."""
    try:
        ask(url, body, key=api_key, limit_s=COMPLETION_S)
    except BadStatus as answer:
        return answer.code
    return HTTPStatus.OK


def _whole(answer: dict[str, Any]) -> Answer:
    choice, usage = answer["choices"][0], answer["usage"]
    complete = choice.get("finish_reason") in ("length", "stop")
    return Answer(
        ending="complete" if complete else "error",
        text=choice["message"].get("content") or "",
        tokens=usage["completion_tokens"],
        prompt_tokens=usage["prompt_tokens"],
    )


def _streamed(lines: Any) -> Answer:
    """Read server-sent events; complete needs a finish_reason, no error event and the usage."""
    text, tokens, finished, error = [], 0, False, ""
    for raw in lines:
        event = raw.decode().removeprefix("data: ").strip()
        if not event or event == "[DONE]":
            continue
        data = read_json(event)
        error = error or str(data.get("error", {}).get("message", "") if "error" in data else "")
        tokens = (data.get("usage") or {}).get("completion_tokens", tokens)
        for choice in data.get("choices", []):
            text.append(choice["delta"].get("content") or "")
            finished = finished or bool(choice.get("finish_reason"))
    ending: Ending = "error" if error else "complete" if finished and tokens else "cut"
    return Answer(ending=ending, text="".join(text), tokens=tokens, detail=error)
