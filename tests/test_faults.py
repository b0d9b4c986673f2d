"""What goes wrong around the app, by name: full disks, damaged packs, a home that cannot be written, a killed process.

Elsewhere: a taken port (test_components), a locked or damaged votes file and a folder that cannot be written
(test_arena, test_arena_page), no network (test_karlo), every damage of a pack (test_packs).
"""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from asking import Asking

import app
from benchmarks.pocket import running
from components import server, worker
from components.engine import Engine
from unclip_core.evaluation.arena.votes import BallotBox, Pair, VoteError
from unclip_core.provenance import read_recipe

ROOT = Path(__file__).resolve().parent.parent
GOOD = {"prompt": "a red apple", "size": 64}

# ---- votes ----

VOTER = "1" * 32
PAIRS = [Pair("m", item, "realism", "a", "b") for item in range(500)]


def counted(path: Path) -> list[str]:
    """The ballots that were voted on, oldest first."""
    with closing(sqlite3.connect(path)) as connection:
        return [token for (token,) in connection.execute("SELECT token FROM votes ORDER BY cast_at")]


def test_a_vote_that_the_disk_has_no_room_for_is_named_and_none_is_lost(tmp_path, monkeypatch):
    box = BallotBox(tmp_path / "votes.sqlite3")
    connect, given = box._connect, []

    def small() -> sqlite3.Connection:
        connection = connect()
        connection.execute("PRAGMA max_page_count = 16")  # SQLite's own "database or disk is full"
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(box, "_connect", small)
        with pytest.raises(VoteError, match="disk is full.*Nothing was counted"):
            for _ in PAIRS:
                ballot = box.issue(VOTER, PAIRS)
                box.cast(VOTER, ballot.token, "left", PAIRS)
                given.append(ballot.token)
    assert given and counted(box.path) == given
    ballot = box.issue(VOTER, PAIRS)
    box.cast(VOTER, ballot.token, "left", PAIRS)
    assert counted(box.path) == [*given, ballot.token]


VOTING = """
import sys; from pathlib import Path
from unclip_core.evaluation.arena.votes import BallotBox, Pair
voter, pairs = "1" * 32, [Pair("m", item, "realism", "a", "b") for item in range(500)]
box = BallotBox(Path(sys.argv[1]))
while ballot := box.issue(voter, pairs):
    box.cast(voter, ballot.token, "left", pairs)
    print(ballot.token, flush=True)
"""


def test_no_acknowledged_vote_is_lost_when_the_app_is_killed(tmp_path):
    path = tmp_path / "votes.sqlite3"
    command = [sys.executable, "-c", VOTING, str(path)]
    voting = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    given = [voting.stdout.readline().strip() for _ in range(30)]
    voting.kill()
    given += voting.stdout.read().split("\n")[:-1]  # whole lines
    voting.wait()
    assert len(BallotBox(path).votes()) - len(given) in (0, 1)  # one may be counted and not yet told
    assert counted(path)[: len(given)] == given


# ---- packs ----

SHARD = "decoder-000.safetensors"


def shard_cut(folder: Path) -> None:
    shard = folder / SHARD
    shard.write_bytes(shard.read_bytes()[:-100])


def shard_flipped(folder: Path) -> None:
    shard = folder / SHARD
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def index_changed(**facts):
    def change(folder: Path) -> None:
        index = json.loads((folder / "pack.json").read_text("utf-8"))
        (folder / "pack.json").write_text(json.dumps({**index, **facts}), "utf-8")

    return change


OUTSIDE = {"../a.safetensors": {"bytes": 1, "sha256": "0" * 64}}
PACKS = {
    "missing": (lambda folder: shutil.rmtree(folder), "no pack"),
    "without an index": (lambda folder: (folder / "pack.json").unlink(), "pack.json: missing"),
    "a shard missing": (lambda folder: (folder / SHARD).unlink(), f"{SHARD}: missing"),
    "truncated": (shard_cut, f"{SHARD}: cut short"),
    "bit flipped": (shard_flipped, f"{SHARD}: damaged"),
    "a way out of its folder": (index_changed(files=OUTSIDE), "'../a.safetensors' is not allowed"),
    "newer": (index_changed(schema=2), "newer program"),
}


@pytest.mark.parametrize("name", PACKS)
def test_the_app_ends_with_what_is_wrong_with_its_pack(tiny_pack, tmp_path, monkeypatch, name):
    damage, said = PACKS[name]
    folder = shutil.copytree(tiny_pack, tmp_path / "copy")
    damage(folder)
    monkeypatch.setattr(server, "prepare", lambda **_: None)  # this process stays as it is
    monkeypatch.setattr(sys, "argv", ["app.py", "--port", "0", "--pack", str(folder)])
    started = time.process_time()
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert said in str(ended.value) and "\n" not in str(ended.value)
    assert time.process_time() - started < 2
    assert worker.run(Engine.load, str(tiny_pack)).has("decoder")


@pytest.mark.slow
def test_killed_or_ended_in_the_middle_of_a_picture_with_a_home_that_cannot_be_written(
    tiny_pack, tmp_path, monkeypatch
):
    served = tmp_path / "served"
    served.mkdir()
    for name, value in {"HOME": "/proc", "UNCLIP_HOME": "/proc", "TMPDIR": str(served)}.items():
        monkeypatch.setenv(name, value)
    for signal_, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        before = set(served.iterdir())
        with open(tmp_path / "log", "w+") as log, running(str(tiny_pack), log) as (process, address):
            asking = Asking(address)
            assert asking.ask("generate", **GOOD)["success"]
            messages = asking.begin("generate", prompt="a red apple", n=16, size=64, decoder_steps=250)
            assert any(message["msg"] == "process_starts" for message in messages)
            process.send_signal(signal_)
            ended = process.wait(120)
            log.seek(0)
            printed = log.read()
        assert ended == code and "Traceback" not in printed, printed
        files = list(served.glob("unclip-pictures-*/*/*.png"))
        assert all(read_recipe(file) for file in files) and not list(served.rglob("*.partial"))
        assert files if signal_ == signal.SIGKILL else set(served.iterdir()) == before
