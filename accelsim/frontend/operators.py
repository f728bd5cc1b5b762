"""Which ATen operators a float graph can hold, and how each becomes float nodes.

The operators are those of `torch.export` with in-place ones made functional and nothing decomposed, so that a
convolution is one operator with all of its attributes. A handler reads a `Call` and returns the nodes that compute
it, none for an operator that changes no value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from accelsim.errors import InputError
from accelsim.frontend.constant_factors import ConstantFactor
from accelsim.frontend.views import Axes, contiguous, is_run, merged, reshaped
from accelsim.ir.float_graph import (
    Activation,
    FloatActivation,
    FloatAdd,
    FloatArray,
    FloatAvgPool2d,
    FloatBatchNorm2d,
    FloatConv2d,
    FloatFlatten,
    FloatLinear,
    FloatMatMul,
    FloatMaxPool2d,
    FloatNode,
    Shape,
)

SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, ReLU, ReLU6, Tanh, Sigmoid, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, "
    "the sum of two tensors of one shape, the matrix product of two tensors head by head, Dropout and Identity"
)
"""What an error about an unsupported operator lists."""

REMEDIES = {
    "aten.softmax": "return the logits: softmax does not change which is largest; in attention, use ReLU divided by "
    "the number of tokens",
    "aten.log_softmax": "return the logits: log_softmax does not change which is largest",
    "aten.layer_norm": "use batch norm, which becomes part of the layer before it",
    "aten.scaled_dot_product_attention": "use relu(q @ k.transpose(-2, -1)) / tokens @ v: there is no softmax",
    "aten.select": "compute queries, keys and values with a layer each",
    "aten.split": "compute queries, keys and values with a layer each",
    "aten.chunk": "compute queries, keys and values with a layer each",
    "aten.unbind": "compute queries, keys and values with a layer each",
    "aten.addmm": "use nn.Linear",
    "aten.conv1d": "use Conv2d with a kernel of height 1",
}
"""Remedies for operators often met; others get `SUPPORTED` alone."""


@dataclass(frozen=True)
class Value:
    """An exported tensor that depends on the input.

    Attributes:
        node: name of the float node that computes it, "" for the input.
        shape: of that node, without the batch.
        viewed: of the exported tensor; another shape between two reshapes, as in `x.squeeze(3).squeeze(2)`, and in
            tokens and heads.
        axes: of the exported tensor, over the node's elements.
    """

    node: str
    shape: Shape
    viewed: Shape
    axes: Axes

    @property
    def plain(self) -> bool:
        """Whether the exported tensor is the node's, as it is."""
        return self.viewed == self.shape and self.axes == contiguous(self.shape)

    @property
    def tokens(self) -> int:
        """Positions of an image."""
        return self.shape[1] * self.shape[2] if len(self.shape) == 3 else 0


