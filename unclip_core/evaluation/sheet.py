"""The contact sheet: everyday concepts, one picture each, seed 0, nothing chosen.

``python -m unclip_core.evaluation.sheet --pack pocket --out docs/contact_sheet.png``
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unclip_core.corpus.captions import COMMON
from unclip_core.pipeline import UnCLIP

COLUMNS, SIDE, LINE = 20, 64, 11


def contact_sheet(model: UnCLIP, captions: list[str], seed: int = 0) -> Image.Image:
    """One 64 px picture a caption at the pack's defaults, with the caption's beginning under it."""
    rows = -(-len(captions) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + 4), rows * (SIDE + LINE + 6)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(8)
    for i, caption in enumerate(captions):
        x, y = i % COLUMNS * (SIDE + 4), i // COLUMNS * (SIDE + LINE + 6)
        sheet.paste(model.generate(caption, n=1, size=64, seed=seed)[0], (x, y))
        draw.text((x, y + SIDE + 1), caption[:16], fill=(90, 90, 90), font=font)
    return sheet


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", default="pocket")
    parser.add_argument("--out", type=Path, default=Path("docs/contact_sheet.png"))
    parser.add_argument("--count", type=int, default=200)
    options = parser.parse_args(arguments)
    captions = COMMON.read_text(encoding="utf-8").splitlines()[: options.count]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(UnCLIP.load(options.pack), captions).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
