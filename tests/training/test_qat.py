"""`QatModule`: the bits of its integer graph without the engine, and gradients that finite differences confirm."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import itertools
import sys

import numpy as np
import pytest
import torch
from accelsim.workloads.data import load_dataset
from refusals import refusal
from torch import nn
from torch.nn.functional import avg_pool2d, conv2d, linear, relu6

import accelsim
from accelsim import engine, ir, numerics
from accelsim.engine import execute
from accelsim.frontend import capture, fold_batch_norm
from accelsim.ir import IntegerGraph, Multiplier, evaluate, quantize_input
from accelsim.ir.float_graph import FloatGraph
from accelsim.numerics import Arithmetic
from accelsim.training import QatModule, fine_tune
from accelsim.training.fake_layer import FakeLayer
from accelsim.training.quantizer import Quantizer, fake_quantized

WIDE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
SCHEMES = {
    **{
        name: (name, [])
        for name in (
            *("int8", "affine", "affine_subtracted", "bias_in_accumulator", "coursework"),
            *("int8_per_tensor", "power_of_two", "uint8"),
        )
    },
    "tflite_double": ("affine", ["requantization.rounding=tflite_double"]),
    "shift_first": ("affine", ["requantization.order=shift_first", "requantization.multiplier_bits=16"]),
    "reciprocal": ("affine", ["requantization.scheme=reciprocal", "requantization.rounding=floor"]),
    "float32": ("affine", ["requantization.scheme=float32"]),
    "float64": ("int8", ["requantization.scheme=float64", "requantization.rounding=half_up"]),
    "w4a4": ("affine", ["weight.bits=4", "activation.bits=4"]),
    "full_range": ("affine", ["weight.full_range=true", "weight.bits=3"]),
    "wrap": ("affine", ["requantization.output_overflow=wrap"]),
    "by_layer": (
        "int8",
        [
            *("layers.c1.weight_bits=4", "layers.c1.activation_bits=4", "layers.grouped.weight_granularity=tensor"),
            *("layers.f1.activation_bits=5", "layers.input.activation_bits=6", "activation.power_of_two=true"),
        ],
    ),
    "fixed_point": ("fixed_8_4", []),
    "restricted": ("int8_restricted", []),
    "narrow_bias": ("int8_per_tensor", ["bias.bits=8"]),
    "tflite": ("tflite", []),
    "onnx": ("onnx", []),
    "mse": ("int8_mse", ["weight.bits=4"]),
}


class Network(nn.Module):
    """Every kind of layer: dense, depthwise and grouped convolutions, batch norms behind them and alone, pools."""

    def __init__(self):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.depth, self.b2 = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4)
        self.grouped = nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=(1, 0))
        self.largest, self.mean = nn.MaxPool2d(2, 1, 1), nn.AvgPool2d(2, count_include_pad=False, padding=1)
        self.b3, self.f1, self.f2 = nn.BatchNorm2d(8), nn.Linear(96, 6), nn.Linear(6, 5)

    def forward(self, x):
        first = torch.relu(self.b1(self.c1(x)))
        x = torch.relu(relu6(self.b2(self.depth(first))) + first)
        x = self.mean(self.b3(relu6(self.largest(torch.tanh(self.grouped(x))))))
        return self.f2(torch.sigmoid(self.f1(x.flatten(1))))


def network() -> Network:
    torch.manual_seed(0)
    model = Network()
    with torch.no_grad():
        for norm in (model.b1, model.b2, model.b3):
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(-1, 1)
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.3, 2)
    return model.eval()


@functools.cache
def captured() -> tuple[FloatGraph, FloatGraph]:
    """The network's float graph with its batch norms, and without."""
    graph = capture(network(), examples(1), fold=False)
    return graph, fold_batch_norm(graph)


def examples(count: int = 24) -> torch.Tensor:
    return torch.rand(count, 2, 9, 8, generator=torch.Generator().manual_seed(1)) * 2 - 0.7


def scheme_of(name: str) -> accelsim.QuantizationScheme:
    return accelsim.load_quantization(*SCHEMES[name])


def train(module: QatModule, images: torch.Tensor, steps: int, rate: float = 3e-3) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        (module(images) - 1).square().mean().backward()
        optimizer.step()


