"""Repair: equalisation, absorption, bias correction and AdaRound against the papers' formulas in plain NumPy."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from accelsim.compiler import compile_graph
from accelsim.config import QuantizationScheme, load_hardware, load_quantization
from accelsim.errors import InputError
from accelsim.frontend import capture
from accelsim.ir import (
    ChannelStatistics,
    FloatActivation,
    FloatAvgPool2d,
    FloatConv2d,
    FloatGraph,
    FloatInput,
    FloatLinear,
    Mac,
    graph_digest,
)
from accelsim.ir.reference import evaluate as evaluate_integers
from accelsim.ir.reference import quantize_input
from accelsim.numerics import Arithmetic
from accelsim.quantization import (
    CalibrationWarning,
    adaround,
    calibrate,
    evaluate,
    lower,
    quantize,
    with_quantized_weights,
)
from accelsim.quantization.adaround import Problem, learn_rounding, solve
from accelsim.quantization.bias_correction import correct_analytically, correct_empirically
from accelsim.quantization.equalization import absorb_bias, equalize, find_chains, replace_relu6
from accelsim.quantization.integer_path import rewrite
from accelsim.quantization.layers import to_float_layout
from accelsim.quantization.lowering import lower_with_scales
from accelsim.quantization.scales import quantize_weight
from accelsim.quantization.statistics import propagate

WIDE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=16, dataflow="ws")


def scheme(**sections):
    return QuantizationScheme.model_validate(sections)


def random_array(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


class Separable(nn.Module):
    """Convolution, depthwise, 1x1 and linear layers with batch norm; channels of very different size."""

    def __init__(self, activation=nn.ReLU, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            *(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), activation()),
            *(nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False), nn.BatchNorm2d(6), activation()),
            *(nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4), activation()),
        )
        self.pool, self.flat, self.end = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 5)
        for norm in (part for part in self.body if isinstance(part, nn.BatchNorm2d)):
            size = norm.num_features
            with torch.no_grad():
                norm.weight.copy_(torch.logspace(-1.5, 1, size)[torch.randperm(size)])
                norm.bias.copy_(norm.weight * torch.linspace(-1, 5, size))

    def forward(self, x):
        return self.end(self.flat(self.pool(self.body(x))))


def separable(activation=nn.ReLU):
    """The network in evaluation mode, its running statistics those of the data it is run on, and the data."""
    net, x = Separable(activation), torch.tensor(random_array(64, 2, 6, 6), dtype=torch.float32)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None  # a plain average
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(x)
    return capture(net.eval(), x[:1], "separable"), x.numpy().astype(np.float64)


def reals(graph, x):
    """The integer network's output, dequantised."""
    last = graph.by_name[graph.output].output
    codes = evaluate_integers(graph, quantize_input(graph, x), WIDE).tensors[graph.output]
    return last.scale * (graph.to_pytorch(codes) - last.zero_point)


# --- batch-norm statistics ---------------------------------------------------------------------------------------


def test_folding_keeps_the_statistics_of_the_output():
    graph, x = separable()
    tensors = evaluate(graph, x)
    layers = [node for node in graph.nodes if isinstance(node, FloatConv2d)]
    assert len(layers) == 3
    for node in layers:
        seen = tensors[node.name]
        assert np.allclose(node.statistics.mean, seen.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-4)
        assert np.allclose(node.statistics.deviation, seen.std(axis=(0, 2, 3)), rtol=1e-2)


# --- equalisation ------------------------------------------------------------------------------------------------


def test_two_linear_layers_equalise_to_equal_ranges_by_the_formula():
    w1, b1, w2 = random_array(3, 4) * [[1.0], [100.0], [0.0]], random_array(3, seed=2), random_array(2, 3, seed=3)
    graph = FloatGraph(
        "pair",
        (
            FloatInput(name="x", inputs=(), shape=(4,)),
            FloatLinear(
                name="a",
                inputs=("x",),
                shape=(3,),
                weight=w1,
                bias=b1,
                statistics=ChannelStatistics(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])),
            ),
            FloatActivation(name="r", inputs=("a",), shape=(3,), kind="relu"),
            FloatLinear(name="b", inputs=("r",), shape=(2,), weight=w2, bias=None),
        ),
        "b",
    )
    r1, r2 = np.abs(w1).max(axis=1), np.abs(w2).max(axis=0)
    s = np.array([np.sqrt(r1[0] / r2[0]), np.sqrt(r1[1] / r2[1]), 1.0])  # the third channel has no weights to scale by
    done = equalize(graph)
    a, b = done.by_name["a"], done.by_name["b"]
    assert np.allclose(a.weight, w1 / s[:, None], rtol=1e-12)
    assert np.allclose(a.bias, b1 / s, rtol=1e-12)
    assert np.allclose(b.weight, w2 * s, rtol=1e-12)
    assert np.allclose(a.statistics.mean, [1.0 / s[0], 2.0 / s[1], 3.0], rtol=1e-12)
    assert np.allclose(a.statistics.deviation, [0.1 / s[0], 0.2 / s[1], 0.3], rtol=1e-12)
    assert np.allclose(np.abs(a.weight).max(axis=1)[:2], np.abs(b.weight).max(axis=0)[:2], rtol=1e-12)


