"""The perceptual distance in CLIP's feature maps: nothing between like pictures, more the more they differ."""

import pytest
import torch

from unclip_core.clip import Clip, ClipConfig
from unclip_core.errors import UnclipError
from unclip_core.training.perceptual import Perceptual


def clip(layers) -> Clip:
    vision = {"layers": layers, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8}
    text = {"context_length": 8, "width": 32, "heads": 2, "layers": 1, "vocab_size": 64}
    torch.manual_seed(0)
    return Clip(ClipConfig(32, vision, text), torch.arange(64)).eval().requires_grad_(False)


def test_distance_grows_with_the_difference_and_pulls_back():
    distance = Perceptual(clip((1, 1, 1, 1)))
    true = torch.rand(2, 3, 32, 32) * 2 - 1
    noise = torch.randn_like(true)
    near, far = (distance(true + share * noise, true) for share in (0.05, 0.5))
    assert near.shape == (2,) and (0 < near).all() and (near < far).all()
    assert distance(true, true).abs().max() < 1e-6
    made = (true + 0.5 * noise).requires_grad_()
    distance(made, true).sum().backward()
    better = made.detach() - 0.5 * made.grad / made.grad.abs().max()
    assert (distance(better, true) < far).all()


def test_the_embedding_counts_by_its_share():
    own = clip((1, 1, 1, 1))
    true = torch.rand(2, 3, 32, 32) * 2 - 1
    made = true + 0.3 * torch.randn_like(true)
    z_i = [own.encode_pixels(pixels).float() for pixels in (made, true)]
    found = Perceptual(own, 0.0, 2.0)(made, true)
    torch.testing.assert_close(found, 2 * (1 - torch.cosine_similarity(*z_i)), atol=1e-5, rtol=1e-4)
    both = Perceptual(own, 0.5, 2.0)(made, true)
    torch.testing.assert_close(both - found, 0.5 * Perceptual(own)(made, true), atol=1e-5, rtol=1e-3)


def test_another_tower_is_refused():
    with pytest.raises(UnclipError, match="ResNet"):
        Perceptual(clip(2))
