"""SVG to pixels. Every picture is rendered at an integer size in its own view box, then padded to a square."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from unclip_core.corpus.concepts import Drawing

TWINS = 4.0  # of 255: mean difference between the thumbnails of two drawings that are taken for one


def render(drawing: Drawing, size: int) -> Image.Image | None:
    """The drawing as a `size` × `size` RGBA picture, or None where the renderer gives up on it.

    Needs ``resvg-py``. Its panics (on a few filtered SVGs) arrive as a BaseException, so that is what is caught here.
    """
    import resvg_py

    longest = max(drawing.width, drawing.height)
    width, height = max(1, round(size * drawing.width / longest)), max(1, round(size * drawing.height / longest))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {drawing.width} {drawing.height}" width="{width}" height="{height}">{drawing.body}</svg>'
    )
    try:
        data = bytes(resvg_py.svg_to_bytes(svg_string=svg))
        picture = Image.open(io.BytesIO(data)).convert("RGBA")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return None
    if picture.getextrema()[3][1] == 0:  # nothing was drawn
        return None
    square = Image.new("RGBA", (size, size))
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return square


def flatten(picture: Image.Image, ground: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """RGBA on a plain ground, as RGB."""
    flat = Image.new("RGB", picture.size, ground)
    flat.paste(picture, mask=picture.getchannel("A"))
    return flat


def thumbnail(picture: Image.Image) -> np.ndarray:
    """16 x 16 px of a drawing on white, int16 [16, 16, 3]: enough to tell drawings that repeat one another."""
    return np.asarray(flatten(picture).resize((16, 16), Image.BOX), dtype=np.int16)


def twins(thumb: np.ndarray, others: Sequence[np.ndarray]) -> bool:
    """Whether one of the other thumbnails is nearly the same, pixel for pixel."""
    return bool(len(others)) and bool((np.abs(np.asarray(others) - thumb).mean((1, 2, 3)) <= TWINS).any())