def assert_same_graph(found: IntegerGraph, wanted: IntegerGraph) -> None:
    for one, other in zip(found.nodes, wanted.nodes, strict=True):
        for field in dataclasses.fields(one):
            pair = getattr(one, field.name), getattr(other, field.name)
            parts = list(zip(*pair, strict=True)) if field.name == "multipliers" else [pair]
            for a, b in parts:
                if isinstance(a, Multiplier):
                    for key in ("m0", "shift", "real"):
                        np.testing.assert_array_equal(getattr(a, key), getattr(b, key), err_msg=one.name)
                else:
                    np.testing.assert_array_equal(a, b, err_msg=f"{one.name}.{field.name}")


def real_output(graph: IntegerGraph, images: torch.Tensor, how: Arithmetic) -> torch.Tensor:
    """S * (q - Z) of the reference's codes, float32."""
    output = graph.by_name[graph.output].output
    codes = graph.to_pytorch(evaluate(graph, quantize_input(graph, images.numpy()), how).tensors[graph.output])
    return torch.tensor((codes - output.zero_point) * output.scale).to(images.dtype)


# --- bits --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*biases saturate")
@pytest.mark.parametrize("name", SCHEMES)
def test_it_starts_as_the_quantised_graph_and_keeps_its_bits_while_everything_is_trained(name):
    """Scales, zero points, weights, biases and batch norms move; images leave the calibrated ranges."""
    scheme, images = scheme_of(name), examples() * 1.3
    graph, folded = captured()
    module = QatModule(graph, examples(), scheme)
    start = accelsim.quantize(folded, examples(), scheme)
    assert_same_graph(module.to_graph(), start)
    train(module, images, 3)
    assert torch.equal(module(images), real_output(module.to_graph(), images, WIDE))  # training is the same function
    module.batch_norm = "batch"
    train(module, images, 2)
    graph = module.to_graph()
    moved = [a.output.scale != b.output.scale for a, b in zip(graph.nodes, start.nodes, strict=True)]
    assert sum(moved) >= {"power_of_two": 2, "by_layer": 2, "fixed_point": 0}.get(name, 8)
    assert any(moved) == (name != "fixed_point"), "fixed point has no scale to learn"
    assert any((a.weight != start.by_name[a.name].weight).any() for a in graph.nodes if isinstance(a, ir.Mac))
    module.eval()
    wanted = real_output(graph, images, WIDE)
    assert torch.equal(module(images), wanted)
    with torch.no_grad():
        assert torch.equal(module(images), wanted)
    assert len(wanted.unique()) > 4


def test_the_machine_computes_what_the_module_says():
    images = examples(4)
    hardware = accelsim.load_hardware("edge_8x8")
    module = QatModule(captured()[0], examples(), scheme_of("affine"), hardware)
    train(module, images, 2)
    program = accelsim.compile(module.to_graph(), hardware, batch=4)
    codes = accelsim.simulate(program, images.numpy()).outputs
    assert module.codes(images).tolist() == codes.tolist()
    assert (module(images).detach().unique()).numel() > 4


@pytest.mark.parametrize("name", ["int8", "affine", "affine_subtracted", "bias_in_accumulator"])
def test_narrow_accumulators_have_the_engines_bits_in_every_mode(name):
    """12 to 16 bits, both dataflows, saturating and wrapping, at every addition and at the end, narrower psums.

    A quarter of the 48 combinations for each scheme."""
    images = examples(6)
    module = QatModule(captured()[0], images, scheme_of(name))
    train(module, images, 2)
    graph, wide = module.to_graph(), module.codes(images)
    codes = quantize_input(graph, images.numpy())
    differ = 0
    modes = itertools.product((12, 14, 16), ("ws", "os"), ("saturate", "wrap"), ("every_add", "end"), (0, 2))
    first = ["int8", "affine", "affine_subtracted", "bias_in_accumulator"].index(name)
    for number, (bits, dataflow, overflow, saturate_at, less) in enumerate(modes):
        if number % 4 != (first + number // 4) % 4:
            continue
        how = Arithmetic(
            psum_bits=bits - less,
            width_bits=bits,
            overflow=overflow,
            saturate_at=saturate_at,
            rows=1 + number % 7,
            dataflow=dataflow,
        )
        module.arithmetic = how
        found = module.codes(images)
        wanted = graph.to_pytorch(execute(graph, codes, how, nodes=[graph.output], threads=1)[graph.output])
        np.testing.assert_array_equal(found.numpy(), wanted, err_msg=str(how))
        differ += not torch.equal(found, wide)
    assert differ > 8  # of 12: these machines overflow
    module(images).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.parameters())


