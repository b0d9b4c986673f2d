"""The report: every study's tables and plots in one Markdown file, with the paper's figures beside ours."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unclip_core.evaluation import sections
from unclip_core.evaluation.bench import Bench


class Page:
    """Markdown in the making, and the folder its pictures go to."""

    def __init__(self, path: Path, source: Path, bench: Bench) -> None:
        self.path, self.source, self.bench = path, source, bench
        self.folder = path.with_name(path.stem)
        self.lines: list[str] = []

    def add(self, *paragraphs: str) -> None:
        for paragraph in paragraphs:
            self.lines += [paragraph, ""]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        self.lines += ["| " + " | ".join(row) + " |" for row in rows] + [""]

    def picture(self, name: str, words: str) -> None:
        self.add(f"![{words}]({self.folder.name}/{name})")

    def sheet(self, name: str | None, words: str) -> None:
        """A sheet of pictures that a study left in the output folder."""
        if name and (self.source / "figures" / name).exists():
            shutil.copyfile(self.source / "figures" / name, self.folder / name)
            self.picture(name, words)

    def plot(self, name: str) -> Path:
        return self.folder / name


def write(bench: Bench, results: dict[str, Any], path: Path) -> Path:
    """Writes the report, beside it its pictures and the bare results as JSON, and returns the report."""
    page = Page(Path(path), bench.folder, bench)
    page.folder.mkdir(parents=True, exist_ok=True)
    page.add("# Results", _opening(bench))
    goals(page, results)
    for name, section in sections.SECTIONS.items():
        if name in results:
            page.add(f"## {section.title}")
            if "skipped" in results[name]:
                page.add(f"Not measured: {results[name]['skipped']}")
            else:
                if (pack := results[name]["mark"]["pack"]) != bench.model.hash:
                    page.add(f"*Measured on another pack, {pack}.*")
                section.write(page, results[name])
    beside_the_paper(page, results)
    page.add(
        "## How to measure again",
        "```\npython -m unclip_core corpus --out data/corpus        # once, for the studies that need real pictures\n"
        f"python -m unclip_core evaluate --pack {bench.model.name} --captions {bench.captions} --report "
        f"{page.path.name}\n"
        "torchrun --nproc_per_node 8 -m unclip_core evaluate …     # shared out among processes\n```",
        "Pictures and results are kept in `out/evaluation`: a run cut short goes on where it was. `--quick` takes "
        "minutes.",
    )
    partial = page.path.with_suffix(".partial")
    partial.write_text("\n".join(page.lines).rstrip() + "\n", encoding="utf-8")
    partial.replace(page.path)
    plain = {
        "pack": {"name": bench.model.name, "hash": bench.model.hash},
        "command": f"python -m unclip_core evaluate --pack {bench.model.name} --captions {bench.captions}",
        "date": time.strftime("%Y-%m-%d"),
        **results,
    }
    page.path.with_suffix(".json").write_text(json.dumps(plain, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return page.path


def _opening(bench: Bench) -> str:
    device = (
        "a GPU"
        if bench.model.device.type == "cuda"
        else f"{torch.get_num_threads()} threads of a {os.cpu_count()}-core CPU"
    )
    return (
        f"Pack `{bench.model.name}` ({bench.model.hash}), evaluator {bench.evaluator.hash}, {bench.captions} captions "
        f"(sweeps: {bench.sweep}), seed {bench.seed}, on {device}, {time.strftime('%Y-%m-%d')}. Everything is "
        "drawn with the pack's defaults "
        "unless it says otherwise, one picture a caption, none chosen. Brackets hold 95% bootstrap intervals over "
        "captions "
        "(for distances: 1.96 bootstrap standard deviations)."
    )


# ---- what it must show ----


class Goal(NamedTuple):
    """At least `least` of what `of` finds in a study's result; shares are shown in percent."""

    what: str
    study: str
    least: float
    of: Callable[[dict], Any]
    share: bool = True


