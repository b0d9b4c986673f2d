"""The measuring instrument's parts: figures against closed forms and peers, judges on true drawings, the evaluator."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unclip_core.corpus import scenes
from unclip_core.errors import UnclipError
from unclip_core.evaluation import evaluator as store
from unclip_core.evaluation import judges, metrics
from unclip_core.evaluation.evaluator import Evaluator, EvaluatorConfig

SMALL = EvaluatorConfig(widths=(8, 8, 16, 16), blocks=(1, 1, 1, 1), features=12)
CONCEPTS = [
    {"code": f"C{i}", "label": f"thing {i}", "label_ko": f"것 {i}", "group": "food", "core": True} for i in range(6)
]


def small_evaluator() -> Evaluator:
    torch.manual_seed(0)
    return Evaluator(SMALL, CONCEPTS, ["noto", "twemoji"]).eval()


# ---- metrics ----


def test_frechet_of_known_gaussians():
    """Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (200_000, 3)), rng.normal(1, 2, (200_000, 3))
    assert metrics.frechet(a, b) == pytest.approx(3 * 1 + 3 * 1, abs=0.05)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_agrees_with_torchmetrics():
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Same(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return x.flatten(1).double()

    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(300, 6, generator=rng), torch.randn(400, 6, generator=rng) * 1.3 + 0.2
    peer = FrechetInceptionDistance(feature=Same(), normalize=True)
    peer.set_dtype(torch.float64)
    peer.update(a.view(-1, 6, 1, 1), real=True)
    peer.update(b.view(-1, 6, 1, 1), real=False)
    assert metrics.frechet(a, b) == pytest.approx(peer.compute().item(), rel=1e-3)


def test_cmmd_is_unbiased_and_sees_a_shift():
    rng = np.random.default_rng(1)
    same = [metrics.cmmd(rng.normal(size=(60, 8)), rng.normal(size=(60, 8))) for _ in range(60)]
    assert abs(np.mean(same)) < 3 * np.std(same) / np.sqrt(60)
    assert metrics.cmmd(rng.normal(size=(60, 8)), rng.normal(size=(60, 8)) + 1) > 10 * np.std(same)


def test_the_interval_holds_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(2)
    found = [metrics.mean(rng.random(80) < 0.7) for _ in range(120)]
    assert 0.88 <= np.mean([e.low <= 0.7 <= e.high for e in found]) <= 1.0
    assert metrics.mean([0.25, 0.75])[0] == 0.5


def test_means_and_ratios_of_odd_samples():
    assert metrics.mean([1.0]) == (1.0, 1.0, 1.0, 1)
    assert metrics.mean([1, 1, 1, 1]) == (1.0, 1.0, 1.0, 4)
    assert np.isnan(metrics.mean([]).value) and np.isnan(metrics.median([]).value)
    found = metrics.median([1.0, 2.0, 30.0, 2.5, 1.5])
    assert found.value == 2.0 and found.low <= 2.0 <= found.high
    assert np.isnan(metrics.ratio([1, 0], [0, 0]).value)
    found = metrics.ratio([1, 0, 1, 0] * 20, [1, 1, 1, 0] * 20)
    assert found.value == pytest.approx(2 / 3) and found.low < 2 / 3 < found.high


def test_an_interval_of_a_distance_is_centred_on_it():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4))
    found = metrics.between(metrics.frechet, a, b)
    assert found.value == metrics.frechet(a, b) and found.low < found.value < found.high
    assert found.high - found.value == pytest.approx(found.value - found.low)


def test_diversity():
    same = torch.ones(8, 5)
    assert metrics.diversity(same, 4) == pytest.approx([0, 0], abs=1e-6)
    crossed = torch.eye(4)
    assert metrics.diversity(crossed, 4) == pytest.approx([1])
    black, white = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert metrics.pixel_diversity(torch.cat([black, white]), 2) == pytest.approx([1])


def test_psnr_and_ranks():
    true = torch.zeros(2, 3, 8, 8)
    assert metrics.psnr(true + 0.2, true) == pytest.approx([20, 20], abs=1e-4)  # 10 log10(4 / 0.04)
    queries = torch.tensor([[1.0, 0], [0, 1], [0.7, 0.72]])
    assert metrics.retrieval_ranks(queries, torch.tensor([[1.0, 0], [0, 1], [1, 0.9]])).tolist() == [0, 0, 0]
    assert metrics.retrieval_ranks(queries[:2], queries[:2].flip(0)).tolist() == [1, 1]


