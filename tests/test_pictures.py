"""What people bring as pictures: kinds that must come out right, and kinds that must be refused in words."""

import io
import pickle
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from unclip_core.errors import RequestError
from unclip_core.pictures import as_seen, framed, open_picture, square, to_pictures, to_pixels

ROOT = Path(__file__).resolve().parent.parent


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width, height):
    """A PNG of a few bytes that claims a size."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


RED = Image.new("RGB", (40, 30), (255, 0, 0))
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64"/></svg>'

BAD = {
    "zero bytes": (b"", "empty"),
    "text": (b"not a picture at all", "not a PNG"),
    "svg": (SVG, "not a PNG"),
    "svg named as png by its first bytes": (b"\x89PNG" + SVG, "not a PNG"),
    "gif": (encoded(RED.convert("P"), "GIF"), "not a PNG"),
    "tiff": (encoded(RED, "TIFF"), "not a PNG"),
    "bmp": (encoded(RED, "BMP"), "not a PNG"),
    "pickle": (pickle.dumps({"a": 1}), "not a PNG"),
    "truncated png": (encoded(Image.effect_noise((200, 200), 90))[:5000], "damaged"),
    "truncated jpeg": (encoded(Image.effect_noise((200, 200), 90), "JPEG")[:3000], "damaged"),
    "truncated webp": (encoded(Image.effect_noise((200, 200), 90), "WEBP")[:3000], "damaged|not a PNG"),
    "png of nothing": (png_claiming(64, 64), "damaged"),
    "13000 x 13000": (png_claiming(13000, 13000), "million pixels"),
    "claims four thousand million pixels": (png_claiming(65535, 65535), "million pixels"),
    "1 x 60000": (png_claiming(1, 60000), "smaller than"),
    "60000 x 10": (png_claiming(60000, 10), "too thin"),
    "one pixel": (encoded(Image.new("RGB", (1, 1))), "smaller than"),
    "30 MB of zeros": (bytes(30_000_000), "larger than"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_in_words(name):
    data, fault = BAD[name]
    start = time.process_time()
    with pytest.raises(RequestError, match=fault) as error:
        open_picture(data)
    assert time.process_time() - start < 2
    assert error.value.code.startswith("picture")
    assert open_picture(encoded(RED)).size == (40, 30)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(RequestError, match="cannot be read"):
        open_picture(tmp_path / "none.png")
    with pytest.raises(RequestError, match="cannot be read"):
        open_picture(tmp_path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_the_three_formats(kind, tmp_path):
    path = tmp_path / "misnamed.txt"
    path.write_bytes(encoded(RED, kind))
    picture = open_picture(path)
    assert picture.mode == "RGB" and picture.size == (40, 30)
    assert abs(np.asarray(picture, int) - (255, 0, 0)).max() < 6


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (10, 10), (255, 0, 0, 0))
    assert open_picture(encoded(clear)).getpixel((5, 5)) == (255, 255, 255)
    half = Image.new("LA", (10, 10), (0, 128))
    assert abs(open_picture(encoded(half)).getpixel((5, 5))[0] - 127) <= 1
    palette = Image.new("P", (10, 10), 0)
    assert open_picture(encoded(palette, transparency=0)).getpixel((5, 5)) == (255, 255, 255)


def test_exif_rotation_is_honoured():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    assert open_picture(encoded(RED, "JPEG", exif=exif)).size == (30, 40)


def test_cmyk_and_16_bit_and_black_and_white():
    cmyk = open_picture(encoded(RED.convert("CMYK"), "JPEG"))
    assert abs(np.asarray(cmyk, int) - (255, 0, 0)).max() < 12
    deep = Image.fromarray(np.full((20, 20), 32768, np.uint16))
    assert abs(open_picture(encoded(deep)).getpixel((3, 3))[0] - 128) <= 1
    assert open_picture(encoded(Image.new("1", (20, 20), 1))).getpixel((3, 3)) == (255, 255, 255)


def test_of_an_animation_the_first_picture():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        assert open_picture(data).getpixel((8, 8)) == (255, 0, 0)


def test_tensors_and_back_are_exact():
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    pixels = to_pixels([picture, picture])
    assert pixels.shape == (2, 3, 64, 64) and pixels.min() >= -1 and pixels.max() <= 1
    assert np.array_equal(np.asarray(to_pictures(pixels)[1]), np.asarray(picture))
    assert torch.equal(as_seen(pixels), pixels)


def test_square_takes_the_middle():
    wide = Image.new("RGB", (90, 30), "white")
    wide.paste(Image.new("RGB", (30, 30), "red"), (30, 0))
    assert np.asarray(square(wide, 10)).reshape(-1, 3).tolist() == [[255, 0, 0]] * 100


def drawing(size: tuple[int, int], box: tuple[int, int, int, int], ground="white", ink="red") -> Image.Image:
    picture = Image.new("RGB", size, ground)
    picture.paste(ink, box)
    return picture


def test_a_small_drawing_is_framed():
    made = np.asarray(framed(drawing((200, 160), (70, 60, 120, 140), "navy")))  # 50 x 80, off the middle
    assert made.shape == (83, 83, 3)
    red = (made == (255, 0, 0)).all(2)
    assert red.sum() == 50 * 80 and red[2:82, 17:67].all()
    assert (made[~red] == (0, 0, 128)).all()
    corner = np.asarray(framed(drawing((100, 100), (0, 0, 50, 50))))  # as much ground on the sides where there was none
    assert corner.shape == (52, 52, 3) and corner[0].tolist() == [[255, 255, 255]] * 52


@pytest.mark.parametrize(
    "picture",
    [
        drawing((100, 100), (3, 20, 97, 60)),  # wide enough as it is
        drawing((100, 100), (50, 50, 55, 55)),  # a speck
        Image.new("RGB", (100, 100), "white"),
        Image.effect_noise((100, 100), 90),
        Image.linear_gradient("L"),
    ],
)
def test_other_pictures_are_left_as_they_are(picture):
    assert framed(picture) is picture


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "CMYK", "I;16"])
def test_large_pictures_are_brought_down(mode):
    if mode == "I;16":
        large = Image.fromarray(np.full((300, 4100), 65535, np.uint16))
    else:
        large = Image.new("RGB", (4100, 300), "white").convert(mode)
    opened = open_picture(encoded(large, "JPEG" if mode == "CMYK" else "PNG"))
    assert opened.size == (1367, 100) and opened.getpixel((500, 50)) == (255, 255, 255)


@pytest.mark.slow
def test_the_largest_picture_takes_bounded_memory_and_time():
    """In a process of its own, whose peak is then this picture's."""
    code = (
        "import io, resource, sys, time; from unclip_core.pictures import open_picture\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "data = sys.stdin.buffer.read(); start, before = time.process_time(), peak()\n"
        "open_picture(data); print(peak() - before, time.process_time() - start)"
    )
    data = encoded(Image.new("RGBA", (6000, 4000), (255, 0, 0, 128)), compress_level=1)
    run = subprocess.run([sys.executable, "-c", code], input=data, cwd=ROOT, capture_output=True, check=True)
    megabytes, seconds = map(float, run.stdout.split())
    assert megabytes < 200 and seconds < 2


def test_every_orientation():
    corner = Image.new("RGB", (40, 30), "black")
    corner.paste((255, 255, 255), (0, 0, 20, 15))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(corner, exif=exif))))
        assert np.array_equal(np.asarray(open_picture(encoded(corner, exif=exif))), np.asarray(wanted))