SEEN = "Text to picture, concepts seen in training: top-1 of what real pictures reach"
UNSEEN = "Captions of (concept, style) pairs never seen together, the same"
DECODER = "Decoder alone, true z_i of held-out pictures, the same"
STYLE = "Held-out style: variations that keep a concept the evaluator knew in the original"
INVERTED = "Inversion at the default steps: median PSNR of the reconstruction of held-out pictures, dB"
GOALS = (
    Goal(SEEN, "text_to_picture", 0.85, lambda r: r["plain"]["top1_of_real"]),
    Goal(UNSEEN, "text_to_picture", 0.70, lambda r: r["styled"]["top1_of_real"]),
    Goal(DECODER, "decoder", 0.90, lambda r: r["z_i"]["top1_of_real"]),
    Goal(STYLE, "style", 0.60, lambda r: r["kept"]),
    Goal("Upsampler to 256 px against Lanczos, dB", "upsamplers", 2.0, lambda r: r["upsampler_256"]["gain"], False),
    Goal("Upsampler to 1024 px against Lanczos, dB", "upsamplers", 1.0, lambda r: r["upsampler_1024"]["gain"], False),
    Goal(INVERTED, "inversion", 28.0, lambda r: next(p["psnr"] for p in r["points"] if p["default"]), False),
)


def goals(page: Page, results: dict[str, Any]) -> None:
    rows = []
    for goal in GOALS:
        result = results.get(goal.study, {"skipped": ""})
        if "skipped" in result:
            continue
        try:
            found = goal.of(result)
        except KeyError:  # a pack without that upsampler
            continue
        wanted = f"at least {100 * goal.least:.0f}%" if goal.share else f"at least {goal.least:g}"
        met = "–" if math.isnan(found[0]) else "yes" if found[0] >= goal.least else "no"
        rows.append([goal.what, wanted, (sections.percent if goal.share else sections.plain)(found), met])
    found = results.get("priors", {})
    if all(kind in found for kind in ("diffusion", "text", "caption")):
        ours, others = found["diffusion"], [found["text"], found["caption"]]
        ahead = {
            "concept accuracy": all(ours["top1"][0] > other["top1"][0] for other in others),
            "Fréchet distance": all(ours["frechet"][0] < other["frechet"][0] for other in others),
        }
        said = "; ".join(f"{name}: {'ahead' if won else 'not ahead'}" for name, won in ahead.items())
        rows.append(
            [
                "Diffusion prior against z_t (as it is) and caption only",
                "ahead on both",
                said,
                "yes" if all(ahead.values()) else "no",
            ]
        )
    if rows:
        page.add("## What it must show")
        page.table(["goal", "wanted", "found", "met"], rows)


# ---- the paper ----

PAPER = [
    ["Preferred to GLIDE, AR prior: photorealism / caption / diversity", "47.1 ± 3.1 / 41.1 ± 3.0 / 62.6 ± 3.0 %"],
    ["The same, diffusion prior", "48.9 ± 3.1 / 45.3 ± 3.0 / 70.5 ± 2.8 %"],
    ["MS-COCO 256 px zero-shot FID: unCLIP AR / diffusion; GLIDE; Make-A-Scene", "10.63 / 10.39; 12.24; 11.84"],
    ["Karlo-v1-alpha (open replication), MS-COCO: FID / CLIP score (ViT-B/16)", "15.24 / 0.3192"],
    ["Principal components that keep all but 1% of the error, of CLIP's (ViT-H/16)", "319 of 1,024"],
]  # fmt: skip


def beside_the_paper(page: Page, results: dict[str, Any]) -> None:
    ours = []
    found = results.get("priors", {})
    for kind in ("ar", "diffusion"):
        if kind in found:
            row, real = found[kind], found["real"]
            ours.append(
                [
                    f"{sections.NAMES[kind]}: Fréchet distance (real pictures: {real['frechet'][0]:.1f})",
                    sections.plain(row["frechet"], 1),
                ]
            )
            ours.append([f"{sections.NAMES[kind]}: CLIP score, the pack's own CLIP", sections.plain(row["clip_score"])])
    if page.bench.model.has("pca"):
        explained = page.bench.model.pca.explained
        ours.append(
            [
                "Principal components that keep 99% of the variance",
                f"{int((explained < 0.99).sum()) + 1} of {len(explained)}",
            ]
        )
    page.add("## Beside the paper")
    page.table(["published", ""], PAPER)
    if ours:
        page.table(["here", ""], ours)
    page.add(
        "**What can be compared.** The order of systems can: whether a prior helps, which of the two is ahead, "
        "whether guidance costs "
        "diversity, how few principal components carry an embedding. The numbers cannot. The paper's Fréchet "
        "distances are Inception features "
        "of 30,000 photographs at 256 px; ours are features of a small network of our own, of some hundred emoji "
        "drawings at 64 px, and mean "
        "something only beside the floor in the same table. Our CLIP score comes from the pack's own CLIP, which "
        "the priors were trained to "
        "please, so it flatters. Human preference is measured by the Arena page, on the paper's protocol, and its "
        "figures stand there."
    )
