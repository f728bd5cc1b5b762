"""One matrix product in three arithmetics: cycles, energy and accuracy side by side (docs/arithmetic.md).

Every row is a program that ran on the machine: the same loops, the same timing rules, the same counts. What differs is
what the PEs multiply, and with it bytes, latencies and operations.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accelsim.compiler.products import Operands, compile_product
from accelsim.config import Hardware, load_hardware, load_quantization
from accelsim.energy import EnergyReport, EnergyTable, LayerCounts, evaluate, memory_capacities
from accelsim.errors import InputError
from accelsim.files import parse_npy, read_bytes
from accelsim.ir import FloatGraph, FloatInput, FloatLinear, IntegerGraph, Linear, quantize_input
from accelsim.ir import evaluate as evaluate_reference
from accelsim.isa import Modes
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, Requantization, Rounding, Scheme
from accelsim.timing import OpKey

Float64 = npt.NDArray[np.float64]
ARITHMETICS = ("int8xint8", "float32xint8", "float32xfloat32")
FLOAT_KEYS = (
    *("accumulator.width_bits=32", "accumulator.overflow=saturate", "accumulator.saturate_at=every_add"),
    *("array.psum_bits=32", "array.mac_latency_cycles=9", "array.mac_interval_cycles=1", "array.add_latency_cycles=5"),
)
"""What becomes of a machine whose PEs multiply floats, unless it is told otherwise: a multiplier of four stages before
an adder of five, the units that Vitis HLS names `fmul_32ns_32ns_32_4_max_dsp` and `fadd_32ns_32ns_32_5_full_dsp`."""
MOST_ELEMENTS = 1 << 22
MOST_MACS = 1 << 33
_FLOAT_MODES = Modes(  # of a POST that passes words on, none is read
    activation=IntFormat(8),
    zero_points="folded",
    requantization=Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR),
)


@dataclass(frozen=True)
class Trial:
    """What one arithmetic took and gave.

    Attributes:
        hardware: the machine.
        cycles: of the whole program.
        instructions: their number.
        dram_bytes: read and written.
        energy: of everything.
        macs: M * K * N.
        result: float64 (M, N), what the machine wrote, times the scales of quantised operands.
        sums: float64 (M, N), what int8xint8 had before it requantised; None for floats.
        overflows: additions of integers that left their range; None for floats.
    """

    hardware: Hardware
    cycles: int
    instructions: int
    dram_bytes: int
    energy: EnergyReport
    macs: int
    result: Float64
    sums: Float64 | None
    overflows: int | None

    @property
    def utilization(self) -> float:
        """MACs a cycle, as a share of the PEs."""
        array = self.hardware.array
        return self.macs / (self.cycles * array.rows * array.columns)


@dataclass(frozen=True)
class Comparison:
    """The trials of one product, by arithmetic, and the product in float64."""

    trials: dict[str, Trial]
    exact: Float64
    shape: tuple[int, int, int]

    def error(self, result: Float64) -> dict[str, float]:
        """Relative root mean square, largest absolute error, and signal to noise in dB, against float64."""
        noise = result - self.exact
        signal_rms, noise_rms = (float(np.sqrt(np.mean(np.square(x)))) for x in (self.exact, noise))
        if noise_rms == 0 or not np.isfinite(noise_rms):
            ratio = float("inf") if noise_rms == 0 else float("nan")
        else:
            ratio = 20 * float(np.log10(signal_rms / noise_rms)) if signal_rms else float("-inf")
        return {
            "relative_rms": noise_rms / signal_rms if signal_rms else float("nan"),
            "largest": float(np.abs(noise).max()),
            "sqnr_db": ratio,
        }


def seeded_operands(m: int, k: int, n: int, seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A (M, K) and B (K, N) of a unit normal distribution, rounded to float32.

    Raises:
        InputError: a size is none, or the product is larger than is run.
    """
    _check_size(m, k, n)
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)


def read_operand(path: Path) -> npt.NDArray[np.float32]:
    """Read a matrix that `numpy.save` wrote.

    Raises:
        InputError: the file is no such matrix of finite real numbers.
    """
    array = parse_npy(read_bytes(path), path, "save one matrix with numpy.save")
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "fiu":
        raise InputError(f"{path}: shape {array.shape} of {array.dtype} is not a matrix of real numbers; save one")
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: holds a number that no float32 is; use finite numbers")
    return values


