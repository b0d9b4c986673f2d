"""The labs' own work, behind the page: what each edit must keep, what it must refuse, what its recipes bring back."""

import ast
import io
import json
import math
import re
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from components import attack, film, interpolate, pca, priors, text_diff, typographic, variations
from components.engine import Engine
from components.i18n import LANGUAGES, strings
from components.live import Live, decoded
from components.shelf import Shelf
from components.subject import example_paths, examples, psnr, subject_inputs, take_apart, taken_apart
from unclip_core.errors import RequestError

ROOT = Path(__file__).parent.parent
LABS = ("variations", "interpolate", "text_diff", "pca", "typographic", "priors")


@pytest.fixture(scope="module")
def engine(tiny_pack):
    return Engine.load(str(tiny_pack))


def pixels(picture):
    return np.asarray(picture.convert("RGB"), dtype=int)


def apart(a, b):
    return np.abs(pixels(a) - pixels(b)).max()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A picture with something in every corner."""
    ramp = np.linspace(0, 255, 96, dtype=np.uint8)
    picture = np.stack([np.tile(ramp, (96, 1)), np.tile(ramp[:, None], (1, 96)), np.full((96, 96), 80, np.uint8)], -1)
    file = tmp_path_factory.mktemp("pictures") / "ramp.png"
    Image.fromarray(picture).save(file)
    return str(file)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    file = tmp_path_factory.mktemp("pictures") / "stripes.png"
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::8] = (240, 90, 40)
    Image.fromarray(stripes).save(file)
    return str(file)


@pytest.fixture(scope="module")
def subject(engine, path):
    return taken_apart(engine, path)


# ---- a picture taken apart ----


def test_a_picture_is_taken_apart_step_by_step(engine, path):
    steps = list(take_apart(engine, path))
    assert {step.stage for step in steps} == {"invert", "decoder"} and len(steps) > 2
    assert [step.subject for step in steps[:-1]] == [None] * (len(steps) - 1)
    subject = steps[-1].subject
    assert subject.latent.z_i.shape == (1, 32) and subject.latent.x_T.shape == (1, 3, 64, 64)
    assert math.isfinite(subject.psnr) and subject.shelf_id is None
    again = list(take_apart(engine, path, kept=subject))
    assert len(again) == 1 and again[0].subject is subject


def test_psnr_of_known_differences():
    black, grey = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), (25, 25, 25))
    assert psnr(black, black) == 99.0
    assert psnr(black, grey) == pytest.approx(20 * math.log10(255 / 25))


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (40, 20), "red"), "JPEG", exif=exif)


UPLOADS = {
    "cmyk": lambda: saved(Image.new("CMYK", (40, 40), (0, 200, 200, 0)), "JPEG"),
    "animated": lambda: saved(
        Image.new("RGB", (32, 32), "red"), "WEBP", save_all=True, append_images=[Image.new("RGB", (32, 32))]
    ),
    "exif": rotated,
    "transparent": lambda: saved(Image.new("RGBA", (32, 32), (0, 0, 0, 0)), "PNG"),
    "16 bit": lambda: saved(Image.fromarray(np.full((32, 32), 40000, np.uint16)), "PNG"),
}
BAD_UPLOADS = {
    "empty": lambda: b"",
    "truncated": lambda: saved(Image.effect_noise((64, 64), 90), "PNG")[:200],
    "text": lambda: b"not a picture",
    "svg": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "gif": lambda: saved(Image.new("P", (32, 32)), "GIF"),
    "thin": lambda: saved(Image.new("L", (2000, 10)), "PNG"),
    "tiny": lambda: saved(Image.new("L", (4, 4)), "PNG"),
    "bomb": lambda: saved(Image.new("1", (13000, 13000)), "PNG"),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_unusual_uploads_work(engine, tmp_path, kind):
    file = tmp_path / "upload"
    file.write_bytes(UPLOADS[kind]())
    subject = taken_apart(engine, str(file), steps=2)
    assert subject.picture.size == (64, 64) and subject.picture.mode == "RGB"
    if kind == "transparent":
        assert pixels(subject.picture).min() == 255


@pytest.mark.parametrize("kind", BAD_UPLOADS)
def test_bad_uploads_are_explained(engine, tmp_path, kind):
    file = tmp_path / "upload.png"
    file.write_bytes(BAD_UPLOADS[kind]())
    with pytest.raises(RequestError) as fault:
        taken_apart(engine, str(file))
    assert f"error.{fault.value.code}" in strings()


@pytest.mark.parametrize("verb", ["variations", "text_diff", "pca", "typographic"])
def test_no_picture_is_explained(engine, verb):
    verbs = {
        "variations": lambda: variations._api(engine)(None),
        "text_diff": lambda: text_diff._api(engine)(None, "a cat"),
        "pca": lambda: pca._api(engine)(None),
        "typographic": lambda: typographic._api(engine)(None, "cat"),
    }
    with pytest.raises(RequestError, match="no picture"):
        verbs[verb]()


def test_shipped_pictures_are_small_and_named_in_both_languages():
    assert len(examples()) >= 6
    for name, file in examples().items():
        assert file.stat().st_size < 40_000 and set(strings()[f"example.{name}"]) == set(LANGUAGES)
    first = next(iter(examples()))
    assert example_paths(f"{first},,nothing", 4) == [str(examples()[first]), None, None, None]
    assert example_paths("../secret", 1) == [None]


# ---- variations ----


def test_eta_0_is_the_reconstruction_and_seeds_differ_above(engine, subject):
    def at(eta, seed):
        job = variations.variation(subject, {"eta": eta, "seed": seed, "size": 64})
        return decoded(engine, "variations", [job])[0].picture

    assert apart(at(0.0, 1), subject.reconstruction) == 0 and apart(at(0.0, 1), at(0.0, 2)) == 0
    assert apart(at(1.0, 1), at(1.0, 2)) > 0 and apart(at(1.0, 1), at(1.0, 1)) == 0


def test_a_grid_is_made_of_pictures_that_can_be_made_alone(engine, subject):
    values = {"eta": 0.5, "seed": 2**32 - 1, "rows": 2, "columns": 3, "size": 64}
    etas, seeds, jobs = variations.grid_jobs(subject, values)
    assert etas == [0.5, 1.0] and seeds == [2**32 - 1, 0, 1] and len(jobs) == 6
    made = decoded(engine, "variations", [job for _, _, job in jobs])
    recipe = made[4].recipe["request"]
    alone = decoded(engine, "variations", [variations.variation(subject, recipe)])[0]
    assert recipe == {"eta": 1.0, "seed": 0, "size": 64} and apart(alone.picture, made[4].picture) <= 1


@pytest.mark.parametrize(
    "change", [{"eta": math.nan}, {"eta": 1.5}, {"seed": -1}, {"size": 63}, {"eta": "x"}, {"rows": 9}]
)
def test_bad_values_of_variations_are_refused(subject, change):
    values = {"eta": 0.5, "seed": 0, "rows": 2, "columns": 2, "size": 64, **change}
    with pytest.raises(RequestError):
        variations.grid_jobs(subject, values) if "rows" in change else variations.variation(subject, values)


# ---- text diff ----

CAPTIONS = {"caption_from": "a red apple", "caption_to": "a green apple"}


def test_theta_0_is_the_picture_and_theta_moves_towards_the_caption(engine, subject):
    captions = text_diff.Captions(engine, CAPTIONS)
    jobs = text_diff.strip_jobs(subject, captions, {**CAPTIONS, "count": 4, "most": 0.5, "size": 64})
    assert [job.request["theta"] for job in jobs] == [0, 0.1667, 0.3333, 0.5]
    made = decoded(engine, "text_diff", jobs)
    assert apart(made[0].picture, subject.reconstruction) <= 1 and apart(made[0].picture, made[-1].picture) > 0
    leaning = [to - was for job in jobs for was, to in captions.cosines(job.latent.z_i)]
    assert leaning == sorted(leaning) and leaning[-1] > leaning[0]
    assert all((job.latent.x_T == subject.latent.x_T).all() for job in jobs)


def heights(line) -> list[float]:
    return [float(pair.split(",")[1]) for pair in line["points"].split(" ")]


def test_the_chart_reads_what_the_strip_shows(engine, subject):
    captions = text_diff.Captions(engine, CAPTIONS)
    drawn = text_diff.curves([subject], captions, theta=0.2, most=0.5)
    assert drawn["at"] == 0.2 and drawn["x"]["high"] == 0.5
    (was, to) = captions.cosines(subject.latent.z_i)[0]
    assert [heights(line)[0] for line in drawn["lines"]] == pytest.approx([was, to], abs=1e-3)
    json.dumps(drawn, allow_nan=False)


@pytest.mark.parametrize(
    "captions, fault",
    [(("a cat", "a cat"), "same"), (("", "  "), "become"), (("A  cat", "a cat"), "same"), (("x" * 1001, "a"), "long")],
)
def test_bad_captions_are_explained(engine, subject, captions, fault):
    values = dict(zip(("caption_from", "caption_to"), captions))
    with pytest.raises(RequestError, match=fault):
        text_diff.diff(subject, text_diff.Captions(engine, values), {"theta": 0.3, "size": 64})


# ---- PCA ----


def test_the_ladder_is_the_papers_scaled_to_the_pack():
    assert pca.ladder(1024) == [20, 30, 40, 80, 120, 160, 200, 320, 1024]
    assert pca.ladder(256) == [5, 8, 10, 20, 30, 40, 50, 80, 256]
    assert pca.ladder(32)[-1] == 32 and min(pca.ladder(32)) >= 1


def test_all_components_are_the_reconstruction_and_noise_is_shared(engine, subject):
    jobs = [pca.truncated(engine, subject, {"k": k, "size": 64}) for k in (1, 8, 32)]
    made = decoded(engine, "pca", jobs)
    assert apart(made[-1].picture, subject.reconstruction) <= 1 and apart(made[0].picture, made[-1].picture) > 0
    assert all((job.latent.x_T == subject.latent.x_T).all() for job in jobs)
    chart = pca.explained(engine, 8)
    shares = heights(chart["lines"][0])
    assert chart["at"] == 8 and len(shares) == 33 and shares == sorted(shares) and shares[-1] == pytest.approx(1)


def test_with_fixed_noise_pca_shows_z_i_alone(engine, subject):
    job = pca.truncated(engine, subject, {"k": 32, "size": 64, "noise": "fixed"})
    made = decoded(engine, "pca", [job])[0]
    assert job.latent.x_T is None and job.request["noise"] == "fixed"
    alone = engine.model.decode(subject.latent.z_i, size=64)[0]
    assert apart(made.picture, alone) <= 1 and apart(made.picture, subject.reconstruction) > 1
    with pytest.raises(RequestError, match="noise"):
        pca.truncated(engine, subject, {"k": 3, "size": 64, "noise": "white"})


@pytest.mark.parametrize("k", [0, 33, math.nan, 2.5, None, "8"])
def test_bad_k_is_refused(engine, subject, k):
    with pytest.raises(RequestError, match="components k"):
        pca.truncated(engine, subject, {"k": k, "size": 64})


def test_a_pack_without_pca_is_said(engine, subject, monkeypatch):
    monkeypatch.setattr(engine.model, "_pca", None)
    assert pca.explained(engine, 3) is None
    with pytest.raises(RequestError, match="PCA"):
        pca.truncated(engine, subject, {"k": 3, "size": 64})


# ---- interpolate ----


def values_of(**changes):
    plain = {"path": "line", "noise": "own", "frames": 5, "side": 3, "seed": 0, "steps": 3, "guidance": 2.0, "size": 64}
    return {**dict.fromkeys((f"caption_{place}" for place in "abcd"), ""), **plain, **changes}


def ends_of(engine, paths):
    return [
        interpolate.End(one.latent, "ABCD"[i], i, one)
        for i, one in enumerate(taken_apart(engine, path) for path in paths)
    ]


def test_the_ends_of_a_line_reconstruct_its_pictures(engine, path, other):
    ends = ends_of(engine, (path, other))
    jobs = interpolate.frame_jobs(engine, ends, values_of())
    made = decoded(engine, "interpolate", [job for _, _, job in jobs])
    assert [place[:2] for place in jobs] == [(0, i) for i in range(5)]
    assert apart(made[0].picture, ends[0].subject.reconstruction) <= 1
    assert apart(made[-1].picture, ends[1].subject.reconstruction) <= 1
    assert all(apart(a.picture, b.picture) > 0 for a, b in zip(made, made[1:]))


def test_three_ends_pass_through_the_middle_one(engine, path, other):
    ends = ends_of(engine, (path, other, path))
    row = interpolate.between(ends, values_of(frames=5), None)[0]
    assert np.allclose(row[2].z_i, ends[1].latent.z_i, atol=1e-5)
    assert np.allclose(row[2].x_T, ends[1].latent.x_T, atol=1e-4)


def test_the_corners_of_a_pad_are_its_ends(engine, path, other):
    ends = ends_of(engine, (path, other, other, path))
    rows = interpolate.between(ends, values_of(path="pad"), None)
    corners = [rows[0][0], rows[0][2], rows[2][0], rows[2][2]]
    assert len(rows) == 3 and all(len(row) == 3 for row in rows)
    for corner, end in zip(corners, ends):
        assert np.allclose(corner.z_i, end.latent.z_i, atol=1e-5) and np.allclose(corner.x_T, end.latent.x_T, atol=1e-4)


def test_one_fixed_noise_serves_every_frame(engine, path, other):
    jobs = interpolate.frame_jobs(engine, ends_of(engine, (path, other)), values_of(noise="fixed"))
    noises = [job.latent.x_T for _, _, job in jobs]
    assert all((noise == noises[0]).all() for noise in noises)
    assert jobs[0][2].options["steps"] == 3


def test_captions_are_ends_too(engine, path):
    files = interpolate._api(engine)(caption_a="a red apple", caption_b="고양이", frames=3)
    recipes = [engine.read(file) for file in files]
    assert [recipe["request"]["frame"] for recipe in recipes] == [1, 2, 3]
    assert recipes[0]["lab"] == "interpolate" and recipes[0]["sources"] == [None] * 4
    mixed = interpolate._api(engine)(caption_a="a cat", picture_c=path, frames=2)
    back = Image.open(mixed[-1])
    assert apart(back, taken_apart(engine, path).reconstruction) <= 1


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({}, "Two ends"),
        ({"caption_a": "a cat"}, "Two ends"),
        ({"caption_a": "a cat", "caption_b": " "}, "Two ends"),
        ({"caption_a": "a", "caption_b": "b", "caption_c": "c", "path": "pad"}, "four ends; there are 3"),
        ({"path": "spiral"}, "path must be"),
        ({"noise": None}, "noise must be"),
        ({"frames": 1}, "frames"),
        ({"frames": math.inf}, "frames"),
        ({"side": 99}, "rows and columns"),
        ({"guidance": math.nan}, "guidance"),
    ],
)
def test_bad_ends_and_values_are_explained(changes, fault):
    with pytest.raises(RequestError, match=fault):
        interpolate.given([None] * 4, interpolate.checked_values(values_of(**changes)))


def test_frames_leave_as_gif_and_mp4(tmp_path):
    frames = [Image.new("RGB", (64, 64), (40 * i, 90, 200 - 30 * i)) for i in range(5)]
    gif = Image.open(film.write_gif(frames, tmp_path / "a.gif"))
    assert gif.size == (384, 384) and gif.n_frames >= 8 and gif.info["loop"] == 0
    assert b"AI-generated" in gif.info["comment"]
    if not film.mp4_available():
        pytest.skip("no video encoder")
    import av

    with av.open(str(film.write_mp4(frames, tmp_path / "a.mp4"))) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(shown) == 2 * len(film.there_and_back(frames)) and shown[0].shape == (384, 384, 3)
    assert np.abs(shown[0][200, 200].astype(int) - (0, 90, 200)).max() < 12


def test_mp4_without_an_encoder_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(film, "mp4_available", lambda: False)
    with pytest.raises(RequestError, match="pip install av"):
        film.write_mp4([Image.new("RGB", (64, 64))], tmp_path / "a.mp4")


# ---- typographic ----


def written(**changes):
    values = {
        "word": "cat",
        "x": 0.5,
        "y": 0.5,
        "word_size": 0.2,
        "colour": "red",
        "label": True,
        "classes": "apple, dog",
    }
    return {**values, "n": 2, "seed": 0, "size": 64, **changes}


def test_the_word_is_written_where_it_was_put(path):
    picture = Image.open(path)
    clean = attack.write_word(picture, written(word=""))
    for x, y in ((0.3, 0.25), (0.7, 0.75)):
        changed = np.abs(pixels(attack.write_word(picture, written(x=x, y=y))) - pixels(clean)).max(-1) > 8
        down, across = np.nonzero(changed)
        middle = (across.min() + across.max()) / 2 / attack.CANVAS, (down.min() + down.max()) / 2 / attack.CANVAS
        assert middle == pytest.approx((x, y), abs=0.02)
    wide = attack.write_word(picture, written(word="incomprehensibilities", word_size=0.6, label=False))
    across = np.nonzero(np.abs(pixels(wide) - pixels(clean)).max((0, 2)) > 8)[0]
    assert across.min() > 0 and across.max() < attack.CANVAS - 1
    assert apart(attack.write_word(picture, written(word="고양이")), clean) > 0


def test_probabilities_are_of_all_classes_and_the_word_joins_them(engine, path):
    report = typographic._api(engine)(path, "cat", classes="apple, dog,, apple", n=1)[1]
    assert list(report) == ["apple", "dog", "cat"] and report["cat"]["word"]
    for key in ("before", "after"):
        assert sum(row[key] for row in report.values()) == pytest.approx(1, abs=1e-4)


def test_no_word_changes_nothing(engine, path):
    made = attack.Attack(engine, Image.open(path), written(word=""))
    assert made.before == pytest.approx(made.after) and (made.z_i[0] == made.z_i[1]).all()


def test_both_embeddings_are_decoded_from_the_same_noise(engine, path):
    files, _ = typographic._api(engine)(path, "cat", classes="apple, dog", n=2, seed=5)
    requests = [engine.read(file)["request"] for file in files]
    assert [(one["embedding"], one["seed"]) for one in requests] == [
        ("clean", 5), ("clean", 6), ("attacked", 5), ("attacked", 6),
    ]  # fmt: skip
    same = typographic._api(engine)(path, "", classes="apple, dog", n=1, seed=5)[0]
    assert (
        apart(Image.open(same[0]), Image.open(same[1])) <= 1 and apart(Image.open(same[0]), Image.open(files[0])) <= 1
    )


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({"classes": "", "word": "cat"}, "2 to 20 classes"),
        ({"classes": ",".join(map(str, range(30)))}, "2 to 20 classes"),
        ({"word": "x" * 41}, "too long"),
        ({"colour": "url(x)"}, "colour"),
        ({"x": math.nan}, "place"),
        ({"word_size": 5}, "size"),
        ({"n": 0}, "number of pictures"),
    ],
)
def test_bad_attacks_are_explained(changes, fault):
    with pytest.raises(RequestError, match=fault):
        attack.checked_values(written(**changes))


# ---- priors ----


def test_four_ways_from_one_caption_and_noise(engine):
    files, report = priors._api(engine)("a red apple", n=2, seed=4)
    assert list(report) == ["caption", "text", "ar", "diffusion"] and len(files) == 8
    assert report["caption"]["cosine_of_embedding"] is None
    assert report["text"]["cosine_of_embedding"] == pytest.approx([1, 1], abs=1e-4)
    assert all(0 <= one["spread"] <= 2 and one["seconds"] >= 0 for one in report.values())
    recipes = [engine.read(file) for file in files]
    assert [recipe["request"]["prior"] for recipe in recipes] == [way for way in report for _ in range(2)]
    assert [recipe["index"] for recipe in recipes] == [0, 1] * 4


def test_ways_that_a_pack_lacks_are_left_out(engine, monkeypatch):
    monkeypatch.setattr(engine, "has", lambda stage: stage != "prior_ar")
    assert priors.ways(engine) == {"caption": True, "text": True, "ar": False, "diffusion": True}
    assert "ar" not in priors.requests(engine, {"prompt": "a cat", "n": 1, "seed": 0, "size": 64})


@pytest.mark.parametrize("change", [{"prompt": "  "}, {"n": 5}, {"seed": math.nan}, {"size": 65}])
def test_bad_values_of_priors_are_refused(engine, change):
    with pytest.raises(RequestError):
        priors.requests(engine, {"prompt": "a cat", "n": 1, "seed": 0, "size": 64, **change})


# ---- on the page ----


@pytest.fixture(scope="module")
def lab(engine):
    """A small lab of its own: a picture, eta, and the edit that follows it."""
    with gr.Blocks():
        shelf = Shelf(engine)
        with gr.Tabs() as shelf.tabs, shelf.tab("variations") as tab:
            inputs = subject_inputs(["variations.source"])
            eta, seed, size = gr.Slider(0, 1), gr.Number(0), gr.Radio([64])
            live = Live(engine, shelf, "variations", inputs, variations.variation)
        fields = {"eta": eta, "seed": seed, "size": size}
        shelf.connect("variations", fields, receives=inputs.inbox, sources=inputs.pictures)
        live.wire(tab, fields, [eta])
    return live


def test_an_edit_settles_once_and_is_put_on_the_shelf(lab, path):
    steps = list(lab._settle(None, [], (), None, path, 0.5, 1, 64))
    board, kept, settled, items = (
        next((step[i] for step in reversed(steps) if not is_skip(step[i])), None) for i in range(4)
    )
    assert board["phase"] == "done" and all(board["rows"][0]["cells"]) and "file" in board["rows"][0]["cells"][4]
    assert "PSNR" in strings()[board["rows"][0]["cells"][3]["note"]["key"]]["en"]
    assert len(items) == 1 and items[0]["recipe"]["sources"][0]["picture"]
    again = list(lab._settle(None, items, kept, settled, path, 0.5, 1, 64))
    assert len(again) == 1 and all(map(is_skip, again[0]))
    dragged, settled_then = lab._drag(None, kept, settled, path, 0.9, 1, 64)
    assert "src" in dragged["rows"][0]["cells"][4] and dragged["coarse"]
    assert settled_then is None  # so that letting go where it began settles again
    assert all(map(is_skip, lab._drag(None, kept, settled, path, 0.5, 1, 64)))
    assert all(map(is_skip, lab._drag(None, (), None, path, 0.9, 1, 64)))


def is_skip(value):
    return isinstance(value, dict) and value.get("__type__") == "update" and len(value) == 1


def test_a_recipe_brings_its_source_pictures_back(lab, engine, path):
    steps = list(lab._settle(None, [], (), None, path, 0.5, 1, 64))
    items = next(step[3] for step in reversed(steps) if not is_skip(step[3]))
    restored = lab.shelf._restored(items[0]["recipe"], "en")
    back = restored[lab.inputs.pictures[0]]
    assert apart(engine.open(back), taken_apart(engine, path).picture) == 0
    assert restored[lab.fields["eta"]] == 0.5
    for damaged in ({"sources": "x"}, {"sources": [{"picture": "%%"}]}, {"sources": [7, None]}):
        lab.shelf._restored({**items[0]["recipe"], **damaged}, "en")


# ---- words ----


def test_every_word_that_the_labs_use_is_in_both_languages():
    files = [ROOT / "components" / f"{name}.py" for name in (*LABS, "subject", "live", "attack", "film", "presets")]
    files += [ROOT / "assets" / "js" / f"{name}.js" for name in ("labs", "interpolate", "typographic")]
    used = {
        key
        for file in files
        for key in re.findall(r'["\'`]((?:[a-z_]+)\.[a-z_A-Z]+)["\'`]', file.read_text(encoding="utf-8"))
        if key.split(".")[0] in (*LABS, "subject", "shared", "badge")
    }
    assert len(used) > 60
    assert not [key for key in used if key not in strings()]
    for name in (*LABS, "subject"):
        table = json.loads((ROOT / "assets" / "i18n" / f"{name}.json").read_text(encoding="utf-8"))
        assert all(set(entry) == set(LANGUAGES) and all(entry.values()) for entry in table.values())


def test_every_fault_of_the_labs_has_korean_words():
    codes = set()
    for name in (*LABS, "attack", "film"):
        for node in ast.walk(ast.parse((ROOT / "components" / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RequestError":
                codes.add(node.args[1].value)
    assert codes >= {"ends_two", "ends_four", "captions_equal", "classes", "mp4_absent"}
    assert not [code for code in codes if f"error.{code}" not in strings()]
