"""The public interface on a pack of random weights: shapes, determinism, streaming, and what is refused."""

import numpy as np
import pytest
import torch
from PIL import Image

from unclip_core import GenerateRequest, Latent, RequestError
from unclip_core.latents import truncate_components


def arrays(pictures):
    return [np.asarray(picture) for picture in pictures]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


def alike(a, b):
    """The same but for rounding, which differs between batches and, on some CPUs, between the rows of one."""
    return all(np.abs(x.astype(int) - y).max() <= 1 for x, y in zip(arrays(a), arrays(b), strict=True))


@pytest.fixture(scope="module")
def picture():
    ramp = np.linspace(0, 255, 80, dtype=np.uint8)
    return Image.fromarray(
        np.stack([ramp[None].repeat(80, 0), ramp[:, None].repeat(80, 1), np.full((80, 80), 90, np.uint8)], -1)
    )


@pytest.mark.parametrize("size", [64, 256, 1024])
def test_generate_gives_n_pictures_of_the_size(tiny_model, size):
    pictures = tiny_model.generate("a red apple", n=2, size=size, seed=1)
    assert [p.size for p in pictures] == [(size, size)] * 2
    assert not same(pictures[:1], pictures[1:])


@pytest.mark.parametrize("prior", ["diffusion", "ar", "text", "caption"])
def test_picture_i_depends_on_the_seed_and_i_alone(tiny_model, prior):
    three = tiny_model.generate("빨간 사과", n=3, seed=7, prior=prior)
    one = tiny_model.generate("빨간 사과", n=1, seed=7, prior=prior)
    apart = np.abs(np.subtract(arrays(three[:1]), arrays(one), dtype=int))
    assert (apart <= 1).mean() >= 0.999, apart.max()  # another batch size may round otherwise
    assert same(three, tiny_model.generate("빨간 사과", n=3, seed=7, prior=prior))
    assert not same(one, tiny_model.generate("빨간 사과", n=1, seed=8, prior=prior))


def test_a_decoder_that_pulls_z_i_takes_z_t_as_it_is(tiny_model, monkeypatch):
    decoder = tiny_model.stages["decoder"]
    before = {prior: tiny_model.generate("a dog", seed=3, prior=prior) for prior in ("diffusion", "text", "caption")}
    monkeypatch.setattr(decoder, "pulled", lambda z_i: -z_i)
    after = {prior: tiny_model.generate("a dog", seed=3, prior=prior) for prior in before}
    assert {prior: same(before[prior], after[prior]) for prior in before} == {
        "diffusion": False, "text": True, "caption": True
    }  # fmt: skip
    z_t = tiny_model.sample_prior("a dog", kind="text")
    assert not same(tiny_model.decode(z_t, caption="a dog", seed=3), after["text"])


def test_steps_stream_in_order_with_previews(tiny_model):
    steps = list(tiny_model.generate_steps("a dog", n=2, size=256, seed=0, preview_every=2))
    stages = list(dict.fromkeys(step.stage for step in steps))
    assert stages == ["clip", "prior", "decoder", "upsampler_256"]
    for stage in stages:
        own = [step for step in steps if step.stage == stage]
        assert [step.index for step in own] == list(range(1, own[0].total + 1))
    assert [len(step.pictures) for step in steps if step.stage == "decoder"] == [0, 2, 2]
    assert steps[0].z_i.shape == (1, 32) and steps[-1].z_i.shape == (2, 32)
    assert same(steps[-1].pictures, tiny_model.generate("a dog", n=2, size=256, seed=0))


def test_a_request_is_refused_before_the_first_step(tiny_model):
    with pytest.raises(RequestError, match="empty"):
        tiny_model.generate_steps("")


def test_a_request_object_gives_what_its_fields_give(tiny_model):
    request = GenerateRequest("a cat", n=2, seed=3, decoder_steps=2, sampler="ddim", eta=0.5)
    assert same(
        tiny_model.generate(request),
        tiny_model.generate("a cat", n=2, seed=3, decoder_steps=2, sampler="ddim", eta=0.5),
    )


def test_a_stopped_request_leaves_nothing_behind(tiny_model):
    before = tiny_model.generate("a cat", seed=2)
    steps = tiny_model.generate_steps("a dog", n=2, size=256)
    for _ in range(4):
        next(steps)
    steps.close()
    assert not torch.is_inference_mode_enabled()
    assert same(before, tiny_model.generate("a cat", seed=2))


@pytest.mark.parametrize("kind", ["diffusion", "ar", "text"])
def test_sample_prior(tiny_model, kind):
    z_i = tiny_model.sample_prior(["a", "b"], n=3, kind=kind, seed=0)
    assert z_i.shape == (6, 32) and z_i.dtype == torch.float32 and torch.isfinite(z_i).all()
    assert not z_i.is_inference()
    z_i += 1  # callers may do with it as they like


