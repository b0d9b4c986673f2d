"""Examples that answer at once: results made beforehand and shipped, never made at start.

`python -m components.examples [--pack pocket]` makes them again.
"""

from __future__ import annotations

import argparse
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from components.controls import PLUMBING, file_data, guarded
from components.engine import Engine, Made
from components.i18n import default_language
from components.shelf import Shelf
from components.strip import Progress

FOLDER = Path(__file__).parent.parent / "assets" / "examples" / "create"
PROMPTS = {
    "en": ["a red apple", "smiling face with sunglasses", "a cat face", "a hamburger", "a rocket"],
    "ko": ["빨간 사과", "선글라스 낀 얼굴", "고양이 얼굴", "햄버거", "로켓"],
}
PREVIEW_EVERY = 3


@cache
def shipped() -> list[dict[str, Any]]:
    """The shipped results, each {"lang", "request", "recipe", "file", "strip", "viewer"}; none if none were made."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def first(lang: str) -> dict[str, Any] | None:
    """The example that a newcomer is met with."""
    return next((one for one in shipped() if one["lang"] == lang), None)


def shown(example: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its values of the strip and the viewer."""
    pictures = [{"file": file_data(FOLDER / example["file"]), "name": example["request"]["prompt"]}]
    return example["strip"], {**example["viewer"], "pictures": pictures}


def chips() -> gr.HTML:
    """A row of captions in the page's language; a click shows the shipped result at once."""
    offered = [{"index": i, "lang": one["lang"], "prompt": one["request"]["prompt"]} for i, one in enumerate(shipped())]
    return gr.HTML(
        value=offered,
        html_template="<div></div>",
        js_on_load="unclip.chips(element, props, trigger); 'pick'",
        apply_default_css=False,
        elem_id="examples",
        visible=bool(offered),
    )


def wire(
    row: gr.HTML, shelf: Shelf, fields: dict[str, gr.components.Component], line: gr.HTML, result: gr.HTML
) -> None:
    """Answer a click on a chip, and meet newcomers with the first example: no model is at work."""

    def filled(example: dict[str, Any]) -> dict[Any, Any]:
        on_strip, on_viewer = shown(example)
        values = {widget: example["request"].get(name) for name, widget in fields.items()}
        return {line: on_strip, result: on_viewer, **values}

    @guarded
    def pick(items: list[dict[str, Any]], event: gr.EventData) -> dict[Any, Any]:
        example = shipped()[int(event._data["index"]) % len(shipped())]
        path = FOLDER / example["file"]
        made = Made(str(path), Image.open(path).convert("RGB"), example["recipe"])
        known = any(item["id"] == example["recipe"]["id"] for item in items)
        return {**filled(example), shelf.items: items if known else shelf.add(items, [made])}

    def greet(lang: str) -> dict[Any, Any]:
        example = first(lang)
        return {} if example is None or lang == default_language() else filled(example)

    row.pick(pick, shelf.items, [shelf.items, *fields.values(), line, result], **PLUMBING)
    shelf.greet(greet, [line, result])


def make(engine: Engine) -> None:
    """Draw every example anew and write what the page shows of it."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    prior = "diffusion" if engine.has("prior") else "ar" if engine.has("prior_ar") else "text"
    for lang, prompts in PROMPTS.items():
        for number, prompt in enumerate(prompts):
            request = engine.request(prompt=prompt, size=engine.sizes()[-1], prior=prior)
            progress = Progress(engine, request)
            for step in engine.generate(request, preview_every=PREVIEW_EVERY):
                progress.take(step)
            made = engine.save(progress.final, "create", request, z_i=progress.z_i)[0]
            name = f"{lang}-{number}"
            shutil.copyfile(made.path, FOLDER / f"{name}.png")
            viewer = progress.result([made])
            viewer["badge"]["live"] = False
            example = {
                "lang": lang,
                "request": made.recipe["request"],
                "recipe": made.recipe,
                "file": f"{name}.png",
                "strip": progress.strip("done"),
                "viewer": {key: viewer[key] for key in ("run", "frames", "badge")},
            }
            (FOLDER / f"{name}.json").write_text(json.dumps(example, ensure_ascii=False), encoding="utf-8")
            print(f"{name}  {prompt}  {progress.seconds:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the shipped examples of the Create lab.")
    parser.add_argument("--pack", default="pocket")
    make(Engine.load(parser.parse_args().pack))
