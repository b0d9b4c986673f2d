"""What generated pictures are held against: captions of pictures that nothing was trained on, and those pictures'
evaluator features. Small enough to ship, so that `evaluate` works without the corpus."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from unclip_core.errors import UnclipError
from unclip_core.evaluation.evaluator import ASSETS, Evaluator

TENSORS, ROWS = "reference.safetensors", "reference.json"


@dataclass(frozen=True)
class Real:
    """Real pictures: a row of facts each ("key", "concept", "label", "group", "core", ...), and features [N, F]."""

    rows: list[dict[str, Any]]
    features: Tensor

    def pick(self, indices: list[int]) -> Real:
        return Real([self.rows[i] for i in indices], self.features[indices])

    @property
    def codes(self) -> list[str]:
        return [row["concept"] for row in self.rows]


@dataclass(frozen=True)
class Reference:
    """pairs: 1,000 (concept, style) pairs that no training set holds, with captions; style: a whole style held out."""

    pairs: Real
    style: Real


def measure(evaluator: Evaluator, data: Path, out: Path) -> Reference:
    """Measures the corpus's held-out sets and writes the reference beside the evaluator. Raises UnclipError without
    the corpus."""
    pairs = _real(evaluator, data / "held_out_pairs", captions=True)
    style = _real(evaluator, data / "held_out_style", captions=False)
    tensors = {"pairs": pairs.features.half(), "style": style.features.half()}
    safetensors.torch.save_file(tensors, out / TENSORS)
    (out / TENSORS).chmod(0o644)
    rows = {"evaluator": evaluator.hash, "pairs": pairs.rows, "style": style.rows}
    (out / ROWS).write_text(json.dumps(rows, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    return load(evaluator, out)


def load(evaluator: Evaluator, folder: Path = ASSETS) -> Reference:
    """The shipped reference. Raises UnclipError where it is missing, or was measured by another evaluator."""
    try:
        rows = json.loads((folder / ROWS).read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / TENSORS)
    except FileNotFoundError as fault:
        raise UnclipError(
            f"The evaluator's reference is missing ({fault.filename}). Measure it anew from the corpus: "
            "python -m unclip_core.evaluation.train_evaluator --reference-only"
        ) from None
    if rows["evaluator"] != evaluator.hash:
        raise UnclipError(
            f"{folder / ROWS} was measured by another evaluator. Measure it anew: "
            "python -m unclip_core.evaluation.train_evaluator --reference-only"
        )
    return Reference(*(Real(rows[name], tensors[name].float()) for name in ("pairs", "style")))


def _real(evaluator: Evaluator, folder: Path, captions: bool) -> Real:
    from unclip_core.training.data import load as load_pictures

    data = load_pictures(folder, evaluator.config.side)
    kept = [i for i, row in enumerate(data.fields) if row["tone"] == 0 and row["concept"] in evaluator.index]
    features = evaluator.features(torch.from_numpy(data.pictures[kept]).permute(0, 3, 1, 2))
    rows = []
    for i in kept:
        row, texts = data.fields[i], data.captions[i]
        facts = {name: row[name] for name in ("key", "concept", "style", "label", "group", "core")}
        if captions:
            styled = next(text for text in texts if text.endswith(" style"))
            facts |= {"caption": texts[1], "caption_ko": row["label_ko"], "caption_styled": styled}
        rows.append(facts)
    return Real(rows, features)
