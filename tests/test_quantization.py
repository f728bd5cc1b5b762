"""Post-training quantisation: scales, integers and multipliers against hand computation, fusion, layouts, accuracy."""

import dataclasses
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from accelsim.config import QuantizationScheme, load_quantization, preset_folder, preset_names
from accelsim.errors import InputError
from accelsim.frontend import capture
from accelsim.ir.float_graph import (
    FloatActivation,
    FloatAdd,
    FloatAvgPool2d,
    FloatConv2d,
    FloatFlatten,
    FloatGraph,
    FloatInput,
    FloatLinear,
    FloatMaxPool2d,
)
from accelsim.ir.integer_graph import Clip, Mac
from accelsim.ir.reference import evaluate as evaluate_integers
from accelsim.ir.reference import quantize_input
from accelsim.numerics import Arithmetic, IntFormat, Requantization, Rounding, Scheme
from accelsim.quantization import CalibrationWarning, Range, calibrate, evaluate, lower, observe, quantize
from accelsim.quantization.scales import activation_scale, quantize_weight
from accelsim.quantization.tables import FUNCTIONS, TableCodes, input_limits, output_scale, tabulate

WIDE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=16, dataflow="ws")


def scheme(**sections):
    """A scheme from what differs from the default, as a file would say it."""
    return QuantizationScheme.model_validate(sections)


