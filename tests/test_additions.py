"""The cycle of one addition: closed forms against the registers of the grid, which knows none of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from accelsim.isa import Compute, Start
from accelsim.machine import pe_grid
from accelsim.machine.pe_grid import GridConfig
from accelsim.timing import ArrayShape, memory_cycle, product_cycle


def config(rows: int, columns: int) -> GridConfig:
    return GridConfig(
        rows=rows,
        columns=columns,
        psum_bits=32,
        overflow="saturate",
        saturate_at="every_add",
        subtract_zero_points=False,
    )


def config_and_shape(rng: np.random.Generator, rows: int, columns: int) -> tuple[GridConfig, ArrayShape]:
    """Half the time with a multiply-add of several cycles."""
    built = config(rows, columns)
    if rng.random() < 0.5:
        latency = int(rng.integers(2, 5))
        interval, add = (int(n) for n in rng.integers(1, latency + 1, 2))
        built = replace(built, mac_latency=latency, mac_interval=interval, add_latency=add)
    return built, ArrayShape(rows, columns, built.mac_latency, built.mac_interval, built.add_latency)


def random_compute(rng: np.random.Generator, rows: int, columns: int, mode: str, serial: bool) -> Compute:
    """A matrix product over rows of bytes, each run of its own address range, so that all operands differ."""
    lanes = int(rng.integers(1, (min(rows, columns) if mode == "diagonal" else columns) + 1))
    run = lanes if mode == "diagonal" else int(rng.integers(1, 3 * rows + 1))
    r_count, words = int(rng.integers(1, 4)), int(rng.integers(1, 3 * rows + 1))
    return Compute(
        act_base=0,
        weight_base=0,
        width=32,
        acc_base=0,
        lanes=lanes,
        run_bytes=run,
        x_count=words,
        x_step=run,
        r_count=r_count,
        r_step=words * run,
        in_row_bytes=words * run,
        in_height=r_count,
        output_stationary=int(mode == "os"),
        diagonal=int(mode == "diagonal"),
        serial=int(serial),
        start=Start.BIAS if rng.random() < 0.4 else Start.ZERO,
    )


def operands(compute: Compute, activation: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Activations (words, runs, run_bytes) and weights (runs, run_bytes, lanes), of diagonal tiles (runs, 1, lanes)."""
    words, run, lanes = compute.x_count, compute.run_bytes, compute.lanes
    signed = activation.astype(np.int8).astype(np.int64)
    values = np.stack([signed[r * words * run :][: words * run].reshape(words, run) for r in range(compute.r_count)], 1)
    tall = 1 if compute.diagonal else run
    weights = weight.astype(np.int8).astype(np.int64)[: compute.r_count * tall * lanes]
    return values, weights.reshape(compute.r_count, tall, lanes)


@pytest.mark.parametrize("serial", [False, True])
@pytest.mark.parametrize("mode", ["ws", "os", "diagonal"])
@pytest.mark.parametrize("seed", range(25))
def test_the_register_holds_the_sum_in_the_cycle_after_the_addition(mode, serial, seed):
    rng = np.random.default_rng([seed, serial, len(mode)])
    rows, columns = (int(n) for n in rng.integers(1, 6, 2))
    compute = random_compute(rng, rows, columns, mode, serial)
    activation, weight = (rng.integers(0, 256, 4096).astype(np.uint8) for _ in range(2))
    built, shape = config_and_shape(rng, rows, columns)
    bias = rng.integers(-1000, 1000, 16)
    registers: dict[int, dict[str, np.ndarray]] = {}
    done = pe_grid.run(
        [random_compute(rng, rows, columns, mode, False), compute],
        built,
        activation=activation,
        weight=weight,
        accumulators=np.zeros((64, columns), dtype=np.int64),
        bias=bias,
        observe=registers.__setitem__,
    ).done[1]
    values, weights = operands(compute, activation, weight)
    seen = 0
    for word in range(compute.x_count):
        for lane in range(compute.lanes):
            total = int(bias[compute.param + lane]) if compute.start == Start.BIAS else 0
            for r in range(compute.r_count):
                psum = 0
                positions = [lane] if mode == "diagonal" else range(compute.run_bytes)
                for position in positions:
                    product = int(values[word, r, position] * weights[r, 0 if mode == "diagonal" else position, lane])
                    if mode != "diagonal" and mode == "ws" and position % rows == 0:
                        psum = 0
                    psum += product
                    total += product
                    k = r if mode == "diagonal" else r * compute.run_bytes + position
                    cycle = product_cycle(compute, shape, done, word=word, lane=lane, k=k)
                    row = {"ws": position % rows, "os": word % rows, "diagonal": lane}[mode]
                    found = registers[cycle + 1]["pe.psum"][row, lane] if cycle + 1 in registers else None
                    assert found == (total if mode == "os" else psum), (word, lane, k)
                    seen += 1
    assert seen == compute.x_count * compute.lanes * compute.r_count * (1 if mode == "diagonal" else compute.run_bytes)


@pytest.mark.parametrize("mode", ["ws", "diagonal"])
@pytest.mark.parametrize("seed", range(15))
def test_the_accumulator_memory_takes_a_tile_s_word_in_its_cycle(mode, seed):
    """In that cycle the accumulator pipe holds the word's address and the sum that arrived in the cycle before."""
    rng = np.random.default_rng(seed)
    rows, columns = (int(n) for n in rng.integers(1, 6, 2))
    compute = random_compute(rng, rows, columns, mode, False)
    activation, weight = (rng.integers(0, 256, 4096).astype(np.uint8) for _ in range(2))
    built, shape = config_and_shape(rng, rows, columns)
    registers: dict[int, dict[str, np.ndarray]] = {}
    done = pe_grid.run(
        [compute],
        built,
        activation=activation,
        weight=weight,
        accumulators=np.zeros((64, columns), dtype=np.int64),
        bias=np.zeros(16, dtype=np.int64),
        observe=registers.__setitem__,
    ).done[0]
    values, weights = operands(compute, activation, weight)
    pieces = -(-compute.run_bytes // rows)
    for word in range(compute.x_count):
        for r in range(compute.r_count):
            for piece in range(pieces):
                part = slice(piece * rows, (piece + 1) * rows)
                if mode == "diagonal":
                    expected = values[word, r] * weights[r, 0]
                else:
                    expected = values[word, r, part] @ weights[r, part]
                cycle = memory_cycle(compute, shape, done, word=word, tile=r * pieces + piece)
                assert registers[cycle]["accumulator.address"] == compute.acc_base + word
                np.testing.assert_array_equal(registers[cycle]["accumulator.psum"][: compute.lanes], expected)
