"""Groups of inputs and small helpers that every lab shares."""

from __future__ import annotations

import base64
import functools
import inspect
import io
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from components.engine import Engine
from components.i18n import explain, lang_of, t, text
from unclip_core.errors import UnclipError

log = logging.getLogger("unclip")

# How events are declared. One model, one job at a time; the page's own plumbing stays out of the API.
RUN = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "hidden"}
PLUMBING = {"api_visibility": "private", "show_progress": "hidden"}

def guarded(handler: Callable) -> Callable:
    """Show what goes wrong in `handler` (a function or a generator) as a message in the visitor's language.

    An UnclipError is the visitor's to put right and is shown as it is; anything else is logged, and said to be our fault.
    """

    def shown(fault: Exception, args: tuple, kwargs: dict) -> gr.Error:
        lang = lang_of(next((a for a in (*args, *kwargs.values()) if isinstance(a, gr.Request)), None))
        if isinstance(fault, UnclipError):
            return gr.Error(explain(fault, lang), title=t("error.title", lang), print_exception=False)
        log.exception("a handler failed")
        return gr.Error(t("error.unexpected", lang), title=t("error.title", lang), print_exception=False)

    if inspect.isgeneratorfunction(handler):
        @functools.wraps(handler)
        def stream(*args: Any, **kwargs: Any):
            try:
                yield from handler(*args, **kwargs)
            except gr.Error:
                raise
            except Exception as fault:
                raise shown(fault, args, kwargs) from None

        return stream

    @functools.wraps(handler)
    def once(*args: Any, **kwargs: Any):
        try:
            return handler(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as fault:
            raise shown(fault, args, kwargs) from None

    return once

# Inputs

from gradio.events import Dependency

class PictureInput(gr.Image):
    """An upload that hands over the file as it came; `Engine.open` checks it, so that faults get our own words."""

    def preprocess(self, payload: Any) -> str | None:
        if payload is None or not payload.path or (payload.url or "").startswith("data:"):
            return None
        return str(payload.path)

    def get_block_name(self) -> str:
        return "image"
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block

    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

def picture_input(label: str, **options: Any) -> PictureInput:
    """A picture to start from: upload, paste, or a file path sent from the shelf. Handlers get a path or None."""
    return PictureInput(
        label=text(label), type="filepath", image_mode=None, sources=["upload", "clipboard"],
        placeholder=text("shared.drop_picture"), buttons=[], **options,
    )  # fmt: skip

def seed_input() -> tuple[gr.Number, gr.Button]:
    """A seed and a dice that draws a new one (in the browser)."""
    with gr.Row(elem_classes="seed-row"):
        seed = gr.Number(
            label=text("shared.seed"), info=text("shared.seed_info"), value=0, precision=0, minimum=0, maximum=2**31 - 1
        )
        dice = gr.Button(text("shared.random"), elem_classes="quiet dice", size="sm")
    dice.click(None, None, seed, js="() => Math.floor(Math.random() * 2147483647)", **PLUMBING)
    return seed, dice

def steps_slider(engine: Engine, name: str, label: str, maximum: int = 250) -> gr.Slider:
    """Steps of one stage, at the pack's default; `name` is the request's field, such as "decoder_steps"."""
    return gr.Slider(
        1, maximum, value=engine.default(name) or 25, step=1, label=text(label), info=text("shared.steps_info")
    )

def guidance_slider(engine: Engine, name: str, label: str, maximum: float = 12.0) -> gr.Slider:
    """Guidance scale of one stage, at the pack's default; 1 is no guidance."""
    value = engine.default(name)
    return gr.Slider(
        0,
        maximum,
        value=2.0 if value is None else value,
        step=0.1,
        label=text(label),
        info=text("shared.guidance_info"),
    )

def run_and_stop(run: str = "shared.run") -> tuple[gr.Button, gr.Button]:
    """A primary button and its Stop. Wire Stop with `stop.click(None, cancels=[event])`."""
    go = gr.Button(text(run), variant="primary", elem_classes="go")
    stop = gr.Button(text("shared.stop"), variant="stop", elem_classes="stop")
    return go, stop

# Pictures for the page

def data_uri(picture: Image.Image, side: int | None = None, quality: int = 86) -> str:
    """A picture as a WebP data address, for previews inside `gr.HTML`; shrunk to at most `side` pixels."""
    if side is not None and max(picture.size) > side:
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

def file_data(path: str | Path) -> dict[str, Any]:
    """A file as part of a `gr.HTML` value: Gradio serves it, and the page sees its `url`."""
    return {"path": str(path), "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}

def parcel(path: str | Path) -> dict[str, Any]:
    """A value for `courier()`: the browser downloads this file (each parcel once, even of one file)."""
    return {"file": file_data(path), "number": secrets.token_hex(4)}

def courier() -> gr.HTML:
    """An unseen component: give it `parcel(path)` and the browser downloads the file."""
    return gr.HTML(
        value=None,
        html_template="<span></span>",
        js_on_load="unclip.courier(element, props, watch)",
        elem_classes="unseen",
    )

def badge(engine: Engine, seconds: float | None, live: bool = True) -> dict[str, Any]:
    """What a picture cost and where, for a viewer's `badge`: device, pack, time, live or precomputed."""
    return {"live": live, "seconds": seconds, "device": engine.device, "pack": engine.name}

# Components drawn by assets/js

def viewer(**options: Any) -> gr.HTML:
    """Pictures drawn large, each with its PNG download, and a slider over their denoising steps.

    Value: {"pictures": [{"src" | "file", "name", "pixels"}], "frames": [{"stage", "index", "total", "pictures": [src]}],
    "badge": badge(...), "note": text while there is nothing, "run": changes with every run}.
    """
    return gr.HTML(
        html_template="<div class='viewer'></div>", js_on_load="unclip.viewer(element, props, watch)", apply_default_css=False,
        **options,
    )  # fmt: skip

class Slider(_AsSent, gr.Slider):
    """gr.Slider, unchecked."""
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Number(_AsSent, gr.Number):
    """gr.Number, unchecked."""
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Radio(_AsSent, gr.Radio):
    """gr.Radio, unchecked."""
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component

class Image(_AsSent, gr.Image):
    """gr.Image that hands over the uploaded file's path, undecoded."""

    def preprocess(self, payload: Any) -> str | None:
        if payload is None or not payload.path or (payload.url or "").startswith("data:"):
            return None
        return str(payload.path)

    def example_payload(self) -> Any:
        """For the API's description; the frame's own is a file on another host."""
        return file_data("picture.png")

    example_value = example_payload
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component
