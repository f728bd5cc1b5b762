"""Learned scales and zero points, and the straight-through rounding that trains them.

Sources: Nagel et al. 2021 (arXiv 2106.08295), section 4; Esser et al. 2020, LSQ (arXiv 1902.08153); Bhalgat et al.
2020, LSQ+ (arXiv 2004.09576); Jain et al. 2020 (arXiv 1903.08066) for scales learned by their logarithm.
docs/numerics.md, section 12, states every rule.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from accelsim.errors import InputError
from accelsim.quantization.scales import SMALLEST_SINGLE
from accelsim.training.gradient import substitute


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, exact: Tensor, zero_point: Tensor, steps: Tensor, stopped: Tensor, outside: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(stopped, outside)
        ctx.exact_type, ctx.zero_type = exact.dtype, zero_point.dtype
        return steps.view_as(steps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        stopped, outside = ctx.saved_tensors
        (gradient,) = gradients
        to_exact = gradient.masked_fill(stopped, 0.0).to(ctx.exact_type) if ctx.needs_input_grad[0] else None
        to_zero = None
        if ctx.needs_input_grad[1] and outside is not None:
            to_zero = -torch.where(outside, gradient, 0.0).sum(dtype=ctx.zero_type)
        return to_exact, to_zero, None, None, None


def rounded(exact: Tensor, zero_point: Tensor, steps: Tensor, stopped: Tensor, outside: Tensor | None) -> Tensor:
    """`steps`, q - Z, with straight-through gradients.

    With u = x / S as `exact`, and S * steps formed outside, autograd gives the white paper's gradients of
    x^ = S * (q - Z): d x^ / dx = 1 inside and 0 outside, d x^ / dS = q - Z - x / S inside and q - Z outside,
    d x^ / dZ = 0 inside and -S outside.

    Args:
        exact: what was rounded, in steps; any float type.
        zero_point: Z, a scalar.
        steps: integers, of the shape of `exact`.
        stopped: bool, where no gradient goes to `exact`.
        outside: bool, where q was clamped to an end of its format, so that -1 times the gradient goes to Z; None where
            Z takes none.
    """
    return _Rounded.apply(exact, zero_point, steps, stopped, outside)  # type: ignore[no-untyped-call]  # torch's carries no types


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


class Learned(NamedTuple):
    """Scale and zero point at one call.

    Attributes:
        scale: S, float64, of the quantizer's shape.
        zero_point: Z, float64 scalar; an integer, with the gradient of what was rounded to it.
        zero: Z.
    """

    scale: Tensor
    zero_point: Tensor
    zero: int


class Quantizer(nn.Module):
    """Scale and zero point of one tensor, both learned: S = S_0 * exp(t), Z = clamp(round(Z_0 + (p - n) * u)).

    S_0 and Z_0 come from calibration; t = u = 0 at first, which gives exactly them. A step of t is relative, so that S
    stays positive and one learning rate suits every tensor; dL/dt = S * dL/dS. A step of u is a share of the format.

    Attributes:
        limits: (n, p), the codes' limits.
        log_scale: t, float64, a scalar or (N,) for a scale a channel.
        zero_shift: u, a float64 scalar, or None where Z is fixed.
    """

    log_scale: nn.Parameter
    zero_shift: nn.Parameter | None
    first_scale: Tensor

    def __init__(
        self,
        where: str,
        scale: Tensor,
        zero_point: int,
        limits: tuple[int, int],
        *,
        learn_zero_point: bool,
        power_of_two: bool,
        learn_scale: bool = True,
        single: bool = False,
        gradient_scale: float = 1.0,
    ):
        """Start from a scale and zero point.

        Args:
            where: for error messages.
            scale: S_0, positive, a scalar or (N,).
            zero_point: Z_0.
            limits: (n, p).
            learn_zero_point: False leaves Z_0.
            power_of_two: round S up to a power of two, straight through.
            learn_scale: False leaves S_0, as fixed point asks.
            single: round S to float32, straight through.
            gradient_scale: what gradients of S and Z are multiplied by (LSQ: 1 / sqrt(elements * p)).
        """
        super().__init__()
        self._where = where
        self._first_zero = zero_point
        self._power_of_two = power_of_two
        self._single = single
        self._gradient_scale = gradient_scale
        self.limits = limits
        self.register_buffer("first_scale", scale.detach().to(torch.float64).clone())
        self.log_scale = nn.Parameter(torch.zeros_like(self.first_scale), requires_grad=learn_scale)
        shift = nn.Parameter(torch.zeros((), dtype=torch.float64)) if learn_zero_point else None
        self.register_parameter("zero_shift", shift)

    def learned(self) -> Learned:
        """Scale and zero point of the current parameters, with gradients.

        Raises:
            InputError: a parameter is not finite, or S is not a normal float64.
        """
        scale = self.first_scale * torch.exp(self._slowed(self.log_scale).to(torch.float64))
        legal = torch.isfinite(scale) & (scale >= torch.finfo(torch.float64).tiny)
        if not bool(legal.all()):
            worst = float(scale.detach()[~legal][0])
            raise InputError(f"{self._where}: a learned scale is {worst}; lower the learning rate")
        scale = self.legal(scale)
        low, high = self.limits
        if self.zero_shift is None:
            zero = self._first_zero
            return Learned(scale, scale.new_tensor(float(zero)), zero)
        moved = self._first_zero + (high - low) * self._slowed(self.zero_shift).to(torch.float64)
        if not bool(torch.isfinite(moved)):
            raise InputError(f"{self._where}: a learned zero point is {float(moved.detach())}; lower the learning rate")
        zero_point = substitute(moved, moved.detach().round().clamp(low, high))
        return Learned(scale, zero_point, int(zero_point.detach()))

    def legal(self, scale: Tensor) -> Tensor:
        """A scale as this tensor may have it, straight through: the next power of two up, the nearest float32."""
        legal = round_up_to_power_of_two(scale.detach()) if self._power_of_two else scale.detach()
        if self._single:
            legal = legal.clamp(min=SMALLEST_SINGLE).to(torch.float32).to(torch.float64)
        return substitute(scale, legal) if self._power_of_two or self._single else scale

    def extra_repr(self) -> str:
        """Codes and scale, for `print`."""
        low, high = self.limits
        learned, _, zero = self.learned()
        scale = learned.detach()
        return f"{low}..{high}, scale {float(scale.min()):.4g}..{float(scale.max()):.4g}, zero point {zero}"

    def _slowed(self, parameter: Tensor) -> Tensor:
        if self._gradient_scale == 1.0:
            return parameter
        scaled: Tensor = _ScaledGradient.apply(parameter, self._gradient_scale)  # type: ignore[no-untyped-call]  # torch's carries no types
        return scaled


def round_up_to_power_of_two(scale: Tensor) -> Tensor:
    """The smallest power of two that is at least each element > 0, float64.

    >>> round_up_to_power_of_two(torch.tensor([0.3, 0.25], dtype=torch.float64)).tolist()
    [0.5, 0.25]
    """
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).to(exponent.dtype))


def fake_quantized(x: Tensor, learned: Learned, limits: tuple[int, int]) -> Tensor:
    """Steps q - Z of real values, q = clamp(round-half-even(x / S) + Z) in float64, with straight-through gradients.

    Args:
        x: any float type and shape.
        learned: its scale, broadcast against x, and zero point.
        limits: (n, p).
    Returns:
        float64, of the shape of `x`. S * steps is the fake-quantised value.
    """
    exact = x.to(torch.float64) / learned.scale
    code = exact.detach().round() + learned.zero
    outside = (code < limits[0]) | (code > limits[1])
    return rounded(exact, learned.zero_point, code.clamp(*limits) - learned.zero, outside, outside)
