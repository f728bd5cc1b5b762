"""Many widths in one pass: the theorem behind it, and equality with one evaluation for each."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from graphs import GraphMaker, random_graph, random_hardware

from accelsim.engine import execute, execute_scenarios, uniform
from accelsim.engine import scenarios as scenarios_module
from accelsim.engine.evaluation import to_lanes
from accelsim.engine.layer import Layer
from accelsim.ir import Evaluation, IntegerGraph, Mac, evaluate
from accelsim.ir.reference import _node
from accelsim.numerics import Arithmetic, Requantization, Rounding, Scheme


def clamped(terms: tuple[int, ...], start: int, low: int, high: int) -> int:
    total = start
    for term in terms:
        total = min(max(total + term, low), high)
    return total


def derived(terms: tuple[int, ...], start: int, low: int, high: int) -> int | None:
    """The formula; None where the extremes lie too far apart."""
    prefixes = [start, *(start + total for total in itertools.accumulate(terms))]
    top, bottom = max(prefixes), min(prefixes)
    if top - bottom > high - low:
        return None
    return prefixes[-1] - max(0, top - high) + max(0, low - bottom)


@pytest.mark.parametrize("bits", [2, 3])
def test_the_theorem_holds_for_every_short_sum(bits):
    """Every sequence of up to 5 terms in -4..4 from every start in the range: nothing else is left to try."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    used = beyond = 0
    for length in range(6):
        for terms in itertools.product(range(-4, 5), repeat=length):
            for start in range(low, high + 1):
                found = derived(terms, start, low, high)
                if found is None:
                    beyond += 1
                else:
                    used += 1
                    assert found == clamped(terms, start, low, high), (terms, start)
    assert used > 1000
    assert beyond > 1000


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_the_engine_s_formula_and_its_condition_for_every_short_sum(dataflow):
    """8 bits are the narrowest; five terms of -110, -37, 0, 81 or 127 reach every case, and every one is tried.

    Products of weight 1 with the terms, one chunk: os sums in the register. In ws with one row each chunk is one term.
    """
    terms = np.array(list(itertools.product((-110, -37, 0, 81, 127), repeat=5)))
    maker = GraphMaker(np.random.default_rng(0), Requantization(scheme=Scheme.FLOAT64, rounding=Rounding.HALF_EVEN))
    maker.input(1, 1, 5)
    maker.linear("input", 1)
    maker.nodes[1] = node = dataclasses.replace(maker.nodes[1], weight=np.ones((1, 5), dtype=np.int64))
    how = dataclasses.replace(plain(8, dataflow), rows=1)
    layer = Layer(maker.graph(), node, how)
    tracked = layer.tracked(to_lanes(terms[:, None, None, :]), np.float32)
    in_order, derived = scenarios_module._limited(layer, how, tracked, np.ones(len(terms), dtype=bool))
    images = np.flatnonzero(derived)
    sums = scenarios_module._derive(layer, how, tracked, images)[0, 0]
    expected = [clamped(tuple(row), 0, -128, 127) for row in terms.tolist()]
    assert sums.tolist() == [expected[image] for image in images]
    for image in np.flatnonzero(in_order):  # and nothing is called underivable that is not
        assert derived_by_hand(terms[image].tolist()) is None
    untouched = ~in_order & ~derived
    assert tracked.total[0, 0, untouched].tolist() == [expected[image] for image in np.flatnonzero(untouched)]
    assert min(in_order.sum(), derived.sum(), untouched.sum()) > 100


def derived_by_hand(terms: list[int]) -> int | None:
    return derived(tuple(terms), 0, -128, 127)


def test_the_condition_is_needed():
    """3 bits, -4..3: prefixes 5 and -3 lie 8 apart. 0 + 5 clamps to 3, 3 - 8 to -4; the formula says -3 - 2 = -5."""
    terms = (5, -8)
    assert clamped(terms, 0, -4, 3) == -4
    assert derived(terms, 0, -4, 3) is None
    assert derived(terms, 0, -4, 4) == -4  # with one more value of room it holds: 0 + 5 -> 4, 4 - 8 = -4


def test_applied_flat_to_both_levels_the_formula_is_wrong():
    """ws, R = 2, 3 bits: chunks (3, 3) and (-3, 0). The array clamps 6 to 3; 3 in the memory, then 3 - 3 = 0.

    Flat, the prefixes 3, 6, 3, 3 give 3 - (6 - 3) = 0 too; with (3, 3) and (-3, -1): memory 3 + clamp(-4) = -1, flat
    2 - 3 = -1; with (3, -3) and (3, 3): memory 0 + 3 = 3, flat 6 - 3 = 3; with (3, 3) and (3, -3): the second chunk is
    3 - 3 = 0, so 3; flat the prefixes are 3, 6, 9, 6, so 6 - 6 = 0.
    """
    low, high = -4, 3
    first, second = clamped((3, 3), 0, low, high), clamped((3, -3), 0, low, high)
    assert clamped((first, second), 0, low, high) == 3
    flat = (3, 3, 3, -3)
    assert sum(flat) - max(0, max(itertools.accumulate(flat)) - high) == 0


def random_scenario(rng: np.random.Generator, graph: IntegerGraph, arithmetic: Arithmetic) -> dict[str, Arithmetic]:
    """Any widths and modes, different for each layer."""
    scenario = {}
    for node in graph.nodes:
        if isinstance(node, Mac):
            width = int(rng.integers(8, 26))
            scenario[node.name] = dataclasses.replace(
                arithmetic,
                width_bits=width,
                psum_bits=width if rng.random() < 0.6 else int(rng.integers(8, width + 1)),
                overflow=str(rng.choice(["saturate", "saturate", "wrap"])),
                saturate_at=str(rng.choice(["every_add", "every_add", "end"])),
            )
    return scenario


