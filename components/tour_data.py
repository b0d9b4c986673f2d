"""The tour's chapters: where each leads, and the shipped figure it shows (made by `python -m components.showcase`)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

FOLDER = Path(__file__).parent.parent / "assets" / "examples" / "tour"


class Chapter(NamedTuple):
    """name: of its texts ("tour.<name>.title") and its figure. links: a lab and its fields each, language by language
    where they hold words."""

    name: str
    links: tuple[tuple[str, dict[str, Any]], ...]


CHAPTERS = (
    Chapter("story", (("create", {"prompt": {"en": "a red apple", "ko": "빨간 사과"}, "seed": 0}),)),
    Chapter("clip", (("map", {"layout": "umap"}),)),
    Chapter("prior", (("priors", {"prompt": {"en": "red apple", "ko": "빨간 사과"}}),)),
    Chapter("decoder", (("create", {"prompt": {"en": "a rocket", "ko": "로켓"}, "seed": 0}),)),
    Chapter("halves", (("variations", {"example": "cat-face", "eta": 0.5}),)),
    Chapter("between", (("interpolate", {"example": "cat-face,dog-face", "path": "line"}),)),
    Chapter(
        "diff",
        (
            (
                "text_diff",
                {
                    "example": "red-apple",
                    "caption_from": {"en": "a red apple", "ko": "빨간 사과"},
                    "caption_to": {"en": "a lemon", "ko": "레몬"},
                },
            ),
        ),
    ),
    Chapter(
        "knows",
        (
            ("pca", {"example": "red-apple", "noise": "fixed"}),
            ("typographic", {"example": "dog-face", "word": {"en": "pizza", "ko": "피자"}}),
        ),
    ),
    Chapter("limits", (("limits", {"kind": "binding"}),)),
)


def links(chapter: Chapter) -> list[dict[str, str]]:
    """Where a chapter leads: {"lab", "en": address, "ko": address}."""
    found = []
    for lab, fields in chapter.links:
        told = {
            lang: {name: value[lang] if isinstance(value, dict) else value for name, value in fields.items()}
            for lang in ("en", "ko")
        }
        found.append(
            {"lab": lab} | {lang: f"./?{urlencode({'lab': lab, **one, 'lang': lang})}" for lang, one in told.items()}
        )
    return found


@cache
def shipped() -> dict[str, Any]:
    """The shipped figures by chapter and the pack that made them: {"pack": {...}, "figures": {...}}, empty if none."""
    try:
        return json.loads((FOLDER / "tour.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"pack": {}, "figures": {}}
