"""AdamW for everything, or Muon for the weight matrices of hidden layers and AdamW for the rest.

Muon (Jordan et al. 2024) is PyTorch's own; it takes matrices only, so convolutions are handed to it as views. Its step
costs the same at any batch, so several processes share the matrices out and hand each other the results.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unclip_core.loading import pick_dtype

NAMES = ("adamw", "muon")
EDGES = ("conv_in", "conv_out", "embedding", "stem", "_head")  # first and last layers and tables stay with AdamW


class Muon(torch.optim.Muon):
    """PyTorch's Muon with steps of AdamW's size. It multiplies in bfloat16; where the hardware only emulates that, the
    same steps in float32."""

    def __init__(self, matrices: list[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self) -> None:
        if pick_dtype("auto", self.param_groups[0]["params"][0].device) == torch.bfloat16:
            super().step()
            return
        for group in self.param_groups:
            moved: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
            self._init_group(group, *moved)
            for parameter, gradient, momentum in zip(*moved, strict=True):
                momentum.lerp_(gradient, 1 - group["momentum"])
                step = orthogonal(gradient.lerp(momentum, group["momentum"]), group["ns_coefficients"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(step, alpha=group["lr"] * 0.2 * max(parameter.shape) ** 0.5)  # match_rms_adamw


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int = 5) -> Tensor:
    """matrix [M, N] with its singular values brought near one, by the Newton-Schulz iteration."""
    a, b, c = coefficients
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if len(matrix) <= matrix.shape[1] else wide.T


class Optimizers:
    """Several optimisers that step as one, at one learning rate."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], views: list[tuple[Tensor, nn.Parameter]]) -> None:
        self.optimizers, self.views = optimizers, views

    @property
    def param_groups(self) -> list[dict]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def set_rate(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr

    def step(self) -> None:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for i, (parameter, view) in enumerate(self.views):
            own = i % world == rank and parameter.grad is not None
            view.grad = _matrix(parameter.grad) if own else None
        for optimizer in self.optimizers:
            optimizer.step()
        if world > 1:
            for i, (_, view) in enumerate(self.views):
                dist.broadcast(view.data, src=i % world)

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        for parameter, _ in self.views:
            parameter.grad = None

    def state_dict(self) -> dict:
        """This process's: of matrices that another one moves, the momentum is left out and begins anew."""
        return {"each": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state: dict) -> None:
        """Raises ValueError for a state that other optimisers wrote."""
        if len(state.get("each", ())) != len(self.optimizers):
            raise ValueError("the checkpoint was written with another --optimizer")
        for optimizer, own in zip(self.optimizers, state["each"], strict=True):
            optimizer.load_state_dict(own)


def make_optimizer(
    name: str, network: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]
) -> Optimizers:
    """name: one of NAMES. Muon's step is scaled to AdamW's size, so that one learning rate serves both."""
    hidden, decayed, plain = [], [], []
    for key, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        inner = parameter.ndim >= 2 and not any(edge in key for edge in EDGES)
        pick = plain if parameter.ndim <= 1 else hidden if name == "muon" and inner else decayed
        pick.append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers = [torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)]
    views = [(p, nn.Parameter(_matrix(p.data))) for p in hidden]
    if views:
        matrices = [view for _, view in views]
        optimizers.append(Muon(matrices, lr, weight_decay))
    return Optimizers(optimizers, views)


def _matrix(weight: Tensor) -> Tensor:
    """[C', C, ...] -> a view [C', C * ...]; a convolution's may lie in memory channels-last."""
    if weight.ndim == 4 and not weight.is_contiguous():
        weight = weight.permute(0, 2, 3, 1)
    return weight.view(len(weight), -1)