def random_array(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def chain(*nodes, name="net"):
    """A float graph in which each node reads the one before unless it names its inputs."""
    linked, before = [], ()
    for node in nodes:
        linked.append(node if node.inputs or not before else dataclasses.replace(node, inputs=before))
        before = (node.name,)
    return FloatGraph(name, tuple(linked), linked[-1].name)


def source(*shape):
    return FloatInput(name="input", inputs=(), shape=shape)


def linear(name, weight, bias=None):
    weight = np.asarray(weight, dtype=np.float64)
    bias = None if bias is None else np.asarray(bias, dtype=np.float64)
    return FloatLinear(name=name, inputs=(), shape=(weight.shape[0],), weight=weight, bias=bias)


def conv(name, weight, shape, bias=None, padding=0):
    return FloatConv2d(
        name=name,
        inputs=(),
        shape=shape,
        weight=weight,
        bias=bias,
        stride=(1, 1),
        padding=(padding,) * 4,
        dilation=(1, 1),
        groups=1,
    )


def activation(kind, name, shape, inputs=()):
    return FloatActivation(name=name, inputs=inputs, shape=shape, kind=kind)


def run(graph, x):
    """Codes of every node, and the result in PyTorch's order as reals."""
    codes = evaluate_integers(graph, quantize_input(graph, x), WIDE).tensors
    last = graph.by_name[graph.output].output
    return codes, last.scale * (graph.to_pytorch(codes[graph.output]) - last.zero_point)


def sqnr(expected, got):
    """Signal to quantisation noise, dB."""
    assert expected.shape == got.shape
    return 10 * math.log10(np.square(expected).sum() / np.square(expected - got).sum())


# --- one linear layer, by hand -----------------------------------------------------------------------------------

# Every scale is a power of two, so every figure below can be checked on paper.
HAND = chain(source(2), linear("fc", [[127 / 128, -0.5], [0.25, 127 / 256]], bias=[0.5, -0.3]))
HAND_RANGES = {"input": Range(-127 / 64, 1.0), "fc": Range(-1.0, 127 / 16)}


def test_symmetric_linear_layer_by_hand():
    graph = lower(HAND, HAND_RANGES, scheme())
    fc = graph.by_name["fc"]
    # S_x = 1/64, S_w = 1/128 and 1/256, S_y = 1/16.
    assert (graph.input.output.scale, graph.input.output.zero_point) == (1 / 64, 0)
    assert (fc.output.scale, fc.output.zero_point) == (1 / 16, 0)
    assert fc.weight.tolist() == [[127, -64], [64, 127]]
    # 0.5 * 64 * 128 = 4096; -0.3 * 64 * 256 = -4915.2.
    assert fc.bias.tolist() == [4096, -4915]
    # M = 1/512 = 0.5 * 2**-8 and 1/1024 = 0.5 * 2**-9.
    assert fc.multiplier.real.tolist() == [1 / 512, 1 / 1024]
    assert fc.multiplier.m0.tolist() == [1 << 30, 1 << 30]
    assert fc.multiplier.shift.tolist() == [8, 9]
    assert fc.clip == (-128, 127)
    codes, _ = run(graph, np.array([[1.0, -0.5]]))
    # q_x = 64, -32: (8128 + 2048 + 4096) / 512 = 27.875; (4096 - 4064 - 4915) / 1024 = -4.77.
    assert codes["fc"].ravel().tolist() == [28, -5]


def test_affine_linear_layer_by_hand():
    ranges = {"input": Range(-0.5, 3.484375), "fc": Range(-2.0, 13.9375)}
    affine = {"activation": {"symmetric": False}}
    folded = lower(HAND, ranges, scheme(**affine)).by_name["fc"]
    kept = lower(HAND, ranges, scheme(**affine, zero_points="subtracted"))
    # S_x = 3.984375 / 255 = 1/64 and Z_x = -128 + 32; S_y = 15.9375 / 255 = 1/16 and Z_y = -128 + 32.
    assert (kept.input.output.scale, kept.input.output.zero_point) == (1 / 64, -96)
    assert (folded.output.scale, folded.output.zero_point) == (1 / 16, -96)
    assert kept.by_name["fc"].bias.tolist() == [4096, -4915]
    # -Z_x * sum(q_w) = 96 * 63 and 96 * 191.
    assert folded.bias.tolist() == [4096 + 96 * 63, -4915 + 96 * 191]


def test_affine_weights_by_hand():
    graph = chain(source(2), linear("fc", [[-0.5, 3.484375], [0.0, 1.0]]))
    ranges = {"input": Range(-127 / 64, 1.0), "fc": Range(-1.0, 127 / 16)}
    lowered = lower(
        graph, ranges, scheme(weight={"symmetric": False, "granularity": "tensor"}, zero_points="subtracted")
    )
    fc = lowered.by_name["fc"]
    assert fc.weight_zero_point == -96  # stands for weight 0
    assert fc.weight.tolist() == [[-128, 127], [-96, -32]]
    assert fc.multiplier.real.tolist() == [1 / 256, 1 / 256]  # (1/64 * 1/64) / (1/16), one scale for the tensor


def test_multiplier_is_computed_in_float64_from_left_to_right():
    graph = chain(source(3), linear("fc", random_array(4, 3)))
    ranges = {"input": Range(-1.1, 0.3), "fc": Range(-0.7, 2.3)}
    fc = lower(graph, ranges, scheme()).by_name["fc"]
    how = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
    for channel in range(4):
        scale = np.abs(graph.by_name["fc"].weight[channel]).max() / 127
        real = ((1.1 / 127) * scale) / (2.3 / 127)
        assert fc.multiplier.real[channel] == real
        assert (fc.multiplier.m0[channel], fc.multiplier.shift[channel]) == how.derive(real)


# --- scales ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [IntFormat(8), IntFormat(8, signed=False), IntFormat(4), IntFormat(2)])
@pytest.mark.parametrize("low, high", [(-1.0, 3.0), (0.5, 3.0), (-3.0, -0.5), (-0.001, 7.0), (0.0, 1.0)])
def test_affine_range_maps_on_the_whole_format_and_zero_is_exact(form, low, high):
    scale, zero = activation_scale(Range(low, high), form, symmetric=False)
    assert form.minimum <= zero <= form.maximum
    # Z is rounded, so either end may be lost by half a step.
    assert scale * (form.minimum - zero) <= min(low, 0.0) + scale / 2
    assert scale * (form.maximum - zero) >= max(high, 0.0) - scale / 2


def test_affine_zero_point_rounds_half_to_even():
    # low / S = -0.5 and -1.5 steps: Z = -127.5 and -126.5 before rounding.
    assert activation_scale(Range(-0.5, 254.5), IntFormat(8), symmetric=False) == (1.0, -128)
    assert activation_scale(Range(-1.5, 253.5), IntFormat(8), symmetric=False) == (1.0, -126)


@pytest.mark.parametrize("seen", [Range(0.0, 0.0), Range(0.0, 1e-310)])
def test_a_tensor_that_is_constantly_zero_gets_scale_one(seen):
    assert activation_scale(seen, IntFormat(8), symmetric=True) == (1.0, 0)
    assert activation_scale(seen, IntFormat(8), symmetric=False) == (1.0, -128)
    assert activation_scale(seen, IntFormat(8, signed=False), symmetric=False) == (1.0, 0)


@pytest.mark.parametrize(
    "full_range, expected, scale",
    [(False, [-127, -64, 0, 127], 1 / 127), (True, [-128, -64, 0, 127], 1 / 127.5)],
)
def test_weights_use_the_restricted_range_unless_the_full_one_is_asked_for(full_range, expected, scale):
    weight = np.array([[-1.0, -0.5, 0.0, 1.0]])
    got = quantize_weight(weight, scheme(weight={"full_range": full_range}).weight, if_zero=1.0)
    assert got.values.tolist() == [expected]
    assert got.scale.tolist() == [scale]


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_weight_width_uses_its_largest_code(bits):
    weight = random_array(5, 7)
    got = quantize_weight(weight, scheme(weight={"bits": bits}).weight, if_zero=1.0)
    assert np.abs(got.values).max(axis=1).tolist() == [2 ** (bits - 1) - 1] * 5
    np.testing.assert_allclose(got.values * got.scale[:, None], weight, atol=got.scale.max() / 2)


def test_per_tensor_weights_share_the_largest_scale():
    weight = random_array(5, 7)
    got = quantize_weight(weight, scheme(weight={"granularity": "tensor"}).weight, if_zero=1.0)
    assert got.scale.tolist() == [np.abs(weight).max() / 127] * 5


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_a_channel_of_zero_weights_still_carries_its_bias(granularity):
    """M is 1: the bias counts steps of the output."""
    weight = np.zeros((2, 3))
    if granularity == "channel":
        weight[0] = [1.0, 2.0, 3.0]
    graph = chain(source(3), linear("fc", weight, bias=[0.25, -1.5]))
    x = random_array(50, 3)
    lowered = quantize(graph, x, scheme(weight={"granularity": granularity}))
    fc = lowered.by_name["fc"]
    assert fc.multiplier.real[1] == pytest.approx(1.0, abs=1e-15)
    assert (fc.multiplier.m0[1], fc.multiplier.shift[1]) == (1 << 30, -1)
    _, got = run(lowered, x)
    assert np.abs(got[:, 1] + 1.5).max() <= fc.output.scale / 2


def test_a_network_of_zeros_stays_zero():
    graph = chain(source(3), linear("fc", np.zeros((2, 3))))
    lowered = quantize(graph, np.zeros((2, 3)), scheme())
    assert [node.output.scale for node in lowered.nodes] == [1.0, 1.0]
    assert not run(lowered, np.zeros((2, 3)))[1].any()


def test_a_nearly_dead_channel_gets_a_scale_that_its_bias_and_multiplier_fit():
    """As BN folding leaves them: weights of 1e-12 beside ordinary ones, with and without a bias."""
    weight = random_array(3, 4)
    weight[1:] *= 1e-12
    graph = chain(source(4), linear("fc", weight, bias=[0.1, 2.0, 0.0]))
    x = random_array(100, 4)
    lowered = quantize(graph, x, scheme())
    _, got = run(lowered, x)
    assert np.abs(got - evaluate(graph, x)["fc"])[:, 1:].max() <= lowered.by_name["fc"].output.scale / 2


# --- power of two ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_power_of_two_makes_every_multiplier_a_shift(granularity, symmetric):
    x = random_array(20, 3, 8, 8)
    lowered = quantize(
        capture(ResidualNet(), torch.zeros(1, 3, 8, 8)),
        x,
        scheme(
            requantization={"scheme": "power_of_two"},
            weight={"granularity": granularity},
            activation={"symmetric": symmetric},
        ),
    )
    for node in lowered.nodes:
        assert math.frexp(node.output.scale)[0] == 0.5
        multipliers = [node.multiplier] if isinstance(node, Mac) else getattr(node, "multipliers", [])
        for multiplier in multipliers:
            assert set(multiplier.m0.tolist()) == {1}
            assert (multiplier.real == 2.0**-multiplier.shift).all()


def test_power_of_two_rounds_scales_up_so_that_nothing_clips():
    weight = random_array(4, 6)
    exact = quantize_weight(weight, scheme().weight, if_zero=1.0)
    shifted = quantize_weight(weight, scheme().weight, if_zero=1.0, power_of_two=True)
    assert ((exact.scale <= shifted.scale) & (shifted.scale < 2 * exact.scale)).all()


def test_float32_scales_are_rounded_before_zero_points_and_codes():
    weight = random_array(4, 6)
    exact = quantize_weight(weight, scheme().weight, if_zero=1.0)
    single = quantize_weight(weight, scheme().weight, if_zero=1.0, single=True)
    assert (single.scale == exact.scale.astype(np.float32)).all()
    assert (single.scale != exact.scale).any()
    assert (single.values == np.clip(np.rint(weight / single.scale[:, None]), -127, 127)).all()
    for low, high in ((-1.37, 2.11), (-0.3, 0.2), (0.0, 7.7)):
        scale, zero_point = activation_scale(Range(low, high), IntFormat(8), symmetric=False, single=True)
        assert scale == float(np.float32((high - low) / 255))
        assert zero_point == min(max(round(-128 - low / scale), -128), 127)
    assert activation_scale(Range(0.0, 1e-40), IntFormat(8), symmetric=True, single=True) == (1.0, 0)
    assert quantize_weight(np.full((1, 2), 1e-40), scheme().weight, if_zero=0.5, single=True).scale.tolist() == [0.5]
    with pytest.raises(ValueError, match=r"^a weight scale is beyond float32; set scale_format = 'float64'$"):
        quantize_weight(np.full((1, 2), 1e300), scheme().weight, if_zero=1.0, single=True)


def test_multiplier_in_float32_is_the_product_of_float32_scales_rounded_twice():
    graph = chain(source(3), linear("fc", random_array(64, 3)))
    ranges = {"input": Range(-1.1, 0.3), "fc": Range(-0.7, 2.3)}
    how = {"scheme": "float32", "multiplier_arithmetic": "float32"}
    fc = lower(graph, ranges, scheme(scale_format="float32", requantization=how)).by_name["fc"]
    x, y = np.float32(1.1 / 127), np.float32(2.3 / 127)
    w = (np.abs(graph.by_name["fc"].weight).max(axis=1) / 127).astype(np.float32)
    assert fc.multiplier.real.tolist() == [float(np.float32(np.float32(x * one) / y)) for one in w]
    in_double = np.float64(x) * w.astype(np.float64) / np.float64(y)
    assert (fc.multiplier.real != in_double.astype(np.float32)).any()


# --- fusion ------------------------------------------------------------------------------------------------------


class ResidualNet(nn.Module):
    """Batch norm, a sum behind a fork, depthwise convolution, ReLU6, pools, flatten, linear."""

    def __init__(self, seed=1):
        torch.manual_seed(seed)
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.branch = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.pool = nn.MaxPool2d(2)
        self.wide = nn.Conv2d(6, 10, (3, 2), stride=(1, 2), padding=(1, 0))
        self.average = nn.AvgPool2d(2, padding=1, count_include_pad=False)
        self.fc = nn.Linear(10 * 3 * 2, 5)
        self.norm.running_mean = torch.randn(6) / 4
        self.norm.running_var = torch.rand(6) + 0.5
        self.eval()

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.branch(x) + x)
        x = functional.relu6(self.wide(self.pool(x)))
        return self.fc(self.average(x).flatten(1))


