"""One LeNet-5 inference of a compiled program: the SimPy machine with values, timing-only and without a clock.

Peers in the same run: the reference evaluation (NumPy, one addition at a time), PyTorch's float32 forward pass (no
hardware at all), and, where ``--scalesim PYTHON`` names an interpreter that has scalesim==3.0.0 (with numpy<2.4),
SCALE-Sim v3 on the same network and array, as a whole process and without values.

    python benchmarks/lenet5_machine.py [--repeat 15] [--scalesim PYTHON]

The machine is timed alone: compiling and loading a program are printed beside it. CPU time; `make bench` sets one
thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch

from accelsim import workloads
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization
from accelsim.ir import evaluate, quantize_input
from accelsim.machine import Accelerator
from accelsim.sources import find_workload, load_images

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the peer, as the tests run it

from scalesim_peer import run_scalesim

TOPOLOGY = """Layer, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter, Strides,
c1, 32, 32, 5, 5, 1, 6, 1,
c3, 14, 14, 5, 5, 6, 16, 1,
c5, 5, 5, 5, 5, 16, 120, 1,
f6, 1, 1, 1, 1, 120, 84, 1,
output, 1, 1, 1, 1, 84, 10, 1,
"""


def cpu_milliseconds(work: Callable[[], object], repeat: int) -> float:
    """Median CPU milliseconds of `repeat` calls, after one that warms caches."""
    work()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(1e3 * (time.process_time() - start))
    return median(times)


def scalesim_milliseconds(python: str, dataflow: str) -> float:
    """CPU milliseconds of one whole SCALE-Sim process, its traces off."""
    run = run_scalesim(python, TOPOLOGY, rows=16, columns=16, dataflow=dataflow, gemm=False)
    return 1e3 * run.cpu_seconds


def main() -> None:
    """Print one table for each dataflow and accumulator width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--scalesim", metavar="PYTHON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = find_workload("lenet5_digits", quantization=load_quantization("int8"), data=None, calibration=None)
    images = load_images(source, None, 1).images
    codes = quantize_input(source.graph, images)
    network = workloads.load("lenet5_digits").module
    tensor = torch.tensor(images)
    print(f"{'LeNet-5, 16x16, one image':34}{'CPU ms':>10}{'ratio':>9}   events/instruction")
    for dataflow, width in (("ws", 32), ("ws", 12), ("os", 32), ("os", 12)):
        hardware = load_hardware("default_16x16", [f"array.dataflow={dataflow}", f"accumulator.width_bits={width}"])
        program = compile_graph(source.graph, hardware)
        machine = Accelerator(program)
        events = machine.run(codes).events / len(program.instructions)
        rows: list[tuple[str, float]] = [
            ("machine, values", cpu_milliseconds(partial(machine.run, codes), arguments.repeat)),
        ]
        with_values = rows[0][1]
        quick: list[tuple[str, Callable[[], object]]] = [
            ("machine, values and telemetry", partial(machine.run, codes, telemetry=True)),
            ("machine, timing-only", partial(machine.run, values=False)),
            ("machine, no clock", partial(machine.run, codes, clock=False)),
            ("compile", partial(compile_graph, source.graph, hardware)),
            ("load (static check)", partial(Accelerator, program)),
            ("peer: reference evaluation", partial(evaluate, source.graph, codes, hardware.arithmetic())),
        ]
        rows += [(name, cpu_milliseconds(work, arguments.repeat)) for name, work in quick]
        with torch.no_grad():
            rows.append(("peer: PyTorch float32 forward", cpu_milliseconds(partial(network, tensor), arguments.repeat)))
        if arguments.scalesim:
            runs = [scalesim_milliseconds(arguments.scalesim, dataflow) for _ in range(3)]
            rows.append(("peer: SCALE-Sim v3, whole process", median(runs)))
        print(f"{dataflow}, {width}-bit accumulator")
        for name, figure in rows:
            extra = f"{events:10.2f}" if name == "machine, values" else ""
            print(f"  {name:32}{figure:10.2f}{figure / with_values:9.2f}{extra}")


if __name__ == "__main__":
    main()
