"""Pictures in and out: opening what people bring, and the way between Pillow and tensors in [-1, 1]."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unclip_core.errors import RequestError

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_BYTES = 25_000_000
MOST_PIXELS = 24_000_000  # a phone's photograph passes
MOST_SIDE = 2048  # larger pictures are made smaller at once: no lab looks at more than 1024 px
LEAST_SIDE, MOST_ASPECT = 8, 16

# Also bounds what other code in the process decodes: Pillow refuses more than twice this before decoding.
Image.MAX_IMAGE_PIXELS = MOST_PIXELS


def open_picture(source: str | Path | bytes) -> Image.Image:
    """A PNG, JPEG or WebP file, or its bytes -> an upright, opaque RGB picture.

    EXIF rotation is applied, transparency laid on white, CMYK and 16-bit values converted, of an animation the first
    picture taken, and what is larger than 2048 px brought down to it. Size and format are looked at before anything is
    decoded.
    Raises RequestError for what is broken, too large, too thin, or another kind of file.
    """
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise RequestError("The picture file is empty.", "picture_empty")
    if len(data) > MOST_BYTES:
        raise RequestError(f"The picture file is larger than {MOST_BYTES // 1_000_000} MB.", "picture_bytes")
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise _too_many_pixels() from None
    except Exception as fault:  # Pillow's readers raise many kinds on hostile files
        raise RequestError("This is not a PNG, JPEG or WebP picture.", "picture_format") from fault
    check_size(*picture.size)
    try:
        picture.load()
        return _upright(opaque(_reduced(picture)), picture.getexif().get(_ORIENTATION, 1))
    except Exception as fault:
        raise RequestError("The picture is damaged or cut short: save it again and retry.", "picture_broken") from fault


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as fault:
        raise RequestError("The picture file cannot be read.", "picture_unreadable") from fault


def _too_many_pixels() -> RequestError:
    return RequestError(f"The picture has more than {MOST_PIXELS // 1_000_000} million pixels.", "picture_pixels")


def check_size(width: int, height: int) -> None:
    """Raises RequestError for too many pixels, too few, or too thin a picture."""
    if width * height > MOST_PIXELS:
        raise _too_many_pixels()
    if min(width, height) < LEAST_SIDE:
        raise RequestError(f"The picture is smaller than {LEAST_SIDE} pixels: {width} x {height}.", "picture_small")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise RequestError(
            f"The picture is too thin ({width} x {height}): at most {MOST_ASPECT} times as long as wide.",
            "picture_thin",
        )


_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def _reduced(picture: Image.Image) -> Image.Image:
    """Averaged down by a whole factor to at most 2048 px a side, before copies in other modes take memory."""
    factor = -(-max(picture.size) // MOST_SIDE)
    if factor == 1:
        return picture
    if picture.mode in ("1", "P"):
        picture = picture.convert("RGBA")
    elif picture.mode.startswith("I"):
        picture = picture.convert("F")
    return picture.reduce(factor)


def opaque(picture: Image.Image) -> Image.Image:
    """Any of Pillow's modes -> RGB, transparency on white."""
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits and more a value
        values = np.asarray(picture, dtype=np.float32)
        top = 65535 if values.max(initial=0) > 255 or picture.mode.startswith("I;16") else 255
        picture = Image.fromarray((values * (255 / top)).clip(0, 255).round().astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(ground, picture).convert("RGB")
    return picture.convert("RGB")


def square(picture: Image.Image, side: int) -> Image.Image:
    """Its middle square at side x side pixels, RGB, transparency on white. Raises RequestError for its size."""
    check_size(*picture.size)
    picture = _middle(opaque(picture))
    return picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)


def _middle(picture: Image.Image) -> Image.Image:
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.crop((left, top, left + edge, top + edge))


def framed(picture: Image.Image, fills: float = 0.96, below: float = 0.92, least: float = 0.125) -> Image.Image:
    """Up close to a small drawing on a plain ground: the part of the middle square of which it fills `fills` a side.

    A picture whose drawing takes `below` of the side or more, less than `least`, or has no plain ground around it, is
    given back as it is. Styles of art differ in how much of the page they leave empty, and a network that has learned
    some of them takes the others' margins for something that is drawn small.
    """
    middle = _middle(picture.convert("RGB"))
    values = np.asarray(middle, dtype=np.int16)
    ground = np.median(values[[0, 0, -1, -1], [0, -1, 0, -1]], axis=0)  # of most corners
    drawn = np.abs(values - ground).max(2) > 20
    rows, columns = drawn.any(1).nonzero()[0], drawn.any(0).nonzero()[0]
    side = max(np.ptp(found) + 1 if len(found) else 0 for found in (rows, columns))
    if not least * middle.width <= side < below * middle.width:
        return picture
    wanted = round(side / fills)
    x, y = ((found[0] + found[-1] + 1 - wanted) // 2 for found in (columns, rows))
    page = Image.new("RGB", (wanted, wanted), tuple(int(value) for value in ground))
    page.paste(middle, (-int(x), -int(y)))
    return page


def to_pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size -> [B, 3, H, W] float32 in [-1, 1]."""
    stacked = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] (clipped) -> B pictures."""
    values = eight_bit(pixels).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in values]


def eight_bit(pixels: Tensor) -> Tensor:
    """[-1, 1] -> 0..255 uint8, rounded to the nearest."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def as_seen(pixels: Tensor) -> Tensor:
    """[-1, 1] rounded to the 256 values that a picture holds: what the next stage gets is what a person sees."""
    return eight_bit(pixels).float() / 127.5 - 1
