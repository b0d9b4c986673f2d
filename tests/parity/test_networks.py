"""Every network, scheduler step and token against diffusers and transformers, on the same random weights."""

import copy
import math

import numpy as np
import peers
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from unclip_core.clip import TextFeatures
from unclip_core.karlo_stages import ReferenceSchedule
from unclip_core.pipeline import UnCLIP

CAPTIONS = ["a red apple", "", "Hé! it's 12  apples,\n한국어 &amp; <b>red</b> <|endoftext|> on " + "red " * 30]
BOUNDS = {torch.float64: 1e-8, torch.float32: 1e-4}


@pytest.fixture(scope="module", params=peers.SHAPES)
def pair(request, tmp_path_factory):
    """(shape, their pipeline, our model) of one random configuration."""
    shape = peers.SHAPES[request.param]
    folder = tmp_path_factory.mktemp("published") / "model"
    pipeline = peers.write_folder(folder, shape)
    return shape, pipeline, UnCLIP.load(folder)


@pytest.fixture(params=BOUNDS, ids=str)
def dtype(request):
    return request.param


def near(ours, theirs, dtype):
    assert ours.dtype == theirs.dtype == dtype and ours.shape == theirs.shape
    assert theirs.std() > 1e-3, "the peer's output is all but constant: nothing would be tested"
    torch.testing.assert_close(ours, theirs, atol=BOUNDS[dtype] * theirs.abs().max().item(), rtol=0)


def test_tokens(pair):
    shape, pipeline, model = pair
    theirs = pipeline.tokenizer(
        CAPTIONS, padding="max_length", max_length=shape.positions, truncation=True, return_tensors="pt"
    )
    ids, mask = model.stages["clip"].tokenizer(CAPTIONS)
    assert torch.equal(ids, theirs.input_ids) and torch.equal(mask, theirs.attention_mask.bool())


@torch.no_grad()
def test_clip_text(pair, dtype):
    _, pipeline, model = pair
    clip, encoder = copy.deepcopy(model.stages["clip"]).to(dtype), copy.deepcopy(pipeline.text_encoder).to(dtype)
    text = clip.encode_text(CAPTIONS)
    theirs = encoder(clip.tokenizer(CAPTIONS)[0])
    near(text.pooled, theirs.text_embeds, dtype)
    near(text.tokens, theirs.last_hidden_state, dtype)


@torch.no_grad()
def test_clip_image(pair, dtype):
    shape, _, model = pair
    if not shape.image_encoder:
        pytest.skip("this folder has no image encoder")
    encoder = peers.modules(shape)["image_encoder"].to(dtype)
    clip = copy.deepcopy(model.stages["clip"]).to(dtype)
    pixels = torch.randn(3, 3, clip.image_size, clip.image_size, dtype=dtype)
    near(clip.model.visual(pixels), encoder(pixels).image_embeds, dtype)


@torch.no_grad()
def test_pictures_are_prepared_as_by_the_peer(pair):
    shape, _, model = pair
    if not shape.image_encoder:
        pytest.skip("this folder has no image encoder")
    encoder = peers.modules(shape)["image_encoder"]
    size = encoder.config.image_size
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    small = Image.new("RGB", (90, 61), "white")
    small.paste((200, 30, 90), (30, 20, 60, 40))  # which a pack of our own reads up close
    pictures = [Image.fromarray(noise), Image.new("RGB", (90, 61), (200, 30, 90)), small]
    pixels = peers.feature_extractor(encoder)(images=pictures, return_tensors="pt").pixel_values
    torch.testing.assert_close(model.encode_image(pictures), encoder(pixels).image_embeds, atol=1e-3, rtol=0)


def text_features(shape, lengths, dtype):
    mask = torch.arange(shape.positions) < torch.tensor(lengths)[:, None]
    tokens = torch.randn(len(lengths), shape.positions, shape.embed_dim, dtype=dtype)
    return TextFeatures(torch.randn(len(lengths), shape.embed_dim, dtype=dtype), tokens, mask)


@torch.no_grad()
def test_prior(pair, dtype):
    shape, pipeline, model = pair
    prior, theirs = copy.deepcopy(model.stages["prior"]).to(dtype), copy.deepcopy(pipeline.prior).to(dtype)
    text = text_features(shape, [2, 9, shape.positions], dtype)
    x = torch.randn(3, shape.embed_dim, dtype=dtype)
    for t in (0, 7, 40):
        expected = theirs(x, torch.tensor(t), text.pooled, text.tokens, text.mask).predicted_image_embedding
        near(prior(x, torch.full((3,), t), text), expected, dtype)
    near(prior.standard(x), theirs.post_process_latents(x), dtype)


