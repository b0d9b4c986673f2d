"""Trains the evaluator: ``python -m unclip_core.evaluation.train_evaluator --data data/corpus --minutes 15``.

It learns from the corpus's training drawings (not from generated pictures, and none of the pack's networks), is tested
on the held-out pairs and the held-out style, and is written with its reference to assets/evaluator.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from unclip_core.evaluation import evaluator as store
from unclip_core.evaluation import reference
from unclip_core.evaluation.evaluator import ASSETS, Evaluator, EvaluatorConfig
from unclip_core.loading import mixed_precision
from unclip_core.training.augment import augment
from unclip_core.training.data import ImageText, load
from unclip_core.training.optimizers import make_optimizer

PLACED = 0.3  # how often a drawing moved onto a coloured ground is drawn, relative to a plain one
CARD_FIELDS = ("label", "label_ko", "group", "core")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unclip_core.evaluation.train_evaluator", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--data", type=Path, default=Path("data/corpus"), help="the corpus")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the checkpoint is kept")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the evaluator and its reference")
    parser.add_argument(
        "--pictures", type=int, default=300_000, help="pictures to learn from, augmented anew each time"
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; --resume goes on")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--reference-only", action="store_true", help="only measure the held-out sets anew")
    return parser.parse_args(arguments)


def usable(data: ImageText) -> Tensor:
    """[N] sampling weights: plain and placed drawings without skin tones, nothing else."""
    weights = []
    for row in data.fields:
        named = "concept" in row and row["tone"] == 0
        weights.append(float(named) * {"single": 1.0, "placed": PLACED}.get(row.get("kind", "single"), 0.0))
    return torch.tensor(weights, dtype=torch.float64)


def classes(data: ImageText, weights: Tensor) -> tuple[list[dict[str, Any]], list[str]]:
    """The concepts and styles of the pictures in use, in a fixed order."""
    rows = [data.fields[i] for i in torch.nonzero(weights).flatten().tolist()]
    concepts = {row["concept"]: {"code": row["concept"], **{f: row[f] for f in CARD_FIELDS}} for row in rows}
    return [concepts[code] for code in sorted(concepts)], sorted({row["style"] for row in rows})


def loss(network: Evaluator, pixels: Tensor, concepts: Tensor, styles: Tensor) -> Tensor:
    """Cross-entropy of the concept (smoothed: names overlap), and a little of the style (placed pictures have none)."""
    features = network(pixels)
    concept = F.cross_entropy(network.concept_logits(features), concepts, label_smoothing=0.1)
    return concept + 0.2 * F.cross_entropy(network.style_logits(features), styles)


def train(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    data = load(options.data / "train", 128)
    weights = usable(data)
    concepts, styles = classes(data, weights)
    network = Evaluator(EvaluatorConfig(), concepts, styles).to(memory_format=torch.channels_last)
    concept_of = torch.tensor([network.index.get(row.get("concept"), -1) for row in data.fields])
    style_of = torch.tensor([styles.index(row["style"]) if row.get("style") in styles else -1 for row in data.fields])
    optimizer = make_optimizer("muon", network, options.lr, 0.05, (0.9, 0.99))
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.998), use_buffers=True)
    checkpoint = options.runs / "evaluator" / "last.pt"
    step, steps = 0, options.pictures // options.batch
    if options.resume:
        state = torch.load(checkpoint, weights_only=True)
        for part, name in ((network, "network"), (ema, "ema"), (optimizer, "optimizer")):
            part.load_state_dict(state[name])
        step = state["step"]

    def keep() -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "step": step,
            "network": network.state_dict(),
            "ema": ema.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, checkpoint.with_suffix(".partial"))
        checkpoint.with_suffix(".partial").replace(checkpoint)

    started = saved = time.monotonic()
    bar, running = tqdm(total=steps, initial=step, desc="evaluator", unit="step", disable=None, mininterval=5), None
    while step < steps and time.monotonic() - started < options.minutes * 60:
        optimizer.set_rate(options.lr * min(1, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)))
        generator = torch.Generator().manual_seed(step)
        rows = torch.multinomial(weights, options.batch, generator=generator)
        pixels = augment(data.pixels(rows), network.config.side, generator)
        with mixed_precision():
            value = loss(
                network, pixels.contiguous(memory_format=torch.channels_last), concept_of[rows], style_of[rows]
            )
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(network)
        step += 1
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        bar.update()
        if step % 200 == 0:
            print(
                f"evaluator step {step}/{steps} loss {running:.3f} {(time.monotonic() - started) / 60:.1f} min",
                flush=True,
            )
        if time.monotonic() - saved > 120:
            keep()
            saved = time.monotonic()
    bar.close()
    keep()
    finish(ema.module.eval(), options, step * options.batch)


def finish(network: Evaluator, options: argparse.Namespace, seen: int) -> None:
    """Writes the evaluator and the reference, and says how well it does on what it has not seen."""
    facts = {
        "pictures": seen,
        "batch": options.batch,
        "lr": options.lr,
        "label_smoothing": 0.1,
        "corpus": "train, tone-less drawings",
    }
    store.save(network, options.out, facts)
    report(store.load(options.out), options)


def report(network: Evaluator, options: argparse.Namespace) -> None:
    real = reference.measure(network, options.data, options.out)
    for name, part in (("held-out pairs", real.pairs), ("held-out style", real.style)):
        ranks = network.ranks(part.features, part.codes)
        figures = [f"top-{k} {(ranks < k).float().mean():.3f}" for k in (1, 5)]
        print(f"{name}: {len(ranks)} pictures, {', '.join(figures)}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    if options.reference_only:
        report(store.load(options.out), options)
    else:
        train(options)


if __name__ == "__main__":
    main()
