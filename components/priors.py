"""Priors: is a prior needed? One caption and one noise, four ways to an image embedding (paper, section 5.1)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import gradio as gr
import torch.nn.functional as F

from components.controls import Slider, endpoint, guarded, guidance_slider, run_and_stop, seed_input, steps_slider
from components.engine import Engine, Made
from components.i18n import text
from components.live import PREVIEWS, size_radio, wire_run
from components.presets import presets
from components.shelf import Shelf
from components.visuals import Board, board, say, two_places
from unclip_core.request import PRIORS, GenerateRequest, Limit, checked_number, checked_prompt

WAYS = ("caption", "text", "ar", "diffusion")  # from the barest to the paper's best
STAGES = {"ar": "prior_ar", "diffusion": "prior"}
SAMPLES = Limit("the samples of each way", 1, 4)
CAPTIONS = (
    ("red apple", "빨간 사과"),
    ("smiling face with sunglasses", "선글라스 낀 얼굴"),
    ("cat face", "고양이 얼굴"),
)
TRIES = tuple({"en": (en, {"prompt": en}), "ko": (ko, {"prompt": ko})} for en, ko in CAPTIONS)


class Outcome(NamedTuple):
    """One way's result. cosines of each picture: z_i with z_t (None where there is no z_i), CLIP(picture) with z_t."""

    made: list[Made]
    embedding: list[float] | None
    picture: list[float]
    spread: float | None
    seconds: float

    def note(self, i: int) -> dict[str, Any]:
        """What stands below picture i."""
        if self.embedding is None:
            return say("priors.cosine", picture=two_places(self.picture[i]))
        return say("priors.cosines", z=two_places(self.embedding[i]), picture=two_places(self.picture[i]))

    def foot(self) -> dict[str, Any]:
        """What stands below the way: means over its pictures."""
        mean = sum(self.picture) / len(self.picture)
        spread = "–" if self.spread is None else two_places(self.spread)
        return say("priors.foot", picture=two_places(mean), spread=spread, seconds=f"{self.seconds:.1f}")


def ways(engine: Engine) -> dict[str, bool]:
    """Each way to z_i, and whether this pack can go it."""
    assert set(WAYS) == set(PRIORS)
    return {way: way not in STAGES or engine.has(STAGES[way]) for way in WAYS}


def requests(engine: Engine, values: Mapping[str, Any]) -> dict[str, GenerateRequest]:
    """The same request by every way that the pack can go: same caption, seed, steps, guidance."""
    shared = {**values, "prompt": checked_prompt(values["prompt"]), "n": checked_number(SAMPLES, values["n"], "n")}
    return {way: engine.request(**shared, prior=way) for way, possible in ways(engine).items() if possible}


def measured(engine: Engine, request: GenerateRequest, steps: Iterator[Any]) -> Iterator[tuple[list, Outcome | None]]:
    """Run a request's steps; yields (previews, None) on the way, and at the end the saved and measured Outcome."""
    start, z_i, z_t, pictures = time.perf_counter(), None, None, []
    for step in steps:
        z_t = step.z_i if step.stage == "clip" else z_t
        z_i = step.z_i if step.stage == "prior" else z_i
        pictures = step.pictures or pictures
        yield step.pictures, None
    seconds = time.perf_counter() - start
    seen = F.normalize(engine.model.encode_image(pictures).float(), dim=-1)  # [n, D]
    aim = F.normalize(z_t.to(seen), dim=-1)
    made = engine.save(pictures, "priors", recorded(request), z_i=z_i)
    pairs = [float(a @ b) for a, b in itertools.combinations(seen, 2)]
    yield (
        pictures,
        Outcome(
            made,
            None if z_i is None else (F.normalize(z_i.to(seen), dim=-1) @ aim.T)[:, 0].tolist(),
            (seen @ aim.T)[:, 0].tolist(),
            1 - sum(pairs) / len(pairs) if pairs else None,
            seconds,
        ),
    )


def recorded(request: GenerateRequest) -> dict[str, Any]:
    """The lab's fields as its recipes hold them, and the way that made the picture."""
    names = ("prompt", "n", "seed", "size", "prior_guidance", "decoder_steps", "decoder_guidance", "prior")
    return {name: getattr(request, name) for name in names}