def reference_output(graph: IntegerGraph, codes: np.ndarray, scenario: dict[str, Arithmetic]) -> np.ndarray:
    """The reference, layer by layer: each layer alone in a graph of its own, under its own arithmetic."""
    tensors: dict[str, np.ndarray] = {}
    for node in graph.nodes:
        if not node.inputs:
            tensors[node.name] = codes
            continue
        source = graph.by_name[node.inputs[0]]
        if isinstance(node, Mac):
            alone = dataclasses.replace(
                graph,
                nodes=(
                    dataclasses.replace(graph.input, name=source.name, output=source.output),
                    dataclasses.replace(node, accumulator_width_bits=None),
                ),
                output=node.name,
                output_shape=node.output.shape,
            )
            tensors[node.name] = evaluate(alone, tensors[source.name], scenario[node.name]).tensors[node.name]
        else:
            sources = [tensors[name] for name in node.inputs]
            tensors[node.name] = _node(graph, node, sources, codes, next(iter(scenario.values())), Evaluation({}))
    return tensors[graph.output]


@pytest.mark.parametrize("seed", range(40))
def test_each_scenario_equals_the_reference_under_its_arithmetics(seed):
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    if not any(isinstance(node, Mac) for node in graph.nodes):
        pytest.skip("a graph without products has no scenario")
    arithmetic = random_hardware(rng, graph, str(rng.choice(["ws", "os"]))).arithmetic()
    codes = maker.codes(int(rng.integers(1, 12)))
    chosen = [random_scenario(rng, graph, arithmetic) for _ in range(4)]
    found = execute_scenarios(graph, codes, chosen, threads=int(rng.integers(1, 3)), memory_bytes=1 << 16)
    for scenario, outcome in zip(chosen, found, strict=True):
        np.testing.assert_array_equal(outcome.output, reference_output(graph, codes, scenario), err_msg=f"seed {seed}")


def small_network() -> tuple[IntegerGraph, np.ndarray]:
    rng = np.random.default_rng(8)
    maker = GraphMaker(rng, Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN))
    maker.input(6, 6, 2)
    maker.conv("input", 4, (3, 3))
    maker.linear(maker.last().name, 5)
    return maker.graph(), maker.codes(50)


def plain(width: int, dataflow: str = "ws") -> Arithmetic:
    return Arithmetic(
        psum_bits=width, width_bits=width, overflow="saturate", saturate_at="every_add", rows=4, dataflow=dataflow
    )


@pytest.mark.parametrize("dataflow", ["ws", "os"])
def test_a_sweep_over_widths_equals_one_evaluation_for_each(dataflow):
    graph, codes = small_network()
    widths = range(8, 25)
    found = execute_scenarios(graph, codes, [uniform(graph, plain(width, dataflow)) for width in widths])
    for width, outcome in zip(widths, found, strict=True):
        alone = execute(graph, codes, plain(width, dataflow))[graph.output]
        np.testing.assert_array_equal(outcome.output, alone, err_msg=f"{width} bits")
    assert found[0].changed[graph.output] > 0
    assert set(found[-1].changed.values()) == {0}


def test_images_whose_layer_inputs_did_not_change_are_not_computed_again(monkeypatch):
    graph, codes = small_network()
    again: dict[str, int] = {}
    form_sums = scenarios_module.form_sums

    def counted(layer, source, arithmetic):
        again[layer.node.name] = again.get(layer.node.name, 0) + source.shape[3]
        return form_sums(layer, source, arithmetic)

    monkeypatch.setattr(scenarios_module, "form_sums", counted)
    conv, linear = (node.name for node in graph.nodes if isinstance(node, Mac))
    execute_scenarios(graph, codes, [uniform(graph, plain(width)) for width in (22, 24, 32)])
    assert again == {}, "nothing clamps: everything follows from the one exact pass"
    narrow = {conv: plain(32), linear: plain(12)}
    first = execute_scenarios(graph, codes, [narrow, dict(narrow)])
    assert conv not in again, "the layer in front has the exact sums"
    assert again.get(linear, 0) <= len(codes), "two equal scenarios share what they compute"
    assert first[0].changed[linear] > 0
    again.clear()
    widened = execute_scenarios(graph, codes, [{conv: plain(12), linear: plain(32)}])[0]
    assert again[linear] == widened.changed[conv], "only images that the first layer changed reach the second again"


def test_sums_are_derived_where_the_theorem_allows(monkeypatch):
    """In os a width one bit short clamps some images, and their extremes lie close enough for the formula."""
    graph, codes = small_network()
    taken: list[int] = []
    derive = scenarios_module._derive
    monkeypatch.setattr(scenarios_module, "_derive", lambda *a: taken.append(len(a[3])) or derive(*a))
    execute_scenarios(graph, codes, [uniform(graph, plain(width, "os")) for width in range(15, 20)])
    assert sum(taken) > 0


def test_scenarios_must_be_of_one_array_and_complete():
    graph, codes = small_network()
    with pytest.raises(ValueError, match="no scenarios"):
        execute_scenarios(graph, codes, [])
    with pytest.raises(ValueError, match="no arithmetic for layer"):
        execute_scenarios(graph, codes, [{}])
    with pytest.raises(ValueError, match="different arrays"):
        execute_scenarios(graph, codes, [uniform(graph, plain(16)), uniform(graph, plain(16, "os"))])