def structure(graph):
    return [(node.name, node.op, node.inputs) for node in graph.nodes]


def test_activations_become_clips_of_the_operation_before_and_flatten_leaves_no_node():
    graph = quantize(capture(ResidualNet(), torch.zeros(1, 3, 8, 8)), random_array(20, 3, 8, 8), scheme())
    assert structure(graph) == [
        ("input", "input", ()),
        ("stem", "conv2d", ("input",)),
        ("branch", "conv2d", ("stem",)),
        ("add_1", "add", ("branch", "stem")),
        ("pool", "max_pool2d", ("add_1",)),
        ("wide", "conv2d", ("pool",)),
        ("average", "avg_pool2d", ("wide",)),
        ("fc", "linear", ("average",)),
    ]
    assert graph.by_name["stem"].source == "stem (aten.conv2d)"
    assert graph.by_name["stem"].clip == graph.by_name["add_1"].clip == (0, 127)
    assert graph.by_name["branch"].clip == graph.by_name["fc"].clip == (-128, 127)
    assert graph.by_name["pool"].output.scale == graph.by_name["add_1"].output.scale
    assert (graph.output, graph.output_shape) == ("fc", (5,))


@pytest.mark.parametrize("symmetric", [True, False])
def test_relu6_clips_at_six_in_units_of_the_output(symmetric):
    graph = chain(source(1), linear("fc", [[1.0]]), activation("relu6", "relu6", (1,)))
    ranges = {"input": Range(-9.0, 9.0), "fc": Range(-9.0, 9.0), "relu6": Range(0.0, 6.0)}
    fc = lower(graph, ranges, scheme(activation={"symmetric": symmetric})).by_name["fc"]
    # The range after the activation decides S_y, so 6 is the largest code.
    assert fc.clip == ((0, 127) if symmetric else (-128, 127))
    ranges["relu6"] = Range(0.0, 12.75)  # a range method may be wider than the data
    fc = lower(graph, ranges, scheme(activation={"symmetric": symmetric})).by_name["fc"]
    # S_y = 12.75 / 127: 6 is 59.8 steps; S_y = 12.75 / 255 = 0.05: 6 is 120 steps from Z_y = -128.
    assert fc.clip == ((0, 60) if symmetric else (-128, -8))


