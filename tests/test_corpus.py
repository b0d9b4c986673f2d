"""The corpus: names and captions, composed pictures, shards that survive a round trip and bad shards that are named."""

import io
import json
import tarfile
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from unclip_core.corpus import captions, concepts, icons, scenes
from unclip_core.corpus.build import choose_held_out, fields, is_core
from unclip_core.corpus.concepts import Concept, Drawing, _Names
from unclip_core.corpus.render import render, thumbnail, twins
from unclip_core.corpus.shards import decode_picture, read_shards, write_shards
from unclip_core.errors import UnclipError
from unclip_core.training.data import CaptionTable, load, load_split

APPLE = Concept("1F34E", "red apple", "빨간 사과", ("fruit", "red"), ("과일",), "food", 60)
DOG = Concept("1F415", "dog", "개", ("pet",), ("동물",), "animals", 40)
WAVE = Concept("1F44B", "waving hand", "흔드는 손", (), (), "people", 16)


def drawing(concept=APPLE, style="noto", name="red-apple", tone=0):
    return Drawing(concept, style, name, "<circle cx='8' cy='8' r='8'/>", 16, 16, tone)


def sprite(colour="red", concept=APPLE):
    picture = Image.new("RGBA", (64, 64))
    picture.paste(colour, (8, 8, 56, 56))
    return drawing(concept), picture


@pytest.mark.parametrize(
    ("icon", "concept", "tone"),
    [
        ("red-apple", APPLE, 0),
        ("redapple", APPLE, 0),
        ("dog-1", DOG, 0),
        ("waving-hand-medium-dark-skin-tone", WAVE, 4),
        ("waving-hand-tone1", WAVE, 1),
        ("apple-of-discord", None, 0),
    ],
)
def test_icon_names_find_their_concept(icon, concept, tone):
    found = _Names([APPLE, DOG, WAVE], []).find(icon)
    assert found == (None if concept is None else (concept, tone))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("red apple", "a red apple"),
        ("octopus", "an octopus"),
        ("french fries", "french fries"),
        ("unicorn", "a unicorn"),
    ],
)
def test_articles(name, expected):
    assert captions.with_article(name) == expected


def test_korean_quotation_follows_the_last_sound():
    assert captions.quoted_korean("사과") == "“사과”라고" and captions.quoted_korean("빵") == "“빵”이라고"


def test_single_captions_speak_both_languages_and_name_the_style():
    texts = captions.of_single(APPLE, "noto", 0, Random(0))
    assert texts[0] == "red apple" and "a red apple" in texts and "빨간 사과" in texts
    assert any("noto style" in t for t in texts) and any("노토" in t for t in texts)


@pytest.mark.parametrize("relation", [*captions.RELATIONS])
def test_a_pair_stands_as_its_captions_say(relation):
    rng = Random(0)
    while True:
        picture, texts = scenes.pair(sprite("red"), sprite("blue", DOG), 64, rng)
        if relation in texts[0]:
            break
    pixels = np.asarray(picture).astype(int)
    red = np.argwhere((pixels[..., 0] > 200) & (pixels[..., 1:].sum(-1) < 60)).mean(0)
    blue = np.argwhere((pixels[..., 2] > 200) & (pixels[..., :2].sum(-1) < 60)).mean(0)
    axis, sign = {"to the left of": (1, -1), "to the right of": (1, 1), "above": (0, -1), "below": (0, 1)}[relation]
    assert (red[axis] - blue[axis]) * sign > 10
    assert texts[0].startswith("a red apple") and texts[1].startswith("a dog")


def test_composed_pictures_are_reproducible():
    for make in (lambda r: scenes.shapes(64, r), lambda r: scenes.card("apple", 64, r)):
        (one, words), (two, same) = make(Random(7)), make(Random(7))
        assert one.tobytes() == two.tobytes() and words == same


def test_words_are_really_written():
    plain = Image.new("RGB", (64, 64), "white")
    scenes.write(plain, "apple", (32, 32, 50), (0, 0, 0), 1)
    assert 100 < (np.asarray(plain)[..., 0] < 100).sum() < 2000


def test_core_world_leaves_clocks_and_tones_out():
    clock = Concept("1F550", "one o'clock", "한 시", (), (), "travel", 53)
    assert is_core(drawing()) and not is_core(drawing(clock)) and not is_core(drawing(tone=2))


def test_held_out_pairs_have_no_twin_in_training():
    styles = ["noto", "twemoji", "fluent", "emojione", "streamline"]
    drawings = [drawing(style=s, name=f"apple-{s}") for s in styles]
    colours = ["red", "red", "blue", "green", "yellow"]
    pictures = {d.key: Image.new("RGBA", (32, 32), c) for d, c in zip(drawings, colours, strict=True)}
    chosen = {choose_held_out(drawings, pictures, Random(i)).pop()[1] for i in range(30)}
    assert chosen == {"fluent", "emojione", "streamline"}  # the two red ones are each other's twin


