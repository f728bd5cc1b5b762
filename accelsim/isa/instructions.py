"""The four instructions, their fields, and what each field means (docs/microarchitecture.md, section 5).

An instruction is 64 bytes, sixteen little-endian 32-bit words; no field crosses a word; unused bits are zero.
`LAYOUT` is the only statement of where a field lies: encoder, decoder, assembler and the RTL's package use it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from accelsim.errors import InputError

WORDS = 16
INSTRUCTION_BYTES = 4 * WORDS


class Unit(enum.IntEnum):
    """The four units; bit `unit` of a wait or signal mask names it."""

    LOAD = 0
    COMPUTE = 1
    POST = 2
    STORE = 3


class Memory(enum.IntEnum):
    """Where a LOAD writes. A STORE reads the activation buffer only."""

    ACTIVATION = 0
    WEIGHT = 1
    PARAMETER = 2
    TABLE = 3


class Start(enum.IntEnum):
    """What the first addition of a COMPUTE adds to."""

    ZERO = 0
    ACCUMULATE = 1  # the word in the accumulator memory
    BIAS = 2  # the lane's bias in the parameter buffer, fitted to the width


class Source(enum.IntEnum):
    """Where a POST reads its words."""

    ACCUMULATOR = 0
    ACTIVATION = 1


class Reduce(enum.IntEnum):
    """What a POST does with the words of one window."""

    NONE = 0
    MAX = 1
    SUM = 2  # sum of (q - Z_src), divided exactly by the count, rounded


class Kind(enum.Enum):
    """How a field's bits become its value."""

    UNSIGNED = "unsigned"
    SIGNED = "signed"
    MINUS_ONE = "minus one"  # value - 1 is stored, so 8 bits hold 1..256
    COUNT = "count"  # unsigned, and 0 is not a value
    CHOICE = "choice"  # one of three; 3 is not a value
    ACTIVATION = "activation"  # two's complement, or unsigned where act_unsigned is set
    WEIGHT = "weight"  # two's complement, or unsigned where weight_unsigned is set


