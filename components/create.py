"""Create: a caption becomes a picture, stage by stage, in the open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from components import examples
from components.controls import (
    PLUMBING, RUN, guarded, guidance_slider, run_and_stop, seed_input, steps_slider, viewer,
)  # fmt: skip
from components.engine import Engine
from components.i18n import text
from components.shelf import Shelf
from components.strip import Progress, strip

PRIORS = ("diffusion", "ar", "text", "caption")
PREVIEW_EVERY = 3


def create_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    with shelf.tab("create"):
        with gr.Row(elem_id="create-prompt"):
            prompt = gr.Textbox(
                placeholder=text("create.placeholder"), label=text("create.prompt"), show_label=False, lines=1, max_lines=1,
                max_length=1000, scale=1, elem_id="prompt", autofocus=True, submit_btn=False,
            )  # fmt: skip
            go, stop = run_and_stop("create.run")
        chips = examples.chips()
        line = strip(engine)
        with gr.Row(elem_id="create-main"):
            with gr.Column(scale=3, min_width=320):
                result = viewer(value={"pictures": []}, elem_id="result")
            with gr.Column(scale=2, min_width=300, elem_id="create-options"):
                fields = {"prompt": prompt, **_options(engine)}
    shelf.connect("create", fields)

    names = list(fields)

    @guarded
    def run(items: list[dict[str, Any]], *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        request = engine.request(**dict(zip(names, values, strict=True)))
        progress = Progress(engine, request)
        yield progress.strip(), progress.viewer(), gr.skip()
        for step in engine.generate(request, preview_every=PREVIEW_EVERY):
            if progress.take(step):
                yield progress.strip(), progress.viewer(), gr.skip()
        made = engine.save(progress.final, "create", request, z_i=progress.z_i)
        yield progress.strip("done"), progress.result(made), shelf.add(items, made)

    running = gr.on(
        [go.click, prompt.submit], run, [shelf.items, *fields.values()], [line, result, shelf.items], **RUN
    )
    halt = "(value) => ({...value, phase: 'stopped'})"
    stop.click(None, line, line, js=halt, cancels=[running], **PLUMBING)
    running.failure(None, line, line, js=halt, **PLUMBING)
    shelf.address(running, "create")
    examples.wire(chips, engine, shelf, fields, line, result)


def _options(engine: Engine) -> dict[str, gr.components.Component]:
    """The request's fields besides the prompt, each with the widget that holds it."""
    sizes = engine.sizes()
    priors = [kind for kind in PRIORS if _available(engine, kind)]
    with gr.Column(elem_classes="sheet"):
        prior = gr.Radio(
            [(text(f"prior.{kind}"), kind) for kind in priors], value=priors[0], label=text("create.prior"),
            elem_classes="cards",
        )  # fmt: skip
        size = gr.Radio([(f"{side} px", side) for side in sizes], value=sizes[-1], label=text("create.size"))
        n = gr.Slider(1, 8, value=1, step=1, label=text("create.n"))
        seed, _ = seed_input()
        with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
            fine = {
                "prior_steps": steps_slider(engine, "prior", "create.prior_steps"),
                "prior_guidance": guidance_slider(engine, "prior", "create.prior_guidance"),
                "decoder_steps": steps_slider(engine, "decoder", "create.decoder_steps"),
                "decoder_guidance": guidance_slider(engine, "decoder", "create.decoder_guidance"),
                "upsampler_256_steps": steps_slider(engine, "upsampler_256", "create.upsampler_256_steps"),
                "upsampler_1024_steps": steps_slider(engine, "upsampler_1024", "create.upsampler_1024_steps"),
            }
    return {"prior": prior, "size": size, "n": n, "seed": seed, **fine}


def _available(engine: Engine, prior: str) -> bool:
    return {"diffusion": engine.has("prior"), "ar": engine.has("prior_ar")}.get(prior, True)
