"""One product in three arithmetics: float32 sums against a scalar reference, and the same machine, rules and counts."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from refusals import refusal

from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.compiler.products import Operands, compile_product
from accelsim.config import Hardware, load_hardware
from accelsim.energy import load_energy
from accelsim.errors import InputError
from accelsim.ir import quantize_input
from accelsim.isa import Compute, Modes, Post, Unit, check_program
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme
from accelsim.rtl.support import check_supported
from accelsim.timing import OpKey, longest_path

MODES = Modes(
    activation=IntFormat(8),
    zero_points="folded",
    requantization=Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR),
)
SMALL = [  # a block of K holds a few words of R: sums go on from one COMPUTE to the next
    *("array.rows=3", "array.columns=5", "weight.memory_bytes=260", "activation.memory_bytes=700"),
    *("accumulator.memory_bytes=200", "dram.latency_cycles=5"),
]
SLOW = ["array.mac_latency_cycles=9", "array.add_latency_cycles=5"]


def machine(arithmetic: str, *overrides: str) -> Hardware:
    return load_hardware("edge_8x8", [f"array.arithmetic={arithmetic}", *overrides])


def floats(left: np.ndarray, right: np.ndarray) -> Operands:
    return Operands(left=left, right=right, records=None, clip=(-128, 127))


def result(program, shape: tuple[int, int]) -> np.ndarray:
    """What a program of floats wrote, float32 (M, N)."""
    run = Accelerator(program).run()
    return np.ascontiguousarray((run.output & 0xFF).astype(np.uint8).reshape(shape[0], -1)).view("<f4")


def rounded(value: float) -> float:
    """The nearest float32, ties to even; infinity where it is beyond the largest."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def scalar_product(left: list[list[float]], right: list[list[float]], rows: int, dataflow: str) -> list[list[float]]:
    """One product and one addition after the other, in plain floats, each rounded to float32.

    A product of two float32 is exact in float64, and their sum rounded to float64 and then to float32 is the sum
    rounded to float32 (53 >= 2 * 24 + 2 bits).
    """
    found = []
    for a in left:
        found.append([])
        for n in range(len(right[0])):
            total = 0.0
            for first in range(0, len(a), rows if dataflow == "ws" else len(a)):
                chunk = range(first, min(first + rows, len(a)) if dataflow == "ws" else len(a))
                psum = 0.0 if dataflow == "ws" else total
                for k in chunk:
                    psum = rounded(psum + rounded(a[k] * right[k][n]))
                total = rounded(total + psum) if dataflow == "ws" else psum
            found[-1].append(total)
    return found


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("arithmetic", ["float32xint8", "float32xfloat32"])
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_float32_in_the_order_of_the_array(arithmetic, dataflow, seed):
    rng = np.random.default_rng([seed, len(arithmetic), len(dataflow)])
    m, k, n = (int(size) for size in rng.integers(1, [20, 40, 14]))
    # Sizes from subnormal to infinite sums, so that order, rounding and overflow all show.
    left = (rng.standard_normal((m, k)) * 10.0 ** rng.integers(-3, 4, (m, k))).astype(np.float32)
    if seed == 3:
        left = (left * np.float64(10.0) ** rng.choice([-44, -20, 0, 30], (m, k))).astype(np.float32)
    right = rng.standard_normal((k, n)).astype(np.float32)
    if seed == 3:
        right = (right * np.float64(10.0) ** rng.choice([-10, 0, 8], (k, n))).astype(np.float32)
    if arithmetic == "float32xint8":
        right = rng.integers(-128, 128, (k, n)).astype(np.int8)
    hardware = machine(arithmetic, *SMALL, *SLOW, f"array.dataflow={dataflow}")
    program = compile_product("product", floats(left, right), hardware, MODES)
    got = result(program, (m, n))
    expected = scalar_product(left.tolist(), right.astype(float).tolist(), 3, dataflow)
    assert got.tobytes() == np.array(expected, dtype="<f4").tobytes() or np.array_equal(got, expected, equal_nan=True)


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_cycles_are_the_longest_path_in_either_order_of_the_processes(dataflow):
    rng = np.random.default_rng(3)
    left, right = (rng.standard_normal(shape).astype(np.float32) for shape in ((17, 23), (23, 12)))
    hardware = machine("float32xfloat32", *SMALL, *SLOW, f"array.dataflow={dataflow}")
    program = compile_product("product", floats(left, right), hardware, MODES)
    assert any(isinstance(i, Compute) and i.start == 1 for i in program.instructions)
    path = longest_path(program.instructions, hardware)
    for order in (tuple(Unit), tuple(Unit)[::-1]):
        run = Accelerator(program).run(values=False, start_order=order)
        assert run.cycles == path.cycles
        assert {i.index: (i.issue, i.done) for i in run.timeline} == dict(
            enumerate(zip(path.issue, path.done, strict=True))
        )


