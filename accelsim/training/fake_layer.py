"""One convolution or linear layer of a fake-quantised network: float parameters in, the machine's integers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from accelsim.errors import InputError
from accelsim.ir import Conv2d, IntegerGraph, Mac
from accelsim.ir.float_graph import FloatBatchNorm2d, FloatConv2d, FloatLinear
from accelsim.numerics import IntFormat, Requantization
from accelsim.quantization.lowering import LARGEST_BIAS, SMALLEST_MULTIPLIER
from accelsim.training.exact import derive
from accelsim.training.gradient import substitute
from accelsim.training.quantizer import Learned, Quantizer, fake_quantized
from accelsim.training.sums import products

BatchNorm = Literal["running", "batch"]


class Statistics(NamedTuple):
    """Mean and biased variance of a layer's outputs before its batch norm, (N,)."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class Integers:
    """What a layer holds at one call.

    Attributes:
        weight: steps q_w - Z_w, float64 in PyTorch's shape, with gradients to weight, scale and zero point.
        weight_zero: Z_w.
        bias: b, float64 (N,), on the grid of `bias_steps`, with the gradient of the bias before rounding.
        bias_steps: round(b / (S_x * S_w)), whole float64 (N,), without a folded zero point.
        per_sum: S_x * S_w, float64 (N,), with gradients.
        real: M = S_x * S_w / S_y, float64 (N,).
        m0, shift: int64 (N,), derived from M.
    """

    weight: Tensor
    weight_zero: int
    bias: Tensor
    bias_steps: Tensor
    per_sum: Tensor
    real: Tensor
    m0: Tensor
    shift: Tensor


