"""Interpolate: what lies between two meanings? Along the sphere from one end to the next (paper section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
import torch
from PIL import Image

from components.controls import (
    PLUMBING,
    Radio,
    Slider,
    courier,
    endpoint,
    guarded,
    guidance_slider,
    parcel,
    run_and_stop,
    seed_input,
)
from components.engine import Engine
from components.film import mp4_available, write_gif, write_mp4
from components.i18n import text
from components.live import Job, decode_jobs, decoded, of_path, shelved, size_radio, wire_run
from components.presets import presets
from components.shelf import Shelf
from components.subject import Subject, subject_inputs, take_apart, taken_apart
from components.visuals import Board, player, say
from unclip_core.errors import RequestError
from unclip_core.latents import Latent, blend, interpolate
from unclip_core.request import Limit, checked, checked_number, checked_prompt

PLACES = ("subject.a", "subject.b", "subject.c", "subject.d")
FRAMES = Limit("the number of frames", 2, 32)
SIDE = Limit("the pad's rows and columns", 2, 7)
STEPS = 8  # of frames that no inversion has to match: eight of them within three seconds
CHOICES = {"path": ("line", "pad"), "noise": ("own", "fixed")}
TRIES = (
    {
        "en": ("red apple → cat face", {"caption_a": "red apple", "caption_b": "cat face", "path": "line"}),
        "ko": ("빨간 사과 → 고양이 얼굴", {"caption_a": "빨간 사과", "caption_b": "고양이 얼굴", "path": "line"}),
    },
    {
        "en": ("two pictures", {"example": "cat-face,dog-face", "path": "line"}),
        "ko": ("그림 둘", {"example": "cat-face,dog-face", "path": "line"}),
    },
    {
        "en": ("four on a pad", {"example": "red-apple,sunflower,automobile,rocket", "path": "pad"}),
        "ko": ("넷을 평면에", {"example": "red-apple,sunflower,automobile,rocket", "path": "pad"}),
    },
)


@dataclass(frozen=True)
class End:
    """One of the two to four ends: its Latent, x_T its own; the picture it was inverted from, if it is one."""

    latent: Latent
    name: str
    place: int
    subject: Subject | None = None


def caption_end(engine: Engine, caption: str, place: int, seed: int) -> End:
    """A caption as an end: z_i from the best prior that the pack has, x_T from the seed and the place."""
    kind = next((kind for kind, stage in (("diffusion", "prior"), ("ar", "prior_ar")) if engine.has(stage)), "text")
    z_i = engine.model.sample_prior(caption, kind=kind, seed=seed).cpu()
    return End(Latent(z_i, engine.model.noise(seed, place + 1)[place:].cpu()), caption, place)


def checked_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The lab's fields as its recipes hold them. Raises RequestError that names the one at fault."""
    for field, allowed in CHOICES.items():
        if values[field] not in allowed:
            raise RequestError(f"{field} must be one of {', '.join(allowed)}.", "choice", field=field)
    return {
        **{f"caption_{place}": checked_prompt(values[f"caption_{place}"] or "", empty=True) for place in "abcd"},
        "path": values["path"],
        "noise": values["noise"],
        "frames": checked_number(FRAMES, values["frames"], "frames"),
        "side": checked_number(SIDE, values["side"], "side"),
        "seed": checked("seed", values["seed"]),
        "steps": checked("decoder_steps", values["steps"]),
        "guidance": checked("decoder_guidance", values["guidance"]),
        "size": checked("size", values["size"]),
    }


def given(paths: Sequence[str | None], values: Mapping[str, Any]) -> list[tuple[int, str | None, str]]:
    """The ends there are: (place, picture's file or None, caption); a picture counts before the caption below it.

    Raises RequestError unless there are two to four of them, and four for a pad.
    """
    captions = [values[f"caption_{place}"] for place in "abcd"]
    ends = [(place, file, captions[place]) for place, file in enumerate(paths) if file or captions[place]]
    if len(ends) < 2:
        raise RequestError("Two ends are needed: pictures, captions, or one of each.", "ends_two")
    if values["path"] == "pad" and len(ends) != 4:
        raise RequestError(f"The pad needs four ends; there are {len(ends)}.", "ends_four", count=len(ends))
    return ends


