"""The training script on a small corpus: it resumes exactly, several processes make one's step, runs become a pack."""

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_stages

from unclip_core.corpus import scenes
from unclip_core.corpus.shards import write_shards
from unclip_core.errors import PackError, UnclipError
from unclip_core.packs import read_pack
from unclip_core.training import teacher
from unclip_core.training.augment import redrawn, smaller
from unclip_core.training.data import load_split
from unclip_core.training.runs import averaged, load_clip, make_pack, worth_knowing
from unclip_core.training.stages import DecoderTask, whitened
from unclip_core.training.train import parse, rate, train, training_device

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Coloured shapes as every set that a stage reads."""
    folder, rng = tmp_path_factory.mktemp("corpus"), Random(0)

    def shapes(count: int, size: int):
        for i in range(count):
            picture, texts = scenes.shapes(size, rng)
            yield (
                f"s{i}",
                picture,
                {
                    "captions": texts,
                    "kind": "single" if i % 4 else "shapes",
                    "concept": f"{i % 6}",
                    "core": True,
                    "label": texts[0],
                    "label_ko": texts[-1],
                },
            )

    for name, count, size in (
        ("train/singles", 24, 128),
        ("held_out_pairs", 16, 128),
        ("hires", 2, 1024),
        ("hires_held_out", 2, 1024),
    ):
        write_shards(folder / name, shapes(count, size))
    (folder / "corpus.json").write_text(json.dumps({"attribution": []}))
    return folder


def options(data, runs, pack, stage="decoder", **changes):
    arguments = {"steps": 2, "batch": 4, "preview-every": 1e9, **changes}
    flags = [f"--{key}={value}" for key, value in arguments.items() if value is not True]
    flags += [f"--{key}" for key, value in arguments.items() if value is True]
    return [
        "--stage",
        stage,
        "--data",
        str(data),
        "--runs",
        str(runs),
        "--pack",
        str(pack),
        "--option=widths=32,64",
        *flags,
    ]


def test_a_resumed_run_ends_where_an_unbroken_one_does(data, tiny_pack, tmp_path):
    train(parse(options(data, tmp_path / "whole", tiny_pack, steps=3)))
    train(parse(options(data, tmp_path / "broken", tiny_pack, steps=3, minutes=0)))  # stops after one step
    assert torch.load(tmp_path / "broken/decoder/last.pt", weights_only=True)["step"] == 1
    train(parse(options(data, tmp_path / "broken", tiny_pack, steps=3, resume=True)))
    (_, one), (_, two) = averaged(tmp_path / "whole", "decoder"), averaged(tmp_path / "broken", "decoder")
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_make_the_step_of_one(optimizer, data, tiny_pack, tmp_path):
    one, two = (
        options(data, tmp_path / name, tiny_pack, steps=1, micro=2, optimizer=optimizer) for name in ("one", "two")
    )
    train(parse(one))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29517"]
    done = subprocess.run([*launch, "-m", "unclip_core.training.train", *two], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    alone, together = (torch.load(tmp_path / n / "decoder/last.pt", weights_only=True) for n in ("one", "two"))
    for key, value in alone["network"].items():
        torch.testing.assert_close(value, together["network"][key], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("stage", ["clip", "prior", "prior_ar", "upsampler_256", "upsampler_1024"])
def test_every_stage_takes_a_step_and_judges_itself(stage, data, tiny_pack, tmp_path, capsys):
    loss = train(parse(options(data, tmp_path, tiny_pack, stage=stage, steps=1, batch=8)))
    assert loss > 0
    assert f"{stage} step 1" in capsys.readouterr().out  # the validation figures
    config, weights = averaged(tmp_path, stage)
    assert config and all(torch.isfinite(w.float()).all() for w in weights.values())


@pytest.mark.parametrize(("tower", "locked"), [("picture", "text"), ("text", "picture")])
def test_one_tower_of_clip_trains_while_the_other_stays(tower, locked, data, tiny_pack, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "features", lambda data, rows: torch.randn(len(rows), 32))
    train(parse(options(data, tmp_path, tiny_pack, stage="clip", steps=1, batch=8)))
    _, before = averaged(tmp_path, "clip")
    option = f"train={tower}"
    more = options(data, tmp_path, tiny_pack, stage="clip", init=tmp_path, steps=2, batch=8, option=option, ema=0)
    train(parse(more))
    _, after = averaged(tmp_path, "clip")
    assert before.keys() == after.keys(), "what trains beside it is left behind"
    moved = {key.startswith("model.visual.") for key in before if not torch.equal(before[key], after[key])}
    assert moved == {tower == "picture"}


def test_icons_that_are_not_there_are_asked_for(data, tiny_pack, tmp_path):
    with pytest.raises(UnclipError, match="build it, or set it to 0"):
        DecoderTask(parse([*options(data, tmp_path, tiny_pack), "--option=icons=1"]))


def test_mirrored_drawings_have_their_own_z_i_and_noise_is_what_hands_do(data, tiny_pack, tmp_path):
    def drawn(*extra):
        task = DecoderTask(parse([*options(data, tmp_path, tiny_pack), *extra]))
        pixels, z_i, _ = task.draw(16, torch.Generator().manual_seed(0))
        return task, pixels, z_i

    task, plain, z_i = drawn()
    _, pixels, own = drawn("--option=flip=1")
    turned = (pixels != plain).flatten(1).any(1)
    assert 0 < turned.sum() and torch.equal(pixels[turned], plain.flip(-1)[turned])
    torch.testing.assert_close(own[turned], task.encoded.clip.encode_pixels(pixels[turned]), atol=2e-2, rtol=0)
    torch.testing.assert_close(own[~turned], z_i[~turned])
    _, pixels, seen = drawn("--option=redrawn=1")
    assert torch.equal(pixels, plain)  # the target stays; drawings, not composed pictures, are seen in another hand
    assert 0 < (seen != z_i).any(1).sum() < len(seen) and (seen - z_i).norm(dim=1).max() > 0.02
    task, pixels, noised = drawn("--option=noise=1")
    assert torch.equal(pixels, plain) and not torch.allclose(noised, z_i, atol=1e-3)
    torch.testing.assert_close(noised.norm(dim=1), torch.ones(16))
    concept = task.encoded.data.fields[1]["concept"]
    same = [z for z, row in zip(task.encoded.z_i, task.encoded.data.fields)
            if row["concept"] == concept and row["kind"] == "single"]  # fmt: skip
    others = torch.stack(same[1:]).mean(0)
    assert (task.hands - (same[0] - others)).norm(dim=1).min() < 1e-5


def test_another_hand_inks_edges_and_leaves_flat_grounds():
    picture = torch.ones(40, 3, 32, 32)
    picture[:, :, 8:24, 8:24] = torch.tensor([0.6, -0.2, -0.6])[:, None, None]
    made = redrawn(picture.clone(), torch.Generator().manual_seed(0))
    assert made.shape == picture.shape and made.min() >= -1 and made.max() <= 1
    assert torch.equal(made[:, :, :6], picture[:, :, :6])  # paper stays paper
    inked = made[:, :, 8, 16].amax(1) < -0.55
    assert 10 < inked.sum() < 40 and (made[:, 0, 16, 16] != picture[:, 0, 16, 16]).any()


def test_a_smaller_drawing_is_the_whole_drawing_on_more_of_its_ground():
    picture = torch.full((60, 3, 64, 64), -0.2)
    picture[:, :, 2:62, 2:62] = 0.9
    made = smaller(picture.clone(), torch.Generator().manual_seed(0), least=0.5)
    inside = (made[:, 0] > 0.35).double()
    sides = inside.sum((1, 2)).sqrt() / 60
    assert made.shape == picture.shape and sides.min() > 0.48 and sides.max() < 1.02 and sides.std() > 0.1
    assert torch.allclose(made[:, :, [0, 0, -1, -1], [0, -1, 0, -1]], torch.tensor(-0.2), atol=1e-4)
    places = (inside.sum(1) * torch.arange(64)).sum(1) / inside.sum((1, 2))
    assert places.std() > 1  # and not always in the middle


def test_a_picture_tower_can_be_held_where_its_pictures_were(data, tiny_pack, tmp_path):
    train(parse(options(data, tmp_path / "begun", tiny_pack, stage="clip", steps=1, batch=8)))
    pictures = load_split(data, 64).pixels(torch.arange(24))

    def z_i(runs):
        with torch.no_grad():
            return load_clip(runs, tiny_pack).eval().encode_pixels(pictures)

    def kept(weight: int) -> float:
        more = options(data, tmp_path / f"{weight}", tiny_pack, stage="clip", steps=6, batch=8, init=tmp_path / "begun")
        extra = ["train=picture", "teacher=0", "redrawn=0.5", "smaller=0.5", f"keep={weight}"]
        train(parse([*more, "--ema=0", "--warmup=1", *(f"--option={one}" for one in extra)]))
        return F.cosine_similarity(z_i(tmp_path / f"{weight}"), z_i(tmp_path / "begun")).mean().item()

    assert kept(100) > kept(0)


def test_a_whitened_decoder_is_the_same_function():
    decoder = tiny_stages()["decoder"]
    generator = torch.Generator().manual_seed(1)
    z_i = torch.randn(500, 32, generator=generator) * torch.logspace(0, -2, 32) + 0.1
    decoder.fit(z_i + 0.05)  # statistics that are not quite these
    made = whitened(decoder, z_i)
    assert made.config.whiten and not decoder.config.whiten
    for given in (z_i[:8], None):
        for one, two in zip(decoder.condition(given, None, 8)[:2], made.condition(given, None, 8)[:2]):
            torch.testing.assert_close(one, two, atol=2e-3, rtol=2e-3)


def test_a_decoder_is_trained_and_drawn_where_its_shift_says(data, tiny_pack, tmp_path):
    train(parse([*options(data, tmp_path, tiny_pack, steps=1), "--option=shift=3"]))
    (config, _) = averaged(tmp_path, "decoder")
    assert config["schedule"]["shift"] == 3
    again = DecoderTask(parse([*options(data, tmp_path / "again", tiny_pack), f"--init={tmp_path}"]))
    assert again.network.config.schedule.shift == 3
    assert again.network.config.schedule.times(3).tolist() == [999, 749, 0]


def test_a_decoder_goes_on_whitened(data, tiny_pack, tmp_path):
    train(parse(options(data, tmp_path / "plain", tiny_pack, steps=1)))
    white = {"init": tmp_path / "plain", "option": "whiten=1"}
    train(parse(options(data, tmp_path / "white", tiny_pack, steps=1, **white)))
    train(parse(options(data, tmp_path / "white", tiny_pack, steps=2, resume=True, option="whiten=1")))
    config, weights = averaged(tmp_path / "white", "decoder")
    assert config["whiten"] and weights["clip_basis"].shape == (32, 32)
    train(parse(options(data, tmp_path / "more", tiny_pack, steps=1, init=tmp_path / "white")))
    assert averaged(tmp_path / "more", "decoder")[0]["whiten"]


def test_a_left_over_clip_that_is_used_in_place_of_the_packs_is_named(data, tiny_pack, tmp_path, capsys):
    train(parse(options(data, tmp_path, tiny_pack, steps=1)))
    assert "Embeddings are by the CLIP" not in capsys.readouterr().out
    train(parse(options(data, tmp_path, tiny_pack, stage="clip", steps=1, batch=8)))
    train(parse(options(data, tmp_path, tiny_pack, steps=1)))
    assert f"CLIP of {tmp_path / 'clip'}, not" in capsys.readouterr().out


def test_runs_become_a_pack(data, tiny_pack, tmp_path):
    train(parse(options(data, tmp_path / "runs", tiny_pack, stage="prior", steps=1)))
    folder = make_pack(tmp_path / "runs", data, tmp_path / "mine", base=str(tiny_pack))
    pack = read_pack(folder)
    assert pack.name == "mine" and set(pack.stages) == set(read_pack(tiny_pack).stages)
    assert pack.config("prior")["width"] == 256 and pack.config("decoder") == read_pack(tiny_pack).config("decoder")


def test_a_pack_can_keep_what_its_decoder_learned_on(data, tiny_pack, tmp_path):
    def packed(name, runs="none", base=tiny_pack, **options):
        return read_pack(make_pack(tmp_path / runs, data, tmp_path / name, base=str(base), **options))

    before, pack = read_pack(tiny_pack), packed("mine", pull=0.3)
    config, known = pack.config("decoder"), pack.tensors("decoder")["z_i_known"]
    assert config == {**before.config("decoder"), "known": len(known), "pull": 0.3}
    assert pack.attribution == before.attribution  # nothing was trained on these data
    assert len(known) == len(load_split(data, 64))  # few enough to keep them all
    torch.testing.assert_close(known.float().norm(dim=1), torch.ones(len(known)), atol=1e-2, rtol=0)
    without = packed("without", base=pack.folder, pull=0)
    assert without.config("decoder")["pull"] == 0 and "z_i_known" not in without.tensors("decoder")
    with pytest.raises(UnclipError, match="share from 0 to 1"):
        packed("wrong", pull=3)


def test_a_decoder_that_is_trained_on_keeps_its_pull(data, tiny_pack, tmp_path):
    train(parse(options(data, tmp_path / "runs", tiny_pack, steps=1)))
    pack = make_pack(tmp_path / "runs", data, tmp_path / "mine", base=str(tiny_pack), pull=0.3)
    train(parse(options(data, tmp_path / "more", tiny_pack, steps=1, init=pack)))
    assert averaged(tmp_path / "more", "decoder")[0]["pull"] == 0.3
    again = read_pack(make_pack(tmp_path / "more", data, tmp_path / "again", base=str(tiny_pack)))
    assert again.config("decoder")["pull"] == 0.3 and "z_i_known" in again.tensors("decoder")


def test_plain_drawings_are_kept_before_composed_pictures():
    fields = [{"kind": "single" if i % 3 else "scene"} for i in range(30)]
    kept = worth_knowing(fields, 25)
    assert kept[:20] == [i for i in range(30) if i % 3] and len(set(kept)) == 25
    assert all(fields[i]["kind"] == "scene" for i in kept[20:]) and kept[-1] > 20
    assert worth_knowing(fields, 5) == kept[:5] and len(worth_knowing(fields, 99)) == 30


def test_a_stage_starts_from_a_pack(data, tiny_pack, tmp_path):
    train(parse(options(data, tmp_path / "runs", tiny_pack, stage="prior", steps=1)))
    pack = make_pack(tmp_path / "runs", data, tmp_path / "mine", base=str(tiny_pack))
    train(parse(options(data, tmp_path / "more", tiny_pack, stage="prior", steps=1, init=pack, lr=1e-12)))
    (_, one), (_, two) = averaged(tmp_path / "runs", "prior"), averaged(tmp_path / "more", "prior")
    for key in one:
        torch.testing.assert_close(one[key].to(torch.bfloat16), two[key].to(torch.bfloat16), atol=1e-3, rtol=1e-2)
    with pytest.raises(PackError, match="weights"):
        train(parse(options(data, tmp_path / "wrong", tiny_pack, stage="prior", steps=1, init=tiny_pack)))


def test_weights_can_end_half_way(data, tiny_pack, tmp_path):
    def ended(name, **changes):
        train(parse(options(data, tmp_path / name, tiny_pack, stage="prior", steps=1, warmup=1, ema=0, **changes)))
        return averaged(tmp_path / name, "prior")[1]

    begun = ended("begun")
    far, half = (ended(name, init=tmp_path / "begun", blend=share) for name, share in (("far", 1), ("half", 0.5)))
    moved = [name for name in begun if not torch.equal(begun[name], far[name])]
    assert moved
    for name in moved:
        torch.testing.assert_close(half[name], (begun[name] + far[name]) / 2)
    with pytest.raises(UnclipError, match="--init"):
        train(parse(options(data, tmp_path / "nowhere", tiny_pack, stage="prior", steps=1, blend=0.5)))


def test_clip_goes_on_with_its_own_words_on_other_captions(data, tiny_pack, tmp_path):
    """A pack's token table stays, whatever words the new captions use."""
    train(parse(options(data, tmp_path, tiny_pack, stage="clip", steps=1, batch=8, init=tiny_pack)))
    before, after = read_pack(tiny_pack).tensors("clip"), averaged(tmp_path, "clip")[1]
    assert torch.equal(before["vocabulary"], after["vocabulary"])


