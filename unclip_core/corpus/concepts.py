"""Concepts (what a picture is of) joined with drawings (one concept in one style)."""

from __future__ import annotations

import json
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from unclip_core.corpus.sources import HELD_OUT_STYLE, LABELS, STYLES, Source, fetch

GROUPS = ("faces", "people", "components", "animals", "food", "travel", "activities", "objects", "symbols", "flags")
TONES = ("", "light", "medium-light", "medium", "medium-dark", "dark")
# Names that no rule maps to the emojibase label.
ALIASES = {
    "2hearts": "two-hearts", "adult": "person", "amazed-face": "astonished-face",
    "americasglobe": "globe-showing-americas", "amusing-face": "grinning-squinting-face", "angry": "angry-face",
    "anguish": "anguished-face", "aok": "ok-hand", "articulatedlorry": "articulated-lorry",
    "asiaaustraliaglobe": "globe-showing-asia-australia", "astonished": "astonished-face", "aubergine": "eggplant",
    "automatedtellermachine": "atm-sign", "babychick": "baby-chick", "bactriancamel": "two-hump-camel",
    "banknotedollar": "dollar-banknote", "banknoteeuro": "euro-banknote", "banknotepound": "pound-banknote",
    "banknoteyen": "yen-banknote", "bear-face": "bear", "bearded-person": "person-beard", "beermug": "beer-mug",
    "birthdaycake": "birthday-cake", "blackheart": "heart-suit", "blond-haired-person": "person-blond-hair",
    "bride-with-veil": "person-with-veil", "cake": "birthday-cake",
    "cat-face-with-tears-of-joy": "cat-with-tears-of-joy", "cat-face-with-wry-smile": "cat-with-wry-smile",
    "clinkingbeermugs": "clinking-beer-mugs", "cookedrice": "cooked-rice", "crazy-face": "zany-face",
    "crying-cat-face": "crying-cat", "curryandrice": "curry-rice", "direct-hit": "bullseye",
    "dizzy-face": "face-with-crossed-out-eyes", "dromedarycamel": "camel", "ear-of-maize": "ear-of-corn",
    "earofmaize": "ear-of-corn", "europeafricaglobe": "globe-showing-europe-africa",
    "father-christmas": "santa-claus", "firengine": "fire-engine",
    "fishcakewithswirldesign": "fish-cake-with-swirl", "fox-face": "fox", "frenchfries": "french-fries",
    "frog-face": "frog", "frontfacingbabychick": "front-facing-baby-chick", "greenapple": "green-apple",
    "grinning-cat-face": "grinning-cat", "grinning-cat-face-with-smiling-eyes": "grinning-cat-with-smiling-eyes",
    "grinningface": "grinning-face", "hamster-face": "hamster", "heart": "red-heart",
    "heavyblackheart": "red-heart", "horse-1": "horse", "hotbeverage": "hot-beverage", "hottopping": "hot-beverage",
    "hugging-face": "smiling-face-with-open-hands", "icecream": "ice-cream", "kissing-cat-face": "kissing-cat",
    "koala-face": "koala", "ladybeetle": "lady-beetle", "lion-face": "lion", "motor-cycle": "motorcycle",
    "panda-face": "panda", "personwithblondhair": "person-blond-hair", "police-cars-light": "police-car-light",
    "policeofficer": "police-officer", "poultryleg": "poultry-leg", "pouting-cat-face": "pouting-cat",
    "pouting-face": "enraged-face", "redapple": "red-apple", "rhino": "rhinoceros", "ricecracker": "rice-cracker",
    "roastedsweetpotato": "roasted-sweet-potato", "slice-of-pizza": "pizza", "sliceofpizza": "pizza",
    "smiling-cat-face-with-heart-eyes": "smiling-cat-with-heart-eyes",
    "smilingfacewithsunglasses": "smiling-face-with-sunglasses", "softicecream": "soft-ice-cream",
    "speakingheadinsilhouette": "speaking-head", "steamingbowl": "steaming-bowl", "strawberry-1": "strawberry",
    "thumbsdown": "thumbs-down", "thumbsup": "thumbs-up", "turtle-1": "turtle", "unicorn-face": "unicorn",
    "weary-cat-face": "weary-cat", "whitesmilingface": "smiling-face",
}  # fmt: skip


@dataclass(frozen=True)
class Concept:
    """An emoji: its code, its names and keywords in English and Korean, and where Unicode files it."""

    code: str
    label: str
    label_ko: str
    tags: tuple[str, ...]
    tags_ko: tuple[str, ...]
    group: str
    subgroup: int


