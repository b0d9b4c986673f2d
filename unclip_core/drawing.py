"""How pictures are drawn once z_i is known: decoder and upsamplers, step by step, batch by batch.

Letters: B pictures, D embedding width. Pictures go from stage to stage rounded to the 256 values a person sees, so that
enlarging a saved picture gives what drawing it large gave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from unclip_core import stopping
from unclip_core.clip import TextFeatures
from unclip_core.latents import Latent
from unclip_core.pictures import as_seen, to_pictures, to_pixels
from unclip_core.request import stages_to
from unclip_core.sampling import PictureNoise, SampleStep

LOW = 64  # what the decoder draws, in pixels
TOGETHER = 8  # pictures in one decoder batch: on a CPU twice as fast as one by one; upsamplers gain nothing by it


class Model(Protocol):
    """What drawing needs of a model."""

    stages: Mapping[str, nn.Module]
    defaults: Mapping[str, Mapping[str, Any]]
    device: torch.device


class Step(NamedTuple):
    """One step of a request, for streaming.

    stage: "clip", "prior", "decoder", "upsampler_256", "upsampler_1024" or "invert". index runs from 1 to total; at
    total the stage is done. pictures: previews, empty where there are none. z_i [B, D]: the embedding as it stands (at
    "clip", z_t). latent: what "invert" found, at its last step.
    """

    stage: str
    index: int
    total: int
    pictures: list[Image.Image]
    z_i: Tensor | None = None
    latent: Latent | None = None


class Drawing(NamedTuple):
    """How pictures are drawn once z_i is known."""

    size: int
    seed: int | tuple[int, ...]  # one for all, or one for each picture
    guidance: float
    steps: int
    sampler: str
    eta: float
    steps_256: int
    steps_1024: int
    every: int
    pull: bool = True  # see GenerateRequest.pull


def picture_steps(
    model: Model, z_i: Tensor | None, x_T: Tensor | None, text: TextFeatures | None, drawing: Drawing
) -> Iterator[Step]:
    """Decoder, then the upsamplers that the size asks for. z_i [B, D]; x_T [B, 3, 64, 64], or None for the seed's."""
    n = len(z_i) if z_i is not None else len(text.pooled)
    pixels = None
    chunks = [range(i, min(i + TOGETHER, n)) for i in range(0, n, TOGETHER)]
    runs = [_decoder_run(model, rows, z_i, x_T, text, drawing) for rows in chunks]
    for index, total, parts in _lockstep(runs):
        if index == total:
            pixels = as_seen(torch.cat([part.x for part in parts]))
        yield Step("decoder", index, total, _previews(parts, index, total, drawing.every), z_i)
    steps = {"upsampler_256": drawing.steps_256, "upsampler_1024": drawing.steps_1024}
    steps = {stage: steps[stage] for stage in stages_to(drawing.size)}
    for step in upsampler_steps(model, pixels, steps, drawing.seed, drawing.every):
        yield step._replace(z_i=z_i)


def _decoder_run(
    model: Model,
    rows: range,
    z_i: Tensor | None,
    x_T: Tensor | None,
    text: TextFeatures | None,
    drawing: Drawing,
) -> Iterator[SampleStep]:
    """Some of the pictures, each from noise of its own."""
    row = slice(rows.start, rows.stop)
    start = noise_of(drawing.seed, rows, "decoder")((3, LOW, LOW)) if x_T is None else x_T[row]
    return model.stages["decoder"].sample_steps(
        None if z_i is None else z_i[row].to(model.device),
        None if text is None else text.index(row),
        start.to(model.device),
        guidance=drawing.guidance,
        steps=drawing.steps,
        sampler=drawing.sampler,
        eta=drawing.eta,
        noise=noise_of(drawing.seed, rows, "decoder steps"),
        # An inverted picture must come back along the way it went; guidance is another way in any case.
        clip=None if x_T is not None and drawing.guidance == 1.0 else 1.0,
        pull=drawing.pull,
    )


def upsampler_steps(
    model: Model, pixels: Tensor, steps: Mapping[str, int], seed: int | Sequence[int], every: int
) -> Iterator[Step]:
    """pixels [B, 3, h, w] through each upsampler named in steps; within a step picture by picture, which bounds the
    memory that a large size takes."""
    for stage, count in steps.items():
        upsampler = model.stages[stage]
        side = upsampler.config.high_size
        runs = [
            upsampler.sample_steps(
                pixels[i : i + 1].to(model.device),
                noise_of(seed, [i], stage)((3, side, side)).to(model.device),
                steps=count,
                sampler=model.defaults[stage]["sampler"],
                noise=noise_of(seed, [i], f"{stage} steps"),
            )
            for i in range(len(pixels))
        ]
        for index, total, parts in _lockstep(runs):
            if index == total:
                pixels = as_seen(torch.cat([part.x for part in parts]))
            yield Step(stage, index, total, _previews(parts, index, total, every))


def inversion_steps(
    model: Model, picture: Image.Image, z_i: Tensor, text: TextFeatures | None, steps: int, refine: int, every: int
) -> Iterator[Step]:
    """One picture of 64 px to its Latent; previews show x_t on its way to noise."""
    x0 = to_pixels([picture]).to(model.device)
    for step in _inferred(model.stages["decoder"].invert_steps(x0, z_i, text, steps=steps, refine=refine)):
        index, done = step.index + 1, step.index + 1 == step.total
        pictures = to_pictures(step.x) if done or index % every == 0 else []
        latent = Latent(z_i.clone(), step.x.clone()) if done else None
        yield Step("invert", index, step.total, pictures, z_i, latent)


def noise_of(seed: int | Sequence[int], indices: Sequence[int], stage: str) -> PictureNoise:
    """The noise of pictures `indices`; one with a seed of its own is the first of that seed."""
    if isinstance(seed, int):
        return PictureNoise(seed, indices, stage)
    return PictureNoise.alone([seed[i] for i in indices], stage)


@torch.inference_mode()
def _inferred(run: Iterator[SampleStep]) -> Iterator[SampleStep]:
    """Steps a sampler in inference mode, which is left between the steps."""
    stopping.check()
    for step in run:
        yield step
        stopping.check()


def _lockstep(runs: Sequence[Iterator[SampleStep]]) -> Iterator[tuple[int, int, tuple[SampleStep, ...]]]:
    """Several samplers together -> after each step (index from 1, total, every sampler's step)."""
    for parts in zip(*(_inferred(run) for run in runs), strict=True):
        yield parts[0].index + 1, parts[0].total, parts


def _previews(parts: Sequence[SampleStep], index: int, total: int, every: int) -> list[Image.Image]:
    if index < total and index % every:
        return []
    return [picture for part in parts for picture in to_pictures(part.x if index == total else part.x0)]


def last(steps: Iterator[Step]) -> Step:
    return deque(steps, maxlen=1).pop()
