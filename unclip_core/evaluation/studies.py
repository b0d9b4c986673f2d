"""The paper's studies, from caption to picture (its sections 5 and 6). Each takes a bench and returns plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unclip_core.evaluation import judges, metrics, parts
from unclip_core.evaluation.bench import Bench
from unclip_core.evaluation.scoring import by_group, hits, score, score_real, sheet, style_hits

PRIORS = {"caption": (), "text": (), "ar": ("prior_ar",), "diffusion": ("prior",)}  # what each needs of the pack
PRIOR_GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0)
DECODER_GUIDANCE = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
STEPS = {"ddim": (2, 4, 8, 16, 32), "dpm++": (2, 4, 8, 16, 32), "ddpm": (8, 16, 32, 64)}
EQUAL_STEPS = (1, 2, 4, 8, 16, 32, 64)
SAMPLES = 4  # pictures of one caption, where diversity is measured


def text_to_picture(bench: Bench) -> dict[str, Any]:
    """Defaults, no picking: plain captions of concepts seen in training, the same in Korean, and captions that name a
    (concept, style) pair never seen together."""
    real, half = bench.questions(), bench.questions(max(8, bench.captions // 2))
    asked = {"plain": ("caption", real), "korean": ("caption_ko", half), "styled": ("caption_styled", real)}
    found: dict[str, Any] = {"real": score_real(bench, real)}
    for name, (field, rows) in asked.items():
        captions = [row[field] for row in rows.rows]
        drawn = bench.draw(captions)
        found[name] = score(bench, drawn, rows, captions)
        if name == "styled":
            found[name]["style"] = style_hits(bench, drawn, rows)
        if name == "plain":
            found["groups"] = by_group(bench, drawn, rows)
            shown = min(48, len(captions) // 8 * 8)
            found["sheet"] = sheet(bench, "plain", drawn.pixels[:shown].split(8))
            found["sheet_captions"] = captions[:shown]
    few = bench.questions(max(8, bench.captions // 8))
    captions = [row["caption"] for row in few.rows for _ in range(SAMPLES)]
    drawn = bench.draw(captions, seed=1)
    features = bench.evaluator.features(drawn.pixels)
    found["diversity"] = {
        "features": metrics.mean(metrics.diversity(features, SAMPLES)),
        "pixels": metrics.mean(metrics.pixel_diversity(drawn.pixels, SAMPLES)),
        "real": metrics.mean(_styles_apart(bench)),
        "samples": SAMPLES,
    }
    return found


def _styles_apart(bench: Bench) -> np.ndarray:
    """Cosine distance of a concept's held-out drawing and its drawing in the held-out style: two real hands."""
    style = {row["concept"]: i for i, row in enumerate(bench.reference.style.rows)}
    rows = [(i, style[row["concept"]]) for i, row in enumerate(bench.reference.pairs.rows) if row["concept"] in style]
    own, other = (torch.tensor(column) for column in zip(*rows))
    return 1 - metrics.cosine(bench.reference.pairs.features[own], bench.reference.style.features[other])


def priors(bench: Bench) -> dict[str, Any]:
    """Is a prior needed, and which (paper sections 5.1 and 4, figure 8): the same noise and captions, z_i from nowhere,
    from the caption's own embedding, from the AR prior and from the diffusion prior. A decoder that pulls z_i takes z_t
    as it is; pulled as though it were a z_i it stands apart, because the pull does part of a prior's work."""
    real = bench.questions()
    captions = [row["caption"] for row in real.rows]
    found: dict[str, Any] = {"real": score_real(bench, real)}
    shown = []
    for kind in _kinds(bench):
        drawn = bench.draw(captions, prior=kind)
        found[kind] = score(bench, drawn, real, captions)
        shown.append(drawn.pixels[:12])
    if getattr(bench.model.stages["decoder"].config, "pull", 0):
        found["text_pulled"] = score(bench, bench.decode(bench.texts(captions), captions), real, captions)
    found["sheet"] = sheet(bench, "priors", shown)
    found["sheet_captions"] = captions[:12]
    return found


