"""The tour and what it ships: nine chapters with words, figures made from a pack, and the preflight before a talk."""

import json
from urllib.parse import parse_qs, urlparse

import pytest

from components import limits, preflight, showcase, theme, tour, tour_data
from components.engine import Engine
from components.i18n import LANGUAGES, strings


@pytest.fixture(scope="module")
def engine(tiny_pack) -> Engine:
    return Engine.load(str(tiny_pack))


@pytest.fixture(scope="module")
def made(engine, tmp_path_factory):
    """The tour's folder, as one command makes it."""
    folder = tmp_path_factory.mktemp("tour")
    showcase.make_tour(engine, folder)
    return folder


def test_nine_chapters_with_words_in_both_languages():
    assert len(tour_data.CHAPTERS) == 9
    for chapter in tour_data.CHAPTERS:
        for part in ("title", "body", "note"):
            entry = strings()[f"tour.{chapter.name}.{part}"]
            assert all(entry[lang] for lang in LANGUAGES)
        for lang in LANGUAGES:
            assert len(strings()[f"tour.{chapter.name}.body"][lang]) < 520, "a chapter is short"


def test_doors_lead_to_labs_with_their_fields():
    for chapter in tour_data.CHAPTERS:
        for door in tour_data.links(chapter):
            for lang in LANGUAGES:
                query = parse_qs(urlparse(door[lang]).query)
                assert query["lab"] == [door["lab"]] and query["lang"] == [lang]
                assert f"{door['lab']}.title" in strings()
    korean = tour_data.links(tour_data.CHAPTERS[0])[0]["ko"]
    assert parse_qs(urlparse(korean).query)["prompt"] == ["빨간 사과"]


def test_one_command_makes_every_figure(made):
    told = json.loads((made / "tour.json").read_text(encoding="utf-8"))
    assert set(told["figures"]) == {chapter.name for chapter in tour_data.CHAPTERS}
    assert told["pack"]["name"] == "tiny"
    assert all(path.stat().st_size < 500_000 for path in made.iterdir())
    names = set(json.dumps(told).replace('"', " ").split())
    for path in made.glob("*.webp"):
        assert path.name in names, "no file is left over"


def test_figures_show_what_they_say(made):
    figures = json.loads((made / "tour.json").read_text(encoding="utf-8"))["figures"]
    assert len(figures["story"]["pictures"]) == 3 and len(figures["story"]["z_i"]) == len(figures["story"]["z_t"])
    assert len(figures["clip"]["cosines"]) == len(figures["clip"]["pictures"]) == 5
    assert [column["way"] for column in figures["prior"]["columns"]] == ["caption", "text", "ar", "diffusion"]
    stages = [frame["stage"] for frame in figures["decoder"]["frames"]]
    assert stages == sorted(stages, key=["decoder", "upsampler_256", "upsampler_1024"].index)
    assert [frame["share"] for frame in figures["between"]["frames"]][::8] == [0.0, 1.0]
    assert figures["diff"]["frames"][0]["theta"] == 0
    assert figures["knows"]["frames"][-1]["k"] == figures["knows"]["frames"][-1]["width"]
    assert all(abs(sum(row) - 1) < 1e-2 for row in figures["knows"]["shares"])
    assert len(figures["limits"]["rows"]) == 2


def test_single_figures_can_be_made_anew(engine, made):
    before = json.loads((made / "tour.json").read_text(encoding="utf-8"))["figures"]
    showcase.make_tour(engine, made, only=["clip"])
    assert json.loads((made / "tour.json").read_text(encoding="utf-8"))["figures"] == before


def test_the_limits_boards_are_made(engine, tmp_path):
    showcase.make_limits(engine, tmp_path / "limits")
    for kind in limits.COUNTS:
        value = json.loads((tmp_path / "limits" / f"{kind}.json").read_text(encoding="utf-8"))
        cells = [cell for row in value["rows"] for cell in row["cells"]]
        assert all(cell["src"].startswith("data:image/webp") and "file" not in cell for cell in cells)
        assert value["badge"]["live"] is False and value["phase"] == "done"


def test_the_thumbnail_is_a_card(engine, tmp_path):
    from PIL import Image

    showcase.make_thumbnail(engine, tmp_path / "thumbnail.png")
    with Image.open(tmp_path / "thumbnail.png") as picture:
        assert picture.size == (1200, 630)


def test_without_figures_the_chapters_still_stand(engine, monkeypatch):
    monkeypatch.setattr(tour_data, "FOLDER", tour_data.FOLDER / "nowhere")
    tour_data.shipped.cache_clear()
    value = tour.story(engine, talk=False)
    assert [chapter["figure"] for chapter in value["chapters"]] == [None] * 9 and value["pack"] == "tiny"
    tour_data.shipped.cache_clear()


def test_the_preflight_names_what_is_well_and_what_is_not(engine, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    found = {one["name"].rsplit(".", 1)[1]: one for one in preflight.checks(engine, "en")}
    assert set(found) == set(preflight.CHECKS)
    for name in ("pack", "offline", "hosts", "fonts", "sample"):
        assert found[name]["fine"], found[name]
    assert not found["map"]["fine"], "the shipped map, if any, is of another pack"
    assert "1024 px" in found["sample"]["detail"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not preflight._offline(engine, "ko")[0]
    monkeypatch.setattr(theme, "head", lambda: "<script src='https://cdn.example.org/x.js'>")
    assert preflight._hosts(engine, "en") == (False, "https://cdn.example.org/")
    monkeypatch.setattr(preflight, "CHECKS", {"fonts": preflight._fonts})
    assert preflight.report(engine, "ko") and "글꼴" in capsys.readouterr().out


def test_a_slow_or_failing_sample_is_said(engine, monkeypatch):
    from unclip_core.errors import RequestError

    monkeypatch.setattr(preflight, "SLOW", 0.0)
    assert not preflight._sample(engine, "en")[0]

    def fails(engine, lang):
        raise RequestError("No room.")

    monkeypatch.setattr(preflight, "CHECKS", {"sample": fails})
    assert list(preflight.checks(engine, "en")) == [{"name": "tour.check.sample", "fine": False, "detail": "No room."}]
