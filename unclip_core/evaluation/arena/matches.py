"""Matches: two systems, some captions, and the pictures of both made beforehand, each match a folder.

    MATCH/match.json                     systems a and b, captions, the seed
    MATCH/0003-single-a.webp, -b.webp    one picture of caption 3 by each system
    MATCH/0003-grid-a.webp, -b.webp      a 4 x 4 grid

A picture is there or it is not: a match cut short goes on where it was, and can be voted on while it grows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from unclip_core.errors import RequestError
from unclip_core.evaluation.arena.votes import Pair
from unclip_core.pipeline import UnCLIP
from unclip_core.request import GenerateRequest, checked, need, validate

ASSETS = Path(__file__).resolve().parents[3] / "assets" / "arena"
CAPTIONS = ASSETS / "captions.json"
GRID, GAP = 4, 4
KIND_OF_TASK = {"realism": "single", "caption": "single", "diversity": "grid"}


@dataclass(frozen=True)
class System:
    """One way from caption to picture. None is the pack's default."""

    prior: str = "diffusion"
    prior_guidance: float | None = None
    decoder_guidance: float | None = None
    pack: str = "pocket"

    @property
    def name(self) -> str:
        """Short, the same for the same system: "diffusion", "ar, decoder guidance 3 (karlo)"."""
        said = [self.prior]
        said += [] if self.prior_guidance is None else [f"prior guidance {self.prior_guidance:g}"]
        said += [] if self.decoder_guidance is None else [f"decoder guidance {self.decoder_guidance:g}"]
        return ", ".join(said) + ("" if self.pack == "pocket" else f" ({self.pack})")

    def request(self, caption: str, n: int, size: int, seed: int) -> GenerateRequest:
        return GenerateRequest(
            caption, n=n, size=size, seed=seed, prior=self.prior,
            prior_guidance=self.prior_guidance, decoder_guidance=self.decoder_guidance,
        )  # fmt: skip


def checked_system(system: System, model: UnCLIP) -> System:
    """The system with its values checked. Raises RequestError for what the pack cannot do."""
    stage = {"ar": "prior_ar", "diffusion": "prior"}.get(checked("prior", system.prior))
    if stage:
        need(model, stage)
    prior_guidance = (
        None if system.prior_guidance is None or stage is None else checked("prior_guidance", system.prior_guidance)
    )
    decoder_guidance = None if system.decoder_guidance is None else checked("decoder_guidance", system.decoder_guidance)
    return System(system.prior, prior_guidance, decoder_guidance, system.pack)


@dataclass(frozen=True)
class Match:
    """captions: {"en", "ko"} each; pictures are drawn from the English."""

    folder: Path
    a: System
    b: System
    captions: list[dict[str, str]]
    seed: int = 0

    @property
    def id(self) -> str:
        return self.folder.name

    def file(self, item: int, kind: str, side: str) -> Path:
        return self.folder / f"{item:04d}-{kind}-{side}.webp"

    def ready(self, item: int, kind: str) -> bool:
        return all(self.file(item, kind, side).exists() for side in "ab")

    def pairs(self) -> list[Pair]:
        """Every pair whose pictures stand ready, for each task."""
        return [
            Pair(self.id, item, task, self.a.name, self.b.name)
            for item in range(len(self.captions))
            for task, kind in KIND_OF_TASK.items()
            if self.ready(item, kind)
        ]

    def done(self) -> int:
        """How many of the match's pictures stand ready, of `total`."""
        return sum(
            self.file(i, kind, side).exists()
            for i in range(len(self.captions))
            for kind in ("single", "grid")
            for side in "ab"
        )

    @property
    def total(self) -> int:
        return 4 * len(self.captions)


def captions(count: int) -> list[dict[str, str]]:
    """The first `count` of the shipped captions, which were drawn at random from the held-out concepts."""
    listed = json.loads(CAPTIONS.read_text(encoding="utf-8"))
    if not 1 <= count <= len(listed):
        raise RequestError(
            f"A match takes 1 to {len(listed)} captions.", "range", field="captions", low=1, high=len(listed)
        )
    return listed[:count]


def create(folder: Path, a: System, b: System, chosen: Sequence[dict[str, str]], seed: int = 0) -> Match:
    """A new match below `folder`, or the one of the same systems and captions that is there. No picture is made yet."""
    if a == b:
        raise RequestError("Choose two systems that differ.", "arena_same")
    facts = {"a": dataclasses.asdict(a), "b": dataclasses.asdict(b), "captions": list(chosen), "seed": seed}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]
    place = folder / digest
    if not (place / "match.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        partial = place / "match.partial"
        partial.write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        partial.replace(place / "match.json")
    return Match(place, a, b, list(chosen), seed)


def find(folders: Sequence[Path]) -> list[Match]:
    """All matches below the folders; one whose match.json cannot be read is passed over."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.glob("*/match.json"))):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            match = Match(path.parent, System(**facts["a"]), System(**facts["b"]), facts["captions"], facts["seed"])
        except (OSError, ValueError, TypeError, KeyError):
            continue
        found.setdefault(match.id, match)
    return [*found.values()]


def prepare(match: Match, model_of: Callable[[str], UnCLIP]) -> Iterator[tuple[int, int]]:
    """Makes the pictures that are missing, yielding (done, total) after each; single pictures of all captions first.

    Both systems draw from the same noise. model_of(pack) -> the loaded pack.
    """
    for kind in ("single", "grid"):
        for item, caption in enumerate(match.captions):
            for side, system in (("a", match.a), ("b", match.b)):
                path = match.file(item, kind, side)
                if not path.exists():
                    _write(path, _picture(model_of(system.pack), system, caption["en"], kind, match.seed + item))
                    yield match.done(), match.total


def _picture(model: UnCLIP, system: System, caption: str, kind: str, seed: int) -> Image.Image:
    if kind == "single":
        size = 256 if model.has("upsampler_256") else 64
        return model.generate(validate(system.request(caption, 1, size, seed), model))[0]
    pictures = model.generate(validate(system.request(caption, GRID * GRID, 64, seed), model))
    return grid(pictures)


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """16 pictures -> one, four by four on white."""
    side = pictures[0].width
    whole = Image.new("RGB", ((side + GAP) * GRID - GAP,) * 2, "white")
    for i, picture in enumerate(pictures):
        whole.paste(picture, ((i % GRID) * (side + GAP), (i // GRID) * (side + GAP)))
    return whole


def _write(path: Path, picture: Image.Image) -> None:
    """Whole or not at all, and without a recipe: the file must not tell which system made it."""
    data = io.BytesIO()
    picture.save(data, "WEBP", quality=92)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data.getvalue())
    partial.replace(path)
