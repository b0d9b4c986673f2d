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
from typing import Any, get_type_hints

import gradio as gr
import PIL.Image
from gradio.components.api_component import Api
from gradio.data_classes import ImageData
from gradio_client.utils import python_type_to_json_schema

from components.engine import Engine
from components.i18n import explain, lang_of, t, text
from unclip_core.errors import UnclipError
from unclip_core.request import LIMITS
from unclip_core.stopping import Stopped

log = logging.getLogger("unclip")

# How events are declared. One model, one job at a time; the page's own plumbing stays out of the API.
RUN = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private", "show_progress": "hidden"}
PLUMBING = {"api_visibility": "private", "show_progress": "hidden"}


def guarded(handler: Callable) -> Callable:
    """Show what goes wrong in `handler` (a function or a generator) as a message in the visitor's language.

    An UnclipError is the visitor's to put right and is shown; anything else is logged, and said to be our fault.
    """

    def shown(fault: Exception, lang: str) -> gr.Error:
        if isinstance(fault, UnclipError):
            return gr.Error(explain(fault, lang), title=t("error.title", lang), print_exception=False)
        log.exception("a handler failed")
        return gr.Error(t("error.unexpected", lang), title=t("error.title", lang), print_exception=False)

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*args: Any, **kwargs: Any):
            try:
                yield from handler(*args, **kwargs)
            except (gr.Error, Stopped):
                raise
            except Exception as fault:
                raise shown(fault, lang_of()) from None

        return stream

    @functools.wraps(handler)
    def once(*args: Any, **kwargs: Any):
        try:
            return handler(*args, **kwargs)
        except (gr.Error, Stopped):
            raise
        except Exception as fault:
            raise shown(fault, lang_of()) from None

    return once


# Inputs. Gradio's own checks let NaN through and answer other faults in Python's words: these hand over what came,
# and the core's checks (`unclip_core.request.checked`, `Engine.open`) name the fault.


class _AsSent:
    def preprocess(self, payload: Any) -> Any:
        return payload

    def get_block_name(self) -> str:
        return type(self).__name__.lower()


class Slider(_AsSent, gr.Slider):
    """gr.Slider, unchecked."""


class Number(_AsSent, gr.Number):
    """gr.Number, unchecked."""


class Radio(_AsSent, gr.Radio):
    """gr.Radio, unchecked."""


class _Upload(ImageData):
    """What stands for an uploaded picture. Anything else, such as a bare path, is refused in words for people."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> _Upload:
        if not isinstance(obj, (dict, ImageData)):
            raise gr.Error("A picture is sent as an uploaded file (in Python: handle_file).", print_exception=False)
        return super().model_validate(obj, **options)


class Image(_AsSent, gr.Image):
    """gr.Image that hands over the uploaded file's path, undecoded."""

    data_model = _Upload

    def preprocess(self, payload: Any) -> str | None:
        if payload is None or not payload.path or (payload.url or "").startswith("data:"):
            return None
        return str(payload.path)

    def example_payload(self) -> Any:
        """For the API's description; the frame's own is a file on another host."""
        return file_data("picture.png")

    example_value = example_payload


def picture_input(label: str, **options: Any) -> Image:
    """A picture to start from: upload, paste, or a file path sent from the shelf. Handlers get a path or None."""
    return Image(
        label=text(label),
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        placeholder=text("shared.drop_picture"),
        buttons=[],
        **options,
    )


def seed_input() -> tuple[Number, gr.Button]:
    """A seed and a dice that draws a new one (in the browser)."""
    with gr.Row(elem_classes="seed-row"):
        seed = Number(
            label=text("shared.seed"),
            info=text("shared.seed_info"),
            value=0,
            precision=0,
            minimum=LIMITS["seed"].low,
            maximum=LIMITS["seed"].high,
        )
        dice = gr.Button(text("shared.random"), elem_classes="quiet dice", size="sm")
    dice.click(None, None, seed, js="() => Math.floor(Math.random() * 2147483647)", **PLUMBING)
    return seed, dice


def steps_slider(engine: Engine, stage: str, label: str) -> Slider:
    """Steps of one stage ("decoder", "prior", "upsampler_256", "upsampler_1024", "invert"), at the pack's default."""
    limit = LIMITS.get(f"{stage}_steps", LIMITS["decoder_steps"])
    value = engine.default(stage, "steps", 25)
    return Slider(limit.low, limit.high, value=value, step=1, label=text(label), info=text("shared.steps_info"))


def guidance_slider(engine: Engine, stage: str, label: str) -> Slider:
    """Guidance scale of one stage, at the pack's default; 1 is no guidance."""
    limit = LIMITS.get(f"{stage}_guidance", LIMITS["decoder_guidance"])
    value = engine.default(stage, "guidance", 2.0)
    return Slider(limit.low, limit.high, value=value, step=0.01, label=text(label), info=text("shared.guidance_info"))


def run_and_stop(run: str = "shared.run") -> tuple[gr.Button, gr.Button]:
    """A primary button and its Stop. Wire Stop with `stop.click(None, cancels=[event])`."""
    go = gr.Button(text(run), variant="primary", elem_classes="go")
    stop = gr.Button(text("shared.stop"), variant="stop", elem_classes="stop")
    return go, stop


# Pictures for the page


def data_uri(picture: PIL.Image.Image, side: int | None = None, quality: int = 86) -> str:
    """A picture as a WebP address for `gr.HTML`, shrunk to at most `side` pixels; quality 100 keeps every value."""
    if side is not None and max(picture.size) > side:
        picture = picture.resize((side, side), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, lossless=quality >= 100)
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


def endpoint(
    handler: Callable, name: str, outputs: list[gr.components.Component], pictures: tuple[str, ...] = ()
) -> None:
    """A lab's verb as a documented API endpoint and MCP tool.

    The signature and docstring (with Args) of `handler` are its description; parameters named in `pictures` are files,
    given as paths. `outputs` are made with `render=False`, such as `gr.File(file_count="multiple", render=False)`.
    Nothing of it shows in the page.
    """
    inputs = []
    with gr.Group(visible=False):
        for parameter, kind in get_type_hints(handler).items():
            if parameter == "return":
                continue
            default = inspect.signature(handler).parameters[parameter].default
            default = None if default is inspect.Parameter.empty else default
            if parameter in pictures:
                inputs.append(Image(label=parameter, type="filepath"))
            else:
                inputs.append(Api(default, python_type_to_json_schema(kind), parameter))
        for output in outputs:
            output.example_payload = output.example_value = lambda: file_data("picture.png")
            output.render()
        button = gr.Button()
    button.click(guarded(handler), inputs, outputs, api_name=name, concurrency_id="model", concurrency_limit=1)


# Components drawn by assets/js


def viewer(**options: Any) -> gr.HTML:
    """Pictures drawn large, each with its PNG download, and a slider over their denoising steps.

    Value: {"pictures": [{"src" | "file", "name", "pixels"}], "badge": badge(...), "note": text while there is nothing,
    "frames": [{"stage", "index", "total", "pictures": [src], "pixels"}], "run": changes with every run}.
    """
    return gr.HTML(
        html_template="<div class='viewer'></div>",
        js_on_load="unclip.viewer(element, props, watch)",
        apply_default_css=False,
        **options,
    )
