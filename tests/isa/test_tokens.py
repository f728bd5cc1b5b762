"""Tokens are what order compiled programs, and all that does: under any speeds of the units the bits are the same.

The scheduler here knows no cycles. It issues any unit whose tokens are there, lets an instruction take effect at any
moment between its issue and its done, and gives its tokens when it is done; COMPUTE may issue several before the
first is done, as the array does, and keeps their order.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from graphs import GraphMaker, random_graph

from accelsim.compiler import compile_graph
from accelsim.config import Hardware, load_hardware
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, evaluate
from accelsim.isa import Compute, Instruction, Load, Post, Program, Unit, check_program
from accelsim.machine import compute, dma, post
from accelsim.machine.memories import Memories
from accelsim.numerics import Requantization, Rounding, Scheme

IN_FLIGHT = {Unit.COMPUTE: 4, Unit.LOAD: 1, Unit.POST: 1, Unit.STORE: 1}


def run_at_random_speeds(
    program: Program, instructions: Sequence[Instruction], codes: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Execute with tokens alone; returns the output tensor."""
    memories = Memories(program.hardware, program.dram)
    memories.dram[program.input.slice()] = program.input.pack(codes, program.modes.activation)
    queues = {unit: deque(i for i in instructions if unit == i.UNIT) for unit in Unit}
    issued: dict[Unit, deque[Instruction]] = {unit: deque() for unit in Unit}
    taken_effect = dict.fromkeys(Unit, 0)
    tokens: Counter[tuple[Unit, Unit]] = Counter()
    eagerness = 10.0 ** rng.uniform(-3, 3, (len(Unit), 3))
    while True:
        actions = []
        for unit in Unit:
            queue = queues[unit]
            ready = queue and all(tokens[source, unit] for source in queue[0].waits())
            if ready and len(issued[unit]) < IN_FLIGHT[unit]:
                actions.append((unit, 0))
            if taken_effect[unit] < len(issued[unit]):
                actions.append((unit, 1))
            if taken_effect[unit]:
                actions.append((unit, 2))
        if not actions:
            break
        weights = np.array([eagerness[unit, what] for unit, what in actions])
        unit, what = actions[rng.choice(len(actions), p=weights / weights.sum())]
        if what == 0:
            instruction = queues[unit].popleft()
            for source in instruction.waits():
                tokens[source, unit] -= 1
            issued[unit].append(instruction)
        elif what == 1:
            execute(issued[unit][taken_effect[unit]], program, memories)
            taken_effect[unit] += 1
        else:
            for target in issued[unit].popleft().signals():
                tokens[unit, target] += 1
            taken_effect[unit] -= 1
    assert not any(queues.values()), "deadlock"
    return program.output.unpack(memories.dram[program.output.slice()], program.modes.activation)


def execute(instruction: Instruction, program: Program, memories: Memories) -> None:
    match instruction:
        case Compute():
            compute.execute(instruction, memories, program.hardware, program.modes, None)
        case Post():
            post.execute(instruction, memories, program.modes)
        case Load():
            dma.execute(instruction, memories)


def small_hardware(rng: np.random.Generator, graph: IntegerGraph) -> Hardware:
    """A machine with buffers so small that everything is split, reused and double-buffered."""
    narrow = max([16, *(getattr(node, "accumulator_width_bits", None) or 0 for node in graph.nodes)])
    return load_hardware(
        "edge_8x8",
        [
            f"array.rows={rng.integers(2, 7)}",
            f"array.columns={rng.integers(2, 7)}",
            f"array.dataflow={rng.choice(['ws', 'os'])}",
            f"accumulator.width_bits={narrow}",
            f"accumulator.memory_bytes={rng.integers(150, 700)}",
            f"weight.memory_bytes={rng.integers(100, 400)}",
            f"parameter.memory_bytes={rng.integers(400, 700)}",
            "activation.memory_bytes=2600",
        ],
    )


def compiled(seed: int) -> tuple[GraphMaker, Program]:
    rng = np.random.default_rng(seed)
    while True:
        maker = random_graph(rng)
        try:
            return maker, compile_graph(maker.graph(), small_hardware(rng, maker.graph()), int(rng.integers(1, 4)))
        except InputError as error:
            if "does not fit" not in str(error):
                raise


