"""The ballot box: blind ballots handed out, votes taken once and for good, in SQLite.

A ballot is a random token for one pair of pictures and one voter; which system stands on which side is known here
alone. Every operation opens the file anew, so any number of threads and processes can vote at once.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from unclip_core.errors import RequestError

TASKS = ("realism", "caption", "diversity")
CHOICES = ("left", "tie", "right")
BUSY_SECONDS = 1.5
DAY = 86_400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS ballots (
  token TEXT PRIMARY KEY, voter TEXT NOT NULL, match TEXT NOT NULL, item INTEGER NOT NULL, task TEXT NOT NULL,
  flipped INTEGER NOT NULL, issued REAL NOT NULL);
CREATE INDEX IF NOT EXISTS ballots_of_voter ON ballots (voter);
CREATE TABLE IF NOT EXISTS votes (
  token TEXT PRIMARY KEY, voter TEXT NOT NULL, match TEXT NOT NULL, item INTEGER NOT NULL, task TEXT NOT NULL,
  a TEXT NOT NULL, b TEXT NOT NULL, choice TEXT NOT NULL, winner TEXT NOT NULL, cast_at REAL NOT NULL,
  UNIQUE (voter, match, item, task));
"""


class VoteError(RequestError):
    """A vote or the ballot box itself is not as it should be; the message says what to do."""


@dataclass(frozen=True)
class Pair:
    """Two pictures (or grids) of one caption that stand ready: item `item` of a match between systems a and b."""

    match: str
    item: int
    task: str
    a: str
    b: str


@dataclass(frozen=True)
class Ballot:
    """What a voter is asked. flipped: b stands on the left."""

    token: str
    pair: Pair
    flipped: bool


