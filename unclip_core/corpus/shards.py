"""Image-text data as WebDataset tar shards: ``KEY.png`` (or jpg, webp), ``KEY.txt``, ``KEY.json``.

It is also what img2dataset writes, so a folder of one's own pictures trains without change: a sample's captions are
``json["captions"]`` where there are several, otherwise the text of ``KEY.txt``.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from unclip_core.errors import UnclipError

PICTURES = ("png", "jpg", "jpeg", "webp")


def write_shards(folder: Path, samples: Iterable[tuple[str, Image.Image, dict]], per_shard: int = 2000) -> int:
    """Writes (key, picture, fields) samples as ``00000.tar`` …; ``fields["captions"][0]`` becomes the text.

    Returns the count. A shard appears under its name only when it is whole, so that work cut short leaves no damage.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, tar, partial = 0, None, None
    for key, picture, fields in samples:
        if count % per_shard == 0:
            _close(tar, partial)
            partial = folder / f"{count // per_shard:05d}.tar.partial"
            tar = tarfile.open(partial, "w")
        data = io.BytesIO()
        picture.save(data, "PNG", compress_level=3)
        members = {
            "png": data.getvalue(),
            "txt": fields["captions"][0].encode(),
            "json": json.dumps(fields, ensure_ascii=False).encode(),
        }
        for ending, content in members.items():
            info = tarfile.TarInfo(f"{key}.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        count += 1
    _close(tar, partial)
    return count


def _close(tar: tarfile.TarFile | None, partial: Path | None) -> None:
    if tar is not None:
        tar.close()
        partial.rename(partial.with_suffix(""))


def read_shards(folder: Path) -> Iterator[dict]:
    """Samples of every ``*.tar`` below `folder` in order: {"key", "picture": encoded bytes, "captions": [...], ...}.

    Raises UnclipError when there is no shard, or a shard cannot be read.
    """
    shards = sorted(Path(folder).rglob("*.tar"))
    if not shards:
        raise UnclipError(
            f"No .tar shards in {folder}. Build the corpus first (python -m unclip_core corpus) or name another folder."
        )
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                yield from _samples(tar)
        except tarfile.TarError as fault:
            raise UnclipError(f"{shard} is not a readable tar file ({fault}). Delete it and build it again.") from fault


def _samples(tar: tarfile.TarFile) -> Iterator[dict]:
    key, parts = None, {}
    for member in tar:
        if not member.isfile():
            continue
        name, _, ending = member.name.rpartition(".")
        if name != key and parts:
            yield from _sample(key, parts)
            parts = {}
        key = name
        parts[ending.lower()] = tar.extractfile(member).read()
    yield from _sample(key, parts)


def _sample(key: str | None, parts: dict[str, bytes]) -> Iterator[dict]:
    picture = next((parts[e] for e in PICTURES if e in parts), None)
    if picture is None:
        return
    fields = json.loads(parts["json"]) if "json" in parts else {}
    caption = parts["txt"].decode("utf-8", "replace").strip() if "txt" in parts else fields.get("caption") or ""
    yield {**fields, "key": key, "picture": picture, "captions": fields.get("captions") or [caption]}


def decode_picture(data: bytes, size: int) -> np.ndarray:
    """Encoded picture -> [size, size, 3] uint8: centre square, area-averaged down (Lanczos up), alpha on white."""
    picture = Image.open(io.BytesIO(data))
    if picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return np.asarray(square.resize((size, size), Image.BOX if side >= size else Image.LANCZOS))
