"""The map's data and what the lab asks of it, on a small map made of random numbers."""

import json

import numpy as np
import pytest
import torch

from components.atlas import Atlas, along, place
from components.engine import Engine
from components.map_build import lay_out, names_of, write_map, write_sheets
from components.map_data import MapData, axis_layout, fingerprint, linear_layout, session_layouts, unit
from unclip_core.errors import RequestError, UnclipError

COUNT, WIDTH = 300, 32
GROUPS = ("animals", "food")


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    """Two clouds: animals around one direction, food around another."""
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(2, WIDTH)))
    return unit(centres[np.arange(COUNT) % 2] + 0.12 * rng.normal(size=(COUNT, WIDTH))).astype(np.float32)


@pytest.fixture(scope="module")
def folder(embeddings, tiny_model, tmp_path_factory):
    """A map of those clouds, as the builder writes it; its "umap" is the first two of their numbers."""
    out = tmp_path_factory.mktemp("map")
    of = [{"concept": f"{i}", "label": f"thing {i}", "label_ko": f"물건 {i}", "style": "noto"} for i in range(20)]
    rows = [{**of[i % 20], "group": GROUPS[i % 2]} for i in range(COUNT)]
    names, numbers = names_of(rows)
    flat = embeddings[:, :2] / np.abs(embeddings[:, :2]).max()
    layouts = {"pca2": lay_out("pca2", embeddings, tiny_model.pca), "umap2": (flat, {})}
    write_map(out, embeddings, fingerprint(tiny_model), layouts, names, numbers)
    return out


@pytest.fixture(scope="module")
def data(folder) -> MapData:
    return MapData.load(folder)


def item(z: np.ndarray, tiny_model, number: int = 0, lab: str = "interpolate", index: int = 0) -> dict:
    recipe = tiny_model.recipe({"frames": 3}, index, torch.from_numpy(z), lab=lab) | {
        "id": f"id{number}",
        "parents": [],
    }
    return {"id": f"id{number}", "recipe": recipe, "name": f"picture {number}", "path": "", "thumb": ""}


@pytest.fixture
def atlas(tiny_model, folder) -> Atlas:
    return Atlas(Engine(tiny_model), folder)


def test_what_is_written_is_read_back(data, embeddings):
    assert len(data) == COUNT
    assert ((unit(data.z) * embeddings).sum(1) > 0.999).all()
    assert data.about(3) == {"label": "thing 3", "label_ko": "물건 3", "style": "noto"}
    assert data.facts["groups"] == ["animals", "food"]


def test_neighbours_are_the_true_ones(data, embeddings):
    index, cosine = data.neighbours(embeddings[7], 5)[0]
    assert index == 7 and cosine > 0.999
    wanted = set(np.argsort(-(data.directions @ embeddings[7]))[:5].tolist())
    assert {i for i, _ in data.neighbours(embeddings[7], 5)} == wanted
    assert all(i % 2 == 1 for i, _ in data.neighbours(embeddings[7], 20)), "a cloud's neighbours are its own"


def test_pca_places_new_pictures_exactly(data, tiny_model):
    z = unit(np.random.default_rng(1).normal(size=(4, WIDTH))).astype(np.float32)
    made = data.layouts["pca2"]
    wanted = (z - tiny_model.pca.mean.numpy()) @ tiny_model.pca.components[:2].numpy().T
    assert np.allclose(made.place(z) * made.radius + made.centre, wanted, atol=1e-5)


def test_other_layouts_place_by_neighbours(data, embeddings):
    at = data.layouts["umap2"].place(data.z[:10])
    assert np.allclose(at, data.points["umap2"][:10] / 32767, atol=1e-6), "a corpus picture lies where it is"
    centre = unit(embeddings[::2].mean(0, keepdims=True))
    placed = data.layouts["umap2"].place(centre)[0]
    animals, food = (data.points["umap2"][side::2].mean(0) / 32767 for side in (0, 1))
    assert np.linalg.norm(placed - animals) < np.linalg.norm(placed - food)


def test_a_split_neighbourhood_goes_to_the_larger_part(data):
    layout = data.layouts["umap2"]
    places = np.array([[0.9, 0.9]] * 4 + [[-0.9, -0.9]] * 2)
    assert np.linalg.norm(layout._amid(np.full(6, 0.8), places) - [0.9, 0.9]) < 0.05


def test_lifting_a_place_gives_the_embedding_there(data):
    at = data.points["umap2"][11] / 32767
    assert float(unit(data.lift("umap2", at)) @ data.directions[11]) > 0.9999
    between = data.lift("umap2", (at + data.points["umap2"][12] / 32767) / 2)
    assert np.isfinite(between).all() and abs(np.linalg.norm(between) - 1) < 0.02
    for layout, place_ in (("umap3", [0, 0, 0]), ("nothing", [0, 0]), ("umap2", [0, 0, 0])):
        with pytest.raises(RequestError):
            data.lift(layout, place_)


def test_an_axis_orders_pictures_from_one_caption_to_the_other(embeddings):
    start, end = embeddings[::2].mean(0), embeddings[1::2].mean(0)
    at = axis_layout(embeddings, start, end).place(embeddings)
    assert at[1::2, 0].min() > at[::2, 0].max() - 0.2 and at[1::2, 0].mean() > at[::2, 0].mean() + 0.5
    assert np.abs(at).max() <= 1.0001
    assert abs(np.corrcoef(at.T)[0, 1]) < 0.9
    with pytest.raises(RequestError, match="mean the same"):
        axis_layout(embeddings, start, start)


