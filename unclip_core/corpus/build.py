"""Builds the pocket corpus: ``python -m unclip_core corpus --out FOLDER``.

Sets, each a folder of shards: ``train`` (singles, placed, pairs, shapes, cards, labelled), ``line`` (line drawings, for
CLIP alone), ``icons`` (things that are no emoji, for the decoder alone), ``held_out_pairs`` (1,000 (concept, style)
pairs kept from every training set), ``held_out_style`` (a whole style), ``hires`` and ``hires_held_out`` (1024 px
renderings for the upsamplers). A finished set is not built again.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image
from tqdm import tqdm

from unclip_core.corpus import captions, scenes
from unclip_core.corpus.concepts import Drawing, load_drawings
from unclip_core.corpus.icons import load_icons
from unclip_core.corpus.render import flatten, render, thumbnail, twins
from unclip_core.corpus.shards import write_shards
from unclip_core.corpus.sources import HELD_OUT_STYLE, LINE_STYLES, STYLES, attribution

SIZE, LARGE = 128, 1024
HELD_OUT_PAIRS, TONED, HIRES, HIRES_HELD_OUT = 1000, 2500, 2400, 128
COMPOSED = {"placed": 10000, "pair": 8000, "shapes": 4000, "card": 5000, "labelled": 6000}
CORE_GROUPS = ("faces", "animals", "food", "travel", "activities", "objects")


def is_core(drawing: Drawing) -> bool:
    """The core world: concrete things, without clock faces and skin tones."""
    clock = "o'clock" in drawing.concept.label or "-thirty" in drawing.concept.label
    return drawing.concept.group in CORE_GROUPS and not clock and drawing.tone == 0


def fields(drawing: Drawing | None, kind: str, texts: list[str]) -> dict:
    """The ``json`` of a sample."""
    row = {"captions": texts, "kind": kind}
    if drawing:
        row |= {
            "concept": drawing.concept.code,
            "label": captions.english_name(drawing.concept, drawing.tone),
            "label_ko": captions.korean_name(drawing.concept, drawing.tone),
            "group": drawing.concept.group,
            "style": drawing.style,
            "tone": drawing.tone,
            "core": is_core(drawing),
        }
    return row


def choose_held_out(drawings: list[Drawing], pictures: dict[str, Image.Image], rng: Random) -> set[tuple[str, str]]:
    """1,000 (concept, style) pairs of 1,000 concepts, each with at least four other styles left to train on.

    A drawing that another style repeats almost pixel for pixel (old and new noto share some) is not chosen: it would
    have been seen.
    """
    styles = defaultdict(lambda: defaultdict(list))
    for drawing in drawings:
        if drawing.tone == 0 and drawing.style != HELD_OUT_STYLE.style:
            styles[drawing.concept.code][drawing.style].append(thumbnail(pictures[drawing.key]))
    chosen, codes = set(), sorted(code for code in styles if len(styles[code]) >= 5)
    rng.shuffle(codes)
    for code in codes:
        own = sorted(styles[code])
        rng.shuffle(own)
        for style in own:
            others = [t for s in own if s != style for t in styles[code][s]]
            if not any(twins(thumb, others) for thumb in styles[code][style]):
                chosen.add((code, style))
                break
        if len(chosen) == HELD_OUT_PAIRS:
            break
    return chosen


def singles(
    drawings: list[Drawing], pictures: dict[str, Image.Image], rng: Random
) -> Iterator[tuple[str, Image.Image, dict]]:
    for drawing in drawings:
        texts = captions.of_single(drawing.concept, drawing.style, drawing.tone, rng)
        yield drawing.key, flatten(pictures[drawing.key]), fields(drawing, "single", texts)


def composed(
    drawings: list[Drawing], pictures: dict[str, Image.Image], rng: Random
) -> Iterator[tuple[str, Image.Image, dict]]:
    core = [d for d in drawings if is_core(d)]
    rest = [d for d in drawings if not is_core(d) and d.tone == 0 and d.concept.group in ("people", "symbols", "flags")]
    words = sorted({d.concept.label.lower() for d in core if d.concept.label.isalpha() and len(d.concept.label) <= 8})
    words += ["ipod", "hello", "love", "pizza", "stop", "open", "sale", "free"]

    def sprite(share: float = 1.0) -> scenes.Sprite:
        drawing = rng.choice(core if rng.random() < share else rest)
        return drawing, pictures[drawing.key]

    for kind, count in COMPOSED.items():
        for index in range(count):
            first = sprite(0.8) if kind in ("placed", "labelled") else sprite()
            if kind == "placed":
                picture, texts = scenes.placed(first, SIZE, rng)
            elif kind == "pair":
                picture, texts = scenes.pair(first, sprite(), SIZE, rng)
            elif kind == "shapes":
                picture, texts = scenes.shapes(SIZE, rng)
            elif kind == "card":
                picture, texts = scenes.card(rng.choice(words), SIZE, rng)
            else:
                picture, texts = scenes.labelled(first, rng.choice(words), SIZE, rng)
            yield (
                f"{kind}_{index:05d}",
                picture,
                fields(first[0] if kind in ("placed", "labelled") else None, kind, texts),
            )


def rendered(drawings: list[Drawing]) -> dict[str, Image.Image]:
    """Pictures by key, without those that the renderer gives up on."""
    bar = tqdm(drawings, desc="rendering", unit="drawing", disable=None)
    return {drawing.key: picture for drawing in bar if (picture := render(drawing, SIZE)) is not None}


def line(cache: Path) -> Iterator[tuple[str, Image.Image, dict]]:
    """Line drawings of all concepts that have one."""
    styles = {source.style for source in LINE_STYLES}
    every, _ = load_drawings(cache, (*STYLES, HELD_OUT_STYLE, *LINE_STYLES))
    drawings = [d for d in every if d.style in styles and d.tone == 0]
    pictures = rendered(drawings)
    yield from singles([d for d in drawings if d.key in pictures], pictures, Random(9))


def icons(
    cache: Path, unmatched: dict[str, list[str]], held_out: list[Image.Image]
) -> Iterator[tuple[str, Image.Image, dict]]:
    """Drawings of things that are no emoji, without those that nearly repeat a held-out drawing."""
    drawings, thumbs = load_icons(cache, unmatched, Random(10)), np.stack([thumbnail(p) for p in held_out])
    pictures = rendered(drawings)
    for drawing in drawings:
        if drawing.key in pictures and not twins(thumbnail(pictures[drawing.key]), thumbs):
            yield drawing.key, flatten(pictures[drawing.key]), fields(drawing, "icon", [drawing.concept.label])


def hires(drawings: list[Drawing], rng: Random) -> Iterator[tuple[str, Image.Image, dict]]:
    """1024 px truth for the upsamplers; two in five on a coloured ground."""
    for drawing in drawings:
        picture = render(drawing, LARGE)
        if picture is None:
            continue
        colour = rng.choice([*captions.COLOURS]) if rng.random() < 0.4 else "white"
        ground = scenes.ground_colour(colour, rng) if colour != "white" else (255, 255, 255)
        yield drawing.key, flatten(picture, ground), fields(drawing, "hires", [captions.english_name(drawing.concept)])


def build(out: Path, cache: Path, only: str | None = None) -> dict[str, int]:
    """Builds every set that `out` lacks (or the one named), and returns the number of samples in each it built.

    Raises UnclipError when the art cannot be fetched.
    """
    drawings, unmatched = load_drawings(cache)
    rng = Random(0)
    toned = [d for d in drawings if d.tone and d.style in ("noto", "twemoji", "fluent-flat")]
    kept = [d for d in drawings if d.tone == 0] + rng.sample(toned, TONED)
    pictures = rendered(kept)
    failed = [d.key for d in kept if d.key not in pictures]
    kept = [d for d in kept if d.key in pictures]
    held_out = choose_held_out(kept, pictures, rng)
    own = [d for d in kept if d.style != HELD_OUT_STYLE.style]
    train = [d for d in own if (d.concept.code, d.style) not in held_out]
    pairs = {(d.concept.code, d.style): d for d in own if (d.concept.code, d.style) in held_out and d.tone == 0}
    art = [d for d in train if d.tone == 0 and d.concept.group != "flags"]
    sets = {
        "train/singles": lambda: singles(train, pictures, Random(1)),
        "train/composed": lambda: composed(train, pictures, Random(2)),
        "line": lambda: line(cache),
        "icons": lambda: icons(cache, unmatched, [pictures[d.key] for d in pairs.values()]),
        "held_out_pairs": lambda: singles([*pairs.values()], pictures, Random(3)),
        "held_out_style": lambda: singles([d for d in kept if d.style == HELD_OUT_STYLE.style], pictures, Random(4)),
        "hires_held_out": lambda: hires(Random(5).sample([*pairs.values()], HIRES_HELD_OUT), Random(6)),
        "hires": lambda: hires(Random(7).sample(art, HIRES), Random(8)),
    }
    counts = {}
    for name, samples in sets.items():
        done = out / name / "DONE"
        if done.exists() or (only and only != name):
            continue
        per_shard = 200 if name.startswith("hires") else 2000
        counts[name] = write_shards(out / name, tqdm(samples(), desc=name, unit="picture", disable=None), per_shard)
        done.write_text(str(counts[name]))
    report = {"attribution": attribution(cache), "failed_to_render": failed, "unmatched": unmatched}
    (out / "corpus.json").write_text(json.dumps(report, ensure_ascii=False, indent=1), encoding="utf-8")
    return counts


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m unclip_core corpus``."""
    parser = argparse.ArgumentParser(prog="python -m unclip_core corpus", description="Build the pocket corpus.")
    parser.add_argument("--out", type=Path, default=Path("data/corpus"), help="folder of the shards")
    parser.add_argument("--cache", type=Path, default=Path("data/npm"), help="where the fetched packages are kept")
    parser.add_argument("--only", help="build one set, such as train/singles")
    options = parser.parse_args(arguments)
    for name, count in build(options.out, options.cache, options.only).items():
        print(f"{name}: {count} pictures")
