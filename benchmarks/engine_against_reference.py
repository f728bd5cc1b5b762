"""The large networks on the engine and on the reference evaluation: every node's tensor, and what each takes.

    python benchmarks/engine_against_reference.py [NAME ...]

The reference makes one addition at a time, for all outputs of a layer at once.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from accelsim.config import load_hardware, load_quantization
from accelsim.engine import execute
from accelsim.ir import evaluate, quantize_input
from accelsim.sources import find_workload, load_images

SETTINGS = (("ws", 32), ("os", 20), ("ws", 14))


def compare(name: str) -> None:
    """One image of a workload on both, on 32 rows; stops at the first node that differs."""
    source = find_workload(name, quantization=load_quantization("int8"))
    codes = quantize_input(source.graph, load_images(source, None, 1).images)
    nodes = [node.name for node in source.graph.nodes]
    for flow, width in SETTINGS:
        overrides = [f"array.dataflow={flow}", f"accumulator.width_bits={width}"]
        arithmetic = load_hardware("tpu_like_32x32", overrides).arithmetic()
        began = time.process_time()
        found = execute(source.graph, codes, arithmetic, nodes=nodes, threads=1)
        engine = time.process_time() - began
        expected = evaluate(source.graph, codes, arithmetic)
        reference = time.process_time() - began - engine
        for node in nodes:
            if not np.array_equal(found[node], expected.tensors[node]):
                raise SystemExit(f"{name}: {node} differs on {flow} at {width} bits")
        overflows = sum(sums.overflows for sums in expected.partial_sums.values())
        print(
            f"{name}, {flow}, {width} bits: {len(nodes)} tensors equal, {overflows:,} overflows; "
            f"engine {engine:.1f} CPU-s, reference {reference:.1f} CPU-s"
        )


if __name__ == "__main__":
    for given in sys.argv[1:] or ("transformer_block", "mobilenet_v2", "vgg11", "resnet18"):
        compare(given)
