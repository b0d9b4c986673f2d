"""The tour with a talk's preflight, and the Limits lab, in a real browser."""

import re

import pytest
from browsing import PHONE
from serving import start

from components import tour_data
from components.i18n import strings


@pytest.fixture(scope="module")
def address(e2e_pack):
    server, address = start(e2e_pack, "--talk")
    yield address
    server.terminate()
    server.wait(60)


def title(page) -> str:
    return re.sub(r"\s+", " ", page.inner_text(".tour h2")).strip()


def test_arrow_keys_walk_through_nine_chapters(visit):
    page = visit("tour", ready=".tour")
    seen = []
    for number, chapter in enumerate(tour_data.CHAPTERS, 1):
        page.wait_for_selector(f".tour[data-chapter='{number}']")
        assert title(page) == strings()[f"tour.{chapter.name}.title"]["en"]
        assert page.locator(".door").count() == len(chapter.links)
        seen.append(title(page))
        page.keyboard.press("ArrowRight" if number % 2 else "PageDown")
    assert len(set(seen)) == 9 and "chapter=9" in page.url
    page.keyboard.press("Home")
    page.wait_for_selector(".tour[data-chapter='1']")
    page.click(".turn li:nth-child(5) button")
    page.wait_for_selector(".tour[data-chapter='5']")


def test_a_door_opens_a_filled_lab(visit):
    page = visit("tour?chapter=9", ready=".tour")
    page.click(".door")
    page.wait_for_selector("body[data-ready] #limits-board")
    assert "lab=limits" in page.url


def test_korean_on_a_phone_in_the_dark(visit):
    page = visit("tour?lang=ko&chapter=2", PHONE, dark=True, ready=".tour")
    assert title(page) == strings()["tour.clip.title"]["ko"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


def test_the_preflight_says_what_is_well(visit):
    page = visit("tour", ready=".tour")
    page.wait_for_selector(".checks:not(.running)")
    page.click(".checks button")
    found = {one.locator("b").inner_text(): one.get_attribute("class") for one in page.locator(".checks li").all()}
    for name in ("offline", "hosts", "fonts", "faces", "requests"):
        assert found[strings()[f"tour.check.{name}"]["en"]] == "yes", (name, found)
    assert strings()["tour.check.sample"]["en"] in found, "whether it is fast enough depends on the machine"


def test_limits_are_drawn_judged_and_measured_or_not(visit):
    page = visit("?lab=limits", ready="#limits-rates .rates")
    page.click("#tab-limits button.go, #limits-board ~ button.go, .lab:has(#limits-rates) button.go")
    page.wait_for_selector("#limits-board .board[data-phase=done]")
    assert page.locator("#limits-board td .tile").count() == 16
    assert "red square above a blue circle" in page.inner_text("#limits-board")
    page.wait_for_selector("#shelf .thumb >> nth=15")
