"""SimPy machine and RTL: the same bits, cycles, stalls and counts, or the smallest case that differs.

    python tests/equivalence.py [--programs 2016] [--builds 24] [--seed 1] [--jobs 2] [--simulator icarus]

Each build gets its share of programs: random legal instructions (`programs.Maker`) and compiled random graphs. Then
LeNet-5 on 16x16. Prints a line for each, and with a difference the shrunk program; exits with 1 then.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from graphs import random_graph
from programs import Chains, Maker, Pools

from accelsim.compiler import compile_graph
from accelsim.compiler.synchronisation import synchronise
from accelsim.config import Hardware, load_hardware, load_quantization
from accelsim.errors import InputError
from accelsim.ir import quantize_input
from accelsim.isa import Program, Unit, check_program, to_text
from accelsim.machine import Accelerator
from accelsim.rtl import Build, Difference, Parameters, Simulator, build, cosimulate
from accelsim.sources import find_workload, load_images


def machine(rows: int, columns: int, *overrides: str) -> Hardware:
    """A small machine that the RTL covers."""
    return load_hardware("rtl_4x4", [f"array.rows={rows}", f"array.columns={columns}", *overrides])


def random_machine(rng: np.random.Generator) -> Hardware:
    """Any small machine that the RTL covers, its memories just large enough for `programs.Maker`."""
    width = int(rng.choice([8, 12, 16, 17, 24, 31, 32, 33, 48, 63, 64]))
    psum = int(rng.integers(8, width + 1)) if rng.random() < 0.4 else width
    return machine(
        int(rng.integers(1, 8)),
        int(rng.integers(1, 8)),
        f"array.psum_bits={psum}",
        f"accumulator.width_bits={width}",
        f"accumulator.overflow={rng.choice(['saturate', 'wrap'])}",
        f"accumulator.memory_bytes={int(rng.integers(1200, 4000))}",
        f"activation.memory_bytes={int(rng.integers(400, 3000))}",
        f"weight.memory_bytes={int(rng.integers(300, 3000))}",
        f"parameter.memory_bytes={int(rng.integers(768, 3000))}",
        f"dram.bandwidth_bytes_per_cycle={int(rng.integers(1, 20))}",
    )


def by_hand(seed: int, hardware: Hardware) -> Program:
    """A random legal program that no compiler would emit."""
    return Maker(seed, hardware).program()


def pools(seed: int, hardware: Hardware) -> Program:
    """A random program of window reductions."""
    return Pools(seed, hardware).program()


def chains(seed: int, hardware: Hardware) -> Program:
    """Units that wait for each other at every step."""
    return Chains(seed, hardware).program()


def compiled(seed: int, hardware: Hardware) -> Program:
    """A random graph, compiled; the first of the seed's that the machine can run."""
    for attempt in range(1000):
        rng = np.random.default_rng([seed, attempt])
        maker = random_graph(rng, limits=bool(seed % 2))
        dataflow = str(rng.choice(["ws", "os"]))
        array = hardware.array.model_copy(update={"dataflow": dataflow})
        dram = hardware.dram.model_copy(update={"latency_cycles": int(rng.integers(0, 60))})
        chosen = hardware.model_copy(update={"array": array, "dram": dram})
        batch = int(rng.integers(1, 3))
        try:
            program = compile_graph(maker.graph(), chosen, batch)
        except InputError:  # a scheme that the RTL does not have, or too large a layer
            continue
        return program.with_input(maker.codes(batch))
    raise AssertionError(f"no graph of seed {seed} fits {hardware}")


def programs(count: int, seed: int, hardware: Hardware) -> Iterator[tuple[str, Program]]:
    """`count` programs and how each was made, the kinds in turn."""
    kinds = (by_hand, pools, chains, by_hand, compiled)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        own = seed * 1_000_000 + number
        yield f"{kind.__name__}({own}, ...)", kind(own, hardware)


LENET = [(flow, width, batch) for flow in ("ws", "os") for width in (32, 16) for batch in (1, 4)]


