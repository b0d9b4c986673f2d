"""The decoder's conditioning: both ways z_i enters, the nulls, guidance, and the loss."""

from dataclasses import replace

import pytest
import torch
from tiny import tiny_stages

from unclip_core.clip import TextFeatures
from unclip_core.decoder import FLOOR, NOISE, Decoder, DecoderConfig
from unclip_core.errors import PackError
from unclip_core.unet import UNetConfig


@pytest.fixture(scope="module")
def decoder():
    return tiny_stages()["decoder"].requires_grad_(False)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 64, 64, generator=generator)
    z_i = torch.nn.functional.normalize(torch.randn(2, 32, generator=generator), dim=-1)
    tokens = torch.randn(2, 5, 32, generator=generator)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    return x, torch.tensor([500, 20]), z_i, TextFeatures(tokens[:, 0], tokens, mask)


def test_z_i_enters_the_timestep_and_four_tokens(decoder, inputs):
    _, _, z_i, text = inputs
    time_extra, context, mask = decoder.condition(z_i, text)
    assert time_extra.shape == (2, 32) and context.shape == (2, 4 + 5, 32)
    assert mask[:, :4].all() and torch.equal(mask[:, 4:], text.mask)
    other_time, other_context, _ = decoder.condition(z_i.flip(0), text)
    assert not torch.allclose(time_extra, other_time)
    assert not torch.allclose(context[:, :4], other_context[:, :4])
    torch.testing.assert_close(context[:, 4:], other_context[:, 4:])


