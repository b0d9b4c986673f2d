"""What the picture labs share: jobs that decode edits one after another, and an edit that follows a slider.

A lab is an edit, a function of a Subject and the lab's values that gives a Job. `Live` takes the pictures apart as they
arrive and keeps one edit of each in view: coarse while a slider is dragged, whole and on the shelf once it is let go.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr
from PIL import Image

from components.controls import PLUMBING, RUN, Radio, guarded
from components.engine import Engine, Made
from components.i18n import text
from components.shelf import Shelf
from components.subject import Subject, SubjectInputs, Taken, take_apart
from components.visuals import Board, Label, board, say
from unclip_core.drawing import TOGETHER
from unclip_core.latents import Latent, concatenate
from unclip_core.pictures import to_pictures

COARSE = 5  # a dragged slider gets a picture of so many times fewer steps
PREVIEWS = 2  # shown of one picture on its way


@dataclass(frozen=True)
class Job:
    """One picture to decode: an edited Latent of batch 1, how, and what is written below it and into its recipe.

    request: the lab's fields that make this very picture again. options: arguments of `UnCLIP.decode_steps`. sources:
    the pictures it was made from, as `Engine.save` takes them.
    """

    latent: Latent
    request: Mapping[str, Any]
    name: Label
    note: Label = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[tuple[Image.Image, str | None] | None, ...] = ()


Edit = Callable[[Subject, Mapping[str, Any]], Job | None]


def decode_jobs(
    engine: Engine, lab: str, jobs: Sequence[tuple[int, int, Job]], grid: Board
) -> Iterator[list[tuple[int, int, Made]]]:
    """Decode each (row, column, job) into the board; yields [] after previews, (row, column, picture)s once saved.

    Neighbours that differ in their latents and seeds alone are decoded together, which a CPU does in half the time.
    """
    for group in _together(jobs):
        first = group[0][2]
        drawn = "invert" if first.latent.x_T is not None else "decoder"
        steps = first.options.get("steps") or engine.default(drawn, "steps")
        options = {**first.options, "seed": [job.options.get("seed", 0) for _, _, job in group]}
        latent = concatenate([job.latent for _, _, job in group])
        for step in engine.model.decode_steps(latent, **options, preview_every=max(1, -(-steps // PREVIEWS))):
            for picture, (row, column, job) in zip(step.pictures, group):
                grid.put(row, column, picture, job.name, note=job.note, share=step.index / step.total)
            if step.pictures:
                yield []
        finished = []
        for picture, (row, column, job) in zip(step.pictures, group):
            made = engine.save([picture], lab, job.request, z_i=job.latent.z_i, sources=job.sources)[0]
            grid.put(row, column, made, job.name, note=job.note)
            finished.append((row, column, made))
        yield finished


def _together(jobs: Sequence[tuple[int, int, Job]]) -> Iterator[list[tuple[int, int, Job]]]:
    """Runs of at most TOGETHER neighbours with the same options but for the seed."""

    def alike(placed: tuple[int, int, Job]) -> Any:
        job = placed[2]
        return job.latent.x_T is None, {**job.options, "seed": None}

    for _, run in itertools.groupby(jobs, alike):
        run = list(run)
        yield from (run[i : i + TOGETHER] for i in range(0, len(run), TOGETHER))


def decoded(engine: Engine, lab: str, jobs: Sequence[Job]) -> list[Made]:
    """`decode_jobs` to its end, with nothing to look at: for the API."""
    grid = Board(engine, [""] * len(jobs))
    placed = [(i, 0, job) for i, job in enumerate(jobs)]
    return [made for finished in decode_jobs(engine, lab, placed, grid) for _, _, made in finished]


class Live:
    """The subjects of a lab, taken apart on a board of their own, with the edit that follows its sliders.

    kept: gr.State with a tuple of Subjects, for the lab's other handlers. Build it where the board shall stand, then
    `wire` it once the lab's widgets exist.
    """

    def __init__(self, engine: Engine, shelf: Shelf, lab: str, inputs: SubjectInputs, edit: Edit) -> None:
        self.engine, self.shelf, self.lab, self.inputs, self.edit = engine, shelf, lab, inputs, edit
        self.kept, self.settled = gr.State(()), gr.State(None)
        self.view = board(note=f"{lab}.empty", elem_classes="parts")
        self.fields: dict[str, gr.components.Component] = {}

    def wire(
        self,
        tab: gr.Tab,
        fields: Mapping[str, gr.components.Component],
        sliders: Sequence[gr.Slider],
        after: Sequence[Any] = (),
    ) -> list[Any]:
        """`fields`: what the edit looks at, by name; a change of any settles the edit, and dragging `sliders` follows.

        after: events that settle it too once they end. Returns the events that Stop ends.
        """
        self.fields = dict(fields)
        inputs = [*self.inputs.pictures, *self.fields.values()]
        triggers = [tab.select, *(picture.change for picture in self.inputs.pictures)]
        for widget in self.fields.values():
            if isinstance(widget, gr.Slider):
                triggers.append(widget.release)
            elif isinstance(widget, gr.Textbox):
                triggers += [widget.submit, widget.blur]
            else:
                triggers.append(widget.change)
        settle = {
            "fn": guarded(self._settle),
            "inputs": [self.shelf.items, self.kept, self.settled, *inputs],
            "outputs": [self.view, self.kept, self.settled, self.shelf.items],
        }
        settling = [gr.on(triggers, **settle, trigger_mode="always_last", **RUN)]
        settling += [event.then(**settle, **RUN) for event in after]
        for slider in sliders:
            slider.input(
                guarded(self._drag),
                [self.kept, self.settled, *inputs],
                [self.view, self.settled],
                trigger_mode="always_last",
                queue=False,  # fewer messages: the page copies all that it shows at each of them
                **RUN,
            )
        for event in settling:
            event.failure(None, self.view, self.view, js="(value) => unclip.halt(value)", **PLUMBING)
            self.shelf.address(event, self.lab)
        return settling

    def prepare(
        self, paths: Sequence[str | None], kept: Sequence[Subject]
    ) -> Generator[tuple[Any, Any, Any], None, list[Subject]]:
        """The subjects of a run, taken apart where `kept` lacks them; `yield from` it, so that Stop works."""
        subjects = []
        for path in paths:
            for taken in take_apart(self.engine, path, of_path(kept, str(path))):
                yield gr.skip(), gr.skip(), gr.skip()
            subjects.append(taken.subject)
        return subjects

    def fill(
        self, items: list, grid: Board, jobs: Sequence[tuple[int, int, Job]], subjects: Sequence[Subject], note: Label
    ) -> Iterator[tuple[Any, Any, Any]]:
        """A run of the lab: values for its board, the shelf and `kept`, as the pictures come; `note` stands below."""
        yield grid.value(), gr.skip(), tuple(subjects)
        for finished in decode_jobs(self.engine, self.lab, jobs, grid):
            items = shelved(self.shelf, items, finished)
            yield grid.value(), items if finished else gr.skip(), gr.skip()
        grid.note = note
        yield grid.value("done"), gr.skip(), gr.skip()

    # ---- handlers ----

    def _settle(
        self, request: gr.Request, items: list, kept: tuple[Subject, ...], settled: Any, *inputs: Any
    ) -> Iterator[tuple]:
        paths, values = self._split(inputs)
        if settled == inputs or (settled is None and not paths):
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip()
            return
        grid = self.board(len(paths))
        subjects = []
        for row, path in enumerate(paths):
            known = of_path(kept, path)
            for taken in take_apart(self.engine, path, known):
                self.show(grid, row, taken)
                if known is None:
                    yield grid.value(), gr.skip(), gr.skip(), gr.skip()
            subjects.append(taken.subject)
        if [one.key for one in subjects] != [one.key for one in kept]:  # else the dragged picture stays for now
            yield grid.value(), tuple(subjects), gr.skip(), gr.skip()
        for finished in decode_jobs(self.engine, self.lab, self._jobs(subjects, values), grid):
            items = shelved(self.shelf, items, finished)
            yield grid.value(), gr.skip(), gr.skip(), items if finished else gr.skip()
        yield grid.value("done"), gr.skip(), inputs, gr.skip()

    def _drag(self, request: gr.Request, kept: tuple[Subject, ...], settled: Any, *inputs: Any) -> Any:
        paths, values = self._split(inputs)
        if settled == inputs or not paths or [one.key[0] for one in kept] != paths:
            return gr.skip(), gr.skip()
        grid = self.board(len(paths))
        grid.more = {"coarse": True}  # the page drops it where the slider was let go before it came
        for row, subject in enumerate(kept):
            self.show(grid, row, Taken(subject.picture, "decoder", 1.0, subject.reconstruction, subject))
        for row, column, job in self._jobs(kept, values):
            steps = max(4, (job.options.get("steps") or self.engine.default("invert", "steps")) // COARSE)
            picture = self.engine.model.decode(job.latent, **{**job.options, "steps": steps, "size": 64})[0]
            grid.put(row, column, picture, job.name, note=job.note, share=0.5)
        return grid.value("done"), None  # the settled picture is no longer the one in view

    def _split(self, inputs: Sequence[Any]) -> tuple[list[str], dict[str, Any]]:
        """Event inputs -> the paths of the pictures there are, and the fields' values."""
        count = len(self.inputs.pictures)
        return [path for path in inputs[:count] if path], dict(zip(self.fields, inputs[count:], strict=True))

    def _jobs(self, subjects: Sequence[Subject], values: Mapping[str, Any]) -> list[tuple[int, int, Job]]:
        edits = [self.edit(subject, values) for subject in subjects]
        return [(row, 4, job) for row, job in enumerate(edits) if job is not None]

    # ---- the board ----

    def board(self, rows: int) -> Board:
        """Empty rows: the picture, what CLIP holds of it, what CLIP leaves out, both together again, the edit."""
        names = ("subject.picture", "subject.z_i", "subject.x_T", "subject.reconstruction", f"{self.lab}.now")
        return Board(self.engine, [""] * rows, [say(name) for name in names])

    def show(self, grid: Board, row: int, taken: Taken) -> None:
        """One step of taking a picture apart."""
        grid.put(row, 0, taken.picture, say("subject.picture"))
        if taken.subject is not None:
            subject = taken.subject
            grid.put_embedding(row, 1, subject.latent, say("subject.z_i"))
            grid.put(row, 2, noise_picture(subject.latent), say("subject.x_T"))
            note = say("subject.psnr", psnr=f"{subject.psnr:.1f}")
            grid.put(row, 3, subject.reconstruction, say("subject.reconstruction"), note=note)
        elif taken.preview is not None:
            column = 2 if taken.stage == "invert" else 3
            name = say("subject.x_T" if column == 2 else "subject.reconstruction")
            grid.put(row, column, taken.preview, name, share=taken.share)


