"""The large networks, made small: quantised, they have the same bits on the reference and on the engine."""

from __future__ import annotations

import numpy as np
import pytest
from accelsim.workloads import data

from accelsim.config import load_hardware, load_quantization
from accelsim.engine import execute
from accelsim.ir import evaluate, quantize_input

torch = pytest.importorskip("torch", reason="torch is not installed")

from accelsim.workloads import models, seeded  # noqa: E402  # they import torch

import accelsim  # noqa: E402

SMALL = {
    "ResNet18": {"width": 4, "classes": 10},
    "MobileNetV2": {"width": 8, "classes": 10},
    "VGG11": {"size": 32, "width": 4, "hidden": 16, "classes": 10},
    "TransformerBlock": {"channels": 12, "heads": 3, "patch": 8},
}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return data.load_dataset("digits", None, "train", 12, size=32, channels=3).images


@pytest.mark.parametrize("name", SMALL)
def test_reference_and_engine_have_the_same_bits(name, images):
    """Overlapping padded pools, projections, depthwise layers, ReLU6, attention; 32 bits, and as few as overflow."""
    module = models.MODELS[name](**SMALL[name])
    seeded.draw(module, 1)
    seeded.take_statistics(module, images)
    float_graph = accelsim.capture(module, torch.from_numpy(images[:1]), name)
    for scheme, flow, bits in (("int8", "ws", 32), ("affine_subtracted", "os", 12)):
        graph = accelsim.quantize(float_graph, images, load_quantization(scheme))
        codes = quantize_input(graph, images[:1])
        hardware = load_hardware("rtl_8x8", [f"array.dataflow={flow}", f"accumulator.width_bits={bits}"])
        expected = evaluate(graph, codes, hardware.arithmetic())
        assert any(sums.overflows for sums in expected.partial_sums.values()) == (bits == 12)
        names = [node.name for node in graph.nodes]
        found = execute(graph, codes, hardware.arithmetic(), nodes=names, threads=1)
        for node in names:
            assert (found[node] == expected.tensors[node]).all(), node


def test_small_networks_have_every_kind_of_layer_of_the_large_ones():
    for name, small in SMALL.items():
        kinds = {}
        for size, arguments in (("large", {}), ("small", small)):
            with torch.device("meta"):
                module = models.MODELS[name](**arguments)
            kinds[size] = {
                (type(part).__name__, getattr(part, "stride", None), getattr(part, "kernel_size", None))
                for part in module.modules()
                if not list(part.children())
            }
        if name != "TransformerBlock":  # whose patches are larger in the small one
            assert kinds["small"] == kinds["large"]
