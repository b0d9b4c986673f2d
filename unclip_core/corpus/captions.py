"""What a picture is called, in English and Korean. The same arguments give the same words."""

from __future__ import annotations

from pathlib import Path
from random import Random

from unclip_core.corpus.concepts import TONES, Concept
from unclip_core.corpus.sources import HELD_OUT_STYLE, LINE_STYLES, STYLES

COMMON = Path(__file__).resolve().parent / "common.txt"  # labels of everyday concepts, one a line
STYLE_NAMES = {s.style: (s.english, s.korean) for s in (*STYLES, *LINE_STYLES, HELD_OUT_STYLE)}
COLOURS = {
    "red": ("빨간", (221, 46, 68)), "orange": ("주황", (244, 144, 12)), "yellow": ("노란", (253, 203, 88)),
    "green": ("초록", (80, 170, 80)), "blue": ("파란", (58, 120, 220)), "purple": ("보라", (150, 100, 210)),
    "pink": ("분홍", (250, 150, 190)), "brown": ("갈색", (140, 92, 62)), "black": ("검은", (35, 35, 40)),
    "grey": ("회색", (150, 155, 160)), "white": ("하얀", (255, 255, 255)),
}  # fmt: skip
RELATIONS = {
    "to the left of": ("왼쪽에", (-1, 0)),
    "to the right of": ("오른쪽에", (1, 0)),
    "above": ("위에", (0, -1)),
    "below": ("아래에", (0, 1)),
}
_KOREAN_TONES = ("", "하얀 피부", "약간 하얀 피부", "갈색 피부", "진한 갈색 피부", "검은 피부")
_COUNTABLE = ("faces", "people", "animals", "food", "travel", "activities", "objects")


def english_name(concept: Concept, tone: int = 0) -> str:
    """The label in plain words ("flag: Japan" becomes "flag of Japan"), with the skin tone where there is one."""
    label = concept.label.replace("flag: ", "flag of ").replace(": ", ", ")
    return f"{label} with {TONES[tone].replace('-', ' ')} skin" if tone else label


def korean_name(concept: Concept, tone: int = 0) -> str:
    label = concept.label_ko.replace(": ", " ")
    return f"{label} {_KOREAN_TONES[tone]}" if tone else label


def with_article(name: str, concept: Concept | None = None) -> str:
    """ "an apple", "a red apple", but "french fries"; groups that are not countable things stay bare."""
    first = name.split()[0].lower()
    plural = name.endswith("s") and not name.endswith(("ss", "us", "is"))
    if plural or (concept and concept.group not in _COUNTABLE) or first in ("a", "an", "the", "two", "three"):
        return name
    return ("an " if name[0].lower() in "aeiou" and first not in ("unicorn", "one", "ukulele", "euro") else "a ") + name


def quoted_korean(word: str) -> str:
    """The word with the particle that quoting it takes (라고 after a vowel, 이라고 after a consonant)."""
    closed = "가" <= word[-1] <= "힣" and (ord(word[-1]) - ord("가")) % 28 or word[-1].lower() in "bcdfgklmnpqrtz"
    return f"“{word}”{'이라고' if closed else '라고'}"


def of_single(concept: Concept, style: str, tone: int, rng: Random) -> list[str]:
    """Captions of one concept alone: plain first, then with keywords, keywords alone, and with the style named."""
    name, thing, korean = (
        english_name(concept, tone),
        with_article(english_name(concept, tone), concept),
        korean_name(concept, tone),
    )
    style_en, style_ko = STYLE_NAMES[style]
    tags = rng.sample(concept.tags, min(len(concept.tags), 4))
    tags_ko = rng.sample(concept.tags_ko, min(len(concept.tags_ko), 4))
    english = [
        name,
        thing,
        f"a picture of {thing}",
        f"{name} emoji",
        f"{name} in {style_en} style",
        f"a {style_en} drawing of {thing}",
    ]
    korean_captions = [korean, f"{korean} 그림", f"{style_ko} 스타일의 {korean}"]
    if tags:
        english += [f"{name}, {', '.join(tags[:3])}", " ".join(tags), tags[0]]
    if tags_ko:
        korean_captions += [f"{korean}, {', '.join(tags_ko[:2])}", " ".join(tags_ko[:3])]
    return english + korean_captions


def on_ground(thing: str, korean: str, colour: str) -> list[str]:
    """Captions of a thing on a ground of a named colour."""
    korean_colour = COLOURS[colour][0]
    return [
        f"{thing} on a {colour} background" if colour != "orange" else f"{thing} on an orange background",
        f"{thing}, {colour} background",
        f"{korean_colour} 배경의 {korean}",
        f"{korean_colour} 배경 위에 있는 {korean}",
    ]


def of_pair(first: str, second: str, first_ko: str, second_ko: str, relation: str) -> list[str]:
    """Captions of two things in a relation; the same fact is also told from the second thing's side."""
    opposite = {v[1]: k for k, v in RELATIONS.items()}
    korean, (dx, dy) = RELATIONS[relation]
    other = opposite[(-dx, -dy)]
    return [
        f"{first} {relation} {second}",
        f"{second} {other} {first}",
        f"{first} and {second}",
        f"{second_ko} {korean} 있는 {first_ko}",
        f"{first_ko} {RELATIONS[other][0]} 있는 {second_ko}",
    ]


def of_word(word: str) -> list[str]:
    """Captions of a card with a word on it."""
    return [
        f'the word "{word}"',
        f"a sign that says {word}",
        f'a card that says "{word}"',
        f"{quoted_korean(word)} 쓰인 카드",
    ]


def of_labelled(thing: str, korean: str, word: str) -> list[str]:
    """Captions of a thing with a word written over it."""
    return [
        f'{thing} with the word "{word}" on it',
        f'{thing} labelled "{word}"',
        f"{quoted_korean(word)} 쓰인 {korean}",
    ]
