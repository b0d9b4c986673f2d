"""AdamW and Muon behind one face: which weights each moves, resuming, and the perceptual distance beside them."""

import copy

import pytest
import torch
from torch import nn

from unclip_core.training import optimizers
from unclip_core.training.optimizers import make_optimizer


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.ModuleDict({"conv_in": nn.Conv2d(3, 8, 3), "conv_1": nn.Conv2d(8, 8, 3), "linear": nn.Linear(8, 4)})
    return layers.to(memory_format=torch.channels_last)


def take_step(model: nn.Module, optimizer) -> None:
    x = torch.ones(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    model["linear"](model["conv_1"](model["conv_in"](x)).mean((2, 3))).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_muon_moves_hidden_matrices_by_an_orthogonal_step_of_adamws_size():
    model = network()
    before, lr = copy.deepcopy(model), 1e-2
    optimizer = make_optimizer("muon", model, lr, 0.0, (0.9, 0.99))
    optimizer.set_rate(lr)
    take_step(model, optimizer)
    for name in ("conv_1", "linear"):
        moved = (model[name].weight - before[name].weight).detach().flatten(1)
        singular = torch.linalg.svdvals(moved) / (lr * 0.2 * max(moved.shape) ** 0.5)
        assert 0.5 < singular.max() < 1.5  # Newton-Schulz brings singular values near one
        assert model[name].weight.grad is None
    assert not torch.equal(model["conv_in"].weight, before["conv_in"].weight)  # AdamW's share
    assert len(optimizer.optimizers) == 2 and len(optimizer.optimizers[1].param_groups[0]["params"]) == 2


def test_adamw_alone_is_pytorchs():
    model = network()
    plain = copy.deepcopy(model)
    optimizer = make_optimizer("adamw", model, 1e-2, 0.0, (0.9, 0.99))
    theirs = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
    for _ in range(2):
        take_step(model, optimizer)
        take_step(plain, theirs)
    for one, two in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_a_state_goes_on_and_another_optimizers_is_refused():
    model = network()
    optimizer = make_optimizer("muon", model, 1e-2, 0.0, (0.9, 0.99))
    take_step(model, optimizer)
    twin = copy.deepcopy(model)
    again = make_optimizer("muon", twin, 1e-2, 0.0, (0.9, 0.99))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    take_step(model, optimizer)
    take_step(twin, again)
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    with pytest.raises(ValueError, match="optimizer"):
        make_optimizer("adamw", network(), 1e-2, 0.0, (0.9, 0.99)).load_state_dict(optimizer.state_dict())


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_muon_takes_the_same_steps_where_bfloat16_is_only_emulated(monkeypatch, shape):
    ends = []
    for kind in (torch.bfloat16, torch.float32):
        monkeypatch.setattr(optimizers, "pick_dtype", lambda *_, kind=kind: kind)
        generator = torch.Generator().manual_seed(0)
        weight = nn.Parameter(torch.randn(shape, generator=generator))
        begun = weight.detach().clone()
        muon = optimizers.Muon([weight], lr=0.01, weight_decay=0.1)
        for _ in range(3):
            weight.grad = torch.randn(shape, generator=generator)
            muon.step()
        ends.append(weight.detach() - begun)
    assert 0 < (ends[0] - ends[1]).norm() < 0.03 * ends[0].norm()  # bfloat16's rounding