def test_it_trains_and_evaluates_without_engine_reference_and_numba(monkeypatch):
    def forbidden(*_arguments, **_keywords):
        raise AssertionError("the engine, the reference or numerics ran")

    module = QatModule(captured()[0], examples(), scheme_of("affine"), None)
    narrow = accelsim.load_hardware("edge_8x8", ["accumulator.width_bits=14"])
    homes = [one for name, one in sys.modules.items() if name.startswith("accelsim.engine")]
    homes += [ir.reference, numerics.rounding]
    for home in homes:
        for name, function in inspect.getmembers(home, inspect.isroutine):
            if function.__module__.startswith("accelsim.") and not name.startswith("__"):
                monkeypatch.setattr(home, name, forbidden)
    for name in ("accumulate", "requantize", "quantize", "to_output", "divide_rounded"):
        for home in (numerics, numerics.accumulation, numerics.requantization, numerics.formats, ir.reference):
            if hasattr(home, name):
                monkeypatch.setattr(home, name, forbidden)
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr("accelsim.training.module.execute", forbidden)
    with pytest.raises(AssertionError, match="ran"):
        engine.execute()
    images = examples()
    for hardware in (None, narrow):
        module.arithmetic = hardware
        fine_tune(module, images, torch.zeros(len(images), dtype=torch.int64), epochs=1, rate=1e-3, batch=12)
        with torch.no_grad():
            assert torch.isfinite(module(images)).all()
        assert module.to_graph().output == "f2"


# --- gradients ---------------------------------------------------------------------------------------------


class Frozen:
    """Roundings whose residuals are recorded once and then kept: what straight-through gradients are derivatives of."""

    def __init__(self):
        self.residuals: list[torch.Tensor] = []
        self.ends: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.position = self.calls = 0
        self.clamped = self.seen = 0

    def round(self, v: torch.Tensor) -> torch.Tensor:
        return self.move(v, v.round())

    def move(self, v: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """`target` at first, and later what is as far from `v`."""
        if self.position == len(self.residuals):
            self.residuals.append((target - v).detach())
        self.position += 1
        return v + self.residuals[self.position - 1]

    def relu(self, v: torch.Tensor) -> torch.Tensor:
        """Which side of 0 a value is on is held: sums of codes are often at the kink."""
        if len(self.ends) == self.calls:
            self.ends.append((v > 1e-9, v))
        self.calls += 1
        return torch.where(self.ends[self.calls - 1][0], v, 0.0)

    def fake(self, x, scale, zero, low, high, whole=None):
        """S * (clamp(round(x / S) + Z, n, p) - Z), or what stands in for the rounded quotient."""
        code = self.move(x / scale, (x / scale).round() if whole is None else whole) + zero
        if len(self.ends) == self.calls:  # which codes are cut off is held, too: a code at an end is inside
            self.ends.append((code < low - 1e-9, code > high + 1e-9))
        below, above = self.ends[self.calls]
        self.calls += 1
        self.seen += code.numel()
        self.clamped += int((below | above).sum())
        return scale * (torch.where(below, low, torch.where(above, high, code)) - zero)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.b1 = nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)
        self.c2, self.b2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.fc, self.f2 = nn.Linear(12, 4), nn.Linear(4, 3)

    def forward(self, x):
        first = relu6(self.b1(self.c1(x)))
        x = torch.relu(self.b2(self.c2(first)) + first)
        return self.f2(torch.tanh(self.fc(avg_pool2d(x, 2).flatten(1))))


