"""What the report says of each study: its title, one plot or two, a table, and how to read them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unclip_core.evaluation import plots

if TYPE_CHECKING:
    from unclip_core.evaluation.report import Page

NAMES = {
    "caption": "caption only",
    "text": "z_t as z_i",
    "text_pulled": "z_t, pulled",
    "ar": "AR prior",
    "diffusion": "diffusion prior",
    "real": "real pictures",
}
KINDS = ("caption", "text", "ar", "diffusion")


def percent(estimate: Sequence[float], digits: int = 0) -> str:
    value, low, high = (100 * x for x in estimate[:3])
    return f"{value:.{digits}f}% ({low:.{digits}f}–{high:.{digits}f})"


def plain(estimate: Sequence[float], digits: int = 2) -> str:
    value, low, high = estimate[:3]
    return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _scores(row: dict[str, Any]) -> list[str]:
    """top-1, top-5, Fréchet, CMMD, CLIP score."""
    clip = plain(row["clip_score"], 3) if "clip_score" in row else ""
    return [percent(row["top1"]), percent(row["top5"]), plain(row["frechet"], 1), plain(row["cmmd"], 1), clip]


HEAD = ["", "top-1", "top-5", "Fréchet ↓", "CMMD ↓", "CLIP score"]


def clip(page: Page, found: dict[str, Any]) -> None:
    rows = [
        [
            f"{words} → its picture among {found['pictures']:,}",
            percent(found[key]["top1"], 1),
            percent(found[key]["top5"], 1),
        ]
        for key, words in (
            ("plain", "plain caption"),
            ("korean", "Korean label"),
            ("styled", "caption that names the style"),
        )
    ]
    rows += [
        [
            f"{words} → its name among {found[key]['classes']:,}",
            percent(found[key]["top1"], 1),
            percent(found[key]["top5"], 1),
        ]
        for key, words in (
            ("zero_shot_pairs", "held-out picture"),
            ("zero_shot_style", "picture in the held-out style"),
        )
    ]
    page.add(
        "Everything downstream inherits this. A plain caption fits the same concept's picture in one style only "
        "by luck of which style was held out; distractors are other concepts."
    )
    page.table(["", "first", "among five"], rows)


def text_to_picture(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Concept accuracy is the evaluator's answer among all concepts. Real pictures are the held-out drawings "
        "of the same concepts; their distances are the floor "
        "that a perfect generator of these concepts would reach at this number of pictures."
    )
    rows = [
        [name, *_scores(found[key])]
        for key, name in (
            ("plain", "plain captions"),
            ("styled", "unseen (concept, style)"),
            ("korean", "Korean"),
            ("real", "real pictures"),
        )
    ]
    page.table(HEAD, rows)
    made = found["diversity"]
    page.add(
        f"Drawn in the style asked for: {percent(found['styled']['style'])}. Diversity among {made['samples']} "
        "samples of one caption: "
        f"{plain(made['features'])} (cosine distance of features; two hands drawing one concept: "
        f"{plain(made['real'])}), {plain(made['pixels'], 3)} in pixels (RMS)."
    )
    page.sheet(found.get("sheet"), "the first captions, one picture each")
    page.add(
        f"*The first {len(found['sheet_captions'])} captions, in order: {', '.join(found['sheet_captions'][:16])}, …*"
    )
    groups = found["groups"]
    figure, (axes,) = plots.figure(1, 0.36 * len(groups) + 0.9, 6.5)
    plots.bars(axes, [*groups], [g["made"] for g in groups.values()])
    axes.scatter(
        [g["real"][0] for g in groups.values()],
        range(len(groups)),
        color=plots.INK,
        marker="|",
        s=160,
        label="real pictures",
        zorder=3,
    )
    axes.set(title="Concept accuracy by group", xlim=(0, 1))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), fontsize=8)
    page.picture(plots.save(figure, page.plot("groups.png")), "concept accuracy by group")


def decoder(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "The decoder given true z_i of held-out pictures: what is lost here no prior can win back. Rows of the "
        "sheet: real pictures, z_i alone, z_i and caption."
    )
    named = {"z_i": "z_i alone", "z_i_and_caption": "z_i and caption"}
    page.table(
        [*HEAD, "z_i → picture → z_i"],
        [[name, *_scores(found[key]), plain(found[key]["z_i_cosine"], 3)] for key, name in named.items()]
        + [["real pictures", *_scores(found["real"]), ""]],
    )
    page.sheet(found.get("sheet"), "real pictures and their decodings")


def style(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Variations (z_i and fresh noise) of drawings in a style that neither the pack nor the evaluator was "
        f"trained on. Right concept: {percent(found['made'])}; the originals: "
        f"{percent(found['real'])}, so {percent(found['of_real'])} of it. Of the originals that the evaluator "
        f"knew, {percent(found['kept'])} keep their concept. As for every picture that is brought to the app, a small "
        f"drawing on a plain ground is read up close; read as they are, {percent(found['kept_unframed'])} keep it."
    )
    page.sheet(found.get("sheet"), "originals above, variations below")


def priors(page: Page, found: dict[str, Any]) -> None:
    kinds = [kind for kind in KINDS if kind in found]
    page.add(
        "The same noise and captions, with z_i from nowhere (caption only), from the caption's own embedding z_t, "
        "and from each prior. The paper finds z_t reasonable and a prior best."
    )
    page.table(
        [*HEAD, "s a picture"],
        [[NAMES[kind], *_scores(found[kind]), f"{found[kind]['seconds'][0]:.2f}"] for kind in kinds]
        + [["real pictures", *_scores(found["real"]), ""]],
    )
    figure, (left, right) = plots.figure(2, 2.3)
    for axes, key, title in (
        (left, "top1", "Concept accuracy (top-1)"),
        (right, "frechet", "Fréchet distance (less is better)"),
    ):
        plots.bars(
            axes,
            [NAMES[kind] for kind in kinds],
            [found[kind][key] for kind in kinds],
            [plots.OF_KIND[kind] for kind in kinds],
            found["real"][key][0],
        )
        axes.set_title(title, pad=16)
    page.picture(plots.save(figure, page.plot("priors.png")), "prior needed or not")
    if "text_pulled" in found:
        pulled = found["text_pulled"]
        page.add(
            "This pack's decoder moves every z_i part of the way towards embeddings of pictures that it has learned. "
            "z_t is no image embedding and goes in as it is. Pulled like a z_i (a system of its own, not one that the "
            f"app offers) it draws {percent(pulled['top1'])} right at a Fréchet distance of "
            f"{plain(pulled['frechet'], 1)}, CLIP score {plain(pulled['clip_score'], 3)}: what the decoder remembers "
            "of image embeddings then does part of a prior's work."
        )
    ours, others = found.get("diffusion"), [found[kind] for kind in ("caption", "text") if kind in found]
    if ours and any(ours["frechet"][0] >= other["frechet"][0] for other in others):
        page.add(
            "In Fréchet distance the diffusion prior is not ahead: it asks for the variety of real drawings as much as "
            "for what they show, and a guided prior draws the typical one. How guidance trades one for the other "
            "stands below."
        )
    page.sheet(found.get("sheet"), "the same captions by each system")
    page.add(f"*Rows: {', '.join(NAMES[kind] for kind in kinds)}. Captions: {', '.join(found['sheet_captions'])}.*")


def prior_embeddings(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "A prior's z_i beside the true z_i of the held-out picture. A caption leaves the style open, so the "
        "cosine cannot reach 1; spread is the variance over captions beside that of true embeddings."
    )
    rows = [
        [NAMES[kind], plain(row["cosine"], 3), percent(row["top1"]), percent(row["top5"]), f"{row['spread']:.2f}"]
        for kind, row in found.items()
        if kind in KINDS
    ]
    page.table(["", "cosine to true z_i", "finds it first", "among five", "spread"], rows)


def equal_time(page: Page, found: dict[str, Any]) -> None:
    ar, curve = found["ar"], found["diffusion"]
    equal = next(point for point in curve if point["steps"] == found["equal_steps"])
    page.add(
        f"The AR prior takes {ar['seconds']:.3f} s an embedding. The diffusion prior takes about as long with "
        f"{equal['steps']} steps: cosine to the true z_i {plain(equal['cosine'], 3)} "
        f"against {plain(ar['cosine'], 3)} (AR), concept accuracy {percent(equal['top1'])} against "
        f"{percent(ar['top1'])}. Times are of this machine, in batches."
    )
    figure, axes = plots.figure(2, 2.9)
    for plot, key, title in zip(axes, ("cosine", "top1"), ("Cosine to the true z_i", "Concept accuracy")):
        plots.line(plot, [p["seconds"] for p in curve], [p[key] for p in curve], "diffusion prior", plots.VIOLET)
        plot.errorbar(
            [ar["seconds"]], [ar[key][0]], yerr=plots.whiskers([ar[key]]), fmt="s", color=plots.CORAL, label="AR prior"
        )
        for point in curve:
            plot.annotate(
                str(point["steps"]),
                (point["seconds"], point[key][0]),
                textcoords="offset points",
                xytext=(0, 6),
                fontsize=8,
                color=plots.VIOLET,
                ha="center",
            )
        plot.set(title=title, xlabel="seconds an embedding (numbers: steps)")
        plots.plain_log(plot)
        plot.legend(fontsize=8, loc="lower right")
    page.picture(plots.save(figure, page.plot("equal_time.png")), "priors at equal time")


def guidance(page: Page, found: dict[str, Any]) -> None:
    page.add(
        f"Each point is a guidance scale (written beside it); {found['samples']} pictures a caption. The paper: "
        "unCLIP keeps its diversity as decoder guidance rises, since z_i is "
        "frozen while guiding, where GLIDE loses it."
    )
    figure, axes = plots.figure(2, 3.4)
    for plot, y, title in zip(
        axes, ("top1", "clip_score"), ("Concept accuracy against diversity", "CLIP score against diversity")
    ):
        plots.trade(plot, found["decoder"], "diversity", y, plots.CORAL, "decoder guidance")
        plots.trade(plot, found["prior"], "diversity", y, plots.VIOLET, "prior guidance")
        plot.set(title=title, xlabel="diversity (feature distance among samples)")
        plot.legend(fontsize=8)
    page.picture(plots.save(figure, page.plot("guidance.png")), "fidelity against diversity")
    rows = [
        [
            where,
            f"{p['guidance']:g}",
            percent(p["top1"]),
            plain(p["cmmd"], 1),
            plain(p["clip_score"], 3),
            plain(p["diversity"]),
            plain(p["pixel_diversity"], 3),
        ]
        for where in ("decoder", "prior")
        for p in found[where]
    ]
    page.table(["guided", "scale", "top-1", "CMMD ↓", "CLIP score", "diversity", "in pixels"], rows)


def samplers(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "The decoder from the same noise and embeddings. Rows of the sheet: dpm++ with "
        f"{', '.join(str(s) for s in found['sheet_steps'])} steps."
    )
    figure, axes = plots.figure(2, 3.1)
    for plot, key, title in zip(axes, ("top1", "frechet"), ("Concept accuracy", "Fréchet distance (less is better)")):
        for name, colour in zip(("ddim", "dpm++", "ddpm"), plots.COLOURS):
            points = [p for p in found["points"] if p["sampler"] == name]
            plots.line(plot, [p["steps"] for p in points], [p[key] for p in points], name, colour)
        plot.axhline(found["real"][key][0], color=plots.INK, linestyle="--", linewidth=1)
        plot.set(title=title, xlabel="steps (dashed: real pictures)", xscale="log")
        plot.set_xticks([2, 4, 8, 16, 32, 64], ["2", "4", "8", "16", "32", "64"])
        plot.minorticks_off()
        plot.legend(fontsize=8)
    page.picture(plots.save(figure, page.plot("samplers.png")), "steps against quality")
    page.sheet(found.get("sheet"), "dpm++ with more and more steps")


def pca(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Embeddings cut to their first k principal components: share of variance kept, captions that still find "
        "their picture, and concepts that survive decoding. Rows of the sheet: real pictures, then rising k."
    )
    figure, (axes,) = plots.figure(1, 3, 6.5)
    ks = [p["k"] for p in found["points"]]
    axes.plot(ks, [p["explained"] for p in found["points"]], color=plots.GREY, linestyle=":", label="variance kept")
    plots.line(axes, ks, [p["retrieval"] for p in found["points"]], "caption finds its picture", plots.VIOLET)
    plots.line(axes, ks, [p["top1"] for p in found["points"]], "concept accuracy of decodings", plots.CORAL)
    axes.set(xscale="log", xlabel="principal components kept", ylim=(0, 1.02))
    axes.set_xticks(ks, [str(k) for k in ks])
    axes.minorticks_off()
    axes.legend(fontsize=8)
    page.picture(plots.save(figure, page.plot("pca_curve.png")), "dimensions against retrieval")
    page.sheet(found.get("sheet"), "decodings with more and more components")


def inversion(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Picture → (z_i, x_T) by DDIM inversion → picture. Refinement is fixed-point steps that make each "
        "inversion step nearly exact."
    )
    rows = [
        [
            str(p["steps"]),
            str(p["refine"]),
            str(p["pictures"]),
            plain(p["psnr"], 1),
            plain(p["z_i_cosine"], 3),
            "default" if p["default"] else "",
        ]
        for p in found["points"]
    ]
    page.table(["steps", "refinements", "pictures", "median PSNR, dB", "cosine of z_i", ""], rows)


def upsamplers(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Each upsampler alone, on held-out vector art averaged down to its input size. Perceptual distance is "
        "LPIPS-like, in the evaluator's activations. Rows of the sheets: real, Lanczos, upsampler."
    )
    rows = []
    for stage, row in found.items():
        if stage.startswith("upsampler"):
            rows.append(
                [
                    stage.removeprefix("upsampler_") + " px",
                    plain(row["psnr"], 1),
                    plain(row["psnr_lanczos"], 1),
                    plain(row["gain"]),
                    plain(row["perceptual"], 3),
                    plain(row["perceptual_lanczos"], 3),
                ]
            )
    page.table(["to", "PSNR, dB", "Lanczos", "gain, dB", "perceptual ↓", "Lanczos"], rows)
    for stage in ("upsampler_256", "upsampler_1024"):
        if stage in found:
            page.sheet(found[stage].get("sheet"), f"{stage}: real, Lanczos, upsampler")


def binding(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Captions of two coloured shapes in a relation. The judge finds the things on each side, the nearest "
        "named colour and the nearest silhouette; true drawings show what the judge itself can do. "
        "The paper finds unCLIP worse than GLIDE here: a CLIP embedding does not bind attributes to objects."
    )
    keys = ("colours", "binding", "swapped", "relation", "all")
    page.table(
        ["", "both colours", "bound right", "bound the other way round", "right sides", "all right"],
        [[name, *(percent(row[key]) for key in keys)] for name, row in found["rates"].items()],
    )
    page.sheet(found.get("sheet"), "binding")
    page.add(f"*Rows: {', '.join(found['sheet_rows'])}. Captions: {'; '.join(found['sheet_captions'][:4])}; …*")


def words(page: Page, found: dict[str, Any]) -> None:
    page.add(
        "Cards with one word, read by matching their lettering to thirty known words (chance: "
        f"{100 * found['chance']:.0f}%). Half of the words stand on training cards."
    )
    page.table(
        ["", "words seen in training", "words not seen"],
        [[name, percent(row["seen"]), percent(row["unseen"])] for name, row in found["rates"].items()],
    )
    page.sheet(found.get("sheet"), "written words")
    page.add(f"*Rows: {', '.join(found['sheet_rows'])}. Captions: {'; '.join(found['sheet_captions'][:4])}; …*")


@dataclass(frozen=True)
class Section:
    title: str
    write: Callable[[Page, dict[str, Any]], None]


SECTIONS = {
    "text_to_picture": Section("Text to picture", text_to_picture),
    "priors": Section("Is a prior needed?", priors),
    "prior_embeddings": Section("The priors' embeddings", prior_embeddings),
    "equal_time": Section("AR and diffusion prior at equal time", equal_time),
    "guidance": Section("Guidance: fidelity against diversity", guidance),
    "decoder": Section("The decoder alone", decoder),
    "samplers": Section("Steps and samplers", samplers),
    "style": Section("A style never seen", style),
    "inversion": Section("Inversion", inversion),
    "upsamplers": Section("The upsamplers", upsamplers),
    "clip": Section("CLIP", clip),
    "pca": Section("Principal components", pca),
    "binding": Section("Attributes bound to objects", binding),
    "words": Section("Written words", words),
}
