"""A picture and a video made for a rehearsal, and the proofs that a vision-language server looks at them."""

import base64
import struct
import zlib

from ernie_deploy.plan.bench import PICTURES
from ernie_deploy.rehearsal.proofs import TOKENS, asked, complete, completes_a_cell
from ernie_deploy.rehearsal.stage import Disproved, Stage
from ernie_deploy.stack.compose import demand

WIDTH, HEIGHT = 64, 48
QUESTION = "What is it?"
# OpenCV is what vLLM reads videos with, so every image that serves has it; this host may not.
MAKE_VIDEO = f"""
import base64, os, sys, tempfile
import cv2, numpy
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "short.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 2, ({WIDTH}, {HEIGHT}))
    for shade in range(0, 256, 32):
        writer.write(numpy.full(({HEIGHT}, {WIDTH}, 3), shade, numpy.uint8))
    writer.release()
    print(base64.b64encode(open(path, "rb").read()).decode())
"""


def sees_a_picture(stage: Stage) -> str:
    """A PNG in the request is answered, and is part of the prompt."""
    return _sees(stage, "image_url", f"data:image/png;base64,{base64.b64encode(picture()).decode()}")


def sees_a_video(stage: Stage) -> str:
    """An MP4 in the request is answered, and is part of the prompt."""
    head = stage.members[0]
    made = demand(head.stack.words("exec", "-T", head.service, "python3", "-I", "-c", MAKE_VIDEO))
    return _sees(stage, "video_url", f"data:video/mp4;base64,{made.strip()}")


def benchmarks(stage: Stage) -> str:
    """The bench service completes a cell of `bench run --dataset random-mm`."""
    return completes_a_cell(stage, PICTURES)


def picture() -> bytes:
    """A PNG of WIDTH x HEIGHT pixels, grey from black to white."""
    rows = b"".join(b"\0" + bytes([255 * row // HEIGHT]) * WIDTH for row in range(HEIGHT))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _sees(stage: Stage, kind: str, url: str) -> str:
    text = {"type": "text", "text": QUESTION}
    blind = asked(stage, TOKENS, stream=False, question=[text])
    seeing = asked(stage, TOKENS, stream=False, question=[text, {"type": kind, kind: {"url": url}}])
    tokens, own = complete(seeing, TOKENS), seeing.prompt_tokens - blind.prompt_tokens
    if own <= 0:
        raise Disproved(f"the prompt has {seeing.prompt_tokens} tokens, {blind.prompt_tokens} without it")
    return f"{tokens} tokens, after {own} of the prompt for {WIDTH} x {HEIGHT} pixels"