def test_range_of_a_fused_node_is_that_after_its_activation():
    graph = chain(source(1), linear("fc", [[1.0]]), activation("relu", "relu", (1,)))
    ranges = {"input": Range(-9.0, 1.0), "fc": Range(-9.0, 127 / 64), "relu": Range(0.0, 127 / 64)}
    assert lower(graph, ranges, scheme()).by_name["fc"].output.scale == 1 / 64


def test_an_activation_that_is_not_the_only_reader_is_a_node_of_its_own():
    graph = chain(
        source(2),
        linear("fc", random_array(3, 2)),
        activation("relu", "relu", (3,)),
        FloatAdd(name="add", inputs=("fc", "relu"), shape=(3,)),
    )
    lowered = quantize(graph, random_array(9, 2), scheme(activation={"symmetric": False}))
    assert [node.op for node in lowered.nodes] == ["input", "linear", "clip", "add"]
    fc, relu = lowered.by_name["fc"], lowered.by_name["relu"]
    assert relu.output == fc.output
    assert relu.clip == (fc.output.zero_point, 127)
    assert fc.clip == (-128, 127)


def test_an_activation_is_not_fused_into_the_operation_that_gives_the_result():
    nodes = (source(2), linear("fc", random_array(3, 2)), activation("relu", "relu", (3,), ("fc",)))
    graph = FloatGraph("net", (nodes[0], dataclasses.replace(nodes[1], inputs=("input",)), nodes[2]), "fc")
    assert [node.op for node in quantize(graph, random_array(9, 2), scheme()).nodes] == ["input", "linear", "clip"]