def test_equalisation_keeps_the_function_and_balances_every_pair():
    graph, x = separable()
    done = equalize(graph)
    before, after = evaluate(graph, x)[graph.output], evaluate(done, x)[graph.output]
    assert np.allclose(before, after, rtol=0, atol=1e-11 * np.abs(before).max())
    chains = find_chains(done)
    assert [(chain.first, chain.second) for chain in chains] == [
        ("body.0", "body.3"),
        ("body.3", "body.6"),
        ("body.6", "end"),
    ]
    for chain in chains:
        first, second = done.by_name[chain.first], done.by_name[chain.second]
        out = np.abs(first.weight).reshape(len(first.weight), -1).max(axis=1)
        if getattr(second, "groups", 1) > 1:  # depthwise: row i reads channel i
            into = np.abs(second.weight).reshape(len(out), -1).max(axis=1)
        else:  # dense, or linear behind a flatten of 3x3 images
            into = np.abs(second.weight.reshape(len(second.weight), len(out), -1)).max(axis=(0, 2))
        assert np.allclose(out, into, rtol=3e-4)  # 1e-4 a sweep


def test_equalisation_mends_per_tensor_weights():
    graph, x = separable()
    expected = evaluate(graph, x)[graph.output]
    how = {"weight": {"granularity": "tensor"}}
    plain, equal = (
        np.square(reals(quantize(graph, x, scheme(**how, equalization={"weights": on})), x) - expected).mean()
        for on in (False, True)
    )
    assert equal < plain / 4


def test_relu6_is_kept_unless_its_replacement_is_asked_for():
    graph, x = separable(nn.ReLU6)
    assert [chain.first for chain in find_chains(graph)] == []
    with pytest.raises(InputError) as refused:
        quantize(graph, x, scheme(equalization={"weights": True}))
    assert str(refused.value) == (
        "separable: equalization.weights finds no two layers joined by ReLU, pools or nothing alone; "
        "set equalization.relu6 = 'replace'"
    )
    replaced = replace_relu6(graph)
    assert {node.kind for node in replaced.nodes if isinstance(node, FloatActivation)} == {"relu"}
    assert len(find_chains(replaced)) == 3
    quantize(graph, x, scheme(equalization={"weights": True, "relu6": "replace"}))


# --- absorption --------------------------------------------------------------------------------------------------


def test_absorbed_biases_follow_the_formula_and_keep_the_function_above_the_mean_less_three_deviations():
    graph, x = separable()
    done = absorb_bias(graph)
    # body.0 -> body.3 pads and is left alone; body.3 -> body.6 and body.6 -> end are taken.
    assert np.array_equal(done.by_name["body.0"].bias, graph.by_name["body.0"].bias)
    c = {}
    for name in ("body.3", "body.6"):
        old, new = graph.by_name[name], done.by_name[name]
        c[name] = np.maximum(0.0, old.statistics.mean - 3 * old.statistics.deviation)
        assert c[name].max() > 0
        assert np.allclose(new.statistics.mean, old.statistics.mean - c[name], rtol=1e-12)
    conv, end = graph.by_name["body.6"], graph.by_name["end"]
    into_conv = conv.weight[:, :, 0, 0] @ c["body.3"]
    assert np.allclose(done.by_name["body.3"].bias, graph.by_name["body.3"].bias - c["body.3"], rtol=1e-12)
    assert np.allclose(done.by_name["body.6"].bias, conv.bias + into_conv - c["body.6"], rtol=1e-9)
    into_end = end.weight.reshape(5, 4, 9).sum(axis=2) @ c["body.6"]
    assert np.allclose(done.by_name["end"].bias, end.bias + into_end, rtol=1e-9)
    # Exactly the same function for the images whose values all stay above c.
    tensors = evaluate(graph, x)
    stay = np.ones(len(x), dtype=bool)
    for name, excess in c.items():
        stay &= ((tensors[name] >= excess[:, None, None]) | (excess[:, None, None] == 0)).all(axis=(1, 2, 3))
    assert stay.sum() > 3
    assert np.allclose(evaluate(done, x[stay])[done.output], tensors[graph.output][stay], rtol=0, atol=1e-9)


