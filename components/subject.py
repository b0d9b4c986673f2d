"""A lab's subject: a picture taken apart into z_i and x_T (paper section 3), and put together again to see what was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from PIL import Image

from components.controls import PLUMBING, file_data, guarded, picture_input
from components.engine import Engine
from components.i18n import text
from unclip_core.errors import UnclipError
from unclip_core.latents import Latent
from unclip_core.pictures import square
from unclip_core.request import checked

FOLDER = Path(__file__).parent.parent / "assets" / "examples" / "pictures"
SIDE = 64
MOST_PSNR = 99.0  # dB; equal pictures have no finite one


@dataclass(frozen=True)
class Subject:
    """A picture at 64 px, its Latent (on the CPU), and what decoding that gives back.

    psnr: of the reconstruction, in dB. source: the picture's shelf id, or None for one from elsewhere.
    """

    key: tuple[str, int]
    picture: Image.Image
    latent: Latent
    reconstruction: Image.Image
    psnr: float
    seconds: float
    source: str | None


class Taken(NamedTuple):
    """One step of taking a picture apart: preview on its way to x_T ("invert") or back ("decoder"); subject at the end."""

    picture: Image.Image
    stage: str
    share: float
    preview: Image.Image | None
    subject: Subject | None = None


def take_apart(
    engine: Engine, path: str | None, kept: Subject | None = None, steps: int | None = None, previews: int = 6
) -> Iterator[Taken]:
    """Invert the picture in a file and decode it again, step by step; the last step carries the Subject.

    kept: an earlier subject, used again if it is of the same file and steps. Raises RequestError in the user's words.
    """
    steps = checked("invert_steps", engine.default("invert", "steps") if steps is None else steps)
    key = (str(path), steps)
    if kept is not None and kept.key == key:
        yield Taken(kept.picture, "decoder", 1.0, kept.reconstruction, kept)
        return
    start = time.perf_counter()
    picture = square(engine.open(path), SIDE)
    every, latent = max(1, steps // previews), None
    for step in engine.model.invert_steps(picture, steps=steps, preview_every=every):
        if step.pictures:
            yield Taken(picture, "invert", step.index / step.total, step.pictures[0])
        latent = step.latent
    latent = Latent(latent.z_i.cpu(), latent.x_T.cpu())
    back = picture
    for step in engine.model.decode_steps(latent, steps=steps, preview_every=every):
        if step.pictures:
            back = step.pictures[0]
            yield Taken(picture, "decoder", step.index / step.total, back)
    seconds = time.perf_counter() - start
    subject = Subject(key, picture, latent, back, psnr(picture, back), seconds, _shelf_id(engine, path))
    yield Taken(picture, "decoder", 1.0, back, subject)


def taken_apart(engine: Engine, path: str | None, kept: Subject | None = None, steps: int | None = None) -> Subject:
    """`take_apart` to its end."""
    for taken in take_apart(engine, path, kept, steps, previews=1):
        subject = taken.subject
    return subject


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size, in dB, at most MOST_PSNR."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    error = float((difference**2).mean())
    return MOST_PSNR if error == 0 else min(MOST_PSNR, 10 * float(np.log10(255.0**2 / error)))


def _shelf_id(engine: Engine, path: str | None) -> str | None:
    """The id in a picture's recipe, if it is one of ours."""
    try:
        return str(engine.read(path).get("id") or "")[:64] or None
    except UnclipError:
        return None


# ---- choosing one ----


@cache
def examples() -> dict[str, Path]:
    """The shipped pictures by name, such as "red-apple"."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.png"))}


class SubjectInput(NamedTuple):
    """picture: hands handlers a file path. example: the name of the shipped picture in it, or "" (a lab's field)."""

    picture: gr.Image
    example: gr.Textbox


def subject_input(label: str, first: str = "", **options: Any) -> SubjectInput:
    """Upload, paste, "send to", or one of the shipped pictures below; `first` stands there from the start."""
    start = examples().get(first)
    picture = picture_input(label, value=None if start is None else str(start), **options)
    shown = [{"name": name, "file": file_data(path)} for name, path in examples().items()]
    picks = gr.HTML(
        value=shown,
        html_template="<div></div>",
        js_on_load="unclip.picks(element, props, trigger); 'pick'",
        apply_default_css=False,
        visible=bool(shown),
    )
    example = gr.Textbox(value=first if start else "", label=text("subject.example"), elem_classes="unseen")

    @guarded
    def fill(name: str) -> Any:
        path = examples().get(str(name))
        return gr.skip() if path is None else str(path)

    @guarded
    def pick(event: gr.EventData) -> Any:
        name = str(event._data.get("name"))
        return name if name in examples() else gr.skip()

    picks.pick(pick, None, example, queue=False, **PLUMBING)
    example.change(fill, example, picture, queue=False, **PLUMBING)
    # Another picture in its place ends the example.
    still = "(file, name) => (file && file.orig_name === name + '.png' ? name : '')"
    picture.change(None, [picture, example], example, js=still, **PLUMBING)
    return SubjectInput(picture, example)
