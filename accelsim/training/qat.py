"""`QatModule`: a float network whose forward pass is fake quantisation with the bits of the integer graph."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from accelsim.config import Hardware, QuantizationScheme
from accelsim.errors import InputError
from accelsim.frontend import capture, fold_batch_norm
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Input,
    IntegerGraph,
    Mac,
    MaxPool2d,
    Multiplier,
    Node,
    Table,
    TensorType,
    mac_chunks,
    refuse_matmul,
)
from accelsim.ir.float_graph import FloatActivation, FloatBatchNorm2d, FloatConv2d, FloatGraph, FloatLinear
from accelsim.numerics import Arithmetic
from accelsim.quantization import quantize_with_scales
from accelsim.quantization.fusion import plan_fusion
from accelsim.quantization.layers import to_integer_layout
from accelsim.quantization.scales import weight_limits
from accelsim.training.exact import SINGLE, derive, float_type, requantize, round_quotient
from accelsim.training.fake_layer import BatchNorm, FakeLayer, Integers, multiplier
from accelsim.training.gradient import substitute
from accelsim.training.inputs import DTYPES, arithmetic_of, calibration_examples, put
from accelsim.training.quantizer import Learned, Quantizer, fake_quantized, rounded
from accelsim.training.sums import need_exact_products, padded, products, sums_in_order, window_sums

SLICE = 1 << 17
"""Sums that are requantised at once: their float64 and what is made of it are some megabytes."""


class _Fake(NamedTuple):
    """A tensor during one call: steps q - Z (N, C, H, W) in the module's dtype, and what they stand for."""

    steps: Tensor
    learned: Learned


