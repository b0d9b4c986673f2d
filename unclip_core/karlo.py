"""The published unCLIP weights as a pack: diffusers-format folders of any size, Karlo by name, or its .ckpt files.

`load` gives the stages that the pipeline runs; `sample_reference` and `vary_reference` draw as the published pipelines
do, number for number. The networks are this project's own: karlo_keys.py says which weights fill what.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from unclip_core import karlo_hub
from unclip_core.errors import RequestError
from unclip_core.request import need

if TYPE_CHECKING:
    from unclip_core.clip import TextFeatures
    from unclip_core.pipeline import UnCLIP

INDEX = "model_index.json"
LICENCE = "CreativeML Open RAIL-M"
ATTRIBUTION = (
    "Karlo-v1.0.alpha by Kakao Brain (2022), trained on COYO-100M, CC3M and CC12M; CLIP ViT-L/14 by OpenAI (MIT)."
)
DEFAULTS: dict[str, dict[str, Any]] = {
    "prior": {"steps": 25, "guidance": 4.0, "candidates": 1},
    "decoder": {"steps": 25, "guidance": 8.0, "sampler": "ddpm"},
    "upsampler_256": {"steps": 7, "sampler": "ddpm"},
}
SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "packs"


def is_karlo(pack: str | Path) -> bool:
    """Whether `load` takes it: the name "karlo", a diffusers-format folder, or one of Karlo's original checkpoints."""
    from unclip_core.karlo_checkpoints import is_original

    if karlo_hub.is_name(pack):
        return True
    folder = Path(pack)
    published = (INDEX, "decoder/config.json")  # the index only lists what is there, and some folders come without
    return folder.is_dir() and (any((folder / file).is_file() for file in published) or is_original(folder))


def load(
    pack: str | Path, device: torch.device, dtype: torch.dtype = torch.float32, low_memory: bool = False
) -> dict[str, Any]:
    """A pack that `is_karlo` -> the keyword arguments of UnCLIP. Raises PackError.

    dtype is that of prior, decoder and upsamplers; CLIP and the decoder's conditioning are at least float32.
    low_memory: stages are read when needed and let go after.
    """
    from unclip_core.karlo_load import Maker, Stages
    from unclip_core.loading import DEFAULTS as OURS

    named = karlo_hub.is_name(pack)
    folder, beside = karlo_hub.find(str(pack), SHIPPED) if named else (Path(pack), None)
    maker = Maker(folder, beside, device, dtype, low_memory)
    return {
        "stages": Stages(maker.makers(), low_memory),
        "name": karlo_hub.NAME if named else folder.resolve().name,
        "licence": LICENCE if named else "As its publisher states: see the folder's README.",
        "attribution": ATTRIBUTION if named else "As its publisher states: see the folder's README.",
        "hash": maker.hash,
        "defaults": {stage: {**values, **DEFAULTS.get(stage, {})} for stage, values in OURS.items()},
        "pca": maker.pca(),
    }


# ---- as published ----

Generators = torch.Generator | Sequence[torch.Generator] | None


@torch.inference_mode()
def sample_reference(
    model: UnCLIP,
    prompts: str | Sequence[str],
    *,
    steps: tuple[int, int, int] = (25, 25, 7),
    guidance: tuple[float, float] = (4.0, 8.0),
    latents: Sequence[Tensor | None] | None = None,
    generator: Generators = None,
    pictures_per_prompt: int = 1,
) -> Tensor:
    """Captions to pictures as diffusers' UnCLIPPipeline does it -> [B, 3, S, S] float32 in [0, 1], S = 256 for Karlo.

    steps: of prior, decoder, upsampler. guidance: of prior and decoder; with neither above 1 there is none.
    latents: the three starting noises, [B, D], [B, 3, 64, 64] and [B, 3, 256, 256]; one that is None is drawn.
    Noise is drawn from `generator` (one, or one a picture) in diffusers' order. B = prompts x pictures_per_prompt, the
    pictures of one prompt side by side. Raises RequestError if the model lacks a stage or is not of published weights.
    """
    need(model, "prior")
    _check_published(model)
    steps = _numbers("steps", steps, 3, whole=True)
    guidance = _numbers("guidance", guidance, 2)
    (pictures_per_prompt,) = _numbers("pictures_per_prompt", [pictures_per_prompt], 1, whole=True)
    if max(guidance) <= 1:  # as published, one switch for both stages
        guidance = (1.0, 1.0)
    text = model.encode_text([prompts] if isinstance(prompts, str) else prompts).repeat(pictures_per_prompt)
    noise = _Noise(generator, text.pooled)
    starts = _starts(latents, 3)
    prior = model.stages["prior"]
    x = noise.start(starts[0], (prior.config.embed_dim,))
    network = prior.network(text, guidance[0], prior.empty)
    z_i = prior.standard(_last(prior.schedule.sample(network, x, steps[0], noise)))
    return _draw(model, z_i, text, steps[1:], guidance[1], starts[1:], noise)


