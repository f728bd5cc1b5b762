"""Float parameters of one convolution or linear layer, and the integers they stand for."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from accelsim.errors import InputError
from accelsim.ir import Conv2d, IntegerGraph, Mac
from accelsim.numerics import IntFormat
from accelsim.quantization.layers import to_float_layout, to_integer_layout
from accelsim.training.gradient import substitute

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


class TrainableLayer(nn.Module):
    """Weight and bias of one layer in real units, on the scales of the graph; it computes nothing by itself.

    S_x, S_y, Z_x and Z_w are the graph's; S_w = M * S_y / S_x by output channel, with the stored real M. Integers
    follow from parameters as docs/numerics.md, section 5, says, with these scales.

    Attributes:
        weight: (N, C / groups, R, S) or (N, K), in PyTorch's order, S_w * (q - Z_w) at first.
        bias: (N,), in the units of the output before its activation; a folded zero point is taken out.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, graph: IntegerGraph, node: Mac, dtype: torch.dtype):
        super().__init__()
        self._where = f"{graph.name}: {node.source or node.name}"
        self._node = node
        self._source = graph.by_name[node.inputs[0]].output
        self._folded = graph.zero_points == "folded"
        real = node.multiplier.real
        if not (np.isfinite(real).all() and real.min() > 0):
            raise InputError(f"{self._where}: real multipliers {real.min()}..{real.max()} must be positive and finite")
        self._weight_scale = real * node.output.scale / self._source.scale
        self._bias_scale = self._source.scale * self._weight_scale
        form = IntFormat(node.weight_bits)
        # A layer of the restricted range, where -q is a code of every code q, stays in it.
        is_full = node.weight_zero_point != 0 or int(node.weight.min()) == form.minimum
        self._limits = (form.minimum if is_full else -form.maximum, form.maximum)
        steps = to_float_layout(node.weight, self._source) - node.weight_zero_point
        total = node.bias + (self._correction(node.weight) if self._folded else 0)
        self.weight = nn.Parameter(torch.tensor(steps * self._by_channel(self._weight_scale), dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(total * self._bias_scale, dtype=dtype))
        found = self.node()
        if not (np.array_equal(found.weight, node.weight) and np.array_equal(found.bias, node.bias)):
            raise InputError(f"{self._where}: {dtype} does not hold its weights and biases; use dtype = torch.float64")

    def node(self) -> Mac:
        """The graph's node with the integers of the current parameters.

        Raises:
            InputError: a parameter is NaN or infinite, or a bias does not fit 32 bits.
        """
        weight = to_integer_layout(self._weight_codes().clip(*self._limits).astype(np.int64), self._source)
        steps = self._bias_steps() - (self._correction(weight) if self._folded else 0)
        beyond = np.flatnonzero((steps < -(2.0**31)) | (steps >= 2.0**31))
        if beyond.size:
            channel = int(beyond[0])
            raise InputError(
                f"{self._where}: bias of channel {channel} is {steps[channel]:.6g} steps of S_x * S_w = "
                f"{self._bias_scale[channel]:.6g}, beyond 32 bits; lower the learning rate"
            )
        return dataclasses.replace(self._node, weight=weight, bias=steps.astype(np.int64))

    def quantized(self) -> tuple[Tensor, Tensor]:
        """(weight, bias) on the integers' grid, in the parameters' dtype.

        Gradients go straight through the rounding, and to no weight whose code is clamped.
        """
        codes = self._weight_codes()
        low, high = self._limits
        inside = torch.from_numpy((codes >= low) & (codes <= high))
        steps = codes.clip(low, high) - self._node.weight_zero_point
        weight = torch.from_numpy(steps * self._by_channel(self._weight_scale)).to(self.weight.dtype)
        bias = torch.from_numpy(self._bias_steps() * self._bias_scale).to(self.bias.dtype)
        return substitute(torch.where(inside, self.weight, 0.0), weight), substitute(self.bias, bias)

    def extra_repr(self) -> str:
        """Shape and bits, for `print`."""
        return f"{self._node.op}, weight {tuple(self.weight.shape)} in {self._node.weight_bits} bits"

    def _weight_codes(self) -> Float64:
        """Whole numbers before they are clamped, in the shape of `weight`."""
        return np.rint(self._real("weight") / self._by_channel(self._weight_scale)) + self._node.weight_zero_point

    def _bias_steps(self) -> Float64:
        return np.rint(self._real("bias") / self._bias_scale)

    def _real(self, name: str) -> Float64:
        values = getattr(self, name).detach().to(torch.float64).numpy()
        if not np.isfinite(values).all():
            raise InputError(f"{self._where}: {name} holds NaN or infinite values; lower the learning rate")
        return np.asarray(values)

    def _correction(self, weight: Int64) -> Int64:
        """Z_x * sum(q_w) of each channel."""
        return np.asarray(self._source.zero_point * weight.reshape(len(weight), -1).sum(axis=1))

    def _by_channel(self, scale: Float64) -> Float64:
        return scale.reshape(-1, *[1] * (3 if isinstance(self._node, Conv2d) else 1))
