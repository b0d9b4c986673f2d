"""Composed pictures: grounds, placements, pairs in a relation, coloured shapes, word cards, things with words on them.

Every function returns (RGB picture, captions) and draws all chance from the `Random` it is given.
"""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw, ImageFont

from unclip_core.corpus import captions
from unclip_core.corpus.concepts import Drawing

Sprite = tuple[Drawing, Image.Image]  # a drawing and its RGBA rendering
SHAPES = {"square": "사각형", "circle": "원", "triangle": "삼각형", "star": "별", "diamond": "마름모", "heart": "하트"}


def ground_colour(name: str, rng: Random) -> tuple[int, int, int]:
    """A shade of the named colour: the table's own, moved a little in each channel."""
    return tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in captions.COLOURS[name][1])


def names(drawing: Drawing) -> tuple[str, str]:
    """(thing with its article, Korean name)."""
    name = captions.english_name(drawing.concept, drawing.tone)
    return captions.with_article(name, drawing.concept), captions.korean_name(drawing.concept, drawing.tone)


def _paste(canvas: Image.Image, sprite: Image.Image, centre: tuple[float, float], size: float) -> None:
    side = max(8, round(size))
    small = sprite.resize((side, side), Image.LANCZOS)
    canvas.paste(small, (round(centre[0] - side / 2), round(centre[1] - side / 2)), small.getchannel("A"))


def placed(sprite: Sprite, size: int, rng: Random) -> tuple[Image.Image, list[str]]:
    """One thing, moved and scaled, on a coloured ground."""
    drawing, picture = sprite
    colour = rng.choice([*captions.COLOURS])
    canvas = Image.new("RGB", (size, size), ground_colour(colour, rng) if colour != "white" else (255, 255, 255))
    side = size * rng.uniform(0.5, 0.95)
    slack = (size - side) / 2
    _paste(canvas, picture, (size / 2 + rng.uniform(-slack, slack), size / 2 + rng.uniform(-slack, slack)), side)
    thing, korean = names(drawing)
    return canvas, captions.on_ground(thing, korean, colour)


def _pair(canvas: Image.Image, first: Image.Image, second: Image.Image, relation: str, rng: Random) -> None:
    dx, dy = captions.RELATIONS[relation][1]
    size, reach = canvas.width, canvas.width * rng.uniform(0.23, 0.26)
    for picture, sign in ((first, 1), (second, -1)):
        jitter = rng.uniform(-0.06, 0.06) * size
        centre = (
            size / 2 + sign * dx * reach + (jitter if dy else 0),
            size / 2 + sign * dy * reach + (jitter if dx else 0),
        )
        _paste(canvas, picture, centre, size * rng.uniform(0.4, 0.49))


def pair(first: Sprite, second: Sprite, size: int, rng: Random) -> tuple[Image.Image, list[str]]:
    """Two things, one to the left of, to the right of, above or below the other."""
    relation = rng.choice([*captions.RELATIONS])
    colour = rng.choice([*captions.COLOURS]) if rng.random() < 0.3 else "white"
    canvas = Image.new("RGB", (size, size), ground_colour(colour, rng) if colour != "white" else (255, 255, 255))
    _pair(canvas, first[1], second[1], relation, rng)
    (one, one_ko), (two, two_ko) = names(first[0]), names(second[0])
    return canvas, captions.of_pair(one, two, one_ko, two_ko, relation)


def shape(name: str, colour: tuple[int, int, int], size: int) -> Image.Image:
    """A plain coloured shape as an RGBA sprite, drawn four times larger and averaged down."""
    from math import cos, pi, sin

    s = size * 4
    picture = Image.new("RGBA", (s, s))
    draw = ImageDraw.Draw(picture)
    a, b, m = s * 0.1, s * 0.9, s / 2
    if name == "square":
        draw.rectangle((a, a, b, b), fill=colour)
    elif name == "circle":
        draw.ellipse((a, a, b, b), fill=colour)
    elif name == "triangle":
        draw.polygon([(m, a), (b, b), (a, b)], fill=colour)
    elif name == "diamond":
        draw.polygon([(m, a), (b, m), (m, b), (a, m)], fill=colour)
    elif name == "star":
        points = [(0.45 if i % 2 == 0 else 0.19, pi * i / 5) for i in range(10)]
        draw.polygon([(m + s * r * sin(t), m - s * r * cos(t)) for r, t in points], fill=colour)
    else:  # heart
        curve = [2 * pi * i / 80 for i in range(80)]
        xy = [(16 * sin(t) ** 3, 13 * cos(t) - 5 * cos(2 * t) - 2 * cos(3 * t) - cos(4 * t)) for t in curve]
        draw.polygon([(m + x * s * 0.025, m - (y + 2) * s * 0.025) for x, y in xy], fill=colour)
    return picture.resize((size, size), Image.BOX)


