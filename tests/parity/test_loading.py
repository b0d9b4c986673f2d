"""Folders of published weights: every layout, what goes wrong in them, and the pipeline's verbs on them."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peers
import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPVisionConfig, CLIPVisionModelWithProjection

from unclip_core import karlo
from unclip_core.clip import Clip, ClipConfig
from unclip_core.errors import PackError, RequestError
from unclip_core.karlo_extras import add_stand_in, fit_pca
from unclip_core.karlo_files import Weights, check_keys
from unclip_core.karlo_keys import (
    CONDITIONING_KEYS,
    clip_image_keys,
    clip_text_keys,
    decoder_unet_config,
    prior_config,
    prior_keys,
    unet_keys,
    upsampler_unet_config,
)
from unclip_core.karlo_stages import KarloDecoder, KarloDecoderConfig
from unclip_core.pipeline import UnCLIP
from unclip_core.prior_diffusion import DiffusionPrior
from unclip_core.unet import UNet

REFERENCE = {"steps": (2, 2, 2), "guidance": (2.0, 3.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "model"
    peers.write_folder(folder, peers.Shape())
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def model(folder):
    return UnCLIP.load(folder)


def drawn(model):
    return karlo.sample_reference(model, ["a red apple"], generator=torch.Generator().manual_seed(0), **REFERENCE)


# ---- layouts ----


def test_low_memory_draws_the_same_and_lets_go(folder, model):
    frugal = UnCLIP.load(folder, low_memory=True)
    assert torch.equal(drawn(frugal), drawn(model))
    assert set(frugal.stages._ready) == {"clip", "upsampler_256"}
    assert frugal.has("prior") and list(frugal.stages) == ["clip", "prior", "decoder", "upsampler_256"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to look at its own memory")
def test_weights_stay_in_the_mapped_file(model):
    """What needs no joining and no other dtype is not copied: it lies in the file's own mapping."""
    address = model.stages["decoder"].unet.norm_out.weight.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            assert line.endswith("decoder/diffusion_pytorch_model.safetensors")
            return
    raise AssertionError("no mapping holds the weight")


def test_shards_and_old_files_give_the_same(copy, model):
    decoder = copy / "decoder"
    tensors = load_file(decoder / "diffusion_pytorch_model.safetensors")
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, decoder / file)
    places = {name: file for file, part in halves.items() for name in part}
    (decoder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (decoder / "diffusion_pytorch_model.safetensors").unlink()
    prior = copy / "prior" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(prior), prior.with_suffix(".bin"))
    prior.unlink()
    assert torch.equal(drawn(UnCLIP.load(copy)), drawn(model))


def test_a_saved_tokenizer_in_one_file(copy, model, folder):
    tokenizer = copy / "tokenizer"
    assert (tokenizer / "tokenizer.json").is_file() and not (tokenizer / "vocab.json").exists()
    shutil.copy(folder.with_name("model-tokenizer") / "vocab.json", tokenizer)
    shutil.copy(folder.with_name("model-tokenizer") / "merges.txt", tokenizer)
    (tokenizer / "tokenizer.json").unlink()
    captions = ["a red apple!", "on red"]
    ours = [m.stages["clip"].tokenizer(captions)[0] for m in (UnCLIP.load(copy), model)]
    assert torch.equal(*ours)


def test_old_end_mark(copy, model):
    """Text configs from before 2023 say eos_token_id = 2 and mean the highest number in the row."""
    path = copy / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": 2}))
    old = UnCLIP.load(copy)
    torch.testing.assert_close(old.encode_text(["a red apple"]).pooled, model.encode_text(["a red apple"]).pooled)


def test_other_dtypes(folder, model):
    narrow = UnCLIP.load(folder, dtype="bfloat16")
    assert narrow.stages["decoder"].unet.conv_in.weight.dtype == torch.bfloat16
    assert narrow.stages["prior"].clip_std.dtype == narrow.encode_text(["red"]).pooled.dtype == torch.float32
    assert drawn(narrow).isfinite().all()


