"""The documented endpoint, and what is sent past the page: straight to the server, no browser."""

import json
import re
import threading
import time
import uuid

import httpx
import pytest
from PIL import Image

from unclip_core.provenance import read_recipe

gradio_client = pytest.importorskip("gradio_client")


@pytest.fixture(scope="module")
def client(address, tmp_path_factory):
    return gradio_client.Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("served")))


def test_generate_is_the_documented_endpoint_and_plumbing_is_not(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert "/generate" in endpoints
    names = [parameter["parameter_name"] for parameter in endpoints["/generate"]["parameters"]]
    assert names[:5] == ["prompt", "n", "size", "seed", "prior"]
    assert not [name for name in endpoints if "lambda" in name or name.startswith("/_")]


def test_generate_gives_png_files_with_recipes_twice_the_same(client):
    asked = {"prompt": "빨간 사과", "n": 2, "size": 256, "seed": 9}
    first, second = (client.predict(**asked, api_name="/generate") for _ in range(2))
    assert len(first) == 2
    for one, other in zip(first, second):
        assert Image.open(one).size == (256, 256)
        assert Image.open(one).tobytes() == Image.open(other).tobytes()
        assert read_recipe(one)["request"]["prompt"] == "빨간 사과"


BAD = {
    "empty": ({"prompt": ""}, "empty"),
    "blank": ({"prompt": " \n\t"}, "empty"),
    "null caption": ({"prompt": None}, "text"),
    "list caption": ({"prompt": ["a"]}, "text"),
    "a megabyte": ({"prompt": "a" * 1_000_000}, "1,000,000"),
    "NUL": ({"prompt": "a\0b"}, "control"),
    "lone surrogate": ({"prompt": "a\ud800"}, "surrogate"),
    "bidi": ({"prompt": "a\u202eb"}, "reorder"),
    "NaN": ({"seed": float("nan")}, "seed"),
    "infinity": ({"decoder_guidance": float("inf")}, "guidance"),
    "minus one": ({"seed": -1}, "seed"),
    "too many": ({"n": 17}, "pictures"),
    "text for a number": ({"n": "many"}, "pictures"),
    "null number": ({"n": None}, "pictures"),
    "half a picture": ({"n": 1.5}, "pictures"),
    "unknown size": ({"size": 65}, "size"),
    "unknown prior": ({"prior": "magic"}, "prior"),
    "too much work": ({"n": 16, "size": 1024, "decoder_steps": 250, "prompt": "a"}, None),
}


def post(address: str, fn_index: int, data: list) -> dict:
    """One event through the queue, as a script past the page would send it; the last message."""
    session = uuid.uuid4().hex
    body = {"data": data, "fn_index": fn_index, "session_hash": session}
    with httpx.Client(base_url=address, timeout=60) as http:
        # json.dumps writes NaN, which strict writers refuse; httpx would too.
        sent = http.post(
            "gradio_api/queue/join", content=json.dumps(body), headers={"content-type": "application/json"}
        )
        if sent.status_code != 200:
            return {"success": False, "output": {"error": sent.text}}
        with http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:") and '"process_completed"' in line:
                    return json.loads(line[5:])
    raise AssertionError("the server said nothing")


@pytest.fixture(scope="module")
def endpoint(client) -> tuple[int, list[str], dict]:
    number = next(d["id"] for d in client.config["dependencies"] if d["api_name"] == "generate")
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/generate"]["parameters"]
    return (
        number,
        [p["parameter_name"] for p in described],
        {p["parameter_name"]: p["parameter_default"] for p in described},
    )


@pytest.mark.parametrize("name", [name for name, (_, word) in BAD.items() if word])
def test_bad_values_are_named_within_two_seconds(address, endpoint, name):
    change, word = BAD[name]
    number, names, defaults = endpoint
    values = {**defaults, "prompt": "a red apple", "size": 64, **change}
    start = time.perf_counter()
    answer = post(address, number, [values[field] for field in names])
    assert time.perf_counter() - start < 4  # two seconds, on a machine that may be doing other things
    assert not answer["success"]
    assert word in answer["output"]["error"] and "Traceback" not in answer["output"]["error"]


def test_the_next_good_request_works(address, endpoint):
    number, names, defaults = endpoint
    values = {**defaults, "prompt": "a red apple", "size": 64}
    assert post(address, number, [values[field] for field in names])["success"]


def test_sessions_asking_at_once_get_their_own_pictures(address, endpoint):
    number, names, defaults = endpoint
    answers = {}

    def ask(seed: int) -> None:
        values = {**defaults, "prompt": f"thing {seed}", "size": 64, "seed": seed}
        answers[seed] = post(address, number, [values[field] for field in names])

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for seed, answer in answers.items():
        path = answer["output"]["data"][0][0]["url"]
        recipe = read_recipe(httpx.get(path if path.startswith("http") else address + path).content)
        assert recipe["request"]["seed"] == seed


def test_a_body_that_is_too_large_is_refused(address):
    try:
        answer = httpx.post(address + "gradio_api/upload", content=b"x" * 30_000_000, timeout=30)
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the connection was closed while the body was still being sent


def test_files_of_the_machine_are_not_served(address):
    for path in ("/etc/passwd", "app.py", "../app.py", "components/engine.py"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404)


def test_every_answer_carries_the_policy_that_keeps_the_page_at_home(address):
    policy = httpx.get(address).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_the_page_names_no_other_host(address):
    page = httpx.get(address).text
    own = address.rstrip("/")
    named = {found for found in re.findall(r"https?://[^\s\"'<>)\\\\]+", page) if not found.startswith(own)}
    assert not named
