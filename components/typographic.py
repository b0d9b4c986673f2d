"""Typographic attack: can a word fool it? A word on a picture, CLIP's answer, and pictures from its embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from components.attack import COLOURS, DRAWN, LONGEST_WORD, WORD_SIZE, Attack, checked_values, summary
from components.controls import PLUMBING, RUN, Radio, Slider, endpoint, guarded, run_and_stop, seed_input
from components.engine import Engine
from components.i18n import text
from components.live import decode_jobs, decoded, shelved, size_radio, wire_run
from components.presets import presets
from components.shelf import Shelf
from components.subject import shelf_id, subject_inputs
from components.visuals import Board, board, drawn, say

CLASSES = "apple, cat, dog, car, pizza, rocket, fish, house"
CLASSES_KO = "사과, 고양이, 강아지, 자동차, 피자, 로켓, 물고기, 집"
DOG = {"example": "dog-face", "word_size": 0.22, "y": 0.62}
CAR = {"example": "automobile", "word_size": 0.5, "y": 0.55, "word": "cat"}
TRIES = (
    {
        "en": ("a dog called “pizza”", {**DOG, "word": "pizza", "classes": CLASSES}),
        "ko": ("“피자”라고 적힌 강아지", {**DOG, "word": "피자", "classes": CLASSES_KO}),
    },
    {
        "en": ("a car called “cat”", {**CAR, "classes": CLASSES}),
        "ko": ("“cat”이라고 적힌 자동차", {**CAR, "classes": CLASSES_KO}),
    },
)  # fmt: skip


def typographic_tab(engine: Engine, shelf: Shelf) -> None:
    """Build the lab and wire its events."""
    with shelf.tab("typographic"):
        gr.Markdown(text("typographic.question"), elem_classes="question")
        try_one = presets(TRIES)
        with gr.Row(elem_classes="lab"):
            with gr.Column(scale=2, min_width=300, elem_classes="sheet"):
                inputs = subject_inputs(["typographic.source"])
                fields = {"example": inputs.example, **_word()}
                go, stop = run_and_stop("typographic.run")
                fields |= _advanced(engine)
            with gr.Column(scale=5, min_width=300, elem_classes="results"):
                with gr.Row(elem_classes="pair top"):
                    poster = _poster()
                    bars = drawn("bars", "typographic.no_bars")
                result = board(note="typographic.result")
        outputs = [
            gr.File(file_count="multiple", label="pictures", render=False),
            gr.JSON(label="report", render=False),
        ]
        endpoint(_api(engine), "typographic", outputs, ("picture",))
    tried = try_one(fields, inputs)
    shelf.connect("typographic", fields, receives=inputs.inbox, sources=inputs.pictures)
    names, picture = list(fields), inputs.pictures[0]
    shown = [picture, *fields.values()]
    drawn_from = [picture, *(fields[name] for name in ("word", "x", "y", "word_size", "colour", "label"))]

    @guarded
    def measure(request: gr.Request, path: str | None, *values: Any) -> Any:
        if not path:
            return {"classes": []}
        chosen = checked_values(dict(zip(names, values, strict=True)))
        return Attack(engine, engine.open(path), chosen).bars(chosen["word"])

    @guarded
    def run(request: gr.Request, items: list, path: str | None, *values: Any) -> Iterator[tuple[Any, Any, Any]]:
        values = dict(zip(names, values, strict=True))
        chosen = checked_values(values)
        picture = engine.open(path)
        attack = Attack(engine, picture, chosen)
        grid = Board(engine, [say("typographic.clean"), say("typographic.attacked")], [""] * (chosen["n"] + 1))
        for row, (seen, shares) in enumerate(((attack.clean, attack.before), (attack.attacked, attack.after))):
            name, percent = attack.best(shares)
            grid.put(row, 0, seen, say("typographic.seen"), note=f"{name} {percent}%", mark=True)
        yield grid.value(), attack.bars(chosen["word"]), gr.skip()
        jobs = attack.jobs(chosen, (attack.clean, shelf_id(engine, path)))
        answers = []
        for finished in decode_jobs(engine, "typographic", jobs, grid):
            for row, column, made in finished:
                answer, share = attack.classifier.answer(made.picture)
                answers.append((row, answer))
                grid.rows[row]["cells"][column]["note"] = f"{answer} {100 * share:.0f}%"
            items = shelved(shelf, items, finished)
            yield grid.value(), gr.skip(), items if finished else gr.skip()
        grid.note = summary(attack, answers, chosen["n"])
        yield grid.value("done"), gr.skip(), gr.skip()

    sketch = "(file, ...values) => unclip.posterValue(file, values)"
    live = [picture.change, *(widget.change for widget in drawn_from[1:])]
    gr.on(live, None, drawn_from, poster, js=sketch, **PLUMBING)
    classes = fields["classes"]
    gr.on([*live, classes.submit, classes.blur], measure, shown, bars, trigger_mode="always_last", **RUN)
    poster.moved(_moved, None, [fields["x"], fields["y"]], queue=False, **PLUMBING)
    takes = {"fn": run, "inputs": [shelf.items, *shown], "outputs": [result, bars, shelf.items]}
    wire_run(shelf, "typographic", stop, [result], takes, on=[go.click], after=[tried])


def _moved(event: gr.EventData) -> tuple[float, float]:
    places = []
    for axis in ("x", "y"):
        value = event._data.get(axis)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        places.append(round(min(1.0, max(0.0, value)), 3) if number else 0.5)
    return places[0], places[1]


def _poster() -> gr.HTML:
    """The picture with the word on it, drawn in the browser; dragging the word triggers `moved` with {"x", "y"}."""
    return gr.HTML(
        value=None,
        colours=COLOURS,
        html_template="<div></div>",
        js_on_load="unclip.poster(element, props, watch, trigger); 'moved'",
        apply_default_css=False,
        elem_id="poster",
    )


def _word() -> dict[str, gr.components.Component]:
    """The fields that say what is written, and what CLIP may answer."""
    word = gr.Textbox(value="cat", label=text("typographic.word"), max_length=LONGEST_WORD)
    size = Slider(WORD_SIZE.low, WORD_SIZE.high, value=0.22, step=0.01, label=text("typographic.word_size"))
    colours = [(text(f"typographic.{name}"), name) for name in COLOURS]
    colour = Radio(colours, value="ink", label=text("typographic.colour"), elem_classes="colours")
    label = gr.Checkbox(value=True, label=text("typographic.label"))
    classes = gr.Textbox(
        value=CLASSES, label=text("typographic.classes"), info=text("typographic.classes_info"), lines=2
    )
    return {"word": word, "word_size": size, "colour": colour, "label": label, "classes": classes}


def _advanced(engine: Engine) -> dict[str, gr.components.Component]:
    """The fields under "Advanced"."""
    with gr.Accordion(text("shared.advanced"), open=False, elem_classes="fold"):
        x = Slider(0, 1, value=0.5, step=0.005, label=text("typographic.x"))
        y = Slider(0, 1, value=0.62, step=0.005, label=text("typographic.y"))
        n = Slider(DRAWN.low, DRAWN.high, value=4, step=1, label=text("typographic.n"))
        seed, _ = seed_input()
        return {"x": x, "y": y, "n": n, "seed": seed, "size": size_radio(engine)}


def _api(engine: Engine) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    def typographic(
        picture: str,
        word: str,
        classes: str = CLASSES,
        x: float = 0.5,
        y: float = 0.62,
        word_size: float = 0.22,
        colour: str = "ink",
        label: bool = True,
        n: int = 4,
        seed: int = 0,
        size: int = 64,
    ) -> tuple[list[str], dict[str, Any]]:
        """Write a word on a picture, see whether CLIP believes it, and decode the embeddings with and without the word.

        Args:
            picture: a PNG, JPEG or WebP file; its middle square is used.
            word: what to write on it.
            classes: 2 to 20 classes with commas between them; the word is added to them.
            x: place of the word's middle from the left, 0 to 1.
            y: place of the word's middle from the top, 0 to 1.
            word_size: height of the letters as a share of the picture, 0.05 to 0.6.
            colour: "ink", "white", "red", "blue", "green" or "yellow".
            label: whether a white sticker lies behind the word.
            n: how many pictures to decode from each embedding, 1 to 8.
            seed: whole number; the same seed gives the same pictures.
            size: side in pixels: 64, 256 or 1024.

        Returns:
            PNG files (n from the clean embedding, then n from the attacked one), and the probability of each class.
        """
        values = {"word": word, "classes": classes, "x": x, "y": y, "word_size": word_size, "colour": colour}
        values |= {"label": label, "n": n, "seed": seed, "size": size}
        chosen = checked_values(values)
        attack = Attack(engine, engine.open(picture), chosen)
        jobs = [job for _, _, job in attack.jobs(chosen, (attack.clean, shelf_id(engine, picture)))]
        report = {row.pop("name"): row for row in attack.bars(chosen["word"])["classes"]}
        return [made.path for made in decoded(engine, "typographic", jobs)], report

    return typographic
