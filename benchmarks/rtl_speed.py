"""CPU time of the Verilated RTL against the SimPy machine, for the same program, and that both agree.

LeNet-5 (one digit) on rtl_8x8 and rtl_16x16, and a layer as ResNet has them, 3x3 with 64 channels in and out on a 56x56
image, on 32x32. The machine is timed with values and timing-only; the simulator's own process, without building it.

    python benchmarks/rtl_speed.py [--repeat 5]
"""

from __future__ import annotations

import argparse
import resource
import time
import warnings
from statistics import median

import torch

import accelsim
from accelsim.config import Hardware, load_hardware, load_quantization
from accelsim.ir import quantize_input
from accelsim.isa import Program
from accelsim.machine import Accelerator
from accelsim.quantization import CalibrationWarning
from accelsim.rtl import Parameters, build, compare, run_rtl
from accelsim.sources import find_workload, load_images


def lenet5(hardware: Hardware) -> Program:
    """One digit."""
    source = find_workload("lenet5_digits", quantization=load_quantization("int8"), data=None, calibration=None)
    codes = quantize_input(source.graph, load_images(source, None, 1).images)
    return accelsim.compile(source.graph, hardware).with_input(codes)


def resnet_layer(hardware: Hardware) -> Program:
    """A convolution and its ReLU; weights and image are random."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.ReLU()).eval()
    images = torch.rand(1, 64, 56, 56)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # ranges of one image do
        graph = accelsim.quantize(
            accelsim.capture(model, images, "resnet_layer"), images.numpy(), load_quantization("int8")
        )
    return accelsim.compile(graph, hardware).with_input(quantize_input(graph, images.numpy()))


def children() -> float:
    """CPU seconds of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(name: str, program: Program, repeat: int) -> None:
    """Time both, alternating; print medians, the spread and the ratio."""
    built = build(Parameters.of(program.hardware), "verilator")
    machine = Accelerator(program)
    model, timing, rtl = [], [], []
    for _ in range(repeat):
        begun = time.process_time()
        run = machine.run()
        model.append(time.process_time() - begun)
        assert run.cycles is not None
        begun = time.process_time()
        machine.run(values=False)
        timing.append(time.process_time() - begun)
        begun = children()
        other = run_rtl(program, built, limit=2 * run.cycles + 1000)
        rtl.append(children() - begun)
        difference = compare(program, machine, run, other)
        if difference is not None:
            raise SystemExit(f"{name}: {difference}")
    print(f"{name:28} {run.cycles:9,} cycles")
    for what, samples in (("RTL", rtl), ("machine, values", model), ("machine, timing-only", timing)):
        low, middle, high = 1000 * min(samples), 1000 * median(samples), 1000 * max(samples)
        ratio = median(rtl) / median(samples)
        print(f"    {what:24} {middle:9.1f} ms ({low:.1f}..{high:.1f})   RTL / this {ratio:8.1f}")


def main() -> None:
    """Measure all three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    for preset in ("rtl_8x8", "rtl_16x16"):
        measure(f"lenet5_digits on {preset}", lenet5(load_hardware(preset)), repeat)
    large = load_hardware("tpu_like_32x32")
    measure("3x3, 64 to 64, on 32x32", resnet_layer(large), repeat)


if __name__ == "__main__":
    main()