def test_a_second_activation_is_not_fused_and_a_relu_behind_a_pool_neither():
    weight = random_array(2, 1, 3, 3)
    graph = chain(
        source(1, 6, 6),
        conv("conv", weight, (2, 4, 4)),
        activation("relu", "first", (2, 4, 4)),
        activation("relu6", "second", (2, 4, 4)),
        FloatMaxPool2d(name="pool", inputs=(), shape=(2, 2, 2), kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)),
        activation("relu", "third", (2, 2, 2)),
    )
    lowered = quantize(graph, random_array(9, 1, 6, 6), scheme())
    assert [(node.name, node.op) for node in lowered.nodes] == [
        ("input", "input"),
        ("conv", "conv2d"),
        ("second", "clip"),
        ("pool", "max_pool2d"),
        ("third", "clip"),
    ]


@pytest.mark.parametrize("preset", ["int8", "affine", "uint8", "power_of_two"])
def test_fusion_changes_no_bit(preset):
    """A clip inside the node equals a node without one and a Clip node behind it."""
    net = capture(ResidualNet(), torch.zeros(1, 3, 8, 8))
    x = random_array(12, 3, 8, 8)
    graph = quantize(net, x, load_quantization(preset))
    codes = quantize_input(graph, x)
    fused = evaluate_integers(graph, codes, WIDE).tensors
    nodes = []
    for node in graph.nodes:
        inputs = tuple(f"{name} clip" if f"{name} clip" in {n.name for n in nodes} else name for name in node.inputs)
        node = dataclasses.replace(node, inputs=inputs)
        if getattr(node, "clip", graph.activation.limits) == graph.activation.limits:
            nodes.append(node)
        else:
            nodes.append(dataclasses.replace(node, clip=graph.activation.limits))
            nodes.append(Clip(name=f"{node.name} clip", inputs=(node.name,), output=node.output, clip=node.clip))
    apart = evaluate_integers(dataclasses.replace(graph, nodes=tuple(nodes)), codes, WIDE).tensors
    for name in fused:
        assert np.array_equal(fused[name], apart.get(f"{name} clip", apart[name])), name


# --- flatten and layouts -----------------------------------------------------------------------------------------


def test_columns_of_a_linear_layer_are_permuted_from_chw_to_hwc():
    channels, height, width = 2, 3, 4
    weight = random_array(5, channels * height * width)
    graph = chain(
        source(channels, height, width),
        FloatFlatten(name="flatten", inputs=(), shape=(24,)),
        linear("fc", weight),
    )
    lowered = quantize(graph, random_array(8, channels, height, width), scheme(weight={"granularity": "tensor"}))
    assert lowered.input.output.shape == (height, width, channels)
    got = lowered.by_name["fc"].weight
    codes = np.rint(weight / (np.abs(weight).max() / 127))
    for c in range(channels):
        for h in range(height):
            for w in range(width):
                assert (
                    got[:, (h * width + w) * channels + c].tolist()
                    == codes[:, (c * height + h) * width + w].astype(int).tolist()
                )


def flatten(*size):
    return FloatFlatten(name="flatten", inputs=(), shape=size)


@pytest.mark.parametrize(
    "tail",
    [
        [flatten(18)],
        [flatten(18), activation("relu", "relu", (18,))],
        [flatten(18), activation("tanh", "tanh", (18,))],
        [flatten(18), FloatAdd(name="twice", inputs=("flatten", "flatten"), shape=(18,))],
        [flatten(18), activation("relu", "relu", (18,)), linear("fc", random_array(4, 18))],
        [
            FloatAvgPool2d(
                name="pool",
                inputs=(),
                shape=(2, 1, 1),
                kernel=(3, 3),
                stride=(3, 3),
                padding=(0, 0, 0, 0),
                count_include_pad=True,
            ),
            flatten(2),
            linear("fc", random_array(4, 2)),
        ],
    ],
    ids=["output", "relu", "tanh", "add", "relu linear", "one pixel"],
)
def test_flatten_anywhere_keeps_the_order_of_pytorch(tail):
    graph = chain(source(1, 5, 5), conv("conv", random_array(2, 1, 3, 3), (2, 3, 3)), *tail)
    x = random_array(40, 1, 5, 5)
    lowered = quantize(graph, x, scheme(activation={"symmetric": False}))
    assert "flatten" not in lowered.by_name
    _, got = run(lowered, x)
    assert sqnr(evaluate(graph, x)[graph.output], got) > 30


def test_the_input_itself_may_be_flattened_and_returned():
    graph = chain(source(2, 3, 4), flatten(24))
    x = random_array(3, 2, 3, 4)
    _, got = run(quantize(graph, x, scheme()), x)
    assert np.abs(got - x.reshape(3, 24)).max() <= np.abs(x).max() / 127


