"""Behind the arena's page: who may set up, what is asked for, turns of a voter, matches made in the background."""

import time
from types import SimpleNamespace

import pytest

from components import arena
from components.arena_desk import Desk
from unclip_core.errors import RequestError
from unclip_core.evaluation.arena.matches import System

VOTER = "1" * 32


def visitor(host: str = "127.0.0.1", **headers: str) -> SimpleNamespace:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SimpleNamespace(client=SimpleNamespace(host=host), headers=named, query_params={})


@pytest.fixture
def desk(tmp_path, tiny_model) -> Desk:
    return Desk(tiny_model, tmp_path)


def prepared(desk: Desk) -> None:
    desk.set_up(System("text", pack="tiny"), System("caption", pack="tiny"), 1)
    for _ in range(600):
        if not desk.preparing():
            return
        time.sleep(0.1)
    raise AssertionError("the match was not prepared within a minute")


def test_a_match_is_prepared_voted_on_and_ranked(desk):
    assert desk.next(VOTER)["ballot"] is None
    prepared(desk)
    tasks = set()
    for turn in range(3):
        state = desk.next(VOTER)
        assert (state["cast"], state["of"], state["preparing"]) == (turn, 3, False)
        ballot = state["ballot"]
        assert ballot["left"].startswith("data:image/webp") and set(ballot["caption"]) == {"en", "ko"}
        tasks.add(ballot["task"])
        desk.vote(VOTER, ballot["token"], "left")
    assert tasks == {"realism", "caption", "diversity"} and desk.next(VOTER)["ballot"] is None
    found = desk.results()
    assert (found["votes"], found["voters"], len(found["rows"])) == (3, 1, 3)
    assert found["systems"]["text (tiny)"]["prior"] == "text" and found["paper"]["ar"][0] == (47.1, 3.1)


def test_a_removed_match_leaves_its_votes(desk):
    prepared(desk)
    desk.vote(VOTER, desk.next(VOTER)["ballot"]["token"], "right")
    (match,) = desk.status()
    assert match["own"] and match["done"] == match["total"] == 4
    desk.remove(match["id"])
    assert desk.next(VOTER)["ballot"] is None and desk.results()["votes"] == 1
    for gone in (match["id"], "../..", None, 5):
        with pytest.raises(RequestError):
            desk.remove(gone)


def test_a_fault_while_preparing_is_kept_for_the_page(desk, monkeypatch):
    def broken(*_, **__):
        raise RequestError("The disk is full.")

    monkeypatch.setattr("unclip_core.evaluation.arena.matches._picture", broken)
    prepared(desk)
    assert str(desk.fault) == "The disk is full."
    assert "The disk is full." in arena.status(desk, visitor())["fault"]


def test_a_turn_never_raises(desk, tmp_path):
    for data in (None, "vote", {}, {"voter": 7}, {"voter": VOTER, "token": "x", "choice": "left"}):
        state = arena.turn(desk, data, "en", casting=True)
        assert state["notice"] and not state.get("taken")
    prepared(desk)
    token = arena.turn(desk, {"voter": VOTER}, "en")["ballot"]["token"]
    state = arena.turn(desk, {"voter": VOTER, "token": token, "choice": "left"}, "en", casting=True)
    assert state["taken"] and state["ballot"]["token"] != token
    again = arena.turn(desk, {"voter": VOTER, "token": token, "choice": "left"}, "ko", casting=True)
    assert "이미 평가한" in again["notice"] and again["ballot"] == state["ballot"]
    (tmp_path / "votes.sqlite3").write_bytes(b"broken " * 1000)
    for part in tmp_path.glob("votes.sqlite3-*"):
        part.unlink()
    state = arena.turn(desk, {"voter": VOTER, "token": token, "choice": "left"}, "en", casting=True)
    assert state["broken"] and "damaged" in state["notice"]


def test_where_nothing_can_be_written_votes_last_as_long_as_the_app(monkeypatch, tmp_path, tiny_model):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNCLIP_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    desk = Desk(tiny_model)
    assert not desk.lasting and desk.next(VOTER)["ballot"] is None


def test_what_is_asked_for():
    assert arena.asked(("ar", "", None, "pocket")) == System("ar")
    assert arena.asked(("text", " 2,5 ", "3", "pocket")) == System("text", 2.5, 3.0)
    for values in (("ar", "much", "", "pocket"), (["ar"], "", "", "pocket"), ("ar", "", "", None)):
        with pytest.raises(RequestError):
            arena.asked(values)


def test_systems_that_no_pack_can_play_are_refused(desk):
    for wrong in (
        System("ar", float("nan"), pack="tiny"),
        System("ar", 99.0, pack="tiny"),
        System("ar", pack="../etc"),
    ):
        with pytest.raises(RequestError if wrong.pack == "tiny" else ValueError):
            desk.set_up(wrong, System("text", pack="tiny"), 1)
    assert desk.status() == []


def test_only_the_machine_itself_may_set_up():
    assert arena.at_the_machine(visitor()) and arena.at_the_machine(visitor("::1"))
    assert not arena.at_the_machine(visitor("192.0.2.7"))
    assert not arena.at_the_machine(visitor(x_forwarded_for="192.0.2.7"))
    with pytest.raises(RequestError):
        arena._only_here(visitor("192.0.2.7"))


def test_the_rooms_address():
    assert arena.room_address("192.0.2.5:7860", "http") == "http://192.0.2.5:7860/arena"
    assert arena.room_address("example.org", "https") == "https://example.org/arena"
    for alone in ("127.0.0.1:7860", "localhost:7860", "[::1]:7860", "", "a" * 300):
        assert arena.room_address(alone, "http") is None
    code = arena.qr_code("http://192.0.2.5:7860/arena")
    assert code.startswith("<svg") and "viewBox" in code
