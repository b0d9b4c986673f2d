"""What the browser tests share."""

import base64
import io
from collections.abc import Callable

from PIL import Image, ImageChops

DESKTOP, PHONE = (1440, 900), (390, 844)
WAIT = 300_000  # ms for anything to come: no test asks how fast a machine is that may be doing other things
PROMPT = "#prompt input"
SMALL = "?lab=create&size=64&seed=3&prompt=a+red+apple"

DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  for (const kind of ["dragover", "drop"]) {
    document.querySelector("#result").dispatchEvent(
      new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }
}"""


def drop(page, data: bytes, name: str = "picture.png") -> None:
    page.evaluate(DROP, [base64.b64encode(data).decode(), name])


def downloaded(page, selector: str = "[data-save='0']") -> bytes:
    with page.expect_download() as download:
        page.click(selector)
    return download.value.path().read_bytes()


def same_pixels(one: bytes, other: bytes) -> bool:
    pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in (one, other)]
    return pictures[0].size == pictures[1].size and ImageChops.difference(*pictures).getbbox() is None


def generate(page) -> None:
    """Press Generate and wait for the result."""
    started(page, lambda: page.click("button.go"))


def started(page, start: Callable[[], None]) -> None:
    """Wait for the result of the run that `start` begins."""
    before = page.get_attribute("#result .viewer", "data-run")
    start()
    page.wait_for_function(
        """(before) => document.querySelector("#result .viewer").dataset.run !== before
           && document.querySelector("ol.strip[data-phase=done]") && document.querySelector("[data-save='0']")""",
        arg=before,
    )


def message(page) -> str:
    """What the page's message says: read as it appears, for it does not stay."""
    return page.wait_for_function("() => document.querySelector('[data-testid=toast-text]')?.innerText").json_value()
