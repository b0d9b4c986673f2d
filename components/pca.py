"""PCA: what do the first k dimensions know? z_i with its first k principal components, decoded (paper section 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from components.controls import PLUMBING, Radio, Slider, endpoint, guarded, run_and_stop
from components.engine import Engine
from components.i18n import text
from components.live import Job, Live, decoded, size_radio, wire_run
from components.shelf import Shelf
from components.subject import Subject, subject_inputs, taken_apart
from components.visuals import Board, board, chart, points, say
from unclip_core.errors import RequestError
from unclip_core.latents import Latent, truncate_components
from unclip_core.request import Limit, checked, checked_number, need

PAPER = (20, 30, 40, 80, 120, 160, 200, 320)  # components of 1,024
NOISES = ("own", "fixed")
PLACES = ("subject.a", "subject.b", "subject.c", "subject.d")


def ladder(width: int) -> list[int]:
    """The paper's numbers of components for embeddings of `width`, and all of them, which is the reconstruction."""
    return sorted({max(1, round(k * width / 1024)) for k in PAPER} | {width})


def truncated(engine: Engine, subject: Subject, values: Mapping[str, Any]) -> Job:
    """The picture with the first k components of its z_i, the others at their mean, and the same noise for every k: its
    own x_T, which holds much of the picture too, or a fixed one, which leaves all to z_i."""
    need(engine.model, "pca")
    width = engine.width
    k = checked_number(Limit("the number of components k", 1, width), values["k"], "k")
    size = checked("size", values["size"])
    noise = values.get("noise", "own")
    if noise not in NOISES:
        raise RequestError(f"noise must be one of {', '.join(NOISES)}.", "choice", field="noise")
    share = float(engine.model.pca.explained[k - 1])
    latent = truncate_components(subject.latent, engine.model.pca, [k])
    return Job(
        latent if noise == "own" else Latent(latent.z_i),
        {"k": k, "size": size, "noise": noise},
        say("pca.name", k=k),
        say("pca.share", k=k, width=width, share=f"{100 * share:.0f}"),
        {"size": size, "steps": subject.key[1]} if noise == "own" else {"size": size},
        (subject.source,),
    )


def explained(engine: Engine, k: int) -> dict[str, Any] | None:
    """The chart of the variance that the first k components hold; None where the pack has no PCA."""
    if not engine.has("pca"):
        return None
    shares = [0.0, *engine.model.pca.explained.tolist()]
    return {
        "title": say("pca.chart"),
        "x": {"label": "k", "low": 0, "high": len(shares) - 1},
        "y": {"low": 0, "high": 1},
        "lines": [{"label": say("pca.line"), "tint": "violet", "points": points(enumerate(shares))}],
        "at": k,
    }


def pca_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    width, steps = engine.width, ladder(engine.width)
    middle = steps[len(steps) // 2]
    with shelf.tab("pca") as tab:
        gr.Markdown(text("pca.question"), elem_classes="question")
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                inputs = subject_inputs(PLACES)
                if not engine.has("pca"):
                    gr.Markdown(text("pca.missing"))
                k = Slider(1, width, value=middle, step=1, label=text("pca.k"), info=text("pca.k_info"))
                noises = [(text(f"pca.noise_{one}"), one) for one in NOISES]
                noise = Radio(noises, value="own", label=text("pca.noise"), info=text("pca.noise_info"))
                go, stop = run_and_stop("pca.run")
                with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
                    size = size_radio(engine)
            with gr.Column(scale=5, min_width=300, elem_classes="results"):
                live = Live(engine, shelf, "pca", inputs, lambda subject, values: truncated(engine, subject, values))
                plot = chart(value=explained(engine, middle), elem_id="pca-chart")
                result = board(note="pca.result")
        outputs = [gr.File(file_count="multiple", label="pictures", render=False)]
        endpoint(_api(engine), "pca", outputs, ("picture",))
    fields = {"example": inputs.example, "k": k, "noise": noise, "size": size}
    shelf.connect("pca", fields, receives=inputs.inbox, sources=inputs.pictures)
    moving = live.wire(tab, {"k": k, "noise": noise, "size": size}, [k])
    k.change(None, [plot, k], plot, js="(chart, at) => chart && {...chart, at}", **PLUMBING)

    @guarded
    def run(
        request: gr.Request,
        items: list,
        kept: tuple[Subject, ...],
        size_value: int,
        noise_value: str,
        *paths: str | None,
    ) -> Iterator[tuple[Any, Any, Any]]:
        need(engine.model, "pca")
        pictures = [path for path in paths if path] or [None]
        subjects = yield from live.prepare(pictures, kept)
        grid = Board(engine, [""] * len(subjects), [say("subject.picture"), *(f"k = {one}" for one in steps)])
        jobs = []
        for row, subject in enumerate(subjects):
            grid.put(row, 0, subject.picture, say("subject.picture"))
            for column, one in enumerate(steps, 1):
                job = truncated(engine, subject, {"k": one, "size": size_value, "noise": noise_value})
                jobs.append((row, column, replace(job, note=say("pca.short", share=job.note["values"]["share"]))))
        yield from live.fill(items, grid, jobs, subjects, say("pca.reading", width=width))

    takes = {
        "fn": run,
        "inputs": [shelf.items, live.kept, size, noise, *inputs.pictures],
        "outputs": [result, shelf.items, live.kept],
    }
    wire_run(shelf, "pca", stop, [result, live.view], takes, on=[go.click], others=moving)


def _api(engine: Engine) -> Callable[..., list[str]]:
    def pca(picture: str, ks: list[int] | None = None, size: int = 64, noise: str = "own") -> list[str]:
        """Decode a picture from the first k principal components of its embedding, the same noise for every k.

        Args:
            picture: a PNG, JPEG or WebP file; its middle square is used.
            ks: numbers of components, up to 16 of them; the paper's, scaled to this pack's width, if left out.
            size: side in pixels: 64, 256 or 1024.
            noise: "own" for the picture's own x_T, "fixed" for noise that knows nothing of the picture.

        Returns:
            PNG files, one for each k, each with the recipe that makes it again.
        """
        rungs = ladder(engine.width) if ks is None else ks
        if not isinstance(rungs, list) or not 1 <= len(rungs) <= 16:
            raise RequestError("ks must be a list of 1 to 16 numbers of components.", "ks")
        subject = taken_apart(engine, picture)
        jobs = [truncated(engine, subject, {"k": k, "size": size, "noise": noise}) for k in rungs]
        return [made.path for made in decoded(engine, "pca", jobs)]

    return pca
