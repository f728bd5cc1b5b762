"""The engine on whole data sets: LeNet-5 clamping at every addition, many widths in one pass, and without clamping.

    python benchmarks/engine_lenet5.py [--images 10000] [--repeat 5] [--data FOLDER]

One core. Images are MNIST's test images where --data or ACCELSIM_DATA names a folder, else the embedded digits over and
over. Peers in the same run: a plain triple loop compiled by Numba, nested Python loops, the reference evaluation, and
float32 matrix products of NumPy's BLAS on operands that lie ready. CPU time, medians; compilation is printed apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from numba import njit

from accelsim.config import load_hardware, load_quantization
from accelsim.engine import execute, execute_scenarios, uniform, watch
from accelsim.engine.evaluation import SLICE_IMAGES, one_blas_thread, to_lanes
from accelsim.engine.layer import Layer
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Mac, evaluate, quantize_input
from accelsim.sources import find_workload, load_images

PEER_IMAGES, PYTHON_OUTPUTS = 200, 400


def cpu_seconds(work: Callable[[], object], repeat: int) -> float:
    """Median CPU seconds of `repeat` calls, after one that compiles and warms caches."""
    work()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return median(times)


@njit
def triple_loop(image: Any, weight: Any, cuts: Any, low: int, high: int, out: Any) -> None:
    """One convolution of one image (H, W, C), one product after the other, as anyone would write it."""
    channels, kernel_h, kernel_w, depth = weight.shape
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            for n in range(channels):
                total, psum, k, chunk = 0, 0, 0, 1
                for r in range(kernel_h):
                    for s in range(kernel_w):
                        for c in range(depth):
                            psum = min(max(psum + image[y + r, x + s, c] * weight[n, r, s, c], low), high)
                            k += 1
                            if k == cuts[chunk]:
                                total = min(max(total + psum, low), high)
                                psum = 0
                                chunk += 1
                out[y, x, n] = total


def python_loop(image: list[Any], weight: list[Any], cuts: list[int], low: int, high: int, outputs: int) -> int:
    """The same in Python, `outputs` of them; returns how many products it added."""
    count = 0
    kernel, depth = len(weight[0]), len(weight[0][0][0])
    width = len(image[0]) - kernel + 1
    for output in range(outputs):
        y, x = divmod(output, width)
        total = psum = k = 0
        chunk = 1
        for r in range(kernel):
            for s in range(kernel):
                for c in range(depth):
                    psum = min(max(psum + image[y + r][x + s][c] * weight[0][r][s][c], low), high)
                    k += 1
                    if k == cuts[chunk]:
                        total = min(max(total + psum, low), high)
                        psum = 0
                        chunk += 1
        count += k
    return count


def as_convolutions(
    graph: IntegerGraph, codes: np.ndarray, arithmetic: Any
) -> list[tuple[Mac, np.ndarray, np.ndarray, np.ndarray]]:
    """Each layer with its inputs (N, H, W, C), weights (N, R, S, C) and chunk edges; a linear layer is a 1x1 kernel."""
    tensors = execute(graph, codes, arithmetic, nodes=[node.name for node in graph.nodes])
    layers = []
    for node in graph.nodes:
        if isinstance(node, Mac):
            inputs, weight = tensors[node.inputs[0]], node.weight
            if weight.ndim == 2:
                inputs, weight = inputs.reshape(len(codes), 1, 1, -1), weight[:, None, None, :]
            cuts = Layer(graph, node, arithmetic).cuts
            layers.append((node, inputs.astype(np.int32), weight.astype(np.int32), cuts))
    return layers


def numba_peer(layers: list[Any], bits: int) -> None:
    """All layers of all images through the triple loop."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    for node, inputs, weight, cuts in layers:
        out = np.empty(node.output.shape, dtype=np.int32)
        for image in inputs:
            triple_loop(image, weight, cuts, low, high, out)


def exact_layers(graph: IntegerGraph, codes: np.ndarray, arithmetic: Any) -> list[tuple[Layer, np.ndarray]]:
    """Each layer of one slice with its input in lanes."""
    tensors = execute(graph, codes, arithmetic, nodes=[node.name for node in graph.nodes])
    return [
        (Layer(graph, node, arithmetic), to_lanes(tensors[node.inputs[0]]))
        for node in graph.nodes
        if isinstance(node, Mac)
    ]


