"""compile: integer graph + hardware -> program, as a list of passes.

1. check what the machine supports  2. lower: fuse nodes into operations  3. plan: homes of activation tensors, and
how layers are cut  4. emit: instructions in serial order, constants into the DRAM image  5. synchronise: tokens
6. the static check.
"""

from __future__ import annotations

import numpy as np

from accelsim.compiler.allocation import DramImage, smallest
from accelsim.compiler.cut_layer import CutLayer
from accelsim.compiler.elementwise import ElementwiseLayer
from accelsim.compiler.emission import MAX_IMAGES, Emitter
from accelsim.compiler.homes import Plan, Planner, lifetimes
from accelsim.compiler.lowering import Operation, lower
from accelsim.compiler.macs import MacLayer
from accelsim.compiler.matmuls import MatMulLayer
from accelsim.compiler.stationary_inputs import check_swappable, emit_stationary_inputs
from accelsim.compiler.streaming import Home, emit_layer
from accelsim.compiler.synchronisation import synchronise
from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    IntegerGraph,
    Linear,
    Mac,
    MatMul,
    MaxPool2d,
    Table,
    largest_sum,
    refuse_host_operators,
)
from accelsim.isa import Instruction, Layer, Layout, Memory, Modes, Program, TensorRegion
from accelsim.numerics import Rounding
from accelsim.timing import TIMING_VERSION


def compile_graph(graph: IntegerGraph, hardware: Hardware, batch: int = 1) -> Program:
    """Compile a graph for one machine and a batch of images.

    Activation tensors stay on chip where they fit, the batch in groups of images as large as fit. Where not even one
    image's do, some live in DRAM, and the layers that touch them run in bands (docs/compiler.md).

    Args:
        graph: a legal integer graph.
        hardware: the machine.
        batch: images of one run, at least 1.
    Raises:
        InputError: the machine does not support a mode, or a layer cannot fit; it names buffer, need and remedy.
    """
    if not 1 <= batch <= 65535:
        raise InputError(f"batch = {batch} is outside 1..65535")
    check_supported(graph, hardware)
    operations = lower(graph, hardware)
    if not operations or graph.output == graph.input.name:
        raise InputError(f"{graph.name}: the graph computes nothing; its output is its input")
    dram = DramImage()
    source, result = graph.input.output, graph.by_name[graph.output].output
    input_address, output_address = dram.reserve(batch * source.size), dram.reserve(batch * result.size)
    emitter = Emitter(graph, hardware, dram)
    layout: Layout
    if hardware.array.dataflow == "is":
        swapped_layer = check_swappable(graph, operations)
        layout = "columns" if isinstance(swapped_layer, Linear) else "pixel_columns"
        block = emit_stationary_inputs(emitter, operations[0], batch, input_address, output_address)
    else:
        layout, block = "nhwc", 0
        _emit_groups(emitter, operations, batch, input_address, output_address)
    modes = Modes(activation=graph.activation, zero_points=graph.zero_points, requantization=graph.requantization)
    program = Program(
        name=graph.name,
        instructions=synchronise(emitter.instructions),
        modes=modes,
        hardware=hardware,
        timing_version=TIMING_VERSION,
        dram=dram.bytes(),
        input=TensorRegion(
            node=graph.input.name,
            address=input_address,
            batch=batch,
            shape=source.shape,
            layout=layout,
            block=block,
            scale=source.scale,
            zero_point=source.zero_point,
            precision=graph.input.precision,
            limits=source.limits,
        ),
        output=TensorRegion(
            node=graph.output,
            address=output_address,
            batch=batch,
            shape=result.shape,
            layout=layout,
            scale=result.scale,
            zero_point=result.zero_point,
            limits=result.limits,
            output_shape=graph.output_shape,
        ),
        layers=tuple(_layer(graph, operation, batch) for operation in operations),
        pieces=tuple(emitter.pieces),
        shapes={operation.result.name: operation.result.output.shape for operation in operations},
    )
    _check_fields(operations, emitter.instructions)
    _ = program.order  # the static check
    return program


def _check_fields(operations: list[Operation], instructions: list[Instruction]) -> None:
    """Refuse, by the layer's name, sizes that no instruction can hold: a window of 256 rows, 40,000 channels."""
    for instruction in instructions:
        try:
            instruction.validate()
        except InputError as error:
            raise InputError(f"layer {operations[instruction.label].head.name} is too large for {error}") from None