def by_the_book(module: QatModule, images: torch.Tensor, frozen: Frozen, batch: bool) -> torch.Tensor:
    """The float function of `Small` that docs/numerics.md, section 12, differentiates, on a module's parameters."""
    frozen.position = frozen.calls = frozen.clamped = frozen.seen = 0
    bits, table = module.graph.activation.limits, module.graph.by_name["tanh_1"].output

    def quantizer(part):
        moved = 0 if part.zero_shift is None else (part.limits[1] - part.limits[0]) * part.zero_shift
        return part.first_scale * part.log_scale.exp(), part._first_zero + moved

    def tensor(x, name, parts=()):
        scale, zero = quantizer(module.quantizers.get_submodule(name))
        whole = sum((part / scale).round() for part in parts).clamp(min=0) if parts else None
        return frozen.fake(x, scale, frozen.round(torch.as_tensor(zero, dtype=torch.float64)), *bits, whole)

    def layer(x, name, source):
        part = module.layers.get_submodule(name)
        weight, bias = part.weight, 0.0 if part.bias is None else part.bias
        if part.gamma is not None:
            mean, variance = part.running_mean, part.running_variance
            if batch:
                y = conv2d(x, weight, padding=(name == "c2") * 1)
                mean, variance = y.mean((0, 2, 3)) + bias, y.var((0, 2, 3), correction=0)
            factor = part.gamma / (variance + 1e-5).sqrt()
            weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + part.beta
        scale, _ = quantizer(part.quantizer)
        column = scale if scale.dim() == 0 else scale.reshape(-1, *[1] * (weight.dim() - 1))
        x_scale = table.scale if source == "tanh_1" else quantizer(module.quantizers.get_submodule(source))[0]
        grid = x_scale * scale
        bias = frozen.move(bias, (bias / grid).round() * grid)  # scales take no gradient from a bias
        weight = frozen.fake(weight, column, 0.0, *part.quantizer.limits)
        return conv2d(x, weight, bias, padding=(name == "c2") * 1) if weight.dim() == 4 else (linear(x, weight, bias))

    x = tensor(images, "input")
    first = tensor(frozen.relu(layer(x, "c1", "input")).clamp(max=6), "c1")
    second = tensor(layer(first, "c2", "c1"), "c2")
    x = tensor(frozen.relu(first + second), "add_1", (first, second))  # a sum rounds each operand
    scale, _ = quantizer(module.quantizers.get_submodule("add_1"))
    steps = avg_pool2d(x, 2) / scale
    x = scale * frozen.move(steps, ((4 * steps).round() / 4).round())  # quarters, so that ties are ties
    x = tensor(layer(x.flatten(1), "fc", "add_1"), "fc")
    x = table.scale * frozen.round(torch.tanh(x) / table.scale)
    return tensor(layer(x, "f2", "tanh_1"), "f2")


