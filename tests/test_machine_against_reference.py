"""The machine against the reference evaluation: every written tensor, on random graphs, hardware and modes."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import open_rows, pipelined, random_graph, random_hardware

from accelsim.compiler import compile_graph
from accelsim.isa import Unit
from accelsim.machine import Accelerator
from accelsim.pipeline import run_checked
from accelsim.timing import longest_path


@pytest.mark.parametrize("seed", range(40))
def test_every_written_tensor_and_partial_sum_equals_the_reference(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    hardware = random_hardware(rng, graph, str(rng.choice(["ws", "os"])))
    batch = int(rng.integers(1, 4))
    if seed % 4 == 0:
        hardware = pipelined(rng, hardware)
    if seed % 4 == 1:
        hardware = open_rows(rng, hardware)
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
