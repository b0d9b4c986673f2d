"""Training data in memory: shards read once into a uint8 array on disk (mapped, shared by processes) and captions.

On a GPU (PyTorch's default device, as `train --device` sets it) pictures, captions and draws all live there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unclip_core.corpus.captions import COMMON
from unclip_core.corpus.shards import decode_picture, read_shards

# How often each kind of picture is drawn, per picture, relative to a plain drawing of the core world.
CLIP_WEIGHTS = {"single": 1.0, "placed": 0.25, "pair": 0.12, "shapes": 0.12, "card": 0.15, "labelled": 0.15}
PIXEL_WEIGHTS = {"single": 1.0, "placed": 0.12, "pair": 0.06, "shapes": 0.12, "card": 0.04, "labelled": 0.04}


@dataclass
class ImageText:
    """Pictures [N, S, S, 3] uint8 (memory-mapped), and for each its captions and its shard's json fields."""

    pictures: np.ndarray
    captions: list[list[str]]
    fields: list[dict]
    resident: Tensor | None = None  # the pictures on a GPU, once they have been asked for there

    def __len__(self) -> int:
        return len(self.captions)

    def pixels(self, rows: Tensor) -> Tensor:
        """rows [B] -> [B, 3, S, S] float32 in [-1, 1], channels-last, on the device of `rows`."""
        if rows.device.type != "cpu":
            if self.resident is None:
                self.resident = torch.from_numpy(np.array(self.pictures)).to(rows.device)
            return self.resident[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        batch = torch.from_numpy(self.pictures[np.sort(rows.numpy())])  # sorted: the map is read in one sweep
        order = torch.argsort(torch.argsort(rows))
        return batch[order].permute(0, 3, 1, 2).float() / 127.5 - 1

    def weights(self, kinds: dict[str, float], rest: float = 1.0, common: float = 1.0, tones: float = 1.0) -> Tensor:
        """[N] float64 sampling weights: by kind; plain drawings outside the core world times `rest`, those of the
        everyday concepts of ``corpus/common.txt`` times `common`, and those with a skin tone times `tones`."""
        values, everyday = [], set(COMMON.read_text(encoding="utf-8").splitlines())
        for row in self.fields:
            kind = row.get("kind", "single")
            own = 1.0 if row.get("core", True) else rest
            own *= common if row.get("label") in everyday else 1.0
            own *= tones if row.get("tone") else 1.0
            values.append(kinds.get(kind, 1.0) * (own if kind == "single" else 1.0))
        return torch.tensor(values, dtype=torch.float64)


def load(folder: Path, size: int, limit: int | None = None, more: Path | None = None) -> ImageText:
    """All samples (or the first `limit`) below `folder`, and below `more`, squared and area-averaged to `size` px.

    The decoded pictures are kept beside the shards as ``cache-SIZE.npy`` and made again when the shards change.

    Raises UnclipError when there are no shards.
    """
    folder = Path(folder)
    folders = [folder, more] if more else [folder]
    shards = [(place, shard) for place in folders for shard in sorted(place.rglob("*.tar"))]
    state = json.dumps([(str(s.relative_to(place)), s.stat().st_size, int(s.stat().st_mtime)) for place, s in shards])
    name = f"cache-{size}" + (f"-{limit}" if limit else "") + (f"-with-{more.name}" if more else "")
    array, note = folder / f"{name}.npy", folder / f"{name}.json"
    if not (note.exists() and array.exists() and json.loads(note.read_text())["state"] == state):
        pictures, rows = [], []
        for sample in islice(chain.from_iterable(map(read_shards, folders)), limit):
            pictures.append(decode_picture(sample.pop("picture"), size))
            rows.append(sample)
        np.save(array, np.stack(pictures))
        note.write_text(json.dumps({"state": state, "rows": rows}, ensure_ascii=False), encoding="utf-8")
    rows = json.loads(note.read_text(encoding="utf-8"))["rows"]
    return ImageText(np.load(array, mmap_mode="r"), [r["captions"] for r in rows], rows)


def load_split(folder: Path, size: int, held_out: bool = False, also: str = "") -> ImageText:
    """The training pictures of a corpus (with those of the set `also`, if it has one), or those it holds out.

    A folder of one's own without ``train`` and ``held_out_pairs`` is split here: every fiftieth picture is held out.
    """
    folder = Path(folder)
    if (folder / "train").is_dir():
        more = folder / also if also and (folder / also).is_dir() else None
        return load(folder / "held_out_pairs", size) if held_out else load(folder / "train", size, more=more)
    data = load(folder, size)
    rows = [i for i in range(len(data)) if (i % 50 == 0) == held_out]
    return ImageText(data.pictures[rows], [data.captions[i] for i in rows], [data.fields[i] for i in rows])


def korean(caption: str) -> bool:
    return any("가" <= c <= "힣" for c in caption)


class CaptionTable:
    """Every distinct caption's token rows, and for each sample which rows are English and which Korean."""

    def __init__(self, captions: list[list[str]], tokenize) -> None:
        distinct = sorted({c for group in captions for c in group} | {""})
        index = {c: i for i, c in enumerate(distinct)}
        self.texts = distinct
        rows = [tokenize(distinct[i : i + 1024]).to(torch.int16) for i in range(0, len(distinct), 1024)]
        table = torch.cat(rows)
        self.rows = table[:, : int((table != 0).sum(1).max())].to(torch.get_default_device())
        pools = [[[index[c] for c in g if korean(c) == k] for g in captions] for k in (False, True)]
        self.counts = torch.tensor([[len(pool) for pool in language] for language in pools])  # [2, N]
        longest = int(self.counts.max())
        self.pools = torch.tensor([[p + [0] * (longest - len(p)) for p in language] for language in pools])  # [2, N, M]

    def first(self) -> Tensor:
        """Each sample's first caption, English where it has one: indices into `texts` [N]."""
        return torch.where(self.counts[0] > 0, self.pools[0, :, 0], self.pools[1, :, 0])

    def draw(self, samples: Tensor, generator: torch.Generator, korean_share: float = 0.25) -> Tensor:
        """One caption for each sample [B] -> indices into `texts` [B]; the first caption of a list is drawn most."""
        language, first, which = torch.rand(3, len(samples), generator=generator, device=samples.device)
        n_english, n_korean = self.counts[:, samples]
        asked = ((n_korean > 0) & ((language < korean_share) | (n_english == 0))).long()
        place = torch.where(first < 0.3, 0, (which * self.counts[asked, samples]).long())
        return self.pools[asked, samples, place]

    def tokens(self, chosen: Tensor) -> Tensor:
        """indices [B] -> token rows [B, longest] int64; on a GPU as long as the longest caption of all, whose length
        is known without waiting for the draw."""
        rows = self.rows[chosen].long()
        if rows.device.type != "cpu":
            return rows
        lengths = (rows != 0).int().cumsum(1).argmax(1) + 1
        return rows[:, : max(lengths.tolist(), default=1)]
