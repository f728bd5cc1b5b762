"""torch.nn.Module to float graph, through torch.export."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, TensorArgument
from torch.fx import Node

from accelsim.errors import InputError
from accelsim.frontend.batch_norm import fold_batch_norm
from accelsim.frontend.constant_factors import ConstantFactor, absorb
from accelsim.frontend.names import Place, choose_names, input_name
from accelsim.frontend.operators import HANDLERS, REMEDIES, SUPPORTED, Call, Value
from accelsim.frontend.views import contiguous
from accelsim.ir.float_graph import FloatGraph, FloatInput, FloatNode, Shape

PUBLIC = {
    "aten.max_pool2d_with_indices": "aten.max_pool2d",
    "aten._adaptive_avg_pool2d": "aten.adaptive_avg_pool2d",
    "aten._unsafe_view": "aten.view",
    "aten._to_copy": "aten.to",
    "aten.native_dropout": "aten.dropout",
}
"""Operators that torch.export writes instead of the one PyTorch documents; `HANDLERS` knows the documented ones."""


def capture(
    module: nn.Module, example: Tensor | tuple[Tensor, ...], name: str | None = None, *, fold: bool = True
) -> FloatGraph:
    """Trace a model and return what it computes in evaluation mode.

    Args:
        module: one tensor in, one tensor out. It is left as it was: its training flags are restored and its
            parameters are copied, as float64.
        example: (N, C, H, W) or (N, K), or a tuple of that one tensor; any N >= 1. Only its shape matters.
        name: the graph's; the class's name where left out.
        fold: whether batch norm becomes part of the convolutions (`fold_batch_norm`), as quantisation needs it.
    Raises:
        InputError: the model cannot be traced, or holds an operator or attribute that float graphs do not; one line
            naming module path, operator and what is supported.

    >>> graph = capture(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(1, 1, 8, 8))
    >>> [(node.name, node.shape) for node in graph.nodes]
    [('input', (1, 8, 8)), ('0', (2, 6, 6)), ('1', (2, 6, 6))]
    """
    name = name or type(module).__name__
    given = example if isinstance(example, tuple) else (example,)
    if len(given) != 1:
        raise InputError(f"{name}: the example holds {len(given)} inputs; models of one input are supported")
    (tensor,) = given
    if not isinstance(tensor, Tensor) or tensor.dim() not in (2, 4) or not tensor.is_floating_point():
        what = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise InputError(f"{name}: the example is {what}; it must be a float tensor (N, C, H, W) or (N, K)")
    if not tensor.numel():
        raise InputError(f"{name}: the example of shape {tuple(tensor.shape)} is empty; give a batch of 1 or more")
    program = _export(module, tensor, name)
    graph = _Translation(module, program, name, tensor).graph()
    return fold_batch_norm(graph) if fold else graph


def _export(module: nn.Module, example: Tensor, name: str) -> ExportedProgram:
    """Export in evaluation mode; in-place operators made functional, nothing decomposed."""
    try:
        with _evaluation_mode(module), _silence(), torch.no_grad():
            program = torch.export.export(module, (example,), strict=False)
            if any(_is_in_place(node) for node in program.graph.nodes):
                program = program.run_decompositions({})  # ten times the price of the export
            return program
    except Exception as error:  # torch.export documents no set of exceptions, and user code raises its own
        kind = type(error).__name__
        if kind.startswith("GuardOnDataDependent"):
            raise InputError(
                f"{name}: torch.export cannot trace the model: its control flow depends on values of a tensor; "
                "make the forward pass the same for every input"
            ) from None
        lines = str(error).strip().splitlines() or [""]
        first = lines[0] if len(lines[0]) <= 200 else f"{lines[0][:197]}..."
        raise InputError(
            f"{name}: torch.export cannot trace the model on an input of shape {tuple(example.shape)}: {kind}: {first}"
        ) from None


@contextlib.contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Clear every training flag inside; afterwards each is what it was."""
    flags = {part: part.training for part in module.modules()}
    try:
        for part in flags:
            part.training = False
        yield
    finally:
        for part, flag in flags.items():
            part.training = flag


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep torch.export's warnings, log lines and dumps of half-traced programs from the user's terminal."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


