"""The tests' own client knows the end of an answer: what ends too early passes or fails by chance."""

import pytest
from gateway.front_door import is_whole

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-request-id: 3a310c10-9ece8a166160\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED + b"3\r\none\r\n4\r\n two\r\n0\r\n\r\n",
        CHUNKED + b"0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone",
        b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"3\r\none\r\n0\r\n\r\n",
    ],
    ids=["chunks", "no chunk", "length", "continue"],
)
def test_an_answer_is_whole_with_its_last_byte_and_no_earlier(answer: bytes) -> None:
    assert [size for size in range(len(answer) + 1) if is_whole(answer[:size])] == [len(answer)]
