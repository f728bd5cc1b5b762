"""docs/microarchitecture.md is the machine: its field tables, and its worked cases on machine, grid and closed forms.

Programs and tables of the worked cases are read from the page, so that neither can drift. Expected numbers are derived
from the page's rules in comments, not from a run. L is a tile's first weight load, T its first streamed word.
"""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accelsim.accounting import layer_cycles
from accelsim.config import Hardware, hardware_from_dict
from accelsim.isa import (
    Compute,
    Instruction,
    Layer,
    Load,
    Memory,
    Modes,
    Post,
    Program,
    Reduce,
    Start,
    Store,
    TensorRegion,
    Unit,
    assemble,
    pack_records,
    pack_rows,
)
from accelsim.isa.check import MAX_TOKENS
from accelsim.isa.instructions import OPCODES, Kind
from accelsim.machine import Accelerator, Run, pe_grid
from accelsim.machine.pe_grid import GridConfig, GridRun
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme
from accelsim.pipeline import Outcome
from accelsim.timing import (
    D_ACC,
    D_POST,
    TIMING_VERSION,
    ArrayShape,
    ComputeState,
    compute_counts,
    compute_times,
    instruction_counts,
    longest_path,
    post_cycles,
    transfer_cycles,
)

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "microarchitecture.md").read_text(encoding="utf-8")


# --- reading the page --------------------------------------------------------------------------------------