def check_supported(graph: IntegerGraph, hardware: Hardware) -> None:
    """Refuse a graph that asks for a scheme or mode this machine's array or PPU does not implement."""
    refuse_host_operators(graph, "cannot be compiled")
    hardware.arithmetic()  # refused where it is of floats
    supports = hardware.supports
    asked = (
        ("zero_points", graph.zero_points, supports.zero_points),
        ("bias_at", graph.bias_at, supports.bias_at),
        ("requantization.scheme", graph.requantization.scheme.value, supports.schemes),
        ("requantization.rounding", graph.requantization.rounding.value, supports.roundings),
    )
    for key, value, allowed in asked:
        if value not in allowed:
            raise InputError(
                f"{graph.name}: {key} = {value!r} is not implemented by machine {hardware.name}, which supports "
                f"{', '.join(map(repr, allowed)) or 'nothing'}; quantize with one of them or use another machine"
            )
    for node in graph.nodes:
        if isinstance(node, Mac | MatMul) and graph.requantization.rounding is Rounding.TFLITE_DOUBLE:
            _check_int32(graph, node, hardware)
        if isinstance(node, Mac | MatMul) and (node.accumulator_width_bits or 0) > hardware.accumulator.width_bits:
            raise InputError(
                f"layer {node.name}: accumulator_width_bits = {node.accumulator_width_bits} exceeds "
                f"accumulator.width_bits = {hardware.accumulator.width_bits} of machine {hardware.name}; lower one or "
                "raise the other"
            )


def _check_int32(graph: IntegerGraph, node: Mac | MatMul, hardware: Hardware) -> None:
    """tflite_double takes int32: refuse a layer whose accumulator plus bias is not proved to fit."""
    width = node.accumulator_width_bits or hardware.accumulator.width_bits
    bias = int(np.abs(node.bias).max()) if isinstance(node, Mac) else 0
    in_ppu = graph.bias_at == "ppu"
    largest = min(1 << (width - 1), largest_sum(graph, node) + (0 if in_ppu else bias)) + (bias if in_ppu else 0)
    if largest > (1 << 31) - (in_ppu and bias > 0):  # without a bias, -2**31 is the accumulator's own limit
        raise InputError(
            f"layer {node.name}: sums may reach {largest}, beyond the int32 that rounding = 'tflite_double' takes; "
            "use accumulator.width_bits <= 32 with bias_at = 'accumulator', or another rounding"
        )


def _emit_groups(
    emitter: Emitter, operations: list[Operation], batch: int, input_address: int, output_address: int
) -> None:
    """The whole network for one group of images after another."""
    graph = emitter.graph
    layers = [cut(emitter, operation) for operation in operations]
    plan = _plan(emitter, layers, batch)
    scratch = emitter.dram.reserve(plan.scratch_bytes) if plan.scratch_bytes else 0
    source, result = graph.input, graph.by_name[graph.output]
    for first in range(0, batch, plan.images):
        images = min(plan.images, batch - first)
        addresses = {name: scratch + offset for name, offset in plan.scratch.items()}
        addresses[source.name] = input_address + first * source.output.size
        addresses[result.name] = output_address + first * result.output.size
        homes = {
            name: Home(graph.by_name[name].output, plan.on_chip.get(name), addresses.get(name, 0))
            for name in plan.on_chip.keys() | addresses.keys()
        }
        if (base := plan.on_chip.get(source.name)) is not None:
            emitter.load(0, Memory.ACTIVATION, addresses[source.name], base, images * source.output.size)
        for layer, shape, workspace in zip(layers, plan.shapes, plan.workspaces, strict=True):
            operation = layer.operation
            reads = [homes[name] for name in operation.head.inputs]
            if isinstance(layer, MatMulLayer):
                layer.store_second(reads[1], images)
            emit_layer(emitter, layer, reads, homes[operation.result.name], shape, workspace, images, first)
            if operation.result is result and (base := plan.on_chip.get(result.name)) is not None:
                emitter.store(operation.label, base, addresses[result.name], images * result.output.size)


def cut(emitter: Emitter, operation: Operation) -> CutLayer:
    """Cut one operation to the machine's memories; its constants go into the DRAM image."""
    if isinstance(operation.head, Mac):
        return MacLayer(emitter, operation)
    if isinstance(operation.head, MatMul):
        return MatMulLayer(emitter, operation)
    if isinstance(operation.head, MaxPool2d | AvgPool2d | Add | Clip | Table):
        return ElementwiseLayer(emitter, operation)
    raise TypeError(f"{type(operation.head).__name__} has no instructions")


def _plan(emitter: Emitter, layers: list[CutLayer], batch: int) -> Plan:
    """Groups as large as fit on chip; where not even one image does, of the size that costs least an image."""
    need = smallest(lifetimes(emitter.graph, layers, 1))
    capacity = emitter.hardware.activation.memory_bytes
    if need <= capacity:
        fit = min(batch, MAX_IMAGES * 8, capacity // need)  # addresses grow in proportion to the tensors
        return Planner(emitter.graph, layers, emitter.hardware, fit).plan()
    sizes = {min(batch, 1 << power) for power in range(batch.bit_length() + 1)}
    plans = [Planner(emitter.graph, layers, emitter.hardware, size).plan() for size in sorted(sizes)]
    return min(plans, key=lambda plan: -(-batch // plan.images) * plan.cost.cycles)


def _layer(graph: IntegerGraph, operation: Operation, batch: int) -> Layer:
    head = operation.head
    return Layer(
        name=head.name,
        op=head.op,
        nodes=tuple(node.name for node in operation.nodes),
        macs=batch * graph.macs(head),
        outputs=batch * head.output.size,
    )