def main() -> None:
    """Print one table; ratios are to one width, clamping at every addition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    try:
        source = find_workload("lenet5", quantization=load_quantization("int8"), data=arguments.data or "mnist")
        images = load_images(source, arguments.data or "mnist", None).images
    except InputError:
        source = find_workload("lenet5_digits", quantization=load_quantization("int8"))
        images = load_images(source, None, None).images
    graph = source.graph
    codes = np.resize(quantize_input(graph, images), (arguments.images, *graph.input.output.shape))
    macs = sum(graph.macs(node) for node in graph.nodes if isinstance(node, Mac))

    def at(bits: int, dataflow: str = "ws") -> Any:
        sets = [f"array.dataflow={dataflow}", f"accumulator.width_bits={bits}"]
        return load_hardware("default_16x16", sets).arithmetic()

    def sweep(widths: range, dataflow: str) -> Callable[[], object]:
        scenarios = [uniform(graph, at(bits, dataflow)) for bits in widths]
        return partial(execute_scenarios, graph, codes, scenarios, threads=1)

    start = time.process_time()
    execute(graph, codes[:1], at(16), threads=1)
    print(
        f"{source.name}, {arguments.images:,} images, one core; kernels compile in {time.process_time() - start:.1f} s"
    )
    scale = arguments.images / PEER_IMAGES
    few = codes[:PEER_IMAGES]
    layers = as_convolutions(graph, few, at(16))
    ready = exact_layers(graph, codes[:SLICE_IMAGES], at(32))
    panels = [(layer.floats(np.float32)[0], layer.operands(lanes)[0].astype(np.float32)) for layer, lanes in ready]
    rows: list[tuple[str, float]] = []
    with one_blas_thread():
        for bits in (16, 10):
            for dataflow in ("ws", "os"):
                work = partial(execute, graph, codes, at(bits, dataflow), threads=1)
                rows.append((f"one width, {bits} bits, {dataflow}", cpu_seconds(work, arguments.repeat)))
        one = {"ws": rows[0][1], "os": rows[1][1]}
        for dataflow in ("ws", "os"):
            for name, widths in (("16:32:2", range(16, 33, 2)), ("10:32:2", range(10, 33, 2))):
                rows.append((f"widths {name} in one pass, {dataflow}", cpu_seconds(sweep(widths, dataflow), 3)))
        rows.append(("32 bits, cannot clamp", cpu_seconds(partial(execute, graph, codes, at(32), threads=1), 3)))
        watched = uniform(graph, at(16))
        rows.append(
            ("statistics of every addition, 16 bits", cpu_seconds(lambda: watch(graph, codes, watched, threads=1), 1))
        )
        rows.append(("peer: Numba triple loop", scale * cpu_seconds(partial(numba_peer, layers, 16), 1)))
        rows.append(("peer: reference evaluation", scale * cpu_seconds(lambda: evaluate(graph, few, at(16)), 1)))
        # Sums alone, without gathering: what BLAS takes for the same products, its operands being there already.
        here = len(codes[:SLICE_IMAGES])
        exact = cpu_seconds(lambda: [layer.exact(lanes, np.float32, layer.exact_start()) for layer, lanes in ready], 15)
        blas = cpu_seconds(lambda: [weight @ panel for weight, panel in panels], 15)
    _, inputs, weight, cuts = layers[1]
    start = time.process_time()
    count = python_loop(
        inputs[0].tolist(), weight.tolist(), cuts.tolist(), -(1 << 15), (1 << 15) - 1, PYTHON_OUTPUTS // 4
    )
    python = (time.process_time() - start) / count * macs * arguments.images
    rows.append(("peer: nested Python loops (from a part)", python))
    print(f"{'':44}{'CPU s':>10}{'ratio':>10}{'GMAC/s':>9}")
    for name, figure in rows:
        reference = one["os"] if name.endswith("os") else one["ws"]
        total = macs * arguments.images
        speed = "" if "widths" in name else f"{total / figure / 1e9:9.2f}"
        print(f"{name:44}{figure:10.2f}{figure / reference:10.2f}{speed}")
    products = macs * here / 1e9
    print(f"exact sums of {here} images: {products / exact:.1f} GMAC/s gathered and multiplied, float32 BLAS alone "
          f"{products / blas:.1f}: {blas / exact:.2f} of it")  # fmt: skip


if __name__ == "__main__":
    main()