def test_a_product_of_one_tile_by_hand():
    shape = ["array.rows=2", "array.columns=2", "dram.latency_cycles=3"]
    ones = np.ones((2, 2), dtype=np.float32)
    program = compile_product("product", floats(ones, ones), machine("float32xfloat32", *shape, *SLOW), MODES)
    # B = 4: A and B take 3 + 4 cycles each, 0-6 and 7-13. L = 14, T = 16; omega = 5 + 1 + 8 = 14, so done = 16 + 1 +
    # 14 + 2 = 33. POST reads no records: 2 + 5 cycles, 34-40. STORE 41-47.
    times = {i.unit: (i.issue, i.done) for i in Accelerator(program).run().timeline}
    assert times == {Unit.LOAD: (7, 13), Unit.COMPUTE: (14, 33), Unit.POST: (34, 40), Unit.STORE: (41, 47)}
    # int8 weights are a quarter: one beat in place of four; 2 x 2 sums of 2.
    program = compile_product(
        "product", floats(ones, ones.astype(np.int8)), machine("float32xint8", *shape, *SLOW), MODES
    )
    assert Accelerator(program).run().cycles == 48 - 3
    assert result(program, (2, 2)).tolist() == [[2, 2], [2, 2]]


def test_operations_of_floats_and_their_bytes():
    m, k, n = 4, 6, 3
    left, right = np.ones((m, k), dtype=np.float32), np.ones((k, n), dtype=np.int8)
    counts = Accelerator(compile_product("p", floats(left, right), machine("float32xint8"), MODES)).counts()[0]
    assert counts[OpKey("mul.float32", 24, 8)] == counts[OpKey("add.array.float32", 32)] == m * k * n
    assert counts[OpKey("add.accumulator.float32", 32)] == 0  # one tile of 8 rows
    assert counts[OpKey("dram.read", 8)] == 4 * m * k + k * n
    assert counts[OpKey("dram.write", 8)] == counts[OpKey("write.activation", 8)] - 4 * m * k == 4 * m * n
    assert counts[OpKey("read.weight", 8)] == k * n
    assert counts[OpKey("register.weight", 8)] == 2 * k * n
    # Skew: weights in column j wait j cycles; activations in row i wait i, sums in column j wait C - 1 - j.
    assert counts[OpKey("register.skew", 8)] == k * (0 + 1 + 2)
    assert counts[OpKey("register.skew", 32)] == m * (1 + 2 + 3 + 4 + 5) + m * (7 + 6 + 5)
    assert not any(key.op in ("mul", "add.array", "add.ppu", "read.parameter") for key in counts)


