"""Limits: where does it fail? Fixed captions drawn and judged, measured rates beside them, and what a picture says of
where it comes from (paper, section 7)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from components.controls import PLUMBING, Radio, endpoint, guarded, picture_input, run_and_stop, seed_input
from components.engine import Engine, Made
from components.i18n import lang_of, t, text
from components.live import size_radio, wire_run
from components.shelf import Shelf
from components.visuals import Board, board, say
from unclip_core.errors import RequestError, UnclipError
from unclip_core.provenance import read_credentials, read_recipe
from unclip_core.request import PRIORS, checked

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "assets" / "examples" / "limits"
RESULTS = ROOT / "docs" / "results.json"
COLUMNS = 4  # pictures of each caption, by seed
PREVIEWS = 2
MOST_SHOWN = 400  # characters of one line of a recipe


class Pair(NamedTuple):
    """Two coloured shapes in a relation; its caption is the text "limits.binding.<number>"."""

    first: tuple[str, str]
    relation: str
    second: tuple[str, str]


# Each caption, then the same words with the colours exchanged.
BINDING = (
    Pair(("red", "square"), "above", ("blue", "circle")),
    Pair(("blue", "square"), "above", ("red", "circle")),
    Pair(("green", "star"), "to the left of", ("orange", "heart")),
    Pair(("orange", "star"), "to the left of", ("green", "heart")),
)
WORDS = ("pizza", "love", "winter", "museum")  # two that stand on the training set's cards, two that do not
COUNTS = {"binding": len(BINDING), "words": len(WORDS), "scenes": 4}
SYSTEMS = {  # rows of the studies' results, in the order shown
    "true drawings": "true",
    "true cards": "true",
    "decoder, true z_i and caption": "decoder",
    "prior: diffusion": "diffusion",
    "prior: ar": "ar",
    "prior: caption": "caption",
}
BARS = {"binding": ("binding", "swapped"), "words": ("seen", "unseen")}


def captions(kind: str) -> list[str]:
    """Text keys of a limit's captions."""
    return [f"limits.{kind}.{number}" for number in range(COUNTS[kind])]


def verdict(kind: str, number: int, picture: Image.Image) -> dict[str, Any] | str:
    """What a judge of pixels makes of one picture of a caption, as a label; "" where there is no judge."""
    from unclip_core.evaluation import judges

    pixels = judges.small(picture)
    if kind == "binding":
        judged = judges.judge_shapes(pixels, judges.ShapesTask("", *BINDING[number], pixels))
        found = next((name for name in ("all", "binding", "swapped", "colours") if judged[name]), "none")
        return say(f"limits.judged.{found}")
    if kind == "words":
        word = judges.read_word(pixels)
        return say("limits.judged.read", word=word) if word else say("limits.judged.unread")
    return ""


@cache
def measured() -> dict[str, Any]:
    """The evaluation's results as they ship; empty where nothing has been measured."""
    try:
        return json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def rates(kind: str, pack_hash: str) -> dict[str, Any]:
    """What the page draws as bars: for each system the rates with their 95% intervals, or that nothing is measured."""
    results = measured()
    found = results.get(kind, {}).get("rates", {})
    rows = [
        {"system": f"limits.system.{SYSTEMS[name]}", "bars": [row[key][:3] for key in BARS[kind]]}
        for name, row in found.items()
        if name in SYSTEMS
    ]
    pack = results.get("pack", {})
    other = pack.get("name", "") if rows and pack.get("hash") != pack_hash else ""
    command = results.get("command") or f"python -m unclip_core evaluate --only {kind}"
    return {"kind": kind, "rows": rows, "bars": BARS.get(kind, ()), "command": command, "other_pack": other}