@pytest.mark.parametrize("batch", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("name", ["affine", "int8"])
def test_gradients_are_finite_differences_of_the_function_with_its_roundings_held(name, granularity, batch):
    """Straight through: a rounding adds a constant. Clamps, activations, scales and zero points move, in float64."""
    torch.manual_seed(3)
    model = Small().double().eval()
    images = torch.rand(10, 2, 6, 6, dtype=torch.float64) * 2 - 0.5
    scheme = accelsim.load_quantization(
        name, ["activation.bits=4", "weight.bits=4", f"weight.granularity={granularity}"]
    )
    module = QatModule.from_module(
        model, images, scheme, dtype=torch.float64, batch_norm="batch" if batch else "running"
    )
    with torch.no_grad():  # ranges of activations and weights that cut some off at either end
        for number, parameter in enumerate(module.quantizer_parameters()):
            parameter.sub_(0.4 + 0.01 * number if parameter.dim() or number % 2 == 0 else -0.07)
    module.train()
    moments = copy.deepcopy(module.state_dict())
    outside = images * 1.2
    loss_weight = torch.randn(10, 3, dtype=torch.float64)
    output = module(outside)
    (output * loss_weight).sum().backward()
    module.load_state_dict(moments)  # batch statistics have moved the running ones
    frozen = Frozen()
    with torch.no_grad():
        assert torch.allclose(by_the_book(module, outside, frozen, batch), output, atol=1e-9)
        assert 40 < frozen.clamped < 0.7 * frozen.seen
        checked = 0
        for label, parameter in module.named_parameters():
            for index in {0, parameter.numel() // 2, parameter.numel() - 1}:
                value = parameter.view(-1)[index].clone()
                sides = []
                for step in (1e-6, -1e-6):
                    parameter.view(-1)[index] = value + step
                    sides.append(float((by_the_book(module, outside, frozen, batch) * loss_weight).sum()))
                parameter.view(-1)[index] = value
                wanted = (sides[0] - sides[1]) / 2e-6
                assert float(parameter.grad.view(-1)[index]) == pytest.approx(wanted, rel=1e-4, abs=2e-5), label
                checked += wanted != 0
    assert checked > 20


@pytest.mark.parametrize("zero", [-3, 0, 5])
def test_gradients_of_one_tensor_are_the_white_papers(zero):
    """d x^/dx, d x^/dS and d x^/dZ on the true staircase, away from its jumps: only dx inside is not its derivative.

    There the staircase is flat in x and its derivative by S is round(x / S); straight through, x^ moves with x, and the
    quotient's own derivative, -x / S, comes in.
    """
    low, high, scale = -8, 7, 0.37
    x = torch.linspace(-6, 6, 401, dtype=torch.float64)
    x = x[((x / scale) % 1 - 0.5).abs() > 0.02].requires_grad_()
    quantizer = Quantizer("x", torch.tensor(scale), zero, (low, high), learn_zero_point=True, power_of_two=False)

    def stairs(real, s, z):
        return s * (((real / s).round() + z).clamp(low, high) - z)

    learned = quantizer.learned()
    made = learned.scale * fake_quantized(x, learned, quantizer.limits)
    assert torch.equal(made, stairs(x, learned.scale, zero))
    jacobian = torch.eye(len(x), dtype=torch.float64)
    pick = (x, learned.scale, learned.zero_point)
    rows = [torch.autograd.grad(made, pick, row, retain_graph=True) for row in jacobian]
    dx = torch.stack([row[0] for row in rows]).diagonal()
    ds, dz = (torch.stack([row[k] for row in rows]) for k in (1, 2))
    with torch.no_grad():
        s, h = learned.scale.detach(), 1e-6
        code = (x / s).round() + zero
        inside = (code >= low) & (code <= high)
        assert 50 < inside.sum() < len(x) - 50
        by_scale = (stairs(x, s + h, zero) - stairs(x, s - h, zero)) / (2 * h)
        assert torch.allclose(ds, by_scale - torch.where(inside, x / s, 0.0), atol=1e-6)
        assert torch.equal(dx, inside.double())
        by_zero = (stairs(x, s, zero + h) - stairs(x, s, zero - h)) / (2 * h)  # clamp(round(x / S) + Z) - Z, Z real
        assert torch.allclose(dz[~inside], by_zero[~inside], atol=1e-6)
        assert torch.allclose(dz[~inside], -s)
        assert not dz[inside].any()
    made.sum().backward()
    assert float(quantizer.log_scale.grad) == pytest.approx(float(s * ds.sum()))
    assert float(quantizer.zero_shift.grad) == pytest.approx(float((high - low) * dz.sum()))


def test_outputs_that_overflow_changed_pass_no_gradient_unless_asked_to():
    """One linear layer: of two outputs the first overflows 12 bits."""
    torch.manual_seed(0)
    model = nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.ones(8), torch.tensor([1.0, -1] * 4)]))
    images = torch.ones(6, 8)
    grads = {}
    for through in (False, True):
        narrow = dataclasses.replace(WIDE, width_bits=16, psum_bits=16)
        module = QatModule.from_module(
            model, torch.rand(50, 8) * 2 - 1, accelsim.load_quantization("int8"), narrow, through_overflow=through
        )
        module(images).sum().backward()
        (layer,) = (part for part in module.modules() if isinstance(part, FakeLayer))
        grads[through] = layer.weight.grad
        assert module.codes(images)[0].tolist() == [64, 0] or module.codes(images)[0, 1] == 0
    assert not grads[False][0].any()
    assert grads[False][1].all()
    assert grads[True].all()


def test_lsq_gradients_are_the_plain_ones_scaled():
    graph, images = captured()[0], examples()
    plain, scaled = (QatModule(graph, images, scheme_of("w4a4"), lsq_gradients=lsq) for lsq in (False, True))
    for module in (plain, scaled):
        module(images).square().sum().backward()
    node = plain.graph.by_name["c1"]
    pairs = (
        ("quantizers.c1", node.output.size * 7),  # 4 bits, affine: -8..7
        ("layers.c1.quantizer", node.weight[0].size * 7),
    )
    for name, elements in pairs:
        found, wanted = (m.get_submodule(name).log_scale.grad for m in (scaled, plain))
        assert torch.allclose(found, wanted / elements**0.5, rtol=1e-5)
    assert torch.equal(plain.layers.c1.weight.grad, scaled.layers.c1.weight.grad)


# --- batch norm, training, manners -------------------------------------------------------------------------


