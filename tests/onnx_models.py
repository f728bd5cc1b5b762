"""Networks as ONNX files for tests: a float graph written down, quantised and run by onnxruntime."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from accelsim.ir import (
    FloatActivation,
    FloatAdd,
    FloatAvgPool2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMaxPool2d,
)

Array = np.ndarray[Any, Any]
FORMATS = ("QDQ", "QOperator")
OPSET = 17


def float_model(graph: FloatGraph) -> onnx.ModelProto:
    """The float graph as an ONNX model of float32; batch norms must be folded."""
    nodes, constants = [], []

    def constant(name: str, values: Array) -> str:
        constants.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    for node in graph.nodes:
        inputs, outputs = list(node.inputs), [node.name]
        match node:
            case FloatInput():
                continue
            case FloatConv2d():
                inputs += [constant(f"{node.name}.weight", node.weight)]
                inputs += [constant(f"{node.name}.bias", node.bias)] if node.bias is not None else []
                top, bottom, left, right = node.padding
                nodes.append(
                    helper.make_node(
                        "Conv", inputs, outputs, f"/{node.name}/Conv", kernel_shape=node.weight.shape[2:],
                        strides=node.stride, dilations=node.dilation, group=node.groups,
                        pads=(top, left, bottom, right),
                    )
                )  # fmt: skip
            case FloatLinear():
                inputs += [constant(f"{node.name}.weight", node.weight)]
                inputs += [constant(f"{node.name}.bias", node.bias)] if node.bias is not None else []
                nodes.append(helper.make_node("Gemm", inputs, outputs, f"/{node.name}/Gemm", transB=1))
            case FloatActivation():
                kind = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[node.kind]
                nodes.append(helper.make_node(kind, inputs, outputs, f"/{node.name}"))
            case FloatMaxPool2d():
                nodes.append(_pool("MaxPool", node, inputs))
            case FloatAvgPool2d() if node.shape[1:] == (1, 1) and not any(node.padding):
                nodes.append(helper.make_node("GlobalAveragePool", inputs, outputs, f"/{node.name}"))
            case FloatAvgPool2d():
                nodes.append(_pool("AveragePool", node, inputs, count_include_pad=int(node.count_include_pad)))
            case FloatAdd():
                nodes.append(helper.make_node("Add", inputs, outputs, f"/{node.name}"))
            case FloatFlatten():
                nodes.append(helper.make_node("Flatten", inputs, outputs, f"/{node.name}"))
            case _:
                raise TypeError(type(node).__name__)
    result = helper.make_graph(
        nodes,
        graph.name,
        [helper.make_tensor_value_info(graph.input.name, TensorProto.FLOAT, ["N", *graph.input.shape])],
        [helper.make_tensor_value_info(graph.output, TensorProto.FLOAT, ["N", *graph.by_name[graph.output].shape])],
        constants,
    )
    model = helper.make_model(result, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def _pool(kind: str, node: FloatMaxPool2d | FloatAvgPool2d, inputs: list[str], **more: Any) -> onnx.NodeProto:
    top, bottom, left, right = node.padding
    window = {"kernel_shape": node.kernel, "strides": node.stride, "pads": (top, left, bottom, right)}
    return helper.make_node(kind, inputs, [node.name], f"/{node.name}", **window, **more)


def quantized(model: onnx.ModelProto, images: Array, path: Path, form: str, **options: Any) -> Path:
    """What onnxruntime's static quantiser makes of a float model, written to `path`."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self.batches = iter([{model.graph.input[0].name: images}])

        def get_next(self) -> dict[str, Array] | None:
            return next(self.batches, None)

    settings = {
        "activation_type": quantization.QuantType.QUInt8,
        "weight_type": quantization.QuantType.QInt8,
        "per_channel": True,
        **{key: getattr(quantization.QuantType, value) if "type" in key else value for key, value in options.items()},
    }
    source = path.with_suffix(".float.onnx")
    onnx.save(model, source)
    logging.disable(logging.WARNING)  # advice to preprocess first, which the models here do not need
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantization.quantize_static(
                source, path, Reader(), quant_format=getattr(quantization.QuantFormat, form), **settings
            )
    finally:
        logging.disable(logging.NOTSET)
    return path


def run(path: Path, data: Array, *, optimized: bool = True) -> dict[str, Array]:
    """Every tensor of codes (and the output) as onnxruntime computes it, by name.

    `optimized` lets onnxruntime fuse DequantizeLinear, a float operator and QuantizeLinear into one integer operator
    (its extended level); without, QDQ models are computed in float32. x64quantprecision has it use 8-bit products that
    do not saturate on processors without VNNI.
    """
    import onnxruntime

    model = onnx.load(path)
    shown = [value.name for value in model.graph.output]
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    types = {value.name: value for value in inferred}
    constant = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        kind = node.op_type
        codes = kind == "QuantizeLinear" or node.op_type.startswith("QLinear") or kind == "QGemm"
        if codes and node.output[0] not in shown and node.input[0] not in constant:
            dtype = _zero_type(model, node)
            value = helper.make_tensor_value_info(node.output[0], dtype, None)
            model.graph.output.append(types.get(node.output[0], value))
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimized else levels.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: data}), strict=True))


def _zero_type(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    place = {"QuantizeLinear": 2, "QLinearAdd": 7, "QLinearGlobalAveragePool": 4, "QLinearAveragePool": 4, "QGemm": 8}
    return types[node.input[place.get(node.op_type, 7)]]


class Block(nn.Module):
    """Two convolutions and a residual addition; the shortcut is a strided 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(y + self.shortcut(x))


def resnet(channels: tuple[int, ...] = (16, 32, 64), blocks: int = 3, seed: int = 0) -> nn.Module:
    """A CIFAR ResNet with random weights, ResNet-20 by default: (3, 32, 32) to 10; batch norms have seen noise."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()]
    before = channels[0]
    for stage, width in enumerate(channels):
        for number in range(blocks):
            layers.append(Block(before, width, 2 if stage and not number else 1))
            before = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
    with torch.no_grad():
        model.train()(torch.rand(16, 3, 32, 32))
    return model.eval()
