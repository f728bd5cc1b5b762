"""Float graph and ranges to integer graph: scales, integers, multipliers, one node after the other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.config.quantization import ActivationScheme, QuantizationScheme
from accelsim.errors import InputError, did_you_mean
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatArray,
    FloatAvgPool2d,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMatMul,
    FloatMaxPool2d,
    FloatNode,
    Shape,
)
from accelsim.ir.integer_graph import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    Input,
    IntegerGraph,
    Linear,
    Mac,
    MatMul,
    MaxPool2d,
    Multiplier,
    Node,
    Table,
    TensorType,
)
from accelsim.numerics import IntFormat
from accelsim.quantization.formats import container_format, placed
from accelsim.quantization.fusion import plan_fusion
from accelsim.quantization.layers import bias_of, to_integer_layout
from accelsim.quantization.ranges import Range
from accelsim.quantization.scales import QuantizedWeight, activation_scale, quantize_weight, weight_limits
from accelsim.quantization.tables import FUNCTIONS, TableCodes, input_limits, output_scale, tabulate

SMALLEST_MULTIPLIER = 2.0**-31
"""A channel whose M is below contributes less than half a step of its output, whatever an int32 sum holds."""

LARGEST_BIAS = float(1 << 30)
"""Half of int32 for the bias of a channel that has its own scale; the other half is left to -Z_x * sum(q_w)."""


class CalibrationWarning(UserWarning):
    """The calibration set, or what a scheme makes of it, is legal and probably poor."""


def lower(
    graph: FloatGraph,
    ranges: dict[str, Range],
    scheme: QuantizationScheme,
    *,
    weights: Mapping[str, npt.NDArray[np.int64]] | None = None,
) -> IntegerGraph:
    """Quantise a graph whose ranges are known.

    Args:
        graph: without batch norms (`frontend.fold_batch_norm`).
        ranges: of every node's output, by name.
        scheme: formats, granularity, requantisation, zero points, where biases are added, accumulator widths.
        weights: codes that take the place of round-to-nearest, by node, int64 in the float weight's shape; scales and
            zero points stay those of the scheme.
    Returns:
        The integer graph; nodes keep the names of the float nodes, a fused one that of the convolution, linear layer
        or sum. `fusion` says what is fused, `formats` which codes tensors have, `scales` how S and Z are chosen,
        docs/numerics.md what nodes compute.
    Raises:
        InputError: a batch norm is left; a bias or multiplier does not fit the hardware's integers; a sum's
            inputs differ in layout; `accumulator_width_bits` or `weights` names no convolution or linear layer;
            `layers` names no node, or one without what it sets; a tensor below 0 has unsigned symmetric codes; given
            weights have another shape or leave their format.
    Warns:
        CalibrationWarning: biases saturate in `bias.bits`; one for the graph, with the layers.
    """
    return _Lowering(graph, ranges, scheme, weights or {}).graph()


def lower_with_scales(
    graph: FloatGraph, ranges: dict[str, Range], scheme: QuantizationScheme
) -> tuple[IntegerGraph, dict[str, FloatArray]]:
    """`lower`, and S_w, float64 (N,), of each convolution and linear layer by name; a graph holds it only in M."""
    lowering = _Lowering(graph, ranges, scheme, {})
    return lowering.graph(), lowering.weight_scales


class _Lowering:
    """One pass over a float graph; built, asked once for its `graph`, and dropped."""

    def __init__(
        self,
        graph: FloatGraph,
        ranges: dict[str, Range],
        scheme: QuantizationScheme,
        weights: Mapping[str, npt.NDArray[np.int64]],
    ):
        self.float_graph = graph
        self.weights = weights
        self.ranges = ranges
        self.scheme = scheme
        self.requantization = scheme.requantization.numerics()
        self.power_of_two = scheme.requantization.scheme == "power_of_two"
        self.single = scheme.scale_format == "float32"
        self.fusion = plan_fusion(graph)
        self._check_layers()
        chosen = [node.name for node in graph.nodes if self.fusion.source[node.name] == node.name and _chooses(node)]
        self.form = container_format(scheme.activation_of(name).format for name in chosen)
        self.nodes: dict[str, Node] = {}
        self.weight_scales: dict[str, FloatArray] = {}
        self.saturated: dict[str, str] = {}

    def graph(self) -> IntegerGraph:
        """Lower every node that has an integer node of its own."""
        for node in self.float_graph.nodes:
            if self.fusion.source[node.name] == node.name:
                self.nodes[node.name] = self._node(node)
        self._check_names("accumulator_width_bits", self.scheme.accumulator_width_bits, Mac | MatMul)
        self._check_names("weights", self.weights, Mac)
        if self.saturated:
            layers = ", ".join(f"{name} ({count})" for name, count in self.saturated.items())
            warnings.warn(
                f"{self.float_graph.name}: biases saturate in {self.scheme.bias.bits} bits: {layers}; "
                "use a larger bias.bits",
                CalibrationWarning,
                stacklevel=3,
            )
        output = self.float_graph.by_name[self.float_graph.output]
        return IntegerGraph(
            name=self.float_graph.name,
            nodes=tuple(self.nodes.values()),
            output=self.fusion.source[output.name],
            output_shape=output.shape,
            activation=self.form,
            requantization=self.requantization,
            zero_points=self.scheme.zero_points,
            bias_at=self.scheme.bias_at,
        )

    def _node(self, node: FloatNode) -> Node:
        sources = [self.nodes[self.fusion.source[name]] for name in node.inputs]
        base: dict[str, Any] = {
            "name": node.name,
            "inputs": tuple(source.name for source in sources),
            "source": node.source,
        }
        match node:
            case FloatInput():
                return Input(**base, output=self._chosen_type(node.name, layout(node.shape)))
            case FloatConv2d() | FloatLinear():
                return self._mac(node, base, sources[0].output)
            case FloatMatMul():
                return self._matmul(node, base, (sources[0].output, sources[1].output))
            case FloatAdd():
                return self._add(node, base, (sources[0].output, sources[1].output))
            case FloatActivation(kind="relu" | "relu6"):
                same = sources[0].output
                return Clip(**base, output=same, clip=self._clip(node, same))
            case FloatActivation():
                return self._table(node, base, sources[0].output)
            case FloatMaxPool2d():
                target = _same_scale(sources[0].output, layout(node.shape))
                return MaxPool2d(**base, output=target, kernel=node.kernel, stride=node.stride, padding=node.padding)
            case FloatAvgPool2d():
                target = _same_scale(sources[0].output, layout(node.shape))
                return AvgPool2d(
                    **base,
                    output=target,
                    kernel=node.kernel,
                    stride=node.stride,
                    padding=node.padding,
                    count_include_pad=node.count_include_pad,
                )
            case FloatBatchNorm2d():
                raise self._refuse(node, "batch norm is not folded; call accelsim.frontend.fold_batch_norm first")
        raise TypeError(f"{type(node).__name__} has no integer node")

    def _chosen_type(self, name: str, shape: tuple[int, int, int]) -> TensorType:
        """The type of a tensor whose scale its own range decides, after the activation where one is fused."""
        fused = self.fusion.activation.get(name)
        seen = self.ranges[fused.name if fused else name]
        scheme = self.scheme.activation_of(name)
        form = scheme.format
        self._check_sign(name, scheme, seen.low)
        tables = self.fusion.only_tables.get(name)
        # Where overflow wraps, a value beyond the range would come out at its other end.
        if tables and self.requantization.output_overflow == "saturate" and scheme.fraction_bits is None:
            seen = seen.within(input_limits([self._table_codes(table) for table in tables], form))
        scale, zero_point = activation_scale(
            seen,
            form,
            symmetric=scheme.symmetric,
            power_of_two=self.power_of_two or scheme.power_of_two,
            fraction_bits=scheme.fraction_bits,
            single=self.single,
        )
        return self._type(shape, scheme, scale, zero_point)

    def _type(self, shape: tuple[int, int, int], scheme: ActivationScheme, scale: float, zero_point: int) -> TensorType:
        """A tensor's type in the container, from S and from Z in its own format."""
        codes = placed(scheme, self.form)
        return TensorType(
            height=shape[0],
            width=shape[1],
            channels=shape[2],
            scale=scale,
            zero_point=zero_point + codes.offset,
            limits=None if codes.limits == self.form.limits else codes.limits,
        )

    def _check_sign(self, name: str, scheme: ActivationScheme, low: float) -> None:
        """Codes from 0 up with Z = 0 hold nothing below 0."""
        if low < 0 and scheme.symmetric and not scheme.signed:
            raise self._refuse(
                self.float_graph.by_name[name],
                f"unsigned symmetric codes hold nothing below 0, and its values reach {low:.6g}; use layers.{name}."
                "activation_signed = true, or activation.symmetric = false",
            )

    def _clip(self, activation: FloatActivation | None, target: TensorType) -> tuple[int, int]:
        """The tensor's limits, narrowed by ReLU or ReLU6."""
        low, high = target.limits_in(self.form)
        if activation is None:
            return low, high
        low = max(low, target.zero_point)
        if activation.kind == "relu6":
            high = int(min(high, target.zero_point + np.rint(6.0 / target.scale)))
        return low, high

    def _mac(self, node: FloatConv2d | FloatLinear, base: dict[str, Any], source: TensorType) -> Mac:
        channels = node.weight.shape[0]
        bias = bias_of(node)
        target = self._chosen_type(node.name, layout(node.shape))
        weight = self._weight(node, bias, source, target)
        self.weight_scales[node.name] = weight.scale
        values = weight.values
        per_sum = source.scale * weight.scale
        integer_bias = self._bias(node, bias, per_sum)
        if self.scheme.zero_points == "folded":
            integer_bias = integer_bias - source.zero_point * values.reshape(channels, -1).sum(axis=1)
        low, high = int(integer_bias.min()), int(integer_bias.max())
        if low < -(2**31) or high >= 2**31:
            worst = low if -low > high else high
            raise self._refuse(
                node, f"bias {worst} with the zero point folded in does not fit 32 bits; use zero_points = 'subtracted'"
            )
        fields: dict[str, Any] = {
            **base,
            "output": target,
            "weight": to_integer_layout(values, source),
            "weight_bits": max(2, self.scheme.weight_of(node.name).bits),  # one bit is stored in two
            "weight_zero_point": weight.zero_point,
            "bias": integer_bias,
            "multiplier": self._multiplier(node, self._real(source.scale, weight.scale, target.scale)),
            "clip": self._clip(self.fusion.activation.get(node.name), target),
            "accumulator_width_bits": self.scheme.accumulator_width_bits.get(node.name),
        }
        if isinstance(node, FloatLinear):
            return Linear(**fields)
        return Conv2d(
            **fields,
            stride=node.stride,
            padding=node.padding,
            dilation=node.dilation,
            groups=node.groups,
        )

    def _weight(
        self, node: FloatConv2d | FloatLinear, bias: FloatArray, source: TensorType, target: TensorType
    ) -> QuantizedWeight:
        """Weights on scales that the hardware's bias and multiplier can hold.

        All-zero weights fix no scale: S_w = S_y / S_x, so that M is 1 and the bias is counted in steps of the output.
        With one scale per channel, a channel whose weights are so small that M would be below
        `SMALLEST_MULTIPLIER` or its bias beyond `LARGEST_BIAS` gets the smallest scale that avoids it; what its
        weights lose is below what its output resolves. (TensorFlow Lite does the same: AdjustWeightsForBiasScale
        in tensorflow/lite/tools/optimize/quantization_utils.cc.)
        """
        try:
            rounded = quantize_weight(
                node.weight,
                self.scheme.weight_of(node.name),
                if_zero=target.scale / source.scale,
                at_least=np.maximum(
                    SMALLEST_MULTIPLIER * target.scale / source.scale, np.abs(bias) / (source.scale * LARGEST_BIAS)
                ),
                power_of_two=self.power_of_two,
                single=self.single,
            )
        except ValueError as error:
            raise self._refuse(node, str(error)) from None
        return rounded if node.name not in self.weights else self._given(node, rounded)

    def _given(self, node: FloatConv2d | FloatLinear, rounded: QuantizedWeight) -> QuantizedWeight:
        """The codes that the caller gives, on the scales of those rounded here."""
        values = self.weights[node.name]
        low, high = weight_limits(self.scheme.weight_of(node.name))
        if values.dtype != np.int64 or values.shape != node.weight.shape:
            raise self._refuse(node, f"weights are {values.dtype} {values.shape}, not int64 {node.weight.shape}")
        if values.min() < low or values.max() > high:
            raise self._refuse(node, f"weights hold {values.min()}..{values.max()}, outside {low}..{high}")
        return replace(rounded, values=values)

    def _bias(self, node: FloatNode, bias: FloatArray, per_sum: FloatArray) -> npt.NDArray[np.int64]:
        """round-half-even(bias / (S_x * S_w)), int64 inside int32, or saturated where `bias.bits` has fewer."""
        with np.errstate(over="ignore"):
            rounded = np.rint(bias / per_sum)
        bits = self.scheme.bias.bits
        if bits < 32:
            low, high = IntFormat(bits).limits
            if clamped := np.count_nonzero((rounded < low) | (rounded > high)):
                self.saturated[node.name] = f"{clamped} of {bias.size}"
            return np.clip(rounded, low, high).astype(np.int64)
        beyond = np.flatnonzero((rounded < -(2.0**31)) | (rounded >= 2.0**31))
        if beyond.size:
            channel = int(beyond[0])
            fixed = self.scheme.weight_of(node.name).fraction_bits is not None
            remedy = "fewer fraction bits of the weights or the input" if fixed else "weight.granularity = 'channel'"
            raise self._refuse(
                node,
                f"bias {bias[channel]:.6g} of channel {channel} is {rounded[channel]:.6g} steps of "
                f"S_x * S_w = {per_sum[channel]:.6g}, beyond 32 bits; use {remedy}",
            )
        return rounded.astype(np.int64)

    def _real(self, source: float, weight: FloatArray, target: float) -> FloatArray:
        """M = S_x * S_w / S_y, left to right, in the arithmetic that the scheme states; float64 (N,).

        float32 is what onnxruntime does: `ComputeOutputScale` in core/providers/cpu/quantization/qlinearconv.cc.
        """
        if self.scheme.requantization.multiplier_arithmetic == "float64":
            return source * weight / target
        with np.errstate(over="ignore", under="ignore"):
            product = np.float32(source) * weight.astype(np.float32) / np.float32(target)
        return np.asarray(product, dtype=np.float64)

    def _multiplier(self, node: FloatNode, real: FloatArray) -> Multiplier:
        """(m0, shift) of every M; one derivation for each value that occurs."""
        pairs: dict[float, tuple[int, int]] = {}
        for channel, one in enumerate(real.tolist()):
            if one not in pairs:
                try:
                    pairs[one] = self.requantization.derive(one)
                except ValueError as error:
                    raise self._refuse(node, f"channel {channel}: {error}; rescale the layer's weights") from None
        table = np.array([pairs[one] for one in real.tolist()], dtype=np.int64)
        return Multiplier(m0=table[:, 0].copy(), shift=table[:, 1].copy(), real=real)

    def _add(self, node: FloatAdd, base: dict[str, Any], sources: tuple[TensorType, TensorType]) -> Add:
        if sources[0].shape != sources[1].shape:
            raise self._refuse(
                node,
                f"adds a flattened image (H, W, C) = {sources[0].shape} and {sources[1].shape}, whose elements are "
                "stored in different orders; add before flattening",
            )
        target = self._chosen_type(node.name, sources[0].shape)
        one = np.ones(1)
        first, second = (self._multiplier(node, self._real(each.scale, one, target.scale)) for each in sources)
        clip = self._clip(self.fusion.activation.get(node.name), target)
        return Add(**base, output=target, multipliers=(first, second), clip=clip)

    def _matmul(self, node: FloatMatMul, base: dict[str, Any], sources: tuple[TensorType, TensorType]) -> MatMul:
        first, second = sources
        if self.scheme.zero_points == "folded" and (first.zero_point or second.zero_point):
            raise self._refuse(
                node,
                f"zero points {first.zero_point} and {second.zero_point} of two activation tensors cannot be folded "
                "into a bias; use zero_points = 'subtracted', or activation.symmetric = true",
            )
        target = self._chosen_type(node.name, layout(node.shape))
        return MatMul(
            **base,
            output=target,
            heads=node.heads,
            second=node.second,
            multiplier=self._multiplier(
                node, self._real(first.scale, np.array([second.scale * node.scale]), target.scale)
            ),
            clip=self._clip(self.fusion.activation.get(node.name), target),
            accumulator_width_bits=self.scheme.accumulator_width_bits.get(node.name),
        )

    def _table(self, node: FloatActivation, base: dict[str, Any], source: TensorType) -> Table:
        _, codes = self._table_codes(node.name)
        entries = tabulate(node.kind, self.form, (source.scale, source.zero_point), codes)
        target = TensorType(
            height=source.height,
            width=source.width,
            channels=source.channels,
            scale=codes.scale,
            zero_point=codes.zero_point,
            limits=None if codes.limits == self.form.limits else codes.limits,
        )
        return Table(**base, output=target, entries=entries, function=node.kind)

    def _table_codes(self, name: str) -> tuple[str, TableCodes]:
        """Kind and output codes, as stored, of the table that a tanh or sigmoid becomes."""
        node = self.float_graph.by_name[name]
        assert isinstance(node, FloatActivation)
        scheme = self.scheme.activation_of(name)
        self._check_sign(name, scheme, -1.0 if node.kind == "tanh" else 0.0)
        if scheme.fraction_bits is not None:
            scale, zero_point = 2.0**-scheme.fraction_bits, 0
        else:
            scale, zero_point = output_scale(node.kind, scheme.format, symmetric=scheme.symmetric)
        codes = placed(scheme, self.form)
        return node.kind, TableCodes(scale, zero_point + codes.offset, codes.limits)

    def _check_layers(self) -> None:
        """Every name in `layers` is a node that has what is set for it."""
        own = [node.name for node in self.float_graph.nodes if self.fusion.source[node.name] == node.name]
        for name, layer in self.scheme.layers.items():
            where = f"{self.float_graph.name}: layers names {name!r}"
            node = self.float_graph.by_name.get(name)
            if node is None:
                remedy = did_you_mean(name, own) or f"; there are {', '.join(own)}"
                raise InputError(f"{where}, which is no node{remedy}")
            if name not in own:
                raise InputError(f"{where}, which is computed as part of {self.fusion.source[name]!r}; name that")
            keys = [key for key, value in layer if value is not None]
            weights = [key for key in keys if key.startswith("weight_")]
            if weights and not isinstance(node, FloatConv2d | FloatLinear):
                raise InputError(f"{where}, which has no weights; leave {weights[0]} out")
            if len(keys) > len(weights) and not _chooses(node):
                kept = self.fusion.source[node.inputs[0]]
                key = next(key for key in keys if key not in weights)
                raise InputError(f"{where}, which keeps the codes of {kept!r}; set {key} there")

    def _check_names(self, what: str, given: Iterable[str], kinds: Any) -> None:
        names = [node.name for node in self.nodes.values() if isinstance(node, kinds)]
        for name in given:
            if name not in names:
                remedy = did_you_mean(name, names) or f"; there are {', '.join(names) or 'none'}"
                raise InputError(
                    f"{self.float_graph.name}: {what} names {name!r}, which is no convolution or linear layer{remedy}"
                )

    def _refuse(self, node: FloatNode, reason: str) -> InputError:
        return InputError(f"{self.float_graph.name}: {node.source or node.name}: {reason}")


def layout(shape: Shape) -> tuple[int, int, int]:
    """(height, width, channels) of a float tensor (C, H, W) or (K,).

    >>> layout((3, 8, 9)), layout((10,))
    ((8, 9, 3), (1, 1, 10))
    """
    return (shape[1], shape[2], shape[0]) if len(shape) == 3 else (1, 1, shape[0])


def _same_scale(source: TensorType, shape: tuple[int, int, int]) -> TensorType:
    return replace(source, height=shape[0], width=shape[1], channels=shape[2])


def _chooses(node: FloatNode) -> bool:
    """Whether a node has codes of its own; pools and clips have those of their input."""
    return isinstance(node, FloatInput | FloatConv2d | FloatLinear | FloatMatMul | FloatAdd) or (
        isinstance(node, FloatActivation) and node.kind in FUNCTIONS
    )
