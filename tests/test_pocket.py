"""The shipped pack: whole, small enough to host, and drawing. What its pictures are like is for the evaluation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip_core.packs import SHIPPED, read_pack
from unclip_core.provenance import read_recipe
from unclip_core.request import stages_to

pytestmark = pytest.mark.pack
ROOT = Path(__file__).resolve().parent.parent


def largest(model) -> int:
    """The largest size that the pack's stages reach."""
    return max(size for size in (64, 256, 1024) if all(model.has(stage) for stage in stages_to(size)))


def test_it_fits_hosts_without_large_file_storage():
    folder = SHIPPED / "pocket"
    pack = read_pack(folder)
    assert pack.name == "pocket" and pack.licence and pack.attribution
    assert {"clip", "decoder"} <= set(pack.stages)
    sizes = [file.stat().st_size for file in folder.iterdir()]
    assert max(sizes) < 9_500_000 and sum(sizes) < 120_000_000
    assert {file.suffix for file in folder.iterdir()} <= {".json", ".safetensors", ".md"}


def test_every_prior_it_has_draws_what_it_drew_before(pocket_model):
    kinds = {"diffusion": "prior", "ar": "prior_ar", "text": "clip", "caption": "clip"}
    for kind in (kind for kind, stage in kinds.items() if pocket_model.has(stage)):
        one, two = (pocket_model.generate("빨간 사과", seed=4, prior=kind)[0] for _ in range(2))
        assert np.array_equal(np.asarray(one), np.asarray(two)), kind
        assert np.asarray(one).std() > 1, kind


def test_batch_sizes_agree(pocket_model):
    alone = np.asarray(pocket_model.generate("a red apple", n=1, seed=3)[0], int)
    among = np.asarray(pocket_model.generate("a red apple", n=5, seed=3)[0], int)
    assert (np.abs(alone - among) <= 1).mean() >= 0.999


@pytest.mark.slow
def test_generate_from_a_shell_within_the_memory_promised(pocket_model, tmp_path):
    code = (
        "import resource, sys; from unclip_core.cli import main; status = main(sys.argv[1:]); "
        "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)"
    )
    size = largest(pocket_model)
    arguments = ["generate", "a red apple", "--n", "4", "--size", str(size), "--seed", "0", "--out", str(tmp_path)]
    run = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    status, gigabytes = run.stdout.split()[-2:]
    assert status == "0" and float(gigabytes) < 2.5
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4 and all(Image.open(file).size == (size, size) for file in files)
    recipe = read_recipe(files[2])
    assert recipe["pack"] == {"name": "pocket", "hash": pocket_model.hash} and recipe["index"] == 2
