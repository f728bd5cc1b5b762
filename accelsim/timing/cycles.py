"""Closed-form cycles of each instruction (docs/microarchitecture.md, section 4).

`machine.pe_grid` steps every register and proves the COMPUTE formulas in tests; the machine, the compiler's cost model
and the longest-path evaluation all take their cycles from here. Bump `TIMING_VERSION` when a rule changes: programs
carry it, and a machine of another version refuses them.
"""

from __future__ import annotations

from typing import NamedTuple

from accelsim.config import Hardware
from accelsim.isa import Compute, Post, Source, Start

TIMING_VERSION = 2

D_ACC = 2
"""Cycles from a word's arrival below the array to its write: read in cycle a, add, write in a + 1."""

D_POST = 5
"""Cycles from a POST's last source read to its last write: reduce, bias and multiply, shift, clip, table and write."""


class ArrayShape(NamedTuple):
    """R and C, and a PE's multiply-add in cycles.

    Attributes:
        mac_latency: from operands to the sum in the register.
        mac_interval: between operands.
        add_latency: the last of the latency's cycles, in which the partial sum is added.
    """

    rows: int
    columns: int
    mac_latency: int = 1
    mac_interval: int = 1
    add_latency: int = 1

    @classmethod
    def of(cls, hardware: Hardware) -> ArrayShape:
        """The shape of a machine's array."""
        array = hardware.array
        return cls(
            array.rows, array.columns, array.mac_latency_cycles, array.mac_interval_cycles, hardware.add_latency_cycles
        )

    @property
    def wave(self) -> int:
        """Ws: cycles from a word's read to the end of its last addition, less one."""
        return self.add_latency * (self.rows - 1) + self.columns - 1 + self.mac_latency - 1

    @property
    def switch(self) -> int:
        """Ws: cycles from a tile's first word to when weights may be loaded over its shadows, row after row.

        A switch takes `add_latency` cycles a row, a load one.
        """
        return (self.add_latency - 1) * (self.rows - 1)

    @property
    def step(self) -> int:
        """Os: cycles from one product of a sum to its next: the unit must be free, and the sum before it there."""
        return max(self.mac_interval, self.add_latency)


class ComputeState(NamedTuple):
    """What the COMPUTE unit's last instruction leaves to the next.

    Attributes:
        next_load: first cycle in which the next weight load (ws) or preload read (os) is legal, the mode being kept.
        next_stream: first cycle in which the next activation word may be streamed.
        done: cycle at whose end the last write takes effect.
        output_stationary: the mode.
    """

    next_load: int
    next_stream: int
    done: int
    output_stationary: bool


class ComputeTimes(NamedTuple):
    """When a COMPUTE issues, streams and is done; all in cycles.

    Attributes:
        issue: its first weight load (ws), first preload read or first word read (os).
        done: cycle at whose end its last write takes effect.
        span_first, span_last: first load or read, and the cycle in which the last product's wave passes PE(R-1, C-1).
        state: for the next COMPUTE.
    """

    issue: int
    done: int
    span_first: int
    span_last: int
    state: ComputeState


def compute_free(compute: Compute, state: ComputeState | None) -> int:
    """First cycle in which the unit itself would let this COMPUTE issue; tokens may hold it longer."""
    if state is None:
        return 0
    if bool(compute.output_stationary) != state.output_stationary:
        return max(state.done + 1, state.next_load)  # the port may be held longer than the last sums take
    if compute.output_stationary and compute.start == Start.ZERO:  # no preload: it issues with its first word
        return state.next_stream
    if compute.output_stationary and compute.start == Start.ACCUMULATE:  # its preload reads what earlier ones write
        return max(state.next_load, state.done + 1)
    return state.next_load


def compute_times(compute: Compute, shape: ArrayShape, state: ComputeState | None, ready: int) -> ComputeTimes:
    """Return the cycles of one COMPUTE.

    Args:
        compute: the instruction.
        shape: R and C.
        state: what the COMPUTE before it left, or None for the first.
        ready: first cycle in which all its tokens are there.
    """
    issue = max(ready, compute_free(compute, state))
    if compute.output_stationary:
        return _output_stationary(compute, shape, issue)
    return _weight_stationary(compute, shape, state, issue)


