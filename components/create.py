"""Create: a caption becomes a picture, stage by stage, in the open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from components import examples
from components.controls import (
    PLUMBING,
    RUN,
    Radio,
    Slider,
    endpoint,
    guarded,
    guidance_slider,
    run_and_stop,
    seed_input,
    steps_slider,
    viewer,
)
from components.engine import Engine
from components.i18n import default_language, text
from components.live import size_choices
from components.shelf import Shelf
from components.strip import Progress, strip
from unclip_core.request import LIMITS, PRIORS, SAMPLERS, SIZES

PREVIEW_EVERY = 3


def create_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    example = examples.first(default_language())
    on_strip, on_viewer = examples.shown(example) if example else (None, {"pictures": []})
    with shelf.tab("create"):
        with gr.Row(elem_id="create-prompt"):
            prompt = gr.Textbox(
                value=example["request"]["prompt"] if example else "",
                placeholder=text("create.placeholder"),
                label=text("create.prompt"),
                show_label=False,
                lines=1,
                max_lines=1,
                max_length=1000,
                scale=1,
                elem_id="prompt",
                autofocus=True,
                submit_btn=False,
            )
            go, stop = run_and_stop("create.run")
        chips = examples.chips()
        line = strip(engine, on_strip)
        with gr.Row(elem_id="create-main"):
            with gr.Column(scale=3, min_width=320):
                result = viewer(value=on_viewer, elem_id="result")
            with gr.Column(scale=2, min_width=300, elem_id="create-options"):
                fields = {"prompt": prompt, **_options(engine)}
        endpoint(_api(engine), "generate", [gr.File(file_count="multiple", label="pictures", render=False)])
    shelf.connect("create", fields)

    names = list(fields)

    @guarded
    def run(items: list[dict[str, Any]], *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        request = engine.request(**dict(zip(names, values, strict=True)))
        progress = Progress(engine, request)
        yield progress.strip(), progress.viewer(), gr.skip()
        for step in engine.generate(request, preview_every=PREVIEW_EVERY):
            if progress.take(step):
                yield progress.strip(), progress.viewer() if step.pictures else gr.skip(), gr.skip()
        made = engine.save(progress.final, "create", request, z_i=progress.z_i)
        yield progress.strip("done"), progress.result(made), shelf.add(items, made)

    asked = [go.click, prompt.submit]
    gr.on(asked, None, line, line, js="unclip.waiting", **PLUMBING)
    running = gr.on(asked, run, [shelf.items, *fields.values()], [line, result, shelf.items], **RUN)
    stop.click(None, line, line, js="unclip.stopRun", cancels=[running], **PLUMBING)
    running.failure(None, line, line, js="unclip.endRun", **PLUMBING)
    shelf.address(running, "create")
    examples.wire(chips, shelf, fields, line, result)


def _options(engine: Engine) -> dict[str, gr.components.Component]:
    """The request's fields besides the prompt, each with the widget that holds it."""
    sizes = engine.sizes() or [64]
    priors = [kind for kind in PRIORS if _available(engine, kind)]
    with gr.Column(elem_classes="sheet"):
        prior = Radio(
            [(text(f"prior.{kind}"), kind) for kind in priors],
            value=priors[0],
            label=text("create.prior"),
            info=_missing_priors(engine),
            elem_classes="cards",
        )
        size = Radio(
            size_choices(engine) or [("64 px", 64)],
            value=sizes[-1],
            label=text("create.size"),
            info=_missing_sizes(engine),
        )
        n = Slider(1, LIMITS["n"].high, value=1, step=1, label=text("create.n"))
        seed, _ = seed_input()
        with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
            fine = {
                "prior_steps": steps_slider(engine, "prior", "create.prior_steps"),
                "prior_guidance": guidance_slider(engine, "prior", "create.prior_guidance"),
                "candidates": Slider(
                    1,
                    LIMITS["candidates"].high,
                    value=engine.default("prior", "candidates", 2),
                    step=1,
                    label=text("create.candidates"),
                    info=text("create.candidates_info"),
                ),
                "decoder_steps": steps_slider(engine, "decoder", "create.decoder_steps"),
                "decoder_guidance": guidance_slider(engine, "decoder", "create.decoder_guidance"),
                "sampler": Radio(
                    SAMPLERS, value=engine.default("decoder", "sampler", "ddim"), label=text("create.sampler")
                ),
                "eta": Slider(0, 1, value=0.0, step=0.01, label=text("create.eta"), info=text("create.eta_info")),
                "upsampler_256_steps": steps_slider(engine, "upsampler_256", "create.upsampler_256_steps"),
                "upsampler_1024_steps": steps_slider(engine, "upsampler_1024", "create.upsampler_1024_steps"),
            }
    return {"prior": prior, "size": size, "n": n, "seed": seed, **fine}


def _missing_sizes(engine: Engine) -> str | None:
    """Which sizes the pack cannot draw, and what stands in for 1024 px."""
    if engine.stand_in:
        return text(f"create.stand_in_{engine.stand_in}")
    absent = ", ".join(f"{side} px" for side in SIZES if side not in engine.sizes())
    return text("create.missing", what=absent) if absent else None


def _missing_priors(engine: Engine) -> str | None:
    """What to say where a prior's choice would stand."""
    absent = [kind for kind in ("diffusion", "ar") if not _available(engine, kind)]
    return text(f"create.missing_{'both' if len(absent) == 2 else absent[0]}") if absent else None


def _available(engine: Engine, prior: str) -> bool:
    return {"diffusion": engine.has("prior"), "ar": engine.has("prior_ar")}.get(prior, True)


def _api(engine: Engine) -> Callable[..., list[str]]:
    def generate(
        prompt: str,
        n: int = 1,
        size: int = 256,
        seed: int = 0,
        prior: str = "diffusion",
        prior_steps: int | None = None,
        prior_guidance: float | None = None,
        decoder_steps: int | None = None,
        decoder_guidance: float | None = None,
    ) -> list[str]:
        """Draw pictures of a caption with unCLIP: caption to image embedding (prior) to picture (decoder, upsamplers).

        Args:
            prompt: what the picture should show, in English or Korean, such as "a red apple".
            n: how many pictures, 1 to 16.
            size: side in pixels: 64, 256 or 1024.
            seed: whole number; the same seed and request give the same pictures.
            prior: source of the image embedding: "diffusion", "ar", "text" (the caption's own), "caption" (none).
            prior_steps: denoising steps of the diffusion prior; the pack's default if left out.
            prior_guidance: guidance scale of the prior, 1 is off; the pack's default if left out.
            decoder_steps: denoising steps of the decoder; the pack's default if left out.
            decoder_guidance: guidance scale of the decoder, 1 is off; the pack's default if left out.

        Returns:
            PNG files, each with the recipe that makes it again.
        """
        request = engine.request(
            prompt=prompt,
            n=n,
            size=size,
            seed=seed,
            prior=prior,
            prior_steps=prior_steps,
            prior_guidance=prior_guidance,
            decoder_steps=decoder_steps,
            decoder_guidance=decoder_guidance,
        )
        z_i, pictures = None, []
        for step in engine.generate(request, preview_every=1000):
            z_i = step.z_i if step.stage == "prior" else z_i
            pictures = step.pictures
        return [one.path for one in engine.save(pictures, "create", request, z_i=z_i)]

    return generate
