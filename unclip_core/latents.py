"""Every picture is a Latent(z_i, x_T) (paper section 3): what CLIP holds of it, and what CLIP leaves out.

Letters: B pictures, D embedding width, H x W = 64 x 64 pixels. z_i [B, D] float32; x_T [B, 3, H, W] float32 is the
noise from which the decoder, given z_i, draws the picture by DDIM.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unclip_core.errors import RequestError


@dataclass(frozen=True)
class Latent:
    """z_i [B, D] and x_T [B, 3, H, W]; x_T None leaves the noise to the seed."""

    z_i: Tensor
    x_T: Tensor | None = None

    def __post_init__(self):
        if self.x_T is not None and len(self.x_T) != len(self.z_i):
            raise ValueError(f"{len(self.z_i)} embeddings and {len(self.x_T)} noises do not pair up")

    def __len__(self) -> int:
        return len(self.z_i)

    def __getitem__(self, rows: int | slice | Sequence[int]) -> "Latent":
        """Some of the pictures; a single number keeps the batch dimension."""
        rows = [rows] if isinstance(rows, int) else rows
        return Latent(self.z_i[rows], None if self.x_T is None else self.x_T[rows])

    def repeat(self, n: int) -> "Latent":
        """Each picture n times in a row."""
        x_T = None if self.x_T is None else self.x_T.repeat_interleave(n, 0)
        return Latent(self.z_i.repeat_interleave(n, 0), x_T)


def concatenate(latents: Sequence[Latent]) -> Latent:
    """One batch of several; x_T survives only if all have it."""
    x_T = None if any(item.x_T is None for item in latents) else torch.cat([item.x_T for item in latents])
    return Latent(torch.cat([item.z_i for item in latents]), x_T)


def slerp(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """Spherical interpolation of whole vectors [..., D], t in [0, 1] (a number, or a tensor that broadcasts to [...]).

    The angle comes from the dot product of the unit vectors; the length goes linearly from |a| to |b|, so that ends
    are exact for embeddings that are not normalised. Equal directions stay where they are; opposite ones, between
    which no path is the shortest, turn through a fixed perpendicular one.
    """
    a64, b64 = a.double(), b.double()
    t = torch.as_tensor(t, dtype=torch.float64, device=a.device)
    t = t[..., None] if t.ndim else t
    length_a, length_b = a64.norm(dim=-1, keepdim=True), b64.norm(dim=-1, keepdim=True)
    unit_a = a64 / length_a.clamp(min=1e-12)
    unit_b = b64 / length_b.clamp(min=1e-12)
    cosine = (unit_a * unit_b).sum(-1, keepdim=True)
    # The direction of b that is perpendicular to a: with it the path is cos(t w) a + sin(t w) p, without 0 / 0.
    across = unit_b - cosine * unit_a
    sine = across.norm(dim=-1, keepdim=True)
    across = torch.where(sine > 1e-6, across, _perpendicular(unit_a))
    across = across / across.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    angle = torch.atan2(sine, cosine) * t  # acos would lose half of the digits near 0 and pi
    direction = torch.cos(angle) * unit_a + torch.sin(angle) * across
    return (direction * torch.lerp(length_a, length_b, t.expand_as(length_a * t))).to(a.dtype)


def _perpendicular(unit: Tensor) -> Tensor:
    """A fixed vector at right angles to each unit vector [..., D], D > 1."""
    axis = torch.zeros_like(unit).scatter_(-1, unit.abs().argmin(-1, keepdim=True), 1.0)
    return axis - (axis * unit).sum(-1, keepdim=True) * unit


def slerp_noise(a: Tensor, b: Tensor, t: float | Tensor) -> Tensor:
    """slerp of noises [B, 3, H, W], each as one vector."""
    return slerp(a.flatten(1), b.flatten(1), t).reshape(a.shape)


def text_diff(z_i: Tensor, z_from: Tensor, z_to: Tensor, theta: float | Tensor) -> Tensor:
    """Paper section 3.3: rotate z_i [..., D] towards z_d = normalise(z_to - z_from) by the share theta in [0, 1].

    z_from and z_to are text embeddings, compared as unit vectors; the length of z_i is kept.
    Raises RequestError if the two captions mean the same to CLIP, since there is then no direction to turn to.
    """
    change = torch.nn.functional.normalize(z_to, dim=-1) - torch.nn.functional.normalize(z_from, dim=-1)
    if bool((change.norm(dim=-1) < 1e-5).any()):
        raise RequestError("The two captions mean the same to CLIP: change one of them.", "captions_equal")
    direction = torch.nn.functional.normalize(change, dim=-1) * z_i.norm(dim=-1, keepdim=True)
    return slerp(z_i, direction.expand_as(z_i), theta)


@dataclass(frozen=True)
class PCA:
    """mean [D], components [D, D] (rows, unit, by falling eigenvalue), explained: cumulative share of variance [D]."""

    mean: Tensor
    components: Tensor
    explained: Tensor

    @classmethod
    def fit(cls, z: Tensor) -> "PCA":
        """From embeddings z [N, D], N > 1."""
        z64 = z.double()
        mean = z64.mean(0)
        centred = z64 - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / (len(z) - 1))  # rising
        values = values.flip(0).clamp(min=0)
        explained = values.cumsum(0) / values.sum().clamp(min=1e-12)
        return cls(mean.float(), vectors.flip(1).T.contiguous().float(), explained.float())

    def truncate(self, z: Tensor, k: int) -> Tensor:
        """z [B, D] with all but its first k principal components at their mean; k = D gives z back.

        Raises RequestError unless 0 <= k <= D.
        """
        width = len(self.mean)
        if not 0 <= k <= width:
            raise RequestError(f"k must lie between 0 and {width}, the width of this pack's embeddings; it was {k}.")
        if k == width:
            return z.clone()
        kept = self.components[:k].to(z)
        mean = self.mean.to(z)
        return mean + (z - mean) @ kept.T @ kept


# ---- the labs' edits: Latent -> Latent ----


def interpolate(a: Latent, b: Latent, t: Tensor, noise: Tensor | None = None) -> Latent:
    """Paper section 3.2: from one picture a to one picture b at t [T] in [0, 1] -> T pictures.

    x_T is interpolated between the two inversions if both are there, else noise [1, 3, H, W] serves all (or the seed).
    """
    t = torch.as_tensor(t, dtype=torch.float64, device=a.z_i.device)
    steps = len(t)
    z_i = slerp(a.z_i.expand(steps, -1), b.z_i.expand(steps, -1), t)
    if noise is not None:
        return Latent(z_i, noise.expand(steps, -1, -1, -1).clone())
    if a.x_T is None or b.x_T is None:
        return Latent(z_i)
    return Latent(z_i, slerp_noise(a.x_T.expand(steps, -1, -1, -1), b.x_T.expand(steps, -1, -1, -1), t))


def blend(corners: Sequence[Latent], u: float, v: float, noise: Tensor | None = None) -> Latent:
    """Between four pictures (top left, top right, bottom left, bottom right), u to the right, v downwards in [0, 1]."""
    top = interpolate(corners[0], corners[1], torch.tensor([u]), noise)
    bottom = interpolate(corners[2], corners[3], torch.tensor([u]), noise)
    return interpolate(top, bottom, torch.tensor([v]), noise)


def rotate_by_text(latent: Latent, z_from: Tensor, z_to: Tensor, thetas: Tensor) -> Latent:
    """Paper section 3.3: one picture turned by each theta [T] -> T pictures that share its x_T. z_from, z_to [1, D]."""
    thetas = torch.as_tensor(thetas, dtype=torch.float64, device=latent.z_i.device)
    many = latent.repeat(len(thetas))
    return replace(many, z_i=text_diff(many.z_i, z_from, z_to, thetas))


def truncate_components(latent: Latent, pca: PCA, ks: Sequence[int]) -> Latent:
    """Paper section 4: one picture with its first k components, for each k -> len(ks) pictures that share its x_T."""
    many = latent.repeat(len(ks))
    return replace(many, z_i=torch.cat([pca.truncate(latent.z_i, k) for k in ks]))