def section(title: str) -> str:
    """The text under a heading, up to the next heading of any level."""
    found = re.search(rf"^#+ {re.escape(title)}[^\n]*\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"docs/microarchitecture.md has no heading {title!r}"
    return found[1]


def tables(text: str) -> list[list[dict[str, str]]]:
    """Each Markdown table as rows from heading to cell; a minus sign becomes the ASCII one."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text.replace("−", "-"), re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in block.splitlines(keepends=False)]
        found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def program_text(title: str) -> tuple[Instruction, ...]:
    """The program of a worked case."""
    return assemble(re.findall(r"```text\n(.*?)```", section(title), re.DOTALL)[0])


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"-?\d+", text)]


# --- section 5: fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize("title, kinds", [("5.1", (Load, Store)), ("5.2", (Compute,)), ("5.3", (Post,))])
def test_field_tables_of_the_page_are_the_encoding(title, kinds):
    rows = next(table for table in tables(section(title)) if "kind" in table[0])
    said = {(row["field"].strip("`"), int(row["word"]), row["bits"], row["kind"]) for row in rows}
    for kind in kinds:
        own = [field for field in kind.LAYOUT if field.name not in ("wait", "signal", "label")]
        bits = [f"{f.low + f.bits - 1}:{f.low}" if f.bits > 1 else str(f.low) for f in own]
        assert said == {(f.name, f.word, b, f.kind.value) for f, b in zip(own, bits, strict=True)}
    assert len(rows) == len(said)


def test_word_0_of_the_page_is_the_encoding():
    head, kinds = tables(section("5 Instructions"))
    said = {row["field"].strip("`"): (int(row["word"]), row["bits"]) for row in head}
    assert said.pop("opcode") == (0, "31:28")
    for kind in OPCODES.values():
        common = {f.name: (f.word, f"{f.low + f.bits - 1}:{f.low}") for f in kind.LAYOUT if f.name in said}
        assert common == said
    assert ", ".join(f"{n} {kind.__name__.upper()}" for n, kind in sorted(OPCODES.items())) == head[0]["meaning"]
    assert sorted(row["kind"] for row in kinds) == sorted(kind.value for kind in Kind)


def test_defaults_are_those_the_page_states():
    ones = {"rows", "x_count", "y_count", "images", "r_count", "s_count"}
    only_compute = {"stride_y": 1, "dilation_y": 1, "in_height": 1, "last": 1, "weight_bits": 8}
    for kind in OPCODES.values():
        for field in fields(kind):
            if isinstance(field.default, int):
                expected = 1 if field.name in ones else only_compute.get(field.name, 0) if kind is Compute else 0
                assert field.default == expected, (kind, field.name)


def test_constants_are_those_the_page_states():
    assert (
        f"| D_acc, D_post | {D_ACC}, {D_POST}: constants of the timing contract, whose version is {TIMING_VERSION}"
        in PAGE
    )
    assert MAX_TOKENS == 255
    assert [f"{unit.value} {unit.name}" for unit in Unit] == ["0 LOAD", "1 COMPUTE", "2 POST", "3 STORE"]
    assert "0 LOAD, 1 COMPUTE, 2 POST, 3 STORE" in section("3 Order between units")


def test_packed_row_of_the_page():
    # 4 bits, first lane low: 1 -> 0x1, -1 -> 0xF, 2 -> 0x2.
    assert pack_rows(np.array([[1, -1, 2]]), 4).tobytes() == b"\xf1\x02"


# --- section 9: worked cases -------------------------------------------------------------------------------


def hardware(rows: int = 2, columns: int = 2, **accumulator: Any) -> Hardware:
    """The page's machine: B = 4, latency 3, small memories."""
    return hardware_from_dict(
        {
            "array": {"rows": rows, "columns": columns},
            "accumulator": {"width_bits": 32, "memory_bytes": 256, **accumulator},
            **{name: {"memory_bytes": 256} for name in ("activation", "weight", "parameter", "table")},
            "dram": {"bandwidth_bytes_per_cycle": 4, "latency_cycles": 3},
            "clock_mhz": 100.0,
        },
        "docs/microarchitecture.md",
    )


def machine(
    instructions: tuple[Instruction, ...],
    dram: bytes,
    output: slice,
    *,
    on: Hardware | None = None,
    rounding: Rounding = Rounding.FLOOR,
) -> Accelerator:
    """The machine with a hand-written program whose result is a row of bytes in DRAM."""
    shape = (1, 1, output.stop - output.start)
    program = Program(
        name="case",
        instructions=instructions,
        modes=Modes(
            activation=IntFormat(8),
            zero_points="folded",
            requantization=Requantization(scheme=Scheme.POWER_OF_TWO, rounding=rounding),
        ),
        hardware=on or hardware(),
        timing_version=TIMING_VERSION,
        dram=np.frombuffer(dram, dtype=np.uint8),
        input=TensorRegion(node="x", address=0, batch=1, shape=(1, 1, 1), scale=1.0, zero_point=0),
        output=TensorRegion(node="y", address=output.start, batch=1, shape=shape, scale=1.0, zero_point=0),
        layers=(Layer(name="a", op="test", nodes=(), macs=0, outputs=0),) * 2,
        pieces=(),
        shapes={},
    )
    return Accelerator(program)


def run(accelerator: Accelerator) -> tuple[Run, list[int], list[tuple[str, int, int]]]:
    """Run in both start orders and by the longest path; returns the run, its result and (unit, issue, done)."""
    result = accelerator.run()
    assert accelerator.run(start_order=tuple(reversed(Unit))).cycles == result.cycles
    times = {issued.index: (issued.unit.name, issued.issue, issued.done) for issued in result.timeline}
    program = accelerator.program
    schedule = longest_path(program.instructions, program.hardware)
    assert (schedule.issue, schedule.done) == tuple(zip(*((t[1], t[2]) for _, t in sorted(times.items())), strict=True))
    assert result.output is not None
    return result, result.output.ravel().tolist(), [times[index] for index in sorted(times)]


def bytes_of(*values: int) -> bytes:
    return np.array(values, dtype=np.int8).tobytes()


def records(*pairs: tuple[int, int]) -> bytes:
    """Parameter records of (bias, shift), multiplier 1 as power_of_two has it."""
    bias, shift = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return pack_records(bias, np.ones_like(bias), shift).tobytes()


def reads(title: str, column: str) -> list[tuple[int, list[int]]]:
    """(cycle, numbers) of a column of a worked case's table, blank cells left out."""
    return [(int(row["cycle"]), numbers(row[column])) for row in tables(section(title))[0] if row[column]]


class Trace:
    """A COMPUTE case on the grid: the registers that each cycle leaves behind."""

    def __init__(self, computes: list[Compute], shape: tuple[int, int], activation: bytes, weight: bytes):
        self.computes = computes
        self.shape = ArrayShape(*shape)
        self.after: list[pe_grid.Registers] = []
        padded = [np.frombuffer(data.ljust(64, b"\0"), dtype=np.uint8) for data in (activation, weight)]
        self.grid: GridRun = pe_grid.run(
            computes,
            GridConfig(
                rows=shape[0],
                columns=shape[1],
                psum_bits=32,
                overflow="saturate",
                saturate_at="every_add",
                subtract_zero_points=False,
            ),
            activation=padded[0],
            weight=padded[1],
            accumulators=np.zeros((8, shape[1]), dtype=np.int64),
            bias=np.zeros(0, dtype=np.int64),
            observe=lambda cycle, registers: self.after.append(registers),
        )
        self.after = self.after[1:]  # what a cycle leaves is what the next starts from

    def times(self) -> list[tuple[int, int, int, int]]:
        """(issue, done, span) of each COMPUTE from the closed forms, which must be the grid's too."""
        state: ComputeState | None = None
        found = []
        for compute in self.computes:
            times = compute_times(compute, self.shape, state, 0)
            state = times.state
            found.append((times.issue, times.done, times.span_first, times.span_last))
        assert [t[:2] for t in found] == list(zip(self.grid.issue, self.grid.done, strict=True))
        assert [t[2:] for t in found] == self.grid.span
        return found

    def counts(self) -> dict[str, int]:
        """Captures, counted by the grid, which must be the closed forms'."""
        counted = [compute_counts(compute, self.shape) for compute in self.computes]
        total = {op: sum(one[op] for one in counted) for op in counted[0]}
        assert self.grid.captures == total
        return total

    def check_table(self, *titles: str) -> None:
        """Every entry of the page's tables against the registers, and nothing happens that they leave out."""
        rows = [row for title in titles for row in tables(section(title))[0]]
        R, C = self.shape[:2]
        name = [[f"PE({i},{j})" for j in range(C)] for i in range(R)]
        said = {int(row["cycle"]): row for row in rows}
        for cycle, registers in enumerate(self.after):
            row = said.get(cycle, {})
            psum = np.asarray(registers["pe.psum"])
            before = np.asarray(self.after[cycle - 1]["pe.psum"]) if cycle else np.zeros_like(psum)
            for i in range(R):
                for j in range(C):
                    cell = row.get(name[i][j], "").removesuffix("*").strip()
                    expected = int(cell) if cell else before[i, j]
                    assert psum[i, j] == expected, (titles, cycle, name[i][j])
            if "shadows taken" in row:
                for i, j, weight in re.findall(r"\((\d+),(\d+)\) (-?\d+)", row["shadows taken"]):
                    assert np.asarray(registers["pe.shadow"])[int(i), int(j)] == int(weight), (titles, cycle)
            arrived = np.asarray(registers["accumulator.psum"]) if int(registers["accumulator.wave"]) >= 0 else []
            assert list(arrived) == numbers(row.get("arrives", "")), (titles, cycle)
        arrivals = [cycle for cycle, row in said.items() if row["arrives"]]
        assert [cycle for cycle, row in said.items() if row["written"]] == [cycle + 1 for cycle in arrivals]
        written: dict[int, list[int]] = {}
        for row in rows:
            for word, values in re.findall(r"word (\d+): (.*)", row["written"]):
                written[int(word)] = numbers(values)
        for word, values in written.items():
            assert self.grid.accumulators[word].tolist() == values, titles
        assert max(cycle for cycle, row in said.items() if row["written"]) == self.grid.done[-1]


def check_on_the_machine(case: Trace, activation: bytes, weight: bytes, expected: list[int], *, on: Hardware) -> None:
    """The same COMPUTEs between LOADs, a POST that changes nothing and a STORE: bits, and cycles from their issue."""
    words, lanes = case.computes[0].words, case.computes[0].lanes
    dram = activation.ljust(64, b"\0") + weight.ljust(64, b"\0") + records(*[(0, 0)] * lanes)
    result = slice(len(dram), len(dram) + words * lanes)
    loads: list[Instruction] = [
        Load(memory=memory, dram_address=at, buffer_address=0, row_bytes=size, signal=signal)
        for memory, at, size, signal in (
            (Memory.PARAMETER, 128, 16 * lanes, 1 << Unit.POST),
            (Memory.WEIGHT, 64, 64, 0),
            (Memory.ACTIVATION, 0, 64, 1 << Unit.COMPUTE),
        )
    ]
    body = list(case.computes)
    body[0] = replace(body[0], wait=1 << Unit.LOAD)
    body[-1] = replace(body[-1], signal=1 << Unit.POST)
    post = Post(
        wait=1 << Unit.LOAD | 1 << Unit.COMPUTE,
        signal=1 << Unit.STORE,
        lanes=lanes,
        src_base=0,
        src_x_step=1,
        x_count=words,
        dst_base=128,
        dst_x_step=lanes,
        param=0,
        qmin=-128,
        qmax=127,
    )
    store = Store(wait=1 << Unit.POST, dram_address=result.start, buffer_address=128, row_bytes=words * lanes)
    image = dram + bytes(words * lanes)
    accelerator = machine((*loads, *body, post, store), image, result, on=on)
    _, output, times = run(accelerator)
    assert output == expected
    # LOADs of 16 N, 64 and 64 bytes with B = 4 and latency 3: 3 + 4N, 19 and 19 cycles.
    first = 3 + 4 * lanes + 19 + 19
    assert [(issue - first, done - first) for unit, issue, done in times if unit == "COMPUTE"] == [
        (issue, done) for issue, done, _, _ in case.times()
    ]


def matrix(words: int, run_bytes: int, lanes: int, **others: int) -> Compute:
    """A matrix product: words of `run_bytes` consecutive bytes, one after the other."""
    return Compute(
        **{
            "act_base": 0,
            "weight_base": 0,
            "width": 32,
            "acc_base": 0,
            "lanes": lanes,
            "run_bytes": run_bytes,
            "x_count": words,
            "x_step": run_bytes,
            "in_row_bytes": words * run_bytes,
            **others,
        }
    )


def test_9_1_one_weight_stationary_tile():
    activation, weight = bytes_of(1, 2, 3, 4), bytes_of(5, 6, 7, 8)
    case = Trace([matrix(words=2, run_bytes=2, lanes=2)], (2, 2), activation, weight)
    # L = 0, T = L + R = 2; the last word is written in T + M - 1 + (R - 1) + (C - 1) + D_acc = 2 + 1 + 1 + 1 + 2.
    # Span: to the last product, T + M - 1 + (R - 1) + (C - 1) = 5.
    assert case.times() == [(0, 7, 0, 5)]
    case.check_table("9.1")
    assert reads("9.1", "weight row read") == [(0, [5, 6]), (1, [7, 8])]  # L + i
    assert reads("9.1", "word read") == [(2, [1, 2]), (3, [3, 4])]  # T + m
    # (1*5 + 2*7, 1*6 + 2*8), (3*5 + 4*7, 3*6 + 4*8)
    check_on_the_machine(case, activation, weight, [19, 22, 43, 50], on=hardware())
    # M = K = N = R = C = 2, Q = 1: MKN = 8; psum MRNQ = 8; weights 2KN = 8; skew: words M*(0 + 1) = 2, weights
    # K*(0 + 1) = 2, deskew M*(1 + 0) = 2.
    counts = case.counts()
    assert [counts[op] for op in ("mul", "add.array", "register.psum", "register.weight")] == [8, 8, 8, 8]
    assert (counts["register.skew"], counts["add.accumulator"], counts["write.accumulator"]) == (6, 0, 4)


def test_9_2_fewer_words_than_rows_wait_for_the_load():
    activation, weight = bytes_of(1, 2, 3, 4), bytes_of(1, 2, 3, 4, 5, 6, 7, 8)
    case = Trace([matrix(words=1, run_bytes=4, lanes=2)], (2, 2), activation, weight)
    # T_0 = 2, L_1 = max(0 + 2, 2) = 2, T_1 = max(2 + 2, 2 + 1) = 4; done = 4 + 0 + 1 + 1 + 2; span to 4 + 0 + 1 + 1.
    assert case.times() == [(0, 8, 0, 6)]
    case.check_table("9.2")
    assert reads("9.2", "weight row read") == [(0, [1, 2]), (1, [3, 4]), (2, [5, 6]), (3, [7, 8])]
    assert reads("9.2", "word read") == [(2, [1, 2]), (4, [3, 4])]
    # 1*1 + 2*3 + 3*5 + 4*7 = 50, 1*2 + 2*4 + 3*6 + 4*8 = 60
    check_on_the_machine(case, activation, weight, [50, 60], on=hardware())
    assert case.counts()["add.accumulator"] == 2  # M*N for the second tile only


def test_9_3_more_words_than_rows_stream_without_a_pause():
    activation, weight = bytes_of(1, 2, 1, 1, 3, 4, 2, 2, 5, 6, 3, 3), bytes_of(1, 2, 3, 4)
    case = Trace([matrix(words=3, run_bytes=4, lanes=1)], (2, 1), activation, weight)
    # T_0 = 2, L_1 = 2, T_1 = max(2 + 2, 2 + 3) = 5; done = 5 + 2 + 1 + 0 + 2; span to 5 + 2 + 1.
    assert case.times() == [(0, 10, 0, 8)]
    case.check_table("9.3")
    assert reads("9.3", "weight row read") == [(0, [1]), (1, [2]), (2, [3]), (3, [4])]
    assert [cycle for cycle, _ in reads("9.3", "word read")] == [2, 3, 4, 5, 6, 7]
    # 1 + 4 + 3 + 4, 3 + 8 + 6 + 8, 5 + 12 + 9 + 12
    check_on_the_machine(case, activation, weight, [12, 25, 38], on=hardware(2, 1))


OS = {"output_stationary": 1}


def test_9_4_output_stationary_tile_drains_bottom_row_first():
    activation, weight = bytes_of(1, 2, 3, 4, 5, 6), bytes_of(1, 2, 3, 4, 5, 6)
    case = Trace([matrix(words=2, run_bytes=3, lanes=2, **OS)], (2, 2), activation, weight)
    # Q = 2, len = 1: D = max(2, 2 + 1) = 3; done = 0 + 3 - 1 + 4 + 2 - 1 = 7; span to 0 + 3 - 1 + 1 + 1 = 4.
    assert case.times() == [(0, 7, 0, 4)]
    case.check_table("9.4")
    # Row i reads piece q in T + 2q + i; weight row (q, b) is read in T + 2q + b.
    assert reads("9.4", "word read") == [(0, [0, 1, 2]), (1, [1, 4, 5]), (2, [0, 3]), (3, [1, 6])]
    assert reads("9.4", "weight row read") == [(0, [1, 2]), (1, [3, 4]), (2, [5, 6])]
    # What leaves the bottom of the columns in a cycle is what their bottom drain registers held at its start.
    for row in tables(section("9.4"))[0]:
        cycle, leaving = int(row["cycle"]), row["leaves the columns"]
        if leaving:
            bottom = np.asarray(case.after[cycle - 1]["pe.drain"])[-1]
            assert [str(v) if t != "–" else t for v, t in zip(bottom, leaving.split(", "), strict=True)] == (
                leaving.split(", ")
            )
    # (1 + 6 + 15, 2 + 8 + 18), (4 + 15 + 30, 8 + 20 + 36)
    check_on_the_machine(case, activation, weight, [22, 28, 49, 64], on=hardware())


def test_9_5_output_stationary_sums_resume_from_the_accumulator_memory():
    activation, weight = bytes_of(1, 2, 3, 4, 5, 6, 1, 2), bytes_of(1, 2, 3, 4, 5, 6, 7, 8)
    more = matrix(words=2, run_bytes=1, lanes=2, act_base=6, weight_base=6, start=Start.ACCUMULATE, **OS)
    case = Trace([matrix(words=2, run_bytes=3, lanes=2, **OS), more], (2, 2), activation, weight)
    # The second issues at done + 1 = 8: T = 8 + R = 10, D = max(2, 1) = 2, done = 10 + 2 - 1 + 4 + 1 = 16; its span is
    # from its first preload read, 8, to 10 + 1 - 1 + 1 + 1 = 12, where its one product passes the last PE.
    assert case.times() == [(0, 7, 0, 4), (8, 16, 8, 12)]
    case.check_table("9.4", "9.5")
    # Read in T - 1 - i, bottom row first; PE(i, j) holds its start value at the end of T - 1 + j.
    assert reads("9.5", "start word read") == [(8, [1, 49, 64]), (9, [0, 22, 28])]
    assert reads("9.5", "word read") == [(10, [0, 1]), (11, [1, 2])]
    assert np.asarray(case.after[9]["pe.preload"])[:, 0].tolist() == [22, 49]
    assert np.asarray(case.after[10]["pe.preload"])[:, 1].tolist() == [28, 64]
    # 22 + 7, 28 + 8, 49 + 14, 64 + 16
    assert case.grid.accumulators[:2].tolist() == [[29, 36], [63, 80]]
    check_on_the_machine(case, activation, weight, [29, 36, 63, 80], on=hardware())


def test_9_6_two_rectangles_through_four_units():
    instructions = program_text("9.6")
    dram = (
        bytes_of(1, 2, 3, 4)  # weight rows (1, 2), (3, 4)
        + bytes_of(1, 0, 0, 1, 1, 1, 2, 3)
        + bytes_of(-1, 0, 0, -1, 5, 5, 10, 10)
        + records((1, 1), (0, 1))
        + bytes(16)
    )
    accelerator = machine(instructions, dram, slice(52, 68))
    result, output, times = run(accelerator)
    (rows,) = tables(section("9.6"))
    said = [(row["unit"], int(row["issue"]), int(row["done"])) for row in rows]
    # LOAD: 3 + 1, 3 + 2, 3 + 8, 3 + 2 cycles, one after the other.
    # COMPUTE 0 at 8 + 1, T = 11, done 11 + 3 + 1 + 1 + 2; COMPUTE 1 at 24 + 1, done 25 + 9.
    # POST 0 at max(19, 18) + 1, 2 records + 4 words + 5 = 11 cycles; POST 1 at 34 + 1. STORE: 3 + 2 cycles.
    derived = [("LOAD", 0, 3), ("LOAD", 4, 8), ("LOAD", 9, 19), ("LOAD", 20, 24)]
    derived += [("COMPUTE", 9, 18), ("COMPUTE", 25, 34), ("POST", 20, 30), ("POST", 35, 45)]
    derived += [("STORE", 31, 35), ("STORE", 46, 50)]
    assert said == derived
    assert times == derived
    assert result.cycles == 51
    stalls = {issued.index: dict(issued.stalls) for issued in result.timeline}
    assert [_stall_text(stalls[index]) for index in range(10)] == [row["stalls"] for row in rows]
    # (acc + bias) >> 1: rectangle 0 sums (1, 2), (3, 4), (4, 6), (11, 16); 1: (-1, -2), (-3, -4), (20, 30), (40, 60).
    assert output == [1, 1, 2, 2, 2, 3, 6, 8, 0, -1, -1, -2, 10, 15, 20, 30]
    # LOAD 0 to 2: 19 + 1; then layer 1's LOAD 3, COMPUTE 1, POST 1 and STORE 1 end 5, 10, 11 and 5 cycles later.
    assert layer_cycles(Outcome(accelerator.program, accelerator, result)) == [20, 5 + 10 + 11 + 5]
    path = longest_path(instructions, accelerator.program.hardware).critical_path()
    assert path == [0, 1, 2, 3, 5, 7, 9]


def _stall_text(stalls: dict[Unit, int]) -> str:
    return ", ".join(f"{unit.name} {cycles}" for unit, cycles in stalls.items())


def test_9_7_post_with_2x2_max_pooling():
    instructions = program_text("9.7")
    dram = bytes_of(2, 1, 5, 2, 0, 3, 4, -7, -1) + records((1, 1)) + bytes(2)
    result, output, times = run(machine(instructions, dram, slice(25, 27)))
    # COMPUTE: issue 9, done 11 + 7 + 1 + 1 + 2. POST: issue 22 + 1, 1 record + 2 * 4 reads + 5 = 14 cycles.
    assert times == [
        ("LOAD", 0, 3),
        ("LOAD", 4, 8),
        ("LOAD", 9, 15),
        ("COMPUTE", 9, 22),
        ("POST", 23, 36),
        ("STORE", 37, 40),
    ]
    assert result.cycles == 41
    # max(2, 10, 6, 8) = 10 -> (10 + 1) >> 1; max(4, 0, -14, -2) = 4 -> (4 + 1) >> 1
    assert output == [5, 2]
    rows = tables(section("9.7"))[0]
    # One record, then a word a cycle; a result is written 5 cycles after its window's last read.
    assert [int(row["cycle"]) for row in rows if row["POST reads"]] == list(range(23, 32))
    assert [int(row["cycle"]) for row in rows if row["writes"]] == [27 + 5, 31 + 5]
    sums = [2 * pixel for pixel in (1, 5, 2, 0, 3, 4, -7, -1)]
    order = [0, 1, 4, 5, 2, 3, 6, 7]  # (y, x) of the window's words, s fastest: address 4y + x
    assert [numbers(row["POST reads"]) for row in rows[1:9]] == [[word, sums[word]] for word in order]
    post = instructions[4]
    assert isinstance(post, Post)
    assert post.reduce == Reduce.MAX
    assert post_cycles(post) == 14


def test_9_8_average_pooling_at_padded_corners():
    instructions = program_text("9.8")
    dram = bytes_of(10, 20, 30, 41) + records((0, 0)) + bytes(8)
    accelerator = machine(instructions, dram, slice(20, 28), rounding=Rounding.HALF_EVEN)
    result, output, times = run(accelerator)
    # LOADs of 4 and 16 bytes: 3 + 1 and 3 + 4 cycles; POSTs of 1 + 4 * 4 + 5; STORE of 3 + 2.
    assert times == [("LOAD", 0, 3), ("LOAD", 4, 10), ("POST", 11, 32), ("POST", 33, 54), ("STORE", 55, 59)]
    assert result.cycles == 60
    # One pixel inside each window: itself, or a quarter: 2.5 to even, 5, 7.5 to even, 10.25.
    assert output == [10, 20, 30, 41, 2, 5, 8, 10]
    program = accelerator.program
    for post in (instructions[2], instructions[3]):
        counts = instruction_counts(post, program.hardware, program.modes)
        assert sum(n for key, n in counts.items() if key.op == "read.activation") == 4
        assert sum(n for key, n in counts.items() if key.op == "write.activation") == 4
        # Additions: 4 values * (window - 1), and 4 biases and 4 zero points.
        assert sum(n for key, n in counts.items() if key.op == "add.ppu") == 4 * 3 + 8


def test_9_9_each_row_of_a_transfer_begins_a_beat():
    instructions = program_text("9.9")
    dram = bytes_of(*range(32)) + bytes(15)
    result, output, times = run(machine(instructions, dram, slice(32, 47)))
    # LOAD: 3 + 3 * ceil(5 / 4) = 9 cycles; STORE: 3 + ceil(15 / 4) = 7.
    assert times == [("LOAD", 0, 8), ("STORE", 9, 15)]
    assert result.cycles == 16
    assert output == [*range(2, 7), *range(10, 15), *range(18, 23)]
    load = instructions[0]
    assert isinstance(load, Load)
    assert transfer_cycles(load, hardware()) == 9
    # The page's beats: issue + latency + b, rows of 4 + 1 bytes, then 4 + 4 + 4 + 3.
    beats = [(int(row["cycle"]), numbers(row["buffer"].replace("–", " "))) for row in tables(section("9.9"))[0]]
    expected = [(3 + 2 * row + part, [5 * row + 4 * part]) for row in range(3) for part in range(2)]
    assert [(cycle, cells[:1]) for cycle, cells in beats] == [*expected, *((12 + b, [4 * b]) for b in range(4))]


@pytest.mark.parametrize(
    "dataflow, overflow, saturate_at, expected, overflows, extremes",
    [
        # 0 + 100, 100 + 100 -> 127; memory 0 + 127; 0 - 100, -100 - 100 -> -128; memory 127 - 128.
        ("ws", "saturate", "every_add", -1, 2, (-200, 200)),
        # 0 + 100, 100 + 100 -> 127, 127 - 100, 27 - 100.
        ("os", "saturate", "every_add", -73, 1, (-73, 200)),
        # Modulo 256 the order does not matter. ws: 200 -> -56 and -200 -> 56 wrap, -56 + 56 does not.
        ("ws", "wrap", "every_add", 0, 2, (-200, 200)),
        # os: 200 -> -56, -56 - 100 -> 100, 100 - 100.
        ("os", "wrap", "every_add", 0, 2, (-156, 200)),
        # Exact throughout: 100, 200, memory 200; -100, -200, memory 0. Nothing overflows at the end.
        ("ws", "saturate", "end", 0, 0, (-200, 200)),
        ("os", "saturate", "end", 0, 0, (0, 200)),
    ],
)
def test_9_10_the_order_of_additions_is_part_of_the_result(
    dataflow, overflow, saturate_at, expected, overflows, extremes
):
    on = hardware(2, 1, width_bits=8, overflow=overflow, saturate_at=saturate_at)
    dram = bytes_of(10, 10, 10, 10) + bytes_of(10, 10, -10, -10) + records((0, 0)) + bytes(1)
    instructions = assemble(
        f"""
        LOAD    memory=ACTIVATION dram_address=0 buffer_address=0 row_bytes=4
        LOAD    memory=WEIGHT dram_address=4 buffer_address=0 row_bytes=4
        LOAD    signal=COMPUTE memory=PARAMETER dram_address=8 buffer_address=0 row_bytes=16
        COMPUTE wait=LOAD signal=POST output_stationary={int(dataflow == "os")} act_base=0 weight_base=0 width=8 \
acc_base=0 lanes=1 run_bytes=4 in_row_bytes=4
        POST    wait=COMPUTE signal=STORE lanes=1 src_base=0 dst_base=8 param=0 qmin=-128 qmax=127
        STORE   wait=POST dram_address=24 buffer_address=8 row_bytes=1
        """
    )
    accelerator = machine(instructions, dram, slice(24, 25), on=on)
    _, output, _ = run(accelerator)
    assert output == [expected]
    seen = accelerator.run(telemetry=True).statistics[0]
    assert (seen.overflows, (seen.minimum, seen.maximum)) == (overflows, extremes)


def test_9_10_table_follows_from_the_rule():
    (rows,) = tables(section("9.10"))
    for name, expected in (("ws", -1), ("os", -73)):
        values = []
        for row in rows:
            found = re.fullmatch(r"(?:array |memory )?(-?\d+) ([+-]) (\d+)", row[f"{name}: s + p"])
            if found:
                total = int(found[1]) + int(found[2] + found[3])
                values.append(max(-128, min(127, total)))
                assert values[-1] == int(row[f"{name} fitted"]), row
        assert values[-1] == expected


def test_9_11_diagonal_tiles():
    activation, weight = bytes_of(1, 2, 3, 4), bytes_of(3, 4, 5, 6)
    # One word; runs s = 0, 1 of two lanes, two bytes apart.
    compute = matrix(words=1, run_bytes=2, lanes=2, diagonal=1, s_count=2, s_step=2, in_row_bytes=4)
    case = Trace([compute], (2, 2), activation, weight)
    # L_0 = 0, T_0 = 2, L_1 = 2, T_1 = 4; done = 4 + 0 + 1 + 1 + 2.
    assert case.times() == [(0, 8, 0, 6)]
    case.check_table("9.11")
    assert reads("9.11", "weight row read") == [(0, [3, 4]), (2, [5, 6])]
    assert reads("9.11", "word read") == [(2, [1, 2]), (4, [3, 4])]
    # 1*3 + 3*5, 2*4 + 4*6
    check_on_the_machine(case, activation, weight, [18, 32], on=hardware())
    counts = case.counts()
    # M = 1, Q = 2, N = 2: MACs MQN = 4; activations MQ * 3; weights 2QN = 8; skew: lane 1 of each tile 1, weights
    # 2Q * 1, deskew MQ * 1; weight bytes Q * 2.
    assert [counts[op] for op in ("mul", "register.activation", "register.weight")] == [4, 6, 8]
    assert (counts["register.skew"], counts["read.weight"]) == (2 + 4 + 2, 4)


@pytest.mark.parametrize("depth", [1, 2, 7])  # fewer products than rows, and more
@pytest.mark.parametrize("folds", [1, 3])
def test_serial_folds_span_what_scale_sim_counts(folds, depth):
    rows, columns, words = 4, 3, 5
    ws = Compute(
        act_base=0,
        weight_base=0,
        width=32,
        acc_base=0,
        lanes=3,
        run_bytes=rows * folds,
        x_count=words,
        x_step=0,
        in_row_bytes=64,
        serial=1,
    )
    times = compute_times(ws, ArrayShape(rows, columns), None, 0)
    # A fold: R + (M + R + C - 2) = 4 + 5 + 4 + 3 - 2 = 14.
    assert times.span_last - times.span_first + 1 == folds * 14
    os = Compute(
        act_base=0,
        weight_base=0,
        width=32,
        acc_base=0,
        lanes=3,
        run_bytes=depth,
        x_count=rows * folds,
        x_step=0,
        in_row_bytes=64,
        serial=1,
        output_stationary=1,
    )
    times = compute_times(os, ArrayShape(rows, columns), None, 0)
    # A fold: K + R + C - 2, here K + 5.
    assert times.span_last - times.span_first + 1 == folds * (depth + 5)
