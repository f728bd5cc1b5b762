"""ONNX operators to nodes of an integer graph: QOperator and QDQ forms, one operator after the other.

Each ONNX tensor stands for one of the values in `onnx_values`. A float operator between DequantizeLinear and
QuantizeLinear waits (`Awaiting`) until the QuantizeLinear says on which scale its result is, and becomes an integer
node then; so both forms end in the same nodes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.errors import InputError
from accelsim.importers.onnx_constants import fold, target_shape
from accelsim.importers.onnx_file import LARGEST_TENSOR, OnnxFile, Operator
from accelsim.importers.onnx_values import (
    Awaiting,
    Chain,
    Codes,
    Constant,
    Float32,
    GraphInput,
    HostTensor,
    Index,
    Int64,
    Layout,
    LookedUp,
    QuantizedConstant,
    Scale,
    Shape,
    Value,
    usual,
)
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    Dequantize,
    Input,
    Linear,
    Mac,
    MaxPool2d,
    Multiplier,
    Node,
    Quantize,
    Table,
    TensorType,
)
from accelsim.numerics import IntFormat, Precision, Requantization, Rounding, Scheme

UINT8, INT8, INT32, FLOAT32 = (np.dtype(one) for one in (np.uint8, np.int8, np.int32, np.float32))
Pair = tuple[int, int]
Padding = tuple[int, int, int, int]


class Lowering:
    """One pass over a file; `run` once, then `nodes`, `values` and `output`.

    Attributes:
        nodes: in order, the `Input` first; biases without what folding the zero points adds.
        values: of every ONNX tensor.
        activation_dtypes: types of all codes between operators.
        batched: whether dimension 0 is the batch. It is not where a constant MatMul operand varies along it.
    """

    def __init__(self, file: OnnxFile, how: Requantization, *, single: bool, signed: bool):
        self.file = file
        self.how = how
        self.single = single
        self.form = IntFormat(8, signed=signed)
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, Value] = dict(file.constants)
        self.activation_dtypes: set[np.dtype[Any]] = set()
        self.batched = not any(map(self._varies_with_batch, file.operators))
        dims = file.input_shape[1:] if self.batched else tuple(size or 1 for size in file.input_shape)
        shape = tuple(size or 1 for size in dims)
        if len(shape) > 3:
            raise InputError(f"{file.path}: input {file.input!r} has four dimensions none of which is a batch")
        self.values[file.input] = GraphInput(file.input_dtype, shape)
        self._input: tuple[Scale | None, Codes] | None = None
        self._readers: dict[str, int] = {}
        for operator in file.operators:
            for name in operator.inputs:
                self._readers[name] = self._readers.get(name, 0) + 1
        self._readers[file.output] = self._readers.get(file.output, 0) + 1
        constant_bytes = sum(one.nbytes for one in file.constants.values())
        self._budget = max(1 << 26, 64 * constant_bytes)
        self.op = file.operators[0]

    # What is common to all operators --------------------------------------------------------------------------------

    def run(self) -> None:
        """Lower every operator."""
        for operator in self.file.operators:
            self.op = operator
            operands = [self.values.get(name) for name in self.op.inputs]
            if (
                all(one is None or isinstance(one, np.ndarray) for one in operands)
                and (folded := self._fold([one for one in operands if one is None or isinstance(one, np.ndarray)]))
                is not None
            ):
                self.values[self.op.outputs[0]] = folded
                continue
            method = OPERATORS.get(self.op.kind.removeprefix("com.microsoft."))
            if method is None:
                raise self.refuse(f"is not supported; operators that are: {', '.join(sorted(OPERATORS))}")
            if len(self.op.outputs) > 1 and any(self.op.outputs[1:]):
                raise self.refuse("has more than one output, which is not supported")
            self.values[self.op.outputs[0]] = method(self)

    def refuse(self, reason: str) -> InputError:
        """The error, with file, operator and node."""
        return InputError(f"{self.file.path}: {self.op.kind} {self.op.name!r}: {reason}")

    def _fold(self, operands: list[Constant | None]) -> Constant | None:
        try:
            found = fold(self.op, operands, self._budget)
        except MemoryError:
            raise self._too_much() from None
        except (ValueError, IndexError, TypeError, KeyError, OverflowError) as error:
            raise self.refuse(f"cannot be evaluated on its constants: {error}") from None
        if found is not None and found.base is None:
            self._charge(found.nbytes)
        return found

    def _charge(self, size: int) -> None:
        """Count what is allocated, so that a small file cannot ask for much."""
        self._budget -= size
        if self._budget < 0:
            raise self._too_much()

    def _too_much(self) -> InputError:
        return self.refuse("the file's constants and shapes grow beyond all measure while they are read; simplify it")

    def _varies_with_batch(self, operator: Operator) -> bool:
        place = {"QLinearMatMul": 3, "MatMulInteger": 1, "MatMul": 1}.get(operator.kind)
        if place is None or len(operator.inputs) <= place:
            return False
        matrix = self.file.constants.get(operator.inputs[place])
        return matrix is not None and matrix.ndim > 2 and math.prod(matrix.shape[:-2]) > 1

    def _operand(self, place: int) -> Value | None:
        """The value of an operand, or None where it is left out."""
        if place >= len(self.op.inputs) or not self.op.inputs[place]:
            return None
        return self.values[self.op.inputs[place]]

    def _needed(self, place: int) -> Value:
        value = self._operand(place)
        if value is None:
            raise self.refuse(f"lacks operand {place}")
        return value

    def _constant(self, place: int) -> Constant | None:
        value = self._operand(place)
        if value is not None and not isinstance(value, np.ndarray):
            raise self.refuse(f"operand {place}, {self.op.inputs[place]!r}, must be an initializer or constant")
        return value

    def _scales(self, place: int) -> Float32:
        value = self._constant(place)
        if value is None or value.dtype.kind != "f" or value.ndim > 1 or not value.size:
            raise self.refuse(f"operand {place}, a scale, must be one float or a float for each channel")
        with np.errstate(over="ignore"):
            scales = np.atleast_1d(value).astype(np.float32)
        if not (np.isfinite(scales).all() and (scales > 0).all()):
            raise self.refuse(f"operand {place}: scale {scales.ravel()[0]} must be positive and finite")
        return scales

    def _zeros(self, place: int, dtype: np.dtype[Any], like: Float32) -> Int64:
        value = self._constant(place)
        if value is None:
            return np.zeros(like.shape, dtype=np.int64)
        if value.dtype != dtype or value.size not in (1, like.size):
            raise self.refuse(
                f"operand {place}, a zero point, is {value.dtype} {value.shape}; {dtype} {like.shape} is needed"
            )
        return np.broadcast_to(value.ravel().astype(np.int64), like.shape)

    def _scale(self, scale_place: int, zero_place: int, default: np.dtype[Any] | None = None) -> Scale:
        """S and Z of a whole tensor; the type is the zero point's."""
        scales = self._scales(scale_place)
        zero = self._constant(zero_place)
        dtype = zero.dtype if zero is not None else default or UINT8
        if scales.size != 1:
            raise self.refuse(f"operand {scale_place}: {scales.size} scales for an activation; accelsim takes one")
        if dtype not in (UINT8, INT8):
            raise self.refuse(f"operand {zero_place}: codes of type {dtype} are not supported; int8 and uint8 are")
        return Scale(scales[0], int(self._zeros(zero_place, dtype, scales)[0]), dtype)

    def _int(self, key: str, default: int) -> int:
        value = self.op.attributes.get(key, default)
        if type(value) is not int:
            raise self.refuse(f"attribute {key} = {value!r} must be an integer")
        return value

    def _ints(self, key: str, count: int, default: tuple[int, ...]) -> tuple[int, ...]:
        value = self.op.attributes.get(key, default)
        if not isinstance(value, tuple) or len(value) != count or not all(type(one) is int for one in value):
            raise self.refuse(f"attribute {key} must be {count} integers")
        if any(abs(one) >= 1 << 31 for one in value):
            raise self.refuse(f"attribute {key} = {value} does not fit 32 bits")
        return value

    def shift(self, dtype: np.dtype[Any]) -> int:
        """What is taken off uint8 codes so that they are codes of the graph."""
        return 128 if dtype == UINT8 and self.form.signed else 0

    def _tensor(self, layout: Layout, scale: Scale) -> TensorType:
        self.activation_dtypes.add(scale.dtype)
        height, width, channels = self._fitting(layout.stored)
        return TensorType(
            height=height,
            width=width,
            channels=channels,
            scale=float(scale.scale),
            zero_point=self._in_form(scale.zero_point, scale),
        )

    def _in_form(self, code: int, scale: Scale) -> int:
        """A code of the file as one of the graph; where both kinds occur, unsigned graphs are never made."""
        inside = code - self.shift(scale.dtype)
        return min(max(inside, self.form.minimum), self.form.maximum)

    def _host_tensor(self, layout: Layout, kind: Any) -> TensorType:
        height, width, channels = self._fitting(layout.stored)
        return TensorType(height=height, width=width, channels=channels, scale=1.0, kind=kind)

    def _fitting(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(shape) < 1 or math.prod(shape) > LARGEST_TENSOR:
            raise self.refuse(f"a tensor (H, W, C) = {shape} is empty or has more than {LARGEST_TENSOR} elements")
        return shape

    def _emit(self, kind: type[Node], inputs: tuple[Codes | HostTensor, ...], output: TensorType, **fields: Any) -> str:
        base = name = module_path(self.op.name)
        number = 2
        while name in self.nodes or name == self.file.input:
            name, number = f"{base}_{number}", number + 1
        self.nodes[name] = kind(
            name=name,
            inputs=tuple(one.node for one in inputs),
            output=output,
            source=f"{self.op.kind} {self.op.outputs[0]}",
            **fields,
        )
        return name

    # The graph's input ----------------------------------------------------------------------------------------------

    def _make_input(self, value: GraphInput, scale: Scale | None, layout: Layout | None = None) -> Codes:
        """The `Input` node, on the scale its first reader states; None: float32 numbers for the host."""
        if self._input is None:
            layout = layout or usual(value.shape)
            if scale is None:
                output = self._host_tensor(layout, "float32")
            else:
                output = self._tensor(layout, scale)
            divides = value.dtype == FLOAT32 and scale is not None
            precision: Precision = "float32" if divides else "float64"
            name = self.file.input
            self.nodes[name] = Input(name=name, inputs=(), output=output, source=name, precision=precision)
            self._input = (scale, Codes(name, layout, scale or Scale(np.float32(1), 0, INT8)))
        elif self._input[0] != scale:
            raise self.refuse(f"reads the input {self.file.input!r} on another scale than a node before it; use one")
        return self._input[1]

    def _codes(self, place: int, scale: Scale, layout: Layout | None = None) -> Codes:
        """An operand that must be codes on the scale which this operator states for it."""
        value = self._needed(place)
        if isinstance(value, GraphInput):
            if value.dtype != scale.dtype:
                raise self.refuse(f"operand {place} is {value.dtype}, its zero point {scale.dtype}")
            return self._make_input(value, scale, layout)
        if not isinstance(value, Codes):
            raise self.refuse(f"operand {place}, {self.op.inputs[place]!r}, is no tensor of int8 or uint8 codes")
        if value.scale != scale:
            raise self.refuse(f"states {scale} for {self.op.inputs[place]!r}, which is made on {value.scale}")
        return value

    def read_input(self) -> Codes:
        """The input as its first reader has it."""
        if self._input is None:
            raise InputError(f"{self.file.path}: nothing reads the input {self.file.input!r}")
        return self._input[1]

    # Multipliers, biases, weights -----------------------------------------------------------------------------------

    def _multiplier(self, real: npt.NDArray[Any], channels: int) -> Multiplier:
        pairs: dict[float, Pair] = {}
        for one in real.ravel().tolist():
            try:
                pairs.setdefault(one, self.how.derive(one))
            except (ValueError, OverflowError) as error:
                raise self.refuse(f"{error}; use other scales or another requantisation scheme") from None
        spread = np.broadcast_to(real.astype(np.float64).ravel(), (channels,))
        table = np.array([pairs[one] for one in spread.tolist()], dtype=np.int64)
        return Multiplier(m0=table[:, 0].copy(), shift=table[:, 1].copy(), real=spread.copy())

    def _ratio(self, first: Any, second: Float32, by: np.float32) -> npt.NDArray[Any]:
        """first * second / by: in float32, left to right, where the scheme forms M so; else in float64."""
        kind: Any = np.float32 if self.single else np.float64
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            return np.asarray(kind(first) * second.astype(kind) / kind(by))

    def _signed_weight(self, values: npt.NDArray[Any], zeros: Int64) -> tuple[Int64, int]:
        """Weights (N, ...) of int8 or uint8 codes as int8 and one Z_w: 0 where q - Z_w fits int8."""
        if values.dtype not in (UINT8, INT8):
            raise self.refuse(f"weights of type {values.dtype} are not supported; int8 and uint8 are")
        self._charge(16 * values.size)
        codes = values.astype(np.int64)
        steps = codes - zeros.reshape(-1, *[1] * (values.ndim - 1))
        if steps.size and steps.min() >= -128 and steps.max() <= 127:
            return steps, 0
        shift = 128 if values.dtype == UINT8 else 0
        if np.ptp(zeros):
            raise self.refuse(
                "weight zero points differ between channels, and q - Z does not fit int8; use symmetric weights"
            )
        return codes - shift, int(zeros[0]) - shift

    def _integer_bias(self, value: Value | None, per_sum: npt.NDArray[Any], channels: int) -> Int64:
        """A bias in steps of S_x * S_w: int32 as it is where its scale is that product, else rounded to it."""
        if value is None:
            return np.zeros(channels, dtype=np.int64)
        held = value.values if isinstance(value, QuantizedConstant) else value
        if isinstance(held, np.ndarray) and held.size not in (1, channels):
            raise self.refuse(f"the bias of shape {held.shape} is not one number for each of {channels} channels")
        if isinstance(value, QuantizedConstant):
            real = (value.values.ravel().astype(np.float64) - value.zero_points) * value.scales.astype(np.float64)
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            real = value.astype(np.float64)
        elif isinstance(value, np.ndarray) and value.dtype == INT32:
            real = value.ravel() * per_sum
        else:
            raise self.refuse("the bias must be constant")
        if not np.isfinite(real).all():
            raise self.refuse("a bias is NaN or infinite")
        with np.errstate(over="ignore"):
            rounded = np.rint(np.broadcast_to(real.ravel(), (channels,)) / per_sum)
        if np.abs(rounded).max() >= 2.0**31:
            raise self.refuse("a bias does not fit 32 bits in steps of S_x * S_w")
        return rounded.astype(np.int64)

    # Convolutions and matrix products -------------------------------------------------------------------------------

    def _window(self, source: tuple[int, int, int], kernel: Pair) -> tuple[Pair, Pair, Padding]:
        """Stride, dilation and padding (top, bottom, left, right) from the attributes."""
        stride = self._ints("strides", 2, (1, 1))
        dilation = self._ints("dilations", 2, (1, 1))
        if min(*stride, *dilation, *kernel) < 1:
            raise self.refuse("window, strides and dilations must be at least 1")
        top, left, bottom, right = self._ints("pads", 4, (0, 0, 0, 0))
        how = self.op.attributes.get("auto_pad", "NOTSET")
        if how in ("SAME_UPPER", "SAME_LOWER"):
            ends = []
            for size, k, s, d in zip(source[:2], kernel, stride, dilation, strict=True):
                total = max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
                ends.append((total // 2, total - total // 2)[:: 1 if how == "SAME_UPPER" else -1])
            (top, bottom), (left, right) = ends
        elif how == "VALID":
            top = left = bottom = right = 0
        elif how != "NOTSET":
            raise self.refuse(f"auto_pad = {how!r} is not one of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
        if min(top, left, bottom, right) < 0:
            raise self.refuse("pads must not be negative")
        self._fitting((source[0] + top + bottom, source[1] + left + right, source[2]))
        return (stride[0], stride[1]), (dilation[0], dilation[1]), (top, bottom, left, right)

    def _extent(self, source: tuple[int, int, int], kernel: Pair, window: tuple[Pair, Pair, Padding]) -> Pair:
        stride, dilation, (top, bottom, left, right) = window
        sizes = (source[0] + top + bottom, source[1] + left + right)
        height, width = (
            (size - d * (k - 1) - 1) // s + 1 for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True)
        )
        if min(height, width) < 1:
            raise self.refuse(f"a window {kernel} does not fit an input of {source[:2]}")
        return height, width

    def _image(self, codes: Codes) -> tuple[int, int, int]:
        if len(codes.layout.shape) != 3 or not codes.layout.is_usual:
            raise self.refuse(
                f"needs an image (N, C, H, W) in its usual order, not {codes.layout.shape} without the batch"
            )
        return codes.layout.stored

    def _conv(
        self, x: Codes, weight: Int64, zero: int
    ) -> tuple[Layout, Callable[[Scale | None, dict[str, Any]], Codes | HostTensor]]:
        """A convolution of codes with weights (N, C / groups, R, S): its layout, and what makes it a node."""
        stored = self._image(x)
        if weight.ndim != 4:
            raise self.refuse(
                f"weights of shape {weight.shape} are not (N, C, R, S); only 2-D convolutions are supported"
            )
        kernel = (weight.shape[2], weight.shape[3])
        if self._ints("kernel_shape", 2, kernel) != kernel:
            raise self.refuse(f"kernel_shape is not that of the weights, {kernel}")
        groups = self._int("group", 1)
        if groups < 1 or weight.shape[1] * groups != stored[2] or weight.shape[0] % groups:
            raise self.refuse(f"weights {weight.shape} in {groups} groups do not fit {stored[2]} channels")
        stride, dilation, padding = window = self._window(stored, kernel)
        layout = usual((weight.shape[0], *self._extent(stored, kernel, window)))
        fields = {
            "weight": np.ascontiguousarray(np.moveaxis(weight, 1, 3)),
            "weight_zero_point": zero,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
        }
        return layout, self._maker(Conv2d, x, layout, fields)

    def _matmul(
        self, x: Codes, matrix: Int64, zero: int
    ) -> tuple[Layout, Callable[[Scale | None, dict[str, Any]], Codes | HostTensor]]:
        """A product of codes (..., K) with a matrix (N, K), or one for each leading place, (I, N, K)."""
        shape = x.layout.shape
        channels, k = matrix.shape[-2:]
        if not shape or shape[-1] != k:
            raise self.refuse(f"a matrix with {k} rows does not fit an operand of shape {shape} without the batch")
        if matrix.ndim == 3:  # a group of channels for each leading place
            places, rows = matrix.shape[0], shape[1]
            layout = grouped((places, rows, channels))
            fields = {"weight": matrix.reshape(-1, 1, 1, k), "weight_zero_point": zero, "groups": places}
            return layout, self._maker(Conv2d, x, layout, fields)
        if len(shape) == 1:
            self._charge(16 * matrix.size)
            weight = np.empty_like(matrix)
            weight[:, x.layout.places()] = matrix
            layout = usual((channels,))
            return layout, self._maker(Linear, x, layout, {"weight": weight, "weight_zero_point": zero})
        if len(shape) == 2 and x.layout.is_usual:
            layout = usual((shape[0], channels))
            fields = {"weight": matrix.reshape(channels, 1, 1, k), "weight_zero_point": zero}
            return layout, self._maker(Conv2d, x, layout, fields)
        raise self.refuse(f"an operand of shape {shape} without the batch is not supported; (K) and (M, K) are")

    def _maker(
        self, kind: type[Mac], x: Codes, layout: Layout, fields: dict[str, Any]
    ) -> Callable[[Scale | None, dict[str, Any]], Codes | HostTensor]:
        def make(scale: Scale | None, rest: dict[str, Any]) -> Codes | HostTensor:
            if scale is not None:
                return Codes(self._emit(kind, (x,), self._tensor(layout, scale), **fields, **rest), layout, scale)
            none = np.zeros(0, dtype=np.int64)
            multiplier = Multiplier(m0=none, shift=none, real=np.zeros(0))
            sums = {"multiplier": multiplier, "clip": IntFormat(32).limits}
            name = self._emit(kind, (x,), self._host_tensor(layout, "int32"), **fields, **sums, **rest)
            return HostTensor(name, layout, INT32)

        return make

    def _awaiting_mac(
        self,
        layout: Layout,
        make: Callable[[Scale | None, dict[str, Any]], Codes | HostTensor],
        scales: tuple[Any, Float32],
        bias: Value | None,
        channels: int,
    ) -> Awaiting:
        """A sum of products whose output scale is not known yet."""
        first, second = scales
        steps = self._integer_bias(bias, np.float64(first) * second.astype(np.float64), channels)

        def finish(scale: Scale, clip: Pair) -> Codes:
            multiplier = self._multiplier(self._ratio(first, second, scale.scale), channels)
            found = make(scale, {"bias": steps, "multiplier": multiplier, "clip": self._graph_clip(clip, scale)})
            assert isinstance(found, Codes)
            return found

        operator = self.op

        def with_bias(value: Any) -> Awaiting:
            return replace(self._awaiting_mac(layout, make, scales, value, channels), operator=operator)

        return Awaiting(operator, layout, finish, with_bias=with_bias if bias is None else None)

    def _graph_clip(self, clip: Pair, scale: Scale) -> Pair:
        return self._in_form(clip[0], scale), self._in_form(clip[1], scale)

    def _finished(self, waiting: Awaiting, scale: Scale) -> Codes:
        """The node, now that its scale is known; ReLU and Clip become limits of its codes."""
        limits = np.iinfo(scale.dtype)
        ends = []
        for value in (waiting.low, waiting.high):
            with np.errstate(over="ignore"):
                code = np.rint(np.float32(value) / scale.scale).astype(np.float64) + scale.zero_point
            ends.append(int(np.clip(code, limits.min, limits.max)))
        reader, self.op = self.op, waiting.operator  # which the node is named after
        codes = waiting.finish(scale, (ends[0], ends[1]))
        self.op = reader
        return codes

    def _matrix(self, value: Constant, transposed: bool) -> Constant:
        """A constant right operand (K, N) or (I, K, N) as (N, K) or (I, N, K)."""
        if value.ndim > 2 and math.prod(value.shape[:-2]) == 1:
            value = value.reshape(value.shape[-2:])
        if value.ndim not in (2, 3) or not value.size:
            raise self.refuse(f"a right operand of shape {value.shape} is no matrix, nor one for each leading place")
        return value if transposed else np.swapaxes(value, -1, -2)

    def _matrix_layout(self, value: Value, matrix: Constant) -> Layout | None:
        """How an input is stored that a matrix for each leading place reads first."""
        if matrix.ndim == 2 or not isinstance(value, GraphInput):
            return None
        if len(value.shape) != 3 or value.shape[0] != matrix.shape[0]:
            raise self.refuse(f"matrices {matrix.shape} do not fit an operand of shape {value.shape}")
        return grouped(value.shape)

    def _checked_grouped(self, x: Codes, matrix: Constant) -> None:
        if matrix.ndim == 3 and (len(x.layout.shape) != 3 or x.layout.stored != grouped(x.layout.shape).stored):
            raise self.refuse("matrices that vary along dimension 0 are supported only at the graph's input")

    # QOperator form -------------------------------------------------------------------------------------------------

    def qlinear_conv(self) -> Value:
        """QLinearConv: x, S, Z, w, S, Z, S, Z, bias."""
        x = self._codes(0, self._scale(1, 2))
        values = self._constant(3)
        weight_scales = self._scales(4)
        if values is None:
            raise self.refuse("lacks its weights")
        zeros = self._zeros(5, values.dtype, self._spread(weight_scales, self._constant(5)))
        weight, zero = self._signed_weight(values, zeros)
        self._check_channels(weight_scales, len(weight))
        layout, make = self._conv(x, weight, zero)
        waiting = self._awaiting_mac(layout, make, (x.scale.scale, weight_scales), self._operand(8), len(weight))
        return self._finished(waiting, self._scale(6, 7))

    def _spread(self, scales: Float32, zeros: Constant | None) -> Float32:
        """Scales with as many entries as the zero points, where one of them goes by channel."""
        return (
            np.broadcast_to(scales, (zeros.size,)) if zeros is not None and scales.size == 1 and zeros.size else scales
        )

    def _check_channels(self, scales: Float32, channels: int) -> None:
        if scales.size not in (1, channels):
            raise self.refuse(f"{scales.size} weight scales do not fit {channels} output channels")

    def qlinear_matmul(self) -> Value:
        """QLinearMatMul: a, S, Z, b, S, Z, S, Z."""
        return self._quantized_product(b=3, scale=6, bias=None, transposed=False, factor=1.0)

    def qgemm(self) -> Value:
        """com.microsoft.QGemm: A, S, Z, B, S, Z, bias int32, S, Z."""
        if self._int("transA", 0):
            raise self.refuse("transA = 1 is not supported")
        alpha = self.op.attributes.get("alpha", 1.0)
        if not isinstance(alpha, float) or not (math.isfinite(alpha) and alpha > 0):
            raise self.refuse(f"alpha = {alpha!r} must be positive and finite")
        if self._operand(7) is None:
            raise self.refuse("has no output scale, so a float output; quantise its output as well")
        return self._quantized_product(b=3, scale=7, bias=6, transposed=bool(self._int("transB", 0)), factor=alpha)

    def _quantized_product(self, *, b: int, scale: int, bias: int | None, transposed: bool, factor: float) -> Value:
        values = self._constant(b)
        scales = self._scales(b + 1)
        if values is None:
            raise self.refuse("lacks its right operand")
        matrix = self._matrix(values, transposed)
        x = self._codes(0, self._scale(1, 2), self._matrix_layout(self._needed(0), matrix))
        self._checked_grouped(x, matrix)
        channels = int(matrix.shape[-2])
        zeros = self._zeros(b + 2, values.dtype, self._spread(scales, self._constant(b + 2)))
        if matrix.ndim == 3 and (zeros.size > 1 or scales.size > 1):
            raise self.refuse("matrices that vary along dimension 0 need one scale and zero point")
        self._check_channels(scales, channels)
        weight, zero = self._signed_weight(matrix, zeros)
        layout, make = self._matmul(x, weight, zero)
        first = np.float32(factor) * x.scale.scale
        count = math.prod(weight.shape[:-1])
        steps = None if bias is None else self._operand(bias)
        return self._finished(
            self._awaiting_mac(layout, make, (first, scales), steps, count), self._scale(scale, scale + 1)
        )

    def conv_integer(self) -> Value:
        """ConvInteger: x, w, Z, Z, to int32."""
        x, values, zeros = self._integer_operands()
        weight, zero = self._signed_weight(values, zeros)
        _, make = self._conv(x, weight, zero)
        return make(None, {"bias": np.zeros(len(weight), dtype=np.int64)})

    def matmul_integer(self) -> Value:
        """MatMulInteger: A, B, Z, Z, to int32."""
        values = self._constant(1)
        if values is None:
            raise self.refuse("lacks its right operand")
        matrix = self._matrix(values, False)
        x, _, zeros = self._integer_operands(self._matrix_layout(self._needed(0), matrix))
        self._checked_grouped(x, matrix)
        if matrix.ndim == 3 and zeros.size > 1:
            raise self.refuse("matrices that vary along dimension 0 need one zero point")
        weight, zero = self._signed_weight(matrix, zeros)
        _, make = self._matmul(x, weight, zero)
        return make(None, {"bias": np.zeros(math.prod(weight.shape[:-1]), dtype=np.int64)})

    def _integer_operands(self, layout: Layout | None = None) -> tuple[Codes, Constant, Int64]:
        value, values = self._needed(0), self._constant(1)
        if values is None:
            raise self.refuse("lacks its weights")
        zero = self._constant(2)
        if isinstance(value, GraphInput):
            dtype = value.dtype
        elif isinstance(value, Codes):
            dtype = value.scale.dtype
        else:
            raise self.refuse("reads no codes")
        if dtype not in (UINT8, INT8):
            raise self.refuse(f"reads {dtype}; codes are int8 or uint8")
        if zero is not None and zero.size != 1:
            raise self.refuse("a zero point for each row of the left operand is not supported; use one")
        one = np.ones(1, dtype=np.float32)
        zero_point = int(self._zeros(2, dtype, one)[0])
        scale = np.float32(1) if isinstance(value, GraphInput) else value.scale.scale
        if isinstance(value, GraphInput) and self._input is not None and self._input[0] is not None:
            scale = self._input[0].scale
        x = self._codes(0, Scale(scale, zero_point, dtype), layout)
        return x, values, self._zeros(3, values.dtype, self._spread(one, self._constant(3)))

    def qlinear_add(self) -> Value:
        """com.microsoft.QLinearAdd: A, S, Z, B, S, Z, S, Z."""
        pair = self._codes(0, self._scale(1, 2)), self._codes(3, self._scale(4, 5))
        return self._finished(self._sum(*pair), self._scale(6, 7))

    def _sum(self, first: Codes, second: Codes) -> Awaiting:
        same_order = np.array_equal(first.layout.places(), second.layout.places())
        if first.layout.shape != second.layout.shape or first.layout.stored != second.layout.stored or not same_order:
            raise self.refuse(
                f"adds tensors of shapes {first.layout.shape} and {second.layout.shape} (without the batch), or in "
                "other orders; broadcasting is not supported"
            )
        once = (Scheme.FLOAT32, Rounding.HALF_EVEN, "saturate")
        rounding = "sum" if (self.how.scheme, self.how.rounding, self.how.output_overflow) == once else "operands"
        one = np.ones(1, dtype=np.float32)

        def finish(scale: Scale, clip: Pair) -> Codes:
            multipliers = tuple(
                self._multiplier(self._ratio(x.scale.scale, one, scale.scale), 1) for x in (first, second)
            )
            tensor = self._tensor(first.layout, scale)
            fields = {"multipliers": multipliers, "clip": self._graph_clip(clip, scale), "rounding": rounding}
            return Codes(self._emit(Add, (first, second), tensor, **fields), first.layout, scale)

        return Awaiting(self.op, first.layout, finish)

    def qlinear_global_average_pool(self) -> Value:
        """com.microsoft.QLinearGlobalAveragePool: X, S, Z, S, Z."""
        if self._int("channels_last", 0):
            raise self.refuse("channels_last = 1 is not supported; export with channels first")
        return self._finished(self._mean(self._codes(0, self._scale(1, 2)), whole=True), self._scale(3, 4))

    def qlinear_average_pool(self) -> Value:
        """com.microsoft.QLinearAveragePool: X, S, Z, S, Z."""
        if self._int("channels_last", 0):
            raise self.refuse("channels_last = 1 is not supported; export with channels first")
        return self._finished(self._mean(self._codes(0, self._scale(1, 2)), whole=False), self._scale(3, 4))

    def _mean(self, x: Codes, *, whole: bool) -> Awaiting:
        """An average pool: a depthwise convolution with ones and M = S_x / (S_y * count).

        Where the scale stays and requantisation is not in floating point, it is the exact division of `AvgPool2d`.
        """
        stored = self._image(x)
        if whole:
            kernel: Pair = (stored[0], stored[1])
            window: tuple[Pair, Pair, Padding] = ((1, 1), (1, 1), (0, 0, 0, 0))
        else:
            kernel, window = self._pool_window(stored)
        stride, _, padding = window
        channels, count = stored[2], kernel[0] * kernel[1]
        counts_padding = bool(self._int("count_include_pad", 0)) or not any(padding)
        layout = usual((channels, *self._extent(stored, kernel, window)))

        def finish(scale: Scale, clip: Pair) -> Codes:
            keeps = scale == x.scale and clip == self._limits(scale)
            tensor = self._tensor(layout, scale)
            if keeps and (not counts_padding or self.how.scheme not in (Scheme.FLOAT32, Scheme.FLOAT64)):
                fields: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
                name = self._emit(AvgPool2d, (x,), tensor, **fields, count_include_pad=counts_padding)
                return Codes(name, layout, scale)
            if not counts_padding:
                raise self.refuse("a padded average that counts no padding must keep its scale")
            if count > 1 << 15:
                raise self.refuse(f"a window of {count} is larger than the {1 << 15} supported")
            self._charge(8 * channels * count)
            kind = np.float32 if self.single else np.float64
            real = np.atleast_1d(kind(x.scale.scale) / (kind(scale.scale) * kind(count)))
            name = self._emit(
                Conv2d,
                (x,),
                tensor,
                weight=np.ones((channels, *kernel, 1), dtype=np.int64),
                bias=np.zeros(channels, dtype=np.int64),
                multiplier=self._multiplier(real, channels),
                clip=self._graph_clip(clip, scale),
                stride=stride,
                padding=padding,
                groups=channels,
            )
            return Codes(name, layout, scale)

        return Awaiting(self.op, layout, finish)

    def _limits(self, scale: Scale) -> Pair:
        limits = np.iinfo(scale.dtype)
        return int(limits.min), int(limits.max)

    def _pool_window(self, stored: tuple[int, int, int]) -> tuple[Pair, tuple[Pair, Pair, Padding]]:
        kernel = self._ints("kernel_shape", 2, ())
        window = self._window(stored, (kernel[0], kernel[1]))
        _, dilation, (top, bottom, left, right) = window
        if dilation != (1, 1):
            raise self.refuse("a dilated pool is not supported")
        if max(top, bottom) >= kernel[0] or max(left, right) >= kernel[1]:
            raise self.refuse("pads must be smaller than the window")
        if self._int("ceil_mode", 0):
            stride = window[0]
            for size, k, s in zip((stored[0] + top + bottom, stored[1] + left + right), kernel, stride, strict=True):
                if (size - k) % s:
                    raise self.refuse("ceil_mode = 1 would count a window that leaves the image; use pads")
        return (kernel[0], kernel[1]), window

    def qlinear_function(self, name: str, function: Callable[[Float32], Float32]) -> Value:
        """com.microsoft.QLinearSigmoid and the like: X, S, Z, S, Z."""
        x = self._codes(0, self._scale(1, 2))
        return self._tabulated(Chain(x, ((name, function),)), self._scale(3, 4))

    # Quantising and dequantising ------------------------------------------------------------------------------------

    def _axis(self, shape: Shape, layout: Layout | None = None) -> int:
        """The `axis` attribute as that of the channels, which it must be: the last stored dimension."""
        rank = len(shape) + 1
        axis = self._int("axis", 1)
        axis += rank if axis < 0 else 0
        channel = 1 if len(shape) in (1, 3) else 2
        if axis != channel or (layout is not None and not layout.is_usual):
            raise self.refuse(f"scales along axis {axis} of {rank} are not supported; channels, axis {channel}, are")
        return axis

    def _refuse_blocks(self) -> None:
        if self._int("block_size", 0):
            raise self.refuse("block_size is not supported; use one scale, or one a channel")

    def quantize_linear(self) -> Value:
        """QuantizeLinear: x, S, Z."""
        self._refuse_blocks()
        value = self._needed(0)
        scales = self._scales(1)
        zero = self._constant(2)
        codes = {2: UINT8, 3: INT8}.get(self._int("output_dtype", 0), UINT8) if zero is None else zero.dtype
        if (zero is None and self._int("output_dtype", 0) not in (0, 2, 3)) or codes not in (UINT8, INT8):
            raise self.refuse("quantises to another type than int8 and uint8, which is not supported")
        zeros = self._zeros(2, codes, scales)
        if isinstance(value, np.ndarray):
            return self._quantized_constant(value, scales, zeros, codes)
        if scales.size == 1:
            scale = Scale(scales[0], int(zeros[0]), codes)
            if isinstance(value, GraphInput):
                if value.dtype != FLOAT32:
                    raise self.refuse(f"quantises {value.dtype}; float32 is supported")
                return self._make_input(value, scale)
            if isinstance(value, Awaiting):
                return self._finished(value, scale)
            if isinstance(value, Chain):
                return self._tabulated(value, scale)
        if isinstance(value, GraphInput) and value.dtype == FLOAT32:
            found = self._make_input(value, None)
            value = HostTensor(found.node, found.layout, FLOAT32)
        if not isinstance(value, HostTensor) or value.dtype != FLOAT32:
            raise self.refuse(
                "scales by channel are supported on the graph's float32 input, or behind a DequantizeLinear"
            )
        self.activation_dtypes.add(codes)
        shift = self.shift(codes)
        if scales.size == 1:
            tensor = self._tensor(value.layout, Scale(scales[0], int(zeros[0]), codes))
        else:
            self._axis(value.layout.shape, value.layout)
            tensor = replace(self._host_tensor(value.layout, "float32"), kind="codes")
        name = self._emit(Quantize, (value,), tensor, scales=scales, zero_points=np.asarray(zeros - shift))
        if scales.size == 1:
            return Codes(name, value.layout, Scale(scales[0], int(zeros[0]), codes))
        return HostTensor(name, value.layout, codes, channels=True)

    def _along(self, values: Constant, scales: Float32, axis: int) -> tuple[int, ...]:
        """The shape in which scales broadcast along an axis of a constant."""
        if scales.size == 1:
            return (1,) * values.ndim
        axis += values.ndim if axis < 0 else 0
        if not 0 <= axis < values.ndim or values.shape[axis] != scales.size:
            raise self.refuse(f"{scales.size} scales do not fit axis {axis} of a constant of shape {values.shape}")
        return tuple(scales.size if place == axis else 1 for place in range(values.ndim))

    def _quantized_constant(self, value: Constant, scales: Float32, zeros: Int64, codes: np.dtype[Any]) -> Constant:
        if value.dtype.kind != "f" or not np.isfinite(value).all():
            raise self.refuse("quantises a constant that is not finite floating point")
        self._charge(24 * value.size)
        shape = self._along(value, scales, self._int("axis", 1))
        with np.errstate(over="ignore"):
            rounded = np.rint(value.astype(np.float32) / scales.reshape(shape)).astype(np.float64)
        limits = np.iinfo(codes)
        return np.clip(rounded + zeros.reshape(shape), limits.min, limits.max).astype(codes)

    def dequantize_linear(self) -> Value:
        """DequantizeLinear: x, S, Z."""
        self._refuse_blocks()
        value = self._needed(0)
        scales = self._scales(1)
        if isinstance(value, LookedUp) and scales.size == 1:
            value = self._table(value, scales)
            self.values[self.op.inputs[0]] = value
        if isinstance(value, np.ndarray):
            if value.dtype not in (UINT8, INT8, INT32):
                raise self.refuse(f"dequantises a constant of {value.dtype}; int8, uint8 and int32 are supported")
            axis = self._int("axis", 1)
            self._along(value, scales, axis)
            return QuantizedConstant(value, scales, self._zeros(2, value.dtype, scales), axis)
        if isinstance(value, GraphInput):
            if value.dtype not in (UINT8, INT8):
                raise self.refuse(f"dequantises {value.dtype}; int8 and uint8 are supported")
            if scales.size == 1:
                return Chain(
                    self._make_input(value, Scale(scales[0], int(self._zeros(2, value.dtype, scales)[0]), value.dtype))
                )
            found = self._make_input(value, Scale(np.float32(1), 0, value.dtype))
            value = HostTensor(found.node, found.layout, value.dtype, channels=True)
        if isinstance(value, Codes):
            dtype = value.scale.dtype
            if scales.size == 1:
                stated = Scale(scales[0], int(self._zeros(2, dtype, scales)[0]), dtype)
                if stated != value.scale and stated.zero_point == value.scale.zero_point:
                    return Chain(replace(value, scale=stated), restated=True)
                return Chain(self._codes(0, stated))
            value = HostTensor(value.node, value.layout, dtype, channels=True)
        if not isinstance(value, HostTensor) or value.dtype == FLOAT32:
            raise self.refuse("dequantises no integers")
        zeros = self._zeros(2, value.dtype, scales)
        if scales.size > 1:
            self._axis(value.layout.shape, value.layout)
        shift = self.shift(value.dtype)
        tensor = self._host_tensor(value.layout, "float32")
        name = self._emit(Dequantize, (value,), tensor, scales=scales, zero_points=np.asarray(zeros - shift))
        return HostTensor(name, value.layout, FLOAT32)

    # Tables looked up -----------------------------------------------------------------------------------------------

    def cast(self) -> Value:
        """Cast of codes to the integers that Gather takes."""
        value = self._needed(0)
        if not isinstance(value, Codes) or self._int("to", 0) not in (6, 7):
            raise self.refuse("is supported on constants, and from codes to int32 or int64 to look up a table")
        return Index(value)

    def sub(self) -> Value:
        """Sub of an integer from what looks up a table."""
        value, offset = self._needed(0), self._constant(1)
        if not isinstance(value, Index) or offset is None or offset.size != 1 or offset.dtype.kind != "i":
            raise self.refuse("is supported only to take one integer from codes that look up a table")
        return replace(value, offset=value.offset + int(offset.ravel()[0]))

    def gather(self) -> Value:
        """Gather of the entries of a table at codes."""
        entries, index = self._constant(0), self._needed(1)
        if entries is None or entries.ndim != 1 or not entries.size or entries.dtype not in (UINT8, INT8):
            raise self.refuse("is supported on constants, and of a table of int8 or uint8 entries")
        if not isinstance(index, Index) or self._int("axis", 0):
            raise self.refuse("looks up a table at something else than codes")
        return LookedUp(self.op, index, entries)

    def _table(self, found: LookedUp, scales: Float32) -> Codes:
        """The node, now that its scale is known; codes beyond the table, which none may be, get its last entry."""
        codes, dtype = found.index.codes, found.entries.dtype
        scale = Scale(scales[0], int(self._zeros(2, dtype, scales)[0]), dtype)
        own = np.arange(self.form.minimum, self.form.maximum + 1) + self.shift(codes.scale.dtype)
        places = np.clip(own - found.index.offset, 0, found.entries.size - 1)
        entries = found.entries.astype(np.int64)[places] - self.shift(dtype)
        entries = np.clip(entries, self.form.minimum, self.form.maximum)
        reader, self.op = self.op, found.operator
        name = self._emit(Table, (codes,), self._tensor(codes.layout, scale), entries=entries, function="lookup")
        self.op = reader
        return Codes(name, codes.layout, scale)

    # Float operators between DequantizeLinear and QuantizeLinear ----------------------------------------------------

    def _real(self, place: int, *, restated: bool = False) -> Codes:
        """An operand that must be codes made real and nothing else; `restated`: on any scale."""
        value = self._needed(place)
        if not isinstance(value, Chain) or value.functions:
            name = self.op.inputs[place]
            raise self.refuse(
                f"operand {place}, {name!r}, does not come from a DequantizeLinear; every float operator needs "
                "QuantizeLinear and DequantizeLinear at its operands and result"
            )
        if not restated:
            self._refuse_restated(value)
        return value.codes

    def _refuse_restated(self, value: Chain) -> None:
        """Only sums, of products or tensors, multiply by a ratio of scales; all else keeps S and Z of its codes."""
        if value.restated:
            made = self.nodes[value.codes.node].output.scale
            raise self.refuse(
                f"reads codes on {value.codes.scale}, which are made on S = {made:g}; only Add, Conv, Gemm and MatMul "
                "take another scale"
            )

    def _real_weight(self, place: int, output_axis: int) -> tuple[Constant, Float32, Int64]:
        """A quantised constant with its scales along the axis of output channels."""
        value = self._needed(place)
        if not isinstance(value, QuantizedConstant):
            raise self.refuse(f"operand {place}, {self.op.inputs[place]!r}, is no constant behind a DequantizeLinear")
        axis = value.axis + (value.values.ndim if value.axis < 0 else 0)
        wanted = output_axis + (value.values.ndim if output_axis < 0 else 0)
        if value.scales.size > 1 and axis != wanted:
            raise self.refuse(
                f"weight scales go along axis {axis}; one for each output channel, axis {wanted}, is needed"
            )
        return value.values, value.scales, value.zero_points

    def conv(self) -> Value:
        """Conv: x, w, bias."""
        x = self._real(0, restated=True)
        values, scales, zeros = self._real_weight(1, 0)
        weight, zero = self._signed_weight(values, zeros)
        self._check_channels(scales, len(weight))
        layout, make = self._conv(x, weight, zero)
        return self._awaiting_mac(layout, make, (x.scale.scale, scales), self._operand(2), len(weight))

    def gemm(self) -> Value:
        """Gemm: A, B, bias."""
        if self._int("transA", 0) or any(self.op.attributes.get(key, 1.0) != 1.0 for key in ("alpha", "beta")):
            raise self.refuse("transA = 1, alpha and beta are not supported")
        return self._product(bool(self._int("transB", 0)), self._operand(2))

    def matmul(self) -> Value:
        """MatMul: A, B."""
        return self._product(False, None)

    def _product(self, transposed: bool, bias: Value | None) -> Value:
        x = self._real(0, restated=True)
        values, scales, zeros = self._real_weight(1, 0 if transposed else -1)
        matrix = self._matrix(values, transposed)
        self._checked_grouped(x, matrix)
        channels = int(matrix.shape[-2])
        if matrix.ndim == 3 and scales.size > 1:
            raise self.refuse("matrices that vary along dimension 0 need one scale")
        self._check_channels(scales, channels)
        weight, zero = self._signed_weight(matrix, zeros)
        layout, make = self._matmul(x, weight, zero)
        return self._awaiting_mac(layout, make, (x.scale.scale, scales), bias, math.prod(weight.shape[:-1]))

    def add(self) -> Value:
        """Add: two tensors, or the bias of a MatMul."""
        first, second = self._needed(0), self._needed(1)
        for waiting, other in ((first, second), (second, first)):
            if isinstance(waiting, Awaiting) and isinstance(other, np.ndarray | QuantizedConstant):
                if waiting.with_bias is None or (waiting.low, waiting.high) != (-math.inf, math.inf):
                    raise self.refuse("adds a constant to what has a bias already; fold it into the bias")
                return waiting.with_bias(other)
        return self._sum(self._real(0, restated=True), self._real(1, restated=True))

    def global_average_pool(self) -> Value:
        """GlobalAveragePool."""
        return self._mean(self._real(0), whole=True)

    def average_pool(self) -> Value:
        """AveragePool."""
        return self._mean(self._real(0), whole=False)

    def max_pool(self) -> Value:
        """MaxPool, of codes or of reals: the order is the same."""
        value = self._needed(0)
        x = value if isinstance(value, Codes) else self._real(0)
        stored = self._image(x)
        kernel, window = self._pool_window(stored)
        stride, _, padding = window
        layout = usual((stored[2], *self._extent(stored, kernel, window)))
        tensor = self._tensor(layout, x.scale)
        name = self._emit(MaxPool2d, (x,), tensor, kernel=kernel, stride=stride, padding=padding)
        pooled = Codes(name, layout, x.scale)
        return pooled if isinstance(value, Codes) else Chain(pooled)

    def relu(self) -> Value:
        """Relu, of codes (their own zero, not the zero point) or of reals."""
        return self._cut(0.0, math.inf, "relu")

    def clip(self) -> Value:
        """Clip; limits are operands (opset 11 and later) or attributes."""
        ends = []
        for place, key, default in ((1, "min", -math.inf), (2, "max", math.inf)):
            limit = self._constant(place)
            value = (
                self.op.attributes.get(key, default) if limit is None else limit.ravel()[0] if limit.size == 1 else None
            )
            if value is None or isinstance(value, str | tuple | np.ndarray) or math.isnan(value):
                raise self.refuse(f"the limit {key} must be one number")
            ends.append(float(value))
        return self._cut(ends[0], ends[1], "clip")

    def _cut(self, low: float, high: float, name: str) -> Value:
        value = self._needed(0)
        if isinstance(value, Awaiting):
            # max(low, min(high, x)) of what is cut already
            cut = [min(max(end, low), high) for end in (value.low, value.high)]
            return replace(value, low=cut[0], high=cut[1], with_bias=None)
        if isinstance(value, Chain):
            return self._chained(value, name, lambda x: np.minimum(np.maximum(x, np.float32(low)), np.float32(high)))
        if isinstance(value, Codes):
            limits = self._limits(value.scale)
            ends = [int(min(max(end, limits[0]), limits[1])) for end in (low, high)]
            if ends[0] > ends[1]:
                raise self.refuse(f"clips to {low}..{high}, which is empty")
            return self._clipped(value, (ends[0], ends[1]))
        if isinstance(value, GraphInput) and value.dtype == FLOAT32:
            return replace(self._cut_input(value), low=low, high=high)
        raise self.refuse("reads neither codes nor what is quantised behind it")

    def _cut_input(self, value: GraphInput) -> Awaiting:
        """The graph's input before limits: cutting numbers before they are rounded, or codes after, is the same."""

        def finish(scale: Scale, clip: Pair) -> Codes:
            codes = self._make_input(value, scale)
            ends = self._graph_clip(clip, scale)
            if ends == self.form.limits:
                return codes
            name = self._emit(Clip, (codes,), self.nodes[codes.node].output, clip=ends)
            return Codes(name, codes.layout, scale)

        return Awaiting(self.op, usual(value.shape), finish)

    def _clipped(self, codes: Codes, clip: Pair) -> Codes:
        """Codes inside limits: those of the node that makes them, where nothing else reads it, else a `Clip`."""
        low, high = self._graph_clip(clip, codes.scale)
        node = self.nodes[codes.node]
        if (low, high) == self.form.limits:
            return codes
        named = [one for one in self.values.values() if _node_of(one) == node.name]  # Identity, Reshape: once more
        alone = len(named) == 1 and self._readers.get(self.op.inputs[0], 0) == 1
        if alone and isinstance(node, Mac | Add | Clip):
            ends = [min(max(end, low), high) for end in node.clip]
            self.nodes[node.name] = replace(node, clip=(ends[0], ends[1]))
            return codes
        name = self._emit(Clip, (codes,), node.output, clip=(low, high))
        return Codes(name, codes.layout, codes.scale)

    def _chained(self, value: Chain, name: str, function: Callable[[Float32], Float32]) -> Chain:
        self._refuse_restated(value)
        if len(value.functions) >= 16:
            raise self.refuse("more than 16 element-wise functions in a row without a QuantizeLinear")
        return Chain(value.codes, (*value.functions, (name, function)))

    def function(self, name: str, function: Callable[[Float32], Float32]) -> Value:
        """An element-wise function of codes made real."""
        value = self._needed(0)
        if not isinstance(value, Chain):
            raise self.refuse("does not read a DequantizeLinear")
        return self._chained(value, name, function)

    def _tabulated(self, chain: Chain, scale: Scale) -> Codes:
        """QuantizeLinear of a function of codes: nothing, limits, or a table of all 256 codes."""
        self._refuse_restated(chain)
        codes, source = chain.codes, chain.codes.scale
        own = np.arange(self.form.minimum, self.form.maximum + 1)
        real = (own + self.shift(source.dtype) - source.zero_point).astype(np.float32) * source.scale
        with np.errstate(over="ignore"):
            for _, function in chain.functions:
                real = function(real)
            rounded = np.rint(real / scale.scale).astype(np.float64) + scale.zero_point
        low, high = self._limits(scale)
        if not np.isfinite(real).all():
            raise self.refuse("a function of a code is not finite")
        entries = np.clip(rounded, low, high).astype(np.int64) - self.shift(scale.dtype)
        entries = np.clip(entries, self.form.minimum, self.form.maximum)
        if source == scale and np.array_equal(entries, np.clip(own, entries[0], entries[-1])):
            if (int(entries[0]), int(entries[-1])) == self.form.limits:
                return codes
            name = self._emit(Clip, (codes,), self.nodes[codes.node].output, clip=(int(entries[0]), int(entries[-1])))
            return Codes(name, codes.layout, scale)
        shown = "+".join(name for name, _ in chain.functions) or "rescale"
        name = self._emit(Table, (codes,), self._tensor(codes.layout, scale), entries=entries, function=shown)
        return Codes(name, codes.layout, scale)

    # Shapes ---------------------------------------------------------------------------------------------------------

    def reshaped(self) -> Value:
        """Flatten, Reshape, Squeeze, Unsqueeze and Transpose: other shapes of the same stored tensor."""
        value = self._needed(0)
        codes = value.codes if isinstance(value, Chain) else value
        if isinstance(codes, QuantizedConstant):
            return self._reshaped_constant(codes)
        if not isinstance(codes, Codes) or (isinstance(value, Chain) and value.functions):
            raise self.refuse("reads neither codes nor a DequantizeLinear")
        if isinstance(value, Chain):
            self._refuse_restated(value)
        if not self.batched:
            raise self.refuse("is not supported where dimension 0 is no batch")
        shape = codes.layout.shape
        self._charge(4 * math.prod(shape))
        order = codes.layout.places()
        full = (1, *shape)
        if self.op.kind == "Transpose":
            axes = self._ints("perm", len(full), tuple(reversed(range(len(full)))))
            if sorted(axes) != list(range(len(full))) or axes[0] != 0:
                raise self.refuse(f"perm = {axes} must keep dimension 0, the batch, in its place")
            order = np.ascontiguousarray(np.transpose(order.reshape(full), axes)).ravel()
            target = tuple(full[axis] for axis in axes)
        else:
            target = self._target(full)
        if not target or target[0] != 1:
            raise self.refuse(f"gives shape {target} of one image, whose dimension 0 is no batch")
        moved = Codes(codes.node, codes.layout.reordered(target[1:], order), codes.scale)
        return moved if isinstance(value, Codes) else Chain(moved)

    def _reshaped_constant(self, value: QuantizedConstant) -> QuantizedConstant:
        if self.op.kind != "Transpose":
            raise self.refuse("of a dequantised constant is not supported; Transpose is")
        ndim = value.values.ndim
        axes = self._ints("perm", ndim, tuple(reversed(range(ndim))))
        if sorted(axes) != list(range(ndim)):
            raise self.refuse(f"perm = {axes} is no permutation")
        axis = value.axis + (ndim if value.axis < 0 else 0)
        place = axes.index(axis) if value.scales.size > 1 else 0
        return QuantizedConstant(np.transpose(value.values, axes), value.scales, value.zero_points, place)

    def _target(self, full: Shape) -> Shape:
        """The shape that Flatten, Reshape, Squeeze or Unsqueeze give, of one image with its batch of 1."""
        batch = self.file.input_shape[0] or 1
        try:
            if self.op.kind == "Flatten":
                axis = self._int("axis", 1)
                axis += len(full) if axis < 0 else 0
                return (math.prod(full[:axis]), math.prod(full[axis:])) if 0 <= axis <= len(full) else ()
            if self.op.kind == "Reshape":
                wanted = self._constant(1)
                if wanted is None or wanted.dtype != np.int64 or wanted.size > 8:
                    raise self.refuse("needs a constant shape of at most 8 dimensions")
                whole = (batch, *full[1:])
                found = target_shape(whole, wanted.ravel().tolist(), allow_zero=bool(self._int("allowzero", 0)))
                return (1, *found[1:]) if found and found[0] == batch else found
            axes = self._constant(1)
            listed = tuple(self.op.attributes.get("axes", ())) if axes is None else tuple(axes.ravel().tolist())
            if len(listed) > 8 or not all(type(axis) is int for axis in listed):
                raise self.refuse("axes must be at most 8 integers")
            one = np.broadcast_to(np.int8(0), full)  # no memory: only its shape counts
            if self.op.kind == "Squeeze":
                listed = listed or tuple(place for place, size in enumerate(full) if size == 1 and place)
                return np.squeeze(one, listed).shape
            return np.expand_dims(one, listed).shape
        except ValueError as error:
            raise self.refuse(str(error)) from None

    def shape(self) -> Value:
        """Shape: a constant, since all shapes are known."""
        value = self._needed(0)
        if isinstance(value, GraphInput):
            found = value.shape
        elif isinstance(value, Chain):
            found = value.codes.layout.shape
        elif isinstance(value, Codes | HostTensor | Awaiting):
            found = value.layout.shape
        else:
            raise self.refuse("reads no activation")
        return np.array([self.file.input_shape[0] or 1, *found] if self.batched else found, dtype=np.int64)

    def same(self) -> Value:
        """Identity, and Dropout as in inference."""
        return self._needed(0)


def _node_of(value: Value) -> str | None:
    """Whose codes a value is; None for a constant."""
    codes = value.codes if isinstance(value, Chain) else value
    return codes.node if isinstance(codes, Codes | HostTensor) else None


def module_path(name: str) -> str:
    """A node's name as the path of a PyTorch module, where an exporter made it from one; in letters files can have.

    >>> module_path("/layer1/layer1.0/conv1/Conv_quant"), module_path("c1"), module_path("/c1/Conv")
    ('layer1.0.conv1', 'c1', 'c1')
    """
    parts = [re.sub(r"[^A-Za-z0-9_.-]+", "_", part) for part in name.removesuffix("_quant").strip("/").split("/")]
    if len(parts) > 1 and re.fullmatch(f"({'|'.join(OPERATORS)})(_[0-9]+)?", parts[-1]):
        parts.pop()  # the operator itself
    kept = [one for one, following in zip(parts, [*parts[1:], ""], strict=True) if not following.startswith(f"{one}.")]
    return ".".join(kept).strip(".")[:200] or "node"


def grouped(shape: Shape) -> Layout:
    """(I, M, K) as channels i * K + k of an image of one row of M: what a matrix for each i reads as groups.

    >>> grouped((2, 3, 4)).stored
    (1, 3, 8)
    """
    places, rows, k = shape
    flat = np.arange(places * rows * k, dtype=np.int32).reshape(rows, places, k)
    return Layout(shape, (1, rows, places * k), np.ascontiguousarray(np.moveaxis(flat, 1, 0)).ravel())


def _sigmoid(x: Float32) -> Float32:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))), dtype=np.float32)


