"""When a LOAD or STORE is done, on either DRAM (docs/microarchitecture.md, section 4.1).

On the simple DRAM a transfer takes as long whenever it comes. With open rows it depends on the rows that earlier
transfers of its channel left open and on refresh, that is, on the cycle: the channel's state is handed on, as
`ComputeState` is, and nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from accelsim.config import DramSection, Hardware
from accelsim.isa import Load

CLOSED = -1


class ChannelState(NamedTuple):
    """What a channel's last transfer leaves to the next.

    Attributes:
        rows: of each bank the number of its open row, or `CLOSED`.
        refreshes: that had begun by its last beat; each closes every row.
    """

    rows: tuple[int, ...]
    refreshes: int


def transfer_cycles(transfer: Load, hardware: Hardware) -> int:
    """Cycles of a LOAD or STORE on the simple DRAM, issue and done included: latency + rows * ceil(row_bytes / B).

    With open rows it is the least that a transfer takes, for cost models that know no cycle; `transfer_times` is exact.
    """
    beats = transfer.rows * -(-transfer.row_bytes // hardware.dram.bandwidth_bytes_per_cycle)
    return hardware.dram.latency_cycles + beats


def transfer_times(
    transfer: Load, hardware: Hardware, state: ChannelState | None, ready: int
) -> tuple[int, ChannelState | None]:
    """Return the cycle of a transfer's last beat and what its channel is left in.

    Args:
        transfer: a LOAD or STORE.
        hardware: the machine.
        state: what the transfer before it on the same channel (LOAD's or STORE's) left, or None for the first.
        ready: the cycle it issues in.
    """
    dram = hardware.dram
    if dram.model == "simple":
        return ready + transfer_cycles(transfer, hardware) - 1, None
    channel = _Channel(dram, state)
    command = ready + dram.latency_cycles
    begin = last = command - 1
    before = None
    for row, beats in _segments(transfer, dram):
        bank = row % channel.banks
        if before is not None:
            # The commands of another bank go out while beats move; those of the same bank when they have.
            command = last + 1 if bank == before else begin
        begin, last = channel.access(row, beats, command, last, streaming=before is not None)
        before = bank
    return last, ChannelState(tuple(channel.rows), channel.refreshes)


def _segments(transfer: Load, dram: DramSection) -> Iterator[tuple[int, int]]:
    """(row of the DRAM, beats) of each part of a transfer's rows that lies in one row of the DRAM, in order."""
    size, bus = dram.row_bytes, dram.bandwidth_bytes_per_cycle
    assert size is not None
    for number in range(transfer.rows):
        start = transfer.dram_address + number * transfer.dram_step
        stop = start + transfer.row_bytes
        while start < stop:
            row = start // size
            end = min(stop, (row + 1) * size)
            yield row, -(-(end - start) // bus)
            start = end


class _Channel:
    """Open rows and refreshes of one channel."""

    def __init__(self, dram: DramSection, state: ChannelState | None):
        assert dram.banks is not None
        assert dram.t_rcd_cycles is not None
        assert dram.t_rp_cycles is not None
        assert dram.t_cas_cycles is not None
        self.banks = dram.banks
        self.column = dram.t_cas_cycles
        self.activate = dram.t_rcd_cycles + dram.t_cas_cycles
        self.change = dram.t_rp_cycles + dram.t_rcd_cycles + dram.t_cas_cycles
        self.interval, self.refresh = dram.refresh_interval_cycles, dram.refresh_cycles or 0
        self.rows = [CLOSED] * dram.banks if state is None else list(state.rows)
        self.refreshes = 0 if state is None else state.refreshes

    def access(self, row: int, beats: int, command: int, last: int, *, streaming: bool) -> tuple[int, int]:
        """Move one segment's beats.

        Args:
            row, beats: the segment.
            command: the first cycle in which its commands may go out.
            last: of the beat before it; its own come later.
            streaming: the transfer's earlier segments hide the column command of an open row.
        Returns:
            The cycles of its first beat (after the last refresh that interrupts it) and of its last.
        """
        bank = row % self.banks
        while True:
            command = self._after_refresh(command)
            if self.rows[bank] == row:
                begin = last + 1 if streaming else command + self.column
            else:
                wait = self.activate if self.rows[bank] == CLOSED else self.change
                begin = max(command + wait, last + 1)
            end = begin + beats - 1
            if self.interval is None or end < (refresh := (self.refreshes + 1) * self.interval):
                self.rows[bank] = row
                return begin, end
            if begin < refresh:  # some beats move, the others after the refresh
                beats -= refresh - begin
                last = refresh - 1
            command = refresh

    def _after_refresh(self, command: int) -> int:
        """The first cycle from `command` on without a refresh, rows closed if one has begun since the last beat."""
        if self.interval is None or command // self.interval <= self.refreshes:
            return command
        self.refreshes = command // self.interval
        self.rows = [CLOSED] * self.banks
        return max(command, self.refreshes * self.interval + self.refresh)
