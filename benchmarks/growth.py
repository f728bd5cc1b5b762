"""How the machine's cost grows over networks and arrays: no faster than instructions and products.

    python benchmarks/growth.py [--repeat 3] [--networks lenet5,resnet18,...] [--arrays 8,16,32,128]

For each network and array: seconds of compiling, instructions, SimPy events an instruction, seconds of a
run without values (and microseconds an instruction), seconds of a run with values (and seconds a billion products),
most memory of the whole process so far. Medians of CPU time in one process; `make bench` sets one thread. Buffers are
those of `tpu_like_32x32`; "64 KiB" has a smaller activation buffer, through which most tensors stream.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware
from accelsim.ir import quantize_input
from accelsim.machine import Accelerator
from accelsim.sources import find_workload, load_images


def seconds(function: Callable[[], object], repeat: int) -> float:
    """Median CPU seconds."""
    times = []
    for _ in range(repeat):
        began = time.process_time()
        function()
        times.append(time.process_time() - began)
    return median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--networks", default="lenet5,cifar_resnet,mobilenet_v2,resnet18")
    parser.add_argument("--arrays", default="8,16,32,128")
    arguments = parser.parse_args()
    print(
        f"{'network':14}{'array':>9}{'GMAC':>7}{'compile s':>10}{'instr.':>8}{'events/i':>9}"
        f"{'time s':>8}{'us/i':>7}{'values s':>9}{'s/GMAC':>7}{'MB':>6}"
    )
    for name in arguments.networks.split(","):
        source = find_workload(name, quantization=None, data="digits" if name != "cifar_resnet" else None)
        codes = quantize_input(source.graph, load_images(source, None, 1).images)
        machines = [(f"{size}x{size}", size, []) for size in map(int, arguments.arrays.split(","))]
        machines.append(("64 KiB", 16, ["activation.memory_bytes=65536"]))
        for label, size, more in machines:
            changes = [f"array.rows={size}", f"array.columns={size}", *more]
            hardware = load_hardware("tpu_like_32x32", changes)
            began = time.process_time()
            program = compile_graph(source.graph, hardware)
            compiled = time.process_time() - began
            machine = Accelerator(program)
            events = machine.run(values=False).events
            timed = seconds(partial(machine.run, values=False), arguments.repeat)
            valued = seconds(partial(machine.run, codes), arguments.repeat)
            count, products = len(program.instructions), sum(layer.macs for layer in program.layers) * 1e-9
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{name:14}{label:>9}{products:7.3f}{compiled:10.2f}{count:8,}{events / count:9.2f}{timed:8.3f}"
                f"{1e6 * timed / count:7.1f}{valued:9.2f}{valued / products:7.2f}{peak:6.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
