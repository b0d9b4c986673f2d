"""A word written on a picture, CLIP's zero-shot answer to it, and decodings of its embedding (paper, section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from components.engine import Engine
from components.live import Job
from components.subject import SIDE
from components.theme import ASSETS
from components.visuals import say
from unclip_core.errors import RequestError
from unclip_core.latents import Latent
from unclip_core.pictures import square
from unclip_core.request import Limit, checked, checked_number, checked_prompt

CANVAS = 512  # the word is written at this size, then seen by CLIP as any picture is
FONT = ASSETS / "fonts" / "Pretendard-ExtraBold.subset.woff2"
COLOURS = {
    "ink": "#1b1822", "white": "#ffffff", "red": "#d92d20", "blue": "#1d4ed8", "green": "#15803d", "yellow": "#facc15",
}  # fmt: skip
PLACE = Limit("the word's place", 0, 1, whole=False)
WORD_SIZE = Limit("the word's size", 0.05, 0.6, whole=False)
DRAWN = Limit("the number of pictures", 1, 8)
MOST_CLASSES, LONGEST_WORD = 20, 40


def checked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The lab's fields as its recipes hold them. Raises RequestError that names the one at fault."""
    word = checked_prompt(values["word"], empty=True)
    if len(word) > LONGEST_WORD:
        raise RequestError(f"The word is too long: at most {LONGEST_WORD} characters.", "word_long", most=LONGEST_WORD)
    if values["colour"] not in COLOURS:
        raise RequestError(f"The colour must be one of {', '.join(COLOURS)}.", "choice", field="colour")
    return {
        "word": word,
        "x": checked_number(PLACE, values["x"], "x"),
        "y": checked_number(PLACE, values["y"], "y"),
        "word_size": checked_number(WORD_SIZE, values["word_size"], "word_size"),
        "colour": values["colour"],
        "label": bool(values["label"]),
        "classes": ", ".join(listed_classes(values["classes"], word)),
        "n": checked_number(DRAWN, values["n"], "n"),
        "seed": checked("seed", values["seed"]),
        "size": checked("size", values["size"]),
    }


def listed_classes(classes: Any, word: str) -> list[str]:
    """ "apple, cat" -> ["apple", "cat"], each once, with the word that was written among them.

    Raises RequestError unless there are 2 to MOST_CLASSES.
    """
    found = [checked_prompt(one, empty=True) for one in str(classes or "").replace("\n", ",").split(",")]
    listed = list(dict.fromkeys(one for one in [*found, word] if one))
    if not 2 <= len(listed) <= MOST_CLASSES:
        raise RequestError(f"Name 2 to {MOST_CLASSES} classes, with commas between them.", "classes", most=MOST_CLASSES)
    return listed


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The page's own face, which its canvas draws with too."""
    return ImageFont.truetype(str(FONT), size)


def write_word(picture: Image.Image, values: Mapping[str, Any]) -> Image.Image:
    """The picture (its middle square as CLIP sees it) with the word on it, CANVAS px, RGB.

    values: checked; x, y place the word's middle as shares of the side, word_size is the letters' height, "label" puts
    a white sticker behind it. A word that is too wide is made smaller. assets/js/typographic.js draws the same.
    """
    canvas = square(picture, SIDE).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)
    if not values["word"]:
        return canvas
    draw, size = ImageDraw.Draw(canvas), round(values["word_size"] * CANVAS)
    left, _, right, _ = draw.textbbox((0, 0), values["word"], font=font(size))
    size = max(8, round(size * min(1.0, 0.9 * CANVAS / max(1, right - left))))
    left, top, right, bottom = draw.textbbox((0, 0), values["word"], font=font(size))
    middle_x, middle_y = values["x"] * CANVAS, values["y"] * CANVAS
    if values["label"]:
        wide, high = (right - left) / 2 + 0.3 * size, (bottom - top) / 2 + 0.25 * size
        box = (middle_x - wide, middle_y - high, middle_x + wide, middle_y + high)
        draw.rounded_rectangle(box, 0.15 * size, fill="#ffffff", outline="#c9c2b8", width=3)
    place = middle_x - (left + right) / 2, middle_y - (top + bottom) / 2
    draw.text(place, values["word"], font=font(size), fill=COLOURS[values["colour"]])
    return canvas


class Classifier:
    """CLIP's zero-shot answer over some classes, by the softmax of scaled cosines."""

    def __init__(self, engine: Engine, classes: Sequence[str]) -> None:
        self.engine, self.classes = engine, list(classes)
        self.z_t = torch.nn.functional.normalize(engine.model.encode_text(self.classes).pooled, dim=-1)
        self.scale = float(engine.model.stages["clip"].logit_scale)

    def of_embeddings(self, z_i: torch.Tensor) -> list[list[float]]:
        """z_i [B, D] -> the probabilities of each row's classes."""
        cosines = torch.nn.functional.normalize(z_i.to(self.z_t), dim=-1) @ self.z_t.T
        return (self.scale * cosines).softmax(-1).tolist()

    def answer(self, picture: Image.Image) -> tuple[str, float]:
        """The likeliest class of a picture, and how likely."""
        (shares,) = self.of_embeddings(self.engine.model.encode_image([picture], close=False))
        best = max(range(len(shares)), key=shares.__getitem__)
        return self.classes[best], shares[best]


class Attack:
    """A picture and the same with a word on it: both embeddings [1, D], and CLIP's answer to both."""

    def __init__(self, engine: Engine, picture: Image.Image, values: Mapping[str, Any]) -> None:
        self.clean, self.attacked = square(picture, SIDE), write_word(picture, values)
        self.classifier = Classifier(engine, listed_classes(values["classes"], values["word"]))
        # The same way for both: what CLIP is shown differs by the word alone.
        plain = write_word(picture, {**values, "word": ""})
        self.z_i = engine.model.encode_image([plain, self.attacked], close=False)
        self.before, self.after = self.classifier.of_embeddings(self.z_i)

    def bars(self, word: str) -> dict[str, Any]:
        """The value of the bars."""
        rows = zip(self.classifier.classes, self.before, self.after)
        return {"classes": [{"name": n, "before": b, "after": a, "word": n == word} for n, b, a in rows]}

    def best(self, shares: Sequence[float]) -> tuple[str, str]:
        """The likeliest class, and its probability in percent."""
        share, name = max(zip(shares, self.classifier.classes))
        return name, f"{100 * share:.0f}"

    def jobs(self, values: Mapping[str, Any], source: tuple[Image.Image, str | None]) -> list[tuple[int, int, Job]]:
        """Decodings of the clean (row 0) and the attacked embedding (row 1), with the same noise in a column."""
        made = []
        for row, kind in enumerate(("clean", "attacked")):
            for column in range(values["n"]):
                seed = (values["seed"] + column) % 2**32
                latent = Latent(self.z_i[row : row + 1].cpu())
                name = say(f"typographic.{kind}_name", seed=seed)
                request = {**values, "seed": seed, "embedding": kind}
                options = {"seed": seed, "size": values["size"]}
                made.append((row, column + 1, Job(latent, request, name, options=options, sources=(source,))))
        return made


def summary(attack: Attack, answers: Sequence[tuple[int, str]], n: int) -> dict[str, Any]:
    """What came of it: CLIP's answer before and after, and how often the decoded pictures still show the former."""
    (was, before), (now, after) = attack.best(attack.before), attack.best(attack.after)
    still = sum(1 for row, answer in answers if row == 1 and answer == was)
    return say("typographic.summary", was=was, before=before, now=now, after=after, still=still, n=n)