def _check_size(m: int, k: int, n: int) -> None:
    for name, size in (("M", m), ("K", k), ("N", n)):
        if not 1 <= size <= MOST_ELEMENTS:
            raise InputError(f"{name} = {size} is outside 1..{MOST_ELEMENTS}")
    if max(m * k, k * n, m * n) > MOST_ELEMENTS or m * k * n > MOST_MACS:
        raise InputError(
            f"a product of {m} x {k} x {n} is beyond {MOST_ELEMENTS:,} elements of a matrix or {MOST_MACS:,} MACs; use "
            "a smaller one"
        )


def compare_arithmetics(
    left: npt.NDArray[np.float32],
    right: npt.NDArray[np.float32],
    hardware: str | Path,
    table: EnergyTable,
    *,
    overrides: list[str],
    float_overrides: list[str],
) -> Comparison:
    """Run A times B in the three arithmetics.

    Args:
        left, right: finite float32 (M, K) and (K, N).
        hardware: preset or file of the int8xint8 machine; the others are it with `FLOAT_KEYS`.
        table: prices all of them.
        overrides: `section.key=value` of the machine.
        float_overrides: more of them for the machines of floats, over `FLOAT_KEYS`.
    Raises:
        InputError: shapes do not go together, a machine is none or too small, or the table has no figure for floats.
    """
    if left.shape[1] != right.shape[0]:
        raise InputError(
            f"A of {left.shape[0]} x {left.shape[1]} and B of {right.shape[0]} x {right.shape[1]} have no product; "
            "B needs as many rows as A has columns"
        )
    _check_size(left.shape[0], left.shape[1], right.shape[1])
    machine = load_hardware(hardware, overrides)
    if machine.is_float:
        raise InputError("array.arithmetic: all three are compared; leave it out of the hardware")
    if machine.array.dataflow == "is":
        raise InputError(
            "array.dataflow = 'is' swaps the operands of a layer, which no product here asks for; use 'ws'"
        )
    trials = {"int8xint8": _int8(left, right, machine, table)}
    for arithmetic in ARITHMETICS[1:]:
        keys = [*overrides, *FLOAT_KEYS, *float_overrides, f"array.arithmetic={arithmetic}"]
        trials[arithmetic] = _floats(left, right, load_hardware(hardware, keys), table)
    exact = left.astype(np.float64) @ right.astype(np.float64)
    return Comparison(trials, exact, (left.shape[0], left.shape[1], right.shape[1]))


def _int8(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], hardware: Hardware, table: EnergyTable
) -> Trial:
    """The product as the linear layer that the scheme `int8` makes of it, on the machine of integers."""
    graph = integer_product(left, right)
    node = graph.by_name["product"]
    assert isinstance(node, Linear)
    codes = quantize_input(graph, left)
    operands = Operands(
        left=codes.reshape(left.shape).astype(np.int8),
        right=np.ascontiguousarray(node.weight.T).astype(np.int8),
        records=(node.bias, node.multiplier.m0, node.multiplier.shift),
        clip=node.clip,
    )
    modes = Modes(activation=graph.activation, zero_points=graph.zero_points, requantization=graph.requantization)
    program = compile_product("int8xint8", operands, hardware, modes)
    machine = Accelerator(program)
    run = machine.run(telemetry=True)
    assert run.output is not None
    got = run.output.reshape(left.shape[0], right.shape[1])
    reference = evaluate_reference(graph, codes, hardware.arithmetic())
    if (got != reference.tensors["product"].reshape(got.shape)).any():
        raise RuntimeError("the machine's product is not the reference evaluation's")
    scales = _weight_scales(graph, node)
    sums = (operands.left.astype(np.float64) @ operands.right.astype(np.float64)) * scales
    overflows = sum(statistics.overflows for statistics in run.statistics.values())
    result = got.astype(np.float64) * node.output.scale
    return _trial(machine, run.cycles, table, result, None if overflows else sums, overflows)


