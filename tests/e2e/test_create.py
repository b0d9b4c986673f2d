"""The Create lab as a visitor meets it: every check through the real server in a real browser."""

import io

from browsing import PHONE, PROMPT, SMALL, downloaded, drop, generate, message, same_pixels, started
from PIL import Image
from PIL.PngImagePlugin import PngImageFile


def test_a_caption_lights_the_strip_and_its_png_brings_the_same_pixels_back(visit):
    page = visit()
    page.evaluate("""() => {
      window.lit = [];
      new MutationObserver(() => document.querySelectorAll("ol.strip .cell").forEach((cell) => {
        const mark = cell.dataset.stage + ":" + cell.classList[1];
        if (!window.lit.includes(mark)) window.lit.push(mark);
      })).observe(document.querySelector("#strip"), { childList: true, subtree: true });
    }""")
    page.fill(PROMPT, "a green pear")
    started(page, lambda: page.keyboard.press("Enter"))
    lit = page.evaluate("window.lit")
    stages = ["text", "clip", "prior", "z_i", "decoder", "upsampler_256", "upsampler_1024"]
    assert [mark for mark in lit if mark.endswith(":done")] == [f"{stage}:done" for stage in stages]
    assert page.locator("ol.strip canvas").count() == 2 and page.locator("ol.strip img").count() == 3
    assert "live" in page.inner_text(".badge")

    first = downloaded(page)
    assert first.startswith(b"\x89PNG")
    picture = Image.open(io.BytesIO(first))
    assert isinstance(picture, PngImageFile) and picture.size == (1024, 1024)

    other = visit(SMALL)
    drop(other, first)
    other.wait_for_function(f"document.querySelector('{PROMPT}').value === 'a green pear'")
    generate(other)
    assert same_pixels(first, downloaded(other))


def test_every_way_to_z_i_works_and_what_is_skipped_is_said(visit):
    expected = {"ar": "done", "text": "skipped", "caption": "skipped"}
    for prior, state in expected.items():
        page = visit(f"{SMALL}&prior={prior}")
        generate(page)
        assert state in page.get_attribute("li[data-stage=prior]", "class")
        assert "skipped" in page.get_attribute("li[data-stage=upsampler_256]", "class")
        assert f"prior={prior}" in page.url


def test_steps_can_be_scrubbed_afterwards(visit):
    page = visit(f"{SMALL}&n=2&decoder_steps=12")
    generate(page)
    assert page.locator("figure").count() == 2
    result = page.get_attribute("figure img", "src")
    page.fill(".scrub input", "0")
    assert page.get_attribute("figure img", "src") != result
    assert "64 px" in page.inner_text(".scrub output")


def test_stop_stops_and_the_next_request_works(visit):
    page = visit(f"{SMALL.replace('size=64', 'size=1024')}&n=16&decoder_steps=250")  # long enough on any machine
    page.click("button.go")
    page.wait_for_selector("li[data-stage=decoder].on")
    page.evaluate("""() => {
      window.phases = [];
      new MutationObserver(() => window.phases.push(document.querySelector("ol.strip").dataset.phase))
        .observe(document.querySelector("#strip"), { childList: true, subtree: true });
    }""")
    with page.expect_response("**/cancel"):
        page.click("button.stop")
    generate(visit(SMALL))
    assert page.get_attribute("ol.strip", "data-phase") == "stopped"
    phases = page.evaluate("window.phases")
    assert set(phases[phases.index("stopped") :]) == {"stopped"}, "steps still on their way light nothing"
    assert page.locator("[data-save]").count() == 0
    assert page.locator("[data-testid=toast-text]").count() == 0
    generate(page)


def test_a_bad_caption_is_explained_and_the_next_good_one_works(visit):
    page = visit(SMALL)
    page.fill(PROMPT, "   ")
    page.keyboard.press("Enter")
    assert "empty" in message(page)
    page.fill(PROMPT, "a red apple")
    started(page, lambda: page.keyboard.press("Enter"))


def test_a_foreign_png_is_explained(visit):
    page = visit(SMALL)
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    drop(page, buffer.getvalue())
    assert "no recipe" in message(page)
    broken = visit(SMALL)
    drop(broken, buffer.getvalue()[:40])
    assert message(broken)


def test_korean_from_labels_to_errors(visit):
    page = visit(SMALL)
    page.click("text=한국어")
    page.wait_for_selector("button.go:has-text('그리기')")
    assert page.get_attribute("html", "lang") == "ko"
    assert "프라이어" in page.inner_text("ol.strip") and "크기" in page.inner_text("#create-options")
    page.fill(PROMPT, "")
    page.keyboard.press("Enter")
    assert "문장이 비어 있습니다" in message(page)
    page.fill(PROMPT, "빨간 사과")
    started(page, lambda: page.keyboard.press("Enter"))
    assert "실시간" in page.inner_text(".badge")
    arrived = visit("?lang=ko")
    arrived.wait_for_selector("button.go:has-text('그리기')")


def test_a_full_queue_is_told_in_the_pages_language(visit):
    page = visit(f"{SMALL}&lang=ko")
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "Queue is full."}))
    page.click("button.go")
    page.wait_for_function("() => document.querySelector('[data-testid=toast-text]')?.innerText.includes('기다리는')")
    page.unroute("**/queue/join*")
    generate(page)


def test_the_shelf_keeps_recalls_and_hands_over(visit):
    page = visit(f"{SMALL}&n=2")
    generate(page)
    page.wait_for_selector(".thumb >> nth=1")
    page.fill(PROMPT, "something else")
    page.click(".thumb >> nth=0")
    page.click("[data-act=recall]")
    page.wait_for_function(f"document.querySelector('{PROMPT}').value === 'a red apple'")
    assert downloaded(page, "[data-act=zip]").startswith(b"PK")
    page.click("[data-act=clear]")
    page.wait_for_selector(".shelf-empty")


def test_an_address_restores_the_state(visit):
    page = visit("?lab=create&prompt=a+blue+fish&seed=77&size=256&n=3&decoder_guidance=2.25")
    page.wait_for_function(f"document.querySelector('{PROMPT}').value === 'a blue fish'")
    assert page.input_value("input[aria-label='Seed']") == "77"
    generate(page)
    assert "seed=77" in page.url and "n=3" in page.url and "decoder_guidance=2.25" in page.url
    assert page.locator("figure").count() == 3


def test_nothing_is_wider_than_a_phone(visit):
    for query, dark in (("", False), ("?lang=ko", True)):
        page = visit(query, PHONE, dark)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
        generate(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