class _Translation:
    """One pass over an exported program; built, asked once for its `graph`, and dropped."""

    def __init__(self, module: nn.Module, program: ExportedProgram, name: str, example: Tensor):
        self.module = module
        self.program = program
        self.name = name
        self.batch, *shape = example.shape
        self.input_shape: Shape = tuple(shape)
        self.values: dict[Node, Value] = {}
        self.parameters: dict[Node, Tensor] = {}
        self.nodes: list[FloatNode] = []
        self.places: list[Place] = []
        self.operators: list[str] = []

    def graph(self) -> FloatGraph:
        """Translate, then rename nodes from the program's names to the model's."""
        output = self._output()
        calls = {node.name: node for node in self.program.graph.nodes}
        self._placeholders(calls)
        needed = ancestors(calls[output])
        for node in self.program.graph.nodes:
            if node.op == "call_function" and node in needed:
                self._call(node)
        result = self.values.get(calls[output])
        if result is None:
            raise InputError(f"{self.name}: the output does not depend on the input")
        if not result.plain:
            raise InputError(
                f"{self._where(calls[output])}: returns shape {result.shape} as {result.viewed}; "
                "only flattening to a vector is supported"
            )
        result = self._without_factors(result)
        final = {"": input_name(self.module)}
        for node, name in zip(self.nodes, choose_names(self.module, self.nodes, self.places), strict=True):
            final[node.name] = name
        renamed: list[FloatNode] = [FloatInput(name=final[""], inputs=(), shape=self.input_shape, source="input")]
        for node, word in zip(self.nodes, self.operators, strict=True):
            name = final[node.name]
            inputs = tuple(final[source] for source in node.inputs)
            renamed.append(dataclasses.replace(node, name=name, inputs=inputs, source=f"{name} ({word})"))
        return FloatGraph(self.name, tuple(renamed), final[result.node])

    def _without_factors(self, result: Value) -> Value:
        """Take constant factors out of the nodes; returns the value of the output without them."""
        kept, now = absorb(self.nodes, result.node)
        lists = zip(self.nodes, self.places, self.operators, strict=True)
        left = [(kept[node.name], place, word) for node, place, word in lists if not isinstance(node, ConstantFactor)]
        self.nodes = [node for node, _, _ in left]
        self.places = [place for _, place, _ in left]
        self.operators = [word for _, _, word in left]
        return dataclasses.replace(result, node=now.get(result.node, result.node))

    def _output(self) -> str:
        """The one output's name in the program; writes to the input or to buffers are no outputs."""
        outputs = [
            spec.arg for spec in self.program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT
        ]
        tensors = [output.name for output in outputs if isinstance(output, TensorArgument)]
        if len(outputs) != 1 or len(tensors) != 1:
            raise InputError(f"{self.name}: returns {len(outputs)} values, {len(tensors)} of them tensors; return one")
        return tensors[0]

    def _placeholders(self, calls: dict[str, Node]) -> None:
        """The input, and the arrays behind parameters, buffers and constants."""
        stored = {**self.program.state_dict, **self.program.constants}
        for spec in self.program.graph_signature.input_specs:
            node = calls.get(getattr(spec.arg, "name", ""))
            if node is None:
                continue
            if spec.kind is InputKind.USER_INPUT:
                shape = self.input_shape
                self.values[node] = Value("", shape, shape, contiguous(shape))
            elif spec.target in stored and isinstance(stored[spec.target], Tensor):
                self.parameters[node] = stored[spec.target]

    def _call(self, node: Node) -> None:
        """Translate one operator call."""
        if node.target is operator.getitem:
            self._item(node)
            return
        word, where = operator_of(node), self._where(node)
        handler = HANDLERS.get(word)
        if handler is None:
            raise InputError(f"{where}: operator is not supported; {self._remedy(node, word)}")
        arguments = bind(node)
        if arguments is None:
            raise InputError(f"{where}: operator has no schema; supported are {SUPPORTED}")
        call = Call(
            node=node,
            operator=word,
            where=where,
            arguments=arguments,
            batch=self.batch,
            values=self.values,
            parameters=self.parameters,
        )
        made = handler(call)
        if made:
            last = made[-1]
            if call.axes:
                self.values[node] = Value(last.name, last.shape, call.shape, call.axes[-1])
            else:
                self.values[node] = Value(last.name, last.shape, last.shape, contiguous(last.shape))
        else:
            source = arguments["self" if "self" in arguments else "input"]
            if source in self.values:
                value = self.values[source]
                axes = call.axes[-1] if call.axes else value.axes
                self.values[node] = dataclasses.replace(value, viewed=call.shape, axes=axes)
            elif source in self.parameters:
                self.parameters[node] = self.parameters[source]
        self.nodes += made
        self.places += [_place(node)] * len(made)
        self.operators += [word] * len(made)

    def _item(self, node: Node) -> None:
        """One of several results: the first is the tensor, in every operator there is a handler for."""
        source, index = node.args
        assert isinstance(source, Node)
        if index != 0:
            raise InputError(
                f"{self._where(source)}: result {index} is used, as with return_indices = True; only the first can be"
            )
        self.values[node] = self.values[source]

    def _where(self, node: Node) -> str:
        """Model, module path and operator: the beginning of an error message."""
        return f"{self.name}: {_place(node).path or 'the model itself'} ({operator_of(node)})"

    def _remedy(self, node: Node, word: str) -> str:
        if word in REMEDIES:
            return f"{REMEDIES[word]}; supported are {SUPPORTED}"
        sources = node.all_input_nodes
        if sources and all(source in self.parameters for source in sources):
            return (
                "it computes a parameter, which must be a stored one: call "
                "torch.nn.utils.parametrize.remove_parametrizations first"
            )
        return f"supported are {SUPPORTED}"


def ancestors(output: Node) -> set[Node]:
    """What the output is computed from. Assertions, writes to buffers and dead code are not among it."""
    found, waiting = {output}, [output]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _place(node: Node) -> Place:
    """The module whose forward makes the call, from the export's metadata."""
    stack = list(node.meta.get("nn_module_stack", {}).items())
    call, (path, _) = stack[-1] if stack else ("", ("", ""))
    return Place(path, call)


def _is_in_place(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def operator_of(node: Node) -> str:
    """Return "aten.conv2d" for any of its overloads, and the public operator for the one it dispatches to."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = str(target._schema.name).replace("::", ".")
        return "aten.batch_norm" if "_batch_norm" in name else PUBLIC.get(name, name)
    return str(getattr(target, "__name__", target))


def bind(node: Node) -> dict[str, Any] | None:
    """Arguments by the names of the operator's schema, defaults filled in."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    bound: dict[str, Any] = {}
    for position, argument in enumerate(node.target._schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound
