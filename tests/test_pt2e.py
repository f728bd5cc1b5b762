"""Models of PyTorch's PT2E flow: our integers against the model's own operators, layer by layer."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.ao.quantization.fx._decomposed  # registers the operators
from quotients import exact_quotients, float32_error, to_nearest_tie
from torch import nn
from torch.nn import functional

from accelsim import workloads
from accelsim.cli import main
from accelsim.compiler import compile_graph
from accelsim.config import load_hardware, load_quantization
from accelsim.errors import InputError
from accelsim.explore.differences import count_differences
from accelsim.frontend import import_pt2e, read_pt2e
from accelsim.ir import (
    Add,
    AvgPool2d,
    Clip,
    Input,
    IntegerGraph,
    Mac,
    MaxPool2d,
    Table,
    evaluate,
    quantize_input,
)
from accelsim.pipeline import run_checked

ROOT = Path(__file__).resolve().parents[1]
ARITHMETIC = load_hardware("default_16x16", []).arithmetic()
Q, DQ = torch.ops.quantized_decomposed.quantize_per_tensor, torch.ops.quantized_decomposed.dequantize_per_tensor
DQC = torch.ops.quantized_decomposed.dequantize_per_channel


def examples():
    """The networks of docs/pt2e_models.py and what makes them."""
    pytest.importorskip("torchao")
    spec = importlib.util.spec_from_file_location("pt2e_models", ROOT / "docs" / "pt2e_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def converted(model, images, quantizer="xnnpack", qat=False):
    return examples().converted(model, images, quantizer, qat=qat)


@pytest.fixture(scope="module")
def digits():
    from accelsim.workloads.data import load_dataset

    return load_dataset("digits", None, "test", 24, size=32).images


@pytest.fixture(scope="module", params=["lenet-xnnpack", "lenet-x86", "resnet-xnnpack", "resnet-x86", "lenet-qat"])
def imported(request, digits):
    network, kind = request.param.split("-")
    torch.manual_seed(1)
    if network == "lenet":
        model, images = workloads.load("lenet5_digits").module, torch.tensor(digits, dtype=torch.float32)
    else:
        images = torch.rand(12, 3, 16, 16)
        model = examples().with_statistics(examples().ResNet(1, 8), images)
    program = converted(model, images, "x86" if kind == "x86" else "xnnpack", qat=kind == "qat")
    return read_pt2e(program, request.param, calibration=images.numpy()), images.numpy()[:6]


def alone(graph: IntegerGraph, node, codes):
    """One node's codes on given inputs, by a graph that holds nothing else (a sum's other operand is its own input)."""
    inputs = tuple(graph.by_name[name] for name in node.inputs)
    source = Input(name="x", inputs=(), output=inputs[0].output)
    one = replace(node, inputs=("x",) * len(inputs))
    small = replace(graph, nodes=(source, one), output=node.name, output_shape=(node.output.size,))
    return evaluate(small, codes, ARITHMETIC).tensors[node.name]


def test_a_layer_differs_from_pytorch_only_next_to_a_tie(imported):
    """Given PyTorch's own input codes, each side may leave the exact quotient's rounding by its own error, no more.

    Ours: the bias is rounded to S_x * S_w (half a step of the sum) and M to 31 bits. PyTorch's: K products and
    additions in float32, each within 2^-24 of its value, and three more roundings. Both are exact elsewhere.
    """
    model, images = imported
    theirs = model.reference_codes(images)
    graph = model.graph
    seen = 0
    for node in graph.nodes:
        if not isinstance(node, Mac):
            continue
        quotients, magnitude = exact_quotients(graph, node, theirs[node.inputs[0]])
        to_tie = to_nearest_tie(quotients)
        ideal = np.clip(np.rint(quotients) + node.output.zero_point, *node.clip)
        ours = alone(graph, node, theirs[node.inputs[0]])
        unlike = ours != ideal
        assert (to_tie[unlike] <= np.abs(quotients[unlike]) * 2.0**-30).all(), node.name
        error = 0.5 * node.multiplier.real + float32_error(node, magnitude)
        unlike = theirs[node.name] != ideal
        assert (to_tie[unlike] <= error[unlike]).all(), node.name
        assert np.abs(theirs[node.name] - ideal).max() <= 1, node.name
        assert unlike.mean() < 0.01, node.name
        seen += 1
    assert seen >= 5


def test_a_sum_is_off_by_one_at_most_and_other_nodes_not_at_all(imported):
    """Each operand of a sum is rounded here, the sum in PyTorch; of the others only a mean is rounded at all."""
    model, images = imported
    theirs, graph = model.reference_codes(images), model.graph
    for node in graph.nodes:
        if isinstance(node, MaxPool2d | Clip | Table):
            assert np.array_equal(alone(graph, node, theirs[node.inputs[0]]), theirs[node.name]), node.name
        elif isinstance(node, AvgPool2d):
            off = np.abs(alone(graph, node, theirs[node.inputs[0]]) - theirs[node.name])
            assert off.max() <= 1
            assert off.mean() < 0.02  # ties of the mean, which float32 may miss
        elif isinstance(node, Add):
            parts = []
            for name, multiplier in zip(node.inputs, node.multipliers, strict=True):
                parts.append((theirs[name] - graph.by_name[name].output.zero_point) * multiplier.real[0])
            ours = np.clip(np.rint(parts[0]) + np.rint(parts[1]) + node.output.zero_point, *node.clip)
            once = np.clip(np.rint(parts[0] + parts[1]) + node.output.zero_point, *node.clip)
            if "x86" in graph.name:  # PyTorch adds the convolution's float values, which have no codes there
                assert np.abs(ours - theirs[node.name]).max() <= 2
            else:
                assert (once != theirs[node.name]).mean() < 0.002, node.name
                assert np.abs(ours - theirs[node.name]).max() <= 1, node.name


def test_whole_networks_stay_close_and_run_on_the_machine_bit_for_bit(imported):
    model, images = imported
    graph = model.graph
    codes = quantize_input(graph, images)
    ours = evaluate(graph, codes, ARITHMETIC).tensors
    found = count_differences(ours, model.reference_codes(images))
    assert [d.node for d in found] == [node.name for node in graph.nodes]
    assert found[0].differing <= found[0].values // 100
    assert found[-1].largest <= 4
    if graph.name.startswith("lenet"):  # no sums: only ties differ
        assert all(d.differing <= d.values // 50 for d in found)
        assert [d.node for d in found] == ["input", "c1", "s2", "c3", "s4", "c5", "f6", "output"]
    program = compile_graph(graph, load_hardware("default_16x16", ["activation.memory_bytes=65536"]), 2)
    outcome = run_checked(program, graph, codes[:2])
    assert outcome.mismatch is None


def test_uint8_becomes_int8_128_lower(digits):
    """X86InductorQuantizer's codes are unsigned: ours have its scales, and zero points 128 lower."""
    images = torch.tensor(digits, dtype=torch.float32)
    made = converted(workloads.load("lenet5_digits").module, images, "x86")
    graph = import_pt2e(made, "lenet", calibration=images.numpy())
    stored = [node.args for node in made.graph.nodes if str(node.target)[-27:] == "quantize_per_tensor.default"]
    theirs = [(scale, zero) for _, scale, zero, low, high, dtype in stored if dtype == torch.uint8]
    assert {zero for _, zero in theirs} == {0}
    assert {(node.output.scale, node.output.zero_point + 128) for node in graph.nodes[:-1]} == set(theirs)