def test_batch_statistics_are_those_of_pytorch_and_move_the_running_ones_like_its_own():
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, momentum=None)), torch.rand(40, 2, 8, 8)
    with torch.no_grad():
        wanted = model.train()(images)
    running, batch = (
        QatModule.from_module(model.eval(), images, accelsim.load_quantization("int8"), batch_norm=which)
        for which in ("running", "batch")
    )
    for module in (running, batch):
        layer = module.layers.get_submodule("0")
        layer.running_mean.add_(0.1)
        layer.running_variance.mul_(2)
    found, step = batch(images), batch.graph.by_name["0"].output.scale
    assert (found - wanted).abs().max() < 2 * step
    assert (running(images) - wanted).abs().max() > 20 * step
    norm, layer = model[1], batch.layers.get_submodule("0")
    assert torch.allclose(layer.running_mean, norm.running_mean + 0.9 * 0.1, atol=1e-3)
    assert torch.allclose(layer.running_variance, norm.running_var * 1.9, rtol=1e-2)
    assert torch.equal(running.layers.get_submodule("0").running_mean, norm.running_mean + 0.1)
    with torch.no_grad():
        assert not torch.equal(batch(images), batch.eval()(images))
    module = batch
    assert "folded by batch statistics" in repr(module)


def test_fine_tuning_recovers_what_few_bits_cost_and_repeats_to_the_bit():
    """Digits at 2-bit weights and 3-bit activations, twice."""
    workload = accelsim.workloads.load("lenet5_digits")
    train_set, test_set = (load_dataset("digits", None, split, size=32) for split in ("train", "test"))
    scheme = accelsim.load_quantization("affine", ["weight.bits=2", "activation.bits=3"])
    graph = capture(workload.module, torch.zeros(1, 1, 32, 32), "lenet5_digits", fold=False)
    images, labels = torch.from_numpy(train_set.images), torch.from_numpy(train_set.labels)
    test = torch.from_numpy(test_set.images)

    def accuracy(module):
        with torch.no_grad():
            return float((module(test).argmax(1).numpy() == test_set.labels).mean())

    modules, threads = [], torch.get_num_threads()
    for _ in range(2):
        module = QatModule(graph, train_set.images[:200], scheme)
        before, seen = accuracy(module), []
        losses = fine_tune(
            module, images[:640], labels[:640], epochs=2, rate=1e-3, progress=lambda *epoch, to=seen: to.append(epoch)
        )
        assert seen == list(enumerate(losses, 1))
        modules.append(module)
    assert torch.get_num_threads() == threads
    assert not module.training
    assert accuracy(module) > before + 0.05
    for one, other in zip(*(module.state_dict().values() for module in modules), strict=True):
        assert torch.equal(one, other)
    trained = module.to_graph()
    codes = execute(trained, quantize_input(trained, test_set.images), WIDE, nodes=[trained.output], threads=1)
    different = module.codes(test).numpy() != trained.to_pytorch(codes[trained.output])
    assert different.sum() == 0


def test_state_dict_holds_all_that_decides_the_bits():
    images = examples()
    module, other = (QatModule(captured()[0], images, scheme_of("affine")) for _ in range(2))
    train(module, images, 2)
    assert not torch.equal(other(images), module(images))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(images), module(images))
    assert torch.equal(copy.deepcopy(module)(images), module(images))
    assert "exact sums" in repr(module)
    module.arithmetic = accelsim.load_hardware("edge_8x8", ["accumulator.width_bits=14"])
    assert "14-bit accumulator, saturate" in repr(module)


@pytest.mark.parametrize(
    "setting", ["equalization.weights=true", "weight.rounding=adaround", "bias.correction=empirical"]
)
def test_a_scheme_that_repairs_is_refused_by_name(setting):
    scheme = accelsim.load_quantization("int8", [setting])
    key = setting.partition("=")[0]
    assert f"{key} = " in refusal(lambda: QatModule(captured()[0], examples(), scheme))


