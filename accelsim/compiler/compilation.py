"""compile: integer graph + hardware -> program, as a list of passes.

1. check what the machine supports  2. lower: fuse nodes into operations  3. place: addresses of activation tensors
4. emit: instructions in serial order, constants into the DRAM image  5. synchronise: tokens  6. the static check.
"""

from __future__ import annotations

import numpy as np

from accelsim.compiler.allocation import DramImage, Lifetime, place, smallest
from accelsim.compiler.elementwise import emit_elementwise
from accelsim.compiler.emission import MAX_IMAGES, Emitter, Place
from accelsim.compiler.lowering import Operation, lower
from accelsim.compiler.macs import emit_mac
from accelsim.compiler.stationary_inputs import check_swappable, emit_stationary_inputs
from accelsim.compiler.synchronisation import synchronise
from accelsim.config import Hardware
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Mac, largest_sum, refuse_host_operators
from accelsim.isa import Instruction, Layer, Memory, Modes, Program, TensorRegion
from accelsim.numerics import Rounding
from accelsim.timing import TIMING_VERSION


def compile_graph(graph: IntegerGraph, hardware: Hardware, batch: int = 1) -> Program:
    """Compile a graph for one machine and a batch of images.

    Every activation tensor between layers stays on chip. Where those of the whole batch do not fit, the batch is
    run in groups of images, as large as fit.

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
    swapped = hardware.array.dataflow == "is"
    if swapped:
        check_swappable(graph, operations)
        block = emit_stationary_inputs(emitter, operations[0], batch, input_address, output_address)
    else:
        block = 0
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
            layout="columns" if swapped else "nhwc",
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
            layout="columns" if swapped else "nhwc",
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
        if isinstance(node, Mac) and graph.requantization.rounding is Rounding.TFLITE_DOUBLE:
            _check_int32(graph, node, hardware)
        if isinstance(node, Mac) and (node.accumulator_width_bits or 0) > hardware.accumulator.width_bits:
            raise InputError(
                f"layer {node.name}: accumulator_width_bits = {node.accumulator_width_bits} exceeds "
                f"accumulator.width_bits = {hardware.accumulator.width_bits} of machine {hardware.name}; lower one or "
                "raise the other"
            )


def _check_int32(graph: IntegerGraph, node: Mac, hardware: Hardware) -> None:
    """tflite_double takes int32: refuse a layer whose accumulator plus bias is not proved to fit."""
    width = node.accumulator_width_bits or hardware.accumulator.width_bits
    bias = int(np.abs(node.bias).max())
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
    graph, hardware = emitter.graph, emitter.hardware
    lifetimes = _lifetimes(graph, operations)
    size, addresses = _largest_group(graph, lifetimes, hardware, batch)
    source, result = graph.input, graph.by_name[graph.output]
    for first in range(0, batch, size):
        images = min(size, batch - first)
        places = {name: Place(address, graph.by_name[name].output) for name, address in addresses.items()}
        moved = images * source.output.size
        emitter.load(0, Memory.ACTIVATION, input_address + first * source.output.size, addresses[source.name], moved)
        for operation in operations:
            into = places[operation.result.name]
            reads = [places[name] for name in operation.head.inputs]
            if isinstance(operation.head, Mac):
                emit_mac(emitter, operation, reads[0], into, images, first)
            else:
                emit_elementwise(emitter, operation, reads, into, images, first)
            if operation.result is result:
                emitter.store(
                    operation.label, into.base, output_address + first * result.output.size, images * result.output.size
                )


def _lifetimes(graph: IntegerGraph, operations: list[Operation]) -> list[Lifetime]:
    """Activation tensors of one image, with the operations they live through."""
    made = {graph.input.name: 0} | {operation.result.name: operation.label for operation in operations}
    last = dict(made)
    for operation in operations:
        for name in operation.head.inputs:
            last[name] = operation.label
    return [
        Lifetime(name=name, size=graph.by_name[name].output.size, first=made[name], last=last[name]) for name in made
    ]


def _largest_group(
    graph: IntegerGraph, lifetimes: list[Lifetime], hardware: Hardware, batch: int
) -> tuple[int, dict[str, int]]:
    """As many images as fit the activation buffer at once, and the addresses of their tensors."""
    capacity = hardware.activation.memory_bytes
    need = smallest(lifetimes)
    size = min(batch, MAX_IMAGES * 8, capacity // need)  # addresses grow in proportion to the tensors
    grown = [Lifetime(name=t.name, size=size * t.size, first=t.first, last=t.last) for t in lifetimes]
    addresses = place(grown, capacity) if size else None
    if addresses is not None:
        return size, addresses
    steps = range(max(tensor.last for tensor in lifetimes) + 1)
    _, step = max((sum(t.size for t in lifetimes if t.first <= k <= t.last), -k) for k in steps)
    alive = [t.name for t in lifetimes if t.first <= -step <= t.last]
    raise InputError(
        f"{graph.name} does not fit: its tensors {', '.join(alive)} live together and need {need} bytes of the "
        f"activation buffer, {capacity} there; use activation.memory_bytes >= {need} or a smaller input"
    )


def _layer(graph: IntegerGraph, operation: Operation, batch: int) -> Layer:
    head = operation.head
    return Layer(
        name=head.name,
        op=head.op,
        nodes=tuple(node.name for node in operation.nodes),
        macs=batch * graph.macs(head) if isinstance(head, Mac) else 0,
        outputs=batch * head.output.size,
    )
