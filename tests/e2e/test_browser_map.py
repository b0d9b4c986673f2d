"""The Map lab in a real browser, on synthetic maps that fit the pack of the tests; one of them has 100,000 points."""

from contextlib import contextmanager

import numpy as np
import pytest
from browsing import PHONE, WAIT, message
from PIL import Image, ImageDraw
from serving import start

from components.map_build import COLUMNS, SIDE, lay_out, names_of, write_map
from components.map_data import fingerprint, unit
from unclip_core import UnCLIP

COUNT, MANY = 3_000, 100_000
ALONE = [(-0.9, 0.9), (0.9, 0.9), (0.9, -0.9), (-0.9, -0.9)]  # pictures 0 to 3 have a corner each
GROUPS = ("animals", "faces", "food", "objects", "travel")
MAP = "?lab=map"
DOTTED = """() => { const canvas = document.querySelector(".map-over"), context = canvas.getContext("2d");
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;  // pixels of a dot that nothing else lies upon
  for (let i = 3; i < data.length; i += 4) found += Math.abs(data[i] - 204) < 4;
  return found; }"""
DRAWN = "document.querySelector('.map-plot').data.reduce((sum, trace) => sum + trace.x.length, 0)"
EDGE = "document.querySelector('.map-plot')._fullLayout.xaxis.range[0]"
AT = """(i) => { const plot = document.querySelector(".map-plot"), { xaxis, yaxis } = plot._fullLayout;
  const at = unclip.map.at("p:" + i), box = plot.getBoundingClientRect();
  return [box.left + xaxis.d2p(at[0]), box.top + yaxis.d2p(at[1])]; }"""


