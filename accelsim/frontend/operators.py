"""Which ATen operators a float graph can hold, and how each becomes float nodes.

The operators are those of `torch.export` with in-place ones made functional and nothing decomposed, so that a
convolution is one operator with all of its attributes. A handler reads a `Call` and returns the nodes that compute
it, none for an operator that changes no value.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from accelsim.errors import InputError
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
    FloatMaxPool2d,
    FloatNode,
    Shape,
)

SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, ReLU, ReLU6, Tanh, Sigmoid, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, "
    "the sum of two tensors of one shape, Dropout and Identity"
)
"""What an error about an unsupported operator lists."""

REMEDIES = {
    "aten.softmax": "return the logits: softmax does not change which is largest",
    "aten.log_softmax": "return the logits: log_softmax does not change which is largest",
    "aten.matmul": "use nn.Linear",
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
        viewed: of the exported tensor; another shape only between two reshapes, as in `x.squeeze(3).squeeze(2)`.
    """

    node: str
    shape: Shape
    viewed: Shape


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
    """

    node: Node
    operator: str
    where: str
    arguments: dict[str, Any]
    batch: int
    values: dict[Node, Value]
    parameters: dict[Node, torch.Tensor]

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
        if value.viewed != value.shape:
            raise self.refuse(f"reads shape {value.shape} as {value.viewed}; only flattening to a vector is supported")
        return value.node, value.shape

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
    return [FloatLinear(**call.base(), weight=call.needed_array("weight"), bias=call.array("bias"))]


def _batch_norm(call: Call) -> list[FloatNode]:
    stored = "running_mean" in call.arguments and not call.arguments.get("training", False)
    mean = call.array("running_mean") if stored else None
    variance = call.array("running_var") if stored else None
    if mean is None or variance is None:
        raise call.refuse("normalises with the statistics of the batch; train it with track_running_stats=True")
    gamma, beta = call.array("weight"), call.array("bias")
    return [
        FloatBatchNorm2d(
            **call.base(),
            gamma=np.ones_like(mean) if gamma is None else gamma,
            beta=np.zeros_like(mean) if beta is None else beta,
            mean=mean,
            variance=variance,
            eps=float(call.arguments["eps"]),
        )
    ]


def _activation(kind: Activation) -> Handler:
    return lambda call: [FloatActivation(**call.base(), kind=kind)]


def _clamp(call: Call) -> list[FloatNode]:
    """hardtanh, clamp and clamp_min, where they are ReLU or ReLU6."""
    low = call.arguments.get("min_val", call.arguments.get("min"))
    high = call.arguments.get("max_val", call.arguments.get("max"))
    if low != 0 or high not in (None, 6):
        raise call.refuse(f"limits {low}..{high} are not supported; use ReLU (from 0) or ReLU6 (0..6)")
    return [FloatActivation(**call.base(), kind="relu" if high is None else "relu6")]


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
    """`x.mean((2, 3))`: a pool over the whole image, then a flatten unless the axes are kept."""
    name, shape = call.tensor("self")
    axes = sorted(int(axis) % (len(shape) + 1) for axis in call.arguments["dim"] or ())
    if len(shape) != 3 or axes != [2, 3]:
        raise call.refuse("only the mean over height and width of an image is supported")
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
    inputs = (call.tensor("self")[0], call.tensor("other")[0])
    return [FloatAdd(name=call.node.name, inputs=inputs, shape=call.shape)]


def _reshape(call: Call) -> list[FloatNode]:
    """view, reshape, flatten, squeeze, unsqueeze: the identity, a flatten, or a step towards one of them."""
    value = call.value("self")
    if len(call.shape) != 1 or len(value.shape) == 1:
        return []
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