def test_absorption_without_statistics_is_refused_by_name():
    graph, _ = separable()
    bare = dataclasses.replace(
        graph,
        nodes=tuple(dataclasses.replace(n, statistics=None) if isinstance(n, FloatConv2d) else n for n in graph.nodes),
    )
    with pytest.raises(InputError, match=r"^separable: body.3 \(aten.conv2d\): equalization.absorb_bias needs"):
        absorb_bias(bare)


# --- bias correction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_points", ["folded", "subtracted"])
def test_empirical_correction_removes_the_mean_error_of_every_layer(zero_points):
    graph, x = separable()
    graph = equalize(graph)
    how = scheme(
        zero_points=zero_points,
        activation={"symmetric": False},
        weight={"bits": 4, "granularity": "tensor"},
        requantization={"rounding": "floor"},  # half a step down on average, which is corrected too
    )
    plain = lower(graph, calibrate(graph, x), how)
    corrected = correct_empirically(plain, graph, x, 32)
    tensors = evaluate(graph, x)
    output = plain.by_name["end"].output
    errors = [reals(one, x) - tensors["end"] for one in (plain, corrected)]
    before, after = (np.abs(error.mean(axis=0)) / output.scale for error in errors)
    # Left: half a step of S_x S_w, which is M / 2 of the output's, and what the limits of the format cut.
    assert np.all(after <= 0.5 * plain.by_name["end"].multiplier.real + 0.1)
    assert before.max() > 10 * after.max()
    assert all(np.array_equal(plain.by_name[n.name].weight, n.weight) for n in corrected.nodes if isinstance(n, Mac))


def test_analytic_correction_is_the_weight_error_times_the_mean_input():
    graph, x = separable()
    graph = equalize(dataclasses.replace(graph, nodes=graph.nodes[:-3], output=graph.nodes[-4].name))  # no max pool
    how = scheme(activation={"symmetric": False}, weight={"bits": 3, "granularity": "tensor"})
    plain = lower(graph, calibrate(graph, x), how)
    known, largest = propagate(graph, x), []
    corrected = correct_analytically(plain, graph, known, 32)
    for node in plain.nodes:
        if not isinstance(node, Mac):
            continue
        layer, source = graph.by_name[node.name], plain.by_name[node.inputs[0]].output
        error = quantize_weight(layer.weight, how.weight, if_zero=1.0).reals() - layer.weight
        mean = known[layer.inputs[0]].mean
        per_tap = error.sum(axis=(2, 3))  # (N, C / groups)
        shift = (per_tap[:, 0] * mean) if layer.groups > 1 else per_tap @ mean
        scale = quantize_weight(layer.weight, how.weight, if_zero=1.0).scale * source.scale
        moved = corrected.by_name[node.name].bias - node.bias
        assert np.abs(moved + shift / scale).max() <= 0.5 + 1e-6
        largest.append(np.abs(moved).max())
    assert max(largest) > 3
    # It mends the mean of the second layer on data, which the formula never saw.
    wanted = evaluate(graph, x)["body.8"].mean(axis=(0, 2, 3))
    off = [np.abs(reals(one, x).mean(axis=(0, 2, 3)) - wanted).sum() for one in (plain, corrected)]
    assert off[1] < 0.5 * off[0]


def test_analytic_correction_names_the_layer_whose_input_is_unknown():
    graph, x = separable()
    with pytest.raises(InputError) as refused:
        quantize(graph, x, scheme(bias={"correction": "analytic"}))
    assert str(refused.value) == (
        "separable: end (aten.linear): bias.correction = 'analytic' needs batch-norm statistics of what it reads, "
        "and there are none; set bias.correction = 'empirical'"
    )


# --- AdaRound ----------------------------------------------------------------------------------------------------


