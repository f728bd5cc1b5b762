"""LeNet-5 on 200 MNIST images: engine, machine and reference agree in every bit, at every width, in both dataflows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization
from accelsim.engine import execute, execute_scenarios, first_overflow, uniform
from accelsim.errors import InputError
from accelsim.ir import Conv2d, evaluate, quantize_input
from accelsim.machine import Accelerator
from accelsim.sources import find_workload, load_images

pytest.importorskip("torch")

WIDTHS = (10, 12, 14, 16, 18, 20, 32)


@pytest.fixture(scope="module")
def lenet():
    try:
        source = find_workload("lenet5", quantization=load_quantization("int8"), data="mnist")
        found = load_images(source, "mnist", 200)
    except InputError as error:
        pytest.skip(f"MNIST is not here: {error}")
    return source.graph, quantize_input(source.graph, found.images)


def hardware(dataflow: str, width: int):
    return load_hardware("default_16x16", [f"array.dataflow={dataflow}", f"accumulator.width_bits={width}"])


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("width", WIDTHS)
def test_engine_machine_and_reference_agree(lenet, dataflow, width):
    graph, codes = lenet
    machine = hardware(dataflow, width)
    arithmetic = machine.arithmetic()
    found = execute(graph, codes, arithmetic, nodes=[node.name for node in graph.nodes])
    for name, expected in evaluate(graph, codes, arithmetic).tensors.items():
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
    program = compile_graph(graph, machine, batch=20)
    accelerator = Accelerator(program)
    for first in range(0, len(codes), 20):
        output = accelerator.run(codes[first : first + 20], clock=False).output
        np.testing.assert_array_equal(found[graph.output][first : first + 20], output)


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_one_pass_over_all_widths_equals_one_evaluation_for_each(lenet, dataflow):
    graph, codes = lenet
    arithmetics = [hardware(dataflow, width).arithmetic() for width in WIDTHS]
    found = execute_scenarios(graph, codes, [uniform(graph, arithmetic) for arithmetic in arithmetics])
    for arithmetic, outcome in zip(arithmetics, found, strict=True):
        np.testing.assert_array_equal(outcome.output, execute(graph, codes, arithmetic)[graph.output])


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_the_witness_of_14_bits_by_hand(lenet, dataflow):
    """The named dot product, added in the named order, first leaves the range at the named step."""
    graph, codes = lenet
    arithmetic = hardware(dataflow, 14).arithmetic()
    found = first_overflow(graph, codes[:20], uniform(graph, arithmetic), "c1")
    assert found is not None
    node = graph.by_name["c1"]
    assert isinstance(node, Conv2d)
    low, high = -8192, 8191
    image = codes[found.image]
    # 5x5 on one channel, no padding: k = 5 r + s. ws adds runs of 5 from 0, and each to the memory; os adds all 25.
    total, k = 0, 0
    for chunk in range(5 if dataflow == "ws" else 1):
        psum = 0
        for _ in range(5 if dataflow == "ws" else 25):
            r, s = divmod(k, 5)
            x, w = int(image[found.y + r, found.x + s, 0]), int(node.weight[found.channel, r, s, 0])
            if found.where == "array" and (found.chunk, found.k) == (chunk, k):
                assert (found.before, found.operands, found.value) == (psum, (x, w), psum + x * w)
                assert not low <= psum + x * w <= high
                assert found.limit == (low if psum + x * w < 0 else high)
                return
            assert low <= psum + x * w <= high, "an earlier addition left the range"
            psum += x * w
            k += 1
        if dataflow == "ws":
            if found.where == "memory" and found.chunk == chunk:
                assert (found.before, found.added, found.value) == (total, psum, total + psum)
                assert not low <= total + psum <= high
                return
            assert low <= total + psum <= high, "an earlier addition left the range"
            total += psum
    raise AssertionError("the witness names no addition of its dot product")


def test_a_layer_s_own_width_narrows_the_engine_s_too(lenet):
    graph, codes = lenet
    narrow = dataclasses.replace(
        graph,
        nodes=tuple(
            dataclasses.replace(node, accumulator_width_bits=14) if node.name == "c3" else node for node in graph.nodes
        ),
    )
    arithmetic = hardware("ws", 32).arithmetic()
    expected = evaluate(narrow, codes[:40], arithmetic).tensors[graph.output]
    np.testing.assert_array_equal(execute(narrow, codes[:40], arithmetic)[graph.output], expected)
    assert not np.array_equal(expected, execute(graph, codes[:40], arithmetic)[graph.output])
