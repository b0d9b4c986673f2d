"""A real server and a real browser. `UNCLIP_E2E_PACK` names the pack (default: the random-weight one, for speed)."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browsing import DESKTOP, WAIT
from serving import ROOT, start

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = os.environ.get("UNCLIP_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(items):
    for item in items:
        if ROOT / "tests" / "e2e" in Path(item.fspath).parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def e2e_pack(tiny_pack: Path) -> Path | str:
    return os.environ.get("UNCLIP_E2E_PACK") or tiny_pack


@pytest.fixture(scope="session")
def address(e2e_pack: Path | str) -> Iterator[str]:
    server, address = start(e2e_pack)
    yield address
    server.terminate()
    server.wait(60)


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        flags = ["--no-sandbox", "--enable-unsafe-swiftshader"]  # WebGL where there is no graphics card
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, address) -> Iterator[Callable]:
    """`visit(query="?lang=ko", size=PHONE, dark=True)` opens the page; what it asks other hosts for fails the test."""
    contexts, foreign, broken = [], [], []

    def open_page(query: str = "", size: tuple[int, int] = DESKTOP, dark: bool = False, ready: str = "ol.strip"):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            locale="en-US",
        )
        contexts.append(context)
        context.set_default_timeout(WAIT)
        page = context.new_page()
        own = (address, "data:", "blob:")
        page.on("request", lambda request: request.url.startswith(own) or foreign.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(address + query)
        page.wait_for_selector("body[data-ready]")
        page.wait_for_selector(ready)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not foreign, "the page asked other hosts"
    assert not broken, "scripts failed in the page"
