"""The comparison of requantisations: its sweep holds what it says, its counts are those of exact arithmetic."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from graphs import GraphMaker
from numerics import oracle

from accelsim.engine import execute, execute_apart
from accelsim.errors import InputError
from accelsim.explore.requantization import (
    compare_networks,
    compare_sweep,
    families,
    middle,
    with_requantization,
)
from accelsim.ir import Add, IntegerGraph, Mac, evaluate, graph_digest
from accelsim.numerics import Arithmetic, IntFormat, Requantization, Rounding, Scheme, requantize, to_output

INT8 = IntFormat(8)
ARITHMETIC = Arithmetic(
    psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=8, dataflow="ws"
)


def fixed(rounding: str = "half_even", **more: object) -> Requantization:
    return Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding(rounding), **more)  # type: ignore[arg-type]


# --- the sweep ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("powers_of_two", [False, True])
@pytest.mark.parametrize("form", [INT8, IntFormat(4), IntFormat(8, signed=False)])
def test_sweep_holds_the_pairs_it_names(form, powers_of_two):
    found = {f.name: f for f in families(form, samples=640, seed=1, powers_of_two=powers_of_two)}
    assert list(found) == ["random", "ties", "near ties", "limits"]
    for family in found.values():
        assert family.acc.shape == family.multiplier.shape
        assert family.multiplier.min() > 0
        assert family.multiplier.max() < 1
        assert family.acc.min() >= -(2**31)
        assert family.acc.max() < 2**31
        if powers_of_two:
            assert set(np.frexp(family.multiplier)[0]) == {0.5}
    exact = {
        name: [int(v) * Fraction(float(m)) for v, m in zip(f.acc, f.multiplier, strict=True)]
        for name, f in found.items()
    }
    assert {product.denominator for product in exact["ties"]} == {2}
    # Beside a tie of the multiplier: the tie lies within M of the product.
    for product, m in zip(exact["near ties"], found["near ties"].multiplier, strict=True):
        away = abs((product - Fraction(1, 2)) - round(product - Fraction(1, 2)))
        assert away <= Fraction(float(m)) + Fraction(1, 10**9)
    results = [product + middle(form) for name in exact for product in exact[name]]
    assert min(results) < form.minimum < form.maximum < max(results)
    assert {-(2**31), 2**31 - 1} <= set(found["limits"].acc.tolist())


def test_sweep_repeats_and_depends_on_its_seed():
    one, same, other = (
        families(INT8, samples=64, seed=seed, powers_of_two=False)[0].acc.tolist() for seed in (3, 3, 4)
    )
    assert one == same != other


@pytest.mark.parametrize(
    "a, b",
    [
        (fixed(), fixed("floor")),
        (fixed("tflite_double"), fixed("half_up")),
        (fixed(multiplier_bits=8), fixed(order="shift_first", guard_bits=2)),
        (fixed(), Requantization(scheme=Scheme.RECIPROCAL, rounding=Rounding.HALF_EVEN)),
        (
            Requantization(scheme=Scheme.FLOAT32, rounding=Rounding.HALF_EVEN),
            Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR, output_overflow="wrap"),
        ),
    ],
)
def test_counts_are_those_of_exact_arithmetic(a, b):
    swept = compare_sweep(a, b, INT8, samples=128, seed=5)
    powers = Scheme.POWER_OF_TWO in (a.scheme, b.scheme)
    assert swept["multipliers"] == ("powers of two" if powers else "any")
    total = 0
    for row, family in zip(swept["families"], families(INT8, samples=128, seed=5, powers_of_two=powers), strict=True):
        steps: Counter[int] = Counter()
        errors = []
        for v, m in zip(family.acc.tolist(), family.multiplier.tolist(), strict=True):
            first, second = (by_oracle(how, v, m) for how in (a, b))
            steps[second - first] += 1
            exact = v * Fraction(m)
            if -128 <= exact <= 127:
                errors.append((first - exact, second - exact))
        assert row["values"] == len(family.acc)
        assert row["steps"] == {str(step): count for step, count in sorted(steps.items()) if step}
        assert row["differing"] == len(family.acc) - steps[0]
        assert row["largest"] == max(map(abs, steps))
        for side, name in enumerate("ab"):
            mine = [float(pair[side]) for pair in errors]
            assert row["error"][name]["mean"] == pytest.approx(np.mean(mine), abs=1e-9)  # sums of float64 products
            assert row["error"][name]["largest"] == pytest.approx(max(map(abs, mine)), abs=1e-6)
        for one in row["examples"]:
            assert (by_oracle(a, one["acc"], one["multiplier"]), by_oracle(b, one["acc"], one["multiplier"])) == (
                one["a"],
                one["b"],
            )
            assert one["a"] != one["b"]
        assert max((abs(one["b"] - one["a"]) for one in row["examples"]), default=0) == row["largest"]
        total += row["differing"]
    assert total > 0


def by_oracle(how: Requantization, v: int, m: float) -> int:
    """A code in Python integers and fractions."""
    m0, n = oracle.derive(Fraction(m), how.scheme.value, how.multiplier_bits)
    r = oracle.requantize(
        v, m0, n, scheme=how.scheme.value, rounding=how.rounding.value, bits=how.multiplier_bits, order=how.order,
        guard=how.guard_bits,
    )  # fmt: skip
    return oracle.to_output(r, 0, (-128, 127), 8, True, how.output_overflow)


def test_a_scheme_does_not_differ_from_itself():
    swept = compare_sweep(fixed(), fixed(), INT8, samples=64, seed=0)
    assert [row["differing"] for row in swept["families"]] == [0, 0, 0, 0]
    assert all(row["examples"] == [] and row["steps"] == {} for row in swept["families"])


# --- networks -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network() -> tuple[IntegerGraph, np.ndarray]:
    """conv, average pool, a residual sum, linear: every kind of node that requantises or rounds; codes of 40 images."""
    maker = GraphMaker(np.random.default_rng(6), fixed())
    source = maker.input(8, 8, 3)
    left = maker.conv(source, 4, (3, 3), padding=(1, 1, 1, 1))
    right = maker.conv(source, 4, (1, 1))
    maker.linear(maker.pool(maker.sum(left, right), "avg", (2, 2), (2, 2)), 5)
    graph = maker.graph()
    return replace(graph, output_shape=(5,)), maker.codes(40)


def test_own_requantisation_gives_the_graph_itself(network):
    graph, _ = network
    assert graph_digest(with_requantization(graph, graph.requantization)) == graph_digest(graph)


def test_another_requantisation_derives_every_multiplier_and_keeps_the_rest(network):
    graph, _ = network
    how = Requantization(scheme=Scheme.FLOAT32, rounding=Rounding.HALF_AWAY)
    other = with_requantization(graph, how)
    assert other.requantization == how
    for node in graph.nodes:
        changed = other.by_name[node.name]
        multipliers = (
            [(node.multiplier, changed.multiplier)]
            if isinstance(node, Mac)
            else [*zip(node.multipliers, changed.multipliers, strict=True)]
            if isinstance(node, Add)
            else []
        )
        for old, new in multipliers:
            assert np.array_equal(new.real, old.real)
            assert new.m0.tolist() == [how.derive(m)[0] for m in old.real.tolist()]
        assert changed.output == node.output
        if isinstance(node, Mac):
            assert np.array_equal(changed.weight, node.weight)
            assert np.array_equal(changed.bias, node.bias)


def test_multiplier_that_a_scheme_cannot_hold_is_refused_by_node(network):
    graph, _ = network
    how = Requantization(scheme=Scheme.POWER_OF_TWO, rounding=Rounding.FLOOR)
    first = next(node for node in graph.nodes if isinstance(node, Mac))
    with pytest.raises(InputError) as refusal:
        with_requantization(graph, how)
    assert str(refusal.value).startswith(f"{graph.name}: node {first.name}: power_of_two: multiplier M = ")
    assert str(refusal.value).endswith(
        " is not a power of two; quantise under a scheme with power-of-two scales (--quantization)"
    )


def test_apart_each_node_sees_the_given_tensors(network):
    graph, codes = network
    own = execute(graph, codes, ARITHMETIC, nodes=[node.name for node in graph.nodes], threads=1)
    apart = execute_apart(graph, own, ARITHMETIC, threads=2)
    assert apart.keys() == own.keys() - {graph.input.name}
    assert all(np.array_equal(apart[name], own[name]) for name in apart)
    # Given zeros where the last layer reads, it gives what zeros give, and the layers before it stay.
    end = graph.by_name[graph.output]
    changed = execute_apart(graph, {**own, end.inputs[0]: np.zeros_like(own[end.inputs[0]])}, ARITHMETIC, threads=1)
    assert np.ptp(changed[graph.output], axis=0).max() == 0
    assert all(np.array_equal(changed[name], own[name]) for name in apart if name != graph.output)


def test_layers_are_counted_with_the_same_inputs_and_end_to_end(network):
    graph, codes = network
    how = fixed("floor")
    other = with_requantization(graph, how)
    found = compare_networks(graph, other, codes, codes, None, ARITHMETIC, same_inputs=True, threads=1)
    mine, theirs = evaluate(graph, codes, ARITHMETIC).tensors, evaluate(other, codes, ARITHMETIC).tensors
    assert found["images"] == 40
    assert [layer["node"] for layer in found["layers"]] == [node.name for node in graph.nodes[1:]]
    for layer in found["layers"]:
        steps = Counter((theirs[layer["node"]] - mine[layer["node"]]).ravel().tolist())
        assert layer["end_to_end"]["steps"] == {str(s): n for s, n in sorted(steps.items()) if s}
        node = graph.by_name[layer["node"]]
        if node.inputs == (graph.input.name,):
            assert layer["same_inputs"] == layer["end_to_end"]
    # The last layer on A's tensors: its sums by NumPy, floored.
    end = graph.by_name[graph.output]
    assert isinstance(end, Mac)
    sums = mine[end.inputs[0]].reshape(40, -1) @ end.weight.T + end.bias
    zero = graph.by_name[end.inputs[0]].output.zero_point
    assert graph.zero_points == "folded" or zero == 0
    m0, shift = other.by_name[graph.output].multiplier.m0, other.by_name[graph.output].multiplier.shift
    floored = to_output(requantize(sums, m0, shift, how), end.output.zero_point, end.clip, INT8, "saturate")
    steps = Counter((floored - mine[graph.output].reshape(40, -1)).ravel().tolist())
    last = found["layers"][-1]
    assert last["same_inputs"]["steps"] == {str(s): n for s, n in sorted(steps.items()) if s}
    assert last["same_inputs"] != last["end_to_end"]
    assert sum(layer["same_inputs"]["differing"] > 0 for layer in found["layers"]) >= 4  # the average pool too


def test_slices_of_images_do_not_change_counts(network, monkeypatch):
    graph, codes = network
    other = with_requantization(graph, fixed("toward_zero"))
    labels = np.arange(40) % 5
    whole = compare_networks(graph, other, codes, codes, labels, ARITHMETIC, same_inputs=True, threads=1)
    monkeypatch.setattr("accelsim.explore.requantization.IMAGES_AT_ONCE", 7)
    assert compare_networks(graph, other, codes, codes, labels, ARITHMETIC, same_inputs=True, threads=1) == whole


def test_accuracy_counts_every_image_once(network):
    graph, codes = network
    other = with_requantization(graph, fixed(multiplier_bits=8))
    predicted = [
        graph.to_pytorch(evaluate(one, codes, ARITHMETIC).tensors[graph.output]).argmax(axis=1)
        for one in (graph, other)
    ]
    labels = np.where(np.arange(40) % 2, predicted[0], predicted[1])
    found = compare_networks(graph, other, codes, codes, labels, ARITHMETIC, same_inputs=False, threads=1)
    judged = found["classification"]
    assert judged["predictions_differ"] == int((predicted[0] != predicted[1]).sum())
    right = [p == labels for p in predicted]
    assert judged["accuracy"] == {
        "a": right[0].mean(),
        "b": right[1].mean(),
        "only_a_right": int((right[0] & ~right[1]).sum()),
        "only_b_right": int((right[1] & ~right[0]).sum()),
    }
    assert all(layer["same_inputs"] is None for layer in found["layers"])


def test_codes_of_other_scales_are_not_counted(network):
    graph, codes = network
    end = graph.by_name[graph.output]
    moved = replace(end, output=replace(end.output, scale=end.output.scale * 2))
    other = replace(graph, nodes=(*graph.nodes[:-1], moved))
    found = compare_networks(graph, other, codes, codes, None, ARITHMETIC, same_inputs=False, threads=1)
    assert found["layers"][-1]["end_to_end"] is None
    assert all(layer["end_to_end"]["differing"] == 0 for layer in found["layers"][:-1])
