"""Where in a program an addition of the integer graph is made: from an output element and k to a cycle."""

from __future__ import annotations

from collections.abc import Callable

from accelsim.compiler import compile_graph
from accelsim.config import Hardware
from accelsim.engine import Witness
from accelsim.ir import IntegerGraph, MaxPool2d
from accelsim.isa import Compute, Piece, Post, Program, Source
from accelsim.machine import Accelerator
from accelsim.timing import ArrayShape, memory_cycle, product_cycle


def overflow_cycle(graph: IntegerGraph, hardware: Hardware) -> Callable[[Witness], int | None]:
    """Compile and time a graph for single images; return what finds the cycle of an addition.

    An addition in the array is made in the cycle at whose end the PE's register takes the sum; one in the accumulator
    memory in the cycle in which the word is written. None for the fit at the end of a sum, which no hardware has, and
    where operands are swapped (input-stationary).

    Raises:
        InputError: the graph does not fit the machine.
    """
    program = compile_graph(graph, hardware)
    done = {issued.index: issued.done for issued in Accelerator(program).run(values=False).timeline}
    shape = ArrayShape.of(hardware)

    def cycle(witness: Witness) -> int | None:
        if witness.where == "end" or hardware.array.dataflow == "is":
            return None
        index, compute, word, lane, k = locate(program, graph, witness)
        if witness.where == "array":
            return product_cycle(compute, shape, done[index], word=word, lane=lane, k=k)
        run, position = (k, 0) if compute.diagonal else divmod(k, compute.run_bytes)
        tile = run * -(-compute.run_bytes // shape.rows) + position // shape.rows
        return memory_cycle(compute, shape, done[index], word=word, tile=tile)

    return cycle


def locate(program: Program, graph: IntegerGraph, witness: Witness) -> tuple[int, Compute, int, int, int]:
    """The COMPUTE that makes an addition: its index, itself, and the word, lane and k of the addition in it.

    A rectangle of sums is made by the COMPUTEs in front of the POST that drains it, one for each part of K.
    """
    label = next(number for number, layer in enumerate(program.layers) if witness.layer in layer.nodes)
    pieces = {piece.instruction: piece for piece in program.pieces}
    parts: list[tuple[int, Compute]] = []
    for index, instruction in enumerate(program.instructions):
        if instruction.label != label:
            continue
        if isinstance(instruction, Compute):
            parts.append((index, instruction))
        elif isinstance(instruction, Post) and instruction.source == Source.ACCUMULATOR:
            piece = pieces[index]
            y, x = _origin(graph, piece)
            first = parts[0][1]
            inside = y <= witness.y < y + first.y_count and x <= witness.x < x + first.x_count
            if piece.image == 0 and inside and piece.channel <= witness.channel < piece.channel + piece.lanes:
                word = (witness.y - y) * first.x_count + witness.x - x
                k = witness.k
                for number, compute in parts:
                    depth = compute.r_count * compute.s_count * (1 if compute.diagonal else compute.run_bytes)
                    if k < depth:
                        return number, compute, word, witness.channel - piece.channel, k
                    k -= depth
            parts = []
    raise AssertionError(f"no COMPUTE of program {program.name} makes {witness}")


def _origin(graph: IntegerGraph, piece: Piece) -> tuple[int, int]:
    """The layer's (y, x) of a rectangle's first word: a pool fused behind the layer counts in windows."""
    node = graph.by_name[piece.node]
    while not isinstance(node, MaxPool2d) and len(node.inputs) == 1 and node.op == "table":
        node = graph.by_name[node.inputs[0]]
    stride = node.stride if isinstance(node, MaxPool2d) else (1, 1)
    return piece.y * stride[0], piece.x * stride[1]
