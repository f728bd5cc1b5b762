"""accelsim.machine against second_machine.py, which was written from docs/ alone and reads only a program directory.

Compiled random graphs and LeNet-5, and random legal programs that no compiler would emit: final DRAM byte for byte,
every instruction's cycles, stalls and array span, and every label's partial-sum figures.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from graphs import GraphMaker, open_rows, pipelined, random_graph, random_hardware, random_requantization
from programs import Maker
from second_machine import Modes as SecondModes
from second_machine import SecondMachine

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization
from accelsim.ir import quantize_input
from accelsim.isa import (
    Compute,
    Post,
    Program,
    load_program,
)
from accelsim.machine import Accelerator
from accelsim.numerics import IntFormat, requantize
from accelsim.pipeline import save_compiled
from accelsim.sources import find_workload, load_images


def compare(folder: Path) -> Program:
    """Run a program directory on both machines; every figure must be the same."""
    program = load_program(folder)
    first = Accelerator(program).run(telemetry=True)
    second = SecondMachine(folder).run()
    for issued in first.timeline:
        n = issued.index
        here = (second.issue[n], second.done[n], second.stalls[n], second.spans[n])
        assert here == (issued.issue, issued.done, dict(issued.stalls), issued.span), (n, program.instructions[n])
    assert second.cycles == first.cycles
    labels = {label: seen for label, seen in first.statistics.items() if seen.minimum is not None}
    assert {label: (s.minimum, s.maximum, s.overflows) for label, s in second.sums.items()} == {
        label: (s.minimum, s.maximum, s.overflows) for label, s in labels.items()
    }
    assert first.dram is not None
    different = np.flatnonzero(np.frombuffer(bytes(second.dram), dtype=np.uint8) != first.dram)
    assert different.size == 0, f"DRAM differs at {different[:10]}"
    return program


# --- compiled programs ------------------------------------------------------------------------------------------------


def one_linear(rng: np.random.Generator) -> GraphMaker:
    """What an input-stationary machine runs."""
    subtracted = bool(rng.random() < 0.5)
    maker = GraphMaker(
        rng,
        random_requantization(rng),
        activation=IntFormat(int(rng.choice([4, 8])), signed=bool(rng.random() < 0.5)),
        zero_points="subtracted" if subtracted else "folded",
        affine_weights=subtracted,
    )
    node = maker.input(1, 1, int(rng.integers(1, 30)), maker.zero_point())
    maker.linear(node, int(rng.integers(1, 20)), weight_bits=int(rng.integers(2, 9)))
    return maker


def compiled(seed: int, folder: Path) -> None:
    """A random graph compiled for a random machine, with its input, into a directory."""
    rng = np.random.default_rng(seed)
    dataflow = str(rng.choice(["ws", "ws", "os", "os", "is"]))
    maker = one_linear(rng) if dataflow == "is" else random_graph(rng)
    graph = maker.graph()
    batch = int(rng.integers(1, 4))
    hardware = random_hardware(rng, graph, dataflow)
    if seed % 2:
        hardware = pipelined(rng, hardware)
    if seed % 3 == 0:
        hardware = open_rows(rng, hardware)
    program = compile_graph(graph, hardware, batch)
    save_compiled(program, graph, maker.codes(batch), folder)


@pytest.mark.parametrize("seed", range(16))
def test_compiled_graphs(seed, tmp_path):
    compiled(seed, tmp_path)
    compare(tmp_path)


def test_lenet5(tmp_path):
    pytest.importorskip("torch")
    source = find_workload("lenet5_digits", quantization=load_quantization("int8"), data=None, calibration=None)
    codes = quantize_input(source.graph, load_images(source, None, 1).images)
    save_compiled(compile_graph(source.graph, load_hardware("edge_8x8")), source.graph, codes, tmp_path)
    compare(tmp_path)


# --- programs by hand -------------------------------------------------------------------------------------------------


def corners(program: Program) -> Counter[str]:
    """What a program holds that a compiler would hardly emit."""
    found: Counter[str] = Counter()
    computes = [i for i in program.instructions if isinstance(i, Compute)]
    for c, n in zip_longest(computes, computes[1:]):
        kind = "os" if c.output_stationary else "diagonal" if c.diagonal else "ws"
        found[f"{kind} start {c.start} serial {c.serial}"] += 1
        if n is not None:
            found[f"{kind} before {'os' if n.output_stationary else 'ws'} start {n.start}"] += 1
            found["accumulate over another width"] += n.start == 1 and n.width != c.width
    for p in program.instructions:
        if isinstance(p, Post):
            found[f"post source {p.source} reduce {p.reduce}"] += 1
            found["residual"] += p.residual_on
            found["broadcast"] += p.broadcast
            found["table"] += p.table_on
    found["instructions"] = len(program.instructions)
    found["waits"] = sum(i.wait.bit_count() for i in program.instructions)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_requantisation_value_by_value(seed):
    """What whole programs seldom reach: ties, and values of more bits than a float32 has."""
    maker = Maker(seed)
    how, top = maker.how, 31 if maker.doubles else 60
    modes = SecondModes(*maker.modes.encode())
    for _ in range(30):
        _, shift, m0 = struct.unpack("<ib3xq", maker.record())
        sizes = maker.rng.uniform(0, top, 40)
        values = [int(2.0**size) * maker.pick(-1, 1) for size in sizes] + list(range(-6, 7))
        expected = requantize(np.array(values), m0, shift, how).tolist()
        assert [modes.requantise(v, m0, shift) for v in values] == expected, (how, m0, shift)


BY_HAND = range(240)


@pytest.mark.parametrize("block", range(6))
def test_random_programs(block, tmp_path):
    for seed in BY_HAND[block::6]:
        program = Maker(seed).program()
        if seed % 5 == 0:
            program = replace(program, hardware=pipelined(np.random.default_rng(seed), program.hardware))
        program.save(tmp_path / str(seed))
        compare(tmp_path / str(seed))
