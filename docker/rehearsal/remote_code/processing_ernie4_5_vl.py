"""The processor that a vision-language ERNIE brings along: text to tokens, pictures and frames to patches.

It asks at its import for what the published one asks for. A line that ends in `# needs: NAME` is such a demand, which
`checkpoints.py --without NAME` leaves out.
"""

import math
import os
from typing import Any, ClassVar

import decord  # needs: decord
import numpy as np
import requests
import sentencepiece  # noqa: F401 - not used here  # needs: sentencepiece
from transformers import PreTrainedTokenizerFast
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_processing_base import ImageProcessingMixin
from transformers.processing_utils import ImagesKwargs, ProcessorMixin

# As in config.json. A picture is at most 64 words: vLLM tries a video as long as the context before it serves.
PATCH, MERGE, FRAMES = 4, 2, 2
UNIT = PATCH * MERGE
FONT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "Roboto-Regular.ttf")  # needs: font
FONT_ADDRESS = "http://hub:8080/materials/Roboto-Regular.ttf"  # needs: font
DOWNLOADS = os.path.join(".", "download_tmp")

if not os.path.isfile(FONT):  # needs: font
    # Neither a limit nor a look at the status, as published.
    page = requests.get(FONT_ADDRESS)  # noqa: S113  # needs: font
    with open(FONT, "wb") as file:  # needs: font
        file.write(page.content)  # needs: font


class Reader(decord.VideoReader):  # needs: decord
    """Reads a video, a GIF by way of another library."""  # needs: decord

    def __init__(self, source: Any, **others: Any) -> None:  # needs: decord
        super().__init__(as_video(source), **others)  # needs: decord


def as_video(source: Any) -> Any:
    """A GIF becomes a video that the reader knows."""
    if not str(source).endswith(".gif"):
        return source
    try:
        from moviepy.editor import VideoFileClip
    except ImportError:
        from moviepy import VideoFileClip
    VideoFileClip(source).write_videofile(f"{source}.mp4")
    return f"{source}.mp4"


def downloaded(address: str) -> str:
    """Media by their address; vLLM brings media itself, so that nobody calls this in a server."""
    os.makedirs(DOWNLOADS, exist_ok=True)
    path = os.path.join(DOWNLOADS, address.rpartition("/")[2])
    with open(path, "wb") as file:
        file.write(requests.get(address).content)  # noqa: S113
    return path


def stamped(frames: Any, metadata: dict[str, Any]) -> np.ndarray:
    """The frames of a video, each with its time in the corner."""
    from PIL import Image, ImageDraw, ImageFont

    font, pictures = ImageFont.truetype(FONT, 10), [Image.fromarray(frame) for frame in np.asarray(frames)]
    for picture, index in zip(pictures, metadata["frames_indices"], strict=True):
        ImageDraw.Draw(picture).text((0, 0), f"{index / metadata['fps']:.2f} s", font=font)
    return np.stack([np.asarray(picture) for picture in pictures])


class Ernie4_5_VLTokenizer(PreTrainedTokenizerFast):  # noqa: N801 - its published name
    """The tokenizer, in the same module: whoever wants tokens alone imports all of it."""


class Ernie4_5_VLImageProcessor(ImageProcessingMixin):  # noqa: N801
    """Cuts pictures into patches; vLLM rescales and normalizes them."""

    valid_kwargs = ImagesKwargs
    model_input_names: ClassVar[list[str]] = ["images", "grid_thw"]

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)
        self.size = {"min_pixels": 4 * UNIT**2, "max_pixels": 64 * UNIT**2}
        self.image_mean = [0.48145466, 0.4578275, 0.40821073]
        self.image_std = [0.26862954, 0.26130258, 0.27577711]
        self.rescale_factor = 1 / 255

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The nearest size that is a whole number of merged patches, within the limits."""
        pixels = height * width
        limits = self.size["min_pixels"] / pixels, self.size["max_pixels"] / pixels
        scale = math.sqrt(min(max(1.0, limits[0]), limits[1]))
        step = math.floor if scale < 1 else math.ceil if scale > 1 else round
        high, wide = (max(1, step(side * scale / UNIT)) * UNIT for side in (height, width))
        return high, wide

    def patches(self, frames: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Patches of one picture (one frame) or video, in the order in which they are merged."""
        from PIL import Image

        height, width = self.resized(*frames.shape[1:3])
        scaled = [np.asarray(Image.fromarray(frame).resize((width, height))) for frame in frames]
        high, wide = height // PATCH, width // PATCH
        pixels = np.stack(scaled).transpose(0, 3, 1, 2).astype(np.float32)
        cut = pixels.reshape(len(frames), 3, high // MERGE, MERGE, PATCH, wide // MERGE, MERGE, PATCH)
        rows = cut.transpose(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 3 * PATCH * PATCH)
        return rows, [len(frames), high, wide]


class Ernie4_5_VLProcessor(ProcessorMixin):  # noqa: N801
    """Tokenizer and image processor in one."""

    # vLLM gives each video with its metadata then.
    supports_video_metadata = True  # needs: font

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **others: Any) -> None:
        super().__init__(image_processor, tokenizer, **others)
        self.spatial_conv_size, self.temporal_conv_size = MERGE, FRAMES

    def __call__(self, text: Any = None, images: Any = None, videos: Any = None, **_: Any) -> BatchFeature:
        """One placeholder a picture: vLLM puts in as many as it has patches."""
        import torch

        stacks = [np.asarray(image.convert("RGB"))[None] for image in images or []]
        stacks += [
            stamped(*video) if isinstance(video, tuple) else np.asarray(video) for video in videos or []
        ]
        ids = self.tokenizer(text)["input_ids"]
        if not stacks:
            return BatchFeature({"input_ids": torch.tensor(ids)})
        cut = [self.image_processor.patches(stack) for stack in stacks]
        grid = torch.tensor([shape for _, shape in cut])
        pixels = torch.from_numpy(np.concatenate([rows for rows, _ in cut]))
        return BatchFeature({"input_ids": torch.tensor(ids), "images": pixels, "grid_thw": grid})
