"""What every study says of a set of generated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import save_image

from unclip_core.evaluation import metrics
from unclip_core.evaluation.bench import Bench, Drawn, rank
from unclip_core.evaluation.metrics import Estimate
from unclip_core.evaluation.reference import Real


def hits(bench: Bench, features: Tensor, codes: list[str], k: int = 1) -> np.ndarray:
    """Whether the evaluator has the true concept among its first k [N] (0.0 or 1.0)."""
    return (bench.evaluator.ranks(features, codes) < k).double().numpy()


def score(bench: Bench, drawn: Drawn, real: Real, captions: list[str]) -> dict[str, Any]:
    """Generated pictures, one for each row of `real`: what they show, and how near they come to real pictures.

    Concept accuracy as a share and beside the evaluator's accuracy on `real` itself; distances to the held-out pictures
    of other concepts; cosine of the pack's own CLIP between picture and caption.
    """
    features = bench.evaluator.features(drawn.pixels)
    top1 = hits(bench, features, real.codes)
    return {
        "top1": metrics.mean(top1),
        "top5": metrics.mean(hits(bench, features, real.codes, 5)),
        "top1_of_real": metrics.ratio(top1, hits(bench, real.features, real.codes)),
        **distances(bench, features),
        "clip_score": metrics.mean(metrics.cosine(bench.encode(drawn.pixels), bench.texts(captions))),
        "seconds": metrics.mean(drawn["seconds"] + drawn.get("prior_seconds", 0.0)),
    }


def score_real(bench: Bench, real: Real) -> dict[str, Any]:
    """The same of the real pictures: what a perfect generator would reach (the floor, for distances)."""
    return {
        "top1": metrics.mean(hits(bench, real.features, real.codes)),
        "top5": metrics.mean(hits(bench, real.features, real.codes, 5)),
        **distances(bench, real.features),
    }


def distances(bench: Bench, features: Tensor) -> dict[str, Estimate]:
    others = bench.others.features.numpy()
    return {
        "frechet": metrics.between(metrics.frechet, features.numpy(), others),
        "cmmd": metrics.between(metrics.cmmd, features.numpy(), others),
    }


def by_group(bench: Bench, drawn: Drawn, real: Real) -> dict[str, dict[str, Estimate]]:
    """Concept accuracy of generated and real pictures for each Unicode group, and for the core world."""
    made = hits(bench, bench.evaluator.features(drawn.pixels), real.codes)
    true = hits(bench, real.features, real.codes)
    groups = {"core world": [i for i, row in enumerate(real.rows) if row["core"]]}
    for group in sorted({row["group"] for row in real.rows}):
        groups[group] = [i for i, row in enumerate(real.rows) if row["group"] == group]
    return {
        name: {"made": metrics.mean(made[rows]), "real": metrics.mean(true[rows])}
        for name, rows in groups.items()
        if rows
    }


def style_hits(bench: Bench, drawn: Drawn, real: Real) -> Estimate:
    """Share drawn in the style that the caption asked for, by the evaluator."""
    with torch.inference_mode():
        found = bench.evaluator.style_logits(bench.evaluator.features(drawn.pixels)).argmax(1).tolist()
    return metrics.mean([bench.evaluator.styles[i] == row["style"] for i, row in zip(found, real.rows)])


def sheet(bench: Bench, name: str, rows: Sequence[Tensor], scale: int = 1) -> str:
    """Pictures [N, 3, H, W] uint8 in rows of one length -> a PNG in the output folder; returns its file name."""
    folder: Path = bench.folder / "figures"
    if rank() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = torch.cat([row.float() / 255 for row in rows])
        save_image(
            pictures.repeat_interleave(scale, 2).repeat_interleave(scale, 3),
            folder / f"sheet-{name}.png",
            nrow=len(rows[0]),
            padding=2,
            pad_value=1,
        )
    return f"sheet-{name}.png"