def _weight_stationary(compute: Compute, shape: ArrayShape, state: ComputeState | None, issue: int) -> ComputeTimes:
    """L_k = max(L_(k-1) + R, T_(k-1) + switch), T_k = max(L_k + R, T_(k-1) + M_(k-1) * interval)."""
    stream, tiles = compute.words * shape.mac_interval, tile_count(compute, shape.rows)
    first = issue + shape.rows
    if state is not None and not state.output_stationary:
        first = max(first, state.next_stream)
    last = first + (tiles - 1) * ws_period(compute, shape)
    end = last + stream - shape.mac_interval + shape.wave
    next_load = end + 1 if compute.serial else last + shape.switch
    return ComputeTimes(
        issue, end + D_ACC, issue, end, ComputeState(next_load, last + stream, end + D_ACC, output_stationary=False)
    )


def ws_period(compute: Compute, shape: ArrayShape) -> int:
    """Cycles from one ws tile's T to the next one's, inside an instruction.

    T_0 >= L_0 + R gives L_1 = T_0 + switch; from there L_k = T_(k-1) + switch. Serial tiles load only after the last
    product of the tile before.
    """
    if compute.serial:
        return (compute.words - 1) * shape.mac_interval + shape.wave + 1 + shape.rows
    return max(shape.switch + shape.rows, compute.words * shape.mac_interval)


def _output_stationary(compute: Compute, shape: ArrayShape, issue: int) -> ComputeTimes:
    """Tiles of R words; every piece holds the read port R steps, the drain follows the last."""
    rows = shape.rows
    first = issue + (rows if compute.start else 0)
    period = os_period(compute, shape)
    wave = rows + shape.columns - 2
    last = first + (-(-compute.words // rows) - 1) * period
    done = last + os_duration(compute, shape) - 1 + wave + D_ACC + rows - 1
    # The port is free after its slots; after a serial tile, R cycles of preload may hide behind the last wave.
    next_load = last + max(tile_count(compute, rows) * rows * shape.step, period - rows)
    end = last + os_products(compute, shape) - 1 + wave
    return ComputeTimes(issue, done, issue, end, ComputeState(next_load, last + period, done, output_stationary=True))


def _os_steps(compute: Compute, rows: int) -> int:
    """Products of one sum and the idle steps between them: every piece but the last has R steps."""
    return (tile_count(compute, rows) - 1) * rows + (compute.run_bytes - 1) % rows + 1


def os_products(compute: Compute, shape: ArrayShape) -> int:
    """P: cycles from an os tile's first read to the end of PE(0, 0)'s last addition."""
    return (_os_steps(compute, shape.rows) - 1) * shape.step + shape.mac_latency


def os_duration(compute: Compute, shape: ArrayShape) -> int:
    """D: cycles of one os tile in PE(0, 0): its sums go to the drain after at least R steps."""
    return (max(shape.rows, _os_steps(compute, shape.rows)) - 1) * shape.step + shape.mac_latency


def os_period(compute: Compute, shape: ArrayShape) -> int:
    """Cycles from one os tile's T to the next one's: whole slots; serial tiles wait for the last product's wave."""
    slots = tile_count(compute, shape.rows) * shape.rows * shape.step
    if not compute.serial:
        return slots
    return max(slots, os_products(compute, shape) + shape.rows + shape.columns - 2)


def tile_count(compute: Compute, rows: int) -> int:
    """Chunks of a COMPUTE's K loop, each one tile of weights."""
    return compute.r_count * compute.s_count * -(-compute.run_bytes // rows)


def post_cycles(post: Post, *, records: bool = True) -> int:
    """Cycles from issue to done of a POST, both included; without `records` where sums are float32 and need none.

    Records are read into the lanes' registers first, one a cycle (a residual needs a second set; with broadcast one
    is read ahead and the others while words stream). Then words * window source reads, two each where the activation
    buffer's one port for POST serves word and residual, then the pipeline.
    """
    read_ahead = 1 if post.broadcast else post.lanes * (1 + post.residual_on)
    reads = 2 if post.residual_on and post.source == Source.ACTIVATION else 1
    return records * read_ahead + post.words * post.window * reads + D_POST
