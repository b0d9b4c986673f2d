"""The arena in a browser: a person at a laptop, a phone in Korean, sixteen voters at once, and votes that are none."""

import json
import os
import sqlite3
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from browsing import PHONE
from PIL import Image

from unclip_core.evaluation.arena import matches
from unclip_core.evaluation.arena.matches import System

ITEMS = 4


@pytest.fixture(scope="session")
def match(address) -> matches.Match:
    """A match with pictures of plain colours: a is reddish, b is bluish."""
    made = matches.create(
        Path(os.environ["UNCLIP_HOME"]) / "arena", System("diffusion"), System("ar"), matches.captions(ITEMS)
    )
    for item in range(ITEMS):
        for kind, side_px in (("single", 256), ("grid", 268)):
            for side, colour in (("a", (200, 30 * item, 40)), ("b", (40, 30 * item, 200))):
                Image.new("RGB", (side_px, side_px), colour).save(made.file(item, kind, side), "WEBP")
    return made


@pytest.fixture
def enter(visit, match) -> Iterator[Callable]:
    """`enter("?lang=ko", size=PHONE)` opens the arena and waits for a pair."""

    def open_page(query: str = "", **options):
        page = visit(f"arena{query}", ready=".arena-pair img", **options)
        return page

    yield open_page


def cast(match) -> int:
    path = match.folder.parent / "votes.sqlite3"
    if not path.exists():  # nobody has opened the arena yet
        return 0
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT COUNT(*) FROM votes").fetchone()[0]


def judge(page, press: Callable[[], None]) -> None:
    """Vote, and wait until the next pair (or the thanks) stands there."""
    page.evaluate("() => { document.querySelector('#arena .arena-pair').dataset.old = 'yes'; }")
    press()
    page.wait_for_function("() => !document.querySelector('#arena [data-old]')")


def test_a_person_votes_with_the_keyboard_to_the_end(enter, match):
    page = enter()
    before = cast(match)
    for turn in range(3 * ITEMS):
        assert page.locator(".arena-head output").inner_text() == f"{turn} of {3 * ITEMS}"
        key = ("ArrowLeft", "ArrowDown", "ArrowRight")[turn % 3]
        judge(page, lambda key=key: page.keyboard.press(key))
    assert "Thank you" in page.locator(".arena-note").inner_text()
    assert cast(match) - before == 3 * ITEMS
    page.get_by_role("tab", name="Results").click()
    page.wait_for_selector(".bouts")
    assert "AR prior" in page.locator("#arena-results").inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Votes as CSV").click()
    assert download.value.suggested_filename == "arena-votes.csv"


def test_the_page_does_not_tell_the_systems_apart(enter):
    page = enter()
    shown = page.locator("#arena").inner_html()
    assert "webp;base64" in shown and ".webp" not in shown
    assert not any(word in shown.lower() for word in ("diffusion", "prior", "flipped", '"a"'))


def test_reloading_shows_the_same_pair(enter):
    page = enter()
    pair = page.locator("#arena img").evaluate_all("images => images.map((one) => one.src)")
    page.reload()
    page.wait_for_selector(".arena-pair img")
    assert page.locator("#arena img").evaluate_all("images => images.map((one) => one.src)") == pair


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_in_korean(enter, dark):
    page = enter("?lang=ko", size=PHONE, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    left, right = (page.locator(f"[data-choice={side}]") for side in ("left", "right"))
    assert left.inner_text() == "왼쪽" and page.locator("[data-choice=tie]").is_visible()
    assert left.bounding_box()["height"] >= 44 and left.bounding_box()["y"] == right.bounding_box()["y"]
    judge(page, lambda: page.locator("[data-choice=tie]").click())
    page.get_by_role("tab", name="결과").click()
    page.wait_for_selector(".bouts")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


# ---- the same events, sent by hand ----


def sender(address: str) -> Callable:
    """send(event, data) -> (status, the page's new value), past the browser."""
    with urllib.request.urlopen(address + "config", timeout=30) as answer:
        config = json.load(answer)
    view = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "arena")
    numbers = {t[1]: d["id"] for d in config["dependencies"] for t in d["targets"] if t[0] == view}

    def send(event: str, data: object) -> tuple[int, dict | None]:
        body = json.dumps({"data": [], "event_data": data, "fn_index": numbers[event], "session_hash": "x"}).encode()
        request = urllib.request.Request(address + "gradio_api/run/predict", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)["data"][0]
        except urllib.error.HTTPError as fault:
            return fault.code, None

    return send


def test_sixteen_voters_at_once_lose_no_vote(address, match):
    send, before, start = sender(address), cast(match), threading.Barrier(16)

    def vote(number: int) -> int:
        voter, acknowledged = f"{number + 1000:032x}", 0
        start.wait()
        _, state = send("arrive", {"voter": voter})
        while state["ballot"]:
            choice = ("left", "tie", "right")[(number + acknowledged) % 3]
            status, state = send("vote", {"voter": voter, "token": state["ballot"]["token"], "choice": choice})
            assert status == 200 and state["taken"] and state["notice"] is None
            acknowledged += 1
        return acknowledged

    with ThreadPoolExecutor(16) as pool:
        acknowledged = sum(pool.map(vote, range(16)))
    assert acknowledged == 16 * 3 * ITEMS == cast(match) - before


def test_votes_that_are_none_change_nothing(address, match):
    send, voter = sender(address), f"{77:032x}"
    _, state = send("arrive", {"voter": voter})
    token, before = state["ballot"]["token"], cast(match)
    for data in (
        {"voter": voter, "token": token, "choice": "both"},
        {"voter": voter, "token": token, "choice": "'; DROP TABLE votes; --"},
        {"voter": voter, "token": token, "choice": None},
        {"voter": voter, "token": "0" * 32, "choice": "left"},
        {"voter": voter, "token": "x" * 10_000_000, "choice": "left"},
        {"voter": "1; --", "token": token, "choice": "left"},
        {"voter": f"{78:032x}", "token": token, "choice": "left"},
        {"voter": [voter], "token": {}, "choice": ["left"]},
        {},
        "left",
        None,
    ):
        status, state = send("vote", data)
        assert status == 200 and state["notice"] and not state.get("taken"), str(data)[:80]
    assert cast(match) == before
    status, state = send("vote", {"voter": voter, "token": token, "choice": "left"})
    assert state["taken"] and cast(match) == before + 1
    _, state = send("vote", {"voter": voter, "token": token, "choice": "right"})
    assert "final" in state["notice"] and cast(match) == before + 1


@pytest.mark.slow
def test_sixteen_browsers_at_once(enter, match):
    before, pages = cast(match), [enter(size=PHONE) for _ in range(16)]
    for choice in ("left", "tie", "right"):
        for page in pages:
            page.evaluate("() => { document.querySelector('#arena .arena-pair').dataset.old = 'yes'; }")
        for page in pages:
            page.evaluate(f"() => setTimeout(() => document.querySelector('[data-choice={choice}]').click(), 200)")
        for page in pages:
            page.wait_for_function("() => !document.querySelector('#arena [data-old]')")
    assert cast(match) - before == 3 * 16
