"""A lab's subject: a picture taken apart into z_i and x_T (paper section 3), and put together again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
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


@dataclass(frozen=True, eq=False)  # hashed by identity, as gr.State asks
class Subject:
    """A picture at 64 px, its Latent (on the CPU), and what decoding that gives back.

    psnr: of the reconstruction, in dB. shelf_id: the picture's, or None for one from elsewhere.
    """

    key: tuple[str, int]
    picture: Image.Image
    latent: Latent
    reconstruction: Image.Image
    psnr: float
    seconds: float
    shelf_id: str | None

    @property
    def source(self) -> tuple[Image.Image, str | None]:
        """As `Engine.save` takes it."""
        return self.picture, self.shelf_id


class Taken(NamedTuple):
    """One step of taking apart: a preview on its way to x_T ("invert") or back ("decoder"); the subject at the end."""

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
    subject = Subject(key, picture, latent, back, psnr(picture, back), seconds, shelf_id(engine, path))
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


def shelf_id(engine: Engine, path: str | None) -> str | None:
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


class SubjectInputs(NamedTuple):
    """pictures: hand handlers a file path or None each. example: names of the shipped pictures in them, by place, with
    commas between ("red-apple,,rocket"): the field of a lab that lets an address bring its pictures. inbox: where a
    picture sent from the shelf goes; with several pictures, from there to the first that is empty."""

    pictures: list[gr.Image]
    example: gr.Textbox
    inbox: gr.Image


def subject_inputs(labels: Sequence[str], first: str = "", below: Callable[[int], Any] | None = None) -> SubjectInputs:
    """A picture to upload, paste, be sent, or choose from those shipped, for each label (a text's key).

    first: names of the examples that stand there from the start; below(i) adds inputs below picture i.
    """
    start = example_paths(first, len(labels))
    with gr.Row(elem_classes=["slots", f"slots-{len(labels)}"]):
        pictures = []
        for i, label in enumerate(labels):
            with gr.Column(min_width=120, elem_classes="slot"):
                pictures.append(picture_input(label, value=start[i]))
                if below is not None:
                    below(i)
    shown = [{"name": name, "file": file_data(path)} for name, path in examples().items()]
    picks = gr.HTML(
        value=shown,
        html_template="<div></div>",
        js_on_load="unclip.picks(element, props, trigger); 'pick'",
        apply_default_css=False,
        visible=bool(shown),
    )
    example = gr.Textbox(value=first if any(start) else "", label=text("subject.example"), elem_classes="unseen")
    inbox = pictures[0] if len(pictures) == 1 else picture_input("subject.picture", elem_classes="unseen")
    inputs = SubjectInputs(pictures, example, inbox)
    _wire(inputs, picks)
    return inputs


def _wire(inputs: SubjectInputs, picks: gr.HTML) -> None:
    pictures, example, inbox = inputs

    still = {picture: gr.skip() for picture in pictures}

    def place(path: str | None, now: Sequence[str | None]) -> dict[Any, Any]:
        """A picture into the first empty place, or the last where none is."""
        free = next((i for i, there in enumerate(now) if not there), len(now) - 1)
        return still if path is None else {**still, pictures[free]: path}

    @guarded
    def pick(event: gr.EventData, *now: str | None) -> dict[Any, Any]:
        path = examples().get(str(event._data.get("name")))
        return place(None if path is None else str(path), now)

    @guarded
    def send(path: str | None, *now: str | None) -> dict[Any, Any]:
        return {**place(path, now), inbox: None}

    @guarded
    def fill(names: str, *now: str | None) -> dict[Any, Any]:
        """Names from an address; a picture that stands there already is left alone."""
        there = [Path(path).stem if path else None for path in now]
        wanted = enumerate(example_paths(names, len(now)))
        return {**still, **{pictures[i]: path for i, path in wanted if path and Path(path).stem != there[i]}}

    picks.pick(pick, pictures, pictures, queue=False, **PLUMBING)
    example.change(fill, [example, *pictures], pictures, queue=False, **PLUMBING)
    if inbox not in pictures:
        inbox.change(send, [inbox, *pictures], [*pictures, inbox], queue=False, **PLUMBING)
    for picture in pictures:  # what stands there now, by name
        picture.change(None, pictures, example, js="(...files) => unclip.exampleNames(files)", **PLUMBING)


def example_paths(names: str, count: int) -> list[str | None]:
    """Shipped pictures by name and place, "red-apple,,rocket" -> `count` paths, None where no picture has the name."""
    listed = [examples().get(name) for name in str(names or "").split(",")[:count]]
    return [None if path is None else str(path) for path in listed] + [None] * (count - len(listed))