class BallotBox:
    """The votes in one file. Raises VoteError where it is damaged, locked, or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._random = Random(secrets.randbits(64))
        self._turn = threading.Lock()  # a room's voters queue here; SQLite alone lets waiting writers starve
        with self._translated():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                    raise sqlite3.DatabaseError("quick_check failed")
                with connection:
                    connection.executescript(_SCHEMA)

    # ---- voting ----

    def issue(self, voter: str, pairs: Sequence[Pair]) -> Ballot | None:
        """A pair this voter has not judged, the least judged first; None when there is none left.

        A ballot already handed to this voter and not yet voted on is handed out again, so reloading changes nothing.
        """
        voter = checked_id(voter, "voter")
        by_key = {(pair.match, pair.item, pair.task): pair for pair in pairs}
        with self._writing() as connection:
            connection.execute(
                "DELETE FROM ballots WHERE issued < ? AND token NOT IN (SELECT token FROM votes)", (time.time() - DAY,)
            )
            open_ballots = connection.execute(
                "SELECT token, match, item, task, flipped FROM ballots WHERE voter = ? AND token NOT IN (SELECT "
                "token FROM votes)",
                (voter,),
            ).fetchall()
            for token, *key, flipped in open_ballots:
                if tuple(key) in by_key:
                    return Ballot(token, by_key[tuple(key)], bool(flipped))
            done = set(connection.execute("SELECT match, item, task FROM votes WHERE voter = ?", (voter,)))
            counts = {
                tuple(key): n
                for *key, n in connection.execute("SELECT match, item, task, COUNT(*) FROM votes GROUP BY 1, 2, 3")
            }
            left = [key for key in by_key if key not in done]
            if not left:
                return None
            fewest = min(counts.get(key, 0) for key in left)
            pair = by_key[self._random.choice([key for key in left if counts.get(key, 0) == fewest])]
            ballot = Ballot(secrets.token_hex(16), pair, self._random.random() < 0.5)
            row = (ballot.token, voter, pair.match, pair.item, pair.task, int(ballot.flipped), time.time())
            connection.execute("INSERT INTO ballots VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            return ballot

    def cast(self, voter: str, token: str, choice: str, pairs: Sequence[Pair]) -> str:
        """Takes a vote -> "a", "b" or "tie". Once this returns the vote is on the disk; a second one is refused.

        Raises VoteError for what is no choice, no ballot of ours, another voter's ballot, or one already used.
        """
        voter, token = checked_id(voter, "voter"), checked_id(token, "ballot")
        if not isinstance(choice, str) or choice not in CHOICES:
            raise VoteError("A vote is left, tie or right.", "vote_choice")
        systems = {(pair.match, pair.item, pair.task): (pair.a, pair.b) for pair in pairs}
        with self._writing() as connection:
            row = connection.execute(
                "SELECT voter, match, item, task, flipped FROM ballots WHERE token = ?", (token,)
            ).fetchone()
            if row is None:
                raise VoteError(
                    "This ballot was not handed out here, or has expired: load the page again.", "vote_unknown"
                )
            owner, *key, flipped = row
            if owner != voter:
                raise VoteError("This ballot was handed to someone else.", "vote_foreign")
            if tuple(key) not in systems:
                raise VoteError("The match of this ballot is no longer here: load the page again.", "vote_unknown")
            a, b = systems[tuple(key)]
            winner = "tie" if choice == "tie" else "a" if (choice == "left") != bool(flipped) else "b"
            try:
                connection.execute(
                    "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (token, voter, *key, a, b, choice, winner, time.time()),
                )
            except sqlite3.IntegrityError:
                raise VoteError("You have voted on this pair already; a vote is final.", "vote_twice") from None
        return winner

    # ---- reading ----

    def votes(self) -> list[dict[str, Any]]:
        """Every vote, oldest first, with its systems; the voter as a short alias that cannot be used to vote."""
        with self._translated(), closing(self._connect()) as connection:
            rows = connection.execute(
                "SELECT cast_at, voter, match, item, task, a, b, choice, winner FROM votes ORDER BY cast_at"
            ).fetchall()
        aliases: dict[str, str] = {}
        names = ("cast_at", "voter", "match", "item", "task", "a", "b", "choice", "winner")
        votes = [dict(zip(names, row)) for row in rows]
        for vote in votes:
            vote["voter"] = aliases.setdefault(vote["voter"], f"voter {len(aliases) + 1}")
        return votes

    def count(self, voter: str) -> int:
        """How many votes this voter has cast."""
        with self._translated(), closing(self._connect()) as connection:
            return connection.execute(
                "SELECT COUNT(*) FROM votes WHERE voter = ?", (checked_id(voter, "voter"),)
            ).fetchone()[0]

    def export(self, path: Path) -> Path:
        """All votes as a .csv or .parquet file."""
        import pandas

        table = pandas.DataFrame(
            self.votes(), columns=["cast_at", "voter", "match", "item", "task", "a", "b", "choice", "winner"]
        )
        table["cast_at"] = pandas.to_datetime(table["cast_at"], unit="s", utc=True)
        if path.suffix == ".parquet":
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, index=False)
        return path

    # ---- the file ----

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA synchronous=FULL")  # an acknowledged vote survives a power cut
        return connection

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction that holds the file from its start: what it reads cannot change before it writes."""
        with self._turn, self._translated(), closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with connection:  # commits, or rolls back whatever goes wrong
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """SQLite's faults in words for people."""
        try:
            yield
        except sqlite3.OperationalError as fault:
            said = str(fault)
            if "locked" in said or "busy" in said:
                raise VoteError(
                    "The votes are locked by another program. Your vote was not counted: try again in a moment.",
                    "votes_locked",
                ) from fault
            raise VoteError(
                f"The votes cannot be written ({said}). Nothing was counted.", "votes_unwritable", fault=said
            ) from fault
        except sqlite3.DatabaseError as fault:
            raise VoteError(
                f"The votes file {self.path.name} is damaged. Nothing was changed: move it aside to start a new "
                "one, or restore a copy.",
                "votes_damaged", file=self.path.name,
            ) from fault  # fmt: skip
        except OSError as fault:
            raise VoteError(
                f"The votes cannot be written ({fault.strerror}). Nothing was counted.",
                "votes_unwritable",
                fault=str(fault.strerror),
            ) from fault


def checked_id(value: Any, what: str) -> str:
    """32 hexadecimal digits, as this file makes them. Raises VoteError for anything else, whatever its size."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{32}", value[:64]):
        raise VoteError(f"This is no {what} of ours: load the page again.", "vote_unknown")
    return value