def test_dropping_is_what_leaving_out_is(decoder, inputs):
    x, t, z_i, text = inputs
    all_rows = torch.tensor([True, True])
    torch.testing.assert_close(
        decoder(x, t, z_i, text, all_rows, all_rows), decoder(x, t, None, None), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(decoder(x, t, z_i, text, None, all_rows), decoder(x, t, z_i, None), atol=1e-5, rtol=1e-5)
    one = torch.tensor([True, False])
    mixed, kept = decoder(x, t, z_i, text, one, one), decoder(x, t, z_i, text)
    torch.testing.assert_close(mixed[1], kept[1])
    assert not torch.allclose(mixed[0], kept[0])


def test_padding_of_captions_changes_nothing(decoder, inputs):
    x, t, z_i, text = inputs
    noisy = text._replace(tokens=torch.where(text.mask[..., None], text.tokens, 99.0))
    torch.testing.assert_close(decoder(x, t, z_i, noisy), decoder(x, t, z_i, text))


def test_guidance_in_one_batch_is_guidance_in_two(decoder, inputs):
    x, t, z_i, text = inputs
    t = torch.full((2,), 400)
    conditional = decoder.denoiser(z_i, text, 1.0, clip=None)(x, t)
    rows = torch.tensor([True, True])
    raw = decoder(x, t, z_i, text, rows, rows)
    signal, sigma = decoder.config.schedule.signal_and_noise(t, x)
    unconditional = signal * x - sigma * raw
    wanted = unconditional + 3.0 * (conditional - unconditional)
    torch.testing.assert_close(decoder.denoiser(z_i, text, 3.0, clip=None)(x, t), wanted, atol=1e-4, rtol=1e-4)
    assert decoder.denoiser(z_i, text, 3.0)(x, t).abs().max() <= 1


def test_guidance_acts_between_two_noise_levels(decoder, inputs):
    x, _, z_i, text = inputs
    held = Decoder(replace(decoder.config, guided=(0.3, 0.8)))
    held.load_state_dict(decoder.state_dict())
    guided, plain, between = (
        model.denoiser(z_i, text, scale, clip=None) for model, scale in ((decoder, 3.0), (decoder, 1.0), (held, 3.0))
    )
    for level, wanted in ((950, plain), (800, guided), (300, guided), (299, plain)):
        t = torch.full((2,), level)
        torch.testing.assert_close(between(x, t), wanted(x, t))
    assert not torch.allclose(guided(x, torch.full((2,), 950)), plain(x, torch.full((2,), 950)))


@pytest.mark.parametrize("guided", [(0.8, 0.3), (0.5,), (-0.1, 1.0), (0.2, 1.2)])
def test_levels_that_are_none_are_refused(decoder, guided):
    with pytest.raises(PackError, match="two shares of the noise levels"):
        replace(decoder.config, guided=guided)


def test_fit_standardises(decoder):
    decoder = Decoder(decoder.config)
    z_i = torch.randn(500, 32) * 3 + 5
    decoder.fit(z_i)
    rows = decoder._image_rows(z_i, 500, None)
    torch.testing.assert_close(rows.mean(0), torch.zeros(32), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows.std(0), torch.ones(32), atol=1e-4, rtol=0)


def test_whitening_brings_small_components_to_sight(decoder):
    generator = torch.Generator().manual_seed(2)
    turn, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    spread = torch.logspace(0, -4, 32)
    z_i = 0.3 + (torch.randn(4000, 32, generator=generator) * spread) @ turn.T
    white = Decoder(replace(decoder.config, whiten=True))
    white.fit(z_i)
    rows = white._image_rows(z_i, len(z_i), None).detach()
    share = spread.square() / spread.square().sum()
    torch.testing.assert_close(rows.mean(0), torch.zeros(32), atol=2e-3, rtol=0)
    torch.testing.assert_close(rows.std(0), (share / (share + FLOOR)).sqrt(), atol=0.03, rtol=0.1)
    off = torch.corrcoef(rows[:, share > FLOOR].T) - torch.eye(int((share > FLOOR).sum()))
    assert off.abs().max() < 0.1
    drop = torch.tensor([True, False])
    assert torch.equal(white._image_rows(z_i[:2], 2, drop)[0], white.null_image)


def knows(decoder, z_i, pull):
    made = Decoder(replace(decoder.config, known=len(z_i), pull=pull)).requires_grad_(False)
    made.load_state_dict({**decoder.state_dict(), "z_i_known": z_i})
    return made


def unit(count, seed):
    z_i = torch.randn(count, 32, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(z_i, dim=1)


def test_what_was_learned_stays_and_what_was_not_is_pulled_towards_it(decoder):
    known = unit(40, 3)
    near = torch.nn.functional.normalize(known[:5] + 0.3 * unit(5, 4), dim=1)
    pulling = knows(decoder, known, 0.3)
    torch.testing.assert_close(pulling.pulled(known), known, atol=1e-4, rtol=0)
    moved = pulling.pulled(near)
    before, after = (near * known[:5]).sum(1), (moved * known[:5]).sum(1)
    assert (after > before + 0.01).all()
    weights = torch.exp(near.double() @ known.double().T / NOISE)
    mean = weights @ known.double() / weights.sum(1, keepdim=True)
    wanted = torch.nn.functional.normalize(0.7 * near + 0.3 * mean, dim=1)
    torch.testing.assert_close(moved, wanted.float())
    torch.testing.assert_close(pulling.pulled(2.5 * near), 2.5 * moved)  # a length has a meaning too
    alone = torch.cat([pulling.pulled(one[None]) for one in near])
    assert torch.equal(alone, moved)  # and rows are alike in every batch


def test_sampling_and_inversion_pull_and_z_t_is_taken_as_it_is(decoder):
    pulling, noise = knows(decoder, unit(40, 3), 0.5), torch.randn(1, 3, 64, 64)
    z_i = torch.nn.functional.normalize(unit(40, 3)[:1] + 0.5 * unit(1, 4), dim=1)

    def last(steps):
        *_, step = steps
        return step.x

    moved = pulling.pulled(z_i)
    drawn = last(pulling.sample_steps(z_i, None, noise, guidance=2.0, steps=2))
    assert torch.equal(drawn, last(decoder.sample_steps(moved, None, noise, guidance=2.0, steps=2)))
    inverted = last(pulling.invert_steps(noise, z_i, None, steps=2))
    assert torch.equal(inverted, last(decoder.invert_steps(noise, moved, None, steps=2)))
    as_it_is = last(pulling.sample_steps(z_i, None, noise, guidance=2.0, steps=2, pull=False))
    assert torch.equal(as_it_is, last(decoder.sample_steps(z_i, None, noise, guidance=2.0, steps=2)))
    assert not torch.equal(as_it_is, drawn)


def test_a_decoder_that_knows_nothing_or_pulls_not_at_all_takes_z_i_as_it_is(decoder):
    z_i = unit(4, 5)
    assert decoder.pulled(z_i) is z_i and knows(decoder, unit(8, 6), 0.0).pulled(z_i) is z_i


@pytest.mark.parametrize("bad", [{"pull": 0.3}, {"known": 4, "pull": 1.5}, {"known": 4, "pull": -0.1}])
def test_a_pull_that_is_no_share_or_has_no_aim_is_refused(decoder, bad):
    with pytest.raises(PackError, match="pull is a share"):
        replace(decoder.config, **bad)


def test_the_loss_drops_at_the_papers_rates(decoder, inputs, monkeypatch):
    x, _, z_i, text = inputs
    rows = torch.arange(2).repeat(1000)
    dropped = []

    def condition(z_i, text, batch, drop_image, drop_text):
        dropped.append((drop_image.float().mean().item(), drop_text.float().mean().item()))
        raise StopIteration

    monkeypatch.setattr(decoder, "condition", condition)
    with pytest.raises(StopIteration):
        decoder.loss(x[rows], z_i[rows], text.index(rows), torch.Generator().manual_seed(0))
    image, caption = dropped[0]
    assert abs(image - 0.1) < 0.025 and abs(caption - 0.5) < 0.04


def test_the_loss_falls(inputs):
    torch.manual_seed(0)
    x, _, z_i, text = inputs
    x = x.clamp(-1, 1)
    unet = UNetConfig(patch=8, widths=(16, 32), blocks=1, head_width=16, time_width=32, groups=8, context_width=16)
    decoder = Decoder(DecoderConfig(unet, 32, 32))
    optimizer = torch.optim.Adam(decoder.parameters(), 2e-3)
    losses = []
    for step in range(60):
        loss = decoder.loss(x, z_i, text, torch.Generator().manual_seed(step % 6), weighting="sigmoid")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-6:]) < 0.8 * sum(losses[:6])


def test_a_context_width_is_needed():
    with pytest.raises(ValueError, match="context"):
        Decoder(DecoderConfig(UNetConfig(), 32, 32))
