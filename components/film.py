"""Frames as a file to take away: an animated GIF, or MP4 where a video encoder is installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from unclip_core.errors import RequestError

SIDE = 384  # of small pictures; larger ones keep their size
RATE = 8  # frames a second
HOLD = 4  # frames that each end is held for
NOTE = "AI-generated with unCLIP Explorer"


def there_and_back(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """The frames forwards and backwards, the ends held a while, all of one size."""
    side = max(SIDE, frames[0].width)
    shown = [frame.convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for frame in frames]
    return [*[shown[0]] * HOLD, *shown[1:-1], *[shown[-1]] * HOLD, *shown[-2:0:-1]]


def write_gif(frames: Sequence[Image.Image], path: str | Path) -> Path:
    """An endless GIF of the frames there and back."""
    first, *rest = there_and_back(frames)
    first.save(path, "GIF", save_all=True, append_images=rest, duration=1000 // RATE, loop=0, comment=NOTE.encode())
    return Path(path)


def mp4_available() -> bool:
    """Whether the optional package av, which brings a video encoder, is installed."""
    return find_spec("av") is not None


def write_mp4(frames: Sequence[Image.Image], path: str | Path) -> Path:
    """An H.264 MP4 of the frames there and back, twice. Raises RequestError where there is no encoder."""
    if not mp4_available():
        raise RequestError(
            "MP4 needs a video encoder, an extra package: pip install av. GIF works without.", "mp4_absent"
        )
    import av

    shown = there_and_back(frames) * 2
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        container.metadata["comment"] = NOTE
        stream = container.add_stream(codec, rate=RATE)
        stream.width = stream.height = shown[0].width // 2 * 2
        stream.pix_fmt = "yuv420p"
        for frame in shown:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return Path(path)