# By hand -------------------------------------------------------------------------------------------------------


def q(x, scale=0.05, zero=3, low=-128, high=127, dtype=torch.int8):
    return Q(x, scale, zero, low, high, dtype)


def dq(x, scale=0.05, zero=3, low=-128, high=127, dtype=torch.int8):
    return DQ(x, scale, zero, low, high, dtype)


def qdq(x, scale=0.05, zero=3, low=-128, high=127, dtype=torch.int8):
    return dq(q(x, scale, zero, low, high, dtype), scale, zero, low, high, dtype)


class Hand(nn.Module):
    """A function between operators written by hand, with the parameters of one layer."""

    def __init__(self, function, weight=None, zeros=None):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        shape = weight or (4, 3, 3, 3)
        self.register_buffer("weight", torch.randint(-127, 128, shape, dtype=torch.int8))
        self.register_buffer("scale", torch.rand(shape[0]) * 0.01 + 0.001)
        self.register_buffer("zeros", torch.zeros(shape[0], dtype=torch.int64) if zeros is None else zeros)
        self.register_buffer("bias", torch.rand(shape[0]) - 0.5)

    def kernel(self):
        return DQC(self.weight, self.scale, self.zeros, 0, -127, 127, torch.int8)

    def forward(self, x):
        return self.function(self, x)


