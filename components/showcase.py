"""Makes what ships as shown results, from real runs of a pack: `python -m components.showcase [--pack pocket]`.

Parts: "tour" (the figures of its chapters), "limits" (the Limits lab's pictures), "thumbnail" (the Space's picture).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from components import attack, limits, tour_data
from components.engine import Engine
from components.strip import heat
from components.subject import Subject, examples, taken_apart
from components.theme import ASSETS
from unclip_core.latents import Latent, interpolate, rotate_by_text, truncate_components

PROMPT = {"en": "a red apple", "ko": "빨간 사과"}
MATRIX = (
    ("red-apple", "a red apple", "빨간 사과"),
    ("cat-face", "a cat face", "고양이 얼굴"),
    ("rocket", "a rocket", "로켓"),
    ("pizza", "a slice of pizza", "피자 한 조각"),
    ("sunflower", "a sunflower", "해바라기"),
)
WAYS = ("caption", "text", "ar", "diffusion")
ETAS = (0.25, 0.5, 0.75, 1.0)
THETAS = torch.linspace(0, 0.5, 7, dtype=torch.float64)
FRAMES = 9
THUMBNAIL = ASSETS / "thumbnail.png"
CAPTIONS = (
    "a red apple", "smiling face with sunglasses", "a cat face", "a rocket", "a hamburger", "a sunflower",
    "a dog face", "a tropical fish", "a house", "an automobile", "a penguin", "a birthday cake",
)  # fmt: skip

Figure = dict[str, Any]


class Album:
    """Pictures written to the tour's folder, each under the name that its figure gives it."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.size = min(256, engine.sizes()[-1])

    def put(self, name: str, pictures: Iterable[Image.Image]) -> list[str]:
        """Pictures -> their file names."""
        names = []
        for number, picture in enumerate(pictures):
            names.append(f"{name}-{number}.webp")
            picture.convert("RGB").save(self.folder / names[-1], "WEBP", quality=88, method=6)
        return names

    def subject(self, name: str) -> Subject:
        """One of the shipped source pictures, taken apart."""
        return taken_apart(self.engine, str(examples()[name]))

    def decode(self, name: str, latent: Latent) -> list[str]:
        """The pictures of a latent with its own x_T (or the seed's) -> file names."""
        rows = [self.engine.model.decode(latent[i], size=self.size)[0] for i in range(len(latent))]
        return self.put(name, rows)


def story(album: Album) -> Figure:
    """One caption, all the way."""
    engine, shown = album.engine, {}
    for step in engine.model.generate_steps(PROMPT["en"], size=engine.sizes()[-1], preview_every=1000):
        if step.index == step.total:
            shown[step.stage] = step
    pictures = [_at_most(640, shown[stage].pictures[0]) for stage in shown if shown[stage].pictures]
    return {
        "kind": "strip",
        "caption": PROMPT,
        "z_t": heat(shown["clip"].z_i[0]),
        "z_i": heat(shown["prior"].z_i[0]),
        "pictures": album.put("story", pictures),
    }


def clip(album: Album) -> Figure:
    """Cosines of five captions with five pictures."""
    names = [name for name, *_ in MATRIX]
    pictures = [album.engine.open(examples()[name]) for name in names]
    model = album.engine.model
    z_i = torch.nn.functional.normalize(model.encode_image(pictures).cpu(), dim=-1)
    z_t = torch.nn.functional.normalize(model.encode_text([en for _, en, _ in MATRIX]).pooled.cpu(), dim=-1)
    return {
        "kind": "matrix",
        "captions": [{"en": en, "ko": ko} for _, en, ko in MATRIX],
        "pictures": album.put("clip", [picture.resize((128, 128)) for picture in pictures]),
        "cosines": [[round(value, 3) for value in row] for row in (z_t @ z_i.T).tolist()],
    }


def prior(album: Album) -> Figure:
    """The same caption and noise without a prior and with each."""
    model, columns = album.engine.model, []
    z_t = model.encode_text([PROMPT["en"]]).pooled.cpu()
    stages = {"ar": "prior_ar", "diffusion": "prior"}
    for way in WAYS:
        if way in stages and not model.has(stages[way]):
            continue
        pictures = model.generate(PROMPT["en"], n=3, size=album.size, prior=way)
        cosine = torch.nn.functional.cosine_similarity(model.encode_image(pictures).cpu(), z_t).mean()
        columns.append({"way": way, "pictures": album.put(f"prior-{way}", pictures), "cosine": round(float(cosine), 3)})
    return {"kind": "columns", "caption": PROMPT, "columns": columns}