class QatModule(nn.Module):
    """A network for quantisation-aware training: PyTorch operations only, and the bits of its integer graph.

    Every call rounds weights, biases and multipliers to the integers that `to_graph` gives, forms exact integer sums
    (in the order and width of an accelerator, where one is given) and requantises them to the bit. Gradients go
    straight through the roundings, to weights, biases, batch norms, and to the scale and zero point of every tensor;
    docs/numerics.md, section 12, states the rules. The engine, Numba and the reference take no part.

    In evaluation mode the output is S * (q - Z) of the codes q that the machine computes. In training mode it is, too,
    unless `batch_norm` is "batch".

    Attributes:
        graph: the integer graph of post-training quantisation that it started from; its structure stays.
        layers: a `FakeLayer` for each convolution and linear layer, nested as its name says.
        quantizers: a `Quantizer` for each tensor with a scale of its own, by the name of the node that computes it.
        through_overflow: whether gradients pass outputs that overflow has changed; may be assigned.

    >>> import accelsim
    >>> _ = torch.manual_seed(0)
    >>> images = torch.rand(64, 1, 6, 6)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    >>> module = QatModule.from_module(model, images, accelsim.load_quantization("int8", ["weight.bits=4"]))
    >>> module(images).square().mean().backward()
    >>> [name for name, parameter in module.named_parameters() if parameter.grad is not None][:4]
    ['layers.0.weight', 'layers.0.bias', 'layers.0.gamma', 'layers.0.beta']
    """

    def __init__(
        self,
        float_graph: FloatGraph,
        calibration: npt.ArrayLike,
        scheme: QuantizationScheme,
        hardware: Hardware | Arithmetic | None = None,
        *,
        batch_norm: BatchNorm = "running",
        through_overflow: bool = False,
        lsq_gradients: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        """Start from post-training quantisation: the first graph is `quantize`'s.

        Args:
            float_graph: from `capture(..., fold=False)`; batch norms may be folded, and are then not trained.
            calibration: (N, C, H, W) or (N, K), as for `quantize`.
            scheme: from `load_quantization`.
            hardware: whose accumulator the sums go through, one addition after the other; None for exact sums. Sums
                that the current weights prove free of overflow are formed by one convolution all the same.
            batch_norm: "running" folds running statistics, which stay as they are: training and evaluation are the
                same function. "batch" folds those of each batch in training mode, at the price of a second
                convolution, and moves the running ones; quantised weights then change from batch to batch.
            through_overflow: as `EngineModule`: False stops the gradient of every output of a layer whose code is not
                that of its exact sum.
            lsq_gradients: multiply gradients of scales and zero points by 1 / sqrt(elements * p), p the largest code;
                for plain gradient descent. Adam's steps do not depend on it.
            dtype: of weights, biases, batch norms and activations, float32 or float64, to which a network of another
                one is rounded; scales and zero points are float64.
        Raises:
            InputError: what `quantize` refuses; a layer's accumulator wider than the hardware's; two batch norms in a
                row; `dtype` or `batch_norm` is another one.
        """
        super().__init__()
        if dtype not in DTYPES:
            raise InputError(f"dtype = {dtype} is not torch.float32 or torch.float64")
        folded = fold_batch_norm(float_graph)
        self.graph, weight_scales = quantize_with_scales(folded, calibration, scheme)
        refuse_matmul(self.graph, "cannot be trained")
        self.through_overflow = through_overflow
        self.arithmetic = hardware
        self._dtype = dtype
        self._activations = _activations(folded)
        self.layers, self.quantizers = nn.Module(), nn.Module()
        self._single_multiplier = scheme.requantization.multiplier_arithmetic == "float32"
        shifts = scheme.requantization.scheme == "power_of_two"
        single = scheme.scale_format == "float32"
        sources = _layers_of(float_graph)
        for node in self.graph.nodes:
            where = f"{self.graph.name}: {node.source or node.name}"
            if isinstance(node, Input | Mac | Add):
                activation = scheme.activation_of(node.name)
                limits = self.graph.limits_of(node.name)
                quantizer = Quantizer(
                    where,
                    torch.tensor(node.output.scale, dtype=torch.float64),
                    node.output.zero_point,
                    limits,
                    learn_zero_point=not activation.symmetric,
                    power_of_two=shifts or activation.power_of_two,
                    learn_scale=activation.fraction_bits is None,
                    single=single,
                    gradient_scale=_gradient_scale(node.output.size, limits) if lsq_gradients else 1.0,
                )
                put(self.graph, self.quantizers, node, quantizer)
            if isinstance(node, Mac):
                weight = scheme.weight_of(node.name)
                fixed = weight.fraction_bits is not None
                per_channel = weight.granularity == "channel" and not fixed
                limits = weight_limits(weight)
                scale = torch.from_numpy(weight_scales[node.name])
                elements = node.weight[0].size if per_channel else node.weight.size
                quantizer = Quantizer(
                    f"{where}: weights",
                    scale if per_channel else scale[0],
                    node.weight_zero_point,
                    limits,
                    learn_zero_point=not weight.symmetric,
                    power_of_two=shifts or weight.power_of_two,
                    learn_scale=not fixed,
                    single=single and not fixed,
                    gradient_scale=_gradient_scale(elements, limits) if lsq_gradients else 1.0,
                )
                layer = FakeLayer(
                    self.graph,
                    node,
                    *sources[node.name],
                    quantizer,
                    dtype,
                    bias_bits=scheme.bias.bits,
                    single_multiplier=self._single_multiplier,
                )
                put(self.graph, self.layers, node, layer)
        self.batch_norm = batch_norm

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        calibration: Tensor | npt.ArrayLike,
        scheme: QuantizationScheme,
        hardware: Hardware | Arithmetic | None = None,
        *,
        name: str | None = None,
        batch_norm: BatchNorm = "running",
        through_overflow: bool = False,
        lsq_gradients: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Capture a float module with its batch norms; it is left as it was, and shares nothing with the result.

        Args:
            module: what `capture` takes.
            name: the graph's; the module's class where left out.
            calibration, scheme, hardware, batch_norm, through_overflow, lsq_gradients, dtype: as for the class.
        """
        examples, example = calibration_examples(module, calibration, dtype)
        return cls(
            capture(module, example, name, fold=False),
            examples,
            scheme,
            hardware,
            batch_norm=batch_norm,
            through_overflow=through_overflow,
            lsq_gradients=lsq_gradients,
            dtype=dtype,
        )

    @property
    def arithmetic(self) -> Arithmetic | None:
        """What the hardware contributes to the bits, or None for exact sums; a `Hardware` may be assigned."""
        return self._arithmetic

    @arithmetic.setter
    def arithmetic(self, hardware: Hardware | Arithmetic | None) -> None:
        self._arithmetic = None if hardware is None else arithmetic_of(self.graph, hardware)

    @property
    def batch_norm(self) -> BatchNorm:
        """Whose statistics are folded in training mode; may be assigned."""
        return self._batch_norm

    @batch_norm.setter
    def batch_norm(self, which: BatchNorm) -> None:
        if which not in ("running", "batch"):
            raise InputError(f"batch_norm = {which!r} is not one of running, batch")
        self._batch_norm = which
        for layer in self.layers.modules():
            if isinstance(layer, FakeLayer):
                layer.batch_norm = which

    def forward(self, images: Tensor) -> Tensor:
        """Run a batch.

        Args:
            images: (N, C, H, W), or (N, K) for vectors, N >= 1, of the module's dtype, in the units of the calibration.
        Returns:
            `(N, *output_shape)`, S * (q - Z) of the codes q, rounded once to the module's dtype.
        Raises:
            InputError: images of another shape, dtype or device, or not finite; parameters that are not finite or too
                large for the hardware's integers; sums that the scheme's products may not hold exactly.
        """
        found = self._walk(images)[self.graph.output]
        real = (found.steps.to(torch.float64) * found.learned.scale).to(images.dtype)
        return real.reshape(-1, *self.graph.output_shape)

    def codes(self, images: Tensor) -> Tensor:
        """The output's codes q, int64 `(N, *output_shape)`, without a gradient; `images` as for a call."""
        with torch.no_grad():
            found = self._walk(images)[self.graph.output]
            return (found.steps.long() + found.learned.zero).reshape(-1, *self.graph.output_shape)

    def to_graph(self) -> IntegerGraph:
        """The integer graph of the current parameters, running statistics folded: what evaluation mode computes.

        Raises:
            InputError: a parameter is not finite, or a bias or multiplier does not fit the hardware's integers.
        """
        with torch.no_grad():
            learned: dict[str, Learned] = {}
            nodes = []
            for node in self.graph.nodes:
                learned[node.name] = self._learned(node, learned)
                nodes.append(self._integer_node(node, learned))
        return dataclasses.replace(self.graph, nodes=tuple(nodes))

    def quantizer_parameters(self) -> list[nn.Parameter]:
        """Scales and zero points, which an optimizer may want to treat apart."""
        return [
            parameter
            for part in self.modules()
            if isinstance(part, Quantizer)
            for parameter in part.parameters(recurse=False)
        ]

    def extra_repr(self) -> str:
        """Graph and accumulator, for `print`."""
        how = self._arithmetic
        if how is None:
            return f"{self.graph.name}: exact sums"
        return f"{self.graph.name}: {how.dataflow}, {how.rows} rows, {how.width_bits}-bit accumulator, {how.overflow}"

    # --- scales ------------------------------------------------------------------------------------------------

    def _layer(self, node: Node) -> FakeLayer:
        layer = self.layers.get_submodule(node.name)
        assert isinstance(layer, FakeLayer)
        return layer

    def _learned(self, node: Node, learned: dict[str, Learned]) -> Learned:
        """Scale and zero point of a node's output: its own, its input's, or a table's fixed ones."""
        match node:
            case Input() | Mac() | Add():
                quantizer = self.quantizers.get_submodule(node.name)
                assert isinstance(quantizer, Quantizer)
                return quantizer.learned()
            case Table():
                zero = node.output.zero_point
                scale = torch.tensor(node.output.scale, dtype=torch.float64)
                return Learned(scale, scale.new_tensor(float(zero)), zero)
        return learned[node.inputs[0]]

    def _clip(self, node: Node, target: Learned) -> tuple[int, int]:
        """The activation's limits inside the format, as `quantization.lower` sets them."""
        low, high = self.graph.limits_of(node.name)
        kind = self._activations.get(node.name)
        if kind is None:
            return low, high
        low = max(low, target.zero)
        if kind == "relu6":
            high = int(min(high, target.zero + float((6.0 / target.scale.detach()).round())))
        return low, high

    # --- the integer graph ---------------------------------------------------------------------------------------

    def _integer_node(self, node: Node, learned: dict[str, Learned]) -> Node:
        target = learned[node.name]
        output = dataclasses.replace(node.output, scale=float(target.scale), zero_point=target.zero)
        match node:
            case Mac():
                return self._integer_layer(node, output, learned)
            case Add():
                multipliers = []
                for name in node.inputs:
                    real = self._ratio(learned[name], target)
                    m0, shift = self._derive(node, real)
                    multipliers.append(Multiplier(m0=m0.numpy(), shift=shift.numpy(), real=real.numpy()))
                first, second = multipliers
                return dataclasses.replace(
                    node, output=output, multipliers=(first, second), clip=self._clip(node, target)
                )
            case Clip():
                return dataclasses.replace(node, output=output, clip=self._clip(node, target))
            case Table():
                entries = self._entries(node, learned[node.inputs[0]])
                return dataclasses.replace(node, output=output, entries=entries.long().numpy())
        return dataclasses.replace(node, output=output)

    def _integer_layer(self, node: Mac, output: TensorType, learned: dict[str, Learned]) -> Mac:
        source, target = learned[node.inputs[0]], learned[node.name]
        integers = self._layer(node).integers(self.graph.requantization, source, target)
        steps = integers.weight.numpy().astype(np.int64) + integers.weight_zero
        weight = to_integer_layout(steps, self.graph.by_name[node.inputs[0]].output)
        return dataclasses.replace(
            node,
            output=output,
            weight=weight,
            weight_zero_point=integers.weight_zero,
            bias=self._stored_bias(integers, source).numpy().astype(np.int64),
            multiplier=Multiplier(m0=integers.m0.numpy(), shift=integers.shift.numpy(), real=integers.real.numpy()),
            clip=self._clip(node, target),
        )

    def _stored_bias(self, integers: Integers, source: Learned) -> Tensor:
        """As the graph holds it: with -Z_x * sum(q_w) where zero points are folded; whole float64 (N,)."""
        if self.graph.zero_points == "subtracted":
            return integers.bias_steps
        return integers.bias_steps - source.zero * integers.weight.detach().flatten(1).sum(dim=1)

    def _ratio(self, source: Learned, target: Learned) -> Tensor:
        """M = S_x / S_y of an addition's operand, float64 (1,)."""
        one = torch.ones(1, dtype=torch.float64)
        return multiplier(source.scale, one, target.scale, single=self._single_multiplier)

    def _derive(self, node: Node, real: Tensor) -> tuple[Tensor, Tensor]:
        try:
            return derive(real.detach(), self.graph.requantization)
        except ValueError as error:
            raise InputError(
                f"{self.graph.name}: {node.source or node.name}: {error}; lower the learning rate"
            ) from None

    def _entries(self, node: Table, source: Learned) -> Tensor:
        """A table's codes by input code, whole float64 (2**bits,)."""
        low, high = self.graph.activation.limits
        codes = torch.arange(low, high + 1, dtype=torch.float64)
        value = _function(node.function, source.scale.detach() * (codes - source.zero))
        return ((value / node.output.scale).round() + node.output.zero_point).clamp(*self.graph.limits_of(node.name))

    # --- the forward pass ----------------------------------------------------------------------------------------

    def _walk(self, images: Tensor) -> dict[str, _Fake]:
        self._check(images)
        learned: dict[str, Learned] = {}
        values: dict[str, _Fake] = {}
        last = {name: node.name for node in self.graph.nodes for name in node.inputs}
        for node in self.graph.nodes:
            learned[node.name] = target = self._learned(node, learned)
            inputs = [values[name] for name in node.inputs]
            try:
                values[node.name] = _Fake(self._steps(node, images, inputs, target), target)
            except OverflowError as error:
                raise InputError(f"{self.graph.name}: {node.source or node.name}: {error}") from None
            for name in node.inputs:
                if last[name] == node.name and name != self.graph.output:
                    values.pop(name, None)
        return values

    def _check(self, images: Any) -> None:
        if not isinstance(images, Tensor):
            raise InputError(f"input: is {type(images).__name__}; give a torch tensor")
        for name, tensor in (("input", images), *self.named_parameters()):
            if tensor.device.type != "cpu":
                raise InputError(f"{name}: is on {tensor.device}; this module runs on the CPU, so move it there")
        if images.dtype is not self._dtype:
            raise InputError(f"input: is {images.dtype} and the module {self._dtype}; convert it with .to()")
        form = self.graph.input.output
        expected = (form.channels, form.height, form.width)
        vector = images.dim() == 2 and expected == (images.shape[1], 1, 1)
        if not (vector or tuple(images.shape[1:]) == expected) or not len(images):
            raise InputError(
                f"input: shape {tuple(images.shape)} is not (batch, C, H, W) with (C, H, W) = {expected} and a batch "
                "of at least 1"
            )
        if not bool(torch.isfinite(images).all()):
            raise InputError("input: holds NaN or infinite values; remove them")
        need_exact_products()

    def _steps(self, node: Node, images: Tensor, inputs: list[_Fake], target: Learned) -> Tensor:
        """q - Z of a node's output, (N, C, H, W) in the module's dtype, with its straight-through gradient."""
        match node:
            case Input():
                tensor = node.output
                image = images.reshape(-1, tensor.channels, tensor.height, tensor.width)
                return fake_quantized(image, target, self.graph.limits_of(node.name)).to(self._dtype)
            case Mac():
                return self._sums(node, inputs[0], target)
            case Add():
                return self._sum_of_two(node, inputs, target)
            case MaxPool2d():
                x = padded(inputs[0].steps, node.padding, -math.inf)
                return functional.max_pool2d(x, node.kernel, node.stride)
            case AvgPool2d():
                return self._mean(node, inputs[0].steps)
            case Clip():
                return self._clipped(node, inputs[0].steps, target)
            case Table():
                x, source = inputs[0].steps, inputs[0].learned
                index = x.detach().long() + (source.zero - self.graph.activation.minimum)
                steps = (self._entries(node, source) - target.zero)[index].to(self._dtype)
                exact = _function(node.function, x * source.scale.to(x.dtype)) / node.output.scale
                return substitute(exact, steps)
        raise TypeError(f"{type(node).__name__} has no fake quantisation")

    def _sums(self, node: Mac, source: _Fake, target: Learned) -> Tensor:
        layer, how = self._layer(node), self.graph.requantization
        statistics = layer.statistics(node, source.steps, source.learned.scale)
        integers = layer.integers(how, source.learned, target, statistics)
        low, high = (limit - source.learned.zero for limit in self.graph.limits_of(node.inputs[0]))
        l1 = int(integers.weight.detach().abs().flatten(1).sum(dim=1).max())
        largest = l1 * max(abs(low), abs(high))
        dtype = self._dtype if largest < SINGLE else float_type(largest)
        exact = products(node, source.steps.to(dtype), integers.weight.to(dtype))
        bias = integers.bias_steps
        bound = largest + int(bias.abs().max())
        with torch.no_grad():
            found = self._requantized(exact, bias, integers, bound)
            overflowed = None
            stored = self._stored_bias(integers, source.learned)
            if self._may_overflow(node, integers, stored):
                narrow, late, reach = self._narrow(node, source, integers, stored)
                reference, found = found, self._requantized(narrow, late, integers, reach)
                if not self.through_overflow:
                    clip = self._clip(node, target)
                    overflowed = self._fitted(found, target, clip) != self._fitted(reference, target, clip)
        if not torch.is_grad_enabled():
            return self._fitted(found, target, self._clip(node, target)).to(self._dtype)
        factor = (integers.per_sum / target.scale).to(dtype)[:, None, None]
        offset = (integers.bias / target.scale).to(dtype)[:, None, None]
        return self._finished(node, torch.addcmul(offset, exact, factor), found, target, overflowed)

    def _requantized(self, sums: Tensor, bias: Tensor | None, integers: Integers, bound: int) -> Tensor:
        """r of sums (N, C, H, W) with a bias (N,) added: whole floats, a few images at a time to stay in the cache."""
        m0, shift = (one[:, None, None] for one in (integers.m0, integers.shift))
        how = self.graph.requantization
        # What float32 does not hold saturates whichever way it is rounded.
        found = torch.empty(sums.shape, dtype=self._dtype if how.output_overflow == "saturate" else torch.float64)
        for rows in torch.arange(len(sums)).split(max(1, SLICE // sums[0].numel())):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            total = sums[part].to(torch.float64, copy=True)
            if bias is not None:
                total.add_(bias[:, None, None])
            found[part] = requantize(total, m0, shift, how, bound)
        return found

    def _may_overflow(self, node: Mac, integers: Integers, stored: Tensor) -> bool:
        """Whether the weights' l1 norm leaves it open (`ir.proved_overflow_free` of the current integers)."""
        if self._arithmetic is None:
            return False
        layer = self._arithmetic.at_width(node.accumulator_width_bits)
        weight, limits = self._array_operands(node, integers)
        largest = int(weight.abs().flatten(1).sum(dim=1).max()) * max(abs(limit) for limit in limits)
        start = int(stored.abs().max()) if self.graph.bias_at == "accumulator" else 0
        return largest + start >= 1 << (layer.psum_bits - 1)

    def _array_operands(self, node: Mac, integers: Integers) -> tuple[Tensor, tuple[int, int]]:
        """Weights as the array multiplies them, and limits of what it multiplies them with."""
        steps = integers.weight.detach()
        low, high = self.graph.limits_of(node.inputs[0])
        if self.graph.zero_points == "folded":
            return steps, (low, high)
        zero = self._learned_zero(node.inputs[0])
        return steps, (low - zero, high - zero)

    def _learned_zero(self, name: str) -> int:
        """Z of a tensor, found through the nodes that keep their input's."""
        node = self.graph.by_name[name]
        while not isinstance(node, Input | Mac | Add | Table):
            node = self.graph.by_name[node.inputs[0]]
        return self._learned(node, {}).zero

    def _narrow(
        self, node: Mac, source: _Fake, integers: Integers, stored: Tensor
    ) -> tuple[Tensor, Tensor | None, int]:
        """Sums as the hardware forms them, the bias that is added to them afterwards, a bound on their magnitude."""
        assert self._arithmetic is not None
        layer = self._arithmetic.at_width(node.accumulator_width_bits)
        zero = source.learned.zero if self.graph.zero_points == "folded" else 0
        in_accumulator = self.graph.bias_at == "accumulator"
        total = sums_in_order(
            node,
            self.graph.by_name[node.inputs[0]].output,
            source.steps.detach() + zero,
            integers.weight.detach().to(self._dtype),
            stored if in_accumulator else torch.zeros_like(stored),
            mac_chunks(self.graph, node, layer),
            layer,
            pad=zero,
        )
        reach = 1 << (layer.width_bits - 1)
        return (total, None, reach) if in_accumulator else (total, stored, reach + int(stored.abs().max()))

    def _fitted(self, found: Tensor, target: Learned, clip: tuple[int, int]) -> Tensor:
        """Steps of the codes that r gives: Z added, the activation's limits, then saturated or wrapped, less Z."""
        low, high = (limit - target.zero for limit in clip)
        if self.graph.requantization.output_overflow == "saturate":
            return found.clamp(low, high)
        form = self.graph.activation
        fitted = found.to(torch.float64)
        if clip[0] > form.minimum:
            fitted = fitted.clamp(min=low)
        if clip[1] < form.maximum:
            fitted = fitted.clamp(max=high)
        if bool((fitted.abs() >= 2.0**52).any()):
            raise OverflowError(
                "a requantised sum is beyond what float64 wraps exactly; use output_overflow = 'saturate'"
            )
        bottom, size = form.minimum - target.zero, float(1 << form.bits)
        return fitted - ((fitted - bottom) / size).floor() * size

    def _finished(self, node: Node, exact: Tensor, found: Tensor, target: Learned, overflowed: Tensor | None) -> Tensor:
        """Codes with the gradient of activation, clamp and zero point.

        Args:
            exact: u = y / S, float, what was rounded.
            found: r, whole floats.
            overflowed: where the gradient stops because the sum overflowed.
        """
        clip = self._clip(node, target)
        low, high = (limit - target.zero for limit in self.graph.limits_of(node.name))
        steps = self._fitted(found, target, clip).to(self._dtype)
        kind = self._activations.get(node.name)
        above = found > high
        if kind is None:
            outside = above | (found < low)
            stopped = outside
        else:
            stopped = above | (exact <= 0)
            outside = above
            if kind == "relu6":
                six = (6.0 / target.scale).to(exact.dtype)
                if six.detach().round() <= high:  # a code of the format, which stands for every larger value
                    stopped, outside = exact <= 0, torch.zeros_like(above)
                exact = torch.minimum(exact, six)
        if overflowed is not None:
            stopped, outside = stopped | overflowed, outside & ~overflowed
        learns = target.zero_point.requires_grad
        return rounded(exact.to(self._dtype), target.zero_point, steps, stopped, outside if learns else None)

    def _sum_of_two(self, node: Add, inputs: list[_Fake], target: Learned) -> Tensor:
        found = torch.zeros(())
        exact = torch.zeros(())
        for name, (steps, learned) in zip(node.inputs, inputs, strict=True):
            factor = learned.scale / target.scale
            bound = max(abs(limit - learned.zero) for limit in self.graph.limits_of(name))
            with torch.no_grad():
                m0, shift = self._derive(node, self._ratio(learned, target))
                found = found + requantize(
                    steps.to(torch.float64, copy=True), m0, shift, self.graph.requantization, bound
                )
            exact = exact + steps * factor.to(steps.dtype)
        return self._finished(node, exact, found, target, None)

    def _mean(self, node: AvgPool2d, x: Tensor) -> Tensor:
        total = window_sums(x, node)
        count: Tensor | float = float(math.prod(node.kernel))
        if not node.count_include_pad:
            count = window_sums(torch.ones_like(x[:1, :1]), node).clamp(min=1)
        with torch.no_grad():
            # Quotients of so few bits are nearest to an integer or a half in float64 only where they are one.
            mean = round_quotient(total.to(torch.float64) / count, self.graph.requantization.pool_rounding)
        return substitute(total / count, mean.to(x.dtype))

    def _clipped(self, node: Clip, x: Tensor, target: Learned) -> Tensor:
        """A ReLU or ReLU6 of its own."""
        y = functional.relu(x)
        held = self._clip(node, target)[1] < self.graph.limits_of(node.name)[1]
        if self._activations[node.name] == "relu6" and held:
            six = 6.0 / target.scale
            y = torch.minimum(y, substitute(six, six.detach().round()).to(y.dtype))
        return y


def _activations(folded: FloatGraph) -> dict[str, str]:
    """ "relu" or "relu6" by the integer node that clips for it."""
    fusion = plan_fusion(folded)
    kinds = {name: node.kind for name, node in fusion.activation.items()}
    for node in folded.nodes:
        if (
            isinstance(node, FloatActivation)
            and node.kind in ("relu", "relu6")
            and fusion.source[node.name] == node.name
        ):
            kinds[node.name] = node.kind
    return dict(kinds)


_Parts = tuple[FloatConv2d | FloatLinear | None, FloatBatchNorm2d | None]


def _layers_of(graph: FloatGraph) -> dict[str, _Parts]:
    """The float layer and the batch norm behind every integer layer, by its name; as `fold_batch_norm` pairs them."""
    found: dict[str, _Parts] = {}
    now: dict[str, str] = {}
    for node in graph.nodes:
        now[node.name] = node.name
        if isinstance(node, FloatConv2d | FloatLinear):
            found[node.name] = (node, None)
        if not isinstance(node, FloatBatchNorm2d):
            continue
        before = now[node.inputs[0]]
        read_here_only = len(graph.users(node.inputs[0])) == 1 and node.inputs[0] != graph.output
        layer, norm = found.get(before, (None, None))
        if not read_here_only or (layer is None and norm is None) or isinstance(layer, FloatLinear):
            found[node.name] = (None, node)
            continue
        if norm is not None:
            raise InputError(
                f"{graph.name}: {node.source or node.name}: follows another batch norm; make them one to train them"
            )
        found[before] = (layer, node)
        now[node.name] = before
    return found


def _gradient_scale(elements: int, limits: tuple[int, int]) -> float:
    """1 / sqrt(elements * p) of LSQ; the codes of one signed bit, -1 and 0, have no p above 0."""
    return float((elements * max(limits[1], 1)) ** -0.5)


def _function(kind: str, x: Tensor) -> Tensor:
    """The functions of `quantization.tables`, elementwise."""
    return torch.tanh(x) if kind == "tanh" else 0.5 * (1.0 + torch.tanh(0.5 * x))