def shapes(size: int, rng: Random) -> tuple[Image.Image, list[str]]:
    """One coloured shape, or two in a relation: what attribute binding is trained and tested on."""
    colours = [c for c in captions.COLOURS if c != "white"]
    chosen = [(rng.choice(colours), rng.choice([*SHAPES])) for _ in range(2)]
    sprites = [shape(name, ground_colour(colour, rng), size) for colour, name in chosen]
    canvas = Image.new("RGB", (size, size), "white")
    (one, one_ko), (two, two_ko) = [
        (captions.with_article(f"{c} {s}"), f"{captions.COLOURS[c][0]} {SHAPES[s]}") for c, s in chosen
    ]
    if rng.random() < 0.25:
        _paste(canvas, sprites[0], (size / 2, size / 2), size * rng.uniform(0.5, 0.95))
        return canvas, [one, f"{one} on white", one_ko]
    relation = rng.choice([*captions.RELATIONS])
    _pair(canvas, *sprites, relation, rng)
    return canvas, captions.of_pair(one, two, one_ko, two_ko, relation)


def write(
    canvas: Image.Image, word: str, box: tuple[float, float, float], colour: tuple[int, int, int], weight: int
) -> None:
    """Writes `word` centred at box[:2] (pixels), no wider than box[2], with Pillow's own font; `weight` thickens it."""
    draw = ImageDraw.Draw(canvas)
    points = 0.5 * canvas.height
    length = draw.textlength(word, font=ImageFont.load_default(points)) + 2 * weight
    font = ImageFont.load_default(max(7.0, min(points * box[2] / length, 0.34 * canvas.height)))
    draw.text(box[:2], word, font=font, fill=colour, anchor="mm", stroke_width=weight, stroke_fill=colour)


def card(word: str, size: int, rng: Random) -> tuple[Image.Image, list[str]]:
    """A card: a word on a plain ground, dark on light or light on dark."""
    colour = rng.choice([*captions.COLOURS])
    ground = ground_colour(colour, rng) if colour != "white" else (255, 255, 255)
    ink = (20, 20, 25) if sum(ground) > 380 else (255, 255, 255)
    canvas = Image.new("RGB", (size, size), ground)
    wide = size * rng.uniform(0.7, 0.94)
    written = rng.choice([word, word, word.upper(), word.capitalize()])
    write(canvas, written, (size / 2, size * rng.uniform(0.3, 0.7), wide), ink, rng.choice([0, 1, 1, 2]))
    return canvas, captions.of_word(word)


def labelled(sprite: Sprite, word: str, size: int, rng: Random) -> tuple[Image.Image, list[str]]:
    """A thing with a word written over it, on a strip of paper or straight on it: what a typographic attack is."""
    drawing, picture = sprite
    canvas = Image.new("RGB", (size, size), "white")
    _paste(canvas, picture, (size / 2, size / 2), size * rng.uniform(0.75, 1.0))
    y, wide = size * rng.uniform(0.25, 0.8), size * rng.uniform(0.5, 0.9)
    ink = (20, 20, 25)
    if rng.random() < 0.7:
        tall = size * rng.uniform(0.13, 0.18)
        ImageDraw.Draw(canvas).rectangle(
            (size / 2 - wide / 2 - 4, y - tall, size / 2 + wide / 2 + 4, y + tall), fill="white"
        )
    elif rng.random() < 0.5:
        ink = (255, 255, 255)
    write(canvas, rng.choice([word, word, word.upper()]), (size / 2, y, wide), ink, rng.choice([0, 1, 1]))
    thing, korean = names(drawing)
    return canvas, captions.of_labelled(thing, korean, word)