@cache
def shipped(kind: str) -> dict[str, Any]:
    """The shipped pictures of a limit, as the value of its board; empty if they have not been made."""
    try:
        return json.loads((EXAMPLES / f"{kind}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"phase": "idle", "columns": [], "rows": [], "note": say("limits.empty")}


def draw(
    engine: Engine, kind: str, lang: str, size: int = 64, seed: int = 0, prior: str = "diffusion"
) -> Iterator[tuple[Board, list[Made]]]:
    """Draw every caption of a limit from COLUMNS seeds' noise and judge each picture -> the board as it fills, and what
    has been saved since."""
    grid = Board(engine, [say(key) for key in captions(kind)], [""] * COLUMNS)
    yield grid, []
    for row, key in enumerate(captions(kind)):
        request = engine.request(prompt=t(key, lang), n=COLUMNS, size=size, seed=seed, prior=prior)
        for step in engine.generate(request, preview_every=max(1, request.decoder_steps // PREVIEWS)):
            for column, picture in enumerate(step.pictures):
                grid.put(row, column, picture, say(key), share=step.index / step.total)
            if step.pictures:
                yield grid, []
        recorded = {"kind": kind, "size": size, "seed": seed, "prior": prior, "prompt": request.prompt}
        made = engine.save(step.pictures, "limits", recorded, z_i=step.z_i)
        for column, one in enumerate(made):
            grid.put(row, column, one, say(key), note=verdict(kind, row, one.picture))
        yield grid, made


def limits_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    with shelf.tab("limits") as tab:
        gr.Markdown(text("limits.question"), elem_classes="question")
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                fields = _options(engine)
                go, stop = run_and_stop("limits.run")
                bars = _drawn("rates", elem_id="limits-rates")
            with gr.Column(scale=4, min_width=300, elem_classes="results"):
                result = board(note="limits.empty", elem_classes="limits", elem_id="limits-board")
        gr.Markdown(text("limits.risks"), elem_classes="question limits-risks")
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                at_hand = picture_input("limits.at_hand", elem_classes="slot")
            with gr.Column(scale=4, min_width=300, elem_classes="results"):
                origin = _drawn("origin", elem_id="limits-origin")
        endpoint(_api(), "provenance", [gr.JSON(label="provenance", render=False)], pictures=("picture",))
    shelf.connect("limits", fields, receives=at_hand)

    @guarded
    def show(kind: str) -> tuple[Any, Any]:
        if kind not in COUNTS:
            raise RequestError("There is no such limit.", "choice", field="kind")
        return shipped(kind), rates(kind, engine.model.hash)

    @guarded
    def run(items: list, kind: str, size: Any, seed: Any, prior: Any) -> Iterator[tuple[Any, Any]]:
        if kind not in COUNTS:
            raise RequestError("There is no such limit.", "choice", field="kind")
        size, seed, prior = checked("size", size), checked("seed", seed), checked("prior", prior)
        for grid, made in draw(engine, kind, lang_of(), size, seed, prior):
            items = shelf.add(items, reversed(made))
            yield grid.value(), items if made else gr.skip()
        yield grid.value("done"), gr.skip()

    gr.on([tab.select, fields["kind"].change], show, fields["kind"], [result, bars], **PLUMBING)
    at_hand.change(guarded(lambda path: provenance(path) if path else None), at_hand, origin, **PLUMBING)
    takes = {"fn": run, "inputs": [shelf.items, *fields.values()], "outputs": [result, shelf.items]}
    wire_run(shelf, "limits", stop, [result], takes, on=[go.click])


def _options(engine: Engine) -> dict[str, gr.components.Component]:
    kinds = [(text(f"limits.kind.{kind}"), kind) for kind in COUNTS]
    stages = {"diffusion": "prior", "ar": "prior_ar"}
    possible = [kind for kind in PRIORS if kind not in stages or engine.has(stages[kind])]
    kind = Radio(kinds, value="binding", label=text("limits.which"), elem_classes="cards", elem_id="limits-kind")
    with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
        prior = Radio([(text(f"priors.{one}"), one) for one in possible], value=possible[0], label=text("limits.prior"))
        size = size_radio(engine)
        seed, _ = seed_input()
    return {"kind": kind, "size": size, "seed": seed, "prior": prior}


def _drawn(part: str, **options: Any) -> gr.HTML:
    return gr.HTML(
        value=None,
        html_template="<div></div>",
        js_on_load=f"unclip.{part}(element, props, watch)",
        apply_default_css=False,
        **options,
    )


def provenance(path: str) -> dict[str, Any]:
    """What a picture's file says of where it comes from: {"recipe": lines or None, "why": a code, "credentials"}."""
    try:
        recipe, why = read_recipe(path), ""
    except UnclipError as fault:
        recipe, why = None, fault.code
    lines = [] if recipe is None else _lines(recipe)
    return {"recipe": lines, "why": why, "credentials": read_credentials(path)}


def _lines(recipe: dict[str, Any]) -> list[dict[str, str]]:
    """A recipe as lines for people. It is a stranger's JSON: everything becomes short text."""
    pack = recipe.get("pack") if isinstance(recipe.get("pack"), dict) else {}
    request = {name: value for name, value in recipe["request"].items() if value not in (None, "", [])}
    said = {
        "lab": recipe.get("lab"),
        "pack": f"{pack.get('name', '?')} ({pack.get('hash', '?')})",
        "request": ", ".join(f"{name} = {value}" for name, value in request.items()),
        "index": recipe.get("index"),
        "parents": ", ".join(map(str, recipe["parents"])) if isinstance(recipe.get("parents"), list) else "",
        "embedding": "z_i" if recipe.get("z_i") else "",
    }
    return [{"name": name, "value": str(value)[:MOST_SHOWN]} for name, value in said.items() if value not in (None, "")]


def _api() -> Callable[[str], dict[str, Any]]:
    def provenance_of(picture: str) -> dict[str, Any]:
        """Read where a picture comes from: the recipe in its PNG and its content credentials, where it has them.

        Args:
            picture: a PNG file.
        """
        if not picture:
            raise RequestError("There is no picture to read.", "picture_none")
        return provenance(picture)

    return provenance_of
