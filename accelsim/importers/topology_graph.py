"""A layer of a topology as an integer graph of its own, with random int8 weights and inputs."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from accelsim.config import QuantizationScheme
from accelsim.importers.topology import Product, Shape
from accelsim.ir import Conv2d, Input, IntegerGraph, Multiplier, TensorType, with_accumulator_widths
from accelsim.numerics import IntFormat

INT8 = IntFormat(8, signed=True)
SCALE = 2.0**-7
"""Of inputs and weights, so that codes are exact as float images."""
DEVIATION = 256 / math.sqrt(12)
"""Standard deviation of a uniform int8."""


def topology_graph(shape: Shape, scheme: QuantizationScheme | None = None, *, seed: int = 0) -> IntegerGraph:
    """One layer as a graph.

    A matrix product is a 1x1 convolution over one row of M pixels. Weights are uniform in -127..127, biases as large as
    sums are; M is the power of two that brings sums to about a third of int8's range, so that every scheme has it.

    Args:
        scheme: whose requantization, zero_points, bias_at and accumulator_width_bits are used; zero points are 0.
        seed: of the values, beside the layer's own name and sizes.
    Raises:
        InputError: accumulator_width_bits names no layer here.
    """
    scheme = scheme or QuantizationScheme()
    kernel, groups, inner = (1, 1), 1, 0
    stride, padding = 1, (0, 0, 0, 0)
    if isinstance(shape, Product):
        given, made, inner = (1, shape.m, shape.k), (1, shape.m, shape.n), shape.k
    else:
        given = (shape.height, shape.width, shape.channels)
        made = (*shape.output, shape.out_channels)
        kernel, stride = (shape.kernel_height, shape.kernel_width), shape.stride
        groups = shape.channels if shape.depthwise else 1
        inner = shape.channels // groups
        padding = (0, shape.missing[0], 0, shape.missing[1])
    random = np.random.default_rng([seed, *shape.name.encode(), *given, *made, *kernel])
    outputs = made[2]
    deviation = DEVIATION**2 * math.sqrt(kernel[0] * kernel[1] * inner)
    real = 2.0 ** round(math.log2(127 / 3 / deviation))
    how = scheme.requantization.numerics()
    m0, shift = how.derive(real)
    ones = np.ones(outputs, dtype=np.int64)
    source = f"{shape.name}.ifmap"
    layer = Conv2d(
        name=shape.name,
        inputs=(source,),
        output=_tensor(made, SCALE * SCALE / real),
        weight=random.integers(-127, 128, (outputs, *kernel, inner), dtype=np.int8).astype(np.int64),
        bias=random.integers(-round(deviation), round(deviation) + 1, outputs),
        multiplier=Multiplier(m0=m0 * ones, shift=shift * ones, real=real * np.ones(outputs)),
        clip=INT8.limits,
        stride=(stride, stride),
        padding=padding,
        groups=groups,
    )
    graph = IntegerGraph(
        name=shape.name,
        nodes=(Input(name=source, inputs=(), output=_tensor(given, SCALE)), layer),
        output=shape.name,
        output_shape=(made[2], made[0], made[1]),
        activation=INT8,
        requantization=how,
        zero_points=scheme.zero_points,
        bias_at=scheme.bias_at,
    )
    return with_accumulator_widths(graph, scheme.accumulator_width_bits)


def random_images(graph: IntegerGraph, count: int, *, seed: int = 0) -> npt.NDArray[np.float32]:
    """Inputs of such a graph, float32 (count, C, H, W), whose codes are uniform int8."""
    tensor = graph.input.output
    random = np.random.default_rng([seed, *graph.name.encode()])
    codes = random.integers(-128, 128, (count, tensor.channels, tensor.height, tensor.width), dtype=np.int8)
    return codes.astype(np.float32) * np.float32(tensor.scale)


def _tensor(shape: tuple[int, int, int], scale: float) -> TensorType:
    height, width, channels = shape
    return TensorType(height=height, width=width, channels=channels, scale=scale)