def test_sum_of_a_flattened_image_and_a_vector_is_refused():
    graph = chain(
        source(2, 2, 2),
        flatten(8),
        linear("fc", random_array(8, 8)),
        FloatAdd(name="add", inputs=("flatten", "fc"), shape=(8,)),
    )
    with pytest.raises(InputError) as caught:
        quantize(graph, random_array(8, 2, 2, 2), scheme())
    assert str(caught.value) == (
        "net: add: adds a flattened image (H, W, C) = (2, 2, 2) and (1, 1, 8), whose elements are stored in different "
        "orders; add before flattening"
    )


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, exact", [("tanh", math.tanh), ("sigmoid", lambda x: 1 / (1 + math.exp(-x)))])
@pytest.mark.parametrize("form", [IntFormat(8), IntFormat(8, signed=False), IntFormat(4)])
def test_table_holds_the_rounded_function_of_every_code(kind, exact, form):
    origin, target = (0.05, 3), TableCodes(*output_scale(kind, form, symmetric=False), form.limits)
    entries = tabulate(kind, form, origin, target)
    assert entries.shape == (2**form.bits,)
    for position, entry in enumerate(entries.tolist()):
        real = exact(origin[0] * (form.minimum + position - origin[1]))
        code = round(real / target[0]) + target[1]
        assert entry == min(max(code, form.minimum), form.maximum)


@pytest.mark.parametrize(
    "kind, form, symmetric, expected",
    [
        ("tanh", IntFormat(8), True, (1 / 128, 0)),
        ("tanh", IntFormat(8), False, (1 / 128, 0)),
        ("tanh", IntFormat(8, signed=False), False, (1 / 128, 128)),
        ("sigmoid", IntFormat(8), True, (1 / 128, 0)),
        ("sigmoid", IntFormat(8), False, (1 / 256, -128)),
        ("sigmoid", IntFormat(8, signed=False), False, (1 / 256, 0)),
        ("tanh", IntFormat(4), True, (1 / 8, 0)),
    ],
)
def test_output_scale_of_a_table_is_fixed_by_its_format(kind, form, symmetric, expected):
    assert output_scale(kind, form, symmetric=symmetric) == expected


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_cutting_the_range_before_a_table_loses_no_output(kind, symmetric, bits):
    """The end codes of the cut range give the same entries as any input beyond it."""
    form = IntFormat(bits)
    target = TableCodes(*output_scale(kind, form, symmetric=symmetric), form.limits)
    limits = input_limits([(kind, target)], form)
    origin = activation_scale(limits, form, symmetric=symmetric)
    entries = tabulate(kind, form, origin, target)
    beyond = np.rint(FUNCTIONS[kind].value(np.array([-1e3, 1e3])) / target[0]) + target[1]
    assert [entries[0], entries[-1]] == np.clip(beyond, form.minimum, form.maximum).tolist()


def test_only_a_tensor_that_nothing_but_tables_reads_is_cut():
    def graph(*tail):
        return chain(source(1), linear("fc", [[1.0]]), activation("tanh", "tanh", (1,)), *tail)

    alone, shared = graph(), graph(FloatAdd(name="add", inputs=("fc", "tanh"), shape=(1,)))
    x = np.array([[-100.0], [100.0]])
    cut = quantize(alone, x, scheme()).by_name["fc"].output.scale
    assert cut == -input_limits([("tanh", TableCodes(1 / 128, 0, (-128, 127)))], IntFormat(8)).low / 127
    assert quantize(shared, x, scheme()).by_name["fc"].output.scale == 100 / 127
    wrapping = scheme(requantization={"output_overflow": "wrap"})
    assert quantize(alone, x, wrapping).by_name["fc"].output.scale == 100 / 127


def test_tanh_and_sigmoid_become_tables_behind_their_layer():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 10), nn.Sigmoid())
    x = 3 * random_array(200, 20)
    graph = capture(net, torch.zeros(1, 20))
    lowered = quantize(graph, x, scheme())
    assert [(node.name, node.op) for node in lowered.nodes] == [
        ("input", "input"),
        ("0", "linear"),
        ("1", "table"),
        ("2", "linear"),
        ("3", "table"),
    ]
    assert [lowered.by_name[name].function for name in ("1", "3")] == ["tanh", "sigmoid"]
    assert sqnr(evaluate(graph, x)["3"], run(lowered, x)[1]) > 35


# --- accuracy of whole networks ----------------------------------------------------------------------------------


def plain_net():
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, dilation=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(72, 10),
    )


