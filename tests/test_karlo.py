"""Karlo by name without a network, its pinned revision, and what stands in for what it lacks. Parity: tests/parity."""

from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch

from unclip_core import karlo, karlo_hub
from unclip_core.errors import PackError, RequestError
from unclip_core.karlo_extras import Lanczos, add_stand_in, from_statistics
from unclip_core.karlo_stages import KarloPrior, ReferenceSchedule
from unclip_core.pipeline import UnCLIP
from unclip_core.prior_diffusion import DiffusionPriorConfig

COMMITS = {karlo_hub.TEXT_TO_IMAGE: "a" * 40, karlo_hub.VARIATIONS: "b" * 40}


class Hub:
    """A Hub with a switch for the network, and a cache."""

    def __init__(self, cache, monkeypatch):
        self.cache, self.online, self.asked = cache, True, []
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=self.info))

    def info(self, repository):
        if not self.online:
            raise OSError("no network")
        return SimpleNamespace(sha=COMMITS[repository])

    def snapshot(self, repo_id, allow_patterns, revision, local_files_only=False):
        self.asked.append((repo_id, revision, local_files_only))
        assert all(pattern.endswith((".json", ".safetensors", "merges.txt")) for pattern in allow_patterns)
        folder = self.cache / repo_id.replace("/", "--") / revision
        if local_files_only or not self.online:
            if not folder.is_dir():
                raise OSError("not in the cache")
            return str(folder)
        for network in karlo_hub.NETWORKS[repo_id]:
            (folder / network).mkdir(parents=True, exist_ok=True)
            (folder / network / "config.json").write_text("{}")
            (folder / network / "model.safetensors").write_bytes(b"")
        return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    return Hub(tmp_path / "cache", monkeypatch)


def test_names():
    assert karlo.is_karlo("karlo") and karlo.is_karlo("karlo@" + "0" * 40)
    assert not karlo.is_karlo("pocket") and not karlo.is_karlo("no/such/folder")


def test_the_first_fetch_pins_the_commit_and_later_starts_need_no_network(hub, tmp_path):
    first = karlo_hub.find("karlo", tmp_path)
    downloads = [(name, revision) for name, revision, local in hub.asked if not local]
    assert downloads == list(COMMITS.items())
    hub.online = False
    hub.asked.clear()
    assert karlo_hub.find("karlo", tmp_path) == first
    assert [(name, revision) for name, revision, _ in hub.asked] == list(COMMITS.items())


def test_the_pin_holds_when_the_branch_moves_on(hub, tmp_path, monkeypatch):
    karlo_hub.find("karlo", tmp_path)
    monkeypatch.setitem(COMMITS, karlo_hub.TEXT_TO_IMAGE, "c" * 40)
    folder, _ = karlo_hub.find("karlo", tmp_path)
    assert folder.name == "a" * 40
    chosen, _ = karlo_hub.find("karlo@" + "d" * 40, tmp_path)
    assert chosen.name == "d" * 40
    assert karlo_hub.find("karlo", tmp_path)[0].name == "a" * 40


def test_a_fetch_that_was_broken_off_is_taken_up_again(hub, tmp_path):
    folder, _ = karlo_hub.find("karlo", tmp_path)
    weights = folder / "decoder" / "model.safetensors"
    weights.unlink()
    assert karlo_hub.find("karlo", tmp_path)[0] == folder and weights.is_file()


def test_a_revision_that_is_no_commit_is_refused(tmp_path):
    for name in ("karlo@main", "karlo@abc", "karlo@" + "g" * 40):
        with pytest.raises(PackError, match="40 hex digits"):
            karlo_hub.find(name, tmp_path)


def test_without_network_and_files_one_message_says_everything(hub, tmp_path):
    hub.online = False
    with pytest.raises(PackError) as caught:
        UnCLIP.load("karlo")
    message = str(caught.value)
    for part in (karlo_hub.TEXT_TO_IMAGE, karlo_hub.VARIATIONS, "GB", str(hub.cache), "--pack pocket", "--pack FOLDER"):
        assert part in message
    assert caught.value.code == "karlo_missing"