class Field(NamedTuple):
    """One field: bits [low + bits - 1 : low] of word `word`."""

    name: str
    word: int
    low: int
    bits: int
    kind: Kind = Kind.UNSIGNED

    def limits(self, *, act_unsigned: bool = False, weight_unsigned: bool = False) -> tuple[int, int]:
        """Return the smallest and largest value, inclusive."""
        top = 1 << self.bits
        match self.kind:
            case Kind.UNSIGNED:
                return 0, top - 1
            case Kind.COUNT:
                return 1, top - 1
            case Kind.CHOICE:
                return 0, 2
            case Kind.MINUS_ONE:
                return 1, top
            case Kind.SIGNED:
                return -top // 2, top // 2 - 1
            case Kind.ACTIVATION:
                return (0, top - 1) if act_unsigned else (-top // 2, top // 2 - 1)
            case Kind.WEIGHT:
                return (0, top - 1) if weight_unsigned else (-top // 2, top // 2 - 1)


_HEAD = (
    Field("wait", 0, 24, 4),
    Field("signal", 0, 20, 4),
    Field("label", 0, 0, 12),
)
_TRANSFER = (
    *_HEAD,
    Field("memory", 0, 12, 2),
    Field("dram_address", 1, 0, 32),
    Field("buffer_address", 2, 0, 24),
    Field("row_bytes", 3, 0, 24, Kind.COUNT),
    Field("rows", 4, 0, 16, Kind.COUNT),
    Field("dram_step", 5, 0, 32, Kind.SIGNED),
    Field("buffer_step", 6, 0, 24, Kind.SIGNED),
)
_WALK = (
    Field("x_count", 5, 16, 16, Kind.COUNT),
    Field("y_count", 5, 0, 16, Kind.COUNT),
    Field("images", 8, 24, 8, Kind.COUNT),
    Field("r_count", 6, 24, 8, Kind.COUNT),
    Field("s_count", 7, 24, 8, Kind.COUNT),
    Field("in_row_bytes", 12, 0, 24),
    Field("x_first", 13, 0, 24, Kind.SIGNED),
    Field("y_first", 14, 16, 16, Kind.SIGNED),
    Field("in_height", 14, 0, 16),
    Field("stride_y", 9, 24, 8),
    Field("r_step", 9, 0, 24, Kind.SIGNED),
    Field("s_step", 10, 0, 24, Kind.SIGNED),
)
_COMPUTE = (
    *_HEAD,
    Field("start", 0, 12, 2, Kind.CHOICE),
    Field("diagonal", 0, 14, 1),
    Field("serial", 0, 15, 1),
    Field("output_stationary", 0, 16, 1),
    Field("act_unsigned", 0, 17, 1),
    Field("weight_unsigned", 0, 18, 1),
    Field("last", 0, 19, 1),
    Field("z_x", 1, 24, 8, Kind.ACTIVATION),
    Field("act_base", 1, 0, 24, Kind.SIGNED),
    Field("z_w", 2, 24, 8, Kind.WEIGHT),
    Field("weight_base", 2, 0, 24),
    Field("width", 3, 24, 8),
    Field("acc_base", 3, 0, 24),
    Field("lanes", 4, 24, 8, Kind.MINUS_ONE),
    Field("run_bytes", 4, 0, 24, Kind.COUNT),
    Field("x_step", 6, 0, 24, Kind.SIGNED),
    Field("y_step", 7, 0, 24, Kind.SIGNED),
    Field("image_step", 8, 0, 24, Kind.SIGNED),
    Field("dilation_y", 10, 24, 8),
    Field("activation_bits", 11, 20, 4),
    Field("weight_bits", 11, 16, 4),
    Field("param", 11, 0, 16),
    *_WALK,
)
_POST = (
    *_HEAD,
    Field("source", 0, 12, 1),
    Field("reduce", 0, 13, 2, Kind.CHOICE),
    Field("table_on", 0, 15, 1),
    Field("residual_on", 0, 16, 1),
    Field("broadcast", 0, 17, 1),
    Field("act_unsigned", 0, 18, 1),
    Field("count_padding", 0, 19, 1),
    Field("lanes", 1, 24, 8, Kind.MINUS_ONE),
    Field("src_base", 1, 0, 24, Kind.SIGNED),
    Field("z_src", 2, 24, 8, Kind.ACTIVATION),
    Field("dst_base", 2, 0, 24, Kind.SIGNED),
    Field("z_dst", 3, 24, 8, Kind.ACTIVATION),
    Field("residual_base", 3, 0, 24, Kind.SIGNED),
    Field("param", 4, 16, 16),
    Field("dst_x_step", 4, 0, 16, Kind.SIGNED),
    Field("src_image_step", 8, 0, 24, Kind.SIGNED),
    Field("src_x_step", 6, 0, 24, Kind.SIGNED),
    Field("src_y_step", 7, 0, 24, Kind.SIGNED),
    Field("z_residual", 10, 24, 8, Kind.ACTIVATION),
    Field("qmin", 11, 24, 8, Kind.ACTIVATION),
    Field("dst_y_step", 11, 0, 24, Kind.SIGNED),
    Field("qmax", 12, 24, 8, Kind.ACTIVATION),
    Field("table", 13, 24, 8),
    Field("dst_image_step", 15, 0, 24, Kind.SIGNED),
    *_WALK,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Instruction:
    """What every instruction has: a token mask to wait for, one to signal when done, and its layer's label."""

    UNIT: ClassVar[Unit]
    OPCODE: ClassVar[int]
    LAYOUT: ClassVar[tuple[Field, ...]]

    wait: int = 0
    signal: int = 0
    label: int = 0

    def waits(self) -> tuple[Unit, ...]:
        """Units a token is taken from before the first cycle, in the order stalls are attributed."""
        return tuple(unit for unit in Unit if self.wait >> unit & 1)

    def signals(self) -> tuple[Unit, ...]:
        """Units a token is given to when the instruction is done."""
        return tuple(unit for unit in Unit if self.signal >> unit & 1)

    def validate(self) -> None:
        """Raise `InputError` for a field outside its range or a token to the instruction's own unit."""
        act_unsigned = bool(getattr(self, "act_unsigned", 0))
        weight_unsigned = bool(getattr(self, "weight_unsigned", 0))
        kind: Any = type(self)  # Any: mypy holds it unhashable
        name = kind.__name__.upper()
        for key, bits, low, high in _ranges(kind, act_unsigned, weight_unsigned):
            value = getattr(self, key)
            if not low <= value <= high:
                raise InputError(f"{name}: {key} = {value} is outside {low}..{high}, its {bits}-bit field")
        if (self.wait | self.signal) >> self.UNIT & 1:
            raise InputError(f"{name}: a unit keeps its own order; it can neither wait for nor signal itself")


@lru_cache(maxsize=64)
def _ranges(kind: Any, act_unsigned: bool, weight_unsigned: bool) -> tuple[tuple[str, int, int, int], ...]:
    """(name, bits, smallest, largest) of every field of a subclass of `Instruction`."""
    return tuple(
        (field.name, field.bits, *field.limits(act_unsigned=act_unsigned, weight_unsigned=weight_unsigned))
        for field in kind.LAYOUT
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Load(Instruction):
    """Copy `rows` rows of `row_bytes` bytes from DRAM into a buffer; row i is at base + i * step on each side."""

    UNIT: ClassVar[Unit] = Unit.LOAD
    OPCODE: ClassVar[int] = 1
    LAYOUT: ClassVar[tuple[Field, ...]] = _TRANSFER

    memory: int
    dram_address: int
    buffer_address: int
    row_bytes: int
    rows: int = 1
    dram_step: int = 0
    buffer_step: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Store(Load):
    """Copy rows from the activation buffer to DRAM; the fields are LOAD's and `memory` is ACTIVATION."""

    UNIT: ClassVar[Unit] = Unit.STORE
    OPCODE: ClassVar[int] = 4

    memory: int = Memory.ACTIVATION


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute(Instruction):
    """A whole K loop of one rectangle of output pixels and at most C output channels.

    Loops r, s, chunk (tiles; weight rows follow that order, each ceil(lanes * weight_bits / 8) bytes), then image,
    y, x (M = images * y_count * x_count words). Lane l of word (image, y, x) of tile (r, s, chunk) is the byte at
    act_base + image*image_step + y*y_step + x*x_step + r*r_step + s*s_step + R*chunk + l. It is a tail lane where
    R*chunk + l >= run_bytes, else inside where 0 <= x_first + x*x_step + s*s_step + R*chunk + l < in_row_bytes and
    0 <= y_first + y*stride_y + r*dilation_y < in_height, else padding. Word m's accumulators are at acc_base + m.
    """

    UNIT: ClassVar[Unit] = Unit.COMPUTE
    OPCODE: ClassVar[int] = 2
    LAYOUT: ClassVar[tuple[Field, ...]] = _COMPUTE

    start: int = Start.ZERO
    diagonal: int = 0  # PE(i, i) takes lane i; run_bytes = lanes, one weight row for each (r, s)
    serial: int = 0  # the next tile's weight load begins after the previous tile's last product
    output_stationary: int = 0
    act_unsigned: int = 0
    weight_unsigned: int = 0
    last: int = 1  # this COMPUTE adds the last chunk: where saturate_at = end, sums are fitted now
    z_x: int = 0
    act_base: int
    z_w: int = 0
    weight_base: int
    width: int
    acc_base: int
    lanes: int
    run_bytes: int
    x_count: int = 1
    y_count: int = 1
    r_count: int = 1
    x_step: int = 0
    s_count: int = 1
    y_step: int = 0
    images: int = 1
    image_step: int = 0
    stride_y: int = 1
    r_step: int = 0
    dilation_y: int = 1
    s_step: int = 0
    activation_bits: int = 0  # of the streamed operand, for counting alone; 0: those of the modes
    weight_bits: int = 8
    param: int = 0
    in_row_bytes: int
    x_first: int = 0
    y_first: int = 0
    in_height: int = 1

    @property
    def words(self) -> int:
        """M: activation words streamed for each tile, one for each output pixel."""
        return self.images * self.y_count * self.x_count

    @property
    def weight_row_bytes(self) -> int:
        """Bytes of one packed weight row."""
        return -(-self.lanes * self.weight_bits // 8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Post(Instruction):
    """Words -> window reduction -> bias -> requantise -> + residual -> + Z, clip -> table -> activation buffer.

    Loops image, y, x (output words), then r, s (the window). The source word of (image, y, x, r, s) is at
    src_base + image*src_image_step + y*src_y_step + x*src_x_step + r*r_step + s*s_step: an accumulator word's index,
    or the byte address of its lane 0, then inside where 0 <= x_first + x*src_x_step + s*s_step + lane <
    in_row_bytes and 0 <= y_first + y*stride_y + r < in_height; words outside take no part. Output lane l goes to byte
    dst_base + image*dst_image_step + y*dst_y_step + x*dst_x_step + l, and the residual is read at the same offset
    from residual_base. Lane l's record is param + l (its residual's param + lanes + l), or, with broadcast, output
    word w's record is param + w.
    """

    UNIT: ClassVar[Unit] = Unit.POST
    OPCODE: ClassVar[int] = 3
    LAYOUT: ClassVar[tuple[Field, ...]] = _POST

    source: int = Source.ACCUMULATOR
    reduce: int = Reduce.NONE
    table_on: int = 0
    residual_on: int = 0
    broadcast: int = 0
    act_unsigned: int = 0
    count_padding: int = 0  # SUM divides by the whole window's size, else by the words inside
    lanes: int
    src_base: int
    z_src: int = 0
    dst_base: int
    z_dst: int = 0
    residual_base: int = 0
    param: int
    dst_x_step: int = 0
    x_count: int = 1
    y_count: int = 1
    images: int = 1
    src_image_step: int = 0
    r_count: int = 1
    src_x_step: int = 0
    s_count: int = 1
    src_y_step: int = 0
    stride_y: int = 0
    r_step: int = 0
    z_residual: int = 0
    s_step: int = 0
    qmin: int
    dst_y_step: int = 0
    qmax: int
    in_row_bytes: int = 0
    table: int = 0
    x_first: int = 0
    y_first: int = 0
    in_height: int = 0
    dst_image_step: int = 0

    @property
    def words(self) -> int:
        """Output words."""
        return self.images * self.y_count * self.x_count

    @property
    def window(self) -> int:
        """Source words of one output word."""
        return self.r_count * self.s_count


OPCODES: dict[int, type[Instruction]] = {kind.OPCODE: kind for kind in (Load, Compute, Post, Store)}
for _kind in OPCODES.values():
    assert {f.name for f in _kind.LAYOUT} == {f.name for f in fields(_kind)}, _kind
