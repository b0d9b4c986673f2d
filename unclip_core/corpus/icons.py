"""Drawings of things that are no emoji, for the decoder alone: more shapes to draw than the concepts have."""

from __future__ import annotations

import colorsys
import json
import re
from pathlib import Path
from random import Random

from unclip_core.corpus.concepts import Concept, Drawing, load_package
from unclip_core.corpus.sources import GLYPHS, ICONS, STYLES, fetch

SIZE = re.compile(r"-(16|20|24|28|32|48)$")  # at the end of a name: the same drawing in several
LOGOS = ("Brand / Logo", "Logos")  # categories left out: trademarks
VIEW = 24  # side of a glyph's view box
GROUNDS = (
    f'<rect width="{VIEW}" height="{VIEW}" rx="{{corner}}" fill="{{colour}}"/>',
    f'<circle cx="{VIEW / 2}" cy="{VIEW / 2}" r="{VIEW / 2}" fill="{{colour}}"/>',
)


def load_icons(cache: Path, unmatched: dict[str, list[str]], rng: Random) -> list[Drawing]:
    """What the emoji packages draw beside the known concepts (`unmatched`: names by style), coloured icon sets, and
    glyphs in a colour of chance, half of them white on a ground of it."""
    drawings = []
    for source in (*STYLES, *ICONS, GLYPHS):
        icons = load_package(source, cache)
        for name in unmatched.get(source.style, ()) if source in STYLES else _names(fetch(source, cache), icons):
            icon, concept = icons[name], Concept("", SIZE.sub("", name).replace("-", " "), "", (), (), "icons", 0)
            body = _coloured(icon["body"], rng) if source == GLYPHS else icon["body"]
            drawings.append(Drawing(concept, source.style, name, body, icon["width"], icon["height"]))
    return drawings


def _names(folder: Path, icons: dict[str, dict]) -> list[str]:
    """Icons shown in their set, without logos, and each in its largest size (``video-16``, ``video-48``)."""
    path = folder / "metadata.json"
    categories = json.loads(path.read_text(encoding="utf-8")).get("categories", {}) if path.exists() else {}
    logos = {name for category in LOGOS for name in categories.get(category, ())}
    sizes: dict[str, tuple[int, str]] = {}
    for name, icon in icons.items():
        if icon.get("hidden") or name in logos:
            continue
        size, stem = SIZE.search(name), SIZE.sub("", name)
        sizes[stem] = max(sizes.get(stem, (0, "")), (int(size[1]) if size else 0, name))
    return [name for _, name in sizes.values()]


def _coloured(glyph: str, rng: Random) -> str:
    """A one-colour glyph in a colour of chance, or white on a ground of that colour."""
    red, green, blue = colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.3, 1), rng.uniform(0.3, 1))
    colour = f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"
    if rng.random() < 0.5:
        return f'<g color="{colour}">{glyph}</g>'
    ground = rng.choice(GROUNDS).format(corner=rng.choice((0, 3, 5)), colour=colour)
    scale = rng.uniform(0.6, 0.8)
    edge = VIEW * (1 - scale) / 2
    return f'{ground}<g color="white" transform="translate({edge} {edge}) scale({scale})">{glyph}</g>'