@dataclass(frozen=True, kw_only=True)
class Call:
    """One operator call of the exported program.

    Attributes:
        node: the call itself, whose name is unique in the program.
        operator: "aten.conv2d", without the overload.
        where: model, module path and operator, the beginning of every error message.
        arguments: by the names of ATen's schema, defaults filled in.
        batch: batch size of the example; the first axis of every tensor.
        values: exported tensors that depend on the input.
        parameters: arrays of parameters, buffers and constants.
        axes: a handler puts here how the result's axes run over the last node it returns, where it is not as the node
            computes it.
    """

    node: Node
    operator: str
    where: str
    arguments: dict[str, Any]
    batch: int
    values: dict[Node, Value]
    parameters: dict[Node, torch.Tensor]
    axes: list[Axes] = field(default_factory=list)

    def refuse(self, reason: str) -> InputError:
        """The error for this call."""
        return InputError(f"{self.where}: {reason}")

    @property
    def shape(self) -> Shape:
        """Shape of the result without the batch."""
        result = self.node.meta["val"]
        shape = tuple(int(size) for size in (result[0] if isinstance(result, tuple | list) else result).shape)
        if not shape or shape[0] != self.batch:
            raise self.refuse(f"result shape {shape} does not keep the batch of {self.batch} as its first axis")
        return shape[1:]

    def value(self, name: str) -> Value:
        """An argument that depends on the model's input."""
        given = self.arguments[name]
        if isinstance(given, Node) and given in self.values:
            return self.values[given]
        what = "a parameter or constant tensor" if isinstance(given, Node) else f"the constant {given}"
        raise self.refuse(f"{name} is {what}; it must be a tensor computed from the model's input")

    def tensor(self, name: str) -> tuple[str, Shape]:
        """Float node and shape of an argument that depends on the model's input."""
        value = self.value(name)
        if not value.plain:
            raise self.refuse(f"reads shape {value.shape} as {value.viewed}; only flattening to a vector is supported")
        return value.node, value.shape

    def elementwise(self) -> dict[str, Any]:
        """`base` of an operator that takes its argument, and leaves its result, in any view."""
        value = self.value("self" if "self" in self.arguments else "input")
        self.axes.append(value.axes)
        return {"name": self.node.name, "inputs": (value.node,), "shape": value.shape}

    def array(self, name: str) -> FloatArray | None:
        """A parameter, float64; None where it is left out."""
        given = self.arguments[name]
        if given is None:
            return None
        if not (isinstance(given, Node) and given in self.parameters):
            raise self.refuse(f"{name} is computed by the model; it must be a stored parameter")
        return self.parameters[given].detach().cpu().to(torch.float64).numpy().copy()

    def needed_array(self, name: str) -> FloatArray:
        """A parameter that cannot be left out."""
        array = self.array(name)
        assert array is not None, name
        return array

    def pair(self, name: str) -> tuple[int, int]:
        """An argument that ATen takes for both axes or for each."""
        given = self.arguments[name]
        first, *rest = given if isinstance(given, list | tuple) else [given]
        return int(first), int(rest[0] if rest else first)

    def base(self) -> dict[str, Any]:
        """The fields every float node has, for an operator that reads `self` or `input`."""
        source = "self" if "self" in self.arguments else "input"
        return {"name": self.node.name, "inputs": (self.tensor(source)[0],), "shape": self.shape}


Handler = Callable[[Call], list[FloatNode]]
"""No nodes: the result is the argument `self` or `input`, possibly viewed in another shape."""


def _conv2d(call: Call) -> list[FloatNode]:
    weight = call.needed_array("weight")
    dilation = call.pair("dilation")
    padding = call.arguments["padding"]
    if padding == "same":
        # As in PyTorch: what cannot be halved is added below and to the right.
        total_h, total_w = (dilation[axis] * (weight.shape[2 + axis] - 1) for axis in (0, 1))
        padding4 = (total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2)
    else:
        vertical, horizontal = (0, 0) if padding == "valid" else call.pair("padding")
        padding4 = (vertical, vertical, horizontal, horizontal)
    return [
        FloatConv2d(
            **call.base(),
            weight=weight,
            bias=call.array("bias"),
            stride=call.pair("stride"),
            padding=padding4,
            dilation=dilation,
            groups=int(call.arguments["groups"]),
        )
    ]


def _linear(call: Call) -> list[FloatNode]:
    """A vector's, or tokens': then a 1x1 convolution of the image whose positions they are."""
    value = call.value("input")
    if value.tokens and len(value.axes) > 1 and is_run(value.axes[-1], value.shape[0], value.tokens):
        if not is_run(merged(value.axes[:-1]), value.tokens, 1):
            raise call.refuse(f"reads shape {value.shape} as {value.viewed}, whose tokens are not in their order")
        weight = call.needed_array("weight")
        call.axes.append((*value.axes[:-1], merged([((weight.shape[0], value.tokens),)])))
        return [
            FloatConv2d(
                name=call.node.name,
                inputs=(value.node,),
                shape=(weight.shape[0], *value.shape[1:]),
                weight=weight[:, :, None, None],
                bias=call.array("bias"),
                stride=(1, 1),
                padding=(0, 0, 0, 0),
                dilation=(1, 1),
                groups=1,
            )
        ]
    return [FloatLinear(**call.base(), weight=call.needed_array("weight"), bias=call.array("bias"))]


def _batch_norm(call: Call) -> list[FloatNode]:
    stored = "running_mean" in call.arguments and not call.arguments.get("training", False)
    mean = call.array("running_mean") if stored else None
    variance = call.array("running_var") if stored else None
    if mean is None or variance is None:
        raise call.refuse("normalises with the statistics of the batch; train it with track_running_stats=True")
    gamma, beta = call.array("weight"), call.array("bias")
    value = call.value("input")
    by_channel = value.tokens and is_run(value.axes[0], value.shape[0], value.tokens)
    as_tokens = by_channel and is_run(merged(value.axes[1:]), value.tokens, 1)  # (C, tokens)
    return [
        FloatBatchNorm2d(
            **(call.elementwise() if as_tokens else call.base()),
            gamma=np.ones_like(mean) if gamma is None else gamma,
            beta=np.zeros_like(mean) if beta is None else beta,
            mean=mean,
            variance=variance,
            eps=float(call.arguments["eps"]),
        )
    ]