def write_synthetic(out, e2e_pack, count):
    """A map of `count` points in five clouds, with sheets for the first of them."""
    model, rng = UnCLIP.load(e2e_pack), np.random.default_rng(0)
    width = model.stages["clip"].embed_dim
    kind = np.arange(count) % len(GROUPS)
    centres = unit(rng.normal(size=(len(GROUPS), width)))
    z = unit(centres[kind] + 0.1 * rng.normal(size=(count, width))).astype(np.float32)
    flat = rng.uniform(-0.3, 0.3, (len(GROUPS), 2))[kind] + 0.12 * rng.normal(size=(count, 2))
    flat = flat.clip(-0.8, 0.8)
    flat[: len(ALONE)] = ALONE
    layouts = {name: lay_out(name, z, model.pca) for name in ("pca2", "pca3")} | {"umap2": (flat, {})}
    named = ["cat", "grinning face", "red apple", "guitar", "rocket"]
    rows = [
        {"concept": f"{k}", "label": named[k], "label_ko": f"물건 {k}", "group": GROUPS[k], "style": "noto"}
        for k in kind
    ]
    names, numbers = names_of(rows)
    write_map(out, z, fingerprint(model), layouts, names, numbers, sheets=1)
    sheet = Image.new("RGB", (COLUMNS * SIDE, COLUMNS * SIDE), "white")
    for i in range(COLUMNS**2):
        corner = np.array([i % COLUMNS, i // COLUMNS]) * SIDE
        box = (*(corner + 8).tolist(), *(corner + SIDE - 8).tolist())
        ImageDraw.Draw(sheet).ellipse(box, fill=["red", "gold", "green", "blue", "purple"][i % 5])
    sheet.save(out / "thumbs-0.webp")


@contextmanager
def served(e2e_pack, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCLIP_MAP", str(folder))
        server, address = start(e2e_pack)
    try:
        yield address
    finally:
        server.terminate()
        server.wait(60)


@pytest.fixture(scope="module")
def address(e2e_pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    write_synthetic(folder, e2e_pack, COUNT)
    with served(e2e_pack, folder) as address:
        yield address


@pytest.fixture
def opened(visit):
    """`opened()` is the map, ready to be moved."""

    def open_map(query: str = "", **options):
        return visit(MAP + query, ready="[data-live]", **options)

    return open_map


def click_point(page, i: int) -> None:
    page.mouse.click(*page.evaluate(AT, i))


def chosen(page, point: str) -> None:
    page.wait_for_selector(f".map-card[data-point='{point}']")


def test_it_is_painted_and_can_be_dragged(opened):
    page = opened()
    assert page.evaluate("unclip.map.data.facts.count") == COUNT
    assert page.evaluate(DRAWN) == COUNT
    box = page.locator(".map-frame").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = page.evaluate(EDGE)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(12):
        page.mouse.move(x + 8 * step, y + 4 * step)
    page.mouse.up()
    page.wait_for_function(f"before => {EDGE} < before", arg=before)


@pytest.mark.slow
def test_a_hundred_thousand_points_are_painted_before_plotly_is_here(browser, e2e_pack, tmp_path):
    write_synthetic(tmp_path, e2e_pack, MANY)
    with served(e2e_pack, tmp_path) as address:
        page, held = browser.new_page(), []
        page.set_default_timeout(WAIT)
        page.route("**/plotly.min.js", lambda route: held.append(route))
        page.goto(address + MAP)
        page.wait_for_selector("[data-painted]:not([data-live])")
        before = page.evaluate(DOTTED)
        assert before > 1_000
        held[0].continue_()
        page.wait_for_selector("[data-live]")
        assert page.evaluate(DRAWN) == MANY
        page.wait_for_function(f"before => ({DOTTED})() < before / 2", arg=before)
        page.close()


def test_a_point_has_a_picture_neighbours_and_a_decoding(opened):
    page = opened()
    page.mouse.move(*page.evaluate(AT, 1))
    page.wait_for_selector(".map-tip:not([hidden]) .sprite")
    assert "grinning face" in page.inner_text(".map-tip")
    click_point(page, 1)
    chosen(page, "p:1")
    assert page.locator(".map-card .near button").count() == 12
    cosines = [float(text) for text in page.locator(".map-card .near small").all_inner_texts()]
    assert cosines == sorted(cosines, reverse=True) and cosines[0] > 0.5
    assert "point=p%3A1" in page.url
    neighbour = page.get_attribute(".map-card .near li:nth-child(1) button", "data-point")
    page.click(".map-card .near li:nth-child(1) button")
    chosen(page, neighbour)
    click_point(page, 1)
    chosen(page, "p:1")
    page.click("#map-side button.go")
    page.wait_for_selector(".map-card [data-do=save]")
    page.wait_for_selector("#shelf .thumb")
    page.wait_for_function("unclip.map.session.own.length === 1")
    assert page.evaluate("unclip.map.at(unclip.map.session.own[0].point).map((v) => Math.round(10 * v) / 10)") == [
        0.9,
        0.9,
    ]


def test_search_by_name_and_by_meaning(opened):
    page = opened()
    page.fill("#map-search input", "APPLE")
    page.wait_for_selector(".map-note:not([hidden])")
    assert f"{COUNT // 5}" in page.inner_text(".map-note")
    page.keyboard.press("Enter")
    page.wait_for_selector(".map-card[data-point='c:APPLE'] .near button")
    page.fill("#map-search input", "")
    page.wait_for_selector(".map-note[hidden]", state="attached")


def test_a_drawn_path_is_walked_and_lies_on_the_map(opened):
    page = opened("&frames=4&size=64")
    page.click("#map-walk button.go")
    assert "two points" in message(page)
    page.click("[data-do=draw]")
    box = page.locator(".map-frame").bounding_box()
    page.mouse.move(box["x"] + 120, box["y"] + 200)
    page.mouse.down()
    for step in range(10):
        page.mouse.move(box["x"] + 120 + 40 * step, box["y"] + 200 + 12 * step)
    page.mouse.up()
    page.wait_for_selector(".station >> nth=5")
    page.click("[data-do=draw]")
    page.click("#map-walk button.go")
    page.wait_for_selector(".film[data-phase=done] .cell img >> nth=3")
    places = page.evaluate("unclip.map.film.at.umap2")
    assert len({tuple(place) for place in places}) == 4, "every step is another embedding"
    page.wait_for_function("unclip.map.session.paths.length === 1")
    assert page.evaluate("unclip.map.session.paths[0].length") == 4
    page.fill(".film input[type=range]", "2")
    assert page.evaluate("unclip.map.cursor") == 2
    assert "path=u" in page.url
    page.click(".film [data-do=clear]")
    page.wait_for_selector(".station", state="detached")


def test_points_and_captions_make_a_path(opened):
    page = opened("&frames=3&size=64")
    for corner in (0, 1):  # the upper ones, in view
        click_point(page, corner)
        chosen(page, f"p:{corner}")
        page.click(".map-card .add")
    page.wait_for_selector(".station >> nth=1")
    assert page.locator(".station span.sprite").count() == 2
    page.fill("#map-axis input >> nth=0", "a sad face")
    page.fill("#map-axis input >> nth=1", "a happy face")
    page.click("#map-axis button >> nth=1")
    page.wait_for_function("unclip.map.path.join() === 'c:a sad face,c:a happy face'")
    page.click("#map-walk button.go")
    page.wait_for_selector(".film[data-phase=done] .cell img >> nth=2")


def test_the_map_can_be_laid_along_two_captions(opened):
    page = opened()
    before = page.evaluate("unclip.map.at('p:7')")
    page.fill("#map-axis input >> nth=0", "a cat")
    page.fill("#map-axis input >> nth=1", "a red apple")
    page.click("#map-axis button >> nth=0")
    page.wait_for_function("unclip.map.settings.layout === 'axis' && unclip.map.layout() === 'axis2'")
    assert page.evaluate("unclip.map.at('p:7')") != before
    assert "layout=axis" in page.url and "from=a+cat" in page.url
    page.fill("#map-axis input >> nth=1", "a cat")
    page.click("#map-axis button >> nth=0")
    assert "the same" in message(page)


def test_three_dimensions_and_other_colours(opened):
    page = opened("&layout=pca&dims=3")
    page.wait_for_function("document.querySelector('.map-plot').data[0].type === 'scatter3d'")
    page.evaluate("unclip.map.set('dims', 2)")
    page.wait_for_function("document.querySelector('.map-plot').data[0].type === 'scattergl'")
    assert page.locator(".map-legend button").count() == len(GROUPS)
    page.click(".map-legend button >> nth=0")
    page.wait_for_function("document.querySelector('.map-plot').data[0].visible === false")
    page.evaluate("unclip.map.set('colour', 'style')")
    page.wait_for_function("document.querySelectorAll('.map-legend button').length === 1")


def test_an_address_brings_the_point_back_on_a_phone_in_korean(opened):
    page = opened("&point=p:3&layout=pca&lang=ko", size=PHONE, dark=True)
    chosen(page, "p:3")
    assert "물건 3" in page.inner_text(".map-card h3") and "가까운 이웃" in page.inner_text(".map-card")
    assert page.evaluate("unclip.map.layout()") == "pca2"
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    page.click("text=English") if page.locator("text=English").count() else page.click("[data-lang=en]")
    page.wait_for_function("document.querySelector('.map-card h3').textContent.includes('guitar')")


def test_bad_points_are_explained(opened):
    page = opened("&point=p:999999999")
    assert "no such point" in message(page)
    other = opened("&path=p:1|s:gone")
    other.wait_for_selector(".station >> nth=1")
    other.click("#map-walk button.go")
    assert "no longer on the shelf" in message(other)


def test_a_visitors_picture_finds_its_place(opened, tmp_path):
    Image.new("RGB", (80, 60), "tomato").save(tmp_path / "mine.png")
    page = opened()
    page.click("#map-side .fold button")
    page.set_input_files("#map-side input[type=file]", tmp_path / "mine.png")
    page.wait_for_selector(".map-card[data-point^='s:'] .near button")
    page.wait_for_function("unclip.map.session.own.length === 1")
    assert page.locator("#shelf .thumb").count() == 1