def test_decode_of_prior_is_generate(tiny_model):
    z_i = tiny_model.sample_prior("a fish", n=2, seed=5)
    assert same(tiny_model.decode(z_i, caption="a fish", seed=5), tiny_model.generate("a fish", n=2, seed=5))


def test_upsample_of_decode_is_decode_at_size(tiny_model):
    z_i = tiny_model.sample_prior("a fish", seed=5)
    small, large = tiny_model.decode(z_i, seed=5), tiny_model.decode(z_i, size=1024, seed=5)
    assert same(tiny_model.upsample(small, size=1024, seed=5), large)
    middle = tiny_model.upsample(small, size=256, seed=5)
    assert same(tiny_model.upsample(middle, size=1024, seed=5), large)


def test_invert_then_decode_reconstructs(tiny_model, picture):
    latent = tiny_model.invert(picture, steps=20, refine=3)
    assert latent.z_i.shape == (1, 32) and latent.x_T.shape == (1, 3, 64, 64)
    back = np.asarray(tiny_model.decode(latent, steps=20)[0], float)
    error = np.abs(back - np.asarray(picture.resize((64, 64), Image.LANCZOS), float)).mean()
    assert error < 3, error


def test_eta_varies_an_inverted_picture_by_picture(tiny_model, picture):
    latent = tiny_model.invert(picture).repeat(2)
    still = tiny_model.decode(latent, eta=0.0)
    moved = tiny_model.decode(latent, eta=1.0, seed=1)
    assert alike(still[:1], still[1:])
    assert not alike(moved[:1], moved[1:])


def test_a_seed_for_each_picture_makes_each_as_if_alone(tiny_model, picture):
    latent = tiny_model.invert(picture).repeat(3)
    many = tiny_model.decode(latent, size=256, eta=1.0, seed=[4, 5, 4])
    assert alike(many[:1], many[2:]) and not alike(many[:1], many[1:2])
    alone = tiny_model.decode(latent[0], size=256, eta=1.0, seed=5)
    assert alike(many[1:2], alone)
    with pytest.raises(RequestError, match="2 seeds for 3 pictures"):
        tiny_model.decode(latent, seed=[1, 2])


def test_noise_is_what_decode_starts_from(tiny_model):
    z_i = tiny_model.sample_prior("a fish", n=2, seed=5)
    with_noise = tiny_model.decode(Latent(z_i, tiny_model.noise(9, 2)), guidance=2.0, steps=3)
    assert with_noise[0].size == (64, 64)


def test_truncating_to_all_components_changes_nothing(tiny_model):
    latent = Latent(tiny_model.sample_prior("a fish"), tiny_model.noise(0))
    many = truncate_components(latent, tiny_model.pca, [1, 8, 32])
    pictures = tiny_model.decode(many)
    assert alike(pictures[2:], tiny_model.decode(latent))
    assert not same(pictures[:1], pictures[2:])


def test_encode_image_reads_the_middle_square(tiny_model, picture):
    wide = Image.new("RGB", (160, 80), "white")
    wide.paste(picture, (40, 0))
    cosine = (tiny_model.encode_image([wide]) * tiny_model.encode_image([picture])).sum()
    assert cosine > 0.999


@pytest.mark.parametrize(
    ("latent", "fault"),
    [
        (torch.zeros(1, 5), "32"),
        (torch.zeros(32), "32"),
        (torch.zeros(0, 32), "32"),
        (torch.full((1, 32), float("nan")), "finite"),
        (Latent(torch.zeros(1, 32), torch.zeros(1, 3, 8, 8)), "x_T"),
        (Latent(torch.zeros(1, 32), torch.full((1, 3, 64, 64), float("inf"))), "finite"),
    ],
)
def test_unusable_latents_are_refused(tiny_model, latent, fault):
    with pytest.raises(RequestError, match=fault):
        tiny_model.decode(latent)


def test_what_a_pack_lacks_is_said(tiny_pack):
    from unclip_core import UnCLIP

    model = UnCLIP.load(tiny_pack, device="cpu")
    model.stages = {name: stage for name, stage in model.stages.items() if name in ("clip", "prior", "decoder")}
    assert model.has("decoder") and not model.has("prior_ar")
    with pytest.raises(RequestError, match="no autoregressive prior"):
        model.generate("a dog", prior="ar")
    with pytest.raises(RequestError, match="no upsampler to 256 px"):
        model.generate("a dog", size=256)
    assert model.generate("a dog")[0].size == (64, 64)


def test_unknown_devices_and_dtypes_are_refused(tiny_pack):
    from unclip_core import UnCLIP

    with pytest.raises(RequestError, match="device"):
        UnCLIP.load(tiny_pack, device="toaster")
    with pytest.raises(RequestError, match="dtype"):
        UnCLIP.load(tiny_pack, dtype="float1")