@torch.no_grad()
def test_decoder_with_its_conditioning(pair, dtype):
    shape, pipeline, model = pair
    decoder, unet = copy.deepcopy(model.stages["decoder"]).to(dtype), copy.deepcopy(pipeline.decoder).to(dtype)
    project = copy.deepcopy(pipeline.text_proj).to(dtype)
    text, empty = text_features(shape, [4, shape.positions], dtype), text_features(shape, [2], dtype)
    decoder.empty = empty
    z_i = torch.randn(2, shape.embed_dim, dtype=dtype)
    size = decoder.config.image_size
    x, t = torch.randn(2, 3, size, size, dtype=dtype), torch.tensor(7)
    guidance, c = 3.0, 3
    both = [torch.cat([b.expand_as(a), a]) for a, b in zip(text, empty)]
    context, extra = project(
        image_embeddings=z_i,
        prompt_embeds=both[0],
        text_encoder_hidden_states=both[1],
        do_classifier_free_guidance=True,
    )
    mask = F.pad(both[2], (shape.image_tokens, 0), value=True)
    raw = unet(torch.cat([x, x]), t, context, class_labels=extra, attention_mask=mask).sample
    without, wanted = raw.chunk(2)
    guided = torch.cat([without[:, :c] + guidance * (wanted - without)[:, :c], wanted[:, c:]], dim=1)
    near(decoder.network(z_i, text, guidance, 2)(x, t.expand(2)), guided, dtype)
    near(decoder.network(z_i, text, 1, 2)(x, t.expand(2)), wanted, dtype)
    near(decoder.network(None, empty, 1, 1)(x[:1], t.expand(1)), without[:1], dtype)


@torch.no_grad()
@pytest.mark.parametrize("which", ["first", "last"])
def test_upsampler(pair, dtype, which):
    _, pipeline, model = pair
    upsampler = model.stages["upsampler_256"]
    ours = copy.deepcopy(getattr(upsampler, which)()).to(dtype)
    theirs = copy.deepcopy(getattr(pipeline, f"super_res_{which}")).to(dtype)
    size = upsampler.config.image_size
    x = torch.randn(2, 6, size, size, dtype=dtype)
    near(ours(x, torch.tensor([5, 5])), theirs(x, torch.tensor(5)).sample, dtype)


SCHEDULES = {
    "prior": ({"prediction_type": "sample", "clip_sample_range": 5.0}, ReferenceSchedule(predicts="x0", clip=5.0)),
    "decoder": ({"variance_type": "learned_range"}, ReferenceSchedule(learned_range=True)),
    "upsampler": ({}, ReferenceSchedule()),
    "short, not clipped": ({"num_train_timesteps": 30, "clip_sample": False}, ReferenceSchedule(30, clip=None)),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 7, 25, 30])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_every_scheduler_step(name, steps, dtype):
    settings, schedule = SCHEDULES[name]
    scheduler = peers.UnCLIPScheduler(**settings)
    scheduler.set_timesteps(steps)
    channels = 6 if schedule.learned_range else 3
    outputs = iter(torch.randn(steps, 2, channels, 4, 4, dtype=dtype).clamp(-1.5, 1.5))
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 4, 4, dtype=dtype)
    kept = []

    def network(x, t):
        kept.append((x, t, next(outputs)))
        return kept[-1][2]

    def noise(shape):
        return torch.randn((2, *shape), generator=generator, dtype=dtype)

    walk = list(schedule.sample(network, x, steps, noise))
    generator.manual_seed(3)
    assert [int(t[0]) for _, t, _ in kept] == scheduler.timesteps.tolist()
    for i, (before, t, output) in enumerate(kept):
        following = scheduler.timesteps[i + 1] if i + 1 < steps else None
        step = scheduler.step(output, scheduler.timesteps[i], before, prev_timestep=following, generator=generator)
        torch.testing.assert_close(
            walk[i].x, step.prev_sample, atol=1e-12 if dtype == torch.float64 else 1e-5, rtol=1e-6
        )
        torch.testing.assert_close(walk[i].x0, step.pred_original_sample)


def test_a_single_step_ends_clean():
    """The peer divides by zero here."""
    schedule = ReferenceSchedule(predicts="x0")
    x0 = torch.rand(1, 3, 4, 4)
    walk = list(schedule.sample(lambda *_: x0, torch.randn(1, 3, 4, 4), 1, None))
    assert len(walk) == 1 and math.isclose((walk[0].x - x0).abs().max().item(), 0, abs_tol=1e-6)
