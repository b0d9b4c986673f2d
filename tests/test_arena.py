"""The arena's core: ballots and votes that cannot be lost, doubled or forged; ranking; matches made beforehand."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from PIL import Image

from unclip_core.errors import RequestError
from unclip_core.evaluation.arena import matches, ranking
from unclip_core.evaluation.arena.matches import System
from unclip_core.evaluation.arena.votes import TASKS, BallotBox, Pair, VoteError

PAIRS = [Pair("m", item, task, "ar", "diffusion") for item in range(6) for task in TASKS]


def voter(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def box(tmp_path) -> BallotBox:
    return BallotBox(tmp_path / "votes.sqlite3")


# ---- ballots and votes ----


def test_a_voter_judges_every_pair_once(box):
    seen = set()
    while ballot := box.issue(voter(1), PAIRS):
        assert ballot.pair not in seen
        seen.add(ballot.pair)
        box.cast(voter(1), ballot.token, "tie", PAIRS)
    assert seen == set(PAIRS)
    assert box.count(voter(1)) == len(PAIRS) and box.count(voter(2)) == 0


def test_reloading_hands_out_the_same_ballot(box):
    assert box.issue(voter(1), PAIRS) == box.issue(voter(1), PAIRS)


def test_the_least_judged_pair_comes_first(box):
    for number in range(len(PAIRS)):
        ballot = box.issue(voter(number), PAIRS)
        box.cast(voter(number), ballot.token, "left", PAIRS)
    assert {(v["item"], v["task"]) for v in box.votes()} == {(p.item, p.task) for p in PAIRS}


def test_the_side_decides_who_wins_and_sides_are_random(box):
    won = {False: set(), True: set()}
    for number in range(60):
        ballot = box.issue(voter(number), PAIRS)
        won[ballot.flipped].add(box.cast(voter(number), ballot.token, "left", PAIRS))
    assert won == {False: {"a"}, True: {"b"}}


def refused(call, code: str) -> None:
    with pytest.raises(VoteError) as error:
        call()
    assert error.value.code == code and len(str(error.value)) < 300


@pytest.mark.parametrize(
    "choice", ["", "LEFT", "both", None, 1, ["left"], "'; DROP TABLE votes; --", "left" * 2_500_000]
)
def test_a_choice_that_is_none_is_refused(box, choice):
    ballot = box.issue(voter(1), PAIRS)
    refused(lambda: box.cast(voter(1), ballot.token, choice, PAIRS), "vote_choice")
    assert box.votes() == []
    box.cast(voter(1), ballot.token, "left", PAIRS)  # and the good vote still counts


@pytest.mark.parametrize(
    "token", ["", "0" * 32, "x" * 32, None, 5, "0" * 10_000_000, "' OR 1=1 --", {"a": 1}, "0" * 31 + "\n"]
)
def test_a_forged_ballot_is_refused(box, token):
    box.issue(voter(1), PAIRS)
    refused(lambda: box.cast(voter(1), token, "left", PAIRS), "vote_unknown")
    refused(lambda: box.issue(token if token != "0" * 32 else "nobody", PAIRS), "vote_unknown")


def test_another_voters_ballot_is_refused(box):
    ballot = box.issue(voter(1), PAIRS)
    refused(lambda: box.cast(voter(2), ballot.token, "left", PAIRS), "vote_foreign")


def test_a_vote_is_final(box):
    ballot = box.issue(voter(1), PAIRS)
    box.cast(voter(1), ballot.token, "left", PAIRS)
    refused(lambda: box.cast(voter(1), ballot.token, "right", PAIRS), "vote_twice")
    assert [v["choice"] for v in box.votes()] == ["left"]


def test_a_ballot_of_a_match_that_is_gone_is_refused(box):
    ballot = box.issue(voter(1), PAIRS)
    refused(lambda: box.cast(voter(1), ballot.token, "left", []), "vote_unknown")
    assert box.issue(voter(1), []) is None


def test_sixteen_voters_at_once_lose_no_vote(box):
    start = threading.Barrier(16)

    def vote(number: int) -> int:
        start.wait()
        cast = 0
        while ballot := box.issue(voter(number), PAIRS):
            box.cast(voter(number), ballot.token, ("left", "tie", "right")[cast % 3], PAIRS)
            cast += 1
        return cast

    with ThreadPoolExecutor(16) as pool:
        acknowledged = sum(pool.map(vote, range(16)))
    assert acknowledged == 16 * len(PAIRS) == len(BallotBox(box.path).votes())


def test_one_ballot_pressed_many_times_at_once_counts_once(box):
    ballot = box.issue(voter(1), PAIRS)

    def press(_) -> bool:
        try:
            box.cast(voter(1), ballot.token, "left", PAIRS)
            return True
        except VoteError as fault:
            assert fault.code == "vote_twice"
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(press, range(8))) == 1
    assert len(box.votes()) == 1


# ---- the file ----


def test_votes_outlive_the_process(box):
    ballot = box.issue(voter(1), PAIRS)
    box.cast(voter(1), ballot.token, "right", PAIRS)
    again = BallotBox(box.path)
    assert len(again.votes()) == 1
    refused(lambda: again.cast(voter(1), ballot.token, "left", PAIRS), "vote_twice")


def test_a_locked_file_is_named_and_nothing_stays_open(box):
    ballot = box.issue(voter(1), PAIRS)
    with closing(sqlite3.connect(box.path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        refused(lambda: box.cast(voter(1), ballot.token, "left", PAIRS), "votes_locked")
        other.execute("ROLLBACK")
    box.cast(voter(1), ballot.token, "left", PAIRS)
    assert len(box.votes()) == 1


def test_a_damaged_file_is_named(tmp_path, box):
    broken = tmp_path / "broken.sqlite3"
    broken.write_bytes(b"this is no database, " * 500)
    refused(lambda: BallotBox(broken), "votes_damaged")
    ballot = box.issue(voter(1), PAIRS)
    for part in box.path.parent.glob("votes.sqlite3-*"):
        part.unlink()
    box.path.write_bytes(b"overwritten " * 1000)
    refused(lambda: box.cast(voter(1), ballot.token, "left", PAIRS), "votes_damaged")
    refused(box.votes, "votes_damaged")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(lambda: BallotBox(tmp_path / "file" / "votes.sqlite3"), "votes_unwritable")


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_export(tmp_path, box, ending):
    import pandas

    for number in range(3):
        ballot = box.issue(voter(number), PAIRS)
        box.cast(voter(number), ballot.token, "left", PAIRS)
    path = box.export(tmp_path / f"votes.{ending}")
    table = pandas.read_csv(path) if ending == "csv" else pandas.read_parquet(path)
    assert list(table["a"]) == ["ar"] * 3 and set(table["voter"]) == {"voter 1", "voter 2", "voter 3"}
    assert voter(1) not in path.read_bytes().decode("latin-1")  # an alias cannot be used to vote


# ---- ranking ----


def test_wilson_agrees_with_scipy():
    from scipy.stats import binomtest

    for wins, n in ((0, 10), (7, 10), (10, 10), (123, 456)):
        expected = binomtest(wins, n).proportion_ci(method="wilson")
        assert ranking.wilson(wins, n)[1:] == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert ranking.wilson(0, 0) == (0.5, 0.0, 1.0)


def test_bradley_terry_finds_known_strengths():
    from math import exp

    true = {"a": 1.0, "b": 0.2, "c": -1.2}
    duels = [(x, y, 4000 / (1 + exp(true[y] - true[x])), 4000) for x, y in (("a", "b"), ("b", "c"), ("a", "c"))]
    found = ranking.bradley_terry(duels)
    assert [one.system for one in found] == ["a", "b", "c"]
    for one in found:
        assert one.value / ranking.ELO == pytest.approx(true[one.system], abs=0.02)
        assert one.low < one.value < one.high


def test_a_clean_sweep_has_finite_strengths():
    strong, weak = ranking.bradley_terry([("a", "b", 20, 20)])
    assert strong.system == "a" and 0 < strong.value < 2000 and weak.value == pytest.approx(-strong.value)
    assert ranking.bradley_terry([]) == []


def test_tally_adds_both_orders():
    votes = [
        {"task": "realism", "a": "x", "b": "y", "winner": "a"},
        {"task": "realism", "a": "y", "b": "x", "winner": "b"},
        {"task": "realism", "a": "x", "b": "y", "winner": "tie"},
        {"task": "caption", "a": "x", "b": "y", "winner": "b"},
    ]
    caption, realism = ranking.tally(votes)
    assert (realism["wins"], realism["ties"], realism["losses"], realism["n"]) == (2, 1, 0, 3)
    assert realism["rate"].value == pytest.approx(2.5 / 3)
    assert caption["losses"] == 1
    assert {task: [one.system for one in rows] for task, rows in ranking.strengths([caption, realism]).items()} == {
        "caption": ["y", "x"],
        "realism": ["x", "y"],
    }


# ---- matches ----


def test_a_match_is_made_and_goes_on_where_it_was(tmp_path, tiny_model):
    match = matches.create(tmp_path, System("diffusion"), System("text"), matches.captions(2))
    steps = matches.prepare(match, lambda pack: tiny_model)
    assert next(steps) == (1, 8) and match.pairs() == []
    assert next(steps) == (2, 8)
    assert [(p.item, p.task) for p in match.pairs()] == [(0, "realism"), (0, "caption")]
    steps.close()
    (again,) = matches.find([tmp_path])
    assert again == match
    assert [done for done, _ in matches.prepare(again, lambda pack: tiny_model)] == [3, 4, 5, 6, 7, 8]
    assert len(again.pairs()) == 6 and not list(tmp_path.rglob("*.partial"))
    with Image.open(again.file(0, "grid", "a")) as picture:
        assert picture.size == (268, 268) and not picture.info.get("exif")


def test_matches_that_make_no_sense_are_refused(tmp_path, tiny_model):
    with pytest.raises(RequestError, match="differ"):
        matches.create(tmp_path, System("ar"), System("ar"), matches.captions(2))
    for count in (0, 1000):
        with pytest.raises(RequestError, match="captions"):
            matches.captions(count)
    with pytest.raises(RequestError):
        matches.checked_system(System("diffusion", prior_guidance=float("nan")), tiny_model)
    with pytest.raises(RequestError):
        matches.checked_system(System("magic"), tiny_model)
    assert matches.checked_system(System("text", prior_guidance=3.0), tiny_model) == System("text")


def test_a_broken_match_is_passed_over(tmp_path):
    match = matches.create(tmp_path, System("ar"), System("text"), matches.captions(1))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "match.json").write_text("{")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "match.json").write_text("[1]")
    assert matches.find([tmp_path, tmp_path / "nowhere"]) == [match]
