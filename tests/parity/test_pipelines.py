"""Whole pipelines end to end against diffusers': same weights, starting noises and generators.

In float64 everything is compared closely. In float32 two runs that differ in rounding alone can part at a pixel or two:
near the noisy end x0 is (x - noise) / 5e-5, clipped; the seeds here are ones where none does.
"""

import copy

import numpy as np
import peers
import pytest
import torch
from PIL import Image

from unclip_core.errors import RequestError
from unclip_core.karlo import sample_reference, vary_reference
from unclip_core.pipeline import UnCLIP

PROMPTS = ["a red apple", "an apple on a red apple on the apple, and more red!"]


@pytest.fixture(scope="module", params=list(peers.SHAPES)[:2])
def pair(request, tmp_path_factory):
    shape = peers.SHAPES[request.param]
    folder = tmp_path_factory.mktemp("published") / "model"
    pipeline = peers.write_folder(folder, shape)
    return shape, pipeline, UnCLIP.load(folder)


def in_double(pipeline, model):
    """Both in float64. The stages are replaced in a copy of ours, by what conversion makes of them."""
    pipeline, model = copy.deepcopy(pipeline).to(torch.float64), copy.copy(model)
    stages = {name: copy.deepcopy(stage).double() for name, stage in model.stages.items()}
    empty = stages["clip"].encode_text([""])
    stages["prior"].empty = stages["decoder"].empty = empty
    model.stages = stages
    return pipeline, model


def theirs(pipeline, prompts, steps, guidance, n, generator, latents):
    given = dict(zip(("prior_latents", "decoder_latents", "super_res_latents"), latents or ()))
    pictures = pipeline(
        prompts,
        num_images_per_prompt=n,
        prior_num_inference_steps=steps[0],
        decoder_num_inference_steps=steps[1],
        super_res_num_inference_steps=steps[2],
        prior_guidance_scale=guidance[0],
        decoder_guidance_scale=guidance[1],
        generator=generator,
        output_type="np",
        **given,
    ).images
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def starting_noises(shape, model, rows, dtype=torch.float32):
    generator = torch.Generator().manual_seed(11)
    low, high = model.stages["decoder"].config.image_size, model.stages["upsampler_256"].config.image_size
    shapes = [(rows, shape.embed_dim), (rows, 3, low, low), (rows, 3, high, high)]
    return [torch.randn(size, generator=generator, dtype=dtype) for size in shapes]


GUIDANCES = {"both": (4.0, 8.0), "off": (1.0, 1.0), "prior only": (4.0, 1.0), "decoder only": (1.0, 8.0)}
GUIDANCES |= {"below one and on": (0.5, 3.0), "below one and off": (0.5, 0.8)}


@pytest.mark.parametrize("guidance", GUIDANCES)
def test_text_to_image_in_float64(pair, guidance):
    shape, pipeline, model = pair
    pipeline, model = in_double(pipeline, model)
    steps, scales, latents = (3, 4, 3), GUIDANCES[guidance], starting_noises(shape, model, 2, torch.float64)
    generator = torch.Generator().manual_seed(2)
    expected = theirs(pipeline, PROMPTS, steps, scales, 1, generator.manual_seed(2), latents)
    ours = sample_reference(
        model, PROMPTS, steps=steps, guidance=scales, latents=latents, generator=generator.manual_seed(2)
    )
    assert ours.dtype == torch.float32 and expected.std() > 0.05
    torch.testing.assert_close(ours, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("n", "given"), [(1, True), (3, False)])
def test_text_to_image_in_float32(pair, n, given):
    shape, pipeline, model = pair
    latents = starting_noises(shape, model, 2 * n) if given else None
    steps, generator = (4, 5, 3), torch.Generator()
    expected = theirs(pipeline, PROMPTS, steps, (4.0, 8.0), n, generator.manual_seed(6), latents)
    generators = generator.manual_seed(6) if given else [generator.manual_seed(6)]  # a list of one is for all
    ours = sample_reference(model, PROMPTS, steps=steps, pictures_per_prompt=n, latents=latents, generator=generators)
    assert ours.shape == (2 * n, 3, *expected.shape[-2:]) and 0 <= ours.min() and ours.max() <= 1
    torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)


def test_a_generator_for_each_picture(pair):
    _, pipeline, model = pair
    pipeline, model = in_double(pipeline, model)
    generators = [[torch.Generator().manual_seed(seed) for seed in (5, 9)] for _ in range(2)]
    expected = theirs(pipeline, PROMPTS, (2, 2, 2), (4.0, 8.0), 1, generators[0], None)
    ours = sample_reference(model, PROMPTS, steps=(2, 2, 2), generator=generators[1])
    torch.testing.assert_close(ours, expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("guidance", [8.0, 1.0])
def test_image_variations(pair, guidance):
    shape, pipeline, model = pair
    pipeline, model = in_double(peers.variation_pipeline(pipeline, shape), model)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    pictures = [Image.fromarray(p) for p in pixels]
    embeddings = pipeline.image_encoder(
        pipeline.feature_extractor(images=pictures, return_tensors="pt").pixel_values.double()
    ).image_embeds
    latents, generator = starting_noises(shape, model, 4, torch.float64)[1:], torch.Generator()
    expected = pipeline(
        image_embeddings=embeddings,
        num_images_per_prompt=2,
        decoder_num_inference_steps=3,
        super_res_num_inference_steps=2,
        decoder_guidance_scale=guidance,
        decoder_latents=latents[0],
        super_res_latents=latents[1],
        generator=generator.manual_seed(1),
        output_type="np",
    ).images
    options = {"steps": (3, 2), "guidance": guidance, "latents": latents, "variations": 2}
    expected = torch.from_numpy(expected).permute(0, 3, 1, 2).float()
    ours = vary_reference(model, embeddings.detach(), generator=generator.manual_seed(1), **options)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    seen = vary_reference(model, pictures, generator=generator.manual_seed(1), **options)
    assert (seen - expected).abs().mean() < 0.05  # through our own reading of the pictures


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latents": (torch.zeros(1, 1), None, None)}, "starting noise"),
        ({"latents": (None, None)}, "3 starting noises"),
        ({"generator": [torch.Generator()] * 3}, "3 generators"),
        ({"steps": (1, 0, 1)}, "steps holds 3"),
        ({"steps": (1, 1)}, "steps holds 3"),
        ({"guidance": 4.0}, "guidance holds 2"),
        ({"guidance": (4.0, float("nan"))}, "guidance holds 2"),
        ({"pictures_per_prompt": 0}, "pictures_per_prompt"),
    ],
)
def test_mistakes_are_named(pair, options, message):
    with pytest.raises(RequestError, match=message):
        sample_reference(pair[2], PROMPTS, **{"steps": (1, 1, 1), **options})