def test_integers_are_the_ordinary_machine_to_the_bit(tmp_path):
    pytest.importorskip("torch")
    from accelsim.explore.arithmetic import compare_arithmetics, integer_product, seeded_operands

    left, right = seeded_operands(9, 30, 7, 4)
    graph = integer_product(left, right)
    codes = quantize_input(graph, left)
    run = Accelerator(compile_graph(graph, load_hardware("edge_8x8"), 9)).run(codes)
    comparison = compare_arithmetics(
        left, right, "edge_8x8", load_energy("horowitz_45nm"), overrides=[], float_overrides=SLOW
    )
    trial = comparison.trials["int8xint8"]
    scale = graph.by_name["product"].output.scale
    assert (trial.result == run.output.reshape(9, 7) * scale).all()
    assert trial.overflows == 0
    # The error of float32 is that of its rounding, of int8 weights half a step, of both operands and the result more.
    errors = [comparison.error(trial.result)["relative_rms"] for trial in comparison.trials.values()]
    assert errors[0] > errors[1] > 1e-3 > 1e-6 > errors[2] > 0
    assert errors[0] > comparison.error(trial.sums)["relative_rms"] > errors[1]
    # 3.7 pJ a product, as published.
    priced = comparison.trials["float32xfloat32"].energy.by_op
    assert float(priced["mul.float32"].energy) == pytest.approx(3.7 * 9 * 30 * 7)
    assert float(priced["add.array.float32"].energy) == pytest.approx(0.9 * 9 * 30 * 7)


def test_an_array_of_floats_runs_products_alone():
    pytest.importorskip("torch")
    from accelsim.explore.arithmetic import integer_product, seeded_operands

    graph = integer_product(*seeded_operands(2, 3, 4, 0))
    said = refusal(compile_graph, graph, machine("float32xint8"))
    assert said == (
        "edge_8x8: array.arithmetic = 'float32xint8' runs matrix products alone, with 'accelsim arithmetic'; "
        "use 'int8xint8'"
    )
    ones = np.ones((2, 2), dtype=np.float32)
    hardware = machine("float32xfloat32")
    program = compile_product("p", floats(ones, ones), hardware, MODES)
    assert "is not in the RTL, whose PEs multiply integers" in refusal(check_supported, program)
    compute, post = (next(i for i in program.instructions if isinstance(i, kind)) for kind in (Compute, Post))
    for kind, changes in ((compute, {"start": 2}), (compute, {"z_x": 1}), (compute, {"weight_bits": 4}),
                          (compute, {"diagonal": 1}), (post, {"table_on": 1}), (post, {"source": 1})):  # fmt: skip
        made = [replace(i, **changes) if i is kind else i for i in program.instructions]
        with pytest.raises(
            InputError, match=f"{next(iter(changes))} is not implemented with array.arithmetic = 'float32"
        ):
            check_program(made, hardware, MODES, program.dram.size)
    # Elements of four bytes: what fits as int8 is checked as floats.
    made = [replace(i, act_base=1020) if i is compute else i for i in program.instructions]
    with pytest.raises(InputError, match=r"reads activation bytes 4080\.\.4095"):
        check_program(made, replace_activation(hardware, 4095), MODES, program.dram.size)


def replace_activation(hardware: Hardware, size: int) -> Hardware:
    return hardware.model_copy(update={"activation": hardware.activation.model_copy(update={"memory_bytes": size})})


def test_what_does_not_fit_is_refused_with_the_remedy():
    ones = np.ones((2, 40), dtype=np.float32)
    hardware = machine("float32xfloat32", "weight.memory_bytes=128")
    assert result(compile_product("p", floats(ones, ones.T.copy()), hardware, MODES), (2, 2)).tolist() == [[40, 40]] * 2
    hardware = machine("float32xfloat32", "weight.memory_bytes=127")
    assert refusal(compile_product, "p", floats(ones, ones.T.copy()), hardware, MODES) == (
        "edge_8x8: half of weight.memory_bytes = 127 must hold 8 rows of 2 weights of 4 bytes, and half of "
        "activation.memory_bytes = 4096 10 elements of 4; use larger buffers"
    )


# --- the command ------------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "arithmetic.md").read_text(encoding="utf-8")