def test_double_width_from_the_folder(folder, model):
    wide = UnCLIP.load(folder, dtype="float64")
    text = wide.encode_text(["red"])
    assert text.pooled.dtype == text.tokens.dtype == torch.float64
    upsampler = wide.stages["upsampler_256"]
    assert {p.dtype for stage in (wide.stages["prior"], upsampler) for p in stage.parameters()} == {torch.float64}
    torch.testing.assert_close(text.tokens.float(), model.encode_text(["red"]).tokens, atol=1e-5, rtol=0)
    assert drawn(wide).dtype == torch.float32


def test_a_folder_without_an_index(copy, model):
    (copy / "model_index.json").unlink()
    assert karlo.is_karlo(copy) and UnCLIP.load(copy).hash == model.hash


# ---- the pipeline's verbs ----


def test_verbs(model):
    picture = Image.new("RGB", (80, 70), (200, 30, 30))
    options = {"decoder_steps": 2, "prior_steps": 2, "upsampler_256_steps": 1}
    assert model.generate("a red apple", size=256, **options)[0].size == (256, 256)
    z_i = model.encode_image([picture])
    for sampler in ("ddim", "dpm++", "ddpm"):
        pictures = model.generate("a red apple", decoder_steps=2, prior_steps=2, sampler=sampler)
        assert pictures[0].size == (64, 64)
    assert model.decode(z_i, steps=2)[0].size == (64, 64)
    latent = model.invert(picture, steps=2, refine=0)
    assert latent.x_T.shape == (1, 3, 64, 64) and model.decode(latent, steps=2)[0].size == (64, 64)
    alone = model.generate("a red apple", n=1, decoder_steps=2, prior_steps=2)[0]
    together = model.generate("a red apple", n=3, decoder_steps=2, prior_steps=2)[0]
    assert alone.tobytes() == together.tobytes()
    torch.testing.assert_close(model.pca.truncate(z_i, z_i.shape[1]), z_i)
    assert model.pca.explained[-1] == pytest.approx(1.0)
    assert model.sample_prior("a red apple", n=2, candidates=2, steps=2).shape == (2, z_i.shape[1])


def test_what_it_lacks_is_said(folder):
    model = UnCLIP.load(folder)
    with pytest.raises(RequestError, match="stand-in"):
        model.generate("a red apple", size=1024)
    with pytest.raises(RequestError, match="autoregressive"):
        model.generate("a red apple", prior="ar")
    label = add_stand_in(model, "lanczos")
    assert model.stand_ins == {"upsampler_1024": label} and "Lanczos" in label
    assert model.upsample([Image.new("RGB", (256, 256), "red")], size=1024)[0].size == (1024, 1024)
    with pytest.raises(RequestError, match="needs no stand-in"):
        add_stand_in(model, "lanczos")


def test_the_page_offers_a_labelled_stand_in(folder, copy):
    from components.engine import Engine
    from components.live import size_choices
    from components.strip import resting_cells

    engine = Engine.load(folder)
    assert resting_cells(engine)["upsampler_1024"] == {"state": "idle", "stand_in": "lanczos"}
    assert engine.sizes() == [64, 256] and [side for _, side in size_choices(engine)] == [64, 256, 1024]
    request = engine.request(prompt="a red apple", size=1024, decoder_steps=1, prior_steps=1, upsampler_256_steps=1)
    *_, step = engine.generate(request)
    (made,) = engine.save(step.pictures, "create", request, z_i=step.z_i)
    assert made.picture.size == (1024, 1024) and "Lanczos" in engine.read(made.path)["stand_ins"]["upsampler_1024"]
    shutil.rmtree(copy / "super_res_last")
    assert Engine.load(copy).stand_in == "" and Engine.load(copy).sizes() == [64]