def test_shards_round_trip_and_cache(tmp_path):
    samples = [
        (f"s{i}", Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)), fields(drawing(), "single", [f"c{i}", "사과"]))
        for i in range(5)
    ]
    assert write_shards(tmp_path, samples, per_shard=2) == 5
    assert len(list(tmp_path.glob("*.tar"))) == 3 and not list(tmp_path.glob("*.partial"))
    data = load(tmp_path, 8)
    assert len(data) == 5 and data.captions[4] == ["c4", "사과"] and data.pictures[4, 0, 0].tolist() == [4, 8, 12]
    assert load(tmp_path, 8, limit=2).pictures.shape == (2, 8, 8, 3)
    weights = data.weights({"single": 0.5}, rest=0.1)
    assert Counter(weights.tolist()) == {0.5: 5}


def test_line_drawings_are_seen_by_clip_alone(tmp_path):
    for name, count in (("train/singles", 3), ("line", 2), ("held_out_pairs", 1)):
        samples = [(f"s{i}", Image.new("RGB", (8, 8)), fields(drawing(), "single", [name])) for i in range(count)]
        write_shards(tmp_path / name, samples)
    assert len(load_split(tmp_path, 8)) == 3
    assert [c for (c,) in load_split(tmp_path, 8, also="line").captions] == ["train/singles"] * 3 + ["line"] * 2
    assert len(load_split(tmp_path, 8, held_out=True, also="line")) == 1


def test_icons_are_what_a_set_shows_without_logos_and_in_one_size(tmp_path, monkeypatch):
    shape = {"body": "<path fill='currentColor' d='M0 0h24v24z'/>"}
    names = ("video-16", "video-48", "map", "old-map", "brand")
    content = {"icons": {name: dict(shape, hidden=name == "old-map") for name in names}, "width": 24, "height": 24}
    (tmp_path / "icons.json").write_text(json.dumps(content))
    (tmp_path / "metadata.json").write_text(json.dumps({"categories": {"Logos": ["brand"]}}))
    for module in (icons, concepts):
        monkeypatch.setattr(module, "fetch", lambda source, cache: tmp_path)
    found = icons.load_icons(tmp_path, {"noto": ["old-map"]}, Random(0))
    of = {style: [d.name for d in found if d.style == style] for style in ("noto", "twemoji", "flat-ui", "mdi")}
    assert of == {"noto": ["old-map"], "twemoji": [], "flat-ui": ["video-48", "map"], "mdi": ["video-48", "map"]}
    assert {d.concept.label for d in found} == {"old map", "video", "map"}
    glyphs = [np.asarray(render(d, 24)) for d in found if d.style == "mdi"] + [
        np.asarray(render(d, 24)) for d in icons.load_icons(tmp_path, {}, Random(3)) if d.style == "mdi"
    ]
    inside = [tuple(picture[10, 14, :3].tolist()) for picture in glyphs]
    assert (255, 255, 255) in inside and len(set(inside)) > 1, "white on a ground, or of a colour"


def test_twins_are_nearly_the_same_pixel_for_pixel():
    red, rose, blue = (thumbnail(Image.new("RGBA", (32, 32), c)) for c in ("#ff0000", "#ff0404", "#0000ff"))
    assert twins(red, [blue, rose]) and not twins(red, [blue]) and not twins(red, [])


def test_icons_are_seen_by_the_decoder_that_asks_for_them(tmp_path):
    for name, kind in (("train/singles", "single"), ("icons", "icon")):
        write_shards(tmp_path / name, [("s", Image.new("RGB", (8, 8)), fields(drawing(), kind, [name]))])
    assert len(load_split(tmp_path, 8)) == 1
    assert load_split(tmp_path, 8, also="icons").weights({"single": 1.0, "icon": 0.5}).tolist() == [1.0, 0.5]


def test_an_img2dataset_folder_trains_without_change(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for i in range(3):
            picture = io.BytesIO()
            Image.new("RGB", (40, 30), "green").save(picture, "JPEG")
            facts = json.dumps({"caption": f"field {i}", "url": "x", "width": 40}).encode()
            for ending, data in (("jpg", picture.getvalue()), ("txt", f"field {i}".encode()), ("json", facts)):
                info = tarfile.TarInfo(f"{i:09d}.{ending}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    samples = list(read_shards(tmp_path))
    assert [s["captions"] for s in samples] == [["field 0"], ["field 1"], ["field 2"]]
    assert decode_picture(samples[0]["picture"], 16).shape == (16, 16, 3)
    assert len(load(tmp_path, 16)) == 3


def test_bad_shards_are_named(tmp_path):
    with pytest.raises(UnclipError, match="No .tar shards"):
        list(read_shards(tmp_path))
    (tmp_path / "00000.tar").write_bytes(b"not a tar file" * 100)
    with pytest.raises(UnclipError, match=r"00000\.tar"):
        list(read_shards(tmp_path))


def test_transparent_pictures_are_laid_on_white():
    data = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(data, "PNG")
    assert (decode_picture(data.getvalue(), 4) == 255).all()


def test_captions_are_drawn_by_language(tiny_model):
    clip = tiny_model.stages["clip"]
    import torch

    table = CaptionTable([["dog", "a dog", "개"], ["cat"]], clip.tokenize)
    samples, generator = torch.zeros(400, dtype=torch.long), torch.Generator().manual_seed(0)
    drawn = Counter(table.texts[i] for i in table.draw(samples, generator, korean_share=0.25).tolist())
    assert 60 < drawn["개"] < 140 and drawn["dog"] > drawn["a dog"] > 30
    assert {table.texts[i] for i in table.draw(samples + 1, generator).tolist()} == {"cat"}
