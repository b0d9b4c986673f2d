"""Two judges that look at pixels alone: coloured shapes in a relation, and written words.

They know how the corpus draws such pictures (`corpus.scenes`), need no network, and are checked on true drawings: the
study reports what they make of those beside what they make of generated ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from unclip_core.corpus import scenes
from unclip_core.corpus.captions import COLOURS, RELATIONS

SIDE = 64
Thing = tuple[str, str]  # a colour and a shape

# ---- coloured shapes ----


@dataclass(frozen=True)
class ShapesTask:
    """A caption of two shapes, unlike in colour and in shape, what it says of them, and a true drawing [3, 64, 64]."""

    caption: str
    first: Thing
    relation: str
    second: Thing
    true: NDArray[np.uint8]


def shapes_tasks(count: int, seed: int = 0) -> list[ShapesTask]:
    """Drawn by the corpus's own generator, from a stream that the corpus does not use."""
    rng, tasks = Random(f"shapes {seed}"), []
    while len(tasks) < count:
        picture, captions = scenes.shapes(2 * SIDE, rng)
        if found := _PAIR.fullmatch(captions[0]):
            colour, shape, relation, other_colour, other_shape = found.groups()
            if colour != other_colour and shape != other_shape:
                tasks.append(
                    ShapesTask(captions[0], (colour, shape), relation, (other_colour, other_shape), small(picture))
                )
    return tasks


_PAIR = re.compile(rf"an? (\w+) (\w+) ({'|'.join(RELATIONS)}) an? (\w+) (\w+)")


def small(picture: Image.Image) -> NDArray[np.uint8]:
    """A 128 px picture as [3, 64, 64] uint8, area-averaged as the corpus is."""
    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.BOX)).transpose(2, 0, 1)


def judge_shapes(pixels: NDArray[np.uint8], task: ShapesTask) -> dict[str, bool]:
    """What of the caption a picture [3, 64, 64] on white shows.

    "colours": both colours are there; "binding": both things are, each in its own colour; "swapped": both, in each
    other's colours; "relation": the colours stand on the right sides; "all": binding and relation.
    """
    horizontal = RELATIONS[task.relation][1][0] != 0
    halves = np.array_split(pixels, 2, axis=2 if horizontal else 1)
    one, two = (_thing(half) for half in halves)
    if task.relation in ("to the right of", "below"):
        one, two = two, one  # `one` is now where the caption's first thing belongs
    wanted, swapped = {task.first, task.second}, {(task.second[0], task.first[1]), (task.first[0], task.second[1])}
    found = {one, two}
    binding, relation = found == wanted, (one and two) and (one[0], two[0]) == (task.first[0], task.second[0])
    return {
        "colours": bool(one and two) and {one[0], two[0]} == {task.first[0], task.second[0]},
        "binding": binding,
        "swapped": found == swapped,
        "relation": bool(relation),
        "all": binding and bool(relation),
    }


def _thing(pixels: NDArray[np.uint8]) -> Thing | None:
    """The colour and shape of the largest thing on white [3, H, W]; None where there is next to nothing."""
    values = pixels.astype(np.float64)
    mask = (255 - values).max(0) > 70
    labels, count = ndimage.label(mask)
    if not count:
        return None
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
    mask = labels == 1 + int(np.argmax(sizes))
    if mask.sum() < 0.02 * SIDE**2:
        return None
    colour = np.median(values[:, ndimage.binary_erosion(mask) if mask.sum() > 80 else mask], axis=1)
    names = [name for name in COLOURS if name != "white"]
    name = names[int(np.argmin([np.square(colour - COLOURS[n][1]).sum() for n in names]))]
    own = _cropped(ndimage.binary_fill_holes(mask))
    overlaps = {shape: np.minimum(own, t).sum() / np.maximum(own, t).sum() for shape, t in _silhouettes().items()}
    return name, max(overlaps, key=overlaps.get)


@cache
def _silhouettes() -> dict[str, NDArray]:
    return {name: _cropped(np.asarray(scenes.shape(name, (0, 0, 0), SIDE))[..., 3] > 127) for name in scenes.SHAPES}


def _cropped(mask: NDArray, size: tuple[int, int] = (24, 24)) -> NDArray:
    """A mask cut to what it holds and brought to size (width, height), as floats in 0..1."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inner = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(Image.fromarray((inner * 255).astype(np.uint8)).resize(size, Image.BILINEAR)) / 255


# ---- written words ----

# Half stand on cards of the training set, half do not.
SEEN = (
    "pizza", "love", "hello", "stop", "open", "sale", "free", "ipod",
    "guitar", "rocket", "candle", "dragon", "rabbit", "banana", "penguin",
)  # fmt: skip
UNSEEN = (
    "winter", "ocean", "valley", "silver", "museum", "forest", "simple", "market",
    "number", "friday", "spring", "summer", "coffee", "famous", "music",
)  # fmt: skip
_BOX = (48, 14)


@dataclass(frozen=True)
class WordTask:
    """A caption that asks for a word on a card, whether training showed that word, and a true card [3, 64, 64]."""

    caption: str
    word: str
    seen: bool
    true: NDArray[np.uint8]


def word_tasks(count: int, seed: int = 0) -> list[WordTask]:
    """The words in turn, each as "a sign that says WORD"."""
    rng, tasks = Random(f"cards {seed}"), []
    words = [word for pair in zip(SEEN, UNSEEN) for word in pair]
    for i in range(count):
        word = words[i % len(words)]
        picture, _ = scenes.card(word, 2 * SIDE, rng)
        tasks.append(WordTask(f"a sign that says {word}", word, word in SEEN, small(picture)))
    return tasks


def read_word(pixels: NDArray[np.uint8]) -> str | None:
    """The word of SEEN and UNSEEN whose lettering a picture [3, 64, 64] is most like; None where there is no ink."""
    values = pixels.astype(np.float64)
    edge = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
    ink = np.abs(values - np.median(edge, axis=1)[:, None, None]).max(0)
    if ink.max() < 50:
        return None
    ink = ink / ink.max()
    mask = ndimage.binary_opening(ink > 0.4, structure=np.ones((2, 1))) | (ink > 0.6)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    inner = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    own, aspect = _lettering(inner), np.log(inner.shape[1] / inner.shape[0])
    scores = {}
    for word, templates in _templates().items():
        scores[word] = max((own * t).sum() - 0.3 * abs(aspect - a) for t, a in templates)
    return max(scores, key=scores.get)


@cache
def _templates() -> dict[str, list[tuple[NDArray, float]]]:
    made = {}
    for word in (*SEEN, *UNSEEN):
        made[word] = []
        for written in (word, word.upper(), word.capitalize()):
            for weight in (0, 1, 2):
                canvas = Image.new("RGB", (2 * SIDE, 2 * SIDE), "white")
                scenes.write(canvas, written, (SIDE, SIDE, 1.7 * SIDE), (0, 0, 0), weight)
                ink = 1 - small(canvas)[0] / 255.0
                rows, columns = np.flatnonzero((ink > 0.4).any(1)), np.flatnonzero((ink > 0.4).any(0))
                inner = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
                made[word].append((_lettering(inner), float(np.log(inner.shape[1] / inner.shape[0]))))
    return made


def _lettering(ink: NDArray) -> NDArray:
    """Ink [h, w] in 0..1 brought to one size, with mean 0 and norm 1."""
    sized = np.asarray(Image.fromarray((ink.clip(0, 1) * 255).astype(np.uint8)).resize(_BOX, Image.BILINEAR)).astype(
        np.float64
    )
    sized -= sized.mean()
    return sized / max(np.linalg.norm(sized), 1e-9)