def layer_problem(bits, seed=0):
    """A linear layer of 48 inputs on correlated data, where rounding errors of inputs can make up for one another."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 48)) / 4
    layer = FloatLinear(
        name="fc", inputs=("x",), shape=(8,), weight=rng.normal(size=(8, 48)) / 7, bias=rng.normal(size=8)
    )
    relu = FloatActivation(name="relu", inputs=("fc",), shape=(8,), kind="relu")
    graph = FloatGraph("one", (FloatInput(name="x", inputs=(), shape=(48,)), layer, relu), "relu")
    how = scheme(weight={"bits": bits, "rounding": "adaround", "adaround_iterations": 400, "adaround_samples": 400})
    return graph, x, how


@pytest.mark.parametrize("bits", [3, 4])
def test_adaround_reconstructs_a_layer_better_than_nearest_with_floor_or_ceil(bits):
    graph, x, how = layer_problem(bits)
    ranges = calibrate(graph, x)
    nearest, scales = lower_with_scales(graph, ranges, how)
    codes = learn_rounding(nearest, graph, x, how, scales)
    learned = lower(graph, ranges, how, weights=codes)
    weight = graph.by_name["fc"].weight
    real = weight / quantize_weight(weight, how.weight, if_zero=1.0).scale[:, None]
    limit = 2 ** (bits - 1) - 1
    assert np.all((codes["fc"] - np.floor(real) >= 0) & (codes["fc"] - np.floor(real) <= 1))
    assert np.abs(codes["fc"]).max() <= limit
    assert 0.05 < (codes["fc"] != np.rint(real)).mean() < 0.5
    assert np.array_equal(to_float_layout(learned.by_name["fc"].weight, learned.input.output),
                          codes["fc"])  # fmt: skip
    held_out = x @ np.diag(np.ones(48))  # the data themselves, then data of the same distribution
    other = np.random.default_rng(9).normal(size=(400, 400)) @ x / 20
    for data in (held_out, other):
        expected = evaluate(graph, data)["relu"]
        error = [np.square(reals(one, data) - expected).mean() for one in (nearest, learned)]
        assert error[1] < 0.6 * error[0]


def test_adaround_is_reproducible_and_depends_on_its_keys():
    graph, x, how = layer_problem(3)
    nearest, scales = lower_with_scales(graph, calibrate(graph, x), how)
    first = learn_rounding(nearest, graph, x, how, scales)["fc"]
    state = torch.get_rng_state()
    threads = torch.get_num_threads()
    again = learn_rounding(nearest, graph, x, how, scales)["fc"]
    assert np.array_equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are used
    assert torch.get_num_threads() == threads
    reseeded = how.model_copy(update={"weight": how.weight.model_copy(update={"seed": 5})})
    other = learn_rounding(nearest, graph, x, reseeded, scales)["fc"]
    assert not np.array_equal(first, other)


def test_adaround_of_convolutions_of_every_kind_lowers_the_networks_error():
    """Padding, depthwise and strides included; layers follow each other on the integer path."""
    graph, x = separable()
    how = load_quantization("w4a8_adaround", ["weight.bits=3", "weight.adaround_iterations=400"])
    expected = evaluate(graph, x)[graph.output]
    learned = quantize(graph, x, how)
    plain = quantize(graph, x, load_quantization("int8_mse", ["weight.bits=3"]))
    error = [np.square(reals(one, x) - expected).mean() for one in (plain, learned)]
    assert error[1] < 0.6 * error[0]
    for node in learned.nodes:
        if isinstance(node, Mac):
            assert np.abs(node.weight - plain.by_name[node.name].weight).max() <= 1
            assert node.multiplier.real.tolist() == plain.by_name[node.name].multiplier.real.tolist()


def test_the_operands_of_adaround_are_those_of_the_integer_layer():
    """The float rows times the codes give the reference's sums exactly, for a padded, strided, grouped convolution."""
    torch.manual_seed(3)
    net = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2)
    x = random_array(5, 4, 7, 7)
    graph = quantize(capture(net, torch.zeros(1, 4, 7, 7), "conv"), x, load_quantization("affine"))
    (node,) = [one for one in graph.nodes if isinstance(one, Mac)]
    positions = np.array([[i, y, z] for i in range(5) for y in range(4) for z in range(4)])
    seen = {}

    def edit(place, inputs):
        seen["rows"] = adaround._integer_rows(place, inputs, positions)
        seen["codes"] = to_float_layout(node.weight, place.source)
        seen["scale"] = place.weight_scale
        return place.node

    assert rewrite(graph, x, edit).nodes == graph.nodes
    sums = np.einsum("gmk,gnk->mgn", seen["rows"].astype(np.float64), seen["codes"].reshape(2, 3, -1)).reshape(80, 6)
    given = sums * seen["scale"] + net.bias.detach().double().numpy()
    output = node.output
    codes = evaluate_integers(graph, quantize_input(graph, x), WIDE).tensors[graph.output].reshape(80, 6)
    # Off by the rounding of the output and of the bias, half a step each at most.
    unclipped = (codes > -128) & (codes < 127)
    assert np.abs(given / output.scale + output.zero_point - codes)[unclipped].max() <= 0.5 + 1e-3


