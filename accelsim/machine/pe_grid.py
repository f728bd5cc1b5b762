"""The COMPUTE unit register by register: the slow, independent oracle of its cycles, counts and bits.

Every register is stepped in every cycle: PE weights, shadows, activations, the multiply-add's pipeline, partial sums
and waves, skew and deskew lines, word registers, drain and preload chains, the accumulator pipe and the fetch
sequencer. Control is evaluated each cycle from registers ("the port is free", "the shadow is free",
"the array is empty"); nothing here computes a time in closed form, and neither `accelsim.timing` nor
`accelsim.numerics` is used, so that agreement with them is evidence (docs/microarchitecture.md, COMPUTE and "who
checks whom").

Sample, then update: within a cycle everything is read from the registers' old contents, then all are written.
"In cycle t" below means: on the wires of cycle t; a register written in cycle t shows it from t + 1 on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from accelsim.isa.instructions import Compute, Start

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Registers = Mapping[str, npt.NDArray[np.int64] | int]
Observe = Callable[[int, Registers], None]
Wires = Mapping[str, npt.NDArray[np.int64] | npt.NDArray[np.bool_] | int]
Probe = Callable[[int, Registers, Wires], None]

COUNTERS = (
    *("mul", "add.array", "add.accumulator"),
    *("register.activation", "register.psum", "register.weight", "register.skew"),
    *("read.activation", "read.weight", "read.accumulator", "read.parameter", "write.accumulator"),
)
EXACT_BITS = 62  # widest register whose sum with a product or with another such register fits int64
BIAS_BYTES = 4  # of a parameter record
NONE = -1  # a tag: no tile here; tables indexed by it end in an all-zero entry

# A wave's flags: what travels with an activation through the array, beside its tile's tag.
LIVE, FIRST, LAST = 1, 2, 4
IDLE = (NONE, 0, 0, 0)  # the streamer's command where it reads nothing
# What a PE does with a wave of a tile (`_Tile.duties`).
MULTIPLY, PASS_ACTIVATION, PASS_PSUM = 1, 2, 4


@dataclass(frozen=True, kw_only=True)
class GridConfig:
    """What the array is built as: R rows, C columns, partial sums of `psum_bits`, and how additions fit.

    A PE's multiply-add takes `mac_latency` cycles, adds in the last `add_latency` of them, and takes operands every
    `mac_interval`; interval and addition are no longer than the whole.
    """

    rows: int
    columns: int
    psum_bits: int
    overflow: Literal["saturate", "wrap"]
    saturate_at: Literal["every_add", "end"]
    subtract_zero_points: bool
    mac_latency: int = 1
    mac_interval: int = 1
    add_latency: int = 1


@dataclass
class GridRun:
    """What stepping has shown.

    Attributes:
        issue, done: cycle of each instruction's first buffer access, and of its last accumulator write.
        accumulators: int64 (depth, columns), the memory afterwards.
        captures: counted as they happened; bytes for buffers, words' elements for the accumulator memory.
        overflows: additions whose exact result left its range.
        psum_min, psum_max: extremes of the exact sums and of the start values; None if nothing was added.
        span: of each instruction, first weight load (ws) or issue (os), and the last product's wave at PE(R-1, C-1).
    """

    issue: list[int]
    done: list[int]
    accumulators: Int64
    captures: dict[str, int]
    overflows: int
    psum_min: int | None
    psum_max: int | None
    span: list[tuple[int, int]]


def run(
    computes: Sequence[Compute],
    config: GridConfig,
    *,
    activation: npt.NDArray[np.uint8],
    weight: npt.NDArray[np.uint8],
    accumulators: Int64,
    bias: Int64,
    ready: Sequence[int] | None = None,
    observe: Observe | None = None,
    probe: Probe | None = None,
    max_cycles: int = 1_000_000,
) -> GridRun:
    """Step COMPUTE instructions in program order until all are done; cycle 0 is the first that may issue.

    Args:
        activation, weight: uint8, the buffers' bytes.
        accumulators: int64 (depth, columns); not changed.
        bias: int64, of each parameter record; lane l starts from bias[param + l].
        ready: earliest issue cycle of each instruction (its tokens are there); 0 if not given.
        observe: called in every cycle with the cycle and the registers it starts from.
        probe: called in every cycle with the cycle, the registers as it leaves them and what was on its wires: what
            is fetched and loaded (`fetch.*`, `load.*`), what the PEs add (`pe.*`, absent where none does) and what
            the accumulator memory writes (`write.*`, absent where it does not); int64 (R, C) and (C,), `pe.on` bool.
    Raises:
        ValueError: an instruction this array cannot run.
        RuntimeError: not done within `max_cycles`, or two values met in one register.
    """
    grid = _Grid(
        computes,
        config,
        activation=activation,
        weight=weight,
        accumulators=accumulators,
        bias=bias,
        ready=ready,
        observe=observe,
        probe=probe,
    )
    return grid.run(max_cycles)


# --- instructions as the buffers serve them ----------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """A run's part of at most R positions, one word of each pixel: tap (r, s), first position, length."""

    r: int
    s: int
    start: int
    length: int
    weight_row: int  # of its first position, from weight_base


@dataclass
class _Operands:
    """What the two buffers deliver for one instruction.

    Attributes:
        words: int64 (pieces, M, R), the multipliers' operands; 0 on tail lanes.
        inside: int64 (pieces, M), bytes really read.
        weights: int64 (weight rows, C), 0 from `lanes` on.
    """

    pieces: list[_Piece]
    words: Int64
    inside: Int64
    weights: Int64