def _activation(kind: Activation) -> Handler:
    return lambda call: [FloatActivation(**call.elementwise(), kind=kind)]


def _clamp(call: Call) -> list[FloatNode]:
    """hardtanh, clamp and clamp_min, where they are ReLU or ReLU6."""
    low = call.arguments.get("min_val", call.arguments.get("min"))
    high = call.arguments.get("max_val", call.arguments.get("max"))
    if low != 0 or high not in (None, 6):
        raise call.refuse(f"limits {low}..{high} are not supported; use ReLU (from 0) or ReLU6 (0..6)")
    return [FloatActivation(**call.elementwise(), kind="relu" if high is None else "relu6")]


def _pool_window(call: Call) -> dict[str, Any]:
    if call.arguments["ceil_mode"]:
        raise call.refuse("ceil_mode = True is not supported; pad the input or choose another window")
    vertical, horizontal = call.pair("padding")
    return {
        "kernel": call.pair("kernel_size"),
        "stride": call.pair("stride") if call.arguments["stride"] else call.pair("kernel_size"),
        "padding": (vertical, vertical, horizontal, horizontal),
    }


def _max_pool2d(call: Call) -> list[FloatNode]:
    if call.pair("dilation") != (1, 1):
        raise call.refuse(f"dilation = {call.pair('dilation')} is not supported; use dilation = 1")
    return [FloatMaxPool2d(**call.base(), **_pool_window(call))]


def _avg_pool2d(call: Call) -> list[FloatNode]:
    if call.arguments["divisor_override"] is not None:
        override = call.arguments["divisor_override"]
        raise call.refuse(f"divisor_override = {override} is not supported; leave it out")
    include = bool(call.arguments["count_include_pad"])
    return [FloatAvgPool2d(**call.base(), **_pool_window(call), count_include_pad=include)]


def _adaptive_avg_pool2d(call: Call) -> list[FloatNode]:
    _, shape = call.tensor("self")
    if len(shape) != 3:
        raise call.refuse(f"needs an image (C, H, W), not shape {shape}")
    outputs = call.pair("output_size")
    vertical, horizontal = (_uniform_window(shape[1 + axis], outputs[axis]) for axis in (0, 1))
    if vertical is None or horizontal is None:
        height, width = shape[1:]
        raise call.refuse(
            f"{outputs[0]}x{outputs[1]} outputs of a {height}x{width} image need windows of unequal size or step; "
            "choose an output size that divides the image's"
        )
    kernel, stride = zip(vertical, horizontal, strict=True)
    if kernel == stride == (1, 1):
        return []  # an image of the size asked for
    nothing = (0, 0, 0, 0)
    return [FloatAvgPool2d(**call.base(), kernel=kernel, stride=stride, padding=nothing, count_include_pad=True)]