# data_free refuses networks without batch norm; tests/test_quantization_repair.py has one for it.
@pytest.mark.parametrize("preset", [name for name in preset_names("quantization") if name != "data_free"])
@pytest.mark.parametrize("make, shape", [(ResidualNet, (3, 8, 8)), (plain_net, (1, 18, 18))])
def test_integers_follow_the_float_network(preset, make, shape):
    graph = capture(make(), torch.zeros(1, *shape))
    x = random_array(64, *shape)
    # A preset may narrow the accumulators of one network's layers by name; this is another network.
    how = load_quantization(preset).model_copy(update={"accumulator_width_bits": {}, "layers": {}})
    how = how.model_copy(update={"weight": how.weight.model_copy(update={"adaround_iterations": 100})})  # for time
    _, got = run(quantize(graph, x, how), x)
    # 8 bits give about 6 dB each, less what ranges waste and layers add up. Floor's error is spread over 0..1 step,
    # rms 1/sqrt(3) instead of 1/sqrt(12): 6 dB less.
    least = 20 if how.requantization.rounding == "floor" else 25
    if (
        how.activation.fraction_bits is not None
    ):  # steps of 1/16 for outputs of about 0.25: 5 dB a bit, and two or three
        least = 10
    least -= 6 * (8 - min(how.weight.bits, how.activation.bits))
    assert sqnr(evaluate(graph, x)[graph.output], got) > least


@pytest.mark.parametrize("weight", [{"granularity": "channel"}, {"granularity": "tensor"}])
def test_folded_zero_points_equal_subtracted_ones_bit_for_bit_where_nothing_overflows(weight):
    """Padding included: it feeds Z_x where folded, and nothing where subtracted."""
    net = capture(ResidualNet(), torch.zeros(1, 3, 8, 8))
    x = random_array(16, 3, 8, 8)
    folded, subtracted = (
        quantize(net, x, scheme(activation={"symmetric": False}, weight=weight, zero_points=mode))
        for mode in ("folded", "subtracted")
    )
    assert folded.by_name["branch"].output.zero_point != 0
    assert any(folded.by_name["stem"].bias != subtracted.by_name["stem"].bias)
    left, right = run(folded, x)[0], run(subtracted, x)[0]
    assert left.keys() == right.keys()
    for name in left:
        assert np.array_equal(left[name], right[name]), name


@pytest.mark.parametrize("how", ["reciprocal", "float32", "float64", "fixed_point"])
def test_every_requantisation_scheme_quantises(how):
    graph = capture(plain_net(), torch.zeros(1, 1, 18, 18))
    x = random_array(16, 1, 18, 18)
    _, got = run(quantize(graph, x, scheme(requantization={"scheme": how})), x)
    # M is far below 1 in these layers, so that even an integer reciprocal is precise.
    assert sqnr(evaluate(graph, x)[graph.output], got) > 25


def test_quantisation_is_determinate():
    graph = capture(ResidualNet(), torch.zeros(1, 3, 8, 8))
    x = random_array(16, 3, 8, 8)
    first, second = (quantize(graph, x, scheme()) for _ in range(2))
    for one, other in zip(first.nodes, second.nodes, strict=True):
        assert one.output == other.output
        if isinstance(one, Mac):
            assert np.array_equal(one.weight, other.weight)
            assert np.array_equal(one.bias, other.bias)
            assert np.array_equal(one.multiplier.real, other.multiplier.real)


# --- observing ---------------------------------------------------------------------------------------------------


def test_batches_do_not_change_values_or_ranges(monkeypatch):
    graph = capture(ResidualNet(), torch.zeros(1, 3, 8, 8))
    x = random_array(7, 3, 8, 8)
    values, ranges = evaluate(graph, x), calibrate(graph, x)
    monkeypatch.setattr(observe, "BATCH_BYTES", 1)
    one_by_one = evaluate(graph, x)
    assert values.keys() == one_by_one.keys() == ranges.keys()
    for name in values:
        np.testing.assert_allclose(values[name], one_by_one[name], rtol=1e-12, atol=1e-12)
    assert calibrate(graph, x) == ranges


def test_ranges_are_float32_values_so_that_the_order_of_a_sum_cannot_reach_the_scales():
    graph = chain(source(1), linear("fc", [[1.0]]))
    ranges = calibrate(graph, np.array([[0.1], [-0.7]]))
    assert ranges["fc"] == Range(float(np.float32(-0.7)), float(np.float32(0.1)))


def test_another_range_method_slots_in():
    class Largest:
        def __init__(self):
            self.seen = []

        def see(self, values):
            self.seen.append(np.abs(values).max())

        def range(self):
            return Range(0.0, max(self.seen) / 2)

    graph = chain(source(1), linear("fc", [[2.0]]))
    assert calibrate(graph, np.array([[1.0], [-4.0]]), Largest) == {"input": Range(0.0, 2.0), "fc": Range(0.0, 4.0)}


def test_read_only_and_reversed_parameters_are_evaluated():
    weight = random_array(3, 2)[::-1]
    weight.setflags(write=False)
    x = random_array(4, 2)
    np.testing.assert_allclose(evaluate(chain(source(2), linear("fc", weight)), x)["fc"], x @ weight.T)


