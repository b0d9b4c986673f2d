"""Cards lent by the call: with a stand-in for the `spaces` package that pickles what goes in and out, as it does."""

import importlib.machinery
import inspect
import pickle
import sys
import types

import gradio as gr
import pytest
from gradio.context import LocalContext

from components import gpu
from components.controls import RUN, guarded
from components.i18n import lang_of
from unclip_core.errors import RequestError

CALLS = []


def travelled(value):
    return pickle.loads(pickle.dumps(value))


def stand_in(duration):
    def decorate(task):
        if inspect.isgeneratorfunction(task):

            def stream(*args):
                CALLS.append(duration)
                for value in task(*travelled(args)):
                    yield travelled(value)

            return stream

        def once(*args):
            CALLS.append(duration)
            return travelled(task(*travelled(args)))

        return once

    return decorate


@pytest.fixture
def spaces(monkeypatch):
    module = types.ModuleType("spaces")
    module.GPU = stand_in
    module.__spec__ = importlib.machinery.ModuleSpec("spaces", None)
    monkeypatch.setitem(sys.modules, "spaces", module)
    CALLS.clear()
    return module


def page():
    """Two handlers that run the model, and one that does not."""
    with gr.Blocks() as demo:
        box, out, state = gr.Textbox(), gr.Textbox(), gr.State([])

        @guarded
        def stream(request: gr.Request, items, words):
            yield f"{lang_of()} {lang_of(request)} {words}", items
            yield words.upper(), [*items, words]

        @guarded
        def once(words):
            if not words:
                raise RequestError("The caption is empty.", "prompt_empty")
            return words[::-1]

        box.submit(stream, [state, box], [out, state], **RUN)
        box.change(once, box, out, **RUN)
        box.blur(lambda words: words, box, out)
    return demo


def korean():
    request = gr.Request(username=None, session_hash="abc")
    request.request = types.SimpleNamespace(query_params={"lang": "ko"}, lock=object())
    request.kwargs = {"query_params": {"lang": "ko"}, "unpicklable": lambda: None}
    return request


def test_only_what_runs_the_model_is_lent_a_card(spaces):
    before = [event.fn for event in page().fns.values()]
    events = list(gpu.place(page()).fns.values())
    changed = [event.concurrency_id == "model" for event in events]
    assert changed == [True, True, False] and len(before) == 3
    assert list(inspect.signature(events[0].fn).parameters) == ["request", "items", "words"]
    assert inspect.isgeneratorfunction(events[0].fn) and not inspect.isgeneratorfunction(events[1].fn)


def test_the_language_and_the_session_travel_along(spaces):
    stream = next(iter(gpu.place(page()).fns.values())).fn
    request = korean()
    token = LocalContext.request.set(request)
    try:
        assert list(stream(request, ["a"], "b")) == [("ko ko b", ["a"]), ("B", ["a", "b"])]
    finally:
        LocalContext.request.reset(token)
    assert CALLS == [gpu.SECONDS]


def test_errors_come_back_as_messages(spaces):
    once = list(gpu.place(page()).fns.values())[1].fn
    assert once("abc") == "cba"
    with pytest.raises(gr.Error, match="empty"):
        once("")


def test_events_travel_by_their_data():
    event = gr.EventData(None, {"lang": "ko"})
    assert travelled(gpu.portable(event))._data == {"lang": "ko"}


def test_without_the_package_nothing_changes(monkeypatch):
    monkeypatch.setitem(sys.modules, "spaces", None)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None)
    demo = page()
    before = [event.fn for event in demo.fns.values()]
    assert [event.fn for event in gpu.place(demo).fns.values()] == before
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    gpu.prepare()


def test_the_package_is_imported_only_where_cards_are_lent(monkeypatch, spaces):
    monkeypatch.delitem(sys.modules, "spaces")
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    gpu.prepare()
    assert "spaces" not in sys.modules