def test_without_an_image_encoder(copy):
    from components.map_data import MapData

    shutil.rmtree(copy / "image_encoder")
    model = UnCLIP.load(copy)
    rows = np.zeros((5, model.stages["clip"].embed_dim), np.float32)
    assert not MapData.fits(SimpleNamespace(probe=rows), model)  # a map cannot be compared, so it is another pack's
    with pytest.raises(RequestError, match="image_encoder"):
        model.encode_image([Image.new("RGB", (64, 64))])
    assert model.generate("a red apple", decoder_steps=2, prior_steps=2)[0].size == (64, 64)


def test_without_prior_and_upsampler(copy):
    for name in ("prior", "super_res_last"):
        shutil.rmtree(copy / name)
    model = UnCLIP.load(copy)
    assert not model.has("prior") and not model.has("upsampler_256") and not model.has("pca")
    with pytest.raises(RequestError, match="diffusion prior"):
        karlo.sample_reference(model, ["a red apple"])


def test_pca_of_ones_own_pictures(copy):
    model = UnCLIP.load(copy)
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue", "white")]
    pca = fit_pca(model, pictures, copy)
    assert pca.explained[3] > 0.999  # four pictures span three directions
    torch.testing.assert_close(UnCLIP.load(copy).pca.components, pca.components)


# ---- what goes wrong ----


def damage(path, change):
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


FAULTS = {
    "no decoder": (lambda f: shutil.rmtree(f / "decoder"), "has no decoder"),
    "weights cut short": (
        lambda f: (f / "prior" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10" * 40),
        "not a whole safetensors file",
    ),
    "no weights": (lambda f: (f / "prior" / "diffusion_pytorch_model.safetensors").unlink(), "holds no weights"),
    "config not JSON": (lambda f: (f / "decoder" / "config.json").write_text("{"), "cannot be read as JSON"),
    "another width": (
        lambda f: damage(f / "decoder" / "config.json", lambda c: c.update(block_out_channels=[32, 96])),
        "has the shape",
    ),
    "more layers": (lambda f: damage(f / "prior" / "config.json", lambda c: c.update(num_layers=5)), "are missing"),
    "fewer layers": (lambda f: damage(f / "prior" / "config.json", lambda c: c.update(num_layers=1)), "do not belong"),
    "another kind of block": (
        lambda f: damage(
            f / "decoder" / "config.json", lambda c: c.update(down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"])
        ),
        "'DownBlock2D' in down_block_types is not supported",
    ),
    "another activation": (
        lambda f: damage(f / "decoder" / "config.json", lambda c: c.update(act_fn="mish")), "act_fn = 'mish'",
    ),
    "another schedule": (
        lambda f: damage(f / "prior_scheduler" / "scheduler_config.json", lambda c: c.update(beta_schedule="linear")),
        "beta_schedule = 'linear'",
    ),
    "another picture preparation": (
        lambda f: damage(
            f / "feature_extractor" / "preprocessor_config.json", lambda c: c.update(size={"shortest_edge": 40})
        ),
        "feature_extractor, its settings: size = {'shortest_edge': 40} is not supported",
    ),
    "captions of another length": (
        lambda f: damage(f / "prior" / "config.json", lambda c: c.update(num_embeddings=9)), "of 9 tokens",
    ),
    "shards outside": (
        lambda f: (f / "prior" / "diffusion_pytorch_model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": "../../a.safetensors"}})
        ),
        "plain files",
    ),
}  # fmt: skip


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(copy, name, low_memory):
    change, message = FAULTS[name]
    change(copy)
    with pytest.raises(PackError, match=message):
        UnCLIP.load(copy, low_memory=low_memory)


def test_weights_that_are_not_numbers(copy):
    path = copy / "prior" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["proj_in.bias"][0] = torch.nan
    save_file(tensors, path)
    with pytest.raises(PackError, match=r"'proj_in.bias' holds weights that are not finite"):
        UnCLIP.load(copy)


