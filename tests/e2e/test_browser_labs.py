"""Labs 1 to 5 and 7 as a visitor meets them: their results are looked at, in a real browser."""

import io

import numpy as np
import pytest
from browsing import PHONE, drop, message
from PIL import Image

LABS = ("variations", "interpolate", "text_diff", "pca", "typographic", "priors")
LIVE = ".parts .board[data-phase=done]"


def lab(visit, name, query="", **options):
    return visit(f"?lab={name}&{query}", ready=f"#tab-{name} .question", **options)


def run(page, name):
    """Press the lab's button and wait for the board to be done."""
    page.click(f"#tab-{name} button.go")
    page.wait_for_function(
        "(tab) => { const all = [...document.querySelectorAll(`#${tab} [data-phase]`)];"
        " return all.at(-1).dataset.phase === 'done' && all.at(-1).querySelector('img'); }",
        arg=f"tab-{name}",
    )


def picture(page, selector):
    """The pixels of an <img> on the page, [64, 64, 3]."""
    page.wait_for_function("(s) => document.querySelector(s)?.complete", arg=selector)
    data = page.eval_on_selector(
        selector,
        "(img) => { const c = new OffscreenCanvas(64, 64); c.getContext('2d').drawImage(img, 0, 0, 64, 64);"
        " return Array.from(c.getContext('2d').getImageData(0, 0, 64, 64).data); }",
    )
    return np.array(data, float).reshape(64, 64, 4)[..., :3]


def apart(a, b):
    """Mean difference of values from 0 to 255."""
    return np.abs(a - b).mean()


def saved(page, selector):
    """The PNG behind a picture of a board."""
    page.click(selector)
    with page.expect_download() as download:
        page.click("dialog.close-up [data-do=save]")
    page.keyboard.press("Escape")
    return download.value.path().read_bytes()


def test_variations_reconstruct_at_0_and_differ_above(visit):
    page = lab(visit, "variations", "example=red-apple&eta=0&rows=2&columns=2")
    page.wait_for_selector(LIVE)
    assert "PSNR" in page.inner_text("#tab-variations .parts")
    back = picture(page, ".parts .part-3 img")
    assert apart(back, picture(page, ".parts .part-4 img")) < 2
    run(page, "variations")
    cells = [picture(page, f"#tab-variations table [data-at='{at}'] img") for at in ("0,0", "1,0", "1,1")]
    assert apart(cells[1], cells[2]) > 1 and apart(cells[0], cells[1]) > 1
    assert page.locator("#tab-variations table img").count() == 4
    assert "example=red-apple" in page.url and "rows=2" in page.url


def test_a_dragged_slider_answers_at_once_and_settles_on_the_shelf(visit):
    page = lab(visit, "variations", "example=red-apple")
    page.wait_for_selector(LIVE)
    page.wait_for_selector(".thumb")  # the picture settled on the shelf, which comes a moment after it is shown
    made = page.locator(".thumb").count()
    slider = page.locator("#tab-variations input[type=range]").first
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.6, 0.7, 0.8):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
    page.wait_for_selector(".parts .part-4 img[src^=data]")
    assert page.locator(".thumb").count() == made
    page.mouse.up()
    page.wait_for_selector(".parts .part-4 img:not([src^=data])")
    page.wait_for_function("(n) => document.querySelectorAll('.thumb').length > n", arg=made)
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(n) => document.querySelectorAll('.thumb').length > n", arg=made + 1)


def test_a_coarse_picture_that_comes_too_late_is_dropped(visit):
    page = lab(visit, "variations", "example=red-apple")
    page.wait_for_selector(LIVE)
    page.wait_for_selector(".thumb")
    made = page.locator(".thumb").count()
    slider = page.locator("#tab-variations input[type=range]").first
    late = []
    page.route("**/gradio_api/run/**", lambda route: late.append((route, route.fetch())))  # answered, not handed on
    slider.evaluate("(s) => { s.value = s.max; s.dispatchEvent(new Event('input', { bubbles: true })); }")
    page.wait_for_timeout(500)
    assert page.locator(".parts .part-4 img[src^=data]").count() == 0
    slider.dispatch_event("pointerup")
    page.wait_for_function("(n) => document.querySelectorAll('.thumb').length > n", arg=made)
    settled = page.get_attribute(".parts .part-4 img", "src")
    assert late
    for route, response in late:
        with page.expect_response(route.request.url):
            route.fulfill(response=response)
    page.wait_for_timeout(500)
    assert page.get_attribute(".parts .part-4 img", "src") == settled and not settled.startswith("data:")