@dataclass(frozen=True)
class Drawing:
    """One concept drawn in one style: the SVG body in its own view box. `tone` is 0 (none) or a skin tone 1 to 5."""

    concept: Concept
    style: str
    name: str
    body: str
    width: int
    height: int
    tone: int = 0

    @property
    def key(self) -> str:
        return f"{self.style}_{self.name}"


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", plain.lower().replace("'", "")).strip("-")


def _plain(code: str) -> str:
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


def load_concepts(cache: Path) -> list[Concept]:
    """Every emojibase concept with both labels (regional indicator letters left out)."""
    folder = fetch(LABELS, cache)
    korean = {e["hexcode"]: e for e in json.loads((folder / "ko" / "data.json").read_text(encoding="utf-8"))}
    concepts = []
    for entry in json.loads((folder / "en" / "data.json").read_text(encoding="utf-8")):
        if entry.get("group") is None:
            continue
        other = korean[entry["hexcode"]]
        concepts.append(
            Concept(
                code=_plain(entry["hexcode"]),
                label=entry["label"].replace("’", "'"),
                label_ko=other["label"],
                tags=tuple(entry.get("tags", ())),
                tags_ko=tuple(other.get("tags", ())),
                group=GROUPS[entry["group"]],
                subgroup=entry["subgroup"],
            )
        )
    return concepts


class _Names:
    """Maps an icon's name, or its code points, to a concept and a skin tone."""

    def __init__(self, concepts: list[Concept], chars: list[dict[str, str]]):
        self.by_code = {c.code: c for c in concepts}
        self.by_name = {}
        for table in chars:  # other packages' names for a code point serve as synonyms
            for code, name in table.items():
                if _plain(code) in self.by_code:
                    self.by_name.setdefault(name, self.by_code[_plain(code)])
        self.by_name.update({_slug(c.label): c for c in concepts})
        self.by_name.update({a: self.by_name[b] for a, b in ALIASES.items() if b in self.by_name})
        squashed = defaultdict(set)
        for name, concept in self.by_name.items():
            squashed[name.replace("-", "")].add(concept)
        self.by_squashed = {name: found.pop() for name, found in squashed.items() if len(found) == 1}

    def find(self, name: str) -> tuple[Concept, int] | None:
        tone = 0
        for index, word in enumerate(TONES[1:], 1):
            for ending in (f"-{word}-skin-tone", f"-{word}", f"-tone{index}"):
                if name.endswith(ending) and name not in self.by_name:
                    base = name[: -len(ending)]
                    if base in self.by_name and self.by_name[base].group in ("people", "activities"):
                        name, tone = base, index
        for candidate in (
            name,
            name.replace("flag-for-flag-", "flag-").replace("flag-for-", "flag-"),
            re.sub(r"-\d$", "", name),
            name + "-face",
            re.sub(r"-\d$", "", name) + "-face",
        ):
            concept = self.by_name.get(candidate) or self.by_squashed.get(candidate.replace("-", ""))
            if concept:
                return concept, tone
        return None


def load_package(source: Source, cache: Path) -> dict[str, dict]:
    """Every icon of a package by name: its SVG ``body``, ``width`` and ``height``, and what else the package says."""
    package = json.loads((fetch(source, cache) / "icons.json").read_text(encoding="utf-8"))
    usual = {side: package.get(side, 16) for side in ("width", "height")}
    return {name: usual | icon for name, icon in package["icons"].items()}


def load_drawings(
    cache: Path, sources: tuple[Source, ...] = (*STYLES, HELD_OUT_STYLE)
) -> tuple[list[Drawing], dict[str, list[str]]]:
    """All drawings of known concepts, and for each style the icon names that no concept was found for.

    Where a style draws a concept twice under two names (streamline's ``bird-1``, ``bird-2``), both are kept.
    """
    chars = {}
    for source in sources:
        path = fetch(source, cache) / "chars.json"
        chars[source.style] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    names = _Names(load_concepts(cache), [*chars.values()])
    drawings, unmatched = [], defaultdict(list)
    for source in sources:
        seen = set()
        for name, icon in load_package(source, cache).items():
            found = names.find(name)
            if found is None:
                unmatched[source.style].append(name)
                continue
            if icon["body"] in seen:  # one drawing under two names
                continue
            seen.add(icon["body"])
            drawings.append(
                Drawing(found[0], source.style, name, icon["body"], icon["width"], icon["height"], found[1])
            )
    return drawings, dict(unmatched)