def test_weights_put_there_by_hand_come_first(hub, tmp_path):
    (tmp_path / "karlo" / "decoder").mkdir(parents=True)
    assert karlo_hub.find("karlo", tmp_path) == (tmp_path / "karlo", None)
    assert hub.asked == []


def test_a_folder_that_is_no_model_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(PackError, match="has no text_encoder"):
        UnCLIP.load(tmp_path)


def test_published_statistics_as_a_basis():
    mean, std = torch.randn(6), torch.tensor([1.0, 3.0, 2.0, 0.5, 0.1, 0.2])
    pca = from_statistics(mean, std)
    z = torch.randn(4, 6)
    kept = pca.truncate(z, 2)
    torch.testing.assert_close(kept[:, [1, 2]], z[:, [1, 2]])
    torch.testing.assert_close(kept[:, [0, 3, 4, 5]], mean[[0, 3, 4, 5]].expand(4, -1))
    assert pca.explained[0] == pytest.approx(9 / (std**2).sum().item())


def test_lanczos_keeps_a_flat_picture_flat():
    step = next(Lanczos().sample_steps(torch.full((1, 3, 8, 8), 0.2), torch.zeros(1, 3, 32, 32)))
    assert step.x.shape == (1, 3, 32, 32) and (step.x - 0.2).abs().max() < 0.005


def test_a_pack_with_its_own_upsampler_takes_no_stand_in(tiny_model):
    with pytest.raises(RequestError, match="no stand-in 'magic'"):
        add_stand_in(tiny_model, "magic")
    with pytest.raises(RequestError, match="needs no stand-in"):
        add_stand_in(tiny_model, "lanczos")


def test_other_packs_are_not_sampled_the_published_way(tiny_model):
    with pytest.raises(RequestError, match="Only published unCLIP weights"):
        karlo.sample_reference(tiny_model, ["a red apple"])


def test_our_samplers_read_a_prior_as_it_was_trained():
    schedule = ReferenceSchedule(predicts="eps", clip=None)
    prior = KarloPrior(DiffusionPriorConfig(6, 6, 4, width=8, layers=1, heads=1, unit=False, null="empty"), schedule)
    x0, noise, t = torch.randn(2, 6), torch.randn(2, 6), torch.tensor([300, 300])
    prior.network = lambda *_: lambda x, t: noise
    signal, sigma = schedule.ours.signal_and_noise(t, x0)
    torch.testing.assert_close(prior.denoiser(None, 1.0)(signal * x0 + sigma * noise, t), x0, atol=1e-5, rtol=1e-5)


def test_learned_variance_lies_between_its_two_bounds():
    schedule, draws = ReferenceSchedule(learned_range=True), torch.ones(1, 3, 2, 2)
    spreads = []
    for share in (-1.0, 0.0, 1.0):
        raw = torch.cat([torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), share)], dim=1)
        x = torch.zeros(1, 3, 2, 2)
        with_noise = next(schedule.sample(lambda *_, raw=raw: raw, x, 3, lambda shape: draws)).x
        without = next(schedule.sample(lambda *_, raw=raw: raw, x, 3, lambda shape: 0 * draws)).x
        spreads.append((with_noise - without).mean().item())
    a, before = schedule.ours.alpha_bar[999].item(), schedule.ours.alpha_bar[500].item()
    beta = 1 - a / before
    expected = [((1 - before) / (1 - a) * beta) ** 0.5, None, beta**0.5]
    assert spreads[0] == pytest.approx(expected[0], rel=1e-5) and spreads[2] == pytest.approx(expected[2], rel=1e-5)
    assert spreads[1] == pytest.approx((spreads[0] * spreads[2]) ** 0.5, rel=1e-5)