def priors_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    with shelf.tab("priors"):
        gr.Markdown(text("priors.question"), elem_classes="question")
        try_one = presets(TRIES)
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                fields = _options(engine)
                go, stop = run_and_stop("priors.run")
            with gr.Column(scale=5, min_width=300, elem_classes="results"):
                result = board(note="priors.empty", elem_classes="priors")
        outputs = [
            gr.File(file_count="multiple", label="pictures", render=False),
            gr.JSON(label="report", render=False),
        ]
        endpoint(_api(engine), "priors", outputs)
    tried = try_one(fields)
    shelf.connect("priors", fields)
    names = list(fields)

    @guarded
    def run(request: gr.Request, items: list, *values: Any) -> Iterator[tuple[Any, Any]]:
        asked = requests(engine, dict(zip(names, values, strict=True)))
        n = next(iter(asked.values())).n
        grid = Board(engine, [""] * n, [say(f"priors.{way}") for way in WAYS])
        grid.feet = [""] * len(WAYS)
        for column, way in enumerate(WAYS):
            if way not in asked:
                grid.feet[column] = say("app.pack_missing")
        yield grid.value(), gr.skip()
        for way, one in asked.items():
            column = WAYS.index(way)
            every = max(1, one.decoder_steps // PREVIEWS)
            for pictures, outcome in measured(engine, one, engine.generate(one, preview_every=every)):
                for row, picture in enumerate(pictures):
                    shown = picture if outcome is None else outcome.made[row]
                    note = "" if outcome is None else outcome.note(row)
                    grid.put(
                        row,
                        column,
                        shown,
                        say(f"priors.{way}"),
                        note=note,
                        **({"share": 0.5} if outcome is None else {}),
                    )
                if outcome is not None:
                    grid.feet[column] = outcome.foot()
                    items = shelf.add(items, reversed(outcome.made))
                if pictures:
                    yield grid.value(), gr.skip() if outcome is None else items
        grid.note = say("priors.reading")
        yield grid.value("done"), gr.skip()

    takes = {"fn": run, "inputs": [shelf.items, *fields.values()], "outputs": [result, shelf.items]}
    wire_run(shelf, "priors", stop, [result], takes, on=[go.click, fields["prompt"].submit], after=[tried])


def _options(engine: Engine) -> dict[str, gr.components.Component]:
    prompt = gr.Textbox(
        "", label=text("priors.prompt"), placeholder=text("create.placeholder"), max_length=1000, lines=2
    )
    n = Slider(SAMPLES.low, SAMPLES.high, value=2, step=1, label=text("priors.n"))
    seed, _ = seed_input()
    with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
        options = {
            "prior_guidance": guidance_slider(engine, "prior", "create.prior_guidance"),
            "decoder_steps": steps_slider(engine, "decoder", "create.decoder_steps"),
            "decoder_guidance": guidance_slider(engine, "decoder", "create.decoder_guidance"),
            "size": size_radio(engine),
        }
    return {"prompt": prompt, "n": n, "seed": seed, **options}


def _api(engine: Engine) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    def priors(prompt: str, n: int = 2, seed: int = 0, size: int = 64) -> tuple[list[str], dict[str, Any]]:
        """Draw one caption from the same noise with and without a prior, and measure what comes of each way.

        Args:
            prompt: what the pictures should show, in English or Korean.
            n: samples of each way, 1 to 4.
            seed: whole number; the same seed gives the same pictures.
            size: side in pixels: 64, 256 or 1024.

        Returns:
            PNG files (n for each way: caption only, z_t as z_i, autoregressive prior, diffusion prior, where the pack
            has it), and for each way its cosines with the caption, spread and seconds.
        """
        files, report = [], {}
        for way, one in requests(engine, {"prompt": prompt, "n": n, "seed": seed, "size": size}).items():
            for _, outcome in measured(engine, one, engine.generate(one, preview_every=1000)):
                pass
            files += [made.path for made in outcome.made]
            report[way] = {
                "cosine_of_embedding": outcome.embedding,
                "cosine_of_picture": outcome.picture,
                "spread": outcome.spread,
                "seconds": round(outcome.seconds, 2),
            }
        return files, report

    return priors
