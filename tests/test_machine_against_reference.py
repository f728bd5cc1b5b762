"""The machine against the reference evaluation: every written tensor, on random graphs, hardware and modes."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import random_graph

from accelsim.compiler import compile_graph
from accelsim.config import Hardware, load_hardware
from accelsim.ir import IntegerGraph
from accelsim.isa import Unit
from accelsim.machine import Accelerator
from accelsim.pipeline import run_checked
from accelsim.timing import longest_path


def random_hardware(rng: np.random.Generator, graph: IntegerGraph) -> Hardware:
    """Any small machine on which `graph` is legal."""
    narrowest = max([10, *(getattr(node, "accumulator_width_bits", None) or 0 for node in graph.nodes)])
    width = max(narrowest, int(rng.choice([12, 16, 20, 32, 64])))
    overrides = [
        f"array.rows={rng.integers(1, 9)}",
        f"array.columns={rng.integers(1, 9)}",
        f"array.dataflow={rng.choice(['ws', 'os'])}",
        f"accumulator.width_bits={width}",
        f"accumulator.overflow={rng.choice(['saturate', 'wrap'])}",
        f"accumulator.saturate_at={rng.choice(['every_add', 'end'])}",
        f"dram.bandwidth_bytes_per_cycle={rng.integers(1, 17)}",
        f"dram.latency_cycles={rng.integers(0, 50)}",
    ]
    if rng.random() < 0.4:
        overrides.append(f"array.psum_bits={rng.integers(8, 11)}")
    if rng.random() < 0.5:
        overrides.append(f"accumulator.memory_bytes={rng.integers(400, 2000)}")
        overrides.append(f"weight.memory_bytes={rng.integers(130, 600)}")
    return load_hardware("edge_8x8", overrides)


@pytest.mark.parametrize("seed", range(40))
def test_every_written_tensor_and_partial_sum_equals_the_reference(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    hardware = random_hardware(rng, graph)
    batch = int(rng.integers(1, 4))
    program = compile_graph(graph, hardware, batch)
    outcome = run_checked(program, graph, maker.codes(batch + 1), telemetry=bool(rng.random() < 0.5))
    assert outcome.mismatch is None, (seed, hardware, outcome.mismatch)
    assert outcome.images_checked == batch + 1
    path = longest_path(program.instructions, hardware)
    assert path.cycles == outcome.timed.cycles
    for issued in outcome.timed.timeline:
        assert (issued.issue, issued.done) == (path.issue[issued.index], path.done[issued.index])
    backwards = Accelerator(program).run(values=False, start_order=tuple(Unit)[::-1])
    assert backwards.cycles == outcome.timed.cycles