def between(ends: Sequence[End], values: Mapping[str, Any], noise: torch.Tensor | None) -> list[list[Latent]]:
    """Rows of frames: one row along a line through the ends, or the rows of a pad. noise [1, 3, H, W] serves all."""
    latents = [end.latent for end in ends]
    if values["path"] == "pad":
        places = torch.linspace(0, 1, values["side"]).tolist()
        return [[blend(latents, u, v, noise) for u in places] for v in places]
    row = []
    for place in torch.linspace(0, len(ends) - 1, values["frames"], dtype=torch.float64).tolist():
        leg = min(int(place), len(ends) - 2)
        row.append(interpolate(latents[leg], latents[leg + 1], torch.tensor([place - leg]), noise))
    return [row]


def frame_jobs(engine: Engine, ends: Sequence[End], values: Mapping[str, Any]) -> list[tuple[int, int, Job]]:
    """(row, column, job) of every frame. Inverted pictures come back as they went in, if every end has its own x_T."""
    own = values["noise"] == "own"
    noise = None if own else engine.model.noise(values["seed"]).cpu()
    options: dict[str, Any] = {"size": values["size"]}
    if not (own and any(end.subject is not None for end in ends)):
        options |= {name: values[name] for name in ("steps", "guidance")}
        options["sampler"] = engine.default("decoder", "sampler")
    sources = [None] * len(PLACES)
    for end in ends:
        sources[end.place] = end.subject and end.subject.source
    rows = between(ends, values, noise)
    total = sum(map(len, rows))
    jobs: list[tuple[int, int, Job]] = []
    for r, row in enumerate(rows):
        for c, latent in enumerate(row):
            name = say("interpolate.frame", index=len(jobs) + 1, total=total)
            request = {**values, "frame": len(jobs) + 1}
            jobs.append((r, c, Job(latent, request, name, options=options, sources=tuple(sources))))
    return jobs


def interpolate_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    captions: list[gr.Textbox] = []

    def below(place: int) -> None:
        shown = text("interpolate.or_caption")
        captions.append(gr.Textbox("", show_label=False, label=shown, placeholder=shown, max_length=1000, lines=1))

    with shelf.tab("interpolate"):
        gr.Markdown(text("interpolate.question"), elem_classes="question")
        try_one = presets(TRIES)
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                kept = gr.State(())
                inputs = subject_inputs(PLACES, below=below)
                fields = {"example": inputs.example, **{f"caption_{'abcd'[i]}": box for i, box in enumerate(captions)}}
                way = _way()
                go, stop = run_and_stop("interpolate.run")
                fields |= way | _options(engine)
            with gr.Column(scale=5, min_width=300, elem_classes="results"):
                film = player(note="interpolate.empty", elem_id="film")
                files = _take_away(engine)
        outputs = [gr.File(file_count="multiple", label="pictures", render=False)]
        endpoint(_api(engine), "interpolate", outputs, ("picture_a", "picture_b", "picture_c", "picture_d"))
    tried = try_one(fields, inputs)
    shelf.connect("interpolate", fields, receives=inputs.inbox, sources=inputs.pictures)
    names = list(fields)

    @guarded
    def run(request: gr.Request, items: list, known: tuple[Subject, ...], *shown: Any) -> Iterator[tuple]:
        values = checked_values(dict(zip(names, shown[len(PLACES) :], strict=True)))
        ends = []
        for place, path, caption in given(shown[: len(PLACES)], values):
            if path is None:
                ends.append(caption_end(engine, caption, place, values["seed"]))
                continue
            for taken in take_apart(engine, path, of_path(known, path)):
                yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
            ends.append(End(taken.subject.latent, "ABCD"[place], place, taken.subject))
        jobs = frame_jobs(engine, ends, values)
        grid = Board(engine, [""] * (jobs[-1][0] + 1), [""] * (jobs[-1][1] + 1))
        grid.more["ends"] = [end.name for end in ends]
        yield grid.value(), gr.skip(), tuple(end.subject for end in ends if end.subject is not None), []
        made: list[str] = []
        for finished in decode_jobs(engine, "interpolate", jobs, grid):
            made += [one.path for _, _, one in finished]
            items = shelved(shelf, items, finished)
            yield grid.value(), items if finished else gr.skip(), gr.skip(), gr.skip()
        yield grid.value("done"), gr.skip(), gr.skip(), made

    takes = {
        "fn": run,
        "inputs": [shelf.items, kept, *inputs.pictures, *fields.values()],
        "outputs": [film, shelf.items, kept, files],
    }
    entered = [go.click, *(box.submit for box in captions)]
    wire_run(shelf, "interpolate", stop, [film], takes, on=entered, after=[tried])


