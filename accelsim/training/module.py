"""`EngineModule`: an integer graph on the engine as a PyTorch module that can be trained."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from accelsim.config import Hardware, QuantizationScheme
from accelsim.engine import exact_arithmetic, execute
from accelsim.errors import InputError
from accelsim.frontend import capture
from accelsim.ir import (
    Input,
    IntegerGraph,
    Mac,
    Node,
    largest_sum,
    quantize_input,
    refuse_host_operators,
    refuse_matmul,
)
from accelsim.numerics import Arithmetic, Rounding
from accelsim.quantization import quantize
from accelsim.training.gradient import float_operation, input_operation, substitute
from accelsim.training.inputs import DTYPES, arithmetic_of, calibration_examples, put
from accelsim.training.layer import TrainableLayer

Codes = npt.NDArray[np.int16]


class EngineModule(nn.Module):
    """A layer or a whole network with the accelerator's bits forward, and straight-through gradients backward.

    The forward pass rounds the parameters to integers on the graph's scales, quantises the input, and runs
    `engine.execute`: with the parameters untouched, these are the codes of the graph it was made from. The backward
    pass takes each node for the float operation it stands for, at the engine's values; docs/numerics.md, section 11.

    Training and evaluation mode are the same. The module lives on the CPU, in one dtype, float32 or float64.

    Attributes:
        graph: the graph it was made from, unchanged by training; `to_graph` gives the current one.
        layers: a `TrainableLayer` for each convolution and linear layer, nested as its name says: a captured model's
            "features.0" is ``layers.features.0``, with the weight and bias of that model's module.
        through_overflow: whether gradients pass outputs that overflow has changed; may be assigned.
        threads: of the engine; may be assigned.

    >>> import accelsim
    >>> _ = torch.manual_seed(0)
    >>> images = torch.rand(64, 1, 6, 6)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    >>> narrow = accelsim.load_hardware("edge_8x8", ["accumulator.width_bits=14"])
    >>> module = EngineModule.from_module(model, images, accelsim.load_quantization("int8"), narrow)
    >>> module(images).shape, [name for name, _ in module.named_parameters()]
    (torch.Size([64, 3]), ['layers.0.weight', 'layers.0.bias', 'layers.3.weight', 'layers.3.bias'])
    >>> module(images).square().sum().backward()
    >>> module.layers.get_submodule("0").weight.grad.shape
    torch.Size([4, 1, 3, 3])
    """

    def __init__(
        self,
        graph: IntegerGraph,
        hardware: Hardware | Arithmetic,
        *,
        through_overflow: bool = False,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ):
        """Make parameters of a graph's integers.

        Args:
            graph: from `quantize`, `load_graph` or another module's `to_graph`.
            hardware: whose accumulator, array rows and dataflow decide the bits.
            through_overflow: False stops the gradient of every output of a layer whose code is not that of its exact
                sum: what it is no longer depends on the operands as the float operation says. True lets it pass.
            dtype: of the parameters, float32 or float64.
            threads: of the engine; None takes every core this process may use.
        Raises:
            InputError: a layer's accumulator is wider than the hardware's; `dtype` is another one, or does not hold a
                bias exactly (float32 does below 2**23 steps); a node's name is no module path.
        """
        super().__init__()
        if dtype not in DTYPES:
            raise InputError(f"dtype = {dtype} is not torch.float32 or torch.float64")
        refuse_host_operators(graph, "cannot be trained")
        refuse_matmul(graph, "cannot be trained")
        self.graph = graph
        self.through_overflow = through_overflow
        self.threads = threads
        self.arithmetic = hardware
        self.layers = nn.Module()
        for node in graph.nodes:
            if isinstance(node, Mac):
                put(graph, self.layers, node, TrainableLayer(graph, node, dtype))

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        calibration: Tensor | npt.ArrayLike,
        scheme: QuantizationScheme,
        hardware: Hardware | Arithmetic,
        *,
        name: str | None = None,
        through_overflow: bool = False,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
    ) -> Self:
        """Capture and quantise a float module, a single nn.Conv2d or nn.Linear among them.

        Args:
            module: what `capture` takes; it is left as it was, and shares nothing with the result.
            calibration: (N, C, H, W) or (N, K), what enters this module; a hundred examples or more.
            scheme: from `load_quantization`.
            name: the graph's; the module's class where left out.
            hardware, through_overflow, dtype, threads: as for the class.
        Raises:
            InputError: what `capture`, `quantize` and the class refuse.
        """
        examples, example = calibration_examples(module, calibration, dtype)
        graph = quantize(capture(module, example, name), examples, scheme)
        return cls(graph, hardware, through_overflow=through_overflow, dtype=dtype, threads=threads)

    @property
    def arithmetic(self) -> Arithmetic:
        """What the hardware contributes to the bits; a `Hardware` or an `Arithmetic` may be assigned."""
        return self._arithmetic

    @arithmetic.setter
    def arithmetic(self, hardware: Hardware | Arithmetic) -> None:
        self._arithmetic = arithmetic_of(self.graph, hardware)

    def forward(self, images: Tensor) -> Tensor:
        """Run a batch.

        Args:
            images: (N, C, H, W), or (N, K) for vectors, N >= 1, of the module's dtype, in the units of the calibration.
        Returns:
            `(N, *output_shape)`, S * (q - Z) of the codes q that the machine computes.
        Raises:
            InputError: images of another shape, dtype or device, or not finite; parameters that are not finite, too
                large for a 32-bit bias, or of another dtype or device.
        """
        self._check(images)
        graph = self.to_graph()
        if not torch.is_grad_enabled() or not any(t.requires_grad for t in (images, *self.parameters())):
            found = self._execute(graph, images, [graph.output])
            return _real(graph.by_name[graph.output], found[graph.output], images.dtype).reshape(
                -1, *graph.output_shape
            )
        found = self._execute(graph, images, [node.name for node in graph.nodes])
        values: dict[str, Tensor] = {}
        for node in graph.nodes:
            values[node.name] = self._with_gradient(graph, node, images, values, found)
        return values[graph.output].reshape(-1, *graph.output_shape)

    def codes(self, images: Tensor) -> Tensor:
        """The output's codes q, int64 `(N, *output_shape)`, without a gradient; `images` as for a call."""
        self._check(images)
        graph = self.to_graph()
        codes = self._execute(graph, images, [graph.output])[graph.output]
        return torch.from_numpy(graph.to_pytorch(codes).astype(np.int64))

    def to_graph(self) -> IntegerGraph:
        """The integer graph of the current parameters: what the forward pass runs, and any machine runs bit for bit.

        Raises:
            InputError: a parameter is not finite, or a bias does not fit 32 bits.
        """
        nodes = [self._layer(node).node() if isinstance(node, Mac) else node for node in self.graph.nodes]
        return dataclasses.replace(self.graph, nodes=tuple(nodes))

    def extra_repr(self) -> str:
        """Graph and accumulator, for `print`."""
        how = self.arithmetic
        return (
            f"{self.graph.name}: {how.dataflow}, {how.rows} rows, {how.psum_bits}-bit partial sums, "
            f"{how.width_bits}-bit accumulator, {how.overflow} at {how.saturate_at.replace('_', ' ')}"
        )

    def _layer(self, node: Node) -> TrainableLayer:
        layer = self.layers.get_submodule(node.name)
        assert isinstance(layer, TrainableLayer)
        return layer

    def _check(self, images: Any) -> None:
        """Refuse what would lose bits on its way to the engine, or never arrive."""
        if not isinstance(images, Tensor):
            raise InputError(f"input: is {type(images).__name__}; give a torch tensor")
        dtype = images.dtype
        for name, tensor in (("input", images), *self.named_parameters()):
            if tensor.device.type != "cpu":
                raise InputError(f"{name}: is on {tensor.device}; the engine runs on the CPU, so move it there")
            if tensor.dtype not in DTYPES:
                raise InputError(f"{name}: is {tensor.dtype}; use torch.float32 or torch.float64")
            if tensor.dtype is not dtype:
                raise InputError(f"{name}: is {tensor.dtype} and the input {dtype}; convert one with .to()")

    def _execute(self, graph: IntegerGraph, images: Tensor, names: list[str]) -> dict[str, Codes]:
        codes = quantize_input(graph, images.detach().numpy())
        return execute(graph, codes, self.arithmetic, nodes=names, threads=self.threads)

    def _with_gradient(
        self, graph: IntegerGraph, node: Node, images: Tensor, values: dict[str, Tensor], found: dict[str, Codes]
    ) -> Tensor:
        """The engine's value with the gradient of the float operation; the value alone where nothing wants one."""
        value = _real(node, found[node.name], images.dtype)
        if isinstance(node, Input):
            if not images.requires_grad:
                return value
            return substitute(input_operation(graph, images).reshape(value.shape), value)
        inputs = [values[name] for name in node.inputs]
        parameters = self._layer(node).quantized() if isinstance(node, Mac) else ()
        if not any(tensor.requires_grad for tensor in (*inputs, *parameters)):
            return value
        computed = float_operation(graph, node, inputs, parameters)
        if isinstance(node, Mac) and not self.through_overflow and self._may_overflow(graph, node):
            exact = self._exact(graph, node, found[node.inputs[0]])
            moved = np.ascontiguousarray(np.moveaxis(found[node.name] != exact, 3, 1))
            computed = computed.masked_fill(torch.from_numpy(moved), 0.0)
        return substitute(computed, value)

    def _may_overflow(self, graph: IntegerGraph, node: Mac) -> bool:
        """Whether the weights' l1 norm leaves it open."""
        bias = int(np.abs(node.bias).max()) if graph.bias_at == "accumulator" else 0
        width = self.arithmetic.at_width(node.accumulator_width_bits).psum_bits
        return largest_sum(graph, node) + bias >= 1 << (width - 1)

    def _exact(self, graph: IntegerGraph, node: Mac, codes: Codes) -> Codes:
        """The codes of one layer's exact sums, for the input it really had."""
        (source,) = node.inputs
        alone = dataclasses.replace(node, accumulator_width_bits=None)
        tensor = node.output
        one = dataclasses.replace(
            graph,
            nodes=(Input(name=source, inputs=(), output=graph.by_name[source].output), alone),
            output=node.name,
            output_shape=(tensor.channels, tensor.height, tensor.width),
        )
        exact = exact_arithmetic(self.arithmetic)
        if graph.requantization.rounding is Rounding.TFLITE_DOUBLE:  # takes no sum beyond int32
            exact = dataclasses.replace(exact, psum_bits=32, width_bits=32)
        return execute(one, codes, exact, threads=self.threads)[node.name]


def _real(node: Node, codes: npt.NDArray[np.int16], dtype: torch.dtype) -> Tensor:
    """S * (q - Z) as (N, C, H, W), rounded once where `dtype` is float32."""
    steps = np.moveaxis(codes, 3, 1).astype(np.float64) - node.output.zero_point
    return torch.from_numpy(np.ascontiguousarray(steps) * node.output.scale).to(dtype)
