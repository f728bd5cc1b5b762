"""Machine and reference against PyTorch's own convolutions, exact in float64 and in int64, at a 32-bit accumulator."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.ir import Conv2d, Linear
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked

torch = pytest.importorskip("torch")
HOW = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)


def requantized(value: int, real_m0: int, shift: int) -> int:
    """round-half-even(value * M0 / 2**(31 + n)), by rational numbers."""
    return round(Fraction(value * real_m0) / Fraction(2) ** (31 + shift))


def torch_layer(node: Conv2d | Linear, centred: np.ndarray, dtype) -> np.ndarray:
    """Sums (batch, H, W, N) of centred activations (batch, H, W, C) and weights, by PyTorch."""
    weight = torch.tensor(node.weight - node.weight_zero_point).to(dtype)
    if isinstance(node, Linear):
        flat = torch.tensor(centred.reshape(len(centred), -1)).to(dtype)
        return (flat @ weight.T).to(torch.int64).numpy().reshape(len(centred), 1, 1, -1)
    top, bottom, left, right = node.padding
    image = torch.nn.functional.pad(torch.tensor(centred).permute(0, 3, 1, 2).to(dtype), (left, right, top, bottom))
    if dtype is torch.int64:  # conv2d has no integer kernel for every shape; unfolding has
        sums = integer_convolution(image, weight.permute(0, 3, 1, 2), node)
    else:
        kernel = weight.permute(0, 3, 1, 2)
        sums = torch.nn.functional.conv2d(image, kernel, stride=node.stride, dilation=node.dilation, groups=node.groups)
    return sums.to(torch.int64).permute(0, 2, 3, 1).numpy()


def integer_convolution(image, kernel, node: Conv2d):
    """int64 convolution by strided slices of a torch tensor, group by group."""
    channels, per_group, tall, broad = kernel.shape
    height = (image.shape[2] - node.dilation[0] * (tall - 1) - 1) // node.stride[0] + 1
    width = (image.shape[3] - node.dilation[1] * (broad - 1) - 1) // node.stride[1] + 1
    result = torch.zeros((image.shape[0], channels, height, width), dtype=torch.int64)
    per_output = channels // node.groups
    for group in range(node.groups):
        taken = image[:, group * per_group : (group + 1) * per_group]
        outputs = slice(group * per_output, (group + 1) * per_output)
        for r in range(tall):
            for s in range(broad):
                rows = slice(
                    r * node.dilation[0], r * node.dilation[0] + (height - 1) * node.stride[0] + 1, node.stride[0]
                )
                columns = slice(
                    s * node.dilation[1], s * node.dilation[1] + (width - 1) * node.stride[1] + 1, node.stride[1]
                )
                tap = kernel[outputs, :, r, s]
                result[:, outputs] += torch.einsum("bchw,nc->bnhw", taken[:, :, rows, columns], tap)
    return result


@pytest.mark.parametrize("seed", range(36))
def test_random_layer_equals_pytorch(seed):
    rng = np.random.default_rng(seed)
    subtracted = bool(seed % 2)
    maker = GraphMaker(
        rng,
        HOW,
        activation=IntFormat(8, signed=seed % 3 != 0),
        zero_points="subtracted" if subtracted else "folded",
        affine_weights=subtracted,
    )
    groups = int(rng.choice([1, 1, 2, 3]))
    channels = groups * int(rng.integers(1, 6))
    zero = maker.zero_point()
    source = maker.input(int(rng.integers(7, 12)), int(rng.integers(7, 12)), channels, zero)
    if seed % 6 == 5:
        maker.linear(source, int(rng.integers(1, 20)))
    else:
        outputs = channels if seed % 6 == 4 else groups * int(rng.integers(1, 6))
        maker.conv(
            source,
            outputs,
            (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            stride=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            padding=tuple(int(v) for v in rng.integers(0, 3, 4)),
            dilation=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
            groups=channels if seed % 6 == 4 else groups,
        )
    graph = maker.graph()
    node = graph.nodes[1]
    batch = int(rng.integers(2, 4))
    codes = maker.codes(batch)

    sums = torch_layer(node, codes - zero, torch.float64)
    assert np.array_equal(sums, torch_layer(node, codes - zero, torch.int64))
    bias = node.bias  # folded biases hold -Z_x * sum(w); padding fed Z_x, so centred sums need it taken out again
    if not subtracted:
        bias = bias + zero * node.weight.reshape(len(node.weight), -1).sum(axis=1)
    total = sums + bias
    expected = np.empty_like(total)
    for index in np.ndindex(total.shape):
        n = index[3]
        scaled = requantized(int(total[index]), int(node.multiplier.m0[n]), int(node.multiplier.shift[n]))
        expected[index] = min(max(node.output.zero_point + scaled, node.clip[0]), node.clip[1])

    dataflow = "os" if seed % 4 == 3 else "ws"
    hardware = load_hardware("default_16x16", [f"array.dataflow={dataflow}"])
    outcome = run_checked(compile_graph(graph, hardware, batch), graph, codes)
    assert outcome.mismatch is None
    assert np.array_equal(outcome.timed.output, expected)
