"""How soon the labs answer: ``python benchmarks/labs.py``. Prints the README's table.

The app is started as a person starts it, and Chromium (on the same machine) opens its page: a time runs from the press
of a key or button to the picture on the screen. Medians of several presses, after one that is not counted. Run it on
an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.pocket import running

RUNS, PATIENCE = 5, 300_000
SETTLED = ".parts .part-4 img:not([src^=data])"  # a picture that the lab has finished and put on the shelf
CHANGED = "(was) => { const img = document.querySelector('%s'); return img && img.complete && img.src !== was; }"


def opened(browser: Browser, address: str, query: str, ready: str) -> Page:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address + query)
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector(ready)
    return page


def median_of(once: Callable[[int], float]) -> float:
    """Median of `once(run)`, whose first result is not counted."""
    return statistics.median([once(run) for run in range(RUNS + 1)][1:])


def frames(browser: Browser, address: str) -> float:
    """Eight frames between two captions, to the last."""

    def once(run: int) -> float:
        query = f"?lab=interpolate&caption_a=a+cat&caption_b=a+dog&frames=8&size=64&seed={run}"
        page = opened(browser, address, query, "#tab-interpolate .question")
        started = time.perf_counter()
        page.click("#tab-interpolate button.go")
        page.wait_for_selector("#film .player[data-phase=done] [data-frame='7']:not([disabled])")
        seconds = time.perf_counter() - started
        page.context.close()
        return seconds

    return median_of(once)


def slider_step(browser: Browser, address: str, lab: str, query: str, coarse: bool) -> float:
    """One step of the lab's slider once its picture is inverted: to the coarse answer, or until it has settled."""
    page = opened(browser, address, f"?lab={lab}&{query}", SETTLED)
    page.wait_for_selector(".thumb")
    slider = page.locator(f"#tab-{lab} input[type=range]").first
    target = ".parts .part-4 img" if coarse else SETTLED

    def once(_: int) -> float:
        was = page.eval_on_selector(SETTLED, "(img) => img.src")
        shelf = page.locator(".thumb").count()
        slider.focus()
        started = time.perf_counter()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(CHANGED % target, arg=was)
        seconds = time.perf_counter() - started
        page.wait_for_selector(SETTLED)
        page.wait_for_function("(n) => document.querySelectorAll('.thumb').length > n", arg=shelf)
        return seconds

    seconds = median_of(once)
    page.context.close()
    return seconds


def map_dots(browser: Browser, address: str) -> tuple[float, float]:
    """The map on a page that is open already: from the click on its tab to its dots on the screen, and until they can
    be dragged. By the page's own clock: Plotly's start keeps the page too busy to be asked."""
    found = []
    for _ in range(RUNS + 1):
        page = opened(browser, address, "?lab=create", "ol.strip")
        page.evaluate("addEventListener('pointerdown', (event) => { window.pressed = event.timeStamp; }, true)")
        page.get_by_role("tab", name="Map", exact=True).click()
        page.wait_for_selector("[data-live][data-painted]")
        told = "(map) => [map.dataset.painted - pressed, map.dataset.live - pressed]"
        found.append([milliseconds / 1000 for milliseconds in page.eval_on_selector("[data-live]", told)])
        page.context.close()
    return tuple(statistics.median(column) for column in zip(*found[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", default="pocket")
    options = parser.parse_args()
    chromium = os.environ.get("UNCLIP_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with running(options.pack) as (_, address), sync_playwright() as playwright:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        theta = "example=red-apple&caption_from=a+red+apple&caption_to=a+blue+fish&theta=0.1&size=64"
        rows = [("interpolation between two captions, eight frames", frames(browser, address))]
        rows += [
            ("text diff: a step of θ, first answer", slider_step(browser, address, "text_diff", theta, True)),
            ("text diff: a step of θ, settled", slider_step(browser, address, "text_diff", theta, False)),
            (
                "PCA: a step of k, first answer",
                slider_step(browser, address, "pca", "example=red-apple&k=8&size=64", True),
            ),
            ("PCA: a step of k, settled", slider_step(browser, address, "pca", "example=red-apple&k=8&size=64", False)),
        ]
        dots, live = map_dots(browser, address)
        rows += [("map: first paint", dots), ("map: can be dragged", live)]
        browser.close()
    print("\n".join(["| in the browser, on two cores | |", "|---|---|", *(f"| {n} | {s:.2f} s |" for n, s in rows)]))


if __name__ == "__main__":
    main()