class Bomb:
    def __reduce__(self):
        return (print, ("ran",))


def test_a_pickle_with_code_is_not_run(copy, capsys):
    prior = copy / "prior" / "diffusion_pytorch_model.safetensors"
    prior.unlink()
    prior.with_suffix(".bin").write_bytes(pickle.dumps({"proj_in.weight": Bomb()}))
    with pytest.raises(PackError, match="cannot be read safely"):
        UnCLIP.load(copy)
    assert "ran" not in capsys.readouterr().out


# ---- Karlo's own shapes ----

FULL = {"block_out_channels": (320, 640, 960, 1280), "layers_per_block": 3}
FULL_DECODER = {
    **FULL, "sample_size": 64, "in_channels": 3, "out_channels": 6, "cross_attention_dim": 1536,
    "down_block_types": ("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 64, "class_embed_type": "identity",
    "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip
FULL_UPSAMPLER = {
    **FULL, "sample_size": 256, "in_channels": 6, "out_channels": 3, "add_attention": False,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 4, "up_block_types": ("ResnetUpsampleBlock2D",) * 4,
}  # fmt: skip


def full_size() -> dict[str, tuple[nn.Module, nn.Module, dict]]:
    """Network -> (theirs, ours, key map), all on the meta device."""
    conditioning = UnCLIPTextProjModel(time_embed_dim=1280, cross_attention_dim=1536)
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
    image = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    theirs = {
        "prior": PriorTransformer(),
        "text_proj": conditioning,
        "decoder": UNet2DConditionModel(**FULL_DECODER),
        "super_res_first": UNet2DModel(**FULL_UPSAMPLER),
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**text)),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**image, patch_size=14, projection_dim=768)),
    }
    as_json = {
        name: json.loads(module.to_json_string())
        for name, module in theirs.items()
        if hasattr(module, "to_json_string")
    }
    prior = DiffusionPrior(prior_config(as_json["prior"], 5.0, 1000))
    unet = decoder_unet_config(as_json["decoder"])
    decoder = KarloDecoder(KarloDecoderConfig(unet, 768))
    decoder_unet, decoder.unet = decoder.unet, None
    upsampler = upsampler_unet_config(as_json["super_res_first"], "super_res_first")
    vision = {"layers": 24, "width": 1024, "head_width": 64, "patch_size": 14, "image_size": 224}
    words = {"context_length": 77, "width": 768, "heads": 12, "layers": 12}
    clip = Clip(ClipConfig(768, vision, words, quick_gelu=True)).model
    visual, clip.visual, clip.logit_scale = clip.visual, None, None
    return {
        "prior": (theirs["prior"], prior, prior_keys(prior.config)),
        "text_proj": (conditioning, decoder, CONDITIONING_KEYS),
        "decoder": (theirs["decoder"], decoder_unet, unet_keys(unet)),
        "super_res_first": (theirs["super_res_first"], UNet(upsampler), unet_keys(upsampler)),
        "text_encoder": (theirs["text_encoder"], clip, clip_text_keys(12)),
        "image_encoder": (theirs["image_encoder"], visual, clip_image_keys(24)),
    }


def test_the_full_size_key_map_is_complete_in_both_directions():
    with torch.device("meta"):
        networks = full_size()
    millions = {}
    for name, (theirs, ours, keys) in networks.items():
        used = [key for source in keys.values() for key in source.keys]
        assert sorted(used) == sorted(theirs.state_dict()), name  # each of their tensors once
        assert set(keys) == set(ours.state_dict()), name  # each of our parameters filled
        check_keys(ours, keys, Weights.of(name, theirs.state_dict()))  # shapes too
        count = [sum(p.numel() for p in module.state_dict().values()) for module in (theirs, ours)]
        assert count[0] == count[1], name
        millions[name] = round(count[0] / 1e6)
    assert millions["prior"] > 1000 and 800 < millions["decoder"] < 1000 and 650 < millions["super_res_first"] < 800
