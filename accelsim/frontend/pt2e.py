"""PyTorch models quantised by the PT2E flow (`torchao`: prepare_pt2e, convert_pt2e), as integer graphs.

Such a model computes in float32 between `dequantize` and `quantize` operators, whose scales, zero points and limits say
which integers a device holds. Here each run of float operators between them becomes the integer operation with those
scales; docs/interchange.md states the rules, and `pt2e_values` runs the model itself to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from accelsim.config.quantization import QuantizationScheme
from accelsim.errors import InputError
from accelsim.frontend.capture import ancestors, bind
from accelsim.frontend.operators import HANDLERS, OF_TOKENS, Call, Value
from accelsim.frontend.pt2e_terms import (
    CLAMPS,
    DECOMPOSED,
    ELEMENTWISE,
    IDENTITY,
    INT8,
    SUPPORTED,
    Exact,
    Names,
    Pending,
    Quantizer,
    Weight,
    layout_of,
    path_of,
    tensor_type,
    word_of,
)
from accelsim.frontend.pt2e_values import Observer, Values, is_quantized, run
from accelsim.frontend.views import contiguous
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Conv2d,
    Input,
    IntegerGraph,
    Linear,
    MaxPool2d,
    Multiplier,
    Table,
)
from accelsim.ir import Node as IntegerNode
from accelsim.ir.float_graph import (
    FloatAdd,
    FloatAvgPool2d,
    FloatConv2d,
    FloatFlatten,
    FloatLinear,
    FloatMaxPool2d,
    FloatNode,
    Shape,
)
from accelsim.quantization.ranges import Range
from accelsim.quantization.scales import activation_scale


@dataclass
class ImportedModel:
    """An integer graph with the PT2E model it came from.

    Attributes:
        graph: what the accelerator computes.
        values: the PT2E model, which computes the same codes by PyTorch's float32 operators.
    """

    graph: IntegerGraph
    values: Values = field(repr=False)

    def reference_codes(self, images: npt.NDArray[np.floating[Any]]) -> dict[str, npt.NDArray[np.int64]]:
        """Codes (N, H, W, C) of every node as the PT2E model itself computes them, for `explore.differences`."""
        return self.values.codes(images)


def import_pt2e(
    program: ExportedProgram | torch.nn.Module,
    name: str | None = None,
    scheme: QuantizationScheme | None = None,
    *,
    calibration: npt.NDArray[np.floating[Any]] | None = None,
) -> IntegerGraph:
    """Turn what `convert_pt2e` returns, or a `torch.export` of it, into an integer graph.

    Args:
        program: one input (N, C, H, W) or (N, K) and one output; N may be fixed.
        name: the graph's; "pt2e" where left out.
        scheme: its `requantization`, `zero_points`, `bias_at` and `accumulator_width_bits`; formats and scales are
            the model's. None: fixed_point with half_even, zero points folded.
        calibration: float images. Only for tensors that the quantiser left in float and the accelerator needs in
            codes (X86InductorQuantizer: the network's output, and a convolution before a sum): affine int8 by the range
            seen.
    Raises:
        InputError: an operator without an integer rule, named with its node; a weight that is not quantised; a format
            other than int8 or uint8; a tensor left in float without `calibration`.
    """
    return read_pt2e(program, name, scheme, calibration=calibration).graph


def read_pt2e(
    program: ExportedProgram | torch.nn.Module,
    name: str | None = None,
    scheme: QuantizationScheme | None = None,
    *,
    calibration: npt.NDArray[np.floating[Any]] | None = None,
) -> ImportedModel:
    """As `import_pt2e`, with the model to compare with."""
    name = name or "pt2e"
    module = program.module() if isinstance(program, ExportedProgram) else program
    if not isinstance(module, GraphModule) or not is_pt2e(module):
        raise InputError(f"{name}: is no model of the PT2E flow; give what convert_pt2e returns, or its torch.export")
    return _Translation(module, name, scheme or QuantizationScheme(), calibration).model()


def is_pt2e(program: object) -> bool:
    """Whether a module or program holds the operators that the PT2E flow quantises with."""
    graph = program.graph if isinstance(program, ExportedProgram | GraphModule) else None
    return graph is not None and any(word_of(node).startswith(DECOMPOSED) for node in graph.nodes)


class _Translation:
    """One pass over a program; built, asked once for its `model`, and dropped."""

    def __init__(
        self,
        module: GraphModule,
        name: str,
        scheme: QuantizationScheme,
        calibration: npt.NDArray[np.floating[Any]] | None,
    ):
        self.module, self.name, self.scheme, self.calibration = module, name, scheme, calibration
        self.requantization = scheme.requantization.numerics()
        self.input, self.output = self._ends()
        self.batch, self.input_shape = self._example()
        self.seen: dict[Node, Tensor] = {}
        self.stored: set[Node] = set()
        self.nodes: dict[str, IntegerNode] = {}
        self.observers: dict[str, Observer] = {}
        self.limits: dict[str, tuple[int, int]] = {}
        self.values: dict[Node, Exact | Pending] = {}
        self.quantized: dict[Node, str] = {}
        self.weights: dict[Node, Weight] = {}
        self.emitted: dict[tuple[Node, Quantizer], str] = {}
        self.ranges: dict[Node, Range] | None = None
        self.names = Names(module)

    def model(self) -> ImportedModel:
        """Translate every operator that the output depends on."""
        example = torch.zeros((self.batch or 2, *self.input_shape))
        try:
            self.seen = run(self.module, example, self._keep)
        except Exception as error:  # PyTorch documents no set of exceptions
            raise InputError(f"{self.name}: cannot run the model on zeros: {type(error).__name__}: {error}") from None
        needed = ancestors(self.output)
        for node in self.module.graph.nodes:
            if node is self.input:
                self.values[node] = Exact("", self.input_shape, node)
            elif self._is_stored(node):
                self.stored.add(node)
                self._stored(node)
            elif node.op == "call_function" and node in needed:
                self._call(node)
        result = self._codes_of(self.output, self.output)
        self._check_widths()
        graph = IntegerGraph(
            name=self.name,
            nodes=tuple(self.nodes.values()),
            output=result.node,
            output_shape=result.shape,
            activation=INT8,
            requantization=self.requantization,
            zero_points=self.scheme.zero_points,
            bias_at=self.scheme.bias_at,
        )
        return ImportedModel(graph, Values(self.module, graph, self.observers, self.batch))

    # The program ------------------------------------------------------------------------------------------

    def _ends(self) -> tuple[Node, Node]:
        """The one input and the one output."""
        inputs = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        (last,) = (node for node in self.module.graph.nodes if node.op == "output")
        outputs = list(last.args[0]) if isinstance(last.args[0], tuple | list) else [last.args[0]]
        if len(inputs) != 1 or len(outputs) != 1 or not isinstance(outputs[0], Node):
            raise InputError(
                f"{self.name}: has {len(inputs)} inputs and {len(outputs)} outputs; models of one tensor each are "
                "supported"
            )
        return inputs[0], outputs[0]

    def _example(self) -> tuple[int | None, Shape]:
        """The batch where the program fixes one, and the input's shape without it."""
        value = self.input.meta.get("val")
        if isinstance(value, Tensor):
            batch, *shape = value.shape
        elif self.calibration is not None:
            batch, shape = None, list(self.calibration.shape[1:])
        else:
            raise InputError(f"{self.name}: the program does not say its input's shape; export it with an example")
        if not all(isinstance(size, int) for size in shape):
            raise InputError(f"{self.name}: height or width of the input is dynamic; only the batch may be")
        if len(shape) not in (1, 3):
            raise InputError(f"{self.name}: the input's shape {tuple(shape)} is neither (C, H, W) nor (K,)")
        return batch if isinstance(batch, int) else None, tuple(shape)

    def _keep(self, node: Node, value: object) -> bool:
        """Of the run on zeros, every tensor: they are of one example and give shapes and stored values."""
        return isinstance(value, Tensor)

    def _is_stored(self, node: Node) -> bool:
        """A parameter, or what is computed from parameters alone."""
        if node.op == "get_attr":
            return True
        return node.op == "call_function" and all(source in self.stored for source in node.all_input_nodes)

    def _stored(self, node: Node) -> None:
        """Remember a dequantised weight's codes."""
        if word_of(node) not in (f"{DECOMPOSED}dequantize_per_channel", f"{DECOMPOSED}dequantize_per_tensor"):
            return
        arguments = self._arguments(node)
        codes = self.seen[arguments["input"]]
        if codes.dtype not in (torch.int8, torch.uint8):
            raise self._refuse(node, f"weights of {codes.dtype} are not supported; use int8 or uint8")
        offset = 128 if codes.dtype == torch.uint8 else 0
        per_channel = "axis" in arguments
        scale = self._number(arguments, "scales" if per_channel else "scale")
        zero = self._number(arguments, "zero_points" if per_channel else "zero_point")
        if per_channel and arguments["axis"] != 0:
            raise self._refuse(node, f"scales along axis {arguments['axis']} are not supported; use output channels, 0")
        zeros = {int(one) for one in zero}
        if len(zeros) != 1:
            raise self._refuse(
                node, "zero points that differ between channels are not supported; use symmetric weights"
            )
        channels = codes.shape[0]
        self.weights[node] = Weight(
            codes.to(torch.int64).numpy() - offset,
            np.broadcast_to(scale, (channels,)).astype(np.float64),
            zeros.pop() - offset,
            int(arguments["quant_min"]) - offset,
            int(arguments["quant_max"]) - offset,
        )

    def _number(self, arguments: dict[str, Any], key: str) -> npt.NDArray[np.float64]:
        """An argument that is a number or a stored tensor, as float64 (n,)."""
        given = arguments[key]
        if isinstance(given, Node):
            return self.seen[given].detach().to(torch.float64).numpy().reshape(-1)
        return np.array([given], dtype=np.float64)

    def _arguments(self, node: Node) -> dict[str, Any]:
        arguments = bind(node)
        if arguments is None:
            raise self._refuse(node, f"operator has no schema; supported are {SUPPORTED}")
        return arguments

    def _refuse(self, node: Node, reason: str) -> InputError:
        path = path_of(node)
        place = f"{path} ({word_of(node)}, {node.name})" if path else f"{node.name} ({word_of(node)})"
        return InputError(f"{self.name}: {place}: {reason}")

    # Operators --------------------------------------------------------------------------------------------

    def _call(self, node: Node) -> None:
        word = word_of(node)
        if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
            changed = node.args[0]
            if isinstance(changed, Node) and len(changed.users) > 1:
                raise self._refuse(node, "changes in place a tensor that others read; use the operator without _")
        if word in (f"{DECOMPOSED}quantize_per_tensor", f"{DECOMPOSED}dequantize_per_tensor"):
            self._quantizer(node, word)
        elif word in IDENTITY:
            self._identity(node)
        elif word in ELEMENTWISE and self._live(node) == 1 and isinstance(node.args[0], Node):
            self._function(node, word)
        elif word in HANDLERS and word not in OF_TOKENS:
            self._layer(node, word)
        else:
            remedy = (
                "quantise statically (is_dynamic = False)" if "choose_qparams" in word else f"supported are {SUPPORTED}"
            )
            raise self._refuse(node, f"has no integer rule; {remedy}")

    def _live(self, node: Node) -> int:
        """How many of an operator's tensors depend on the input; stored ones count a hundred."""
        return sum(1 if source in self.values else 100 for source in node.all_input_nodes)

    def _quantizer(self, node: Node, word: str) -> None:
        arguments = self._arguments(node)
        source = arguments["input"]
        dtype = arguments["dtype"]
        if dtype not in (torch.int8, torch.uint8):
            raise self._refuse(node, f"activations of {dtype} are not supported; use int8 or uint8")
        offset = 128 if dtype == torch.uint8 else 0
        quantizer = Quantizer(
            float(self._number(arguments, "scale")[0]),
            int(self._number(arguments, "zero_point")[0]) - offset,
            int(arguments["quant_min"]) - offset,
            int(arguments["quant_max"]) - offset,
        )
        if word.endswith("dequantize_per_tensor"):
            if source not in self.quantized:
                raise self._refuse(node, "reads codes that no quantize operator made")
            made = self.quantized[source]
            tensor = self.nodes[made].output
            if (tensor.scale, tensor.zero_point) != (quantizer.scale, quantizer.zero_point):
                raise self._refuse(
                    node,
                    f"reads codes of (S, Z) = ({tensor.scale:.6g}, {tensor.zero_point}) as "
                    f"({quantizer.scale:.6g}, {quantizer.zero_point}); give both operators one scale and zero point",
                )
            self.values[node] = Exact(made, self._shape(node), node)
            return
        made = self._quantize(self.values[source], quantizer)
        self.quantized[node] = made
        now = self.observers[made]
        if not is_quantized(now.node):  # what a pool gave is judged where it is quantised
            self.observers[made] = Observer(node, offset)

    def _identity(self, node: Node) -> None:
        source = node.args[0]
        arguments = self._arguments(node)
        assert isinstance(source, Node)
        if arguments.get("train", arguments.get("training")):
            raise self._refuse(node, "drops at random; call move_exported_model_to_eval first")
        if self.seen[node].dtype != self.seen[source].dtype:
            raise self._refuse(node, f"converts {self.seen[source].dtype} to {self.seen[node].dtype}")
        self.values[node] = replace(self.values[source], last=node)

    def _function(self, node: Node, word: str) -> None:
        source = node.args[0]
        assert isinstance(source, Node)
        target: Any = node.target
        rest, keywords = node.args[1:], dict(node.kwargs)

        def apply(values: Tensor) -> Tensor:
            return target(values.clone(), *rest, **keywords)  # a clone, for operators that work in place

        value = self.values[source]
        if isinstance(value, Pending) and word in CLAMPS:
            self.values[node] = replace(value, clamps=(*value.clamps, apply), last=node)
            return
        if isinstance(value, Pending) or not value.node:
            value = self._codes_of(source, node)
        self.values[node] = replace(value, chain=(*value.chain, (word.removeprefix("aten."), apply)), last=node)

    def _layer(self, node: Node, word: str) -> None:
        """Let the handler of `operators` read the call, then make what it found integer."""
        call = _Call(
            node=node,
            operator=word,
            where=str(self._refuse(node, ""))[:-2],
            arguments=self._arguments(node),
            batch=self.batch or 2,
            values={
                n: Value(n.name, value.shape, value.shape, contiguous(value.shape)) for n, value in self.values.items()
            },
            parameters={n: self.seen[n] for n in self.stored if n in self.seen},
            result=self._shape(node),
        )
        made = HANDLERS[word](call)
        source = call.arguments["self" if "self" in call.arguments else "input"]
        if not made:
            shape, before = self._shape(node), self.values[source].shape
            if shape != before and not (len(shape) == 1 or np.prod(before) == max(before)):
                raise self._refuse(node, f"reads shape {before} as {shape}; only flattening to a vector is supported")
            self.values[node] = replace(self.values[source], shape=shape, last=node)
        for one in made:
            self.values[node] = self._integer(node, one, call, source)

    def _integer(self, node: Node, made: FloatNode, call: Call, source: Node) -> Exact | Pending:
        match made:
            case FloatFlatten():
                before = self.values.get(node, self.values[source])
                return replace(before, shape=made.shape, last=node)
            case FloatConv2d() | FloatLinear():
                given = call.arguments["weight"]
                if given not in self.weights:
                    raise self._refuse(node, "its weights are not quantised; quantise them to int8")
                before = self._codes_of(source, node)
                return Pending(made, node, (before.node,), made.shape, node, weight=self.weights[given])
            case FloatAdd():
                first, second = (self._codes_of(call.arguments[key], node).node for key in ("self", "other"))
                return Pending(made, node, (first, second), made.shape, node)
            case FloatMaxPool2d() | FloatAvgPool2d():
                before = self._codes_of(source, node)
                return Exact(self._pool(node, made, before.node), made.shape, node)
        raise self._refuse(node, f"has no integer rule; supported are {SUPPORTED}")

    def _pool(self, node: Node, made: FloatMaxPool2d | FloatAvgPool2d, source: str) -> str:
        tensor = self.nodes[source].output
        target = replace(tensor, height=made.shape[1], width=made.shape[2], channels=made.shape[0])
        fields: dict[str, Any] = {
            **self._base(node, (source,)),
            "output": target,
            "kernel": made.kernel,
            "stride": made.stride,
            "padding": made.padding,
        }
        if isinstance(made, FloatMaxPool2d):
            pool: IntegerNode = MaxPool2d(**fields)
        else:
            pool = AvgPool2d(**fields, count_include_pad=made.count_include_pad)
        return self._emit(pool, Observer(node), self.limits[source])

    # Codes ------------------------------------------------------------------------------------------------

    def _codes_of(self, operand: Node, reader: Node) -> Exact:
        """A tensor as codes: as it is, or where the quantiser left it in float, by the range seen on examples."""
        if operand in self.quantized:
            return Exact(self.quantized[operand], self._shape(operand), operand)
        if operand not in self.values:
            raise self._refuse(reader, f"operand {operand.name} is a parameter; it must depend on the model's input")
        value = self.values[operand]
        if isinstance(value, Exact) and value.node and not value.chain:
            return value
        if isinstance(value, Exact) and value.node:  # clamps need no scale of their own
            same = self.nodes[value.node].output
            keep = Quantizer(same.scale, same.zero_point, *INT8.limits)
            if all(f"aten.{word}" in CLAMPS for word, _ in value.chain):
                return Exact(self._quantize(value, keep), value.shape, operand)
        made = self._quantize(value, self._calibrated(operand, reader))
        self.values[operand] = Exact(made, value.shape, operand)
        return Exact(made, value.shape, operand)

    def _calibrated(self, operand: Node, reader: Node) -> Quantizer:
        """Affine int8 by the smallest and largest value of a float tensor."""
        if self.calibration is None:
            raise self._refuse(
                reader,
                f"the quantiser left {operand.name} in float, and the accelerator needs codes; give calibration images "
                "(in Python calibration = ..., else --calibration or --data), or quantise it (XNNPACKQuantizer does)",
            )
        if self.ranges is None:
            self.ranges = Values.ranges(self.module, self.calibration, self.batch, self.name)
        seen = self.ranges[operand]
        scale, zero_point = activation_scale(seen, INT8, symmetric=False)
        return Quantizer(scale, zero_point, *INT8.limits)

    def _quantize(self, value: Exact | Pending, quantizer: Quantizer) -> str:
        """The integer node that holds a tensor's codes; made once for each scale."""
        key = (value.last, quantizer)
        if key not in self.emitted:
            if isinstance(value, Pending):
                self.emitted[key] = self._mac_or_add(value, quantizer)
            elif value.node:
                self.emitted[key] = self._table(value, quantizer)
            else:
                self.emitted[key] = self._input(value, quantizer)
        return self.emitted[key]

    def _input(self, value: Exact, quantizer: Quantizer) -> str:
        if self.nodes:
            raise self._refuse(
                value.last, "the model's input is quantised twice, in different ways; give it one quantiser"
            )
        made = Input(
            name=self.names.input(), inputs=(), output=tensor_type(layout_of(value.shape), quantizer), source="input"
        )
        self._emit(made, Observer(value.last), INT8.limits)
        if (quantizer.low, quantizer.high) == INT8.limits:
            return made.name
        inside = (quantizer.low, quantizer.high)
        name = self.names.fresh(f"{made.name}_clip")
        clip = Clip(name=name, inputs=(made.name,), output=made.output, clip=inside, source="input")
        return self._emit(clip, Observer(value.last), inside)

    def _table(self, value: Exact, quantizer: Quantizer) -> str:
        """Functions of one element and the quantiser behind them: nothing, a clip, or a table of all codes."""
        source = self.nodes[value.node].output
        codes = torch.arange(INT8.minimum, INT8.maximum + 1)
        values = (codes.to(torch.float32) - source.zero_point) * source.scale
        for _, function in value.chain:
            values = function(values)
        entries = quantizer.codes(values).to(torch.int64)
        low, high = self.limits[value.node]
        reached = slice(low - INT8.minimum, high - INT8.minimum + 1)
        same = (source.scale, source.zero_point) == (quantizer.scale, quantizer.zero_point)
        if same and torch.equal(entries[reached], codes[reached]):
            return value.node
        inside = (int(entries[reached].min()), int(entries[reached].max()))
        base = self._base(value.last, (value.node,))
        if same and torch.equal(entries[reached], codes[reached].clamp(*inside)):
            return self._emit(Clip(**base, output=source, clip=inside), Observer(value.last), inside)
        function_name = "+".join(word for word, _ in value.chain) or "rescale"
        table = Table(
            **base, output=tensor_type(source.shape, quantizer), entries=entries.numpy(), function=function_name
        )
        return self._emit(table, Observer(value.last), inside)

    def _mac_or_add(self, value: Pending, quantizer: Quantizer) -> str:
        low, high = INT8.limits
        reals = torch.tensor([-torch.inf, torch.inf])
        for clamp in value.clamps:
            reals = clamp(reals)
        low, high = (int(code) for code in quantizer.codes(reals))
        base = self._base(value.operator, value.sources)
        sources = [self.nodes[name].output for name in value.sources]
        if isinstance(value.made, FloatAdd):
            target = tensor_type(sources[0].shape, quantizer)
            first, second = (self._multiplier(value, np.array([one.scale / target.scale])) for one in sources)
            made: IntegerNode = Add(**base, output=target, multipliers=(first, second), clip=(low, high))
        else:
            made = self._mac(value, value.made, base, quantizer, (low, high))
        return self._emit(made, Observer(value.last), (low, high))

    def _mac(
        self,
        value: Pending,
        layer: FloatConv2d | FloatLinear,
        base: dict[str, Any],
        quantizer: Quantizer,
        clip: tuple[int, int],
    ) -> IntegerNode:
        source, weight = self.nodes[value.sources[0]].output, value.weight
        assert weight is not None
        channels = weight.codes.shape[0]
        target = tensor_type(layout_of(layer.shape), quantizer)
        rows = weight.codes.reshape(channels, -1) - weight.zero_point
        # Weights that are all zero fix no scale: one that makes M = 1 keeps the bias within 32 bits.
        scale = np.where((rows == 0).all(axis=1), target.scale / source.scale, weight.scale)
        if weight.zero_point and self.scheme.zero_points == "folded":
            raise self._refuse(
                value.operator, f"weight zero point {weight.zero_point} needs zero_points = 'subtracted' in the scheme"
            )
        per_sum = source.scale * scale
        real = np.zeros(channels) if layer.bias is None else layer.bias
        bias = np.rint(real / per_sum)
        if self.scheme.zero_points == "folded":
            bias = bias - float(source.zero_point) * rows.sum(axis=1)
        if (worst := int(np.abs(bias).argmax())) >= 0 and not -(2.0**31) <= bias[worst] < 2.0**31:
            raise self._refuse(
                value.operator,
                f"bias {real[worst]:.6g} of channel {worst} is {bias[worst]:.6g} steps of S_x * S_w = "
                f"{per_sum[worst]:.6g}, beyond 32 bits; use a larger weight scale",
            )
        fields: dict[str, Any] = {
            **base,
            "output": target,
            "weight_bits": weight.bits,
            "weight_zero_point": weight.zero_point,
            "bias": bias.astype(np.int64),
            "multiplier": self._multiplier(value, per_sum / target.scale),
            "clip": clip,
            "accumulator_width_bits": self.scheme.accumulator_width_bits.get(base["name"]),
        }
        if isinstance(layer, FloatLinear):
            image = weight.codes.reshape(channels, source.channels, source.height, source.width)
            return Linear(**fields, weight=np.ascontiguousarray(np.moveaxis(image, 1, 3)).reshape(channels, -1))
        return Conv2d(
            **fields,
            weight=np.ascontiguousarray(np.moveaxis(weight.codes, 1, 3)),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )

    def _multiplier(self, value: Pending, real: npt.NDArray[np.float64]) -> Multiplier:
        pairs = []
        for channel, one in enumerate(real.tolist()):
            try:
                pairs.append(self.requantization.derive(one))
            except ValueError as error:
                raise self._refuse(value.operator, f"channel {channel}: {error}; use another requantization") from None
        table = np.array(pairs, dtype=np.int64)
        return Multiplier(m0=table[:, 0].copy(), shift=table[:, 1].copy(), real=real)

    def _base(self, node: Node, inputs: Sequence[str]) -> dict[str, Any]:
        name = self.names.of(node)
        return {"name": name, "inputs": tuple(inputs), "source": f"{name} ({word_of(node)}, {node.name})"}

    def _emit(self, made: IntegerNode, observer: Observer, limits: tuple[int, int]) -> str:
        self.nodes[made.name] = made
        self.observers[made.name] = observer
        self.limits[made.name] = limits
        return made.name

    def _shape(self, node: Node) -> Shape:
        shape = tuple(self.seen[node].shape)
        if not shape or shape[0] != (self.batch or 2):
            raise self._refuse(node, f"result shape {shape} does not keep the batch as its first axis")
        return shape[1:]

    def _check_widths(self) -> None:
        layers = [name for name, node in self.nodes.items() if isinstance(node, Conv2d | Linear)]
        for name in self.scheme.accumulator_width_bits:
            if name not in layers:
                raise InputError(
                    f"{self.name}: accumulator_width_bits names {name!r}, which is no convolution or linear layer; "
                    f"there are {', '.join(layers)}"
                )


@dataclass(frozen=True, kw_only=True)
class _Call(Call):
    """A call whose result's shape was seen in a run, not recorded by the export."""

    result: Shape

    @property
    def shape(self) -> Shape:
        """Shape of the result without the batch."""
        return self.result
