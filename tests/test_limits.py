"""The Limits lab: its captions are what they claim, its judges judge, and a picture's origin is read safely."""

import json
from random import Random

import pytest
from PIL import Image

from components import limits
from components.engine import Engine
from components.i18n import strings
from unclip_core.corpus import captions, scenes
from unclip_core.corpus.scenes import SHAPES
from unclip_core.provenance import save_png


@pytest.fixture(scope="module")
def engine(tiny_model) -> Engine:
    return Engine(tiny_model)


def drawn(pair: limits.Pair) -> Image.Image:
    """A true drawing of a pair, as the corpus draws them."""
    sprites = [scenes.shape(shape, captions.COLOURS[colour][1], 128) for colour, shape in (pair.first, pair.second)]
    canvas = Image.new("RGB", (128, 128), "white")
    scenes._pair(canvas, *sprites, pair.relation, Random(0))
    return canvas


def test_captions_say_what_is_judged_in_both_languages():
    for number, pair in enumerate(limits.BINDING):
        names = [captions.with_article(f"{colour} {shape}") for colour, shape in (pair.first, pair.second)]
        korean = [f"{captions.COLOURS[colour][0]} {SHAPES[shape]}" for colour, shape in (pair.first, pair.second)]
        wanted = captions.of_pair(*names, *korean, pair.relation)
        assert strings()[f"limits.binding.{number}"] == {"en": wanted[0], "ko": wanted[3]}
    for number, word in enumerate(limits.WORDS):
        wanted = captions.of_word(word)
        assert strings()[f"limits.words.{number}"] == {"en": wanted[1], "ko": wanted[3]}
    for kind in limits.COUNTS:
        assert all(key in strings() for key in limits.captions(kind))


def test_every_other_caption_exchanges_the_colours():
    for one, other in zip(limits.BINDING[::2], limits.BINDING[1::2]):
        assert (one.first[0], one.second[0]) == (other.second[0], other.first[0])
        assert (one.first[1], one.relation, one.second[1]) == (other.first[1], other.relation, other.second[1])


def test_the_judges_tell_right_from_exchanged():
    for number in range(0, len(limits.BINDING), 2):
        right, exchanged = (drawn(limits.BINDING[number + i]) for i in (0, 1))
        assert limits.verdict("binding", number, right)["key"] == "limits.judged.all"
        assert limits.verdict("binding", number, exchanged)["key"] == "limits.judged.swapped"
    assert limits.verdict("binding", 0, Image.new("RGB", (64, 64), "white"))["key"] == "limits.judged.none"
    card = scenes.card("pizza", 128, Random(1))[0]
    assert limits.verdict("words", 0, card)["values"] == {"word": "pizza"}
    assert limits.verdict("words", 0, Image.new("RGB", (64, 64)))["key"] == "limits.judged.unread"
    assert limits.verdict("scenes", 0, card) == ""


def test_drawing_fills_the_board_and_records_each_picture(engine):
    boards = [(grid.value(), made) for grid, made in limits.draw(engine, "words", "ko", seed=3)]
    made = [one for _, some in boards for one in some]
    rows = boards[-1][0]["rows"]
    assert len(made) == limits.COLUMNS * limits.COUNTS["words"]
    assert all(cell["file"] and cell["note"] for row in rows for cell in row["cells"])
    request = made[0].recipe["request"]
    assert request == {"kind": "words", "size": 64, "seed": 3, "prior": "diffusion", "prompt": "“pizza”라고 쓰인 카드"}
    again = [one for _, some in limits.draw(engine, "words", "ko", seed=3) for one in some]
    assert again[5].picture.tobytes() == made[5].picture.tobytes()


def test_rates_come_from_the_evaluation_or_are_said_to_lack(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "RESULTS", tmp_path / "results.json")
    limits.measured.cache_clear()
    none = limits.rates("binding", "abc")
    assert none["rows"] == [] and none["command"].startswith("python -m unclip_core evaluate")
    row = {key: [0.5, 0.4, 0.6, 80] for key in ("colours", "binding", "swapped", "relation", "all")}
    results = {
        "pack": {"name": "pocket", "hash": "abc"},
        "command": "python -m unclip_core evaluate",
        "binding": {"rates": {"true drawings": row, "prior: diffusion": row, "prior: text": row}},
    }
    limits.RESULTS.write_text(json.dumps(results))
    limits.measured.cache_clear()
    found = limits.rates("binding", "abc")
    assert [one["system"] for one in found["rows"]] == ["limits.system.true", "limits.system.diffusion"]
    assert found["rows"][0]["bars"] == [[0.5, 0.4, 0.6]] * 2 and found["other_pack"] == ""
    assert limits.rates("binding", "other")["other_pack"] == "pocket"
    assert limits.rates("scenes", "abc")["rows"] == []
    limits.measured.cache_clear()


def test_a_pictures_origin_is_read(engine, tmp_path):
    (made,) = engine.save([Image.new("RGB", (64, 64), "red")], "create", {"prompt": "<b>", "seed": 4, "eta": None})
    found = limits.provenance(made.path)
    lines = {line["name"]: line["value"] for line in found["recipe"]}
    assert lines["request"] == "prompt = <b>, seed = 4" and lines["pack"].startswith("tiny (")
    assert found["credentials"] is None and found["why"] == ""
    plain = tmp_path / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    assert limits.provenance(plain) == {"recipe": [], "why": "recipe_none", "credentials": None}


def test_a_strangers_recipe_becomes_short_plain_text(tmp_path):
    path = tmp_path / "odd.png"
    odd = {"schema": 1, "request": {"prompt": "a" * 5000, "deep": {"x": [1]}}, "pack": "no", "parents": 7, "lab": ["x"]}
    save_png(Image.new("RGB", (8, 8)), path, odd)
    for line in limits.provenance(path)["recipe"]:
        assert isinstance(line["value"], str) and len(line["value"]) <= limits.MOST_SHOWN


def test_shipped_pictures_are_boards_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "EXAMPLES", tmp_path)
    limits.shipped.cache_clear()
    assert limits.shipped("binding")["rows"] == []
    limits.shipped.cache_clear()