def refused(capsys, *arguments: str) -> str:
    assert main(["arithmetic", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line.removeprefix("accelsim: error: ")


def test_the_command_takes_files_and_writes_what_the_page_says(tmp_path, capsys):
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", rng.standard_normal((6, 10)))
    np.save(tmp_path / "b.npy", rng.integers(-3, 4, (10, 4)))
    files = ["--left", str(tmp_path / "a.npy"), "--right", str(tmp_path / "b.npy")]
    assert main(["arithmetic", *files, "--hardware", "edge_8x8", "--json", str(tmp_path / "o.json")]) == 0
    assert "float32xfloat32" in capsys.readouterr().out
    found = json.loads((tmp_path / "o.json").read_text())
    keys = {
        key
        for line in PAGE.partition("## The JSON report")[2].splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert keys == {*found, *(key for row in found["arithmetics"] for key in row), *found["arithmetics"][0]["error"]}
    assert (found["m"], found["k"], found["n"], found["macs"]) == (6, 10, 4, 240)
    rows = {row["arithmetic"]: row for row in found["arithmetics"]}
    assert rows["float32xfloat32"]["dram_bytes"] == 4 * (60 + 40 + 24)
    assert rows["float32xint8"]["dram_bytes"] == 4 * (60 + 24) + 40
    assert rows["int8xint8"]["dram_bytes"] == 60 + 40 + 24 + 16 * 4
    assert rows["float32xfloat32"]["error"]["sqnr_db"] > 120 > rows["int8xint8"]["error"]["sqnr_db"] > 20
    np.save(tmp_path / "zero.npy", np.zeros((6, 10)))
    again = ["--left", str(tmp_path / "zero.npy"), *files[2:], "--json", str(tmp_path / "zero.json")]
    assert main(["arithmetic", *again]) == 0
    assert json.loads((tmp_path / "zero.json").read_text())["arithmetics"][2]["error"]["largest"] == 0
    # Latency and interval of the floats' units are keys like others.
    assert main(["arithmetic", *files, "--hardware", "edge_8x8", "--float-set", "array.mac_interval_cycles=8",
                 "--json", str(tmp_path / "slow.json")]) == 0  # fmt: skip
    slow = {row["arithmetic"]: row for row in json.loads((tmp_path / "slow.json").read_text())["arithmetics"]}
    assert slow["int8xint8"] == rows["int8xint8"]
    # Two tiles of M = 6 words: a period of M * 8 in place of R + chi = 8 + 28, and (M - 1) * 7 more for the last words.
    assert slow["float32xint8"]["cycles"] - rows["float32xint8"]["cycles"] == (48 - 36) + 5 * 7


def test_bad_input_is_one_line(tmp_path, capsys):
    pytest.importorskip("torch")
    assert refused(capsys, "3", "4") == "2 sizes are given; give M, K and N, or --left and --right"
    assert refused(capsys, "3", "0", "4") == "K = 0 is outside 1..4194304"
    assert refused(capsys, "60000", "60000", "3").startswith("a product of 60000 x 60000 x 3 is beyond 4,194,304")
    assert refused(capsys, "3", "4", "5", "--seed", "-1") == "--seed -1 must be at least 0"
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    np.save(tmp_path / "b.npy", np.ones((4, 2)))
    np.save(tmp_path / "c.npy", np.full((3, 2), 1e39))
    a, b, c = (str(tmp_path / f"{name}.npy") for name in "abc")
    assert refused(capsys, "--left", a).startswith("--left and --right go together")
    assert refused(capsys, "--left", a, "--right", b).startswith("A of 2 x 3 and B of 4 x 2 have no product; B needs")
    assert refused(capsys, "--left", a, "--right", c).endswith(
        "c.npy: holds a number that no float32 is; use finite numbers"
    )
    assert "all three are compared" in refused(
        capsys, "2", "2", "2", "--set", "array.arithmetic=float32xint8", "--set", "accumulator.width_bits=32"
    )
    said = refused(capsys, "2", "2", "2", "--energy", "eyeriss_relative")
    assert "mul.float32" in said
