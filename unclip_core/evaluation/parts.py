"""Each part alone: CLIP, the priors' embeddings, the decoder from true embeddings, inversion, upsamplers, PCA.

These need real pictures, so they need the corpus.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unclip_core.evaluation import metrics
from unclip_core.evaluation.bench import Bench, last, rank, wait
from unclip_core.evaluation.reference import Real
from unclip_core.evaluation.scoring import hits, score, score_real, sheet
from unclip_core.pictures import to_pictures
from unclip_core.sampling import PictureNoise

INVERSION_STEPS = (10, 25, 50)
INVERTED = 64  # pictures at the default setting; the others, which only compare settings, get a quarter


def corpus_set(bench: Bench, name: str, size: int, limit: int | None = None):
    """A set of the corpus at a size, decoded once (by the first process). Raises UnclipError where it is not built."""
    from unclip_core.training.data import load

    folder = bench.need_corpus(name)
    if rank() == 0:
        load(folder, size, limit)
    wait()
    return load(folder, size, limit)


def held_out(bench: Bench, count: int | None = None) -> tuple[Tensor, list[str], Real]:
    """The pictures [N, 3, 64, 64] uint8 of the first `count` questions, their captions and their rows."""
    data = corpus_set(bench, "held_out_pairs", 64)
    place = {row["key"]: i for i, row in enumerate(data.fields)}
    rows = bench.questions(count)
    pictures = torch.from_numpy(data.pictures[[place[row["key"]] for row in rows.rows]]).permute(0, 3, 1, 2)
    return pictures.contiguous(), [row["caption"] for row in rows.rows], rows


def clip(bench: Bench) -> dict[str, Any]:
    """The pack's CLIP: does a caption find its picture among all held-out ones, and a picture its concept's name."""
    data = corpus_set(bench, "held_out_pairs", 64)
    z_i = bench.encode(torch.from_numpy(np.array(data.pictures)).permute(0, 3, 1, 2))
    captions = {
        "plain": [texts[1] for texts in data.captions],
        "korean": [row["label_ko"] for row in data.fields],
        "styled": [next(t for t in texts if t.endswith(" style")) for texts in data.captions],
    }
    found: dict[str, Any] = {"pictures": len(z_i)}
    for name, texts in captions.items():
        ranks = metrics.retrieval_ranks(bench.texts(texts), z_i)
        found[name] = {"top1": metrics.mean(ranks == 0), "top5": metrics.mean(ranks < 5)}
    names = bench.texts([row["label"] for row in bench.evaluator.concepts])
    style = corpus_set(bench, "held_out_style", 64)
    kept = [i for i, row in enumerate(style.fields) if row["tone"] == 0 and row["concept"] in bench.evaluator.index]
    style_z = bench.read(torch.from_numpy(style.pictures[kept]).permute(0, 3, 1, 2))
    for name, z, rows in (("pairs", z_i, data.fields), ("style", style_z, [style.fields[i] for i in kept])):
        own = torch.tensor([bench.evaluator.index[row["concept"]] for row in rows])
        table = F.normalize(z, dim=-1) @ F.normalize(names, dim=-1).T
        ranks = (table > table.gather(1, own[:, None])).sum(1).numpy()
        found[f"zero_shot_{name}"] = {
            "top1": metrics.mean(ranks == 0),
            "top5": metrics.mean(ranks < 5),
            "classes": len(names),
        }
    return found


def prior_embeddings(bench: Bench) -> dict[str, Any]:
    """How near a prior's z_i comes to the true one, and whether it finds it among the other held-out pictures' own."""
    pictures, captions, _ = held_out(bench)
    true = bench.encode(pictures)
    sets = {"text": bench.texts(captions)}
    for kind, stage in (("ar", "prior_ar"), ("diffusion", "prior")):
        if bench.model.has(stage):
            sets[kind] = _sampled(bench, captions, kind)
    return {
        kind: {
            "cosine": metrics.mean(metrics.cosine(z, true)),
            "top1": metrics.mean((ranks := metrics.retrieval_ranks(z, true)) == 0),
            "top5": metrics.mean(ranks < 5),
            "spread": float(z.var(0).sum() / true.var(0).sum()),
        }
        for kind, z in sets.items()
    }


def _sampled(bench: Bench, captions: list[str], kind: str) -> Tensor:
    from unclip_core.request import GenerateRequest, validate

    request = validate(GenerateRequest("a picture", seed=bench.seed, prior=kind), bench.model)
    stage = {"ar": "prior_ar", "diffusion": "prior"}[kind]
    key = {
        "what": "prior",
        "kind": kind,
        "captions": captions,
        "seed": bench.seed,
        "defaults": dict(bench.model.defaults[stage]),
    }

    def work(chunk: range) -> dict[str, NDArray]:
        z_i, _ = bench.prior(bench.model.encode_text([captions[i] for i in chunk]), request, chunk)
        return {"z_i": z_i.cpu().float().numpy()}

    return bench.rows(key, len(captions), work).tensor("z_i")


def decoder(bench: Bench) -> dict[str, Any]:
    """The decoder from true embeddings of held-out pictures, without and with the caption; z_i -> picture -> z_i."""
    pictures, captions, rows = held_out(bench)
    z_i = bench.encode(pictures)
    found: dict[str, Any] = {"real": score_real(bench, rows)}
    shown = [pictures[:12]]
    for name, texts in (("z_i", None), ("z_i_and_caption", captions)):
        drawn = bench.decode(z_i, texts)
        found[name] = score(bench, drawn, rows, captions)
        found[name]["z_i_cosine"] = metrics.mean(metrics.cosine(bench.encode(drawn.pixels), z_i))
        shown.append(drawn.pixels[:12])
    found["sheet"] = sheet(bench, "decoder", shown)
    return found


def style(bench: Bench) -> dict[str, Any]:
    """Variations (decoded from z_i and fresh noise) of drawings in a style that nothing was trained on, brought as a
    visitor brings a picture."""
    data = corpus_set(bench, "held_out_style", 64)
    place = {row["key"]: i for i, row in enumerate(data.fields)}
    every = bench.reference.style
    order = torch.randperm(len(every.rows), generator=torch.Generator().manual_seed(0)).tolist()[: bench.captions]
    rows = every.pick(order)
    pictures = torch.from_numpy(data.pictures[[place[row["key"]] for row in rows.rows]]).permute(0, 3, 1, 2)
    drawn, unframed = bench.decode(bench.read(pictures)), bench.decode(bench.encode(pictures))
    made, far = (hits(bench, bench.evaluator.features(d.pixels), rows.codes) for d in (drawn, unframed))
    true = hits(bench, rows.features, rows.codes)
    return {
        "made": metrics.mean(made),
        "real": metrics.mean(true),
        "of_real": metrics.ratio(made, true),
        "kept": metrics.mean(made[true == 1]),
        "kept_unframed": metrics.mean(far[true == 1]),
        "sheet": sheet(bench, "style", [pictures[:12], drawn.pixels[:12]]),
    }


def inversion(bench: Bench) -> dict[str, Any]:
    """Picture -> (z_i, x_T) -> picture: PSNR against DDIM steps, with and without refinement."""
    most = min(INVERTED, bench.captions)
    pictures, _, _ = held_out(bench, most)
    z_i, x0 = bench.encode(pictures), pictures.float() / 127.5 - 1
    stage, defaults = bench.model.stages["decoder"], bench.model.defaults["invert"]
    points, usual = [], (defaults["steps"], defaults["refine"])
    settings = {(steps, refine) for steps in INVERSION_STEPS for refine in (0, defaults["refine"])}
    for steps, refine in sorted(settings | {usual}):
        count = most if (steps, refine) == usual else max(8, most // 4)

        def work(chunk: range, steps: int = steps, refine: int = refine) -> dict[str, NDArray]:
            made = []
            for i in chunk:
                own, z = x0[i : i + 1].to(bench.model.device), z_i[i : i + 1].to(bench.model.device)
                x_T = last(stage.invert_steps(own, z, None, steps=steps, refine=refine)).x
                back = last(stage.sample_steps(z, None, x_T, guidance=1.0, steps=steps, sampler="ddim", clip=None)).x
                made.append(back.cpu().float().clamp(-1, 1))
            return {
                "made": torch.cat(made).numpy(),
                "psnr": metrics.psnr(torch.cat(made), x0[chunk.start : chunk.stop]),
            }

        key = {
            "what": "inversion",
            "steps": steps,
            "refine": refine,
            "rows": [row["key"] for row in bench.questions(count).rows],
        }
        drawn = bench.rows(key, count, work)
        own = {"steps": steps, "refine": refine, "psnr": metrics.median(drawn["psnr"]), "pictures": count}
        own["z_i_cosine"] = metrics.mean(metrics.cosine(bench.encode(drawn.tensor("made")), z_i[:count]))
        points.append({**own, "default": (steps, refine) == usual})
    return {"points": points}


def upsamplers(bench: Bench) -> dict[str, Any]:
    """Each upsampler alone on held-out vector art, area-averaged down: PSNR and perceptual distance, beside Lanczos."""
    found = {}
    for stage, size, most in (("upsampler_256", 256, 128), ("upsampler_1024", 1024, 24)):
        if bench.model.has(stage):
            found[stage] = _upsampler(bench, stage, size, min(most, max(4, bench.captions // 4)))
    return found


def _upsampler(bench: Bench, stage: str, size: int, count: int) -> dict[str, Any]:
    from unclip_core.training.stages import lanczos

    data, network = corpus_set(bench, "hires_held_out", size, count), bench.model.stages[stage]
    defaults, low_size = bench.model.defaults[stage], network.config.low_size
    key = {"what": stage, "defaults": dict(defaults), "rows": [row["key"] for row in data.fields]}

    def work(chunk: range) -> dict[str, NDArray]:
        figures: dict[str, list] = {
            name: [] for name in ("psnr", "psnr_lanczos", "perceptual", "perceptual_lanczos", "shown")
        }
        for i in chunk:
            true = data.pixels(torch.tensor([i]))
            low = F.avg_pool2d(true, size // low_size)
            x_T = PictureNoise(bench.seed, [i], stage)((3, size, size)).to(bench.model.device)
            noise = PictureNoise(bench.seed, [i], f"{stage} steps")
            steps = network.sample_steps(
                low.to(bench.model.device), x_T, steps=defaults["steps"], sampler=defaults["sampler"], noise=noise
            )
            made, plain = last(steps).x.cpu().float().clamp(-1, 1), lanczos(low, size)
            for name, picture in (("", made), ("_lanczos", plain)):
                figures[f"psnr{name}"].append(metrics.psnr(picture, true))
                figures[f"perceptual{name}"].append(bench.evaluator.perceptual(picture, true).numpy())
            crops = [F.interpolate(p, (256, 256), mode="area") for p in (true, plain, made)]
            figures["shown"].append(np.stack([np.asarray(to_pictures(c)[0]).transpose(2, 0, 1) for c in crops])[None])
        return {name: np.concatenate(values) for name, values in figures.items()}

    drawn = bench.rows(key, len(data), work)
    shown = torch.from_numpy(drawn["shown"][:6])  # [6, 3 kinds, 3, 256, 256]
    return {
        **{name: metrics.mean(drawn[name]) for name in ("psnr", "psnr_lanczos", "perceptual", "perceptual_lanczos")},
        "gain": metrics.mean(drawn["psnr"] - drawn["psnr_lanczos"]),
        "sheet": sheet(bench, stage, [shown[:, kind] for kind in range(3)]),
    }


def pca(bench: Bench) -> dict[str, Any]:
    """Embeddings cut to their first k principal components: do captions still find pictures, and concepts survive."""
    pictures, captions, rows = held_out(bench)
    few, _, few_rows = held_out(bench, bench.sweep)
    z_i, z_t = bench.encode(pictures), bench.texts(captions)
    axes, width = bench.model.pca, bench.model.stages["clip"].embed_dim
    points, shown = [], []
    for k in [k for k in (2, 5, 10, 20, 40, 80, 160, 320) if k < width] + [width]:
        cut = axes.truncate(z_i, k)
        drawn = bench.decode(cut[: len(few)])
        shown.append(drawn.pixels[:12])
        points.append(
            {
                "k": k,
                "explained": float(axes.explained[k - 1]),
                "retrieval": metrics.mean(metrics.retrieval_ranks(z_t, cut) == 0),
                "top1": metrics.mean(hits(bench, bench.evaluator.features(drawn.pixels), few_rows.codes)),
            }
        )
    return {
        "points": points,
        "real": metrics.mean(hits(bench, few_rows.features, few_rows.codes)),
        "sheet": sheet(bench, "pca", [few[:12], *shown]),
    }
