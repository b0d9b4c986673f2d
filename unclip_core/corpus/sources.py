"""Where the corpus comes from: openly licensed emoji art, fetched by package name and version with ``npm pack``."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from unclip_core.errors import UnclipError


@dataclass(frozen=True)
class Source:
    """One npm package of icons: a drawing style, with the names that captions use for it."""

    package: str
    version: str
    style: str
    english: str
    korean: str
    licence: str

    @property
    def folder(self) -> str:
        return self.package.strip("@").replace("/", "-") + "-" + self.version


STYLES = (
    Source("@iconify-json/noto", "1.2.9", "noto", "noto", "노토", "Apache-2.0"),
    Source("@iconify-json/noto-v1", "1.2.5", "noto-v1", "old noto", "옛 노토", "Apache-2.0"),
    Source("@iconify-json/twemoji", "1.2.5", "twemoji", "twemoji", "트위모지", "CC-BY-4.0"),
    Source("@iconify-json/fluent-emoji", "1.2.7", "fluent", "fluent shaded", "입체 플루언트", "MIT"),
    Source("@iconify-json/fluent-emoji-flat", "1.2.6", "fluent-flat", "fluent flat", "평면 플루언트", "MIT"),
    Source("@iconify-json/emojione", "1.2.3", "emojione", "emojione", "이모지원", "CC-BY-4.0"),
    Source("@iconify-json/fxemoji", "1.2.2", "fxemoji", "firefox", "파이어폭스", "Apache-2.0"),
    Source("@iconify-json/streamline-emojis", "1.2.4", "streamline", "streamline", "스트림라인", "CC-BY-4.0"),
)
# Line drawings, for CLIP alone: it learns shapes that no colour gives away. Nothing is to be drawn like them.
LINE_STYLES = (
    Source("@iconify-json/fluent-emoji-high-contrast", "1.2.6", "fluent-line", "fluent line", "플루언트 선화", "MIT"),
    Source("@iconify-json/emojione-monotone", "1.2.1", "emojione-line", "emojione line", "이모지원 선화", "CC-BY-4.0"),
)
# Things that are no emoji, for the decoder alone: it learns to draw what it has not been shown. No logos.
ICONS = (
    Source("@iconify-json/fluent-color", "1.2.21", "fluent-color", "", "", "MIT"),
    Source("@iconify-json/flat-color-icons", "1.2.3", "flat-color", "", "", "MIT"),
    Source("@iconify-json/flat-ui", "1.2.3", "flat-ui", "", "", "MIT"),
    Source("@iconify-json/circle-flags", "1.2.11", "circle-flags", "", "", "MIT"),
    Source("@iconify-json/streamline-kameleon-color", "1.2.2", "kameleon", "", "", "CC-BY-4.0"),
    Source("@iconify-json/streamline-ultimate-color", "1.2.2", "ultimate", "", "", "CC-BY-4.0"),
    Source("@iconify-json/streamline-plump-color", "1.2.2", "plump", "", "", "CC-BY-4.0"),
    Source("@iconify-json/streamline-stickies-color", "1.2.2", "stickies", "", "", "CC-BY-4.0"),
)
GLYPHS = Source("@iconify-json/mdi", "1.2.3", "mdi", "", "", "Apache-2.0")  # of one colour: they are given one
# Share-alike art: measured on, never trained on.
HELD_OUT_STYLE = Source("@iconify-json/openmoji", "1.2.29", "openmoji", "openmoji", "오픈모지", "CC-BY-SA-4.0")
LABELS = Source("emojibase-data", "17.0.0", "", "", "", "MIT")


def fetch(source: Source, cache: Path) -> Path:
    """The unpacked package under `cache`, fetched with ``npm pack`` if it is not there yet.

    Raises UnclipError when npm is missing or the package cannot be fetched.
    """
    folder = cache / source.folder
    if (folder / "package.json").exists():
        return folder
    if shutil.which("npm") is None:
        raise UnclipError("Building the corpus needs npm (it fetches the emoji art). Install Node.js, then try again.")
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{source.package}@{source.version}"
    done = subprocess.run(["npm", "pack", "--silent", name], cwd=cache, capture_output=True, text=True)
    if done.returncode:
        raise UnclipError(f"npm could not fetch {name}: {done.stderr.strip()[-300:]}")
    archive = cache / done.stdout.strip().splitlines()[-1]
    partial = folder.with_suffix(".partial")
    with tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
    (partial / "package").rename(folder)
    shutil.rmtree(partial)
    archive.unlink()
    return folder


def attribution(cache: Path) -> list[dict[str, str]]:
    """Author, licence and home of every style, read from the packages' own ``info.json``."""
    rows = []
    for source in (*STYLES, *LINE_STYLES, *ICONS, GLYPHS, HELD_OUT_STYLE):
        info = json.loads((fetch(source, cache) / "info.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "style": source.style,
                "package": f"{source.package}@{source.version}",
                "name": info["name"],
                "author": info["author"]["name"],
                "home": info["author"].get("url", ""),
                "licence": source.licence,
                "used_for": "evaluation only" if source is HELD_OUT_STYLE else "training",
            }
        )
    rows.append(
        {
            "style": "",
            "package": f"{LABELS.package}@{LABELS.version}",
            "name": "Emojibase",
            "author": "Miles Johnson",
            "home": "https://emojibase.dev",
            "licence": LABELS.licence,
            "used_for": "labels and tags",
        }
    )
    return rows