def program(function, shape=(2, 3, 6, 6), dynamic=False, **options):
    batch = {0: torch.export.Dim("batch", min=1, max=64)} if dynamic else None
    shapes = {"x": batch} if dynamic else None
    return torch.export.export(Hand(function, **options), (torch.zeros(shape),), dynamic_shapes=shapes, strict=False)


FUNCTIONS = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardswish": functional.hardswish,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.1),
    "relu6": functional.relu6,
    "hardtanh": lambda x: functional.hardtanh(x, -1.5, 2.5),
    "neg": lambda x: -x,
    "mul": lambda x: x * 0.3 + 1.0,
    "silu of relu": lambda x: functional.silu(functional.relu(x)),
    "relu in place": lambda x: functional.relu_(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("target", [(0.05, 3), (0.02, -40)])
def test_functions_of_one_element_are_exact_at_every_code(name, target):
    """Between quantisers a function is its 256 values, whatever it is: every code gives PyTorch's code."""
    made = read_pt2e(
        program(lambda _, x: qdq(FUNCTIONS[name](qdq(x)), *target), (1, 16, 4, 4)), "f", load_quantization("int8", [])
    )
    every = ((np.arange(-128, 128) - 3) * np.float32(0.05)).reshape(1, 16, 4, 4)
    codes = quantize_input(made.graph, every)
    assert np.unique(codes).size == 256
    ours = evaluate(made.graph, codes, ARITHMETIC).tensors[made.graph.output]
    assert np.array_equal(ours, made.reference_codes(every)[made.graph.output])
    same = target == (0.05, 3)
    clamps = name in ("relu6", "hardtanh", "relu in place")
    assert isinstance(made.graph.nodes[-1], Clip if same and clamps else Table)


def test_limits_narrower_than_the_format_are_clips():
    """Quantisers with reduced ranges (0..127 of uint8) clamp there: the input by a node, a layer by its clip."""

    def function(hand, x):
        narrow = {"scale": 0.01, "zero": 0, "low": 0, "high": 127, "dtype": torch.uint8}
        return qdq(functional.relu(functional.conv2d(qdq(x, **narrow), hand.kernel(), hand.bias)), **narrow)

    made = read_pt2e(program(function), "narrow")
    assert [(node.name, getattr(node, "clip", None)) for node in made.graph.nodes[1:]] == [
        ("input_clip", (-128, -1)),
        ("conv2d_1", (-128, -1)),
    ]
    images = np.random.default_rng(0).uniform(-1, 3, (5, 3, 6, 6)).astype(np.float32)  # 5 of a batch fixed to 2
    ours = evaluate(made.graph, quantize_input(made.graph, images), ARITHMETIC).tensors
    theirs = made.reference_codes(images)
    assert theirs["conv2d_1"].shape == (5, 4, 4, 4)
    for found in count_differences({n: ours[n] for n in ("input_clip", "conv2d_1")}, theirs):
        assert found.differing <= found.values // 50
        assert found.largest <= 1


def test_affine_weights_need_subtracted_zero_points_and_a_dynamic_batch_is_taken():
    def function(hand, x):
        return qdq(functional.conv2d(qdq(x), hand.kernel(), hand.bias, padding=1, stride=2))

    made = program(function, zeros=torch.full((4,), 5), dynamic=True)
    with pytest.raises(InputError, match=r"conv2d.*weight zero point 5 needs zero_points = 'subtracted'"):
        import_pt2e(made, "affine")
    model = read_pt2e(made, "affine", load_quantization("int8", ["zero_points=subtracted"]))
    images = np.random.default_rng(1).normal(0, 2, (7, 3, 6, 6)).astype(np.float32)
    ours = evaluate(model.graph, quantize_input(model.graph, images), ARITHMETIC).tensors
    (found,) = count_differences({"conv2d_1": ours["conv2d_1"]}, model.reference_codes(images))
    assert found.largest <= 1
    assert found.differing <= found.values // 50


def conv(hand, x):
    return functional.conv2d(qdq(x), hand.kernel(), hand.bias)


REFUSED = {
    "has no integer rule": lambda hand, x: qdq(torch.cat([qdq(x), qdq(x)], 1)),
    r"conv2d.*: its weights are not quantised": lambda hand, x: qdq(functional.conv2d(qdq(x), hand.weight.float())),
    "activations of torch.int16 are not supported": lambda hand, x: qdq(x, low=-999, high=999, dtype=torch.int16),
    r"the quantiser left conv2d in float.*calibration": lambda hand, x: conv(hand, x),
    r"the quantiser left x in float": lambda hand, x: qdq(functional.max_pool2d(x, 2)),
    r"as \(0.1, 3\); give both operators one scale": lambda hand, x: dq(q(x), scale=0.1),
    "quantised twice": lambda hand, x: qdq(qdq(x) + qdq(x, 0.1)),
    "only flattening": lambda hand, x: qdq(qdq(x).reshape(-1, 6, 3, 6)),
    "hardtanh|mul.*": lambda hand, x: qdq(qdq(x) * qdq(x)),
    "choose|dynamic|no integer rule": lambda hand, x: qdq(torch.softmax(qdq(x), 1)),
    "is no model of the PT2E flow": lambda hand, x: torch.relu(x),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_has_no_integer_rule_is_refused_by_name(message):
    with pytest.raises(InputError, match=message) as found:
        import_pt2e(program(REFUSED[message]), "net")
    assert str(found.value).startswith("net: ")
    assert "\n" not in str(found.value)


def test_zero_points_that_differ_between_channels_are_refused():
    made = program(lambda hand, x: qdq(conv(hand, x)), zeros=torch.tensor([0, 0, 1, 0]))
    with pytest.raises(InputError, match="zero points that differ between channels"):
        import_pt2e(made, "net")


def test_calibration_gives_codes_to_what_was_left_in_float():
    """The output's scale is that of the range seen: its smallest and largest value get the end codes."""
    images = np.random.default_rng(2).normal(0, 2, (8, 3, 6, 6)).astype(np.float32)
    made = program(conv, dynamic=True)
    model = read_pt2e(made, "net", calibration=images)
    real = made.module()(torch.from_numpy(images)).numpy()
    tensor = model.graph.by_name[model.graph.output].output
    assert tensor.scale == pytest.approx((real.max() - real.min()) / 255)
    codes = evaluate(model.graph, quantize_input(model.graph, images), ARITHMETIC).tensors[model.graph.output]
    shown = np.moveaxis(tensor.scale * (codes - tensor.zero_point), 3, 1)
    assert np.abs(shown - real).max() <= 0.51 * tensor.scale


SCRIPT = """
import torch
from torch import nn
import torch.ao.quantization.fx._decomposed
Q, DQ = torch.ops.quantized_decomposed.quantize_per_tensor, torch.ops.quantized_decomposed.dequantize_per_tensor
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("w", torch.randint(-127, 128, (10, 64), dtype=torch.int8))
    def forward(self, x):
        s = (0.05, 0, -128, 127, torch.int8)
        x = DQ(Q(x, *s), *s).flatten(1)
        return DQ(Q(nn.functional.linear(x, DQ(self.w, 0.01, 0, -127, 127, torch.int8)), *s), *s)
def net():
    example = torch.randn(4, 1, 8, 8)
    return torch.export.export(Net(), (example,)), example
"""


def test_command_line_takes_a_program_and_compares_it_with_pytorch(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(SCRIPT)
    name = f"{tmp_path / 'mine.py'}:net"
    assert main(["run", name, "--images", "2"]) == 0
    assert "bit_exact: true (2 images" in capsys.readouterr().out
    assert main(["compare", name, "--images", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["input", "linear_1"]
    assert lines[-1] == "predictions changed: 0 of 4"
    assert main(["run", name, "--quantization-set", "weight.bits=4"]) == 2
    assert "quantised already, so [weight] of the scheme would change nothing" in capsys.readouterr().err
    assert main(["run", str(tmp_path / "mine.pt2")]) == 2
    assert "mine.pt2: torch.export.load unpickles what it reads" in capsys.readouterr().err
