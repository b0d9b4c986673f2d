"""What the published weights came without: a PCA basis of their embeddings, and a step from 256 to 1024 px."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unclip_core.errors import PackError, RequestError
from unclip_core.latents import PCA
from unclip_core.pictures import to_pictures, to_pixels
from unclip_core.sampling import Noise, SampleStep

if TYPE_CHECKING:
    from unclip_core.pipeline import UnCLIP

STAND_INS = {
    "lanczos": "1024 px by plain Lanczos resizing, not by a model",
    "pocket": "1024 px by the pocket pack's upsampler, trained on emoji art",
}


# ---- PCA ----


def from_statistics(mean: Tensor, std: Tensor) -> PCA:
    """The coordinates themselves by falling spread: all that a mean [D] and a spread [D] can tell. Real components,
    which mix coordinates, come from pictures: `fit_pca`."""
    order = std.argsort(descending=True)
    variance = std[order].double() ** 2
    explained = variance.cumsum(0) / variance.sum().clamp(min=1e-12)
    components = torch.eye(len(std), device=std.device)[order]
    return PCA(mean.float(), components, explained.float())


def fit_pca(model: UnCLIP, pictures: Sequence[Image.Image], folder: str | Path | None = None) -> PCA:
    """Principal components of one's own pictures (some thousands for a full basis), written to the weights' folder as
    pca.safetensors, where given, so that the next start takes them."""
    if len(pictures) < 2:
        raise RequestError("A PCA needs at least two pictures, and some thousands to be a good one.", "pca_pictures")
    pca = PCA.fit(torch.cat([model.encode_image(pictures[i : i + 16]) for i in range(0, len(pictures), 16)]))
    if folder is not None:
        tensors = {"mean": pca.mean, "components": pca.components, "explained": pca.explained}
        save_file(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, Path(folder) / "pca.safetensors"
        )
    return pca


def read_pca(path: Path, width: int, device: torch.device) -> PCA:
    """What `fit_pca` wrote. Raises PackError."""
    try:
        tensors = load_file(path, device=str(device))
        pca = PCA(tensors["mean"], tensors["components"], tensors["explained"])
    except Exception as fault:
        raise PackError(f"{path}: cannot be read as a PCA ({fault}). Remove it, or fit it again.") from fault
    if pca.components.shape != (width, width) or pca.mean.shape != (width,):
        raise PackError(f"{path}: a PCA of width {len(pca.mean)}, but these embeddings have {width}.")
    return pca


# ---- 1024 px ----


@dataclass(frozen=True)
class Sizes:
    low_size: int = 256
    high_size: int = 1024


class Lanczos(nn.Module):
    """Plain resizing in an upsampler's place."""

    config = Sizes()

    def sample_steps(
        self, low: Tensor, x_T: Tensor, *, steps: int = 1, sampler: str = "", noise: Noise | None = None
    ) -> Iterator[SampleStep]:
        """low [B, 3, h, w] in [-1, 1] -> [B, 3, H, W] of x_T's size, in one step."""
        size = (x_T.shape[-1], x_T.shape[-2])
        resized = to_pixels([picture.resize(size, Image.LANCZOS) for picture in to_pictures(low)]).to(x_T)
        yield SampleStep(0, 1, resized, resized)


def add_stand_in(model: UnCLIP, kind: str) -> str:
    """Give a model without it a way to 1024 px: "lanczos" or "pocket" -> the label to show beside what it makes.

    The label also stands in `model.stand_ins["upsampler_1024"]`. Raises RequestError or PackError.
    """
    if kind not in STAND_INS:
        raise RequestError(f"There is no stand-in {kind!r}: choose one of {', '.join(STAND_INS)}.", "stand_in")
    if model.has("upsampler_1024"):
        raise RequestError("This pack has its own upsampler to 1024 px and needs no stand-in.", "stand_in")
    if kind == "lanczos":
        model.stages.add("upsampler_1024", Lanczos)
    else:
        from unclip_core.loading import load_pack, pick_dtype

        pocket = load_pack("pocket", model.device, pick_dtype("auto", model.device))
        if "upsampler_1024" not in pocket["stages"]:
            raise RequestError("The pocket pack has no upsampler to 1024 px here; take Lanczos.", "stand_in")
        upsampler = pocket["stages"]["upsampler_1024"]
        model.stages.add("upsampler_1024", lambda: upsampler)
        model.defaults["upsampler_1024"] = pocket["defaults"]["upsampler_1024"]
    model.stand_ins["upsampler_1024"] = STAND_INS[kind]
    return STAND_INS[kind]
