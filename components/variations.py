"""Variations: what does z_i leave free? A picture decoded again with fresh noise (paper section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr

from components.controls import Slider, endpoint, guarded, run_and_stop, seed_input
from components.engine import Engine
from components.i18n import text
from components.live import Job, Live, decoded, size_radio, wire_run
from components.shelf import Shelf
from components.subject import Subject, subject_inputs, taken_apart
from components.visuals import Board, board, say, two_places
from unclip_core.request import Limit, checked, checked_number

GRID = Limit("the rows and the columns", 1, 6)


def variation(subject: Subject, values: Mapping[str, Any]) -> Job:
    """The picture decoded with as much fresh noise as eta says: 0 gives it back, 1 keeps nothing but z_i.

    values: "eta", "seed", "size". Raises RequestError for what they may not be.
    """
    eta, seed, size = (checked(name, values[name]) for name in ("eta", "seed", "size"))
    return Job(
        subject.latent,
        {"eta": eta, "seed": seed, "size": size},
        say("variations.name", eta=two_places(eta), seed=seed),
        options={"eta": eta, "seed": seed, "size": size, "steps": subject.key[1]},
        sources=(subject.source,),
    )


def grid_jobs(subject: Subject, values: Mapping[str, Any]) -> tuple[list[float], list[int], list[tuple[int, int, Job]]]:
    """Rows of rising eta up to 1, columns of neighbouring seeds -> (etas, seeds, jobs by row and column)."""
    rows, columns = (checked_number(GRID, values[name], name) for name in ("rows", "columns"))
    seed = checked("seed", values["seed"])
    etas = [round((row + 1) / rows, 2) for row in range(rows)]
    seeds = [(seed + column) % 2**32 for column in range(columns)]
    jobs = [
        (r, c, variation(subject, {**values, "eta": eta, "seed": seed}))
        for r, eta in enumerate(etas)
        for c, seed in enumerate(seeds)
    ]
    return etas, seeds, jobs


def variations_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    with shelf.tab("variations") as tab:
        gr.Markdown(text("variations.question"), elem_classes="question")
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                inputs = subject_inputs(["variations.source"])
                eta = Slider(0, 1, value=0.5, step=0.01, label=text("variations.eta"), info=text("variations.eta_info"))
                seed, _ = seed_input()
                with gr.Row(elem_classes="pair"):
                    rows = Slider(GRID.low, GRID.high, value=3, step=1, label=text("variations.rows"))
                    columns = Slider(GRID.low, GRID.high, value=4, step=1, label=text("variations.columns"))
                go, stop = run_and_stop("variations.run")
                with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
                    size = size_radio(engine)
            with gr.Column(scale=5, min_width=300, elem_classes="results"):
                live = Live(engine, shelf, "variations", inputs, variation)
                result = board(note="variations.result")
        endpoint(
            _api(engine), "variations", [gr.File(file_count="multiple", label="pictures", render=False)], ("picture",)
        )
    fields = {"example": inputs.example, "eta": eta, "seed": seed, "rows": rows, "columns": columns, "size": size}
    shelf.connect("variations", fields, receives=inputs.inbox, sources=inputs.pictures)
    moving = live.wire(tab, {"eta": eta, "seed": seed, "size": size}, [eta])

    @guarded
    def run(
        request: gr.Request, items: list, kept: tuple[Subject, ...], path: str | None, *values: Any
    ) -> Iterator[tuple[Any, Any, Any]]:
        (subject,) = yield from live.prepare([path], kept)
        etas, seeds, jobs = grid_jobs(
            subject, dict(zip(("eta", "seed", "rows", "columns", "size"), values, strict=True))
        )
        columns_said = [say("variations.seed", seed=one) for one in seeds]
        grid = Board(engine, [f"η {two_places(one)}" for one in etas], columns_said)
        yield from live.fill(items, grid, jobs, [subject], say("variations.reading"))

    takes = {
        "fn": run,
        "inputs": [shelf.items, live.kept, inputs.pictures[0], eta, seed, rows, columns, size],
        "outputs": [result, shelf.items, live.kept],
    }
    wire_run(shelf, "variations", stop, [result, live.view], takes, on=[go.click], others=moving)


def _api(engine: Engine) -> Callable[..., list[str]]:
    def variations(picture: str, eta: float = 1.0, n: int = 4, seed: int = 0, size: int = 64) -> list[str]:
        """Draw variations of a picture: what its CLIP embedding leaves free changes, what it holds stays.

        Args:
            picture: a PNG, JPEG or WebP file; its middle square is used.
            eta: how much varies, from 0 (the reconstruction) to 1.
            n: how many variations, 1 to 16, from neighbouring seeds.
            seed: whole number; the same seed gives the same variation.
            size: side in pixels: 64, 256 or 1024.

        Returns:
            PNG files, each with the recipe that makes it again.
        """
        n, seed = checked("n", n), checked("seed", seed)
        subject = taken_apart(engine, picture)
        jobs = [variation(subject, {"eta": eta, "seed": (seed + i) % 2**32, "size": size}) for i in range(n)]
        return [made.path for made in decoded(engine, "variations", jobs)]

    return variations
