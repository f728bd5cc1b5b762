"""Sums of products in torch operations: exact ones in one convolution, narrow ones in the hardware's order.

docs/numerics.md, section 2, on tensors of whole batches. Nothing here calls the engine, the reference or
`numerics.accumulate`; `numerics.chunks` says where K is cut, as it does for all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from accelsim.errors import InputError
from accelsim.ir import AvgPool2d, Conv2d, Mac, TensorType
from accelsim.numerics import Arithmetic
from accelsim.training.exact import float_type

Padding = tuple[int, int, int, int]


def need_exact_products() -> None:
    """Refuse the settings of PyTorch with which a float32 convolution of integers is not exact."""
    if torch.get_float32_matmul_precision() != "highest":
        raise InputError(
            "torch.get_float32_matmul_precision() is not 'highest', so float32 products may be rounded; "
            "call torch.set_float32_matmul_precision('highest')"
        )
    if torch.is_autocast_enabled("cpu"):
        raise InputError("torch.autocast is on for the CPU, so products would be rounded to 16 bits; leave it")


def padded(x: Tensor, padding: Padding, value: float = 0.0) -> Tensor:
    """(N, C, H, W) with (top, bottom, left, right) more rows and columns."""
    top, bottom, left, right = padding
    return functional.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


def window_sums(x: Tensor, node: AvgPool2d) -> Tensor:
    """Sums over the windows of an average pool, (N, C, H, W), what is padded counting as 0."""
    return functional.avg_pool2d(padded(x, node.padding), node.kernel, node.stride, divisor_override=1)


def products(node: Mac, x: Tensor, weight: Tensor) -> Tensor:
    """The node's plain sums, (N, C, H, W), of x (N, C, H, W) with weights in PyTorch's shape; padding with 0.

    Exact, in any order of additions, where x and weight hold integers and the weights' l1 norm times the largest |x|
    is an integer of their dtype. NNPACK, whose convolutions (Winograd, FFT) multiply by fractions, is kept out.
    """
    if not isinstance(node, Conv2d):
        return functional.linear(x.flatten(1), weight)[:, :, None, None]
    top, bottom, left, right = node.padding
    symmetric = (top, left) == (bottom, right)
    with torch.backends.nnpack.flags(enabled=False):
        return functional.conv2d(
            x if symmetric else padded(x, node.padding),
            weight,
            stride=node.stride,
            padding=(top, left) if symmetric else 0,
            dilation=node.dilation,
            groups=node.groups,
        )


def sums_in_order(
    node: Mac,
    source: TensorType,
    x: Tensor,
    weight: Tensor,
    start: Tensor,
    cuts: list[range],
    how: Arithmetic,
    pad: int,
) -> Tensor:
    """Every output's sum as the array forms it: one fitted addition after the other, over all outputs at once.

    Args:
        node: shape, stride, padding, dilation and groups.
        source: type of its input; its (H, W, C) order is K's order in a linear layer.
        x: what the array's edge feeds, integers (N, C, H, W).
        weight: likewise, in PyTorch's shape.
        start: (N,), what the sums start from: biases that the accumulator adds, or zeros.
        cuts: of the reduction, from `ir.mac_chunks`.
        how: the layer's arithmetic.
        pad: what padding feeds.
    Returns:
        Integers (N, C, H, W), float32 or float64.
    """
    columns, kernels = _columns(node, source, x, weight, pad)
    groups, outputs = len(columns), len(weight)
    begin = start.reshape(groups, 1, outputs // groups)
    depthwise = isinstance(node, Conv2d) and node.is_depthwise
    total = _added(columns, kernels, begin, cuts, how, in_register=how.dataflow == "os" and not depthwise)
    height, width, channels = node.output.shape
    return (
        total.reshape(groups, len(x), height, width, -1)
        .movedim(0, 3)
        .reshape(len(x), height, width, channels)
        .movedim(3, 1)
    )


def _columns(node: Mac, source: TensorType, x: Tensor, weight: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Operands (groups, outputs, K) and (groups, K, channels) with k in (r, s, c) or (h, w, c) order."""
    if not isinstance(node, Conv2d):
        image = weight.reshape(-1, source.channels, source.height, source.width)
        return x.movedim(1, 3).flatten(1)[None], image.movedim(1, 3).flatten(1).T[None]
    taps = functional.unfold(
        padded(x, node.padding, float(pad)), node.kernel, dilation=node.dilation, stride=node.stride
    )
    per_group, count = source.channels // node.groups, node.kernel[0] * node.kernel[1]
    split = taps.reshape(len(x), node.groups, per_group, count, -1)  # (N, G, C / G, R * S, positions)
    columns = split.permute(1, 0, 4, 3, 2).reshape(node.groups, -1, count * per_group)
    kernels = weight.movedim(1, 3).reshape(node.groups, len(weight) // node.groups, -1).transpose(1, 2)
    return columns, kernels


def _added(
    columns: Tensor, kernels: Tensor, start: Tensor, cuts: list[range], how: Arithmetic, *, in_register: bool
) -> Tensor:
    """(groups, outputs, channels); start (groups, 1, channels)."""
    width, psum = how.width_bits, how.psum_bits
    largest = int(columns.abs().max())
    l1 = int(kernels.abs().sum(dim=1).max())
    everything = l1 * largest + int(start.abs().max())
    if how.saturate_at == "end":
        return _fit(_matmul(columns, kernels, everything) + start, width, how.overflow)
    if how.overflow == "wrap" and (in_register or psum == width):  # wrapping each time is reduction modulo 2**W
        return _fit(_matmul(columns, kernels, everything) + start, psum if in_register else width, "wrap")
    one = int(kernels.abs().max()) * largest
    dtype = float_type((1 << (width - 1)) + max(one, 1 << (psum - 1)))
    columns, kernels = columns.to(dtype), kernels.to(dtype)
    shape = (columns.shape[0], columns.shape[1], kernels.shape[2])
    begin = _fit(start, psum if in_register else width, how.overflow).to(dtype)
    total = begin.expand(shape).contiguous()
    for cut in cuts:
        part = slice(cut.start, cut.stop)
        if not in_register and int(kernels[:, part].abs().sum(dim=1).max()) * largest < 1 << (psum - 1):
            chunk = columns[:, :, part] @ kernels[:, part]  # no prefix of this chunk's sum can leave its range
        else:
            chunk = total if in_register else torch.zeros(shape, dtype=dtype)
            for k in cut:
                chunk = _fit(chunk.addcmul_(columns[:, :, k, None], kernels[:, None, k]), psum, how.overflow)
        total = chunk if in_register else _fit(total.add_(chunk), width, how.overflow)
    return total


def _matmul(columns: Tensor, kernels: Tensor, bound: int) -> Tensor:
    dtype = float_type(bound)
    return columns.to(dtype) @ kernels.to(dtype)


def _fit(values: Tensor, bits: int, overflow: str) -> Tensor:
    """Saturate or wrap, in place where the type allows; integers below the dtype's limit before and after."""
    half = float(1 << (bits - 1))
    if overflow == "saturate":
        return values.clamp_(-half, half - 1)
    return values.sub_(((values + half) / (2 * half)).floor_().mul_(2 * half))
