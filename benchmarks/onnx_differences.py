"""Where an imported network differs from the library that quantised it, tensor by tensor, and why.

    python benchmarks/onnx_differences.py [--quantization F] [--images N]

LeNet-5 on the embedded digits and the trained CIFAR ResNet (on CIFAR-10 where ACCELSIM_DATA has it, else on noise) are
quantised by onnxruntime, in both of its forms, and run there and here; then by PyTorch's PT2E flow. For each tensor
the table counts codes that differ in the network, and codes that differ when a node alone is given onnxruntime's
operands; the latter's largest difference, and for sums of products how far the exact v * M of such a code is from a tie
at most.

Without --quantization the requantisation is ONNX's and every count against onnxruntime is 0 (exit code 1 otherwise);
with int8 it is M0 and a shift, each operand of an addition rounded for itself. PT2E models have no such rule, so theirs
is M0 and a shift always, and PyTorch's own float32 run is what they are compared with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # write, quantise and run by onnxruntime
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))  # quantise by PT2E

import onnx_models
import pt2e_models
from accelsim.workloads.data import load_dataset

from accelsim import workloads
from accelsim.config import QuantizationScheme, load_hardware, load_quantization
from accelsim.engine import execute
from accelsim.engine.evaluation import run_node, to_lanes
from accelsim.engine.layer import Layer, form_sums
from accelsim.errors import InputError
from accelsim.frontend import capture, fold_batch_norm, read_pt2e
from accelsim.importers import Imported, import_onnx
from accelsim.ir import Input, IntegerGraph, Mac, quantize_input
from accelsim.report import Side, compare_networks, show_comparison
from accelsim.report.text import table

ARITHMETIC = load_hardware().arithmetic()
HEADER = ["tensor", "op", "codes", "differ", "alone", "by at most", "from a tie"]


def compared(path: Path, images: Any, scheme: QuantizationScheme | None) -> tuple[list[list[str]], int]:
    """Rows of the table, and how many codes differ in the network."""
    imported = import_onnx(path, scheme)
    graph = imported.graph
    theirs = onnx_models.run(path, images)
    ours = execute(graph, imported.encode(images), ARITHMETIC, nodes=[node.name for node in graph.nodes])
    lanes = {
        carried.node: to_lanes(carried.layout.to_stored(theirs[name].astype(np.int64) - carried.shift))
        for name, carried in imported.tensors.items()
        if name in theirs and carried.scale is None
    }
    rows, total = [], 0
    for name, values in theirs.items():
        carried = imported.tensors[name]
        if carried.scale is not None:
            continue  # the output made real: its codes are in another row
        found = int((imported.decode(name, ours) != values).sum())
        total += found
        rows.append([carried.node, graph.by_name[carried.node].op, f"{values.size:,}", f"{found:,}"])
        rows[-1] += _alone(imported, carried.node, lanes)
    return rows, total


def _alone(imported: Imported, name: str, lanes: dict[str, Any]) -> list[str]:
    """Codes of one node that differ when it reads onnxruntime's operands."""
    graph, node = imported.graph, imported.graph.by_name[name]
    if isinstance(node, Input) or not all(source in lanes for source in node.inputs):
        return ["-"] * 3
    sources = [lanes[source] for source in node.inputs]
    layers = {name: (Layer(graph, node, ARITHMETIC), ARITHMETIC)} if isinstance(node, Mac) else {}
    ours = run_node(graph, node, lanes[name], sources, layers)
    steps = np.abs(ours.astype(np.int64) - lanes[name])
    if not steps.any():
        return ["0", "0", ""]
    from_tie = ""
    if isinstance(node, Mac):
        sums = form_sums(layers[name][0], sources[0], ARITHMETIC).astype(np.int64) + node.bias[:, None]
        exact = (sums * node.multiplier.real[:, None]).reshape(steps.shape)
        from_tie = f"{np.abs(exact - np.floor(exact) - 0.5)[steps > 0].max():.1e}"
    return [f"{int((steps > 0).sum()):,}", str(int(steps.max())), from_tie]


def main() -> int:
    """Print the tables; 1 where ONNX's own requantisation left a difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantization", metavar="F", help="scheme to import onto (default: ONNX's own)")
    parser.add_argument("--images", type=int, default=64, metavar="N", help="of each network (default: 64)")
    arguments = parser.parse_args()
    scheme = None if arguments.quantization is None else load_quantization(arguments.quantization)
    failed = False
    for name, images, source in networks(arguments.images):
        import torch

        module = workloads.load(name).module
        graph = fold_batch_norm(capture(module, torch.from_numpy(images[:1]), name))
        for form in onnx_models.FORMATS:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"{name}.onnx"
                onnx_models.quantized(onnx_models.float_model(graph), images, path, form)
                rows, total = compared(path, images, scheme)
            print(f"{name}, {form}, {len(images)} images of {source}: {total:,} codes differ from onnxruntime's")
            print("\n".join(table(HEADER, rows)) + "\n", flush=True)
            failed |= scheme is None and total > 0
        model = read_pt2e(pt2e_models.converted(module, torch.from_numpy(images)), name)
        here = Side("accelsim", model.graph, lambda given, graph=model.graph: ours(graph, given))
        there = Side("PyTorch", model.graph, model.reference_codes)
        print(f"{name}, PT2E, {len(images)} images of {source}: against PyTorch")
        print(show_comparison(compare_networks(here, there, images)) + "\n", flush=True)
    return int(failed)


def networks(count: int) -> list[tuple[str, Any, str]]:
    """Names, images float32 (N, C, H, W) and where they come from."""
    digits = load_dataset("digits", None, "test", count, size=32)
    try:
        colour = load_dataset("cifar10", None, "test", count, size=32)
        images, source = colour.images, f"{colour.name} test"
    except InputError:
        images, source = np.random.default_rng(0).uniform(0, 1, (count, 3, 32, 32)), "noise"
    return [
        ("lenet5_digits", digits.images.astype(np.float32), f"{digits.name} test"),
        ("cifar_resnet", images.astype(np.float32), source),
    ]


def ours(graph: IntegerGraph, images: Any) -> dict[str, Any]:
    """Codes of every node on the engine."""
    return dict(execute(graph, quantize_input(graph, images), ARITHMETIC, nodes=[node.name for node in graph.nodes]))


if __name__ == "__main__":
    sys.exit(main())
