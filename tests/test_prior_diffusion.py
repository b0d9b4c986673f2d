"""The diffusion prior: caching changes nothing, padding and dropped captions do not leak, sampling is per picture."""

import pytest
import torch
import torch.nn.functional as F

from unclip_core.clip import TextFeatures
from unclip_core.prior_diffusion import DiffusionPrior, DiffusionPriorConfig
from unclip_core.sampling import PictureNoise

CONFIG = DiffusionPriorConfig(embed_dim=12, text_width=10, context_length=8, width=32, layers=2, heads=4)


def features(batch=2, length=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(length) < torch.tensor([[3], [6]] * (batch // 2 + 1))[:batch]
    pooled = F.normalize(torch.randn(batch, 12, generator=generator), dim=-1)
    return TextFeatures(pooled, torch.randn(batch, length, 10, generator=generator), mask)


@pytest.fixture
def prior():
    torch.manual_seed(0)
    return DiffusionPrior(CONFIG).eval()


def whole_sequence(prior, x, t, text):
    """The textbook pass: all L + 4 positions at once through a causal mask with padding closed."""
    pooled = prior.pooled_in(F.normalize(text.pooled, dim=-1) * CONFIG.embed_dim**0.5)
    tail = torch.stack([pooled, prior.time(t), prior.image_in(x), prior.final.expand(len(x), -1)], dim=1)
    h = torch.cat([prior.text_in(text.tokens), tail], dim=1) + prior.position
    exists = F.pad(text.mask, (0, 4), value=True)
    mask = (torch.ones(12, 12).tril().bool() & exists[:, None])[:, None]
    for block in prior.blocks:
        h, _ = block(h, mask)
    return prior.image_out(prior.norm(h[:, -1]))


def test_prefix_and_step_equal_the_whole_sequence(prior):
    x, t, text = torch.randn(2, 12), torch.tensor([10, 900]), features()
    torch.testing.assert_close(prior(x, t, text), whole_sequence(prior, x, t, text), atol=1e-5, rtol=1e-5)


def test_padding_and_dropped_captions_do_not_leak(prior):
    x, t, text = torch.randn(2, 12), torch.tensor([10, 900]), features()
    kept = prior(x, t, text)
    other = features(seed=1)
    padded = text._replace(tokens=torch.where(text.mask[..., None], text.tokens, 50.0))
    torch.testing.assert_close(prior(x, t, padded), kept)
    drop = torch.tensor([True, False])
    a, b = prior(x, t, text, drop), prior(x, t, other, drop)
    torch.testing.assert_close(a[0], b[0])
    assert (a[1] - b[1]).abs().max() > 1e-4
    torch.testing.assert_close(a[1], kept[1], atol=1e-5, rtol=1e-5)


def test_loss_trains_every_parameter(prior):
    z_i = F.normalize(torch.randn(2, 12), dim=-1)
    prior.fit(F.normalize(torch.randn(50, 12), dim=-1))
    loss = prior.loss(z_i, features(), torch.Generator().manual_seed(1), drop=0.5)
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in prior.parameters())


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_samples_depend_on_seed_and_row_alone(prior, sampler):
    text = features(3)
    options = {"steps": 4, "candidates": 2, "sampler": sampler}
    together = prior.sample(text, 2, 3.0, PictureNoise(5, range(6)), **options)
    alone = prior.sample(text.index(slice(1, 2)), 1, 3.0, PictureNoise(5, [3]), **options)
    assert together.shape == (6, 12)
    torch.testing.assert_close(together[3:4], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(6))


def test_more_candidates_come_nearer_to_the_caption(prior):
    text = features(8)
    near = [
        (prior.sample(text, 1, 1.0, PictureNoise(0, range(8)), steps=2, candidates=k) * text.pooled).sum(-1).mean()
        for k in (1, 8)
    ]
    assert near[1] > near[0]


def test_guidance_one_runs_no_unconditional_half(prior, monkeypatch):
    rows, step = [], prior.step
    monkeypatch.setattr(prior, "step", lambda x, t, prefix: rows.append(len(x)) or step(x, t, prefix))
    for guidance in (1.0, 2.0):
        prior.sample(features(), 1, guidance, PictureNoise(0, range(2)), steps=1, candidates=1)
    assert rows == [2, 4]


def test_guidance_scales_the_difference(prior):
    x, t, text = torch.randn(2, 12), torch.tensor([10, 900]), features()
    with torch.no_grad():
        caption, null = prior(x, t, text), prior(x, t, text, torch.tensor([True, True]))
        torch.testing.assert_close(prior.network(text, 3.0)(x, t), null + 3 * (caption - null), atol=1e-5, rtol=1e-5)


def test_sampling_a_known_point(prior, monkeypatch):
    """A network that always answers the same z_i is sampled to exactly it, whatever the noise."""
    target = torch.randn(12)
    monkeypatch.setattr(prior, "step", lambda x, t, prefix: target.expand_as(x))
    z_i = prior.sample(features(), 1, 1.0, PictureNoise(0, range(2)), steps=5)
    torch.testing.assert_close(z_i, F.normalize(target, dim=0).expand(2, -1))


def test_karlo_style_null_is_the_empty_caption():
    config = DiffusionPriorConfig(
        embed_dim=12, text_width=10, context_length=8, width=32, layers=1, heads=4, unit=False, null="empty", clip=5.0
    )
    prior = DiffusionPrior(config)
    assert not any("null" in name for name, _ in prior.named_parameters())
    null = features(1, seed=9)
    z_i = prior.sample(features(), 1, 4.0, PictureNoise(0, range(2)), steps=3, null=null)
    assert z_i.shape == (2, 12)
    with pytest.raises(ValueError, match="empty caption"):
        prior.sample(features(), 1, 4.0, PictureNoise(0, range(2)), steps=3)
