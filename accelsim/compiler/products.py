"""One matrix product as a program, with operands of any of the three arithmetics (docs/arithmetic.md).

The same loops for all, so that programs differ by the machine alone: for each block of rows of A and of at most C
columns of B, the blocks of K are loaded, multiplied and added; then POST and STORE. Every buffer is halved, so that a
block is loaded while the one before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from accelsim.compiler.allocation import DramImage
from accelsim.compiler.synchronisation import synchronise
from accelsim.config import RECORD_BYTES, Hardware
from accelsim.errors import InputError
from accelsim.isa import (
    Compute,
    Instruction,
    Layer,
    Load,
    Memory,
    Modes,
    Post,
    Program,
    Start,
    Store,
    TensorRegion,
    pack_records,
)
from accelsim.timing import TIMING_VERSION, longest_path

Int64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
MOST_INSTRUCTIONS = 60_000
MOST_WORDS = 65_535
"""`x_count` and a transfer's `rows` hold 16 bits."""
MOST_POSITIONS = (1 << 24) - 1
"""`run_bytes`, and what a mask counts, hold 24 bits."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Operands:
    """A (M, K) times B (K, N) as the buffers hold them.

    Attributes:
        left: int8 or float32 (M, K). right: int8 or float32 (K, N).
        bias, m0, shift: int64 (N,), of POST's records; None where results are float32.
        clip: limits of a code that results.
    """

    left: npt.NDArray[np.int8] | npt.NDArray[np.float32]
    right: npt.NDArray[np.int8] | npt.NDArray[np.float32]
    records: tuple[Int64, Int64, Int64] | None
    clip: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """M, K and N."""
        return self.left.shape[0], self.left.shape[1], self.right.shape[1]


@dataclass(frozen=True)
class _Blocks:
    """Rows of A and positions of K taken at once."""

    words: int
    depth: int


def compile_product(name: str, operands: Operands, hardware: Hardware, modes: Modes) -> Program:
    """Return the product's program with the fewest cycles of those with different blocks of K.

    Results are int8 codes (M, N), or float32; the program's output region counts bytes, 4 N of each row of floats.

    Raises:
        InputError: the machine's buffers are too small, or the product takes too many instructions.
    """
    tried = [_program(name, operands, hardware, modes, blocks) for blocks in _candidates(operands, hardware)]
    if not tried:
        m, k, n = operands.shape
        raise InputError(
            f"a product of {m} x {k} x {n} takes more than {MOST_INSTRUCTIONS:,} instructions on {hardware.name}; use "
            "a smaller product or larger buffers"
        )
    best = min(tried, key=lambda program: longest_path(program.instructions, hardware).cycles)
    _ = best.order  # the static check
    return best


def _candidates(operands: Operands, hardware: Hardware) -> Iterator[_Blocks]:
    """The whole of K, and halves of it in whole words of R, each with as many rows of A as fit."""
    m, k, n = operands.shape
    rows, columns, each = hardware.array.rows, min(hardware.array.columns, n), hardware.element_bytes
    half_weight, half_activation = hardware.weight.memory_bytes // 2, hardware.activation.memory_bytes // 2
    depth, fits = k, False
    while True:
        words = min(
            *(m, hardware.accumulator_depth // 2, MOST_WORDS, MOST_POSITIONS // depth),
            half_activation // (each.activation * (depth + columns)),
        )
        if words and depth * columns * each.weight <= half_weight:
            fits = True
            blocks = -(-k // depth)
            if -(-m // words) * -(-n // columns) * (3 * blocks + 3) <= MOST_INSTRUCTIONS:
                yield _Blocks(words, depth)
        if depth <= rows:
            break
        depth = -(-((depth + 1) // 2) // rows) * rows
    if operands.records is not None and hardware.parameter.memory_bytes < 2 * columns * RECORD_BYTES:
        raise InputError(
            f"{hardware.name}: parameter.memory_bytes = {hardware.parameter.memory_bytes} must hold the records of "
            f"{columns} columns twice; use at least {2 * columns * RECORD_BYTES}"
        )
    if not fits:
        least = min(k, rows)
        raise InputError(
            f"{hardware.name}: half of weight.memory_bytes = {hardware.weight.memory_bytes} must hold {least} rows of "
            f"{columns} weights of {each.weight} bytes, and half of activation.memory_bytes = "
            f"{hardware.activation.memory_bytes} {least + columns} elements of {each.activation}; use larger buffers"
        )


def _program(name: str, operands: Operands, hardware: Hardware, modes: Modes, blocks: _Blocks) -> Program:
    m, _, n = operands.shape
    dram = DramImage()
    floats = operands.records is None
    left = dram.add(_bytes(operands.left))
    output = dram.reserve(m * n * hardware.element_bytes.activation)
    instructions = list(_Emitter(operands, hardware, blocks, dram, left, output).emit())
    row = n * hardware.element_bytes.activation

    def region(node: str, address: int, shape: tuple[int, int, int]) -> TensorRegion:
        return TensorRegion(node=node, address=address, batch=1, shape=shape, scale=1.0, zero_point=0)

    return Program(
        name=name,
        instructions=synchronise(instructions, hardware.element_bytes),
        modes=modes,
        hardware=hardware,
        timing_version=TIMING_VERSION,
        dram=dram.bytes(),
        input=region("left", left, (1, 1, operands.left.nbytes)),
        output=region("product", output, (m, 1, row)),
        layers=(
            Layer(name="product", op="linear", nodes=("product",), macs=int(np.prod(operands.shape)), outputs=m * n),
        ),
        pieces=(),
        shapes={} if floats else {"product": (m, 1, n)},
    )


class _Emitter:
    """Instructions in serial order; `synchronise` makes them overlap."""

    def __init__(
        self, operands: Operands, hardware: Hardware, blocks: _Blocks, dram: DramImage, left: int, output: int
    ) -> None:
        self.operands, self.hardware, self.blocks = operands, hardware, blocks
        self.left, self.output = left, output
        self.m, self.k, self.n = operands.shape
        self.columns = min(hardware.array.columns, self.n)
        self.weights: dict[tuple[int, int], int] = {}  # (first column, first position): address in DRAM
        for column in range(0, self.n, self.columns):
            block = operands.right[:, column : column + self.columns]
            address = dram.add(_bytes(block))
            for position in range(0, self.k, blocks.depth):
                self.weights[column, position] = address + position * block.shape[1] * block.itemsize
        self.records = None if operands.records is None else dram.add(pack_records(*operands.records).ravel())
        self.turns: dict[str, int] = {}

    def emit(self) -> Iterator[Instruction]:
        """Everything, without tokens."""
        for first in range(0, self.m, self.blocks.words):
            words = min(self.blocks.words, self.m - first)
            activations = None
            for column in range(0, self.n, self.columns):
                lanes = min(self.columns, self.n - column)
                sums = self._turn("sums") * self.blocks.words
                for position in range(0, self.k, self.blocks.depth):
                    depth = min(self.blocks.depth, self.k - position)
                    if activations is None or self.blocks.depth < self.k:
                        activations = self._turn("activations") * self._area()
                        yield self._load_left(first, position, words, depth, activations)
                    weights = self._turn("weights") * self._weight_area()
                    size = depth * lanes * self.operands.right.itemsize
                    yield Load(
                        memory=Memory.WEIGHT,
                        dram_address=self.weights[column, position],
                        buffer_address=weights,
                        row_bytes=size,
                    )
                    last = position + depth == self.k
                    yield self._compute(position, words, depth, lanes, activations, weights, sums, last=last)
                yield from self._finish(first, column, words, lanes, sums)

    def _turn(self, what: str) -> int:
        """0, 1, 0, 1, ...: which half of a memory is filled."""
        self.turns[what] = self.turns.get(what, 1) ^ 1
        return self.turns[what]

    def _area(self) -> int:
        """Elements of one block of A; both halves of the activation buffer hold two, and a block of results each."""
        return self.blocks.words * self.blocks.depth

    def _weight_area(self) -> int:
        return self.blocks.depth * self.columns * self.operands.right.itemsize

    def _load_left(self, first: int, position: int, words: int, depth: int, area: int) -> Load:
        size = self.operands.left.itemsize
        address = self.left + (first * self.k + position) * size
        whole = depth == self.k
        return Load(
            memory=Memory.ACTIVATION,
            dram_address=address,
            buffer_address=area * size,
            row_bytes=depth * size * (words if whole else 1),
            rows=1 if whole else words,
            dram_step=0 if whole else self.k * size,
            buffer_step=0 if whole else depth * size,
        )

    def _compute(
        self,
        position: int,
        words: int,
        depth: int,
        lanes: int,
        activations: int,
        weights: int,
        sums: int,
        *,
        last: bool,
    ) -> Compute:
        return Compute(
            start=Start.ACCUMULATE if position else Start.ZERO,
            output_stationary=int(self.hardware.array.dataflow == "os"),
            last=int(last),
            act_base=activations,
            weight_base=weights,
            width=self.hardware.accumulator.width_bits,
            acc_base=sums,
            lanes=lanes,
            run_bytes=depth,
            x_count=words,
            x_step=depth,
            in_row_bytes=words * depth,
        )

    def _finish(self, first: int, column: int, words: int, lanes: int, sums: int) -> Iterator[Instruction]:
        """Parameters if there are any, POST and STORE of one rectangle of results."""
        size = self.hardware.element_bytes.activation
        param = 0
        if self.records is not None:
            param = self._turn("records") * self.columns
            yield Load(
                memory=Memory.PARAMETER,
                dram_address=self.records + column * RECORD_BYTES,
                buffer_address=param * RECORD_BYTES,
                row_bytes=lanes * RECORD_BYTES,
            )
        results = 2 * self._area() + self._turn("results") * self.blocks.words * self.columns
        low, high = self.operands.clip
        yield Post(
            lanes=lanes,
            src_base=sums,
            src_x_step=1,
            x_count=words,
            dst_base=results,
            dst_x_step=lanes,
            param=param,
            qmin=low,
            qmax=high,
        )
        whole = lanes == self.n
        yield Store(
            dram_address=self.output + (first * self.n + column) * size,
            buffer_address=results * size,
            row_bytes=lanes * size * (words if whole else 1),
            rows=1 if whole else words,
            dram_step=0 if whole else self.n * size,
            buffer_step=0 if whole else lanes * size,
        )


def _bytes(values: npt.NDArray[np.generic]) -> Bytes:
    data = np.ascontiguousarray(values)
    return data.astype(data.dtype.newbyteorder("<")).view(np.uint8).ravel()