def _uniform_window(size: int, outputs: int) -> tuple[int, int] | None:
    """(kernel, stride) of an adaptive pool along one axis, or None where its windows differ.

    Window i covers floor(i * size / outputs) up to ceil((i + 1) * size / outputs), exclusive
    (torch.nn.AdaptiveAvgPool2d).

    >>> _uniform_window(8, 4), _uniform_window(7, 3), _uniform_window(8, 3), _uniform_window(1, 7)
    ((2, 2), (3, 2), None, None)
    """
    starts = [i * size // outputs for i in range(outputs)]
    kernels = {-(-(i + 1) * size // outputs) - starts[i] for i in range(outputs)}
    strides = {after - before for before, after in itertools.pairwise(starts)} or {size}
    if len(kernels) > 1 or len(strides) > 1 or 0 in strides:
        return None
    return kernels.pop(), strides.pop()


def _mean(call: Call) -> list[FloatNode]:
    """`x.mean((2, 3))`, or over all tokens: a pool over the whole image, then a flatten unless the axes are kept."""
    value = call.value("self")
    name, shape = value.node, value.shape
    axes = sorted(int(axis) % (len(value.axes) + 1) for axis in call.arguments.get("dim") or ())
    means = merged([value.axes[axis - 1] for axis in axes if axis])
    kept = merged([axis for place, axis in enumerate(value.axes, 1) if place not in axes])
    if len(shape) != 3 or not (is_run(means, value.tokens, 1) and is_run(kept, shape[0], value.tokens)) or not axes:
        raise call.refuse("only the mean over height and width of an image, or over all tokens, is supported")
    if call.arguments["keepdim"] and not value.plain:
        raise call.refuse("keepdim = True is supported only of an image (C, H, W)")
    pooled = f"{call.node.name}_pool"
    pool = FloatAvgPool2d(
        name=pooled,
        inputs=(name,),
        shape=(shape[0], 1, 1),
        kernel=(shape[1], shape[2]),
        stride=(shape[1], shape[2]),
        padding=(0, 0, 0, 0),
        count_include_pad=True,
    )
    if call.arguments["keepdim"]:
        return [pool]
    return [pool, FloatFlatten(name=call.node.name, inputs=(pooled,), shape=call.shape)]


def _add(call: Call) -> list[FloatNode]:
    if call.arguments.get("alpha", 1) != 1:
        raise call.refuse(f"alpha = {call.arguments['alpha']} is not supported; only plain sums are")
    first, second = call.value("self"), call.value("other")
    if first.plain or second.plain:
        inputs = (call.tensor("self")[0], call.tensor("other")[0])
        return [FloatAdd(name=call.node.name, inputs=inputs, shape=call.shape)]
    if (first.axes, first.shape) != (second.axes, second.shape):
        raise call.refuse(f"adds {first.shape} and {second.shape}, both read as {first.viewed}, in different orders")
    call.axes.append(first.axes)
    return [FloatAdd(name=call.node.name, inputs=(first.node, second.node), shape=first.shape)]


def _matmul(call: Call) -> list[FloatNode]:
    """A @ B of (batch, heads, tokens, channels) and of (.., channels, tokens) or (.., tokens, channels)."""
    names = ("self", "other" if "other" in call.arguments else "mat2")
    if any(call.arguments[name] in call.parameters for name in names):
        raise call.refuse("multiplies by a parameter; use nn.Linear")
    a, b = (call.value(name) for name in names)
    if min(a.tokens, b.tokens) < 1 or len(a.axes) != len(b.axes) or len(a.axes) < 2:
        raise call.refuse(
            f"multiplies {a.viewed} and {b.viewed}; both must be tokens of images, with the same number of axes"
        )
    *outer, rows, inner = a.axes
    *outer_b, inner_b, columns = b.axes
    k, n = a.viewed[-1], b.viewed[-1]
    heads = math.prod(a.viewed[:-2])
    first = is_run(rows, a.tokens, 1) and is_run(inner, k, a.tokens) and is_run(merged(outer), heads, k * a.tokens)
    width = b.shape[0] // heads
    second = is_run(merged(outer_b), heads, width * b.tokens) and a.viewed[:-2] == b.viewed[:-2]
    by_token = is_run(inner_b, b.tokens, 1) and is_run(columns, width, b.tokens)
    by_channel = is_run(inner_b, width, b.tokens) and is_run(columns, b.tokens, 1)
    if not (first and second and heads * k == a.shape[0] and (by_token or by_channel)):
        raise call.refuse(
            f"multiplies {a.viewed} and {b.viewed}; supported are (batch, heads, tokens, channels) by (batch, heads, "
            "channels, tokens), as in queries and keys, or by (batch, heads, tokens, channels), as in values"
        )
    sizes = [(size, stride // (k * a.tokens) * n * a.tokens) for axis in outer for size, stride in axis]
    split = reshaped((tuple(sizes),), a.viewed[:-2])
    assert split is not None
    call.axes.append((*split, rows, merged([((n, a.tokens),)])))
    return [
        FloatMatMul(
            name=call.node.name,
            inputs=(a.node, b.node),
            shape=(heads * n, *a.shape[1:]),
            heads=heads,
            second="tokens" if by_token else "channels",
        )
    ]


def _factor(call: Call) -> list[FloatNode]:
    """A product with, or a quotient by, a positive constant."""
    given = call.arguments["other"]
    stored = call.parameters.get(given) if isinstance(given, Node) else None
    if stored is not None and stored.numel() == 1:
        given = float(stored)
    if not isinstance(given, int | float):
        raise call.refuse("multiplies or divides by a tensor; only positive constants are supported")
    if call.arguments.get("rounding_mode") is not None:
        raise call.refuse(f"rounding_mode = {call.arguments['rounding_mode']!r} is not supported")
    divides = call.operator == "aten.div"
    if not (math.isfinite(given) and given > 0):
        raise call.refuse(f"{'divides' if divides else 'multiplies'} by {given}; only positive constants are supported")
    factor = 1.0 / given if divides else float(given)
    return [ConstantFactor(**call.elementwise(), factor=factor, where=call.where)]


def _permuted(call: Call) -> list[FloatNode]:
    """transpose, permute: another order of the axes, the batch staying first."""
    value = call.value("self")
    order = list(range(len(value.axes) + 1))
    if "dims" in call.arguments:
        order = [int(axis) % len(order) for axis in call.arguments["dims"]]
    else:
        first, second = (int(call.arguments[key]) % len(order) for key in ("dim0", "dim1"))
        order[first], order[second] = order[second], order[first]
    if order[0] != 0:
        raise call.refuse("moves the batch from the first axis; leave it there")
    call.axes.append(tuple(value.axes[axis - 1] for axis in order[1:]))
    return []


def _reshape(call: Call) -> list[FloatNode]:
    """view, reshape, flatten, squeeze, unsqueeze: the identity, a flatten, or a step towards one of them."""
    value = call.value("self")
    axes = reshaped(value.axes, call.shape)
    if axes is None:
        raise call.refuse(f"reads shape {value.shape} as {call.shape}; an axis would mix tokens and channels")
    if len(call.shape) != 1 or len(value.shape) == 1:
        call.axes.append(axes)
        return []
    if merged(value.axes) != merged(contiguous(value.shape)):
        raise call.refuse(
            f"flattens shape {value.shape} in another order than (C, H, W); undo the transpose first, or take the mean"
        )
    return [FloatFlatten(name=call.node.name, inputs=(value.node,), shape=call.shape)]


def _identity(call: Call) -> list[FloatNode]:
    source = call.arguments["self" if "self" in call.arguments else "input"]
    before, after = source.meta["val"].dtype, call.node.meta["val"].dtype
    if before != after:
        raise call.refuse(f"converts {before} to {after}; remove the conversion")
    return []


def _dropout(call: Call) -> list[FloatNode]:
    if call.arguments.get("train", call.arguments.get("training")):
        raise call.refuse("drops at random in evaluation too; pass training=self.training, or use nn.Dropout")
    return []


def _pad(call: Call) -> list[FloatNode]:
    mode = call.arguments.get("mode", "constant")
    if mode != "constant":
        raise call.refuse(f"padding_mode = {mode!r} is not supported; use padding_mode = 'zeros'")
    raise call.refuse("padding of its own is not supported; give it to the convolution or pool that follows")


HANDLERS: dict[str, Handler] = {
    "aten.conv2d": _conv2d,
    "aten.linear": _linear,
    "aten.batch_norm": _batch_norm,
    "aten.relu": _activation("relu"),
    "aten.relu6": _activation("relu6"),
    "aten.hardtanh": _clamp,
    "aten.clamp": _clamp,
    "aten.clamp_min": _clamp,
    "aten.tanh": _activation("tanh"),
    "aten.sigmoid": _activation("sigmoid"),
    "aten.max_pool2d": _max_pool2d,
    "aten.avg_pool2d": _avg_pool2d,
    "aten.adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "aten.mean": _mean,
    "aten.add": _add,
    "aten.matmul": _matmul,
    "aten.bmm": _matmul,
    "aten.mul": _factor,
    "aten.div": _factor,
    "aten.transpose": _permuted,
    "aten.permute": _permuted,
    "aten.view": _reshape,
    "aten.reshape": _reshape,
    "aten.flatten": _reshape,
    "aten.squeeze": _reshape,
    "aten.unsqueeze": _reshape,
    "aten.unflatten": _reshape,
    "aten.clone": _identity,
    "aten.contiguous": _identity,
    "aten.detach": _identity,
    "aten.alias": _identity,
    "aten.to": _identity,
    "aten.dropout": _dropout,
    "aten.feature_dropout": _dropout,
    "aten.alpha_dropout": _dropout,
    "aten.pad": _pad,
    "aten.constant_pad_nd": _pad,
}
"""By documented operator, without overload: arguments differ between overloads, and handlers read what they need."""

OF_TOKENS = frozenset(("aten.matmul", "aten.bmm", "aten.mul", "aten.div", "aten.transpose", "aten.permute"))
"""Operators that only views of tokens and heads make sense of; models that are quantised already have none."""