def _tanh(x: Float32) -> Float32:
    return np.asarray(np.tanh(x.astype(np.float64)), dtype=np.float32)


OPERATORS: dict[str, Callable[[Lowering], Value]] = {
    "QLinearConv": Lowering.qlinear_conv,
    "QLinearMatMul": Lowering.qlinear_matmul,
    "QGemm": Lowering.qgemm,
    "QLinearAdd": Lowering.qlinear_add,
    "QLinearGlobalAveragePool": Lowering.qlinear_global_average_pool,
    "QLinearAveragePool": Lowering.qlinear_average_pool,
    "QLinearSigmoid": lambda lowering: lowering.qlinear_function("sigmoid", _sigmoid),
    "ConvInteger": Lowering.conv_integer,
    "MatMulInteger": Lowering.matmul_integer,
    "QuantizeLinear": Lowering.quantize_linear,
    "DequantizeLinear": Lowering.dequantize_linear,
    "Conv": Lowering.conv,
    "Gemm": Lowering.gemm,
    "MatMul": Lowering.matmul,
    "Add": Lowering.add,
    "MaxPool": Lowering.max_pool,
    "AveragePool": Lowering.average_pool,
    "GlobalAveragePool": Lowering.global_average_pool,
    "Relu": Lowering.relu,
    "Clip": Lowering.clip,
    "Sigmoid": lambda lowering: lowering.function("sigmoid", _sigmoid),
    "Tanh": lambda lowering: lowering.function("tanh", _tanh),
    "Flatten": Lowering.reshaped,
    "Reshape": Lowering.reshaped,
    "Squeeze": Lowering.reshaped,
    "Unsqueeze": Lowering.reshaped,
    "Transpose": Lowering.reshaped,
    "Shape": Lowering.shape,
    "Cast": Lowering.cast,
    "Sub": Lowering.sub,
    "Gather": Lowering.gather,
    "Identity": Lowering.same,
    "Dropout": Lowering.same,
}
