"""LeNet-5 on the machine: every width, mode and dataflow against the reference, and where dataflows differ."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import GraphMaker

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization
from accelsim.ir import Input, IntegerGraph, Linear, Mac, evaluate, proved_overflow_free, quantize_input
from accelsim.isa import Compute, Load, Memory
from accelsim.machine import Accelerator
from accelsim.numerics import Requantization, Rounding, Scheme
from accelsim.pipeline import run_checked
from accelsim.sources import find_workload, load_images

pytest.importorskip("torch")

MODES = {"every add": ("saturate", "every_add"), "end": ("saturate", "end"), "wrap": ("wrap", "every_add")}


@pytest.fixture(scope="module")
def lenet() -> IntegerGraph:
    scheme = load_quantization("int8")
    return find_workload("lenet5_digits", quantization=scheme, data=None, calibration=None).graph


@pytest.fixture(scope="module")
def digits(lenet):
    scheme = load_quantization("int8")
    source = find_workload("lenet5_digits", quantization=scheme, data=None, calibration=None)
    found = load_images(source, None, 3)
    return quantize_input(lenet, found.images), found.labels


def machine(dataflow: str, width: int, mode: str, preset: str = "default_16x16"):
    overflow, saturate_at = MODES[mode]
    return load_hardware(
        preset,
        [
            f"array.dataflow={dataflow}",
            f"accumulator.width_bits={width}",
            f"accumulator.overflow={overflow}",
            f"accumulator.saturate_at={saturate_at}",
        ],
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [32, 20, 18, 16, 12])
def test_every_tensor_equals_the_reference_and_only_saturation_sees_the_order(lenet, digits, width, mode):
    codes, _ = digits
    outputs = {}
    for dataflow in ("ws", "os"):
        program = compile_graph(lenet, machine(dataflow, width, mode))
        outcome = run_checked(program, lenet, codes)
        assert outcome.mismatch is None
        outputs[dataflow] = outcome.outputs
    # Sums modulo 2**W and sums clamped once do not depend on the order; sums clamped at every add do, once one clamps.
    same = np.array_equal(outputs["ws"], outputs["os"])
    assert same == (mode != "every add" or width >= 20)


def test_digits_are_recognised(lenet, digits):
    codes, labels = digits
    outcome = run_checked(compile_graph(lenet, machine("ws", 32, "every add"), 3), lenet, codes, labels=labels)
    assert outcome.accuracy == 1.0


@pytest.mark.parametrize("preset, blocks", [("edge_8x8", 15), ("default_16x16", 8)])
def test_weights_of_c5_come_in_pieces_on_both_small_presets(lenet, preset, blocks):
    program = compile_graph(lenet, load_hardware(preset))
    label = [layer.name for layer in program.layers].index("c5")
    mine = [x for x in program.instructions if x.label == label]
    loads = [x for x in mine if isinstance(x, Load) and x.memory == Memory.WEIGHT]
    assert sum(x.row_bytes * x.rows for x in loads) == 48_000
    assert len(loads) >= blocks  # 120 channels in blocks of C
    assert max(x.row_bytes * x.rows for x in loads) <= program.hardware.weight.memory_bytes // 2
    parts = [x for x in mine if isinstance(x, Compute)]
    assert sum(x.r_count * x.s_count * x.run_bytes * x.lanes for x in parts) == 48_000
    assert (len(parts) > blocks) == (preset == "edge_8x8")  # there, K itself is split: 400 rows of 8 bytes


def sums_in_order(x: list[int], w: list[int], width: int, rows: int, dataflow: str) -> int:
    """One output's sum by hand: clamp at every addition, chunks of R first summed apart in ws."""
    low, high = -(2 ** (width - 1)), 2 ** (width - 1) - 1

    def add(a: int, b: int) -> int:
        return min(max(a + b, low), high)

    total = 0
    if dataflow == "os":
        for a, b in zip(x, w, strict=True):
            total = add(total, a * b)
        return total
    for first in range(0, len(x), rows):
        psum = 0
        for a, b in zip(x[first : first + rows], w[first : first + rows], strict=True):
            psum = add(psum, a * b)
        total = add(total, psum)
    return total


def test_dataflows_differ_by_hand_in_8_bits():
    """x = 10 10 10 10, w = 10 10 -10 -10, R = 2, 8 bits (-128..127).

    ws: chunk 1 = 100, 100 + 100 = 200 -> 127; acc 0 + 127 = 127; chunk 2 = -100, -200 -> -128; acc 127 - 128 = -1.
    os: 100, 200 -> 127, 127 - 100 = 27, 27 - 100 = -73.
    """
    maker = GraphMaker(np.random.default_rng(0), Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR))
    maker.input(1, 1, 4)
    maker.linear("input", 1)
    linear = maker.nodes[1]
    assert isinstance(linear, Linear)
    maker.nodes[1] = Linear(
        name="sum",
        inputs=("input",),
        output=type(linear.output)(height=1, width=1, channels=1, scale=1.0, zero_point=0),
        weight=np.array([[10, 10, -10, -10]]),
        bias=np.zeros(1, np.int64),
        multiplier=maker.fixed(np.array([1.0])),
        clip=(-128, 127),
    )
    graph = maker.graph()
    for dataflow, expected, overflows in (("ws", -1, 2), ("os", -73, 1)):
        sets = ["array.rows=2", f"array.dataflow={dataflow}", "accumulator.width_bits=8"]
        hardware = load_hardware("edge_8x8", sets)
        run = Accelerator(compile_graph(graph, hardware)).run(np.full((1, 1, 1, 4), 10), telemetry=True)
        assert run.output.item() == expected
        assert run.statistics[0].overflows == overflows
        assert evaluate(graph, np.full((1, 1, 1, 4), 10), hardware.arithmetic()).tensors["sum"].item() == expected


def test_outputs_of_f6_differ_between_dataflows_exactly_where_the_order_of_additions_says(lenet, digits):
    """F6 alone at 14 bits: for every output, both orders added up in plain integers."""
    codes, _ = digits
    tensors = evaluate(lenet, codes, machine("ws", 32, "end").arithmetic()).tensors
    node = lenet.by_name["f6"]
    assert isinstance(node, Linear)
    before = lenet.by_name[node.inputs[0]]
    alone = IntegerGraph(
        name="f6",
        nodes=(Input(name=before.name, inputs=(), output=before.output), node),
        output="f6",
        output_shape=(84,),
        activation=lenet.activation,
        requantization=lenet.requantization,
    )
    x = tensors[before.name]
    found = {}
    for dataflow in ("ws", "os"):
        hardware = machine(dataflow, 14, "every add")
        found[dataflow] = Accelerator(compile_graph(alone, hardware, len(x))).run(x).output.reshape(len(x), 84)
    differ = 0
    for image in range(len(x)):
        for n in range(84):
            operands = x[image].ravel().tolist(), node.weight[n].tolist()
            ws, os = (sums_in_order(*operands, 14, 16, dataflow) for dataflow in ("ws", "os"))
            if ws == os:
                assert found["ws"][image, n] == found["os"][image, n]
            else:
                differ += 1
    assert differ > 0
    assert (found["ws"] != found["os"]).any()


def test_weights_prove_32_bits_safe_and_12_bits_not(lenet):
    for node in lenet.nodes:
        if isinstance(node, Mac):
            assert proved_overflow_free(lenet, node, machine("ws", 32, "every add").arithmetic())
            assert not proved_overflow_free(lenet, node, machine("ws", 12, "every add").arithmetic())