def integer_product(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> IntegerGraph:
    """A linear layer with B as weights, quantised by the scheme `int8` on the rows of A."""
    from accelsim.quantization import quantize

    k, n = right.shape
    graph = FloatGraph(
        "product",
        (
            FloatInput(name="left", inputs=(), shape=(k,)),
            FloatLinear(
                name="product", inputs=("left",), shape=(n,), weight=right.T.astype(np.float64), bias=np.zeros(n)
            ),
        ),
        "product",
    )
    return quantize(graph, left, load_quantization("int8"))


def _weight_scales(graph: IntegerGraph, node: Linear) -> Float64:
    """S_x * S_w of each column, from M = S_x * S_w / S_y."""
    return np.asarray(node.multiplier.real * node.output.scale, dtype=np.float64)


def _floats(
    left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], hardware: Hardware, table: EnergyTable
) -> Trial:
    """The product on a machine of floats; int8 weights are those of the scheme `int8`, a scale for each column."""
    scales = np.ones(right.shape[1])
    weights: npt.NDArray[np.int8] | npt.NDArray[np.float32] = right
    if hardware.element_bytes.weight == 1:
        graph = integer_product(left, right)
        node = graph.by_name["product"]
        assert isinstance(node, Linear)
        weights = np.ascontiguousarray(node.weight.T).astype(np.int8)
        scales = _weight_scales(graph, node) / graph.input.output.scale
    operands = Operands(left=left, right=weights, records=None, clip=_FLOAT_MODES.activation.limits)
    program = compile_product(hardware.array.arithmetic, operands, hardware, _FLOAT_MODES)
    machine = Accelerator(program)
    run = machine.run()
    assert run.output is not None
    data = (run.output & 0xFF).astype(np.uint8).reshape(left.shape[0], -1)
    result = np.ascontiguousarray(data).view("<f4").astype(np.float64) * scales
    return _trial(machine, run.cycles, table, result, None, None)


def _trial(
    machine: Accelerator,
    cycles: int | None,
    table: EnergyTable,
    result: Float64,
    sums: Float64 | None,
    overflows: int | None,
) -> Trial:
    program, hardware = machine.program, machine.program.hardware
    assert cycles is not None
    counts = machine.counts()[0]
    macs = sum(number for key, number in counts.items() if key.op in ("mul", "mul.float32"))
    counts[OpKey("idle", 1)] = cycles * hardware.array.rows * hardware.array.columns - macs
    layer = LayerCounts(
        name="product",
        op="linear",
        counts=Counter(counts),
        outputs=result.size,
        accumulator_bits=hardware.accumulator.width_bits,
    )
    return Trial(
        hardware=hardware,
        cycles=cycles,
        instructions=len(program.instructions),
        dram_bytes=sum(number for key, number in counts.items() if key.op.startswith("dram.")),
        energy=evaluate(table, [layer], memory_capacities(hardware)),
        macs=macs,
        result=result,
        sums=sums,
        overflows=overflows,
    )


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON knows neither infinities nor NaN."""
    return {name: value if np.isfinite(value) else None for name, value in figures.items()}


def comparison_json(comparison: Comparison, table: EnergyTable) -> dict[str, Any]:
    """Everything as one JSON object, format `accelsim-arithmetic` version 1."""
    base = comparison.trials["int8xint8"]
    rows = []
    for arithmetic, trial in comparison.trials.items():
        rows.append(
            {
                "arithmetic": arithmetic,
                "hardware": trial.hardware.model_dump(mode="json"),
                "cycles": trial.cycles,
                "cycles_ratio": trial.cycles / base.cycles,
                "latency_seconds": trial.cycles / (trial.hardware.clock_mhz * 1e6),
                "utilization": trial.utilization,
                "instructions": trial.instructions,
                "dram_bytes": trial.dram_bytes,
                "energy": float(trial.energy.energy),
                "energy_ratio": float(trial.energy.energy / base.energy.energy) if base.energy.energy else None,
                "energy_by_op": {op: figure.as_numbers() for op, figure in trial.energy.by_op.items()},
                "error": _finite(comparison.error(trial.result)),
                "error_of_sums": None if trial.sums is None else _finite(comparison.error(trial.sums)),
                "overflows": trial.overflows,
            }
        )
    m, k, n = comparison.shape
    return {
        "format": "accelsim-arithmetic",
        "version": 1,
        "m": m,
        "k": k,
        "n": n,
        "macs": m * k * n,
        "energy_table": table.name,
        "energy_unit": table.unit,
        "arithmetics": rows,
    }