def test_what_cannot_be_run_is_refused_in_one_line():
    graph, images = captured()[0], examples()
    module = QatModule(graph, images, scheme_of("affine"))
    assert refusal(module, images.numpy()) == "input: is ndarray; give a torch tensor"
    assert refusal(module, images.double()) == (
        "input: is torch.float64 and the module torch.float32; convert it with .to()"
    )
    assert refusal(module, images.to("meta")).startswith("input: is on meta; this module runs on the CPU")
    assert refusal(module, images[:, :1]).startswith("input: shape (24, 1, 9, 8) is not (batch, C, H, W)")
    assert refusal(module, images * torch.nan) == "input: holds NaN or infinite values; remove them"
    with torch.autocast("cpu"):
        assert refusal(module, images).startswith("torch.autocast is on for the CPU")
    torch.set_float32_matmul_precision("medium")
    try:
        assert refusal(module, images).startswith("torch.get_float32_matmul_precision() is not 'highest'")
    finally:
        torch.set_float32_matmul_precision("highest")
    for name, value, start in (
        ("layers.c1.weight", torch.nan, "Network: c1 (aten.conv2d): weight holds NaN or infinite values"),
        ("layers.f1.bias", 1e30, "Network: f1 (aten.linear): multiplier M = "),  # S_w is raised to hold the bias
        ("quantizers.c1.log_scale", -800.0, "Network: c1 (aten.conv2d): a learned scale is 0.0"),
        ("quantizers.c1.zero_shift", torch.inf, "Network: c1 (aten.conv2d): a learned zero point is inf"),
        ("quantizers.c1.log_scale", -60.0, "Network: c1 (aten.conv2d): multiplier M = "),
    ):
        broken = copy.deepcopy(module)
        with torch.no_grad():
            broken.get_parameter(name).fill_(value)
        line = refusal(broken, images)
        assert line.startswith(start)
        assert "lower the learning rate" in line
    one_scale = QatModule(graph, images, scheme_of("int8_per_tensor"))
    with torch.no_grad():
        one_scale.layers.f1.bias[2] = 1e9
    assert refusal(one_scale, images).startswith("Network: f1 (aten.linear): bias of channel 2 is ")
    shift_first = accelsim.load_quantization(
        "affine", ["requantization.order=shift_first", "requantization.guard_bits=16"]
    )
    wide = QatModule(graph, images, shift_first)
    with torch.no_grad():
        wide.quantizers.c1.log_scale.fill_(25.0)
    assert "exceed int64" in refusal(wide, images)


def test_what_cannot_be_wrapped_or_trained_is_refused_in_one_line():
    graph, images, scheme = captured()[0], examples(), scheme_of("int8")
    assert refusal(lambda: QatModule(graph, images, scheme, dtype=torch.float16)) == (
        "dtype = torch.float16 is not torch.float32 or torch.float64"
    )
    assert refusal(lambda: QatModule(graph, images, scheme, batch_norm="none")) == (
        "batch_norm = 'none' is not one of running, batch"
    )
    twice = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)).eval()
    assert refusal(QatModule.from_module, twice, images, scheme) == (
        "Sequential: 2 (aten.batch_norm): follows another batch norm; make them one to train them"
    )
    wide = accelsim.load_quantization("int8", ["accumulator_width_bits.c1=40"])
    assert "c1: accumulator_width_bits = 40 exceeds" in refusal(QatModule, graph, images, wide, WIDE)
    one = QatModule.from_module(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval(), torch.rand(9, 1, 3, 3), scheme, batch_norm="batch"
    )
    assert "needs more than one value a channel" in refusal(one, torch.rand(1, 1, 3, 3))
    labels = torch.zeros(24, dtype=torch.int64)
    module = QatModule(graph, images, scheme)
    for keywords, line in (
        ({"epochs": 0}, "epochs = 0 must be at least 1"),
        ({"batch": 0}, "batch = 0 must be at least 1"),
        ({"rate": -1.0}, "rate = -1.0 must be finite and at least 0"),
        ({"seed": -1}, "seed = -1 is outside 0..2**63-1"),
        ({"loss": lambda *_: module.layers.c1.beta.sum() * torch.nan}, "the loss is nan in epoch 1"),
    ):
        arguments = {"epochs": 1, "rate": 1e-3, **keywords}
        assert refusal(lambda given=arguments: fine_tune(module, images, labels, **given)).startswith(line)
    assert refusal(lambda: fine_tune(module, images, labels[:3], epochs=1, rate=0.1)).startswith("targets: 3 for 24")


def test_codes_of_one_bit_have_a_gradient_scale():
    """-1 and 0 are the codes of one signed bit: no largest code to divide by."""
    scheme = accelsim.load_quantization(
        "int8", ["activation.bits=1", "activation.fraction_bits=0", "weight.bits=1", "weight.fraction_bits=1"]
    )
    module = QatModule(captured()[0], examples(), scheme, lsq_gradients=True)
    module(examples(2)).sum().backward()
    assert_same_graph(module.to_graph(), accelsim.quantize(captured()[1], examples(), scheme))
