"""Two spellings of one meaning are equal, and another meaning is named with both its values."""

import pytest

from ernie_deploy.diff import differences
from ernie_deploy.diff.report import line

STACK = """\
name: mine
services:
  serve:
    image: vllm/vllm-openai:v0.32.0
    command: [baidu/ERNIE-4.5-21B-A3B-PT, --max-model-len=32768, --tensor-parallel-size=2]
    environment: {VLLM_LOGGING_LEVEL: INFO, HF_HOME: /cache}
    ports: ["127.0.0.1:8000:8000"]
    volumes: ["weights:/cache:ro"]
    cap_drop: [ALL]
    cap_add: [CHOWN, FOWNER]
    shm_size: 16g
    stop_grace_period: 90s
    healthcheck: {test: [CMD-SHELL, curl -f localhost:8000/health], interval: 1m}
    depends_on: [fetch]
  fetch:
    image: busybox
    command: [echo, "1"]
volumes: {weights: }
"""


def changed(before: str, after: str) -> str:
    """The stack with one text in place of another, which must stand there."""
    assert before in STACK
    return STACK.replace(before, after)


def lines(old: str, new: str) -> list[str]:
    """What differs, a line each."""
    return [line(change) for change in differences(old, new).changes]


SAME = [
    ("--max-model-len=32768", '--max-model-len, "32768"'),
    ("--max-model-len=32768", "--max-model-len=32.768k"),
    ("--max-model-len=32768", "--max-model-len=32K"),
    ("--max-model-len=32768", "--max_model_len=32768"),
    ("--max-model-len=32768", '"--max-model-len=${CONTEXT:-32768}"'),
    ("--tensor-parallel-size=2", '-tp, "2"'),
    ("--max-model-len=32768, --tensor-parallel-size=2", "--tensor-parallel-size=2, --max-model-len=32768"),
    ("--max-model-len=32768", "--max-model-len=1024, --max-model-len=32768"),
    ("[baidu/ERNIE-4.5-21B-A3B-PT,", "[--model=baidu/ERNIE-4.5-21B-A3B-PT,"),
    ("    command: [baidu", "    entrypoint: [vllm, serve]\n    command: [baidu"),
    ("{VLLM_LOGGING_LEVEL: INFO, HF_HOME: /cache}", "[HF_HOME=/cache, VLLM_LOGGING_LEVEL=INFO]"),
    ('"127.0.0.1:8000:8000"', '{host_ip: 127.0.0.1, published: "8000", target: 8000}'),
    ('"weights:/cache:ro"', "{type: volume, source: weights, target: /cache, read_only: true}"),
    ("[CHOWN, FOWNER]", "[FOWNER, CHOWN]"),
    ("shm_size: 16g", "shm_size: 16384m"),
    ("90s", "1m30s"),
    ("interval: 1m", "interval: 60s"),
    ("[CMD-SHELL, curl -f localhost:8000/health]", "curl -f localhost:8000/health"),
    ("depends_on: [fetch]", "depends_on: {fetch: {condition: service_started}}"),
    ('command: [echo, "1"]', "command: echo 1"),
    ("volumes: {weights: }", "volumes: {weights: {}}"),
    ("name: mine\n", "# a remark\nname: mine\nx-own: {a: 1}\n"),
]


@pytest.mark.parametrize(("before", "after"), SAME)
def test_another_spelling_is_no_difference(before: str, after: str) -> None:
    assert lines(STACK, changed(before, after)) == []


OTHER = [
    ("--max-model-len=32768", "--max-model-len=32k", ["~ serve --max-model-len: 32768 -> 32000"]),
    (", --max-model-len=32768", "", ["- serve --max-model-len: 32768"]),
    ("=2]", "=2, --enable-prefix-caching]", ["+ serve --enable-prefix-caching"]),
    ("=2]", "=2, --no-enable-prefix-caching]", ["+ serve --enable-prefix-caching: off"]),
    ("v0.32.0", "v0.32.0-cu129", ["~ driver of the host, at least: 580 -> 525.60.13",
      "~ serve image: vllm/vllm-openai:v0.32.0 -> vllm/vllm-openai:v0.32.0-cu129"]),
    ("INFO", "DEBUG", ["~ serve VLLM_LOGGING_LEVEL: INFO -> DEBUG"]),
    ("127.0.0.1:8000:", "8000:", ["~ serve port 8000: 127.0.0.1:8000 -> 0.0.0.0:8000"]),
    (":/cache:ro", ":/cache", ["~ serve /cache: weights (read-only) -> weights"]),
    ("[ALL]", "[NET_RAW]", ["~ serve cap_drop: ALL -> NET_RAW"]),
    ("    shm_size: 16g\n", "", ["- serve shm_size: 16 GiB"]),
    ("interval: 1m", "interval: 5s", ["~ serve healthcheck.interval: 60s -> 5s"]),
    ("21B-A3B-PT", "0.3B-PT",
     ["~ serve model: baidu/ERNIE-4.5-21B-A3B-PT -> baidu/ERNIE-4.5-0.3B-PT"]),
    ("  fetch:\n    image", "  load:\n    image", ["- fetch", "+ load"]),
    ("name: mine", "name: yours", ["~ name: mine -> yours"]),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after", "expected"), OTHER)
def test_another_meaning_is_named_with_both_its_values(before: str, after: str, expected: list[str]) -> None:
    assert lines(STACK, changed(before, after)) == expected