def _kinds(bench: Bench) -> list[str]:
    return [kind for kind, needs in PRIORS.items() if all(bench.model.has(stage) for stage in needs)]


def guidance(bench: Bench) -> dict[str, Any]:
    """Fidelity against diversity as guidance rises, in the prior and in the decoder (paper section 5.3)."""
    real = bench.questions(max(8, bench.sweep // SAMPLES))
    rows = [i for i in range(len(real.rows)) for _ in range(SAMPLES)]
    real = real.pick(rows)
    captions = [row["caption"] for row in real.rows]

    def measured(**system: Any) -> dict[str, Any]:
        drawn = bench.draw(captions, seed=1, **system)
        features = bench.evaluator.features(drawn.pixels)
        right = hits(bench, features, real.codes).reshape(-1, SAMPLES).mean(1)
        score_of = metrics.cosine(bench.encode(drawn.pixels), bench.texts(captions)).reshape(-1, SAMPLES).mean(1)
        return {
            "top1": metrics.mean(right),
            "cmmd": metrics.between(metrics.cmmd, features.numpy(), bench.others.features.numpy()),
            "clip_score": metrics.mean(score_of),
            "diversity": metrics.mean(metrics.diversity(features, SAMPLES)),
            "pixel_diversity": metrics.mean(metrics.pixel_diversity(drawn.pixels, SAMPLES)),
        }

    return {
        "decoder": [{"guidance": g, **measured(decoder_guidance=g)} for g in DECODER_GUIDANCE],
        "prior": [{"guidance": g, **measured(prior_guidance=g)} for g in PRIOR_GUIDANCE],
        "samples": SAMPLES,
    }


def samplers(bench: Bench) -> dict[str, Any]:
    """Steps against quality for each of the decoder's samplers, from the same noise and embeddings."""
    real = bench.questions(bench.sweep)
    captions = [row["caption"] for row in real.rows]
    points, shown = [], []
    for sampler, counts in STEPS.items():
        for steps in counts:
            drawn = bench.draw(captions, sampler=sampler, decoder_steps=steps)
            points.append({"sampler": sampler, "steps": steps, **score(bench, drawn, real, captions)})
            if sampler == "dpm++":
                shown.append(drawn.pixels[:12])
    return {
        "points": points,
        "real": score_real(bench, real),
        "sheet": sheet(bench, "samplers", shown),
        "sheet_steps": STEPS["dpm++"],
    }


def equal_time(bench: Bench) -> dict[str, Any]:
    """AR against diffusion prior at equal time: cosine to the true z_i and concept accuracy against seconds for each
    embedding, and the diffusion prior at the number of steps that takes as long as the AR prior."""
    pictures, _, rows = parts.held_out(bench, bench.sweep)
    captions = [row["caption"] for row in rows.rows]
    true = bench.encode(pictures)

    def point(**system: Any) -> dict[str, Any]:
        drawn = bench.draw(captions, **system)
        found = torch.from_numpy(drawn["z_i"])
        features = bench.evaluator.features(drawn.pixels)
        return {
            "seconds": float(np.median(drawn["prior_seconds"])),
            "cosine": metrics.mean(metrics.cosine(found, true)),
            "retrieval": metrics.mean(metrics.retrieval_ranks(found, true) == 0),
            "top1": metrics.mean(hits(bench, features, rows.codes)),
        }

    ar = point(prior="ar")
    curve = [{"steps": steps, **point(prior_steps=steps)} for steps in EQUAL_STEPS]
    nearest = min(curve, key=lambda p: abs(np.log(max(p["seconds"], 1e-9) / max(ar["seconds"], 1e-9))))
    return {
        "ar": ar,
        "diffusion": curve,
        "equal_steps": nearest["steps"],
        "text": {"cosine": metrics.mean(metrics.cosine(bench.texts(captions), true))},
    }


def binding(bench: Bench) -> dict[str, Any]:
    """Attributes bound to objects (paper section 7): two coloured shapes in a relation, judged by their pixels. True
    drawings give the judge's own ceiling; the decoder alone gets a true drawing's z_i with and without the caption."""
    tasks = judges.shapes_tasks(max(8, bench.captions // 4))
    captions = [task.caption for task in tasks]
    true = torch.from_numpy(np.stack([task.true for task in tasks]))
    z_i = bench.encode(true)
    sets = {
        "true drawings": true,
        "decoder, true z_i and caption": bench.decode(z_i, captions).pixels,
        "decoder, true z_i alone": bench.decode(z_i).pixels,
        **{f"prior: {kind}": bench.draw(captions, prior=kind).pixels for kind in _kinds(bench)},
    }
    rates = {}
    for name, pixels in sets.items():
        judged = [judges.judge_shapes(p.numpy(), task) for p, task in zip(pixels, tasks)]
        rates[name] = {key: metrics.mean([row[key] for row in judged]) for key in judged[0]}
    return {
        "rates": rates,
        "sheet": sheet(bench, "binding", [p[:12] for p in sets.values()]),
        "sheet_rows": [*sets],
        "sheet_captions": captions[:12],
    }


def words(bench: Bench) -> dict[str, Any]:
    """Written text (paper section 7): cards with one word, read by matching their lettering to thirty known words."""
    tasks = judges.word_tasks(max(30, bench.captions // 4))
    captions = [task.caption for task in tasks]
    true = torch.from_numpy(np.stack([task.true for task in tasks]))
    z_i = bench.encode(true)
    sets = {
        "true cards": true,
        "decoder, true z_i and caption": bench.decode(z_i, captions).pixels,
        "decoder, true z_i alone": bench.decode(z_i).pixels,
        **{f"prior: {kind}": bench.draw(captions, prior=kind).pixels for kind in _kinds(bench)},
    }
    rates = {}
    for name, pixels in sets.items():
        right = np.array([judges.read_word(p.numpy()) == task.word for p, task in zip(pixels, tasks)], float)
        seen = np.array([task.seen for task in tasks])
        rates[name] = {"seen": metrics.mean(right[seen]), "unseen": metrics.mean(right[~seen])}
    chance = 1 / len(judges.SEEN + judges.UNSEEN)
    return {
        "rates": rates,
        "chance": chance,
        "sheet": sheet(bench, "words", [p[:12] for p in sets.values()]),
        "sheet_rows": [*sets],
        "sheet_captions": captions[:12],
    }


@dataclass(frozen=True)
class Study:
    """run; the pack stages and corpus sets it cannot do without."""

    run: Callable[[Bench], dict[str, Any]]
    stages: tuple[str, ...] = ("clip", "decoder")
    corpus: tuple[str, ...] = ()


STUDIES = {
    "clip": Study(parts.clip, ("clip",), ("held_out_pairs", "held_out_style")),
    "text_to_picture": Study(text_to_picture, ("clip", "decoder", "prior")),
    "decoder": Study(parts.decoder, corpus=("held_out_pairs",)),
    "style": Study(parts.style, corpus=("held_out_style",)),
    "priors": Study(priors),
    "prior_embeddings": Study(parts.prior_embeddings, ("clip",), ("held_out_pairs",)),
    "equal_time": Study(equal_time, ("clip", "decoder", "prior", "prior_ar"), ("held_out_pairs",)),
    "upsamplers": Study(parts.upsamplers, (), ("hires_held_out",)),
    "inversion": Study(parts.inversion, corpus=("held_out_pairs",)),
    "guidance": Study(guidance, ("clip", "decoder", "prior")),
    "samplers": Study(samplers, ("clip", "decoder", "prior")),
    "pca": Study(parts.pca, ("clip", "decoder", "pca"), ("held_out_pairs",)),
    "binding": Study(binding),
    "words": Study(words),
}
