"""Text diff: how does a sentence move a picture? z_i turned along the change of a caption (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import torch
from torch import Tensor

from components.controls import PLUMBING, Slider, endpoint, guarded, run_and_stop
from components.engine import Engine
from components.i18n import text
from components.live import Job, Live, decoded, size_radio, wire_run
from components.presets import presets
from components.shelf import Shelf
from components.subject import Subject, subject_inputs, taken_apart
from components.visuals import Board, board, chart, points, say, two_places
from unclip_core.errors import RequestError
from unclip_core.latents import rotate_by_text, text_diff
from unclip_core.request import Limit, checked, checked_number, checked_prompt

STRIP = Limit("the pictures of the strip", 2, 12)
MOST = 0.5  # the paper turns by 0.25 to 0.5
TRIES = tuple(
    {
        "en": (f"{en[0]} → {en[1]}", {"example": picture, "caption_from": en[0], "caption_to": en[1], "theta": 0.3}),
        "ko": (f"{ko[0]} → {ko[1]}", {"example": picture, "caption_from": ko[0], "caption_to": ko[1], "theta": 0.3}),
    }
    for picture, en, ko in (
        ("red-apple", ("red apple", "lemon"), ("빨간 사과", "레몬")),
        ("cat-face", ("cat face", "lion"), ("고양이 얼굴", "사자")),
        ("smiling-face-with-sunglasses", ("smiling face", "crying face"), ("웃는 얼굴", "우는 얼굴")),
    )
)
CURVE = 26  # points of the chart: embeddings alone, so they cost nothing


class Captions:
    """Both captions as CLIP reads them: z_from, z_to [1, D]. Raises RequestError if there is nothing to turn to."""

    def __init__(self, engine: Engine, values: Mapping[str, Any]) -> None:
        self.names = (
            checked_prompt(values["caption_from"], empty=True),
            checked_prompt(values["caption_to"], empty=True),
        )
        if not self.names[1]:
            raise RequestError("Write what the picture should become.", "caption_to_empty")
        if self.names[0] == self.names[1]:
            raise RequestError("The two captions are the same: change one of them.", "captions_equal")
        self.z_from, self.z_to = engine.model.encode_text(list(self.names)).pooled.cpu().split(1)

    def cosines(self, z_i: Tensor) -> list[tuple[float, float]]:
        """z_i [B, D] -> the cosine of each with (from, to)."""
        both = torch.cat([self.z_from, self.z_to])
        return [(a, b) for a, b in torch.nn.functional.cosine_similarity(z_i[:, None], both[None], dim=-1).tolist()]


def diff(subject: Subject, captions: Captions, values: Mapping[str, Any]) -> Job:
    """The picture turned by theta towards the change between the captions, with its own x_T; theta 0 gives it back."""
    theta, size = checked("theta", values["theta"]), checked("size", values["size"])
    latent = rotate_by_text(subject.latent, captions.z_from, captions.z_to, torch.tensor([theta]))
    ((was, to),) = captions.cosines(latent.z_i)
    return Job(
        latent,
        {"caption_from": captions.names[0], "caption_to": captions.names[1], "theta": theta, "size": size},
        say("text_diff.name", theta=two_places(theta)),
        say("text_diff.cosines", was=two_places(was), to=two_places(to)),
        {"size": size, "steps": subject.key[1]},
        (subject.source,),
    )


def strip_jobs(subject: Subject, captions: Captions, values: Mapping[str, Any]) -> list[Job]:
    """Equal steps of theta from 0 to `most`."""
    count, most = checked_number(STRIP, values["count"], "count"), checked("theta", values["most"])
    thetas = [round(most * i / (count - 1), 4) for i in range(count)]
    return [diff(subject, captions, {**values, "theta": theta}) for theta in thetas]


def curves(subjects: Sequence[Subject], captions: Captions, theta: float, most: float) -> dict[str, Any]:
    """The chart of both cosines over theta, for the first picture."""
    most = max(most, theta, 0.05)
    thetas = torch.linspace(0, most, CURVE)
    z_i = subjects[0].latent.z_i.repeat(CURVE, 1)
    cosines = captions.cosines(text_diff(z_i, captions.z_from, captions.z_to, thetas.double()))
    lines = [
        {
            "label": say(f"text_diff.cosine_{end}", caption=captions.names[i] or "∅"),
            "tint": tint,
            "points": points((t, pair[i]) for t, pair in zip(thetas.tolist(), cosines)),
        }
        for i, (end, tint) in enumerate((("from", "ink"), ("to", "violet")))
    ]
    heights = [value for pair in cosines for value in pair]
    low, high = min(heights), max(heights)
    room = max(0.02, 0.1 * (high - low))
    return {
        "title": say("text_diff.chart"),
        "x": {"label": "θ", "low": 0, "high": most},
        "y": {"low": low - room, "high": high + room},
        "lines": lines,
        "at": theta,
    }


def text_diff_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""

    def edit(subject: Subject, values: Mapping[str, Any]) -> Job | None:
        if not str(values["caption_to"]).strip():
            return None  # a picture may arrive before its caption
        return diff(subject, Captions(engine, values), values)

    with shelf.tab("text_diff") as tab:
        gr.Markdown(text("text_diff.question"), elem_classes="question")
        try_one = presets(TRIES)
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                inputs = subject_inputs(["text_diff.source"])
                start = gr.Textbox("", label=text("text_diff.from"), info=text("text_diff.from_info"), max_length=1000)
                end = gr.Textbox(
                    "", label=text("text_diff.to"), placeholder=text("text_diff.to_example"), max_length=1000
                )
                theta = Slider(0, MOST, value=0.25, step=0.01, label=text("text_diff.theta"))
                theta.reach = (0, 1)  # what addresses and recipes may hold, whatever the slider shows just now
                go, stop = run_and_stop("text_diff.run")
                with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
                    most = Slider(0.1, 1, value=MOST, step=0.05, label=text("text_diff.most"))
                    count = Slider(STRIP.low, STRIP.high, value=6, step=1, label=text("text_diff.count"))
                    size = size_radio(engine)
            with gr.Column(scale=5, min_width=300, elem_classes="results"):
                edited = {"caption_from": start, "caption_to": end, "theta": theta, "size": size}
                live = Live(engine, shelf, "text_diff", inputs, edit)
                plot = chart(elem_id="text-diff-chart")
                result = board(note="text_diff.result")
        outputs = [gr.File(file_count="multiple", label="pictures", render=False)]
        endpoint(_api(engine), "text_diff", outputs, ("picture",))
    fields = {"example": inputs.example, **edited, "most": most, "count": count}
    tried = try_one(edited, inputs)
    shelf.connect("text_diff", fields, receives=inputs.inbox, sources=inputs.pictures)

    @guarded
    def draw_curves(request: gr.Request, kept: tuple[Subject, ...], *values: Any) -> Any:
        chosen = dict(zip(("caption_from", "caption_to", "theta", "most"), values, strict=True))
        try:
            captions = Captions(engine, chosen)
        except RequestError:  # the edit says so already, or waits for a caption
            return None
        theta, most = (checked("theta", chosen[name]) for name in ("theta", "most"))
        return curves(kept, captions, theta, most) if kept else None

    moving = live.wire(tab, edited, [theta], after=[tried])
    gr.on(
        [live.kept.change, start.change, end.change, most.change],
        draw_curves,
        [live.kept, start, end, theta, most],
        plot,
        trigger_mode="always_last",
        **PLUMBING,
    )
    theta.change(None, [plot, theta], plot, js="(chart, at) => chart && {...chart, at}", **PLUMBING)
    most.change(lambda value: gr.update(maximum=value), most, theta, queue=False, **PLUMBING)

    @guarded
    def run(
        request: gr.Request, items: list, kept: tuple[Subject, ...], path: str | None, *values: Any
    ) -> Iterator[tuple[Any, Any, Any]]:
        chosen = dict(zip((*edited, "most", "count"), values, strict=True))
        engine.open(path)
        captions = Captions(engine, chosen)
        (subject,) = yield from live.prepare([path], kept)
        jobs = strip_jobs(subject, captions, chosen)
        grid = Board(engine, [""], [say("text_diff.name", theta=two_places(job.request["theta"])) for job in jobs])
        note = say("text_diff.reading", was=captions.names[0] or "∅", to=captions.names[1])
        yield from live.fill(items, grid, [(0, c, job) for c, job in enumerate(jobs)], [subject], note)

    takes = {
        "fn": run,
        "inputs": [shelf.items, live.kept, inputs.pictures[0], *edited.values(), most, count],
        "outputs": [result, shelf.items, live.kept],
    }
    wire_run(shelf, "text_diff", stop, [result, live.view], takes, on=[go.click], others=moving)


def _api(engine: Engine) -> Callable[..., list[str]]:
    def text_diff(
        picture: str, caption_to: str, caption_from: str = "", most: float = 0.5, count: int = 6, size: int = 64
    ) -> list[str]:
        """Move a picture by a change of caption, keeping the rest: a strip from the picture (theta 0) to theta = most.

        Args:
            picture: a PNG, JPEG or WebP file; its middle square is used.
            caption_to: what it should become, such as "a green apple".
            caption_from: what it shows now, such as "a red apple"; empty for no caption.
            most: how far to turn, as a share of the way, from 0 to 1; the paper goes to between 0.25 and 0.5.
            count: how many pictures, 2 to 12.
            size: side in pixels: 64, 256 or 1024.

        Returns:
            PNG files by rising theta, each with the recipe that makes it again.
        """
        values = {"caption_from": caption_from, "caption_to": caption_to, "most": most, "count": count, "size": size}
        captions = Captions(engine, values)
        jobs = strip_jobs(taken_apart(engine, picture), captions, values)
        return [made.path for made in decoded(engine, "text_diff", jobs)]

    return text_diff
