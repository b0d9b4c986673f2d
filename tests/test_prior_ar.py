"""The autoregressive prior: codes, the cache against the full network, learning, and sampling."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from unclip_core.clip import TextFeatures
from unclip_core.prior_ar import ARPrior, ARPriorConfig
from unclip_core.sampling import PictureNoise

WIDTH = 16


def make_text(n, length=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pooled = normalize(torch.randn(n, WIDTH, generator=generator), dim=-1)
    mask = torch.arange(length) < torch.randint(2, length + 1, (n, 1), generator=generator)
    return TextFeatures(pooled, torch.randn(n, length, 12, generator=generator), mask)


def make_prior(seed=0, **changes):
    torch.manual_seed(seed)
    plain = {"embed_dim": WIDTH, "text_width": 12, "context_length": 6, "n_codes": WIDTH, "width": 32, "layers": 2}
    return ARPrior(ARPriorConfig(**{**plain, "heads": 2, **changes}))


@pytest.fixture(scope="module")
def cloud():
    generator = torch.Generator().manual_seed(3)
    return normalize(torch.randn(2000, WIDTH, generator=generator) * torch.linspace(2, 0.2, WIDTH), dim=-1)


def test_codes_go_there_and_back(cloud):
    prior = make_prior()
    prior.fit(cloud, cloud.roll(1, 0))
    codes = prior.encode(cloud)
    assert codes.shape == (2000, WIDTH) and codes.min() == 0 and codes.max() == 1023
    torch.testing.assert_close(prior.decode(codes), cloud, atol=2e-3, rtol=0)
    assert torch.equal(prior.encode(prior.decode(codes)), codes)


def test_the_first_codes_hold_the_most(cloud):
    prior = make_prior()
    prior.fit(cloud, cloud)
    codes = prior.encode(cloud)
    errors = [(prior.decode(codes[:, :n]) - cloud).square().sum() for n in range(1, WIDTH + 1)]
    assert all(a > b for a, b in zip(errors, errors[1:]))


def test_values_beyond_the_range_take_the_end_buckets(cloud):
    prior = make_prior()
    prior.fit(cloud, cloud)
    codes = prior.encode(torch.cat([cloud * 50, cloud * -50]))
    assert codes.min() == 0 and codes.max() == 1023


def test_the_dot_products_buckets_are_equally_full(cloud):
    prior = make_prior()
    other = cloud.roll(7, 0)
    prior.fit(cloud, other)
    filled = torch.bucketize((cloud * other).sum(1), prior.dot_edges).bincount(minlength=64)
    assert filled.min() > 25 and filled.max() < 38  # 2,000 / 64 = 31


def test_each_code_sees_only_what_stands_before_it():
    prior, text = make_prior(), make_text(2)
    codes = torch.randint(0, 1024, (2, WIDTH), generator=torch.Generator().manual_seed(0))
    dot, drop = torch.tensor([40, 50]), torch.tensor([False, False])
    before = prior(codes, text, dot, drop)
    changed = codes.clone()
    changed[:, 5] = (changed[:, 5] + 500) % 1024
    after = prior(changed, text, dot, drop)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6], before[:, 6])


def test_padding_and_dropped_captions_change_nothing():
    prior, text = make_prior(), make_text(2)
    codes = torch.randint(0, 1024, (2, WIDTH), generator=torch.Generator().manual_seed(0))
    dot, keep = torch.tensor([40, 50]), torch.tensor([False, False])
    noisy = text._replace(tokens=torch.where(text.mask[..., None], text.tokens, 99.0))
    torch.testing.assert_close(prior(codes, noisy, dot, keep), prior(codes, text, dot, keep))
    other = make_text(2, seed=9)
    torch.testing.assert_close(prior(codes, other, dot - 9, ~keep), prior(codes, text, dot, ~keep))


@pytest.mark.parametrize("guided", [False, True])
def test_the_cache_gives_what_the_whole_network_gives(guided):
    prior, text = make_prior(), make_text(3)
    codes = torch.randint(0, 1024, (3, WIDTH), generator=torch.Generator().manual_seed(0))
    dot, drop = torch.tensor([40, 50, 60]), torch.zeros(3, dtype=torch.bool)
    predict = prior._cached(text, dot, guided)
    steps = torch.stack([predict(codes[:, :n]) for n in range(WIDTH)], dim=1)
    torch.testing.assert_close(steps[:3], prior(codes, text, dot, drop), atol=1e-5, rtol=1e-5)
    if guided:
        torch.testing.assert_close(steps[3:], prior(codes, text, dot, ~drop), atol=1e-5, rtol=1e-5)


def test_samples_depend_on_seed_and_place_alone(cloud):
    prior, text = make_prior(), make_text(2)
    prior.fit(cloud, cloud)
    both = prior.sample(text, 3, 2.0, PictureNoise(0, range(6)))
    assert both.shape == (6, WIDTH)
    one = prior.sample(text.index(slice(0, 1)), 1, 2.0, PictureNoise(0, [0]))
    torch.testing.assert_close(both[:1], one, atol=5e-3, rtol=0)
    assert not torch.allclose(both[0], both[1], atol=1e-2)


def test_the_dot_product_is_drawn_from_the_top_half(cloud, monkeypatch):
    prior, text = make_prior(), make_text(1)
    prior.fit(cloud, cloud)
    seen = []
    whole = prior._cached
    monkeypatch.setattr(prior, "_cached", lambda text, dot, guided: (seen.append(dot), whole(text, dot, guided))[1])
    prior.sample(text, 200, 1.0, PictureNoise(0, range(200)))
    assert seen[0].min() >= 32 and seen[0].max() <= 63 and len(seen[0].unique()) > 25


@pytest.mark.parametrize("smoothing", [0.0, 8.0])
def test_it_learns_pairs(cloud, smoothing):
    # Two dot-product buckets: more would tell 64 pairs apart without their captions.
    prior, z_i, text = make_prior(n_codes=4, dot_buckets=2, smoothing=smoothing), cloud[:64], make_text(64)
    prior.fit(z_i, text.pooled)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(prior.parameters(), 3e-3, weight_decay=0.0)
    losses = []
    for _ in range(100):
        loss = prior.loss(z_i, text, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 6.5 and losses[-1] < losses[0] - 2
    made = prior.sample(text, 1, 1.0, PictureNoise(0, range(64)))
    top = torch.bucketize((z_i * text.pooled).sum(1), prior.dot_edges) == 1  # the half that sampling draws from
    own, others = cosine_similarity(made, z_i)[top].mean(), cosine_similarity(made, z_i.roll(1, 0))[top].mean()
    assert own > others + (0.5 if smoothing == 0 else 0.2)


def test_plain_cross_entropy_is_the_papers(cloud):
    prior, text = make_prior(), make_text(4)
    prior.fit(cloud, cloud)
    loss = prior.loss(cloud[:4], text, torch.Generator().manual_seed(0))
    assert abs(loss.item() - torch.tensor(1024.0).log().item()) < 0.7  # untrained: about ln 1024