# ---- judges ----


def test_true_shapes_are_judged_right():
    tasks = judges.shapes_tasks(60)
    assert np.mean([judges.judge_shapes(task.true, task)["all"] for task in tasks]) > 0.97


def test_swapped_colours_are_seen():
    task = judges.shapes_tasks(1)[0]
    canvas = Image.new("RGB", (128, 128), "white")
    places = {"to the left of": (0, 1), "to the right of": (1, 0), "above": (0, 1), "below": (1, 0)}[task.relation]
    things = [(task.second[0], task.first[1]), (task.first[0], task.second[1])]  # colours exchanged
    for (colour, shape), place in zip(things, places):
        sprite = scenes.shape(shape, judges.COLOURS[colour][1], 56)
        across = "left" in task.relation or "right" in task.relation
        canvas.paste(sprite, (4 + 64 * place, 36) if across else (36, 4 + 64 * place), sprite)
    judged = judges.judge_shapes(judges.small(canvas), task)
    assert judged["swapped"] and judged["colours"] and not judged["binding"] and not judged["all"]


def test_pictures_without_shapes_or_words_are_judged_empty():
    task = judges.shapes_tasks(1)[0]
    for value in (255, 0, 128):
        flat = np.full((3, 64, 64), value, np.uint8)
        assert not any(judges.judge_shapes(flat, task).values())
        assert judges.read_word(flat) is None
    noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    assert not judges.judge_shapes(noise, task)["all"]


def test_true_cards_are_read():
    tasks = judges.word_tasks(60)
    assert {task.seen for task in tasks} == {True, False}
    assert np.mean([judges.read_word(task.true) == task.word for task in tasks]) > 0.97


# ---- the evaluator ----


def test_an_evaluator_comes_back_from_its_files(tmp_path):
    made = small_evaluator()
    store.save(made, tmp_path, {"pictures": 0})
    again = store.load(tmp_path)
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(made.features(pixels), again.features(pixels), atol=0.05)
    assert again.styles == ["noto", "twemoji"] and again.concepts == CONCEPTS and len(again.hash) == 16
    assert again.features(pixels[:0]).shape == (0, 12)
    assert again.features(pixels.repeat(1, 1, 4, 4)).shape == (5, 12)  # 256 px is brought down


def test_ranks_count_likelier_concepts():
    evaluator = small_evaluator()
    directions = evaluator.concept_head.detach()
    assert evaluator.ranks(directions, [row["code"] for row in CONCEPTS]).tolist() == [0] * 6
    assert evaluator.ranks(-directions[:1], ["C0"]).tolist() == [5]


def test_perceptual_distance():
    evaluator = small_evaluator()
    a = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert evaluator.perceptual(a, a) == pytest.approx([0, 0], abs=1e-6)
    near, far = evaluator.perceptual(a, a + 0.02), evaluator.perceptual(a, a.flip(3))
    assert (near < far).all()


def test_a_missing_or_damaged_evaluator_is_named(tmp_path):
    with pytest.raises(UnclipError, match="train_evaluator"):
        store.load(tmp_path)
    store.save(small_evaluator(), tmp_path, {})
    data = bytearray((tmp_path / store.WEIGHTS).read_bytes())
    data[-5] ^= 1
    (tmp_path / store.WEIGHTS).write_bytes(data)
    with pytest.raises(UnclipError, match="damaged"):
        store.load(tmp_path)


def test_training_never_looks_at_the_evaluator():
    """Its judgement is an outside one only as long as nothing is trained on it."""
    root = Path(store.__file__).parent.parent
    for folder in ("training", "corpus", "."):
        for path in (root / folder).glob("*.py"):
            if path.name == "cli.py":
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = (
                    [node.module or ""]
                    if isinstance(node, ast.ImportFrom)
                    else [a.name for a in getattr(node, "names", [])]
                )
                assert not any("evaluation" in str(name) for name in names), f"{path.name} imports the evaluation"
