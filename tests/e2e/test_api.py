"""The documented endpoint, straight to the server, no browser. What is refused: test_bad_input."""

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from asking import Asking
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


def test_sessions_asking_at_once_get_their_own_pictures(address):
    asking = Asking(address)

    def ask(seed: int) -> dict:
        return asking.ask("generate", prompt=f"thing {seed}", size=64, seed=seed)

    with ThreadPoolExecutor(8) as pool:
        for seed, answer in enumerate(pool.map(ask, range(8))):
            recipe = read_recipe(asking.fetch(answer["output"]["data"][0][0]))
            assert recipe["request"]["seed"] == seed


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