def test_text_diff_begins_at_the_picture_and_reads_both_captions(visit):
    query = "example=red-apple&caption_from=a+red+apple&caption_to=a+blue+fish&theta=0.4&count=3"
    page = lab(visit, "text_diff", query)
    page.wait_for_selector(LIVE)
    run(page, "text_diff")
    back = picture(page, ".parts .part-3 img")
    strip = [picture(page, f"#tab-text_diff table [data-at='0,{i}'] img") for i in range(3)]
    assert apart(back, strip[0]) < 2 and apart(strip[0], strip[2]) > apart(back, strip[0])
    assert page.locator("#text-diff-chart polyline").count() == 2
    assert "a blue fish" in page.inner_text("#text-diff-chart .legend")


def test_all_components_give_the_reconstruction_and_rows_are_pictures(visit):
    page = lab(visit, "pca", "example=red-apple,cat-face&k=4")
    page.wait_for_selector(LIVE)
    marker = page.get_attribute("#pca-chart .at", "x1")
    run(page, "pca")
    assert page.locator("#tab-pca table tbody tr").count() == 2
    for row in (0, 1):
        back = picture(page, f".parts .row:nth-of-type({row + 1}) .part-3 img")
        cells = page.locator(f"#tab-pca table tr:nth-of-type({row + 1}) img").count()
        last = picture(page, f"#tab-pca table [data-at='{row},{cells - 1}'] img")
        assert apart(back, last) < 2
    page.fill("#tab-pca input[type=number]", "9")
    page.wait_for_function("(x) => document.querySelector('#pca-chart .at').getAttribute('x1') !== x", arg=marker)


def test_interpolation_ends_reconstruct_and_scrubbing_asks_the_server_nothing(visit):
    page = lab(visit, "interpolate", "example=red-apple,cat-face&frames=4")
    run(page, "interpolate")
    page.click("[data-do=play]")
    asked = []
    page.on(
        "request",
        lambda request: request.url.startswith("http") and "file=" not in request.url and asked.append(request.url),
    )
    shown = []
    for frame in range(4):
        page.fill("#film input[type=range]", str(frame))
        shown.append(picture(page, "#film .stage img"))
    assert not asked
    for end, name in ((0, "red-apple"), (-1, "cat-face")):
        own = lab(visit, "variations", f"example={name}&eta=0")
        own.wait_for_selector(LIVE)
        assert apart(shown[end], picture(own, ".parts .part-3 img")) < 2
    assert apart(shown[0], shown[-1]) > 3

    with page.expect_download() as download:
        page.click("text=Download GIF")
    gif = Image.open(io.BytesIO(download.value.path().read_bytes()))
    assert gif.format == "GIF" and gif.n_frames > 3
    button = page.locator(".take button").nth(1)
    if button.is_enabled():
        with page.expect_download() as download:
            button.click()
        assert b"ftyp" in download.value.path().read_bytes()[:16]


def test_four_ends_make_a_pad(visit):
    page = lab(visit, "interpolate", "caption_a=cat&caption_b=dog&caption_c=car&caption_d=fish&path=pad&side=3")
    run(page, "interpolate")
    assert page.locator(".pad [data-frame]").count() == 9
    page.hover(".pad [data-frame='4']")
    assert page.get_attribute(".pad [data-frame='4']", "aria-current") == "true"
    page.focus(".pad")
    page.keyboard.press("ArrowDown")
    assert page.get_attribute(".pad [data-frame='7']", "aria-current") == "true"


def test_a_word_changes_the_picture_the_answer_and_what_is_decoded(visit):
    page = lab(visit, "typographic", "example=red-apple&word=cat&n=1")
    page.wait_for_selector(".bars dd")
    before = page.inner_text(".bars dl")
    canvas = "() => { const c = document.querySelector('#poster canvas'); return c.toDataURL(); }"
    drawn = page.evaluate(canvas)
    page.fill(
        "#tab-typographic label:has-text('Word') input, #tab-typographic label:has-text('Word') textarea", "house"
    )
    page.wait_for_function("(was) => document.querySelector('.bars dl').innerText !== was", arg=before)
    assert page.evaluate(canvas) != drawn
    box = page.locator("#poster canvas").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + 60, box["y"] + 60, steps=3)
    page.mouse.up()
    run(page, "typographic")
    assert page.locator("#tab-typographic table img").count() == 4
    shares = [float(one.rstrip("%")) for one in page.locator(".bars dd:nth-of-type(2n) em").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=4)
    assert "CLIP" in page.inner_text("#tab-typographic .remark") and "word=house" in page.url


