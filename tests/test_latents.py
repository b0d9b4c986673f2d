"""Spherical interpolation, text diffs and PCA against what they must be in closed form."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from unclip_core.errors import RequestError
from unclip_core.latents import (
    PCA,
    Latent,
    blend,
    concatenate,
    interpolate,
    rotate_by_text,
    slerp,
    text_diff,
    truncate_components,
)


@pytest.fixture
def vectors():
    return torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)


def test_slerp_ends_and_middle(vectors):
    a, b = vectors[:2]
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    a, b = normalize(a, dim=-1), normalize(b, dim=-1)
    torch.testing.assert_close(slerp(a, b, 0.5), normalize(a + b, dim=-1))


def test_slerp_turns_at_an_even_pace_on_the_sphere(vectors):
    a, b = (normalize(v, dim=-1) for v in vectors[:2])
    whole = torch.acos((a * b).sum(-1))
    for t in (0.1, 0.25, 0.7):
        z = slerp(a, b, t)
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(6, dtype=torch.float64))
        torch.testing.assert_close(torch.acos((a * z).sum(-1)), t * whole)


def test_slerp_is_of_whole_vectors_not_of_elements():
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    half = math.sqrt(0.5)
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor([[half, half]]))


def test_slerp_takes_lengths_along_linearly(vectors):
    a, b = normalize(vectors[0], dim=-1) * 2, normalize(vectors[1], dim=-1) * 6
    torch.testing.assert_close(slerp(a, b, 0.25).norm(dim=-1), torch.full((6,), 3.0, dtype=torch.float64))


def test_slerp_of_equal_opposite_and_zero_vectors(vectors):
    a = vectors[0]
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, 2 * a, 0.5), 1.5 * a)
    middle = slerp(a, -a, 0.5)
    torch.testing.assert_close((middle * a).sum(-1), torch.zeros(6, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(middle.norm(dim=-1), a.norm(dim=-1))
    assert torch.isfinite(slerp(torch.zeros(2, 3), torch.zeros(2, 3), 0.5)).all()


def test_slerp_takes_a_tensor_of_places(vectors):
    a, b = vectors[:2]
    t = torch.linspace(0, 1, 6)
    each = torch.stack([slerp(a[i], b[i], float(t[i])) for i in range(6)])
    torch.testing.assert_close(slerp(a, b, t), each, atol=1e-6, rtol=1e-6)
    assert slerp(a.float(), b.float(), t).dtype == torch.float32


def test_text_diff_turns_towards_the_change(vectors):
    z_i, z_from, z_to = (normalize(v, dim=-1) for v in vectors[:3])
    direction = normalize(z_to - z_from, dim=-1)
    torch.testing.assert_close(text_diff(z_i, z_from, z_to, 0.0), z_i)
    torch.testing.assert_close(text_diff(z_i, z_from, z_to, 1.0), direction)
    before, after = (z_i * direction).sum(-1), (text_diff(z_i, z_from, z_to, 0.3) * direction).sum(-1)
    assert (after > before).all()
    torch.testing.assert_close(text_diff(3 * z_i, z_from, 5 * z_to, 0.3), 3 * text_diff(z_i, z_from, z_to, 0.3))


def test_text_diff_of_equal_captions_is_refused(vectors):
    z = vectors[0][:1]
    with pytest.raises(RequestError, match="same"):
        text_diff(z, z, 2 * z, 0.3)


def test_pca_finds_the_axes_of_a_known_cloud():
    generator = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    spread = torch.tensor([5.0, 4.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    cloud = torch.randn(20_000, 5, generator=generator, dtype=torch.float64) * spread @ rotation + 7
    pca = PCA.fit(cloud)
    torch.testing.assert_close(pca.mean.double(), cloud.mean(0), atol=1e-5, rtol=0)
    assert ((pca.components.double() * rotation).sum(1).abs() > 0.99).all()
    torch.testing.assert_close(pca.explained.double(), (spread**2).cumsum(0) / (spread**2).sum(), atol=0.01, rtol=0)


def test_truncation_projects_and_full_width_is_the_identity(vectors):
    pca = PCA.fit(torch.randn(100, 16, generator=torch.Generator().manual_seed(2)))
    z = vectors[0].float()
    torch.testing.assert_close(pca.truncate(z, 16), z, atol=0, rtol=0)
    torch.testing.assert_close(pca.truncate(z, 0), pca.mean.expand(6, -1))
    once = pca.truncate(z, 5)
    torch.testing.assert_close(pca.truncate(once, 5), once)
    errors = [(pca.truncate(z, k) - z).square().sum() for k in range(17)]
    assert all(a >= b for a, b in zip(errors, errors[1:]))
    for k in (-1, 17):
        with pytest.raises(RequestError, match="between 0 and 16"):
            pca.truncate(z, k)


def make(seed, n=1):
    generator = torch.Generator().manual_seed(seed)
    z_i = normalize(torch.randn(n, 16, generator=generator), dim=-1)
    return Latent(z_i, torch.randn(n, 3, 8, 8, generator=generator))


def test_interpolation_ends_are_the_pictures():
    a, b = make(0), make(1)
    path = interpolate(a, b, torch.linspace(0, 1, 5))
    assert len(path) == 5
    for end, row in ((a, 0), (b, 4)):
        torch.testing.assert_close(path[row].z_i, end.z_i)
        torch.testing.assert_close(path[row].x_T, end.x_T)
    fixed = interpolate(a, b, torch.linspace(0, 1, 5), noise=a.x_T)
    assert all(torch.equal(fixed.x_T[i], a.x_T[0]) for i in range(5))
    assert interpolate(Latent(a.z_i), b, torch.linspace(0, 1, 5)).x_T is None


def test_blend_of_four_has_them_at_its_corners():
    corners = [make(i) for i in range(4)]
    for (u, v), corner in zip(((0, 0), (1, 0), (0, 1), (1, 1)), corners, strict=True):
        torch.testing.assert_close(blend(corners, float(u), float(v)).z_i, corner.z_i)


def test_edits_keep_the_noise():
    latent, pca = make(0), PCA.fit(torch.randn(100, 16, generator=torch.Generator().manual_seed(2)))
    for edited in (
        rotate_by_text(latent, make(1).z_i, make(2).z_i, torch.tensor([0.0, 0.2, 0.4])),
        truncate_components(latent, pca, [1, 4, 16]),
    ):
        assert len(edited) == 3
        assert all(torch.equal(edited.x_T[i], latent.x_T[0]) for i in range(3))
    torch.testing.assert_close(edited.z_i[2:], latent.z_i)


def test_latents_batch():
    both = concatenate([make(0), make(1)])
    assert len(both) == 2 and torch.equal(both[1].z_i, make(1).z_i)
    assert concatenate([make(0), Latent(make(1).z_i)]).x_T is None
    assert torch.equal(make(0).repeat(3).x_T[2], make(0).x_T[0])
    with pytest.raises(ValueError, match="pair"):
        Latent(torch.zeros(2, 16), torch.zeros(1, 3, 8, 8))