def _way() -> dict[str, gr.components.Component]:
    """The fields that say which way the frames go."""

    def radio(field: str) -> Radio:
        choices = [(text(f"interpolate.{one}"), one) for one in CHOICES[field]]
        return Radio(choices, value=CHOICES[field][0], label=text(f"interpolate.{field}"))

    path = radio("path")
    frames = Slider(FRAMES.low, FRAMES.high, value=8, step=1, label=text("interpolate.frames"))
    return {"path": path, "frames": frames, "noise": radio("noise")}


def _options(engine: Engine) -> dict[str, gr.components.Component]:
    """The fields under "Advanced"."""
    with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
        seed, _ = seed_input()
        return {
            "seed": seed,
            "side": Slider(SIDE.low, SIDE.high, value=4, step=1, label=text("interpolate.side")),
            "steps": Slider(
                4, 60, value=STEPS, step=1, label=text("interpolate.steps"), info=text("interpolate.steps_info")
            ),
            "guidance": guidance_slider(engine, "decoder", "interpolate.guidance"),
            "size": size_radio(engine),
        }


def _take_away(engine: Engine) -> gr.State:
    """Buttons for the frames as GIF and MP4; returns the state that holds their files."""
    files, away = gr.State([]), courier()
    with gr.Row(elem_classes="take"):
        gif = gr.Button(text("interpolate.gif"), elem_classes="quiet", size="sm")
        label = "interpolate.mp4" if mp4_available() else "interpolate.mp4_absent"
        mp4 = gr.Button(text(label), elem_classes="quiet", size="sm", interactive=mp4_available())

    def write(writer: Callable[..., Any], name: str) -> Callable[..., Any]:
        @guarded
        def away(request: gr.Request, paths: list[str]) -> dict[str, Any]:
            if not paths:
                raise RequestError("There are no frames yet: draw them first.", "frames_none")
            return parcel(engine.write(name, partial(writer, [Image.open(path) for path in paths])))

        return away

    gif.click(write(write_gif, "interpolation.gif"), files, away, **PLUMBING)
    mp4.click(write(write_mp4, "interpolation.mp4"), files, away, **PLUMBING)
    return files


def _api(engine: Engine) -> Callable[..., list[str]]:
    def interpolate(
        caption_a: str = "",
        caption_b: str = "",
        caption_c: str = "",
        caption_d: str = "",
        picture_a: str | None = None,
        picture_b: str | None = None,
        picture_c: str | None = None,
        picture_d: str | None = None,
        frames: int = 8,
        noise: str = "own",
        seed: int = 0,
        size: int = 64,
    ) -> list[str]:
        """Draw what lies between two to four meanings, each a picture or a caption, on the sphere of embeddings.

        Args:
            caption_a: the first end, such as "red apple"; likewise caption_b, caption_c, caption_d.
            caption_b: the second end.
            caption_c: the third end, if any.
            caption_d: the fourth end, if any.
            picture_a: a picture as the first end, in place of its caption.
            picture_b: a picture as the second end.
            picture_c: a picture as the third end.
            picture_d: a picture as the fourth end.
            frames: how many pictures along the way, 2 to 32.
            noise: "own" to go between the ends' own x_T, "fixed" for one noise in all.
            seed: whole number; the same seed gives the same frames.
            size: side in pixels: 64, 256 or 1024.

        Returns:
            PNG files in order, each with the recipe that makes it again.
        """
        captions = {f"caption_{place}": one for place, one in zip("abcd", (caption_a, caption_b, caption_c, caption_d))}
        plain = {"path": "line", "side": 4, "steps": STEPS, "guidance": engine.default("decoder", "guidance")}
        values = checked_values({**captions, **plain, "frames": frames, "noise": noise, "seed": seed, "size": size})
        ends = []
        for place, path, caption in given((picture_a, picture_b, picture_c, picture_d), values):
            if path is None:
                ends.append(caption_end(engine, caption, place, values["seed"]))
            else:
                subject = taken_apart(engine, path)
                ends.append(End(subject.latent, "ABCD"[place], place, subject))
        jobs = [job for _, _, job in frame_jobs(engine, ends, values)]
        return [made.path for made in decoded(engine, "interpolate", jobs)]

    return interpolate