# --- refusals and warnings ---------------------------------------------------------------------------------------


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "calibration, reason",
    [
        (np.zeros((4, 1, 5)), "has shape (4, 1, 5); it must be (N, 1, 5, 5)"),
        (np.zeros((1, 5, 5)), "has shape (1, 5, 5); it must be (N, 1, 5, 5)"),
        (np.zeros((4, 5, 5, 1)), "has shape (4, 5, 5, 1); it must be (N, 1, 5, 5)"),
        (np.zeros((0, 1, 5, 5)), "is empty; give a hundred examples or more"),
        (np.full((2, 1, 5, 5), np.nan), "holds NaN or infinite values; remove them"),
        (np.full((2, 1, 5, 5), np.inf), "holds NaN or infinite values; remove them"),
        (np.full((2, 1, 5, 5), "a"), "has type <U1; it must hold real numbers"),
    ],
)
def test_bad_calibration_is_refused(calibration, reason):
    graph = chain(source(1, 5, 5), conv("conv", random_array(2, 1, 3, 3), (2, 3, 3)))
    assert refusal(quantize, graph, calibration, scheme()) == f"net: calibration {reason}"


def test_calibration_on_a_lone_example_warns():
    graph = chain(source(2), linear("fc", random_array(3, 2)))
    with pytest.warns(CalibrationWarning) as caught:
        quantize(graph, random_array(1, 2), scheme())
    assert [str(warning.message) for warning in caught] == [
        "net: calibration on a lone example gives ranges that other inputs leave; use a hundred or more"
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(graph, random_array(2, 2), scheme())


def test_integer_images_calibrate():
    graph = chain(source(2), linear("fc", random_array(3, 2)))
    assert quantize(graph, np.array([[0, 255], [3, 4]], dtype=np.uint8), scheme()).input.output.scale == 255 / 127


def test_values_beyond_float32_are_refused_with_the_layer():
    graph = chain(source(1), linear("fc", [[1e300]]))
    reason = "NaN or beyond float32 on the calibration data; repair weights or data"
    assert refusal(quantize, graph, np.array([[1.0], [2.0]]), scheme()) == f"net: fc: {reason}"


def test_accumulator_widths_reach_their_layers_and_unknown_names_are_refused():
    graph = capture(ResidualNet(), torch.zeros(1, 3, 8, 8), "net")
    x = random_array(4, 3, 8, 8)
    lowered = quantize(graph, x, scheme(accumulator_width_bits={"fc": 18, "stem": 20}))
    widths = {node.name: node.accumulator_width_bits for node in lowered.nodes if isinstance(node, Mac)}
    assert widths == {"stem": 20, "branch": None, "wide": None, "fc": 18}
    start = "net: accumulator_width_bits names"
    assert refusal(quantize, graph, x, scheme(accumulator_width_bits={"brunch": 18})) == (
        f"{start} 'brunch', which is no convolution or linear layer; did you mean 'branch'?"
    )
    assert refusal(quantize, graph, x, scheme(accumulator_width_bits={"pool": 18})) == (
        f"{start} 'pool', which is no convolution or linear layer; there are stem, branch, wide, fc"
    )


def test_a_bias_beyond_32_bits_is_refused_with_one_scale_per_tensor():
    graph = chain(source(1), linear("fc", [[1.0]], bias=[1e9]))
    ranges = {"input": Range(-1.0, 1.0), "fc": Range(0.0, 1e9)}
    message = refusal(lower, graph, ranges, scheme(weight={"granularity": "tensor"}))
    assert message == (
        "net: fc: bias 1e+09 of channel 0 is 1.6129e+13 steps of S_x * S_w = 6.20001e-05, beyond 32 bits; "
        "use weight.granularity = 'channel'"
    )


def test_a_multiplier_that_the_hardware_cannot_hold_is_refused():
    graph = chain(source(1), linear("fc", [[1.0]]))
    ranges = {"input": Range(-1.0, 1.0), "fc": Range(-(2.0**60), 2.0**60)}
    message = refusal(lower, graph, ranges, scheme(weight={"granularity": "tensor"}))
    assert message.startswith("net: fc: channel 0: multiplier M = 6.8")
    assert message.endswith("needs a shift by 97, outside -31..62; rescale the layer's weights")


def test_batch_norm_must_be_folded_first():
    graph = capture(ResidualNet(), torch.zeros(1, 3, 8, 8), "net", fold=False)
    assert refusal(quantize, graph, random_array(4, 3, 8, 8), scheme()) == (
        "net: norm (aten.batch_norm): batch norm is not folded; call accelsim.frontend.fold_batch_norm first"
    )


# --- shipped schemes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", preset_names("quantization"))
def test_a_shipped_scheme_says_what_it_is_and_where_it_comes_from(preset):
    lines = (preset_folder("quantization") / f"{preset}.toml").read_text().splitlines()
    comment = " ".join(itertools.takewhile(lambda line: line.startswith("#"), lines))
    assert comment.startswith("# ")
    assert "# Source: " in comment
    load_quantization(preset)  # it is legal


def test_int8_is_the_default_scheme():
    assert load_quantization("int8") == QuantizationScheme()
