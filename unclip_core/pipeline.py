"""The pipeline: class UnCLIP, whose verbs are the paper's: encode, sample a prior, invert, decode, upsample, generate.

Letters: B pictures, D embedding width. Every verb has a `_steps` form that streams; each checks what it is given first.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from unclip_core import stopping
from unclip_core.clip import TextFeatures
from unclip_core.drawing import LOW, Drawing, Step, inversion_steps, last, noise_of, picture_steps, upsampler_steps
from unclip_core.errors import RequestError
from unclip_core.latents import PCA, Latent
from unclip_core.loading import load_pack, pick_device, pick_dtype
from unclip_core.pictures import check_size, opaque, square, to_pixels
from unclip_core.request import GenerateRequest, check_work, checked, checked_prompt, need, stages_to, validate
from unclip_core.sampling import PictureNoise


class UnCLIP:
    """A loaded model. Make one with `UnCLIP.load`; it keeps no state between requests."""

    def __init__(
        self,
        *,
        stages: Mapping[str, nn.Module],
        name: str,
        licence: str,
        attribution: str,
        hash: str,
        defaults: Mapping[str, Mapping[str, Any]],
        device: torch.device,
        pca: PCA | None = None,
    ):
        self.stages = stages
        self.name, self.licence, self.attribution, self.hash = name, licence, attribution, hash
        self.defaults = defaults
        self.device = device
        self._pca = pca
        self.stand_ins: dict[str, str] = {}  # stage -> label of what stands in for one the pack lacks

    @classmethod
    def load(
        cls, pack: str | Path = "pocket", device: str = "auto", dtype: str = "auto", low_memory: bool = False
    ) -> UnCLIP:
        """A pack's name ("pocket", "karlo") or folder -> a model, every file of it checked.

        device: "auto", "cpu", "cuda", "mps"; dtype of the UNets: "auto", "bfloat16", "float16", "float32".
        low_memory: stages of a large pack wait on disk and are read when needed. Raises PackError or RequestError.
        """
        from unclip_core import karlo

        place = pick_device(device)
        kind = pick_dtype(dtype, place)
        if karlo.is_karlo(pack):
            if dtype == "auto" and place.type == "cpu":
                kind = torch.float32  # published weights draw the published pictures, unless speed is asked for
            return cls(**karlo.load(pack, place, kind, low_memory), device=place)
        return cls(**load_pack(pack, place, kind), device=place)

    # ---- what is there ----

    def has(self, stage: str) -> bool:
        """Whether the pack holds a stage ("clip", "prior", "prior_ar", "decoder", "upsampler_256", "upsampler_1024"),
        or "pca"."""
        return self._pca is not None if stage == "pca" else stage in self.stages

    @property
    def pca(self) -> PCA:
        """Principal components of the corpus's image embeddings: `truncate(z_i, k)`, `explained` [D]."""
        need(self, "pca")
        return self._pca

    def noise(self, seed: int = 0, n: int = 1) -> Tensor:
        """The x_T [n, 3, 64, 64] that `decode` starts from at this seed."""
        noise = noise_of(checked("seed", seed), range(checked("n", n)), "decoder")
        return noise((3, LOW, LOW)).to(self.device)

    def recipe(
        self, request: GenerateRequest | Mapping[str, Any], index: int, z_i: Tensor | None, lab: str = "create"
    ) -> dict[str, Any]:
        """All that is needed to make picture `index` of a request again, for its PNG. z_i: that picture's [D].

        A lab other than "create" gives its request as a mapping of what JSON can hold.
        """
        packed = None if z_i is None else base64.b64encode(z_i.detach().cpu().float().numpy().tobytes()).decode()
        return {
            "schema": 1,
            "app": "unclip-explorer",
            "lab": lab,
            "request": dataclasses.asdict(request) if dataclasses.is_dataclass(request) else dict(request),
            "index": index,
            "pack": {"name": self.name, "hash": self.hash},
            "z_i": packed,
        }

    # ---- encode ----

    def encode_text(self, captions: Sequence[str]) -> TextFeatures:
        """B captions -> TextFeatures(pooled [B, D], tokens [B, L, W], mask [B, L]). "" is the null caption."""
        if isinstance(captions, str):
            captions = [captions]
        captions = [checked_prompt(caption, empty=True) for caption in captions]
        if not captions:
            raise RequestError("There is no caption to encode.", "prompt_empty")
        return self.stages["clip"].encode_text(captions)

    def encode_image(self, pictures: Sequence[Image.Image], close: bool = True) -> Tensor:
        """B pictures of any size, whose middle square is read -> z_i [B, D] float32.

        close: a small drawing on a plain ground is read up close, as large as the pack's own art draws it.
        """
        if isinstance(pictures, Image.Image):
            pictures = [pictures]
        if not pictures:
            raise RequestError("There is no picture to encode.", "picture_none")
        for picture in pictures:
            check_size(*picture.size)
        return self.stages["clip"].encode_image([opaque(picture) for picture in pictures], close)

    # ---- caption -> z_i ----

    def sample_prior(
        self,
        caption: str | Sequence[str],
        n: int = 1,
        kind: str = "diffusion",
        candidates: int | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        seed: int = 0,
    ) -> Tensor:
        """n embeddings for each of B captions -> z_i [B*n, D]: row b*n + j is sample j of caption b.

        kind: "diffusion", "ar", or "text" for z_t itself. candidates and steps belong to the diffusion prior.
        """
        captions = [caption] if isinstance(caption, str) else list(caption)
        text = self.encode_text([checked_prompt(item) for item in captions])
        if kind == "caption":
            raise RequestError('The kind "caption" makes no embedding.', "choice", field="prior")
        options = {"prior_steps": steps, "prior_guidance": guidance, "candidates": candidates}
        options = {name: checked(name, value) for name, value in options.items() if value is not None}
        n, seed, kind = checked("n", n), checked("seed", seed), checked("prior", kind)
        return last(self._prior_steps(text, n, kind, seed, options)).z_i.clone()

    @torch.inference_mode()
    def _prior_steps(
        self, text: TextFeatures, n: int, kind: str, seed: int, options: Mapping[str, Any]
    ) -> Iterator[Step]:
        if kind == "text":
            yield Step("prior", 1, 1, [], text.pooled.repeat_interleave(n, 0))
            return
        stage = {"diffusion": "prior", "ar": "prior_ar"}[kind]
        need(self, stage)
        chosen = {**self.defaults[stage], **{_PRIOR_OPTIONS[name]: value for name, value in options.items()}}
        if kind == "ar":
            chosen = {name: chosen[name] for name in ("guidance", "temperature")}
        noise = PictureNoise(seed, range(n * len(text.pooled)), stage)
        for step in self.stages[stage].sample_steps(text, n, noise=noise, **chosen):
            stopping.check()
            last = step.index + 1 == step.total
            yield Step("prior", step.index + 1, step.total, [], step.x if last else step.x0)

    # ---- picture -> (z_i, x_T) ----

    def invert(
        self, picture: Image.Image, steps: int | None = None, caption: str | None = None, refine: int | None = None
    ) -> Latent:
        """A picture -> Latent(z_i, x_T) by CLIP and DDIM inversion; `decode(latent, steps=steps)` gives it back."""
        return last(self.invert_steps(picture, steps, caption, refine, preview_every=1000)).latent

    def invert_steps(
        self,
        picture: Image.Image,
        steps: int | None = None,
        caption: str | None = None,
        refine: int | None = None,
        preview_every: int = 1,
    ) -> Iterator[Step]:
        """`invert`, step by step: previews show x_t on its way to noise; the last step carries the latent."""
        need(self, "decoder")
        defaults = self.defaults["invert"]
        steps = checked("invert_steps", defaults["steps"] if steps is None else steps)
        refine = checked("refine", defaults["refine"] if refine is None else refine)
        every = checked("preview_every", preview_every)
        text = None if caption is None else self.encode_text([caption])
        picture = square(picture, LOW)
        return inversion_steps(self, picture, self.encode_image([picture]), text, steps, refine, every)

    # ---- z_i -> picture ----

    def decode(
        self,
        latent: Latent | Tensor,
        size: int = 64,
        caption: str | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        seed: int | Sequence[int] = 0,
        sampler: str | None = None,
    ) -> list[Image.Image]:
        """Latent or z_i [B, D] -> B pictures of size 64, 256 or 1024. A z_i goes through the decoder's pull, if it has
        one (`Decoder.pulled`); to decode z_t as it is, `generate` with prior="text".

        With an x_T of its own (from `invert`) a latent is decoded without guidance by as many ddim steps as the
        inversion takes, unless told otherwise; from the seed's noise, with the pack's own defaults. A seed for each
        picture makes each as if it were made alone.
        """
        drawn = self.decode_steps(latent, size, caption, guidance, steps, eta, seed, sampler, preview_every=1000)
        return last(drawn).pictures

    def decode_steps(
        self,
        latent: Latent | Tensor,
        size: int = 64,
        caption: str | None = None,
        guidance: float | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        seed: int | Sequence[int] = 0,
        sampler: str | None = None,
        preview_every: int = 1,
    ) -> Iterator[Step]:
        """`decode`, step by step."""
        latent = self._checked_latent(latent)
        text = None if caption is None else self.encode_text([caption]).repeat(len(latent))
        inverted = latent.x_T is not None
        defaults = self.defaults["decoder"]
        if steps is None:
            steps = self.defaults["invert"]["steps"] if inverted else defaults["steps"]
        if guidance is None:
            guidance = 1.0 if inverted else defaults["guidance"]
        eta = checked("eta", eta)
        if sampler is None:
            sampler = "ddim" if inverted or eta > 0 else defaults["sampler"]
        drawing = Drawing(
            size=checked("size", size),
            seed=_checked_seeds(seed, len(latent)),
            guidance=checked("decoder_guidance", guidance),
            steps=checked("decoder_steps", steps),
            sampler=checked("sampler", sampler),
            eta=eta,
            steps_256=self._upsampling_steps("upsampler_256"),
            steps_1024=self._upsampling_steps("upsampler_1024"),
            every=checked("preview_every", preview_every),
        )
        for stage in ("decoder", *stages_to(drawing.size)):
            need(self, stage)
        check_work(len(latent), drawing.size, drawing.steps, drawing.steps_256, drawing.steps_1024)
        return picture_steps(self, latent.z_i, latent.x_T, text, drawing)

    def upsample(
        self,
        pictures: Sequence[Image.Image],
        size: int = 1024,
        seed: int = 0,
        steps_256: int | None = None,
        steps_1024: int | None = None,
    ) -> list[Image.Image]:
        """Pictures (the middle square of each) -> the same at 256 or 1024 px, by one upsampler or both."""
        return last(self.upsample_steps(pictures, size, seed, steps_256, steps_1024, preview_every=1000)).pictures

    def upsample_steps(
        self,
        pictures: Sequence[Image.Image],
        size: int = 1024,
        seed: int = 0,
        steps_256: int | None = None,
        steps_1024: int | None = None,
        preview_every: int = 1,
    ) -> Iterator[Step]:
        """`upsample`, step by step."""
        if not pictures:
            raise RequestError("There is no picture to enlarge.", "picture_none")
        size, seed = checked("size", size), checked("seed", seed)
        given = min(side for picture in pictures for side in picture.size)
        low_size = 256 if given >= 256 and size == 1024 else LOW
        stages = [stage for stage in stages_to(size) if stage != "upsampler_256" or low_size == LOW]
        if not stages:
            raise RequestError("Pictures can be enlarged to 256 or 1024 px.", "choice", field="size")
        steps = {
            "upsampler_256": self._upsampling_steps("upsampler_256", steps_256),
            "upsampler_1024": self._upsampling_steps("upsampler_1024", steps_1024),
        }
        for stage in stages:
            need(self, stage)
        check_work(len(pictures), size, 0, steps["upsampler_256"], steps["upsampler_1024"])
        low = to_pixels([square(picture, low_size) for picture in pictures])
        every = checked("preview_every", preview_every)
        return upsampler_steps(self, low, {stage: steps[stage] for stage in stages}, seed, every)

    # ---- caption -> picture ----

    def generate(
        self,
        prompt: str | GenerateRequest,
        n: int = 1,
        size: int = 64,
        seed: int = 0,
        prior: str = "diffusion",
        **options: Any,
    ) -> list[Image.Image]:
        """A caption -> n pictures of 64, 256 or 1024 px. options: the other fields of GenerateRequest.

        prior: "diffusion", "ar", "text" (z_t in place of z_i) or "caption" (no z_i at all). Picture i depends on the
        seed and i alone, not on n.
        """
        return last(self.generate_steps(prompt, n, size, seed, prior, preview_every=1000, **options)).pictures

    def generate_steps(
        self,
        prompt: str | GenerateRequest,
        n: int = 1,
        size: int = 64,
        seed: int = 0,
        prior: str = "diffusion",
        preview_every: int = 1,
        **options: Any,
    ) -> Iterator[Step]:
        """`generate`, step by step. The request is checked at the call, before the first step."""
        if not isinstance(prompt, GenerateRequest):
            prompt = GenerateRequest(prompt, n=n, size=size, seed=seed, prior=prior, **options)
        return self._generate_steps(validate(prompt, self), checked("preview_every", preview_every))

    def _generate_steps(self, request: GenerateRequest, every: int) -> Iterator[Step]:
        text = self.encode_text([request.prompt])
        yield Step("clip", 1, 1, [], text.pooled)
        z_i = None
        if request.prior != "caption":
            options = {name: getattr(request, name) for name in _PRIOR_OPTIONS}
            for step in self._prior_steps(text, request.n, request.prior, request.seed, options):
                z_i = step.z_i.clone()  # made anew outside inference mode, so that callers may do with it as they like
                yield step._replace(z_i=z_i)
        drawing = Drawing(
            size=request.size,
            seed=request.seed,
            guidance=request.decoder_guidance,
            steps=request.decoder_steps,
            sampler="ddim" if request.eta > 0 else request.sampler,
            eta=request.eta,
            steps_256=request.upsampler_256_steps,
            steps_1024=request.upsampler_1024_steps,
            every=every,
            pull=request.pull,
        )
        yield from picture_steps(self, z_i, None, text.repeat(request.n), drawing)

    # ---- what is asked for ----

    def _upsampling_steps(self, stage: str, steps: int | None = None) -> int:
        return checked(f"{stage}_steps", self.defaults[stage]["steps"] if steps is None else steps)

    def _checked_latent(self, latent: Latent | Tensor) -> Latent:
        latent = Latent(latent) if isinstance(latent, Tensor) else latent
        width = self.stages["clip"].embed_dim
        z_i, x_T = latent.z_i, latent.x_T
        if z_i.ndim != 2 or z_i.shape[1] != width or len(z_i) == 0:
            raise RequestError(f"An embedding for this pack is [B, {width}], not {list(z_i.shape)}.", "latent_shape")
        if x_T is not None and x_T.shape[1:] != (3, LOW, LOW):
            raise RequestError(f"x_T is [B, 3, {LOW}, {LOW}], not {list(x_T.shape)}.", "latent_shape")
        if not all(bool(torch.isfinite(part).all()) for part in (z_i, x_T) if part is not None):
            raise RequestError("The embedding or its noise holds numbers that are not finite.", "latent_finite")
        return latent


# Field of a request -> argument of a prior's sample_steps.
_PRIOR_OPTIONS = {"prior_steps": "steps", "prior_guidance": "guidance", "candidates": "candidates"}


def _checked_seeds(seed: int | Sequence[int], n: int) -> int | tuple[int, ...]:
    if not isinstance(seed, (list, tuple)):
        return checked("seed", seed)
    if len(seed) != n:
        raise RequestError(f"{len(seed)} seeds for {n} pictures: give one seed, or one for each.", "seeds")
    return tuple(checked("seed", one) for one in seed)
