"""The first overflow: found where additions are repeated by hand, and in the cycle in which the grid makes it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware

from accelsim.engine import first_overflow, uniform, watch
from accelsim.errors import InputError
from accelsim.ir import Conv2d, Mac, evaluate
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme

HOW = Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN)


def network(seed: int, **options: object):
    maker = GraphMaker(np.random.default_rng(seed), HOW, **options)
    maker.input(6, 5, 3, 5)
    maker.conv("input", 4, (3, 2), padding=(1, 0, 0, 1), stride=(2, 1))
    maker.linear(maker.last().name, 3)
    return maker.graph(), maker.codes(6)


def arithmetic(bits: int, **changes: object) -> Arithmetic:
    plain = Arithmetic(
        psum_bits=bits, width_bits=bits, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws"
    )
    return dataclasses.replace(plain, **changes)


def by_hand(graph, node: Mac, image: np.ndarray, how: Arithmetic):
    """The first overflow of one image, output by output, in loops a student would write.

    Yields (y, x, channel, chunk, k, where, before, added, value).
    """
    low, high = -(1 << (how.width_bits - 1)), (1 << (how.width_bits - 1)) - 1
    zero = graph.by_name[node.inputs[0]].output.zero_point
    fit = (
        (lambda v: min(max(v, low), high))
        if how.overflow == "saturate"
        else (lambda v: (v - low) % (high - low + 1) + low)
    )
    for y in range(node.output.height):
        for x in range(node.output.width):
            for n in range(node.out_channels):
                products, runs = [], []
                if isinstance(node, Conv2d):
                    for r in range(node.kernel[0]):
                        run = []
                        for s in range(node.kernel[1]):
                            for c in range(image.shape[2]):
                                yy = y * node.stride[0] + r - node.padding[0]
                                xx = x * node.stride[1] + s - node.padding[2]
                                inside = 0 <= yy < image.shape[0] and 0 <= xx < image.shape[1]
                                run.append((int(image[yy, xx, c]) if inside else zero) * int(node.weight[n, r, s, c]))
                        runs.append(run)
                else:
                    runs.append([int(a) * int(b) for a, b in zip(image.ravel(), node.weight[n], strict=True)])
                chunks = [run[i : i + how.rows] for run in runs for i in range(0, len(run), how.rows)]
                if how.dataflow == "os":
                    chunks = [[p for run in runs for p in run]]
                total, k = 0, 0
                for number, chunk in enumerate(chunks):
                    psum = 0
                    for p in chunk:
                        if not low <= psum + p <= high:
                            return y, x, n, number, k, "array", psum, p, psum + p
                        psum = fit(psum + p)
                        k += 1
                    if how.dataflow == "os":
                        continue
                    if not low <= total + psum <= high:
                        return y, x, n, number, k - 1, "memory", total, psum, total + psum
                    total = fit(total + psum)
                products.clear()
    return None


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("bits", [10, 13, 15, 16, 17, 18])
def test_the_named_addition_is_the_first_that_leaves_the_range(bits, dataflow, overflow):
    graph, codes = network(bits)
    how = arithmetic(bits, dataflow=dataflow, overflow=overflow)
    scenario = uniform(graph, how)
    tensors = evaluate(graph, codes, how).tensors
    for node in graph.nodes:
        if not isinstance(node, Mac):
            continue
        found = first_overflow(graph, codes, scenario, node.name)
        expected = None
        for image in range(len(codes)):
            if (first := by_hand(graph, node, tensors[node.inputs[0]][image], how)) is not None:
                expected = (image, *first)
                break
        if expected is None:
            assert found is None
            continue
        assert found is not None
        mine = (found.image, found.y, found.x, found.channel, found.chunk, found.k, found.where)
        assert (*mine, found.before, found.added, found.value) == expected
        assert found.before + found.added == found.value
        assert found.limit == (-(1 << (bits - 1)) if found.value < 0 else (1 << (bits - 1)) - 1)
        if found.where == "array":
            assert found.operands[0] * found.operands[1] == found.added


@pytest.mark.parametrize("seed", range(15))
def test_there_is_a_witness_exactly_where_an_overflow_is_counted(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    how = random_hardware(rng, graph, str(rng.choice(["ws", "os"]))).arithmetic()
    codes, scenario = maker.codes(3), uniform(graph, how)
    for name, seen in watch(graph, codes, scenario).layers.items():
        found = first_overflow(graph, codes, scenario, name)
        assert (found is not None) == bool(seen.overflows.any())
        if found is not None:
            assert not -(1 << (found.bits - 1)) <= found.value < 1 << (found.bits - 1)
            assert (found.where == "end") == (how.saturate_at == "end")


def test_what_is_no_layer_or_no_input_is_refused():
    graph, codes = network(1)
    scenario = uniform(graph, arithmetic(12))
    with pytest.raises(ValueError, match="'nothing' is no convolution or linear layer"):
        first_overflow(graph, codes, scenario, "nothing")
    with pytest.raises(InputError, match=r"^input: codes must be integers in -128\.\.127$"):
        first_overflow(graph, codes + 1000, scenario, "linear2")