def test_adaround_of_fixed_point_weights_far_beyond_their_word_saturates():
    """w / S beyond int64: 60 fraction bits, so that every weight is at an end of its word."""
    graph, x, _ = layer_problem(4)
    keys = ["weight.bits=4", "weight.fraction_bits=60", "weight.rounding=adaround", "weight.adaround_iterations=3"]
    how = load_quantization("int8", [*keys, "bias.bits=8", "requantization.scheme=float64"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # of biases, in such steps
        lowered = lower_with_scales(graph, calibrate(graph, x), how)
    codes = learn_rounding(lowered[0], graph, x, how, lowered[1])["fc"]
    assert np.array_equal(codes, np.where(graph.by_name["fc"].weight > 0, 7, -8))


def test_weights_alone_of_an_equalised_network_are_those_of_the_equalised_network():
    """One scale a tensor, and channels of very different sizes: on the network as it was these weights mean nothing."""
    graph, x = separable()
    wanted = evaluate(graph, x)[graph.output]
    error = {}
    for equalised in ("false", "true"):
        how = load_quantization("int8_per_tensor", [f"equalization.weights={equalised}"])
        found = evaluate(with_quantized_weights(graph, quantize(graph, x, how), how), x)[graph.output]
        error[equalised] = float(np.sqrt(np.square(found - wanted).mean()) / wanted.std())
    assert error["true"] < min(0.05, error["false"])


def test_nearest_is_kept_where_it_is_exact():
    _, x, how = layer_problem(4)
    codes = np.random.default_rng(0).integers(-7, 8, (1, 8, 48))
    rows = x[None].astype(np.float32)
    exact = Problem(
        rows=rows,
        wanted=(rows[0] @ codes[0].T.astype(np.float32)),
        weight=codes.astype(np.float64),
        nearest=codes,
        scale=np.ones(8),
        zero_point=0,
        limits=(-7, 7),
        bias=np.zeros(8),
        activation=None,
    )
    assert np.array_equal(solve(exact, how.weight.adaround_iterations, 0), codes)


def test_given_weights_are_checked():
    graph, x, how = layer_problem(4)
    ranges = calibrate(graph, x)
    for given, said in (
        ({"fc": np.zeros((8, 48))}, "one: fc: weights are float64 (8, 48), not int64 (8, 48)"),
        ({"fc": np.full((8, 48), 9)}, "one: fc: weights hold 9..9, outside -7..7"),
        ({"fd": np.zeros((8, 48), int)}, "one: weights names 'fd', which is no convolution or linear layer; "),
    ):
        with pytest.raises(InputError) as refused:
            lower(graph, ranges, how, weights=given)
        assert str(refused.value).startswith(said)


# --- the whole of it ---------------------------------------------------------------------------------------------


def test_data_free_beats_per_tensor_min_max_without_data():
    graph, x = separable()
    nodes = []
    for node in graph.nodes:  # an average pool in place of the max pool, whose mean nothing tells
        if node.name == "pool":
            fields = {key: getattr(node, key) for key in ("name", "inputs", "shape", "source", "kernel", "stride")}
            node = FloatAvgPool2d(**fields, padding=(0, 0, 0, 0), count_include_pad=True)
        nodes.append(node)
    graph = dataclasses.replace(graph, nodes=tuple(nodes))
    expected = evaluate(graph, x)[graph.output]
    plain = quantize(graph, x, load_quantization("affine", ["weight.granularity=tensor", "weight.bits=6"]))
    repaired = quantize(graph, x, load_quantization("data_free", ["weight.bits=6"]))
    error = [np.square(reals(one, x) - expected).mean() for one in (plain, repaired)]
    assert error[1] < error[0] / 2


def test_every_step_is_a_legal_graph_that_compiles_and_quantisation_repeats_itself():
    graph, x = separable()
    how = load_quantization(
        "int8",
        [
            *("weight.bits=4", "weight.rounding=adaround", "weight.adaround_iterations=20", "weight.range=mse"),
            *("activation.range=percentile", "activation.logits=cross_entropy", "activation.symmetric=false"),
            *("equalization.weights=true", "equalization.absorb_bias=true", "bias.correction=empirical"),
        ],
    )
    first, second = (quantize(graph, x, how) for _ in range(2))
    assert graph_digest(first) == graph_digest(second)
    assert compile_graph(first, load_hardware("edge_8x8"), 1).layers