def test_four_ways_stand_side_by_side(visit):
    page = lab(visit, "priors", "prompt=a+red+apple&n=2")
    run(page, "priors")
    assert page.locator("#tab-priors table img").count() == 8
    feet = page.locator("#tab-priors tfoot td").all_inner_texts()
    assert all("mean cosine" in foot and "spread" in foot for foot in feet)


def test_pictures_travel_between_labs_with_their_lineage(visit):
    page = lab(visit, "variations", "example=red-apple&rows=1&columns=1")
    page.wait_for_selector(LIVE)
    page.wait_for_selector(".thumb")
    page.click(".thumb >> nth=0")
    page.click("[data-act=send][data-lab=text_diff]")
    page.wait_for_selector("#tab-text_diff .parts .part-3 img")
    page.fill("#tab-text_diff label:has-text('To') input, #tab-text_diff label:has-text('To') textarea", "a fish")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tab-text_diff .parts .part-4 img:not([src^=data])")
    assert not page.locator("[data-testid=toast-text]").count()  # a picture may arrive before its caption
    page.wait_for_selector(".thumb >> nth=1")
    page.click(".thumb >> nth=0")
    assert "#1" in page.inner_text(".shelf-from >> nth=0")
    page.click("[data-act=send][data-lab=interpolate]")
    page.wait_for_selector("#tab-interpolate .slot img")


def test_a_png_brings_its_lab_back_picture_and_all(visit):
    page = lab(visit, "variations", "example=pizza&eta=0.7&seed=9")
    page.wait_for_selector(LIVE)
    data = saved(page, ".parts [data-at='0,4']")
    assert data.startswith(b"\x89PNG")
    other = visit()
    drop(other, data)
    other.wait_for_selector("#tab-variations " + LIVE)
    assert other.input_value("#tab-variations input[aria-label='Seed']") == "9"
    again = saved(other, ".parts [data-at='0,4']")
    pixels = [np.asarray(Image.open(io.BytesIO(one)), int) for one in (data, again)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_bad_uploads_and_missing_ends_are_explained(visit):
    page = lab(visit, "variations")
    page.set_input_files(
        "#tab-variations input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": b"no"}
    )
    assert message(page)
    page = lab(visit, "interpolate", "caption_a=cat")
    page.click("#tab-interpolate button.go")
    assert "Two ends" in message(page)
    page = lab(visit, "text_diff", "example=red-apple&caption_from=a+cat&caption_to=a+cat")
    assert "same" in message(page)
    page = lab(visit, "priors", "lang=ko")
    page.click("#tab-priors button.go")
    assert "문장이 비어 있습니다" in message(page)


def test_stop_ends_a_run_and_the_next_works(visit):
    page = lab(visit, "priors", "prompt=cat&n=4&decoder_steps=250")
    page.click("#tab-priors button.go")
    with page.expect_response("**/cancel"):
        # Pressed in the page itself: on a busy machine the run may end before a click from here.
        page.wait_for_function(
            "() => { const stop = document.querySelector('#tab-priors button.stop');"
            " return document.querySelector('#tab-priors table') && stop.offsetParent && (stop.click(), true); }"
        )
    run(lab(visit, "priors", "prompt=cat&n=1"), "priors")
    assert page.locator("#tab-priors [data-phase=stopped]").count() == 1


@pytest.mark.parametrize("name", LABS)
def test_every_lab_is_korean_keyboard_reachable_and_fits_a_phone(visit, name):
    page = lab(visit, name, "lang=ko", size=PHONE, dark=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    words = page.inner_text(f"#tab-{name}")
    assert not any(f"{prefix}." in words for prefix in (*LABS, "subject"))
    assert sum("가" <= letter <= "힣" for letter in words) > 60
    named = "(e) => e.disabled || !e.offsetParent || e.innerText.trim() || e.title || e.ariaLabel"
    assert page.eval_on_selector_all(f"#tab-{name} button", f"(all) => all.every({named})")
    assert (
        page.eval_on_selector_all(
            f"#tab-{name} button", "els => els.filter(e => e.tabIndex < 0 && e.offsetParent).length"
        )
        <= 4
    )


def test_the_labs_are_endpoints(address, tmp_path):
    client = pytest.importorskip("gradio_client").Client(address, verbose=False, download_files=str(tmp_path))
    known = client.view_api(return_format="dict")["named_endpoints"]
    assert {f"/{name}" for name in LABS} <= set(known)
    files = client.predict(caption_a="a cat", caption_b="a dog", frames=2, api_name="/interpolate")
    assert len(files) == 2 and Image.open(files[0]).size == (64, 64)
    files, report = client.predict(prompt="a cat", n=1, api_name="/priors")
    assert len(files) == len(report) and "text" in report