def test_another_packs_map_is_told_apart(folder, tiny_model, tmp_path, data):
    assert data.fits(tiny_model)
    other = MapData.load(folder)
    other.probe = np.roll(other.probe, 1, axis=1)
    assert not other.fits(tiny_model)
    other.probe = np.zeros((5, WIDTH + 1), np.float32)
    assert not other.fits(tiny_model)


def test_a_damaged_or_absent_map_is_said(folder, tmp_path, tiny_model):
    assert MapData.load(tmp_path) is None
    assert Atlas(Engine(tiny_model), tmp_path).notice == "map.absent"
    for name in ("map.json", "points.safetensors", "embeddings.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "points.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UnclipError, match="Make it again"):
        MapData.load(tmp_path)
    assert Atlas(Engine(tiny_model), tmp_path).notice == "map.damaged"
    (tmp_path / "map.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UnclipError, match="another version"):
        MapData.load(tmp_path)


def test_points_are_found_and_bad_ones_refused(atlas, data, tiny_model, embeddings):
    items = [item(embeddings[4], tiny_model)]
    assert np.allclose(atlas.find("p:4", []), data.z[4])
    assert np.allclose(atlas.find("s:id0", items), embeddings[4], atol=1e-6)
    assert atlas.find("u:umap2:0.1,-0.2", []).shape == (WIDTH,)
    caption = tiny_model.encode_text(["a red apple"]).pooled[0].numpy()
    assert np.allclose(atlas.find("c:a red apple", []), caption, atol=1e-5)
    drawn = atlas.find("c:a red apple", [], drawn=3)
    assert np.allclose(drawn, tiny_model.sample_prior("a red apple", seed=3)[0].numpy(), atol=1e-5)
    bad = [
        "",
        "p:",
        "p:300",
        "p:-1",
        "p:²",
        "x:1",
        "p:99999999999",
        "u:umap2:nan,0",
        "u:umap2:1",
        "u:umap2:9,9",
        "s:gone",
        "c:  ",
    ]
    for point in bad:
        with pytest.raises(RequestError):
            atlas.find(point, items)


def test_paths_are_checked_and_walked_evenly(atlas):
    stops = atlas.stops("p:0|p:2|p:1", [], seed=0)
    z = along(stops, 9)
    assert z.shape == (9, WIDTH)
    for row, stop in ((0, 0), (4, 1), (8, 2)):
        assert np.allclose(z[row], stops[stop], atol=1e-5)
    steps = np.arccos((unit(z[:4]) * unit(z[1:5])).sum(1))
    assert steps.std() < 1e-3
    for path in ("", "p:1", "p:1|", "|".join(["p:1"] * 13)):
        with pytest.raises(RequestError):
            atlas.stops(path, [], seed=0)


def test_the_sessions_pictures_and_runs_lie_on_the_map(atlas, tiny_model, embeddings):
    run = [item(embeddings[i], tiny_model, number=i, index=i) for i in (2, 1, 0)]
    single = item(embeddings[9], tiny_model, number=9, lab="create")
    shown = atlas.session([*run, single])
    assert [one["point"] for one in shown["own"]] == ["s:id2", "s:id1", "s:id0", "s:id9"]
    assert shown["paths"] == [[2, 1, 0]], "in the run's own order"
    assert set(shown["at"]) == {"pca2", "umap2"} and len(shown["at"]["umap2"]) == 4
    assert "axis2" in atlas.session(run, ("a cat", "a dog"))["at"]
    nearest = atlas.neighbours(embeddings[9], [single])
    assert {nearest[0]["point"], nearest[1]["point"]} == {"p:9", "s:id9"}


def test_without_a_map_the_session_lies_by_pca(tiny_model, embeddings, tmp_path):
    atlas = Atlas(Engine(tiny_model), tmp_path)
    items = [item(embeddings[i], tiny_model, number=i) for i in range(5)]
    at = atlas.session(items)["at"]
    assert set(at) == {"pca2", "pca3"} and np.abs(np.array(at["pca3"])).max() <= 1.001
    assert atlas.session([]) == {"own": [], "at": {}, "paths": []}
    with pytest.raises(RequestError, match="no map"):
        atlas.find("p:1", items)
    with pytest.raises(RequestError, match="no map"):
        atlas.axis_places("a cat", "a dog")
    assert place(embeddings[:1], session_layouts(embeddings[:1], None))["pca2"] == [[0, 0]]


def test_the_page_can_read_the_places(folder, data):
    raw = (folder / "points.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert {header[name]["dtype"] for name in ("umap2", "pca2")} == {"I16"}
    assert header["concept"]["dtype"] == "U16" and header["style"]["dtype"] == "U8"


def test_linear_layouts_fill_the_map():
    z = np.random.default_rng(2).normal(size=(50, 6))
    at = linear_layout(z, z.mean(0), np.eye(6)[:2]).place(z)
    assert at.max() == pytest.approx(1) or at.min() == pytest.approx(-1)
    assert np.abs(at).max() <= 1.0001


def test_sheets_hold_every_picture(tmp_path):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (128, 128), "red").save(buffer, "PNG")
    rows = [{"picture": buffer.getvalue()}] * 1025
    assert write_sheets(tmp_path, rows) == 2
    sheet = Image.open(tmp_path / "thumbs-1.webp")
    assert sheet.getpixel((20, 20))[0] > 200 and sheet.getpixel((90, 20)) == (255, 255, 255)
