"""Closed-form cycles of each instruction (docs/microarchitecture.md, section 4).

`machine.pe_grid` steps every register and proves the COMPUTE formulas in tests; the machine, the compiler's cost model
and the longest-path evaluation all take their cycles from here. Bump `TIMING_VERSION` when a rule changes: programs
carry it, and a machine of another version refuses them.
"""

from __future__ import annotations

from typing import NamedTuple

from accelsim.config import Hardware
from accelsim.isa import Compute, Load, Post, Source, Start

TIMING_VERSION = 2

D_ACC = 2
"""Cycles from a word's arrival below the array to its write: read in cycle a, add, write in a + 1."""

D_POST = 5
"""Cycles from a POST's last source read to its last write: reduce, bias and multiply, shift, clip, table and write."""


class ArrayShape(NamedTuple):
    """R and C."""

    rows: int
    columns: int

    @classmethod
    def of(cls, hardware: Hardware) -> ArrayShape:
        """The shape of a machine's array."""
        return cls(hardware.array.rows, hardware.array.columns)


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
        return state.done + 1
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
    """L_k = max(L_(k-1) + R, T_(k-1)), T_k = max(L_k + R, T_(k-1) + M_(k-1)); with M fixed, in closed form."""
    rows, columns = shape
    words, tiles = compute.words, tile_count(compute, rows)
    wave = rows + columns - 2
    first = issue + rows
    if state is not None and not state.output_stationary:
        first = max(first, state.next_stream)
    # T_0 >= L_0 + R gives L_1 = T_0; from there L_k = T_(k-1) and T advances by max(R, M). Serial tiles load only
    # after the last product of the tile before: a period of R + M + R + C - 2.
    period = words + wave + rows if compute.serial else max(rows, words)
    last = first + (tiles - 1) * period
    next_load = last + words + wave if compute.serial else last
    end = last + words - 1 + wave
    return ComputeTimes(
        issue, end + D_ACC, issue, end, ComputeState(next_load, last + words, end + D_ACC, output_stationary=False)
    )


def _output_stationary(compute: Compute, shape: ArrayShape, issue: int) -> ComputeTimes:
    """Tiles of R words; every piece holds the read port R cycles, the drain follows the last."""
    rows, columns = shape
    first = issue + (rows if compute.start else 0)
    slots = tile_count(compute, rows)
    products = last_product(compute, rows)
    period = output_stationary_period(compute, shape)
    wave = rows + columns - 2
    tiles = -(-compute.words // rows)
    last = first + (tiles - 1) * period
    # The sums go to the drain no earlier than R cycles after the tile's beginning, also where its products end before.
    done = last + max(rows, products) - 1 + wave + D_ACC + rows - 1
    # The port is free after its slots; after a serial tile, R cycles of preload may hide behind the last wave.
    next_load = last + max(slots * rows, period - rows)
    end = last + products - 1 + wave
    return ComputeTimes(issue, done, issue, end, ComputeState(next_load, last + period, done, output_stationary=True))


def last_product(compute: Compute, rows: int) -> int:
    """Cycles from an output-stationary tile's first read to PE(0, 0)'s last product: its pieces, the last not whole."""
    last_piece = compute.run_bytes - (-(-compute.run_bytes // rows) - 1) * rows
    return (tile_count(compute, rows) - 1) * rows + last_piece


def output_stationary_period(compute: Compute, shape: ArrayShape) -> int:
    """Cycles from one tile's first read to the next's: whole slots; serial tiles wait for the last wave to pass."""
    slots = tile_count(compute, shape.rows) * shape.rows
    if not compute.serial:
        return slots
    return max(slots, last_product(compute, shape.rows) + shape.rows + shape.columns - 2)


def tile_count(compute: Compute, rows: int) -> int:
    """Chunks of a COMPUTE's K loop, each one tile of weights."""
    return compute.r_count * compute.s_count * -(-compute.run_bytes // rows)


def transfer_cycles(transfer: Load, hardware: Hardware) -> int:
    """Cycles from issue to done of a LOAD or STORE, both included: latency + rows * ceil(row_bytes / bandwidth)."""
    beats = transfer.rows * -(-transfer.row_bytes // hardware.dram.bandwidth_bytes_per_cycle)
    return hardware.dram.latency_cycles + beats


def post_cycles(post: Post) -> int:
    """Cycles from issue to done of a POST, both included.

    Records are read into the lanes' registers first, one a cycle (a residual needs a second set; with broadcast one
    is read ahead and the others while words stream). Then words * window source reads, two each where the activation
    buffer's one port for POST serves word and residual, then the pipeline.
    """
    records = 1 if post.broadcast else post.lanes * (1 + post.residual_on)
    reads = 2 if post.residual_on and post.source == Source.ACTIVATION else 1
    return records + post.words * post.window * reads + D_POST
