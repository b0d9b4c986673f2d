"""Figures of merit, each with a bootstrap 95% interval where it is a mean over independent pictures or captions.

Letters: N and M pictures, F feature width. Features are the evaluator's. Means, ratios and intervals go through
scipy, kernels through scikit-learn, PSNR through torchmetrics.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, stats
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

DRAWS = 1000


class Estimate(NamedTuple):
    """A figure with its 95% interval, from `n` independent observations."""

    value: float
    low: float
    high: float
    n: int


def mean(values: ArrayLike) -> Estimate:
    """The mean of independent observations [N], with a percentile bootstrap interval."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        value = float(values.mean()) if len(values) else math.nan
        return Estimate(value, value, value, len(values))
    return _interval((values,), lambda v, axis: v.mean(axis))


def median(values: ArrayLike) -> Estimate:
    """The median of independent observations [N], with a percentile bootstrap interval."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return mean(values)
    return _interval((values,), lambda v, axis: np.median(v, axis))


def ratio(above: ArrayLike, below: ArrayLike) -> Estimate:
    """mean(above) / mean(below) over the same observations (paired) [N]; NaN where the divisor is zero."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if len(above) < 2 or below.mean() == 0 or (np.ptp(above) == 0 and np.ptp(below) == 0):
        value = float(above.mean() / below.mean()) if len(below) and below.mean() else math.nan
        return Estimate(value, value, value, len(above))
    return _interval((above, below), lambda a, b, axis: a.mean(axis) / np.maximum(b.mean(axis), 1e-12))


def _interval(samples: tuple[NDArray, ...], statistic) -> Estimate:
    found = stats.bootstrap(
        samples,
        statistic,
        n_resamples=DRAWS,
        paired=len(samples) > 1,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Estimate(float(statistic(*samples, axis=-1)), float(found.low), float(found.high), len(samples[0]))


# ---- two sets of pictures ----


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance of Gaussians fitted to features [N, F] and [M, F] (Heusel et al. 2017). 0 is the same."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # The trace of the product's root: its eigenvalues are real and not negative, whatever rounding makes of them.
    roots = np.sqrt(linalg.eigvals(cov_a @ cov_b).real.clip(min=0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots)


def cmmd(a: ArrayLike, b: ArrayLike) -> float:
    """1000 x the squared maximum mean discrepancy of unit features [N, F] and [M, F], unbiased, under a Gaussian kernel
    (CMMD, arXiv 2401.09603, in the evaluator's features). About 0 for two draws from one distribution."""
    a, b = (np.asarray(x, dtype=np.float64) for x in (a, b))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-12) for x in (a, b))
    own = [
        (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))
        for k in (rbf_kernel(a, gamma=_GAMMA), rbf_kernel(b, gamma=_GAMMA))
    ]
    return float(1000 * (sum(own) - 2 * rbf_kernel(a, b, gamma=_GAMMA).mean()))


_GAMMA = 0.5  # unit vectors of unlike pictures lie about sqrt(2) apart, so the kernel falls to 1/e between them


def between(distance, a: ArrayLike, b: ArrayLike, draws: int = 60) -> Estimate:
    """`frechet` or `cmmd` of a [N, F] against b [M, F], with an interval of 1.96 bootstrap standard deviations of a.

    Centred on the estimate: a resampled set repeats pictures, which alone moves these distances up.
    """
    a, b = np.asarray(a), np.asarray(b)
    rng = np.random.default_rng(0)
    value = distance(a, b)
    spread = 1.96 * float(np.std([distance(a[rng.integers(len(a), size=len(a))], b) for _ in range(draws)], ddof=1))
    return Estimate(value, value - spread, value + spread, len(a))


# ---- pictures one by one ----


def diversity(features: Tensor, n: int) -> NDArray:
    """features [C*n, F], n samples of each of C captions in a row -> mean pairwise cosine distance within each [C]."""
    unit = F.normalize(features.float(), dim=-1).view(-1, n, features.shape[-1])
    return 1 - _mean_of_pairs(unit @ unit.transpose(1, 2))


def pixel_diversity(pixels: Tensor, n: int) -> NDArray:
    """pixels [C*n, 3, H, W] uint8 -> mean pairwise RMS difference within each caption's n, in 0..1 [C]."""
    flat = (pixels.float() / 255).flatten(1).view(-1, n, pixels[0].numel())
    return _mean_of_pairs(torch.cdist(flat, flat) / flat.shape[-1] ** 0.5)


def _mean_of_pairs(table: Tensor) -> NDArray:
    """[C, n, n] -> [C]: the mean off the diagonal."""
    n = table.shape[-1]
    return ((table.sum((1, 2)) - table.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1))).numpy()


def cosine(a: Tensor, b: Tensor) -> NDArray:
    """Row by row cosines of [N, D] and [N, D] -> [N]."""
    return F.cosine_similarity(a.float(), b.float(), dim=-1).numpy()


def psnr(made: Tensor, true: Tensor) -> NDArray:
    """Pictures [N, 3, H, W] in [-1, 1] -> dB each [N]."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return peak_signal_noise_ratio(
        made.float(), true.float(), data_range=(-1.0, 1.0), dim=(1, 2, 3), reduction="none"
    ).numpy()


def retrieval_ranks(queries: Tensor, targets: Tensor) -> NDArray:
    """Unit rows queries [N, D], targets [N, D]: how many other targets lie nearer to query i than target i does [N]."""
    table = F.normalize(queries.float(), dim=-1) @ F.normalize(targets.float(), dim=-1).T
    return (table > table.diagonal()[:, None]).sum(1).numpy()