def _operands(
    compute: Compute, config: GridConfig, activation: npt.NDArray[np.uint8], weight: npt.NDArray[np.uint8]
) -> _Operands:
    c, rows = compute, config.rows
    pieces: list[_Piece] = []
    weight_row = 0
    for r in range(c.r_count):
        for s in range(c.s_count):
            for start in range(0, c.run_bytes, rows):
                length = min(rows, c.run_bytes - start)
                pieces.append(_Piece(r, s, start, length, weight_row))
                weight_row += 1 if c.diagonal else length
    image, y, x, lane = np.meshgrid(
        *(np.arange(n, dtype=np.int64) for n in (c.images, c.y_count, c.x_count, rows)), indexing="ij"
    )
    words, inside = [], []
    for piece in pieces:
        position = c.x_first + x * c.x_step + piece.s * c.s_step + piece.start + lane
        line = c.y_first + y * c.stride_y + piece.r * c.dilation_y
        used = lane < piece.length
        read = used & (position >= 0) & (position < c.in_row_bytes) & (line >= 0) & (line < c.in_height)
        address = c.act_base + image * c.image_step + y * c.y_step + x * c.x_step
        address += piece.r * c.r_step + piece.s * c.s_step + piece.start + lane
        byte = activation[np.where(read, address, 0)].astype(np.int64)
        if not c.act_unsigned:
            byte = np.where(byte < 128, byte, byte - 256)
        value = np.where(read, byte, c.z_x) - (c.z_x if config.subtract_zero_points else 0)
        words.append(np.where(used, value, 0).reshape(c.words, rows))
        inside.append(read.reshape(c.words, rows).sum(axis=1))
    weights = np.zeros((weight_row, config.columns), dtype=np.int64)
    top = 1 << c.weight_bits
    for row in range(weight_row):
        first = c.weight_base + row * c.weight_row_bytes
        packed = int.from_bytes(weight[first : first + c.weight_row_bytes].tobytes(), "little")
        for column in range(c.lanes):
            value_ = packed >> column * c.weight_bits & top - 1
            if not c.weight_unsigned and value_ >= top // 2:
                value_ -= top
            weights[row, column] = value_ - (c.z_w if config.subtract_zero_points else 0)
    return _Operands(pieces, np.array(words), np.array(inside, dtype=np.int64), weights)


@dataclass(frozen=True)
class _Tile:
    """What the sequencer works off: ws, one piece for all M words; os, all pieces for at most R words."""

    instruction: int
    compute: Compute
    operands: _Operands
    piece: int  # ws
    first_word: int  # os
    words: int  # words it writes
    first: bool  # of its instruction
    final: bool  # of its instruction

    @property
    def length(self) -> int:
        """Rows with a weight (ws)."""
        return self.operands.pieces[self.piece].length

    @property
    def preloaded(self) -> bool:
        """Whether an os tile's sums start from words shifted in from the top."""
        return bool(self.compute.output_stationary) and self.compute.start != Start.ZERO

    def duties(self, rows: int, columns: int) -> Int64:
        """What PE(i, j) does with this tile's waves: MULTIPLY | PASS_ACTIVATION | PASS_PSUM."""
        i, j = np.indices((rows, columns))
        used = j < self.compute.lanes
        if self.compute.output_stationary:
            return np.where(used & (i < self.words), MULTIPLY | PASS_ACTIVATION | PASS_PSUM, 0)
        if self.compute.diagonal:
            lane = i < self.compute.lanes
            return MULTIPLY * (lane & (i == j)) + PASS_ACTIVATION * (lane & (j <= i)) + PASS_PSUM * used
        return (MULTIPLY | PASS_ACTIVATION) * (used & (i < self.length)) + PASS_PSUM * used


def _tiles(number: int, compute: Compute, config: GridConfig, operands: _Operands) -> list[_Tile]:
    if compute.output_stationary:
        parts = [(0, first, min(config.rows, compute.words - first)) for first in range(0, compute.words, config.rows)]
    else:
        parts = [(piece, 0, compute.words) for piece in range(len(operands.pieces))]
    last = len(parts) - 1
    return [_Tile(number, compute, operands, *part, n == 0, n == last) for n, part in enumerate(parts)]


# --- registers ---------------------------------------------------------------------------------------------


class _DelayLines:
    """Line n delays its value by `lengths[n]` registers. A tag rides along; NONE marks an empty register.

    Where `valid_below` is given, tags from there on are control without data: they ride along, but uncounted.
    """

    def __init__(self, lengths: Int64, *, valid_below: int | None = None):
        self._valid_below = valid_below
        depth, lines = int(lengths.max(initial=0)), lengths.size
        self.value = np.zeros((depth, lines), dtype=np.int64)
        self.tag = np.full((depth, lines), NONE, dtype=np.int64)
        self._exists = np.arange(depth)[:, None] < lengths
        self._wire = lengths == 0
        self._end = np.maximum(lengths, 1) - 1, np.arange(lines)

    def output(self, value: Int64, tag: Int64) -> tuple[Int64, Int64]:
        """What leaves in this cycle, while (value, tag) enters; a line without registers is a wire."""
        if not self.value.size:
            return value, tag
        return np.where(self._wire, value, self.value[self._end]), np.where(self._wire, tag, self.tag[self._end])

    def shift(self, value: Int64, tag: Int64) -> int:
        """End of the cycle: all move on. Return the number of captures of valid data."""
        if not self.value.size:
            return 0
        self.value[1:] = self.value[:-1]
        self.tag[1:] = self.tag[:-1]
        self.value[0] = value
        self.tag[0] = tag
        valid = self._exists & (self.tag >= 0)
        if self._valid_below is not None:
            valid &= self.tag < self._valid_below
        return int(np.count_nonzero(valid))


class _Work(NamedTuple):
    """What every PE has in one stage of its multiply-add; arrays (R, C).

    Attributes:
        value: the product, then the sum.
        start: os, what the first product is added to.
        multiplies: a product is added; elsewhere the sum is passed on.
        passes: ws, the PE's register takes the sum.
        live: a product of the wave is in one of its row's PEs, be it gated in this one.
        first, last: os, of a tile.
        wave: the tile's tag, NONE where the stage is empty.
    """

    value: Int64
    start: Int64
    multiplies: Bool
    passes: Bool
    live: Bool
    first: Bool
    last: Bool
    wave: Int64