def decoder(album: Album) -> Figure:
    """Denoising, every step of every stage that fits in a dozen frames."""
    frames, pictures = [], []
    size = album.engine.sizes()[-1]
    steps = [s for s in album.engine.model.generate_steps("a rocket", size=size, preview_every=1) if s.pictures]
    for step in steps:
        every = {"decoder": max(1, step.total // 9), "upsampler_256": 2, "upsampler_1024": 2}[step.stage]
        if step.index == step.total or (step.index - 1) % every == 0:
            frames.append({"stage": step.stage, "index": step.index, "total": step.total})
            pictures.append(_at_most(512, step.pictures[0]))
    files = album.put("decoder", pictures)
    return {"kind": "scrub", "caption": {"en": "a rocket", "ko": "로켓"}, "frames": _frames(files, frames)}


def halves(album: Album) -> Figure:
    """A picture taken apart, put together, and let go of."""
    from components.live import noise_picture

    subject = album.subject("cat-face")
    model, latent = album.engine.model, subject.latent
    varied = [model.decode(latent, size=album.size, eta=eta, seed=1)[0] for eta in ETAS]
    parts = [subject.picture.resize((256, 256)), noise_picture(latent), subject.reconstruction.resize((256, 256))]
    return {
        "kind": "halves",
        "z_i": heat(latent.z_i[0]),
        "parts": album.put("halves", parts),
        "psnr": round(subject.psnr, 1),
        "etas": list(ETAS),
        "variations": album.put("variation", varied),
    }


def between(album: Album) -> Figure:
    """From one picture to another, both inverted."""
    a, b = album.subject("cat-face"), album.subject("dog-face")
    shares = torch.linspace(0, 1, FRAMES, dtype=torch.float64)
    files = album.decode("between", interpolate(a.latent, b.latent, shares))
    return {"kind": "scrub", "frames": _frames(files, [{"share": round(float(share), 3)} for share in shares])}


def linked(chapter: str, lab: str) -> dict[str, Any]:
    """The fields with which a chapter of the tour opens a lab: its figure shows the same."""
    return dict(next(one for one in tour_data.CHAPTERS if one.name == chapter).links)[lab]


def diff(album: Album) -> Figure:
    """A picture turned from one caption towards another."""
    fields = linked("diff", "text_diff")
    subject = album.subject(fields["example"])
    captions = [fields["caption_from"], fields["caption_to"]]
    z_from, z_to = album.engine.model.encode_text([caption["en"] for caption in captions]).pooled.cpu().split(1)
    files = album.decode("diff", rotate_by_text(subject.latent, z_from, z_to, THETAS))
    frames = _frames(files, [{"theta": round(float(theta), 3)} for theta in THETAS])
    return {"kind": "scrub", "from": captions[0], "to": captions[1], "frames": frames}


def knows(album: Album) -> Figure:
    """The first k directions alone; and a word that fools CLIP."""
    model, subject = album.engine.model, album.subject("red-apple")
    width = subject.latent.z_i.shape[1]
    ks = sorted({max(1, round(width * share)) for share in (0.01, 0.03, 0.06, 0.12, 0.25, 0.5, 1)})
    alone = Latent(truncate_components(subject.latent, model.pca, ks).z_i)  # its own x_T would show the rest
    files = album.decode("knows", alone)
    frames = [{"k": k, "width": width, "explained": round(float(model.pca.explained[k - 1]), 3)} for k in ks]
    fields = linked("knows", "typographic")
    values = {"word": fields["word"]["en"], "x": 0.5, "y": 0.62, "word_size": 0.22, "colour": "ink", "label": True}
    values["classes"] = "apple, cat, dog, pizza, rocket"
    fooled = attack.Attack(album.engine, album.engine.open(examples()[fields["example"]]), values)
    z_i = fooled.z_i.cpu()
    drawn = [model.decode(z_i[1:], size=album.size, seed=seed)[0] for seed in range(3)]
    seen = [fooled.clean.resize((256, 256)), fooled.attacked.resize((256, 256))]
    classes = [
        {"en": en, "ko": ko} for en, ko in zip(fooled.classifier.classes, ("사과", "고양이", "개", "피자", "로켓"))
    ]
    return {
        "kind": "knows",
        "frames": _frames(files, frames),
        "classes": classes,
        "seen": album.put("attack", seen),
        "shares": [[round(share, 4) for share in row] for row in fooled.classifier.of_embeddings(z_i)],
        "drawn": album.put("attacked", drawn),
    }


def limit_pairs(album: Album) -> Figure:
    """Two captions whose colours are exchanged, and what comes of them."""
    rows = []
    for number, key in enumerate(limits.captions("binding")[:2]):
        caption = {lang: limits.t(key, lang) for lang in ("en", "ko")}
        pictures = album.engine.model.generate(caption["en"], n=4, size=album.size)
        judged = [limits.verdict("binding", number, picture) for picture in pictures]
        rows.append({"caption": caption, "pictures": album.put(f"limits-{number}", pictures), "judged": judged})
    return {"kind": "pairs", "rows": rows}


def _at_most(side: int, picture: Image.Image) -> Image.Image:
    return picture if picture.width <= side else picture.resize((side, side), Image.Resampling.LANCZOS)


def _frames(files: list[str], facts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"file": file, **fact} for file, fact in zip(files, facts, strict=True)]


FIGURES: dict[str, Callable[[Album], Figure]] = {
    "story": story, "clip": clip, "prior": prior, "decoder": decoder, "halves": halves, "between": between,
    "diff": diff, "knows": knows, "limits": limit_pairs,
}  # fmt: skip


def make_tour(engine: Engine, folder: Path = tour_data.FOLDER, only: Iterable[str] = FIGURES) -> None:
    """Every figure anew; those not in `only` stay as they are."""
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "tour.json"
    kept = json.loads(told.read_text(encoding="utf-8"))["figures"] if told.is_file() else {}
    album = Album(engine, folder)
    for name in only:
        kept[name] = FIGURES[name](album)
        print(f"tour: {name}", flush=True)
    shown = {"pack": {"name": engine.name, "hash": engine.model.hash}, "figures": kept}
    told.write_text(json.dumps(shown, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def make_limits(engine: Engine, folder: Path = limits.EXAMPLES) -> None:
    """The Limits lab's boards, as they stand after a run with the defaults."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    size = min(256, engine.sizes()[-1])
    for kind in limits.COUNTS:
        row = 0
        for grid, made in limits.draw(engine, kind, "en", size):
            for column, (cell, one) in enumerate(zip(grid.rows[row]["cells"] if made else (), made)):
                grid.put(row, column, one.picture, cell["name"], note=cell["note"])
            row += bool(made)
        value = grid.value("done")
        value["badge"]["live"] = False
        (folder / f"{kind}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        print(f"limits: {kind}", flush=True)


def make_thumbnail(engine: Engine, path: Path = THUMBNAIL) -> None:
    """1200 x 630: the name over pictures that the pack drew."""
    sheet, side = Image.new("RGB", (1200, 630), "#f7f4ee"), 190
    size = min(256, engine.sizes()[-1])
    for number, caption in enumerate(CAPTIONS):
        picture = engine.model.generate(caption, size=size)[0].resize((side, side), Image.Resampling.LANCZOS)
        tile = Image.new("L", (side, side))
        ImageDraw.Draw(tile).rounded_rectangle((0, 0, side - 1, side - 1), 28, fill=255)
        sheet.paste(picture, (30 + number % 6 * (side + 0), 222 + number // 6 * (side + 6)), tile)
    draw = ImageDraw.Draw(sheet)
    faces = {weight: str(ASSETS / "fonts" / f"Pretendard-{weight}.subset.woff2") for weight in ("ExtraBold", "Regular")}
    draw.text((40, 52), "unCLIP Explorer", font=ImageFont.truetype(faces["ExtraBold"], 84), fill="#1b1822")
    line = "Watch a caption become a picture, and look inside CLIP"
    draw.text((44, 152), line, font=ImageFont.truetype(faces["Regular"], 34), fill="#6a6472")
    sheet.save(path, optimize=True)
    print(f"thumbnail: {path}", flush=True)


PARTS = {"tour": make_tour, "limits": make_limits, "thumbnail": make_thumbnail}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m components.showcase", description="Make the shipped results.")
    parser.add_argument("--pack", default="pocket", help="a pack's name or folder")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--figures", nargs="+", choices=FIGURES, help="of the tour, only these")
    options = parser.parse_args()
    engine = Engine.load(options.pack)
    for part in options.only:
        extra = {"only": options.figures} if part == "tour" and options.figures else {}
        PARTS[part](engine, **extra)


if __name__ == "__main__":
    main()
