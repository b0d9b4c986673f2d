"""3x3 convolutions for training on a CPU, in a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray
1509.09308). Float32 only; the results differ from the plain sum by about 1e-5 of their largest.

A picture is cut into tiles of 6 x 6 pixels, four apart. Transformed on both axes, a tile's convolution becomes 36
products, each a matrix product over channels; transformed back they are 4 x 4 pixels of the result. The gradients are
the same three steps, transposed. B pictures of C channels and n x m tiles; C' channels come out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# The transforms for the points 0, 1, -1, 2, -2 and infinity: of the input, of the kernel, and back to the output.
INPUT = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
KERNEL = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
OUTPUT = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def fits(x: Tensor, kernel: Tensor, stride: tuple, padding: tuple) -> bool:
    """Whether this is a convolution to do here: one to be learned in float32 on a CPU, and large enough to gain."""
    return (
        torch.is_grad_enabled()
        and kernel.requires_grad
        and x.device.type == "cpu"
        and x.dtype == kernel.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and (*kernel.shape[2:], *stride, *padding) == (3, 3, 1, 1, 1, 1)
        and x.shape[2] % 4 == x.shape[3] % 4 == 0
        and min(kernel.shape[:2]) >= 32
        and x.shape[0] * x.shape[2] * x.shape[3] >= 512
    )


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """x [B, C, H, W], H and W multiples of 4, kernel [C', C, 3, 3], bias [C'] -> [B, C', H, W], with gradients to all
    three; what `F.conv2d(x, kernel, bias, padding=1)` returns, in memory order B, H, W, C'."""
    return _Winograd.apply(x, kernel, bias)


def _both_axes(matrix: Tensor, x: Tensor) -> Tensor:
    """The matrix [r, k] on two axes of k: x with k * k * N entries -> [r * r, N]."""
    r, k = matrix.shape
    return torch.matmul(matrix, (matrix @ x.reshape(k, -1)).view(r, k, -1)).view(r * r, -1)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        (b, c, h, w), out = x.shape, len(kernel)
        n, m = h // 4, w // 4
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).contiguous()  # [B, H + 2, W + 2, C]
        picture, row, pixel, channel = padded.stride()
        tiles = padded.as_strided((6, 6, b, n, m, c), (row, pixel, picture, 4 * row, 4 * pixel, channel))
        tiles = _both_axes(INPUT, tiles).view(36, b * n * m, c)
        kernels = _both_axes(KERNEL, kernel.permute(2, 3, 1, 0)).view(36, c, out)
        made = _both_axes(OUTPUT, torch.bmm(tiles, kernels)).view(4, 4, b, n, m, out)
        made = made.permute(2, 3, 0, 4, 1, 5).reshape(b, h, w, out)
        ctx.save_for_backward(tiles, kernels)
        return (made if bias is None else made + bias).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        tiles, kernels = ctx.saved_tensors
        (b, out, h, w), c = gradient.shape, tiles.shape[2]
        n, m = h // 4, w // 4
        gradient = gradient.permute(0, 2, 3, 1)
        to_bias = gradient.sum((0, 1, 2)) if ctx.needs_input_grad[2] else None
        made = gradient.reshape(b, n, 4, m, 4, out).permute(2, 4, 0, 1, 3, 5)
        made = _both_axes(OUTPUT.T, made).view(36, b * n * m, out)
        to_kernel = _both_axes(KERNEL.T, torch.bmm(tiles.transpose(1, 2), made)).view(3, 3, c, out).permute(3, 2, 0, 1)
        if not ctx.needs_input_grad[0]:
            return None, to_kernel, to_bias
        tiles = _both_axes(INPUT.T, torch.bmm(made, kernels.transpose(1, 2))).view(6, 6, b, n, m, c)
        padded = tiles.new_zeros(b, n + 1, 4, m + 1, 4, c)  # a tile's last two rows and columns lie in the next block
        for down, rows in ((0, slice(0, 4)), (1, slice(4, 6))):
            for right, columns in ((0, slice(0, 4)), (1, slice(4, 6))):
                part = tiles[rows, columns]
                place = padded[:, down : down + n, : len(part), right : right + m, : part.shape[1]]
                place += part.permute(2, 3, 0, 4, 1, 5)
        to_x = padded.view(b, h + 4, w + 4, c)[:, 1 : h + 1, 1 : w + 1].permute(0, 3, 1, 2)
        return to_x.contiguous(memory_format=torch.channels_last), to_kernel, to_bias