@pytest.mark.parametrize("seed", range(50))
def test_no_interleaving_that_keeps_the_tokens_changes_a_bit(seed):
    maker, program = compiled(seed)
    codes = maker.codes(program.batch)
    graph = maker.graph()
    expected = evaluate(graph, codes, program.hardware.arithmetic()).tensors[graph.output]
    for attempt in range(5):
        got = run_at_random_speeds(program, program.instructions, codes, np.random.default_rng((seed, attempt)))
        assert np.array_equal(got, expected), attempt


def pairs(instructions: Sequence[Instruction]) -> Iterator[tuple[int, Unit, int, Unit]]:
    """(giver, its unit, taker, its unit) of every token: the k-th give of a FIFO pairs with its k-th take."""
    for source in Unit:
        for target in Unit:
            givers = [n for n, i in enumerate(instructions) if source == i.UNIT and target in i.signals()]
            takers = [n for n, i in enumerate(instructions) if target == i.UNIT and source in i.waits()]
            assert len(givers) == len(takers)
            yield from ((giver, source, taker, target) for giver, taker in zip(givers, takers, strict=True))


def test_a_compiled_program_without_one_of_its_tokens_is_refused_or_computes_the_same():
    refused, harmless = Counter[str](), 0
    for seed in range(100, 108):
        maker, program = compiled(seed)
        codes = maker.codes(program.batch)
        expected = run_at_random_speeds(program, program.instructions, codes, np.random.default_rng(seed))
        for giver, source, taker, target in pairs(program.instructions):
            changed = list(program.instructions)
            changed[giver] = replace(changed[giver], signal=changed[giver].signal & ~(1 << target))
            changed[taker] = replace(changed[taker], wait=changed[taker].wait & ~(1 << source))
            try:
                check_program(changed, program.hardware, program.modes, program.dram.size)
            except InputError as error:
                refused[str(error).split()[0]] += 1
                continue
            harmless += 1
            for attempt in range(5):
                got = run_at_random_speeds(program, changed, codes, np.random.default_rng(attempt))
                assert np.array_equal(got, expected), (seed, giver, taker)
    assert set(refused) == {"race:"}
    # A token can become redundant when a later one orders more than it was given for; that is rare.
    assert refused.total() > 200
    assert harmless <= refused.total() // 10


def test_half_a_token_is_always_refused():
    program = compiled(200)[1]
    for number, instruction in enumerate(program.instructions):
        for mask in ("wait", "signal"):
            for unit in Unit:
                value = getattr(instruction, mask)
                if value >> unit & 1:
                    changed = list(program.instructions)
                    changed[number] = replace(instruction, **{mask: value & ~(1 << unit)})
                    with pytest.raises(InputError, match=r"^(deadlock|unbalanced tokens|race): "):
                        check_program(changed, program.hardware, program.modes, program.dram.size)


def test_every_token_left_out_at_once_is_a_race():
    program = compiled(201)[1]
    bare = [replace(instruction, wait=0, signal=0) for instruction in program.instructions]
    with pytest.raises(InputError, match=r"^race: "):
        check_program(bare, program.hardware, program.modes, program.dram.size)


def test_the_random_scheduler_finds_the_races_that_missing_tokens_make():
    """So that its silence on whole programs means something."""
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
    maker = GraphMaker(np.random.default_rng(1), how)
    maker.conv(maker.input(6, 6, 3), 5, (3, 3))
    program = compile_graph(maker.graph(), load_hardware("edge_8x8", ["accumulator.memory_bytes=400"]))
    codes = maker.codes(1)
    expected = run_at_random_speeds(program, program.instructions, codes, np.random.default_rng(0))
    bare = [replace(instruction, wait=0, signal=0) for instruction in program.instructions]
    wrong = 0
    for seed in range(10):
        try:
            got = run_at_random_speeds(program, bare, codes, np.random.default_rng(seed))
        except InputError:  # POST came before its records
            wrong += 1
        else:
            wrong += not np.array_equal(got, expected)
    assert wrong >= 8