class FakeLayer(nn.Module):
    """Parameters of one layer: weight, bias, batch norm if it has one, and the scale of its weights.

    Attributes:
        weight: (N, C / groups, R, S) or (N, K), in PyTorch's order, before the batch norm; a batch norm that stands
            alone is a depthwise 1x1 convolution whose weights of 1 are a buffer.
        bias: (N,), before the batch norm; None where there is a batch norm and the convolution had no bias.
        gamma, beta: (N,) of the batch norm, or None.
        running_mean, running_variance: (N,) buffers, or None.
        quantizer: scale, a scalar or (N,), and zero point of the weights.
        batch_norm: whose statistics are folded in training mode; may be assigned.
        momentum: of the running statistics, as in nn.BatchNorm2d.
    """

    weight: Tensor
    bias: nn.Parameter | None
    gamma: nn.Parameter | None
    beta: nn.Parameter | None
    running_mean: Tensor | None
    running_variance: Tensor | None

    def __init__(
        self,
        graph: IntegerGraph,
        node: Mac,
        source: FloatConv2d | FloatLinear | None,
        norm: FloatBatchNorm2d | None,
        quantizer: Quantizer,
        dtype: torch.dtype,
        *,
        bias_bits: int = 32,
        single_multiplier: bool = False,
    ):
        """Start from a float layer.

        Args:
            source, norm: the layer and the batch norm behind it; at least one of them.
            quantizer: of the weights.
            bias_bits: biases saturate in so many, where they are fewer than 32.
            single_multiplier: M is computed in float32.
        """
        super().__init__()
        self._bias_bits = bias_bits
        self._single_multiplier = single_multiplier
        self._where = f"{graph.name}: {node.source or node.name}"
        self._op = node.op
        self._is_image = isinstance(node, Conv2d)
        self._per_channel = quantizer.log_scale.dim() == 1
        self._eps = 0.0 if norm is None else norm.eps
        self.batch_norm: BatchNorm = "running"
        self.momentum = 0.1
        self.quantizer = quantizer
        channels = node.out_channels
        if source is None:
            self.register_buffer("weight", torch.ones(channels, 1, 1, 1, dtype=dtype))
        else:
            self.weight = nn.Parameter(torch.tensor(source.weight, dtype=dtype))
        bias = None if source is None else source.bias
        if bias is None and norm is None:
            bias = np.zeros(channels)
        arrays = {"bias": bias}
        arrays |= {key: None if norm is None else getattr(norm, key) for key in ("gamma", "beta")}
        for name, array in arrays.items():
            value = None if array is None else nn.Parameter(torch.tensor(array, dtype=dtype))
            self.register_parameter(name, value)
        for name, key in (("running_mean", "mean"), ("running_variance", "variance")):
            self.register_buffer(name, None if norm is None else torch.tensor(getattr(norm, key), dtype=dtype))

    def statistics(self, node: Mac, x: Tensor, scale: Tensor) -> Statistics | None:
        """Of this batch, with gradients, where the layer folds them; updates the running ones.

        Args:
            node: the layer's.
            x: steps q_x - Z_x (N, C, H, W).
            scale: S_x.
        """
        if self.running_mean is None or self.running_variance is None:
            return None
        if not (self.training and self.batch_norm == "batch"):
            return None
        y = products(node, x * scale.to(x.dtype), self.weight.to(x.dtype))
        count = y.numel() // y.shape[1]
        if count < 2:
            raise InputError(f"{self._where}: a batch norm needs more than one value a channel; use larger batches")
        variance, mean = torch.var_mean(y, dim=(0, 2, 3), correction=0)
        if self.bias is not None:
            mean = mean + self.bias.to(mean.dtype)
        with torch.no_grad():
            unbiased = variance * (count / (count - 1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_variance.lerp_(unbiased.to(self.running_variance.dtype), self.momentum)
        return Statistics(mean, variance)

    def integers(
        self, how: Requantization, source: Learned, target: Learned, statistics: Statistics | None = None
    ) -> Integers:
        """Everything that decides the layer's bits, of the current parameters.

        Args:
            how: the graph's requantisation.
            source, target: scale and zero point of the input and output tensor.
            statistics: of the batch, in place of the running ones.
        Raises:
            InputError: a parameter is not finite; a bias or multiplier does not fit the hardware's integers.
        """
        weight, bias = self._folded(statistics)
        learned = self._scales(bias, source, target)
        column = learned._replace(scale=self._column(learned.scale))
        steps = fake_quantized(weight, column, self.quantizer.limits)
        per_sum = source.scale * learned.scale.expand(len(weight))
        if self._bias_bits < 32:  # saturates; no gradient beyond, where a smaller step of the bias changes nothing
            limits = torch.tensor(IntFormat(self._bias_bits).limits, dtype=torch.float64)
            low, high = per_sum.detach() * (limits[0] - 0.5), per_sum.detach() * (limits[1] + 0.5)
            bias = torch.minimum(torch.maximum(bias, low), high)
            bias_steps = (bias.detach() / per_sum.detach()).round().clamp(*limits.tolist())
        else:
            bias_steps = (bias.detach() / per_sum.detach()).round()
        self._check_bias(bias_steps, per_sum)
        real = multiplier(source.scale, learned.scale.expand(len(weight)), target.scale, single=self._single_multiplier)
        try:
            m0, shift = derive(real, how)
        except ValueError as error:
            raise InputError(f"{self._where}: {error}; lower the learning rate") from None
        return Integers(
            weight=steps,
            weight_zero=learned.zero,
            bias=substitute(bias, bias_steps * per_sum.detach()),
            bias_steps=bias_steps,
            per_sum=per_sum,
            real=real,
            m0=m0,
            shift=shift,
        )

    def extra_repr(self) -> str:
        """Shape and batch norm, for `print`."""
        norm = "" if self.gamma is None else f", batch norm folded by {self.batch_norm} statistics in training"
        return f"{self._op}, weight {tuple(self.weight.shape)}{norm}"

    def _folded(self, statistics: Statistics | None) -> tuple[Tensor, Tensor]:
        """Weight and bias with the batch norm folded in, float64: as `frontend.fold_batch_norm`."""
        for name, tensor in (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)):
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"{self._where}: {name} holds NaN or infinite values; lower the learning rate")
        weight = self.weight.to(torch.float64)
        bias = weight.new_zeros(len(weight)) if self.bias is None else self.bias.to(torch.float64)
        if self.gamma is None or self.beta is None or self.running_mean is None or self.running_variance is None:
            return weight, bias
        mean, variance = statistics or Statistics(self.running_mean, self.running_variance)
        factor = self.gamma.to(torch.float64) / torch.sqrt(variance.to(torch.float64) + self._eps)
        bias = (bias - mean.to(torch.float64)) * factor + self.beta.to(torch.float64)
        return weight * self._column(factor), bias

    def _scales(self, bias: Tensor, source: Learned, target: Learned) -> Learned:
        """The weights' scale and zero point; a channel's own scale is at least what `quantization.lower` allows."""
        learned = self.quantizer.learned()
        if not self._per_channel:
            return learned
        least = torch.maximum(
            SMALLEST_MULTIPLIER * target.scale / source.scale, bias.abs() / (source.scale * LARGEST_BIAS)
        ).detach()
        scale = self.quantizer.legal(torch.maximum(learned.scale, least))
        return learned._replace(scale=scale)

    def _check_bias(self, steps: Tensor, per_sum: Tensor) -> None:
        beyond = torch.nonzero(~((steps >= -(2.0**31)) & (steps < 2.0**31)))
        if len(beyond):
            channel = int(beyond[0])
            raise InputError(
                f"{self._where}: bias of channel {channel} is {float(steps[channel]):.6g} steps of S_x * S_w = "
                f"{float(per_sum.detach()[channel]):.6g}, beyond 32 bits; lower the learning rate"
            )

    def _column(self, channels: Tensor) -> Tensor:
        """(N,) so that it broadcasts against the weights; a scalar as it is."""
        return channels.reshape(-1, *[1] * (3 if self._is_image else 1)) if channels.dim() else channels


def multiplier(source: Tensor, weight: Tensor, target: Tensor, *, single: bool) -> Tensor:
    """M = S_x * S_w / S_y, left to right, float64 (N,), computed in float32 where `single`: as `quantization.lower`."""
    scales = [one.detach() for one in (source, weight, target)]
    if single:
        scales = [one.to(torch.float32) for one in scales]
    first, second, third = scales
    return (first * second / third).to(torch.float64)