def shelved(shelf: Shelf, items: list, finished: Sequence[tuple[int, int, Made]]) -> list:
    """The shelf's items with what `decode_jobs` finished, the last in front."""
    return shelf.add(items, [made for _, _, made in reversed(finished)]) if finished else items


def wire_run(
    shelf: Shelf,
    lab: str,
    stop: gr.Button,
    views: Sequence[gr.HTML],
    takes: Mapping[str, Any],
    *,
    on: Sequence[Any],
    after: Sequence[Any] = (),
    others: Sequence[Any] = (),
) -> None:
    """A lab's run: the handler and its inputs and outputs are `takes`, the first of `views` is what it fills.

    It starts `on` some listeners and `after` some events, the page saying so at once; Stop ends it and the events
    `others`; at the end the page's address is that of the lab's state.
    """
    board, start = views[0], {"js": "(value) => unclip.start(value)", **PLUMBING}
    begun = [gr.on(list(on), None, board, board, **start)]
    begun += [event.then(None, board, board, **start) for event in after]
    running = [event.then(**takes, **RUN) for event in begun]
    halt = "(...values) => values.length > 1 ? values.map(unclip.halt) : unclip.halt(values[0])"
    stop.click(None, list(views), list(views), js=halt, cancels=[*running, *others], **PLUMBING)
    for event in running:
        event.failure(None, board, board, js="(value) => unclip.halt(value)", **PLUMBING)
        shelf.address(event, lab)


def of_path(kept: Sequence[Subject], path: str) -> Subject | None:
    """The subject of that file, if it is among them."""
    return next((one for one in kept if one.key[0] == path), None)


def noise_picture(latent: Latent) -> Image.Image:
    """x_T as a picture: a standard deviation of 1 is a third of the way to black or white."""
    return to_pictures(latent.x_T[:1] / 3)[0]


def size_radio(engine: Engine) -> Radio:
    """The sizes that can be drawn, the decoder's own first."""
    return Radio(size_choices(engine), value=64, label=text("subject.size"))


def size_choices(engine: Engine) -> list[tuple[str, int]]:
    """Sizes to choose from, each with its label: the pack's own, and 1024 px by what stands in for it."""
    choices = [(f"{side} px", side) for side in engine.sizes()]
    return [*choices, (text(f"subject.size_{engine.stand_in}"), 1024)] if engine.stand_in else choices
