"""Behind the arena page: matches being prepared in the background, ballots as the page shows them, results."""

from __future__ import annotations

import base64
import logging
import os
import tempfile
import threading
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from components.worker import run
from unclip_core.errors import PackError, RequestError
from unclip_core.evaluation.arena import matches, ranking
from unclip_core.evaluation.arena.matches import KIND_OF_TASK, Match, System
from unclip_core.evaluation.arena.votes import Ballot, BallotBox, Pair
from unclip_core.packs import SHIPPED
from unclip_core.pipeline import UnCLIP

log = logging.getLogger("unclip")
MOST_MATCHES = 12
# Human preference against GLIDE, percent and its reach (paper, table 1): photorealism, caption similarity, diversity.
PAPER = {"ar": ((47.1, 3.1), (41.1, 3.0), (62.6, 3.0)), "diffusion": ((48.9, 3.1), (45.3, 3.0), (70.5, 2.8))}


def home() -> tuple[Path, bool]:
    """(folder of matches and votes, whether it outlives the app): $UNCLIP_HOME, or ~/.unclip-explorer, or a temporary
    one where neither can be written."""
    for place in (os.environ.get("UNCLIP_HOME"), Path.home() / ".unclip-explorer"):
        if place:
            folder = Path(place) / "arena"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    return folder, True
            except OSError:
                continue
    return Path(tempfile.mkdtemp(prefix="unclip-arena-")), False


class Desk:
    """One for the app: it knows matches and votes, and nothing of who is looking."""

    def __init__(self, model: UnCLIP, folder: Path | None = None) -> None:
        self.model = model
        self._folder = folder
        self._box: BallotBox | None = None
        self._models: dict[str, UnCLIP] = {model.name: model}
        self._waiting: list[str] = []
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None
        self.fault: Exception | None = None  # why the last match could not be finished

    @cached_property
    def _place(self) -> tuple[Path, bool]:
        return (self._folder, True) if self._folder else home()

    @property
    def folder(self) -> Path:
        return self._place[0]

    @property
    def lasting(self) -> bool:
        """Whether votes outlive the app."""
        return self._place[1]

    @property
    def box(self) -> BallotBox:
        """Opened when first asked for. Raises VoteError where the file is damaged, locked or cannot be written."""
        if self._box is None:
            self._box = BallotBox(self.folder / "votes.sqlite3")
        return self._box

    def matches(self) -> list[Match]:
        return matches.find([self.folder, matches.ASSETS])

    def pairs(self) -> list[Pair]:
        return [pair for match in self.matches() for pair in match.pairs()]

    def packs(self) -> list[str]:
        """The pack in use, and the others that ship here."""
        shipped = [path.parent.name for path in sorted(SHIPPED.glob("*/pack.json"))]
        return [self.model.name, *(name for name in shipped if name != self.model.name)]

    # ---- voting ----

    def next(self, voter: Any) -> dict[str, Any]:
        """What the page shows a voter: the pair to judge, or that there is none."""
        pairs = self.pairs()
        ballot = self.box.issue(voter, pairs)
        shown = {"cast": self.box.count(voter), "of": len(pairs), "preparing": self.preparing()}
        return {**shown, "ballot": None if ballot is None else self._shown(ballot)}

    def vote(self, voter: Any, token: Any, choice: Any) -> None:
        self.box.cast(voter, token, choice, self.pairs())

    def _shown(self, ballot: Ballot) -> dict[str, Any]:
        """Pictures travel inside the page's data: an address would tell the systems apart."""
        match = next(match for match in self.matches() if match.id == ballot.pair.match)
        kind, order = KIND_OF_TASK[ballot.pair.task], "ba" if ballot.flipped else "ab"
        left, right = (
            "data:image/webp;base64," + base64.b64encode(match.file(ballot.pair.item, kind, side).read_bytes()).decode()
            for side in order
        )
        caption = match.captions[ballot.pair.item]
        return {"token": ballot.token, "task": ballot.pair.task, "caption": caption, "left": left, "right": right}

    # ---- results ----

    def results(self) -> dict[str, Any]:
        votes = self.box.votes()
        rows = ranking.tally(votes)
        systems = {system.name: asdict(system) for match in self.matches() for system in (match.a, match.b)}
        return {
            "votes": len(votes),
            "voters": len({vote["voter"] for vote in votes}),
            "rows": rows,
            "strengths": ranking.strengths(rows),
            "systems": systems,
            "own": self.model.name,
            "paper": PAPER,
            "lasting": self.lasting,
        }

    # ---- setting up ----

    def set_up(self, a: System, b: System, count: int) -> Match:
        """A new match, prepared in the background. Raises RequestError for systems that cannot play."""
        if len(self.matches()) >= MOST_MATCHES:
            raise RequestError(
                f"There are {MOST_MATCHES} matches already: remove one first.", "arena_full", most=MOST_MATCHES
            )
        a, b = (matches.checked_system(system, self._model(system.pack)) for system in (a, b))
        match = matches.create(self.folder, a, b, matches.captions(count))
        self.resume()
        return match

    def remove(self, match_id: Any) -> None:
        """Takes a match of this folder away; its votes stay, and so do shipped matches."""
        match = next((m for m in matches.find([self.folder]) if m.id == match_id), None)
        if match is None:
            raise RequestError("This match came with the app, or is no longer here.", "arena_gone")
        with self._changed:
            self._waiting = [one for one in self._waiting if one != match.id]
        (match.folder / "match.json").unlink(missing_ok=True)  # without it the folder is no match, and its making stops
        for path in match.folder.glob("*.webp"):
            path.unlink(missing_ok=True)

    def status(self) -> list[dict[str, Any]]:
        own = {match.id for match in matches.find([self.folder])}
        return [
            {"id": m.id, "a": asdict(m.a), "b": asdict(m.b), "done": m.done(), "total": m.total, "own": m.id in own}
            for m in self.matches()
        ]

    def preparing(self) -> bool:
        with self._changed:
            return bool(self._waiting)

    def resume(self) -> None:
        """Goes on preparing whatever is not finished, in a thread of its own."""
        with self._changed:
            unfinished = [m.id for m in matches.find([self.folder]) if m.done() < m.total and m.id not in self._waiting]
            self._waiting += unfinished
            self._changed.notify()
            if self._waiting and self._worker is None:
                self._worker = threading.Thread(target=self._work, name="arena", daemon=True)
                self._worker.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                current = self._waiting[0]
            try:
                self._make(current)
                self.fault = None
            except Exception as fault:
                log.exception("a match could not be prepared")
                self.fault = fault
            finally:
                with self._changed:
                    self._waiting = [one for one in self._waiting if one != current]

    def _make(self, match_id: str) -> None:
        match = next((m for m in matches.find([self.folder]) if m.id == match_id), None)
        making = matches.prepare(match, self._model) if match else iter(())
        while run(next, making, None) is not None:
            if not (match.folder / "match.json").exists():  # removed meanwhile
                return

    def _model(self, pack: str) -> UnCLIP:
        if pack not in self._models:
            if pack not in self.packs():
                raise PackError(f"There is no pack {pack!r} here.")
            self._models[pack] = run(UnCLIP.load, pack)
        return self._models[pack]
