"""Garbage is fast: a server that answers nonsense is not measured."""

import base64
import struct
import zlib

import pytest
from bench.fake_openai import NAME, FakeOpenAI

from ernie_deploy.bench.journal.record import Environment
from ernie_deploy.bench.measure.coherence import red_square, require
from ernie_deploy.bench.measure.server import Endpoint
from ernie_deploy.errors import BenchInvalid, ServerDied

HOME = Environment(id="e", taken_unix_s=0, hf_id=NAME, model="0.3b")


def test_known_answers() -> None:
    with FakeOpenAI() as fake:
        told = require(Endpoint(url=fake.url), NAME, HOME, vision=True)
        images = [body for body in fake.bodies if "data:image/png" in str(body)]
    assert told == (
        "16 tokens, the same twice; What is the capital of France? paris; What is 17 + 25? 42; "
        "Which single colour fills this image? red"
    )
    assert len(images) == 1


def test_garbage_stops_the_run() -> None:
    with FakeOpenAI(answer="!!!!!!!!") as fake, pytest.raises(BenchInvalid, match="make no sense") as refused:
        require(Endpoint(url=fake.url), NAME, HOME)
    assert refused.value.exit_code == 11
    assert "!!!!!!!!" in refused.value.cause


@pytest.mark.parametrize("base", [True, False])
def test_random_weights_are_asked_nothing_they_cannot_know(*, base: bool) -> None:
    home = Environment(id="e", taken_unix_s=0, hf_id=NAME, model="0.3b", rehearsal=True)
    with FakeOpenAI(answer="zzz") as fake:
        told = require(Endpoint(url=fake.url), NAME, home, chat=not base)
    assert told == "16 tokens, the same twice; known answers skipped: random weights"


def test_nobody_there_is_no_garbage() -> None:
    with pytest.raises(ServerDied, match="did not answer a question"):
        require(Endpoint(url="http://127.0.0.1:9"), NAME, HOME)


def test_the_red_square_is_a_png_of_red() -> None:
    png = base64.b64decode(red_square().partition(",")[2])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    at = png.index(b"IDAT")
    rows = zlib.decompress(png[at + 4 : at + 4 + struct.unpack(">I", png[at - 4 : at])[0]])
    assert rows == (b"\0" + b"\xff\0\0" * width) * height
