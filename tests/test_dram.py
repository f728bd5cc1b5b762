"""The DRAM with open rows and refresh: cycles derived by hand, and a loop over cycles written from the page alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from graphs import open_rows
from second_machine import OpenRows

from accelsim.config import Hardware, load_hardware
from accelsim.isa import Load, Store
from accelsim.timing import ChannelState, transfer_cycles, transfer_times

DRAM = [
    *("dram.bandwidth_bytes_per_cycle=4", "dram.latency_cycles=3", "dram.model=open_rows", "dram.row_bytes=32"),
    *("dram.banks=2", "dram.t_rcd_cycles=5", "dram.t_rp_cycles=7", "dram.t_cas_cycles=4"),
]
REFRESH = ["dram.refresh_interval_cycles=100", "dram.refresh_cycles=20"]


def load(address: int, row_bytes: int, rows: int = 1, step: int = 0) -> Load:
    return Load(memory=0, dram_address=address, buffer_address=0, row_bytes=row_bytes, rows=rows, dram_step=step)


def done(hardware: Hardware, *transfers: tuple[int, Load]) -> list[int]:
    """Last beats of transfers on one channel, each issued in its cycle."""
    state: ChannelState | None = None
    found = []
    for issue, transfer in transfers:
        last, state = transfer_times(transfer, hardware, state, issue)
        found.append(last)
    return found


def test_a_row_is_opened_once_and_then_costs_the_column_command_alone():
    hardware = load_hardware("edge_8x8", DRAM)
    # Commands from cycle 3: row 0 is closed, so 5 + 4 cycles; two beats in 12 and 13. Again from 23: 4 cycles.
    assert done(hardware, (0, load(0, 8)), (20, load(8, 8))) == [13, 28]


def test_another_row_of_the_bank_is_closed_first():
    hardware = load_hardware("edge_8x8", DRAM)
    # Row 2 is in bank 0 as row 0 is: from cycle 23, 7 + 5 + 4 cycles. Row 1 is in bank 1, which is closed: 9.
    assert done(hardware, (0, load(0, 8)), (20, load(64, 4))) == [13, 39]
    assert done(hardware, (0, load(0, 8)), (20, load(32, 4))) == [13, 32]


def test_the_next_bank_is_opened_while_beats_move():
    hardware = load_hardware("edge_8x8", DRAM)
    # Row 0's eight beats begin in 3 + 9 = 12, and so do the commands of row 1: its first beat is in 12 + 9 = 21, one
    # cycle late. Row 2 changes bank 0: 21 + 16 = 37, where row 1 ended in 28.
    assert done(hardware, (0, load(0, 96))) == [12 + 9 + 16 + 7]
    # With one bank the commands wait for the last beat: 12..19, 20 + 16 = 36..43.
    hardware = load_hardware("edge_8x8", [*DRAM, "dram.banks=1"])
    assert done(hardware, (0, load(0, 64))) == [43]


def test_rows_of_a_transfer_in_an_open_row_follow_without_a_gap_and_beats_end_at_its_edge():
    hardware = load_hardware("edge_8x8", DRAM)
    # Three rows of 5 bytes, 6 apart: two beats each, from cycle 12.
    assert done(hardware, (0, load(0, 5, rows=3, step=6))) == [17]
    # 8 bytes across the edge of rows 0 and 1: 2 + 6 bytes are 1 + 2 beats: cycle 12; 12 + 9 = 21 and 22.
    assert done(hardware, (0, load(30, 8))) == [22]


def test_a_refresh_stops_beats_and_closes_every_row():
    hardware = load_hardware("edge_8x8", [*DRAM, *REFRESH])
    # From 88 + 3 + 9 = 100 on beats would move, which is when the refresh begins: again from 120, first beat in 129.
    assert done(hardware, (88, load(0, 8))) == [130]
    # One cycle earlier a beat moves in 99; the other comes after the row is opened anew.
    assert done(hardware, (87, load(0, 8))) == [129]
    # A row left open before a refresh is closed after it, though nothing was under way.
    assert done(hardware, (0, load(0, 4)), (200, load(0, 4))) == [12, 229]
    assert done(hardware, (0, load(0, 4)), (230, load(0, 4))) == [12, 242]


def test_a_machine_that_never_refreshes_and_opens_in_no_time_is_the_simple_one():
    free = [f"dram.t_{name}_cycles=0" for name in ("rcd", "rp", "cas")]
    hardware = load_hardware("edge_8x8", [*DRAM, *free, "dram.row_bytes=1048576"])
    transfer = load(5, 13, rows=4, step=100)
    simple = load_hardware("edge_8x8", DRAM[:2])
    assert done(hardware, (9, transfer)) == done(simple, (9, transfer)) == [9 + transfer_cycles(transfer, simple) - 1]


@pytest.mark.parametrize("block", range(4))
def test_a_loop_over_cycles_agrees(block):
    """Random channels and transfers: every last beat, and what is left open."""
    for seed in range(block, 200, 4):
        rng = np.random.default_rng([2611, seed])
        overrides = [f"dram.bandwidth_bytes_per_cycle={rng.integers(1, 17)}", f"dram.latency_cycles={rng.integers(6)}"]
        hardware = open_rows(rng, load_hardware("edge_8x8", overrides))
        second = OpenRows(hardware.dram.model_dump())
        kind, state, issue = (Load, Store)[seed % 2], None, 0
        for _ in range(8):
            issue += int(rng.integers(0, 80)) if rng.random() < 0.5 else 0
            fields = {
                "dram_address": int(rng.integers(0, 2000)),
                "row_bytes": int(rng.integers(1, 90)),
                "rows": int(rng.integers(1, 6)),
                "dram_step": int(rng.choice([0, 1, 64, 100, 256, -3])),
            }
            transfer = kind(memory=0, buffer_address=0, **{**fields, "dram_address": fields["dram_address"] + 15})
            last, state = transfer_times(transfer, hardware, state, issue)
            seen = SimpleNamespace(**{**fields, "dram_address": transfer.dram_address})
            assert second.done(seen, issue) == last, (seed, hardware.dram, transfer)
            assert last >= issue + transfer_cycles(transfer, hardware) - 1
            issue = last + 1