def lenet(preset: str, dataflow: str, width: int, batch: int) -> Program:
    """LeNet-5 on the digits. Half the width has half the accumulator memory, so one build serves both."""
    hardware = load_hardware(preset)
    words = hardware.accumulator.memory_bytes * width // hardware.accumulator.width_bits
    overrides = [f"array.dataflow={dataflow}", f"accumulator.width_bits={width}", f"accumulator.memory_bytes={words}"]
    source = find_workload("lenet5_digits", quantization=load_quantization("int8"), data=None, calibration=None)
    program = compile_graph(source.graph, load_hardware(preset, overrides), batch)
    codes = quantize_input(source.graph, load_images(source, None, batch).images)
    return program.with_input(codes)


# --- shrinking --------------------------------------------------------------------------------------------------------

SHRINKABLE = (
    *("rows", "row_bytes", "images", "y_count", "x_count", "r_count", "s_count", "run_bytes", "lanes"),
    *("serial", "diagonal", "start", "table_on", "residual_on", "broadcast", "reduce", "z_x", "z_w"),
    *("x_step", "y_step", "image_step", "r_step", "s_step", "x_first", "y_first", "label", "param"),
)


def shrink(program: Program, fails: Callable[[Program], bool], *, budget: int = 400) -> Program:
    """The smallest program found that still `fails`: fewer instructions, then smaller fields; tokens follow.

    Tries at most `budget` programs, each legal.
    """
    left = [budget]

    def attempt(candidate: Program) -> bool:
        if left[0] <= 0:
            return False
        try:
            check_program(candidate.instructions, candidate.hardware, candidate.modes, candidate.dram.size)
        except InputError:
            return False
        left[0] -= 1
        return fails(candidate)

    def with_tokens(base: Program, instructions: list) -> Program:
        bare = [replace(i, wait=0, signal=0) for i in instructions]
        return replace(base, instructions=synchronise(bare), pieces=())

    plain = with_tokens(program, list(program.instructions))
    retokened = attempt(plain)
    best = plain if retokened else program
    size = max(1, len(best.instructions) // 2)
    while retokened and size:  # delta debugging: halves, quarters, ... single instructions
        at = 0
        while at < len(best.instructions):
            rest = [*best.instructions[:at], *best.instructions[at + size :]]
            candidate = with_tokens(best, rest)
            if rest and attempt(candidate):
                best = candidate
            else:
                at += size
        size //= 2
    changed = True
    while changed and left[0] > 0:
        changed = False
        for index in range(len(best.instructions)):
            for field in SHRINKABLE:
                value = getattr(best.instructions[index], field, None)
                for smaller in () if value is None else _smaller(value):
                    several = list(best.instructions)
                    try:
                        several[index] = replace(several[index], **{field: smaller})
                        several[index].validate()
                        candidate = (
                            with_tokens(best, several) if retokened else replace(best, instructions=tuple(several))
                        )
                    except (InputError, ValueError):
                        continue
                    if attempt(candidate):
                        best, changed = candidate, True
                        break
    return best


def _smaller(value: int) -> list[int]:
    return [
        n for n in dict.fromkeys((0, 1, int(value / 2), value - 1 if value > 0 else value + 1)) if abs(n) < abs(value)
    ]


def describe(program: Program, difference: Difference) -> str:
    """A shrunk case: machine, modes, instructions, and the first difference."""
    p = Parameters.of(program.hardware)
    lines = [str(difference), f"{p}", f"latency {program.hardware.dram.latency_cycles}, modes {program.modes}"]
    lines += [f"  {n:3} {to_text(i)}" for n, i in enumerate(program.instructions)]
    return "\n".join(lines)


# --- one build --------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What a build's programs showed."""

    parameters: Parameters
    programs: int = 0
    instructions: int = 0
    cycles: int = 0
    seconds: float = 0.0
    corners: Counter[str] | None = None
    failure: str | None = None


def check_build(
    hardware: Hardware, count: int, seed: int, simulator: Simulator = "verilator", made: Build | None = None
) -> Outcome:
    """Run `count` programs on one build; stops at the first difference and shrinks it.

    Every program is also timed with the machine's processes started in the opposite order, and every eighth runs again
    with a DRAM that delays at random: its bits and counts must stay.
    """
    begun = time.monotonic()
    parameters = Parameters.of(hardware)
    built = made or build(parameters, simulator)
    outcome = Outcome(parameters)
    for number, (name, program) in enumerate(programs(count, seed, hardware)):
        result = cosimulate(program, simulator, built=built)
        difference = result.difference
        jitter = 0
        backwards = Accelerator(program).run(values=False, start_order=tuple(reversed(Unit)))
        assert [(i.index, i.issue, i.done, i.stalls) for i in sorted(backwards.timeline, key=lambda i: i.index)] == [
            (i.index, i.issue, i.done, i.stalls) for i in sorted(result.model.timeline, key=lambda i: i.index)
        ], name
        if difference is None and number % 8 == 0:
            jitter = number + 1
            difference = cosimulate(program, simulator, built=built, jitter=jitter).difference
        outcome.programs += 1
        outcome.instructions += result.instructions
        outcome.cycles += result.model.cycles or 0
        if difference is not None:

            def differs(p: Program, jitter: int = jitter) -> Difference | None:
                try:
                    return cosimulate(p, simulator, built=built, jitter=jitter).difference
                except InputError:
                    return None

            smallest = shrink(program, lambda p: differs(p) is not None)
            outcome.failure = f"{name}: {describe(smallest, differs(smallest) or difference)}"
            break
    outcome.seconds = time.monotonic() - begun
    return outcome


def main() -> int:
    """Check many builds; print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=2016)
    parser.add_argument("--builds", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--simulator", choices=("verilator", "icarus"), default="verilator", help="icarus: no LeNet-5")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    machines = [machine(1, 1), machine(1, 5), machine(5, 1)]
    machines += [random_machine(rng) for _ in range(arguments.builds - len(machines))]
    share = -(-arguments.programs // len(machines))
    outcomes = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        waiting = [
            pool.submit(check_build, m, share, arguments.seed * 1000 + n, arguments.simulator)
            for n, m in enumerate(machines)
        ]
        for number, future in enumerate(waiting):
            o = future.result()
            outcomes.append(o)
            p = o.parameters
            shape = f"{p.rows}x{p.columns} psum {p.psum} of {p.width} {'wrap' if p.wrap else 'saturate'} bus {p.bus}"
            verdict = "equal" if o.failure is None else f"DIFFERS: {o.failure}"
            line = f"build {number:2} {shape:42} {o.programs:4} programs {o.instructions:6} instructions"
            sys.stdout.write(f"{line} {o.cycles:8} cycles {o.seconds:5.0f} s {verdict}\n")
            sys.stdout.flush()
    wrong = 0
    for flow, width, batch in LENET if arguments.simulator == "verilator" else ():
        begun = time.monotonic()
        built = build(Parameters.of(load_hardware("rtl_16x16")), "verilator")
        result = cosimulate(lenet("rtl_16x16", flow, width, batch), built=built)
        wrong += result.difference is not None
        sys.stdout.write(
            f"lenet5_digits on 16x16 {flow} {width} bits, batch {batch}: {result.rtl.cycles} cycles, "
            f"{time.monotonic() - begun:.0f} s, {'equal' if result.difference is None else result.difference}\n"
        )
        sys.stdout.flush()
    failures = [o for o in outcomes if o.failure is not None]
    total, cycles = sum(o.programs for o in outcomes), sum(o.cycles for o in outcomes)
    instructions = sum(o.instructions for o in outcomes)
    sys.stdout.write(
        f"{len(outcomes)} builds, {total:,} programs, {instructions:,} instructions, {cycles:,} cycles, "
        f"{len(failures)} mismatches\n"
    )
    return 1 if failures or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
