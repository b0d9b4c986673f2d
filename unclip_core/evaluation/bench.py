"""The bench that studies run on: a model, the evaluator, captions with their truths, and work that is done once.

Pictures are drawn in chunks, each kept as a file under a key of everything it depends on: a study cut short goes on
where it was, studies share what they draw alike, and `torchrun` shares the chunks out among processes (which need to
see one output folder).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from unclip_core.clip import TextFeatures
from unclip_core.errors import UnclipError
from unclip_core.evaluation.evaluator import Evaluator
from unclip_core.evaluation.reference import Real, Reference
from unclip_core.pictures import eight_bit
from unclip_core.pipeline import UnCLIP
from unclip_core.request import GenerateRequest, validate
from unclip_core.sampling import PictureNoise, SampleStep

CHUNK = 32
MOST_CAPTIONS = 500  # the other held-out pictures are what Fréchet distances are measured against


class Drawn(dict):
    """Rows of arrays by name; `pixels` [N, 3, 64, 64] uint8 and others as tensors."""

    def tensor(self, name: str) -> Tensor:
        return torch.from_numpy(self[name])

    @property
    def pixels(self) -> Tensor:
        return self.tensor("pixels")


@dataclass
class Bench:
    """captions: how many the main studies use (sweeps take a quarter). corpus: None where it has not been built."""

    model: UnCLIP
    evaluator: Evaluator
    reference: Reference
    folder: Path
    captions: int = 500
    seed: int = 0
    corpus: Path | None = None

    def __post_init__(self) -> None:
        order = [*range(len(self.reference.pairs.rows))]
        Random(0).shuffle(order)
        self.asked = self.reference.pairs.pick(order[: -len(order) // 2])
        self.others = self.reference.pairs.pick(order[-len(order) // 2 :])
        self.captions = min(self.captions, len(self.asked.rows))
        self.batch = 8 if self.model.device.type == "cpu" else 128

    def questions(self, count: int | None = None) -> Real:
        """The first `count` (default: all asked for) of the held-out pictures, in an order fixed once and for all."""
        return self.asked.pick([*range(min(count or self.captions, len(self.asked.rows)))])

    @property
    def sweep(self) -> int:
        """Captions for each setting of a sweep."""
        return max(8, self.captions // 4)

    def need_corpus(self, name: str) -> Path:
        """The folder of a corpus set. Raises UnclipError that says how to build it."""
        folder = None if self.corpus is None else self.corpus / name
        if folder is None or not any(folder.glob("*.tar")):
            raise UnclipError(
                f"The corpus set {name!r} is not in {self.corpus}. Build it first (python -m unclip_core corpus), "
                "or name its folder with --data."
            )
        return folder

    # ---- work done once ----

    def rows(self, key: dict[str, Any], total: int, work: Callable[[range], dict[str, NDArray]]) -> Drawn:
        """`work` on the rows 0..total-1 in chunks, shared out and kept. key: all that they depend on, as JSON."""
        text = json.dumps({**key, "pack": self.model.hash, "total": total}, sort_keys=True, ensure_ascii=False)
        folder = self.folder / "drawn" / hashlib.sha256(text.encode()).hexdigest()[:20]
        folder.mkdir(parents=True, exist_ok=True)
        chunks = [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]
        paths = [folder / f"{chunk.start:06d}.npz" for chunk in chunks]
        missing = shared([i for i, path in enumerate(paths) if not path.exists()])
        for i in tqdm(
            missing[rank() :: world()], desc=key.get("what", "rows"), unit="chunk", disable=None, leave=False
        ):
            arrays = work(chunks[i])
            partial = paths[i].with_suffix(f".{rank()}.partial")
            with partial.open("wb") as file:
                np.savez(file, **arrays)
            partial.replace(paths[i])
        wait()
        parts = [np.load(path) for path in paths]
        return Drawn({name: np.concatenate([part[name] for part in parts]) for name in parts[0].files})

    # ---- drawing ----

    def draw(self, captions: list[str], seed: int = 0, **system: Any) -> Drawn:
        """Captions -> pixels [N, 3, 64, 64] uint8, z_i [N, D] (zeros where there is none), seconds [N].

        system: fields of GenerateRequest that differ from the pack's defaults. Row i's noise depends on (seed, i) only,
        so systems are compared on the same noise.
        """
        request = validate(GenerateRequest("a picture", seed=self.seed + seed, **system), self.model)
        settings = dataclasses.asdict(request)
        key = {"what": "draw", "settings": settings, "captions": captions}

        def work(chunk: range) -> dict[str, NDArray]:
            text = self.model.encode_text([captions[i] for i in chunk])
            z_i, prior_seconds = self.prior(text, request, chunk)
            made = self._decoded(chunk, z_i, text, request)
            width = self.model.stages["clip"].embed_dim
            rows = np.zeros((len(chunk), width), np.float32) if z_i is None else z_i.cpu().float().numpy()
            return {**made, "z_i": rows, "prior_seconds": np.full(len(chunk), prior_seconds / len(chunk))}

        return self.rows(key, len(captions), work)

    def decode(self, z_i: Tensor, captions: list[str] | None = None, seed: int = 0, **system: Any) -> Drawn:
        """The decoder alone: z_i [N, D], with captions or without -> pixels and seconds as `draw`."""
        request = validate(GenerateRequest("a picture", seed=self.seed + seed, **system), self.model)
        digest = hashlib.sha256(z_i.float().numpy().tobytes()).hexdigest()
        key = {"what": "decode", "settings": dataclasses.asdict(request), "captions": captions, "z_i": digest}

        def work(chunk: range) -> dict[str, NDArray]:
            text = None if captions is None else self.model.encode_text([captions[i] for i in chunk])
            return self._decoded(chunk, z_i[chunk.start : chunk.stop], text, request)

        return self.rows(key, len(z_i), work)

    def prior(self, text: TextFeatures, request: GenerateRequest, chunk: range) -> tuple[Tensor | None, float]:
        """z_i [B, D] of each caption by the request's prior (None for caption only), and the seconds it took."""
        if request.prior in ("caption", "text"):
            return (None if request.prior == "caption" else text.pooled), 0.0
        stage = {"diffusion": "prior", "ar": "prior_ar"}[request.prior]
        options: dict[str, Any] = {"steps": request.prior_steps, "candidates": request.candidates}
        if request.prior == "ar":
            options = {"temperature": self.model.defaults[stage]["temperature"]}
        noise = PictureNoise(request.seed, chunk, stage)
        started = time.perf_counter()
        steps = self.model.stages[stage].sample_steps(text, 1, guidance=request.prior_guidance, noise=noise, **options)
        return last(steps).x, time.perf_counter() - started

    @torch.inference_mode()
    def _decoded(
        self, chunk: range, z_i: Tensor | None, text: TextFeatures | None, request: GenerateRequest
    ) -> dict[str, NDArray]:
        pixels, seconds = [], []
        for start in range(0, len(chunk), self.batch):
            part, own = slice(start, start + self.batch), chunk[start : start + self.batch]
            started = time.perf_counter()
            steps = self.model.stages["decoder"].sample_steps(
                None if z_i is None else z_i[part].to(self.model.device),
                None if text is None else text.index(part),
                PictureNoise(request.seed, own, "decoder")((3, 64, 64)).to(self.model.device),
                guidance=request.decoder_guidance,
                steps=request.decoder_steps,
                sampler=request.sampler,
                eta=request.eta,
                noise=PictureNoise(request.seed, own, "decoder steps"),
                pull=request.pull,
            )
            pixels.append(eight_bit(last(steps).x).cpu().numpy())
            seconds += [(time.perf_counter() - started) / len(own)] * len(own)
        return {"pixels": np.concatenate(pixels), "seconds": np.array(seconds)}

    def encode(self, pixels: Tensor) -> Tensor:
        """Pictures [N, 3, H, W], uint8 or in [-1, 1], as they are -> z_i [N, D] by the pack's own CLIP, on the CPU."""
        clip, made = self.model.stages["clip"], []
        with torch.inference_mode():
            for part in pixels.split(256):
                x = part.float() / 127.5 - 1 if part.dtype == torch.uint8 else part.float()
                made.append(clip.encode_pixels(x.to(self.model.device)).float().cpu())
        return torch.cat(made).clone()

    def read(self, pictures: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] uint8 as the app reads what is brought to it (`encode_image`) -> z_i [N, D]."""
        opened = [Image.fromarray(picture) for picture in pictures.permute(0, 2, 3, 1).contiguous().numpy()]
        return torch.cat([self.model.encode_image(opened[i : i + 256]).cpu() for i in range(0, len(opened), 256)])

    def texts(self, captions: list[str]) -> Tensor:
        """z_t [N, D] on the CPU."""
        return torch.cat(
            [self.model.encode_text(captions[i : i + 256]).pooled.float().cpu() for i in range(0, len(captions), 256)]
        )


@torch.inference_mode()
def last(steps) -> SampleStep:
    """The last step of a sampler."""
    for step in steps:
        pass
    return step


# ---- processes ----


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    if dist.is_initialized():
        dist.barrier()


def shared(value: Any) -> Any:
    """The first process's value, in every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