@torch.inference_mode()
def vary_reference(
    model: UnCLIP,
    pictures: Sequence[Image.Image] | Tensor,
    *,
    steps: tuple[int, int] = (25, 7),
    guidance: float = 8.0,
    latents: Sequence[Tensor | None] | None = None,
    generator: Generators = None,
    variations: int = 1,
) -> Tensor:
    """Variations of pictures, or of their embeddings [N, D], as diffusers' UnCLIPImageVariationPipeline draws them.

    -> [N * variations, 3, S, S] float32 in [0, 1]. latents: the starting noises of decoder and upsampler.
    """
    _check_published(model)
    steps = _numbers("steps", steps, 2, whole=True)
    (guidance,) = _numbers("guidance", [guidance], 1)
    (variations,) = _numbers("variations", [variations], 1, whole=True)
    z_i = pictures if isinstance(pictures, Tensor) else model.encode_image(pictures)
    z_i = z_i.to(model.device).repeat_interleave(variations, 0)
    text = model.encode_text([""]).repeat(len(z_i))
    noise = _Noise(generator, text.pooled)
    return _draw(model, z_i, text, steps, max(guidance, 1.0), _starts(latents, 2), noise)


def _draw(
    model: UnCLIP,
    z_i: Tensor,
    text: TextFeatures,
    steps: Sequence[int],
    guidance: float,
    starts: Sequence[Tensor | None],
    noise: _Noise,
) -> Tensor:
    """Decoder and upsampler: z_i [B, D] and captions -> [B, 3, S, S] in [0, 1]."""
    decoder = model.stages["decoder"]
    size = decoder.config.image_size
    x = noise.start(starts[0], (decoder.config.unet.in_channels, size, size))
    network = decoder.network(z_i, text, guidance, len(z_i))
    low = _last(decoder.config.schedule.sample(network, x, steps[0], noise)).clamp(-1, 1)
    del decoder, network  # with little memory the upsampler takes their place
    upsampler = model.stages["upsampler_256"]
    size = upsampler.config.image_size
    x = noise.start(starts[1], (low.shape[1], size, size))
    first, last = upsampler.networks(low, (size, size))
    high = _last(upsampler.config.schedule.sample(first, x, steps[1], noise, last))
    return (high * 0.5 + 0.5).clamp(0, 1).float()


def _check_published(model: UnCLIP) -> None:
    for stage in ("decoder", "upsampler_256"):
        need(model, stage)
    if not hasattr(model.stages["decoder"], "null_image") or not hasattr(model.stages["decoder"], "pooled_to_time"):
        raise RequestError("Only published unCLIP weights are sampled this way; use generate() for this pack.", "pack")


def _numbers(name: str, given: Sequence[float], count: int, whole: bool = False) -> tuple[Any, ...]:
    """So many finite numbers; `whole`: from one up. Raises RequestError."""
    given = tuple(given) if isinstance(given, Sequence) else (given,)
    kind = Integral if whole else Real
    good = all(isinstance(x, kind) and not isinstance(x, bool) and math.isfinite(x) for x in given)
    if len(given) != count or not good or (whole and min(given) < 1):
        what = "a whole number of at least 1" if whole else "a finite number"
        raise RequestError(f"{name} holds {count} values, each {what}, not {given!r}.", name)
    return given


def _starts(latents: Sequence[Tensor | None] | None, count: int) -> Sequence[Tensor | None]:
    if latents is None:
        return (None,) * count
    if len(latents) != count or not all(start is None or isinstance(start, Tensor) for start in latents):
        raise RequestError(f"There are {count} starting noises, tensors or None, one for each stage.", "latents")
    return latents


def _last(steps) -> Tensor:
    for step in steps:
        pass
    return step.x


class _Noise:
    """Normal numbers in the published order: whole batches from one generator, or a picture each from several."""

    def __init__(self, generator: Generators, like: Tensor) -> None:
        """like [B, ...]: as many pictures, on its device and of its dtype (which changes what a generator gives)."""
        rows, self.device, self.dtype = len(like), like.device, like.dtype
        several = not (generator is None or isinstance(generator, torch.Generator))
        self.generators = list(generator) if several else [generator]
        if len(self.generators) not in (1, rows):
            raise RequestError(f"{len(self.generators)} generators do not fit {rows} pictures.", "generator")
        self.rows = rows // len(self.generators)

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """shape of one picture -> [B, *shape]."""
        parts = []
        for generator in self.generators:
            place = self.device if generator is None else generator.device
            draw = torch.randn((self.rows, *shape), generator=generator, device=place, dtype=self.dtype)
            parts.append(draw.to(self.device))
        return torch.cat(parts)

    def start(self, given: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """The starting noise given, checked, or one that is drawn now."""
        if given is None:
            return self(shape)
        wanted = (self.rows * len(self.generators), *shape)
        if tuple(given.shape) != wanted:
            raise RequestError(
                f"A starting noise has the shape {tuple(given.shape)}, but {wanted} is needed.", "latents"
            )
        return given.to(self.device, self.dtype)