class _Pipeline:
    """Registers between the stages of every PE's multiply-add: what enters leaves `depth` cycles later."""

    def __init__(self, depth: int, empty: _Work):
        self.held = deque([empty] * depth)

    def shift(self, entering: _Work) -> _Work:
        """One cycle; without registers it is a wire."""
        if not self.held:
            return entering
        self.held.append(entering)
        return self.held.popleft()


class _Grid:
    """The unit's registers and one method for each part, called once a cycle."""

    def __init__(
        self,
        computes: Sequence[Compute],
        config: GridConfig,
        *,
        activation: npt.NDArray[np.uint8],
        weight: npt.NDArray[np.uint8],
        accumulators: Int64,
        bias: Int64,
        ready: Sequence[int] | None = None,
        observe: Observe | None = None,
        probe: Probe | None = None,
        early_load: bool = False,
    ):
        for compute in computes:
            _check(compute, config)
        self.config, self.observe, self.probe, self.early_load = config, observe, probe, early_load
        self.wires: dict[str, Int64 | Bool | int] = {}  # of this cycle, if there is a probe
        self.bias = bias
        self.ready = list(ready) if ready is not None else [0] * len(computes)
        self.tiles: list[_Tile] = []
        for number, compute in enumerate(computes):
            operands = _operands(compute, config, activation, weight)
            self.tiles += _tiles(number, compute, config, operands)
        R, C = config.rows, config.columns
        # Tables by tag, all zero at NONE. RTL carries these few bits with the wave instead of a tag.
        self.duties = np.zeros((len(self.tiles) + 1, R, C), dtype=np.int64)
        self.low = np.zeros(len(self.tiles) + 1, dtype=np.int64)
        self.high = np.zeros(len(self.tiles) + 1, dtype=np.int64)
        self.lanes = np.zeros(len(self.tiles) + 1, dtype=np.int64)
        for tag, tile in enumerate(self.tiles):
            self.duties[tag] = tile.duties(R, C)
            self.low[tag], self.high[tag] = _limits(self._psum_bits(tile.compute))
            self.lanes[tag] = tile.compute.lanes
        self.preloads = np.array([tile.preloaded for tile in self.tiles] + [False])
        # Registers that no instruction given uses are not stepped.
        self.has_diagonal = any(compute.diagonal for compute in computes)
        self.i, self.j = np.indices((R, C))
        self.columns = np.arange(C)

        # Results
        self.cycle = 0
        self.issue = [NONE] * len(computes)
        self.done = [NONE] * len(computes)
        self.last_wave = [NONE] * len(computes)
        self.captures = dict.fromkeys(COUNTERS, 0)
        self.overflows = 0
        self.psum_min: int | None = None
        self.psum_max: int | None = None

        # Sequencer registers
        self.output_stationary = False
        self.outstanding = 0  # instructions issued and not done
        self.load_tile = 0  # next to be loaded: ws, its weights into the shadows; os, its start values if it has any
        self.load_row = 0  # of a load that has begun: rows read
        self.loaded = 0  # tiles loaded and not yet streamed
        self.stream_tile = 0  # next to be streamed
        self.stream_word = 0  # of a tile that has begun: ws, words read; os, operand steps of row 0's slots
        self.stream_wait = 0  # ws: cycles until PE(0, 0) takes operands again
        self.stream_phase = 0  # os: cycles of a step that has begun

        # Edge registers
        # Control: tag, flags; os also piece and byte. Row i sees it i cycles late in os, and in ws as many cycles as
        # i additions take.
        self.row_control = np.repeat(np.array(IDLE)[:, None], config.add_latency * (R - 1) + 1, axis=1)
        self.word = np.zeros((R, R), dtype=np.int64)  # os: row i's word of R bytes
        self.skew_activation = _DelayLines(config.add_latency * np.arange(R))
        self.skew_weight = _DelayLines(np.arange(C), valid_below=R)  # tag: row; row + R, a gated PE's
        self.skew_diagonal = _DelayLines(np.arange(C))  # ws, diagonal: lane j waits for row j
        self.skew_preload = _DelayLines(np.arange(C))  # os; tag: rows still to go down
        self.deskew = _DelayLines(C - 1 - np.arange(C))

        # PE registers
        def pe(fill: int = 0) -> Int64:
            return np.full((R, C), fill, dtype=np.int64)

        self.activation, self.weight, self.shadow, self.psum = pe(), pe(), pe(), pe()
        self.control = np.stack((pe(NONE), pe()))  # of the wave that was here in the cycle before: tag, flags
        nothing, no = pe(), np.zeros((R, C), dtype=np.bool_)
        empty = _Work(nothing, nothing, no, no, no, no, no, pe(NONE))
        self.multiplying = _Pipeline(config.mac_latency - config.add_latency, empty)
        self.adding = _Pipeline(config.add_latency - 1, empty)
        self.psum_tag = pe(NONE)  # ws: whose sum was written in the cycle before
        self.step_cycles = max(config.mac_interval, config.add_latency)  # os: the next product needs unit and sum
        self.preload, self.preload_hops = pe(), pe(NONE)  # os: a start value and the rows it still has to go down
        self.drain, self.drain_tag, self.drain_moves = pe(), pe(NONE), pe()  # os: a sum, whose, and is it on its way
        self.release = np.zeros(C, dtype=np.int64)  # os: column j's bottom PE has just given its sum

        # Accumulator memory and its pipe: read and select in one cycle, add and write in the next
        self.memory = accumulators.astype(np.int64)
        self.out_word = 0  # words of the tile that is leaving which have arrived
        self.bias_register = np.zeros(C, dtype=np.int64)
        self.pipe_tag, self.pipe_address, self.pipe_last = NONE, 0, False
        self.pipe_operand = np.zeros(C, dtype=np.int64)
        self.pipe_psum = np.zeros(C, dtype=np.int64)

    def run(self, max_cycles: int) -> GridRun:
        """Step until everything is done."""
        while NONE in self.done:
            if self.cycle >= max_cycles:
                raise RuntimeError(f"pe_grid: not done after {max_cycles} cycles")
            self.step()
            self.cycle += 1
        return GridRun(
            issue=self.issue,
            done=self.done,
            accumulators=self.memory,
            captures=self.captures,
            overflows=self.overflows,
            psum_min=self.psum_min,
            psum_max=self.psum_max,
            span=list(zip(self.issue, self.last_wave, strict=True)),
        )

    def step(self) -> None:
        """One cycle."""
        if self.observe is not None:
            self.observe(self.cycle, self.registers())
        idle = not self.outstanding and self.stream_word == 0 and self.stream_phase == 0
        if idle and self.load_tile < len(self.tiles):  # the mode changes in an idle unit only
            self.output_stationary = bool(self.tiles[self.load_tile].compute.output_stationary)
        leaving = self._step_output_stationary() if self.output_stationary else self._step_weight_stationary()
        self._step_accumulators(*leaving)
        if self.probe is not None:
            self.probe(self.cycle, self.registers(), self.wires)
            self.wires = {}

    def registers(self) -> dict[str, Int64 | int]:
        """The registers' contents at the start of a cycle, copied. Tags number tiles over all instructions."""
        arrays = {
            "pe.activation": self.activation,
            "pe.weight": self.weight,
            "pe.shadow": self.shadow,
            "pe.psum": self.psum,
            "pe.wave": self.control[0],
            "pe.flags": self.control[1],
            "pe.psum_wave": self.psum_tag,
            "pe.preload": self.preload,
            "pe.preload_hops": self.preload_hops,
            "pe.drain": self.drain,
            "pe.drain_wave": self.drain_tag,
            "pe.drain_moves": self.drain_moves,
            "row.wave": self._rows(self.row_control)[0],
            "row.flags": self._rows(self.row_control)[1],
            "row.word": self.word,
            "skew.activation": self.skew_activation.value,
            "skew.activation_wave": self.skew_activation.tag,
            "skew.weight": self.skew_weight.value,
            "skew.weight_row": self.skew_weight.tag,
            "skew.diagonal": self.skew_diagonal.value,
            "skew.preload": self.skew_preload.value,
            "deskew.psum": self.deskew.value,
            "deskew.wave": self.deskew.tag,
            "accumulator.operand": self.pipe_operand,
            "accumulator.psum": self.pipe_psum,
            "accumulator.bias": self.bias_register,
        }
        return {
            **{name: array.copy() for name, array in arrays.items()},
            "fetch.load_tile": self.load_tile,
            "fetch.load_row": self.load_row,
            "fetch.loaded": self.loaded,
            "fetch.stream_tile": self.stream_tile,
            "fetch.stream_word": self.stream_word,
            "fetch.outstanding": self.outstanding,
            "fetch.output_stationary": int(self.output_stationary),
            "accumulator.wave": self.pipe_tag,
            "accumulator.address": self.pipe_address,
        }

    # --- weight stationary ---------------------------------------------------------------------------------

    def _step_weight_stationary(self) -> tuple[Int64, Int64]:
        """Fetch, skew, PEs; return the partial sums that leave the array in this cycle, and their tags."""
        R, C = self.config.rows, self.config.columns
        # The streamer begins a tile when its weights are complete in the shadows and the port is free.
        streaming = self.stream_wait == 0 and (self.stream_word > 0 or self.loaded > 0)
        switching = streaming and self.stream_word == 0
        loading = self._may_load(streaming, switching)

        # Weight fetch: one row a cycle, R cycles a tile, into the column skew. A gated PE gets weight 0.
        weights, target = np.zeros(C, dtype=np.int64), np.full(C, NONE, dtype=np.int64)
        into_diagonal, diagonal_tag = weights, target
        if loading:
            tile, row = self.tiles[self.load_tile], self.load_row
            if row == 0 and tile.first:
                self._issue(tile)
            self._show_load(self.load_tile, row)
            line = tile.operands.pieces[tile.piece].weight_row
            used = self.columns < tile.compute.lanes
            target = np.full(C, row + R, dtype=np.int64)
            if tile.compute.diagonal:
                if row == 0:  # the one row, read once; lane j leaves j cycles later, as row j's only weight
                    into_diagonal, diagonal_tag = tile.operands.weights[line], np.where(used, self.columns, NONE)
                    self.captures["read.weight"] += tile.compute.weight_row_bytes
            elif row < tile.length:
                weights, target = tile.operands.weights[line + row], np.where(used, row, row + R)
                self.captures["read.weight"] += tile.compute.weight_row_bytes
        if self.has_diagonal:
            late, late_tag = self.skew_diagonal.output(into_diagonal, diagonal_tag)
            weights, target = np.where(late_tag >= 0, late, weights), np.where(late_tag >= 0, late_tag, target)
        weight_in, weight_target = self.skew_weight.output(weights, target)

        # Activation fetch: one word a cycle; lane i of it is i cycles late at column 0.
        lanes, lane_tag = np.zeros(R, dtype=np.int64), np.full(R, NONE, dtype=np.int64)
        command = IDLE
        if streaming:
            tile, tag = self.tiles[self.stream_tile], self.stream_tile
            command = tag, LIVE | FIRST * switching, 0, 0
            self._show_fetch(tag, tile.piece, self.stream_word)
            lanes = tile.operands.words[tile.piece, self.stream_word]
            lane_tag = np.where(np.arange(R) < tile.length, tag, NONE)
            self.captures["read.activation"] += int(tile.operands.inside[tile.piece, self.stream_word])
        lane_in, _ = self.skew_activation.output(lanes, lane_tag)

        # PEs: a wave enters at the left; its first word switches the shadow's weight in, in this very cycle.
        row_control, control = self._push_control(command)
        wave, flags = control
        activation = _from_left(self.activation, lane_in)
        switch = (wave >= 0) & (flags & FIRST > 0)
        weight = np.where(switch, self.shadow, self.weight)
        duty = self.duties[wave, self.i, self.j]
        passes_activation = duty & PASS_ACTIVATION > 0
        entering = self._multiply(activation, weight, duty & MULTIPLY > 0, wave, flags, passes=duty & PASS_PSUM > 0)
        above = _from_above(self.psum, np.zeros(C, dtype=np.int64))
        sums = self.adding.shift(self._add(above, self.multiplying.shift(entering)))
        below = self.psum_tag[R - 1]
        leaving = self.psum[R - 1], np.where(self.columns < self.lanes[below], below, NONE)

        # End of the cycle.
        self.captures["register.activation"] += int(np.count_nonzero(passes_activation))
        self.captures["register.psum"] += int(np.count_nonzero(sums.passes))
        self.captures["register.weight"] += int(np.count_nonzero(switch & (duty & MULTIPLY > 0)))
        self.captures["register.skew"] += self.skew_activation.shift(lanes, lane_tag)
        self.captures["register.skew"] += self.skew_weight.shift(weights, target)
        if self.has_diagonal:
            self.captures["register.skew"] += self.skew_diagonal.shift(into_diagonal, diagonal_tag)
        self.activation = np.where(passes_activation, activation, self.activation)
        self.psum, self.psum_tag = np.where(sums.passes, sums.value, self.psum), sums.wave
        self.weight, self.control, self.row_control = weight, control, row_control
        arriving = np.flatnonzero(weight_target >= 0)
        if arriving.size:
            self.shadow[weight_target[arriving] % R, arriving] = weight_in[arriving]
            self.captures["register.weight"] += int(np.count_nonzero(weight_target[arriving] < R))
        self._note_last_wave(sums)

        self.stream_wait = max(self.stream_wait - 1, 0)
        if streaming:
            self.stream_wait = self.config.mac_interval - 1
            self.loaded -= switching
            self.stream_word += 1
            if self.stream_word == tile.words:
                self.stream_word = 0
                self.stream_tile += 1
        if loading:
            self.load_row += 1
            if self.load_row == R:
                self.load_row = 0
                self.load_tile += 1
                self.loaded += 1
        return leaving

    def _may_load(self, streaming: bool, switching: bool) -> bool:
        """Whether the weight port reads a row: a load goes on, or the shadows are free for the next tile's."""
        if self.load_row > 0:
            return True
        if self.load_tile == len(self.tiles) or self.tiles[self.load_tile].compute.output_stationary:
            return False
        # A PE reads its shadow in the cycle of the switch and may take a new weight at that cycle's end. The switch
        # takes `add_latency` cycles a row and the load one, so the last row's decides how far ahead the switch must be.
        ahead = (self.config.add_latency - 1) * (self.config.rows - 1)
        if self.early_load:  # one cycle too early, for the test that shows the rule is tight
            ahead -= 1
        passing = self.row_control[1, : max(ahead - 1, 0)] & FIRST > 0
        free = (self.loaded == 0 or switching) and not (switching and ahead > 0) and not passing.any()
        if self.early_load and streaming:
            free = free or (self.stream_word == self.tiles[self.stream_tile].words - 1 and self.config.add_latency == 1)
        if self.load_tile > 0 and self.tiles[self.load_tile - 1].compute.serial:
            free = free and not streaming and self._empty()
        return free and self._may_issue(self.tiles[self.load_tile])

    # --- output stationary ---------------------------------------------------------------------------------

    def _step_output_stationary(self) -> tuple[Int64, Int64]:
        """Fetch, preload, PEs, drain; return the sums that leave the array in this cycle, and their tags."""
        R, C = self.config.rows, self.config.columns
        # The streamer: row 0's control word; row i sees it i cycles later. A piece's slot on the port is R steps.
        streaming = self.stream_word > 0 or self.stream_phase > 0 or self._may_stream()
        takes = streaming and self.stream_phase == 0
        command, cycles_left, more_products = IDLE, 0, False
        weights, weight_tag = np.zeros(C, dtype=np.int64), np.full(C, NONE, dtype=np.int64)
        if streaming:
            tile = self.tiles[self.stream_tile]
            if takes and self.stream_word == 0 and tile.first and not tile.preloaded:
                self._issue(tile)
            pieces = tile.operands.pieces
            piece, byte = divmod(self.stream_word, R)
            self._show_fetch(self.stream_tile, piece, byte)
            length = pieces[piece].length
            in_last_slot, more_products = piece == len(pieces) - 1, byte + 1 < length
            end = R if len(pieces) == 1 else length  # sums stay at least R steps
            cycles_left = (R * len(pieces) - self.stream_word) * self.step_cycles - self.stream_phase
            if takes and (not in_last_slot or byte < end):
                marks = LIVE * (byte < length) + FIRST * (self.stream_word == 0)
                marks += LAST * (in_last_slot and byte == end - 1)
                command = self.stream_tile, marks, piece, byte
            if takes and byte < length:
                weights = tile.operands.weights[pieces[piece].weight_row + byte]
                weight_tag = np.where(self.columns < tile.compute.lanes, 0, NONE)
                self.captures["read.weight"] += tile.compute.weight_row_bytes
        row_control, control = self._push_control(command)
        row_tag, row_flags, row_piece, row_byte = self._rows(row_control)
        wave, flags = control

        # The start values: one accumulator word (or the biases) a cycle, bottom row's first.
        loading = self._may_preload(streaming, cycles_left, more_products, flags[0])
        start, hops = np.zeros(C, dtype=np.int64), np.full(C, NONE, dtype=np.int64)
        if loading:
            tile, row = self.tiles[self.load_tile], R - 1 - self.load_row
            if self.load_row == 0 and tile.first:
                self._issue(tile)
            self._show_load(self.load_tile, row)
            if row < tile.words:
                start = self._start_word(tile, row)
                hops = np.where(self.columns < tile.compute.lanes, row, NONE)

        # The activation port: whichever row is at byte 0 of a piece reads its word, and uses byte 0 at once.
        reading = np.flatnonzero((row_tag >= 0) & (row_flags & LIVE > 0) & (row_byte == 0))
        if reading.size > 1:
            raise RuntimeError(f"pe_grid: rows {reading.tolist()} read in cycle {self.cycle}")
        for row in reading.tolist():
            tile, number = self.tiles[row_tag[row]], int(row_piece[row])
            if row < tile.words:
                self.word[row] = tile.operands.words[number, tile.first_word + row]
                self.captures["read.activation"] += int(tile.operands.inside[number, tile.first_word + row])
                self.captures["register.activation"] += tile.operands.pieces[number].length

        # PEs: activations go right, weights down, sums stay.
        activation = _from_left(self.activation, self.word[np.arange(R), row_byte])
        top, _ = self.skew_weight.output(weights, weight_tag)
        weight = _from_above(self.weight, top)
        duty = self.duties[wave, self.i, self.j] > 0
        on = duty & (flags & LIVE > 0)
        first = duty & (flags & FIRST > 0)
        preloaded = first & self.preloads[wave]
        if (preloaded & (self.preload_hops != 0)).any():
            raise RuntimeError(f"pe_grid: a start value is not in its place in cycle {self.cycle}")
        begin = np.where(preloaded, self.preload, 0)  # taken with the operands, and kept until it is added to
        entering = self._multiply(activation, weight, on, wave, flags, start=begin, first=first)
        sums = self.adding.shift(self._add(self.psum, self.multiplying.shift(entering)))

        # End of the cycle.
        last = sums.last & (self.duties[sums.wave, self.i, self.j] > 0)
        leaving = self._shift_drain(sums.value, last, sums.wave)
        self._shift_preload(start, hops, preloaded)
        count = int(np.count_nonzero(on))
        for name in ("register.activation", "register.weight", "register.psum"):
            self.captures[name] += count
        self.captures["register.skew"] += self.skew_weight.shift(weights, weight_tag)
        self.activation = np.where(on, activation, self.activation)
        self.weight = np.where(on, weight, self.weight)
        self.psum = np.where(sums.multiplies, sums.value, self.psum)
        self.control, self.row_control = control, row_control
        self.release = (sums.wave[-1] >= 0) & sums.last[-1]
        self._note_last_wave(sums)
        if streaming:
            tile = self.tiles[self.stream_tile]
            if takes and self.stream_word == 0:
                if tile.preloaded:
                    self.loaded -= 1
                else:
                    self.load_tile += 1
            self.stream_phase += 1
            if self.stream_phase == self.step_cycles:
                self.stream_phase = 0
                self.stream_word += 1
            if self.stream_word == R * len(tile.operands.pieces):
                self.stream_word = 0
                self.stream_tile += 1
        if loading:
            self.load_row += 1
            if self.load_row == R:
                self.load_row = 0
                self.load_tile += 1
                self.loaded += 1
        return leaving

    def _may_stream(self) -> bool:
        """Whether row 0 may read the next tile's first word, the port being free."""
        if self.stream_tile == len(self.tiles):
            return False
        tile = self.tiles[self.stream_tile]
        if not tile.compute.output_stationary:
            return False
        if tile.preloaded:
            return self.loaded > 0
        if self.stream_tile > 0 and self.tiles[self.stream_tile - 1].compute.serial and not self._empty():
            return False
        return self._may_issue(tile)

    def _may_preload(self, streaming: bool, cycles_left: int, more_products: bool, row0: Int64) -> bool:
        """Whether a start value is read: R cycles before the tile's first word may be.

        `cycles_left`: until the port is free; `more_products`: this slot has products in later cycles; `row0`: flags of
        the waves that enter row 0's PEs.
        """
        if self.load_row > 0:
            return True
        if self.load_tile == len(self.tiles) or not self.tiles[self.load_tile].preloaded:
            return False
        tile = self.tiles[self.load_tile]
        if tile.first:
            free = not streaming and (tile.compute.start != Start.ACCUMULATE or not self.outstanding)
        else:  # the port will be free in R cycles
            free = not streaming or (cycles_left <= self.config.rows and self.stream_tile == self.load_tile - 1)
        if self.load_tile > 0 and self.tiles[self.load_tile - 1].compute.serial:
            # In R cycles the array is empty: row 0 has at most the end of the last addition, in its last PE.
            ending, *behind = [*(work.live[0] for work in self._in_flight()), row0 & LIVE > 0]
            free = free and not more_products and not ending[:-1].any() and not any(live.any() for live in behind)
        return free and self._may_issue(tile)

    def _start_word(self, tile: _Tile, row: int) -> Int64:
        """Row `row`'s start values, fitted to the partial sums' width."""
        compute = tile.compute
        word = np.zeros(self.config.columns, dtype=np.int64)
        if compute.start == Start.BIAS:
            self.captures["read.parameter"] += BIAS_BYTES * compute.lanes
            word[: compute.lanes] = self.bias[compute.param : compute.param + compute.lanes]
        else:
            self.captures["read.accumulator"] += compute.lanes
            word[: compute.lanes] = self.memory[compute.acc_base + tile.first_word + row, : compute.lanes]
        if self.config.saturate_at == "every_add":
            word = self._fit(word, *_limits(self._psum_bits(compute)))
        if compute.start == Start.BIAS:  # a resumed sum was seen when it was made
            self._see(word[: compute.lanes])
        return word

    def _shift_preload(self, start: Int64, hops: Int64, used: Bool) -> None:
        """A start value goes down a row a cycle and stays in its own row until the tile's first wave takes it."""
        top, top_hops = self.skew_preload.output(start, hops)
        moves = self.preload_hops > 0
        value = _from_above(self.preload, top)
        arriving = _from_above(np.where(moves, self.preload_hops - 1, NONE), top_hops)
        comes = arriving >= 0
        if (comes & (self.preload_hops == 0) & ~used).any():
            raise RuntimeError(f"pe_grid: a start value is overwritten in cycle {self.cycle}")
        self.preload = np.where(comes, value, self.preload)
        self.preload_hops = np.where(comes, arriving, np.where(moves | used, NONE, self.preload_hops))
        self.captures["register.psum"] += int(np.count_nonzero(comes))
        self.captures["register.skew"] += self.skew_preload.shift(start, hops)

    def _shift_drain(self, psum: Int64, last: Bool, wave: Int64) -> tuple[Int64, Int64]:
        """A sum waits until its column's bottom PE has given its own, then goes down a row a cycle and leaves."""
        full = self.drain_tag >= 0
        goes = full & ((self.drain_moves > 0) | self.release)
        leaving = self.drain[-1], np.where(goes[-1], self.drain_tag[-1], NONE)
        tag_above = _from_above(np.where(goes, self.drain_tag, NONE), np.full(goes.shape[1], NONE))
        comes = tag_above >= 0
        if ((comes & last) | (full & ~goes & (comes | last))).any():
            raise RuntimeError(f"pe_grid: two sums meet in a drain register in cycle {self.cycle}")
        above = _from_above(self.drain, self.drain[-1])
        self.drain = np.where(last, psum, np.where(comes, above, self.drain))
        self.drain_tag = np.where(last, wave, np.where(comes, tag_above, np.where(goes, NONE, self.drain_tag)))
        self.drain_moves = comes.astype(np.int64)
        self.captures["register.psum"] += int(np.count_nonzero(last) + np.count_nonzero(comes))
        return leaving

    # --- shared parts --------------------------------------------------------------------------------------

    def _may_issue(self, tile: _Tile) -> bool:
        """Whether a tile's instruction is issued, or its tokens are there."""
        return not tile.first or self.ready[tile.instruction] <= self.cycle

    def _issue(self, tile: _Tile) -> None:
        self.issue[tile.instruction] = self.cycle
        self.outstanding += 1

    def _empty(self) -> bool:
        """Whether no wave with a product of an earlier cycle is at any PE, nor in its multiply-add, in this one."""
        used = self._row_delay() * (self.config.rows - 1)
        return (
            not (self.row_control[1, :used] & LIVE).any()
            and not (self.control[1, :, :-1] & LIVE).any()
            and not any(work.live.any() for work in self._in_flight())
        )

    def _in_flight(self) -> list[_Work]:
        """What the PEs' stages after the first work on in this cycle, the last stage first."""
        return [*self.adding.held, *self.multiplying.held]

    def _row_delay(self) -> int:
        """Cycles by which a row is behind the one above."""
        return 1 if self.output_stationary else self.config.add_latency

    def _rows(self, chain: Int64) -> Int64:
        """What each row sees of the control chain."""
        return chain[:, :: self._row_delay()][:, : self.config.rows]

    def _push_control(self, command: tuple[int, int, int, int]) -> tuple[Int64, Int64]:
        """The chain of the streamer's commands in this cycle (tag, flags, piece, byte), and what each PE sees."""
        used = self._row_delay() * (self.config.rows - 1)
        chain = np.repeat(np.array(IDLE)[:, None], self.row_control.shape[1], axis=1)
        chain[:, 0] = command
        chain[:, 1 : used + 1] = self.row_control[:, :used]
        return chain, np.concatenate((self._rows(chain)[:2, :, None], self.control[:, :, :-1]), axis=2)

    def _note_last_wave(self, sums: _Work) -> None:
        """Of the additions that end in this cycle, the corner's: the last of its wave, gated or not."""
        if sums.live[-1, -1]:
            self.last_wave[self.tiles[int(sums.wave[-1, -1])].instruction] = self.cycle

    def _show_fetch(self, tile: int, piece: int, position: int) -> None:
        """For the probe: the activation port works for a tile; position: ws, the word; os, row 0's byte."""
        if self.probe is not None:
            self.wires.update({"fetch.tile": tile, "fetch.piece": piece, "fetch.position": position})

    def _show_load(self, tile: int, row: int) -> None:
        """For the probe: the weight port (ws) or the preload (os) works for a tile's row."""
        if self.probe is not None:
            self.wires.update({"load.tile": tile, "load.row": row})

    def _multiply(
        self,
        activation: Int64,
        weight: Int64,
        on: Bool,
        wave: Int64,
        flags: Int64,
        *,
        start: Int64 | None = None,
        first: Bool | None = None,
        passes: Bool | None = None,
    ) -> _Work:
        """What enters the multiply-adds in this cycle; 0 where no product is added."""
        count = int(np.count_nonzero(on))
        self.captures["mul"] += count
        if count and self.probe is not None:
            self.wires |= {"pe.on": on, "pe.activation": activation, "pe.weight": weight}
        nothing, no = np.zeros_like(wave), np.zeros_like(on)
        return _Work(
            value=np.where(on, activation * weight, 0),
            start=nothing if start is None else start,
            multiplies=on,
            passes=no if passes is None else passes,
            first=no if first is None else first,
            live=(wave >= 0) & (flags & LIVE > 0),
            last=flags & LAST > 0,
            wave=wave,
        )

    def _add(self, psum: Int64, work: _Work) -> _Work:
        """The partial sum (or the start value) + product, fitted to the wave's width; unchanged where there is none."""
        psum = np.where(work.first, work.start, psum)
        on = work.multiplies
        count = int(np.count_nonzero(on))
        if not count:
            return work._replace(value=psum)
        self.captures["add.array"] += count
        exact = psum + work.value
        self._see(exact[on])
        low, high = self.low[work.wave], self.high[work.wave]
        over = on & ((exact < low) | (exact > high))
        result = exact
        if over.any():
            self.overflows += int(np.count_nonzero(over))
            result = np.where(over, self._fit(exact, low, high), exact)
        if self.probe is not None:
            self.wires |= {"pe.psum": psum, "pe.exact": exact, "pe.result": result}
        return work._replace(value=result)

    def _psum_bits(self, compute: Compute) -> int:
        if self.config.saturate_at == "end":
            return EXACT_BITS
        return min(self.config.psum_bits, compute.width)

    def _fit(self, exact: Int64, low: Int64 | int, high: Int64 | int) -> Int64:
        if self.config.overflow == "saturate":
            return np.clip(exact, low, high)
        return (exact - low & high - low) + low  # two's complement: the low bits, taken from `low` on

    def _see(self, exact: Int64) -> None:
        low, high = int(exact.min()), int(exact.max())
        self.psum_min = low if self.psum_min is None else min(self.psum_min, low)
        self.psum_max = high if self.psum_max is None else max(self.psum_max, high)

    def _step_accumulators(self, value: Int64, tag: Int64) -> None:
        """Deskew what leaves the array, then read (cycle a), add and write (cycle a + 1)."""
        word, word_tag = self.deskew.output(value, tag)
        # Second stage: the sum of what was read in the cycle before, written at the end of this one.
        result: Int64 | None = None
        writer = self.pipe_tag
        if writer >= 0:
            result = self._memory_add(self.tiles[writer])
        # First stage: a word arrives, column 0's tag says of which tile; bypass what is being written.
        arrived = int(word_tag[0])
        operand, address, last = self.pipe_operand, 0, False
        if arrived >= 0:
            tile = self.tiles[arrived]
            address = tile.compute.acc_base + self._word_number(tile)
            operand = self._operand(tile, address, result)
            last = self.out_word == tile.words - 1
        # End of the cycle.
        self.captures["register.skew"] += self.deskew.shift(value, tag)
        if result is not None and self.probe is not None:
            self.wires.update({"write.tile": writer, "write.address": self.pipe_address, "write.result": result.copy()})
            self.wires.update({"write.operand": self.pipe_operand.copy(), "write.sum": self.pipe_psum.copy()})
        if result is not None:
            self.memory[self.pipe_address, : result.size] = result
            self.captures["write.accumulator"] += result.size
            if self.pipe_last and self.tiles[writer].final:
                self.done[self.tiles[writer].instruction] = self.cycle
                self.outstanding -= 1
        self.pipe_tag, self.pipe_address, self.pipe_last = arrived, address, last
        if arrived >= 0:
            self.pipe_psum, self.pipe_operand = word, operand
            self.out_word = 0 if last else self.out_word + 1

    def _word_number(self, tile: _Tile) -> int:
        """The instruction's word that arrives: os leaves bottom row first."""
        if tile.compute.output_stationary:
            return tile.first_word + tile.words - 1 - self.out_word
        return self.out_word

    def _operand(self, tile: _Tile, address: int, written: Int64 | None) -> Int64:
        """What a ws word is added to; zero for os, whose sums are complete."""
        compute, zero = tile.compute, np.zeros(self.config.columns, dtype=np.int64)
        if compute.output_stationary or (tile.first and compute.start == Start.ZERO):
            return zero
        if tile.first and compute.start == Start.BIAS:
            if self.out_word == 0:  # all lanes in one cycle, then held
                self.bias_register = self._read_bias(compute)
                self._see(self.bias_register[: compute.lanes])
            return self.bias_register
        self.captures["read.accumulator"] += compute.lanes
        operand = self.memory[address].copy()
        if written is not None and self.pipe_address == address:  # the one-entry bypass, lane by lane
            operand[: written.size] = written
        return operand

    def _read_bias(self, compute: Compute) -> Int64:
        """The lanes' start values, fitted to the instruction's width."""
        self.captures["read.parameter"] += BIAS_BYTES * compute.lanes
        word = np.zeros(self.config.columns, dtype=np.int64)
        word[: compute.lanes] = self.bias[compute.param : compute.param + compute.lanes]
        return word if self.config.saturate_at == "end" else self._fit(word, *_limits(compute.width))

    def _memory_add(self, tile: _Tile) -> Int64:
        """The second stage's sum, fitted, of the lanes in use."""
        compute = tile.compute
        exact = (self.pipe_operand + self.pipe_psum)[: compute.lanes]
        if not compute.output_stationary:
            self._see(exact)
            if not (tile.first and compute.start == Start.ZERO):
                self.captures["add.accumulator"] += compute.lanes
        ends = bool(compute.last) and (tile.final or bool(compute.output_stationary))
        if self.config.saturate_at == "end" and not ends:
            return exact
        low, high = _limits(compute.width)
        self.overflows += int(np.count_nonzero((exact < low) | (exact > high)))
        return self._fit(exact, low, high)


def _check(compute: Compute, config: GridConfig) -> None:
    if not 1 <= compute.lanes <= config.columns:
        raise ValueError(f"pe_grid: lanes = {compute.lanes} do not fit {config.columns} columns")
    if not 1 < compute.width <= EXACT_BITS or config.psum_bits > EXACT_BITS:
        raise ValueError(f"pe_grid: sums of more than {EXACT_BITS} bits need more than int64")
    if compute.diagonal and (
        compute.output_stationary or compute.run_bytes != compute.lanes or compute.lanes > config.rows
    ):
        raise ValueError("pe_grid: a diagonal COMPUTE is weight stationary, with run_bytes = lanes <= min(R, C)")


def _limits(bits: int) -> tuple[int, int]:
    return -(1 << bits - 1), (1 << bits - 1) - 1


def _from_left(register: Int64, edge: Int64) -> Int64:
    """Each PE's input: its left neighbour's register, the edge in column 0."""
    return np.concatenate((edge[:, None], register[:, :-1]), axis=1)


def _from_above(register: Int64, edge: Int64) -> Int64:
    """Each PE's input: the register of the PE above, the edge in row 0."""
    return np.concatenate((edge[None], register[:-1]))