def test_statistics_of_another_clip_are_measured_anew_on_request(data, tiny_pack, tmp_path):
    def means(name, **changes):
        train(parse(options(data, tmp_path / name, tiny_pack, stage="prior", steps=1, **changes)))
        return averaged(tmp_path / name, "prior")[1]["clip_mean"].clone()

    own = means("runs")
    path = tmp_path / "runs/prior/last.pt"
    state = torch.load(path, weights_only=True)
    state["ema"]["clip_mean"] += 1
    torch.save(state, path)
    torch.testing.assert_close(means("kept", init=tmp_path / "runs"), own + 1)
    torch.testing.assert_close(means("anew", init=tmp_path / "runs", option="refit=1"), own)


def test_learning_rate_warms_up_holds_and_falls():
    assert rate(0, 1000, 100, 0.3) == pytest.approx(0.01)
    assert rate(500, 1000, 100, 0.3) == 1.0
    assert rate(850, 1000, 100, 0.3) == pytest.approx(0.5)
    assert rate(1000, 1000, 100, 0.3) == pytest.approx(0.0)


def test_faults_are_named(data, tiny_pack, tmp_path):
    with pytest.raises(UnclipError, match="no checkpoint"):
        train(parse(options(data, tmp_path, tiny_pack, resume=True)))
    with pytest.raises(UnclipError, match="No .tar shards"):
        train(parse(options(tmp_path / "nowhere", tmp_path, tiny_pack)))
    with pytest.raises(UnclipError, match="both, picture, text"):
        train(parse(options(data, tmp_path, tiny_pack, stage="clip", option="train=towers")))
    with pytest.raises(UnclipError, match="no trained prior"):
        averaged(tmp_path, "prior")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("stage", ["clip", "prior", "prior_ar", "decoder", "upsampler_256"])
def test_every_stage_trains_on_a_gpu(stage, data, tiny_pack, tmp_path):
    loss = train(parse(options(data, tmp_path, tiny_pack, stage=stage, steps=2, batch=8, device="cuda")))
    assert loss == loss and (tmp_path / stage / "last.pt").exists()


def test_a_device_that_is_not_there_is_named(data, tiny_pack, tmp_path):
    with pytest.raises(UnclipError, match="nowhere"):
        train(parse(options(data, tmp_path, tiny_pack, steps=1, device="nowhere")))


def test_torchruns_processes_take_a_gpu_each(monkeypatch):
    monkeypatch.setattr("unclip_core.training.train.pick_device", torch.device)  # without asking for the hardware
    assert training_device("cuda") == torch.device("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert training_device("cuda") == torch.device("cuda", 1)
    assert training_device("cuda:3") == torch.device("cuda", 3) and training_device("cpu") == torch.device("cpu")
