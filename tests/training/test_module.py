"""`EngineModule`: the bits of its graph, the gradients that the page states, and the manners of a PyTorch module."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from graphs import GraphMaker, random_graph, random_hardware
from refusals import refusal
from torch import nn
from torch.nn import functional

import accelsim
from accelsim.engine import execute
from accelsim.errors import InputError
from accelsim.ir import IntegerGraph, Mac, evaluate, quantize_input
from accelsim.numerics import Arithmetic, IntFormat, Requantization, Rounding, Scheme
from accelsim.training import EngineModule

FIXED = Requantization(scheme=Scheme.FIXED_POINT, rounding=Rounding.HALF_EVEN)
WIDE = Arithmetic(psum_bits=32, width_bits=32, overflow="saturate", saturate_at="every_add", rows=4, dataflow="ws")
INT8 = accelsim.load_quantization("int8")
EDGE = accelsim.load_hardware("edge_8x8")


def narrow(bits: int) -> Arithmetic:
    return dataclasses.replace(WIDE, psum_bits=bits, width_bits=bits)


def images_of(graph: IntegerGraph, codes: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Real images (N, C, H, W) that quantise to given codes (N, H, W, C)."""
    tensor = graph.input.output
    return torch.tensor(np.moveaxis((codes - tensor.zero_point) * tensor.scale, 3, 1), dtype=dtype)


def small_graph(seed: int = 0) -> IntegerGraph:
    maker = GraphMaker(np.random.default_rng(seed), FIXED)
    maker.linear(maker.conv(maker.input(6, 6, 3), 4, (3, 3)), 5)
    return dataclasses.replace(maker.graph(), output_shape=(5,))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 5), nn.Tanh()
    ).eval()


# --- bits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_untouched_parameters_are_the_graph_and_outputs_are_the_machines_in_every_mode(seed):
    """Codes forward, with gradient and without; random graphs have every kind of layer, zero point and scheme."""
    dtype = (torch.float32, torch.float64)[seed % 2]
    rng = np.random.default_rng(seed)
    maker = random_graph(rng)
    graph = maker.graph()
    arithmetic = random_hardware(rng, graph, str(rng.choice(["ws", "os"]))).arithmetic()
    codes = maker.codes(3)
    module = EngineModule(graph, arithmetic, dtype=dtype, threads=1)
    for node in module.to_graph().nodes:
        if isinstance(node, Mac):
            np.testing.assert_array_equal(node.weight, graph.by_name[node.name].weight, err_msg=f"seed {seed}")
            np.testing.assert_array_equal(node.bias, graph.by_name[node.name].bias, err_msg=f"seed {seed}")
    images = images_of(graph, codes, dtype)
    np.testing.assert_array_equal(quantize_input(graph, images.numpy()), codes)
    expected = graph.to_pytorch(evaluate(graph, codes, arithmetic).tensors[graph.output])
    np.testing.assert_array_equal(module.codes(images).numpy(), expected, err_msg=f"seed {seed}")
    output = graph.by_name[graph.output].output
    real = torch.tensor((expected - output.zero_point) * output.scale).to(dtype)
    images.requires_grad_()
    with_gradient = module(images)
    with_gradient.sum().backward()
    with torch.no_grad():
        assert torch.equal(module(images), real)
    assert torch.equal(with_gradient, real)
    assert with_gradient.dtype is dtype
    assert all(torch.isfinite(p.grad).all() for p in (images, *module.parameters()))


def test_changed_parameters_become_the_codes_that_the_rules_give():
    """weight q = clamp(round(w / S_w)), bias round(b / (S_x S_w)) - Z_x sum(q), of a linear layer on an image."""
    maker = GraphMaker(np.random.default_rng(3), FIXED)
    maker.linear(maker.input(2, 3, 4, zero_point=7), 5)
    graph = maker.graph()
    node = graph.nodes[1]
    module = EngineModule(graph, WIDE, dtype=torch.float64)
    layer = module.layers.get_submodule(node.name)
    scale = node.multiplier.real * 0.1 / 0.05  # M * S_y / S_x
    weight = np.random.default_rng(4).normal(0, 80, (5, 24)) * scale[:, None]
    bias = np.random.default_rng(5).normal(0, 5000, 5) * scale * 0.05
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    found = module.to_graph().by_name[node.name]
    rows = np.clip(np.rint(weight / scale[:, None]), node.weight.min(), 127).astype(int)
    for n in range(5):
        for y, x, c in np.ndindex(2, 3, 4):
            assert found.weight[n, (y * 3 + x) * 4 + c] == rows[n, (c * 2 + y) * 3 + x]
        assert found.bias[n] == round(bias[n] / (scale[n] * 0.05)) - 7 * rows[n].sum()
    assert graph.by_name[node.name] is node  # the graph it was made from stays


def test_the_restricted_range_of_weights_is_kept_and_the_full_one_where_it_is_used():
    graph = small_graph()
    linear = graph.nodes[2]
    restricted = dataclasses.replace(linear, weight=np.maximum(linear.weight, -127))
    full = dataclasses.replace(linear, weight=np.where(np.arange(linear.weight.size).reshape(5, -1) == 0, -128, 1))
    for node, least in ((restricted, -127), (full, -128)):
        module = EngineModule(dataclasses.replace(graph, nodes=(*graph.nodes[:2], node)), WIDE)
        with torch.no_grad():
            module.layers.get_submodule(node.name).weight.fill_(-1e6)
        assert module.to_graph().by_name[node.name].weight.min() == least


def test_a_trained_graph_has_the_same_bits_on_the_machine():
    torch.manual_seed(0)
    images = torch.rand(20, 2, 6, 6)
    hardware = accelsim.load_hardware("edge_8x8", ["accumulator.width_bits=14"])
    module = EngineModule.from_module(network(), images, INT8, hardware)
    before = module.to_graph()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    for _ in range(3):
        module(images).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    graph = module.to_graph()
    assert (graph.by_name["0"].weight != before.by_name["0"].weight).any()
    program = accelsim.compile(graph, hardware, batch=20)
    assert accelsim.simulate(program, images.numpy()).outputs.tolist() == module.codes(images).tolist()


# --- gradients ---------------------------------------------------------------------------------------------


def gradient_error(bits: int) -> float:
    """Relative distance of all gradients from those of the float network with the same weights."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.AvgPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 5)).double()
    images = torch.rand(50, 2, 6, 6, dtype=torch.float64)
    scheme = accelsim.load_quantization("affine", [f"activation.bits={bits}"])
    module = EngineModule.from_module(model, images, scheme, WIDE, dtype=torch.float64)
    twin = copy.deepcopy(model)
    twin.load_state_dict({name: value.clone() for name, value in module.layers.state_dict().items()})
    for one in (module, twin):
        one(images).square().mean().backward()
    pairs = [(module.layers.get_parameter(name).grad, wanted.grad) for name, wanted in twin.named_parameters()]
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs)) ** 0.5


def test_gradient_tends_to_that_of_the_float_network_as_activations_get_finer():
    """Without overflow only the rounding of activations is between the two, and each bit halves it: 16 times from 4
    to 8 bits, of which the test asks for 6, as single roundings are random."""
    coarse, fine = gradient_error(4), gradient_error(8)
    assert fine < 0.02
    assert fine < coarse / 6


def test_gradient_of_one_layer_is_exactly_that_of_its_float_operation():
    """A layer alone: input codes and integer weights are exact in float64, so only the additions' order remains."""
    maker = GraphMaker(np.random.default_rng(7), FIXED)
    source = maker.input(7, 8, 4, zero_point=-3)
    maker.conv(source, 6, (3, 2), stride=(2, 1), padding=(1, 0, 1, 1), groups=2)
    maker.nodes[1] = dataclasses.replace(maker.nodes[1], clip=(-128, 127))
    graph = maker.graph()
    module = EngineModule(graph, WIDE, dtype=torch.float64)
    layer = module.layers.get_submodule(graph.output)
    images = images_of(graph, maker.codes(5), torch.float64).requires_grad_()
    weights = torch.randn(5, *graph.output_shape, dtype=torch.float64)
    (module(images) * weights).sum().backward()
    x, w, b = (t.detach().clone().requires_grad_() for t in (images, layer.weight, layer.bias))
    y = functional.conv2d(functional.pad(x, (1, 1, 1, 0)), w, b, stride=(2, 1), groups=2)
    zero = graph.nodes[1].output.zero_point
    inside = (y > 0.1 * (-128.5 - zero)) & (y < 0.1 * (127.5 - zero))
    assert 0.2 < inside.double().mean() < 1  # some are clipped
    (y * weights * inside).sum().backward()
    for mine, theirs in ((images, x), (layer.weight, w), (layer.bias, b)):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_gradient_through_pools_tables_additions_and_clips_is_that_of_the_float_operations():
    maker = GraphMaker(np.random.default_rng(2), FIXED)
    source = maker.input(6, 6, 2)
    table = maker.table(source)
    maker.nodes[-1] = dataclasses.replace(maker.last(), function="tanh")
    average = maker.pool(table, "avg", (3, 2), (2, 1), (1, 1, 1, 0), False)
    most = maker.pool(source, "max", (3, 2), (2, 1), (1, 1, 1, 0))
    maker.clip(maker.sum(average, most))
    maker.nodes[-2] = dataclasses.replace(maker.nodes[-2], clip=(-128, 127))
    graph = maker.graph()
    images = images_of(graph, maker.codes(4), torch.float64).requires_grad_()
    weights = torch.randn(4, *graph.output_shape, dtype=torch.float64)
    (EngineModule(graph, WIDE)(images) * weights).sum().backward()
    x = images.detach().clone().requires_grad_()
    values = execute(graph, quantize_input(graph, x.detach().numpy()), WIDE, nodes=[n.name for n in graph.nodes])
    add = graph.by_name[graph.output].inputs[0]
    zero = graph.by_name[add].output.zero_point
    total = torch.tensor(np.moveaxis(values[add], 3, 1).astype(float) - zero) * 0.2
    sums = functional.avg_pool2d(functional.pad(torch.tanh(x), (1, 0, 1, 1)), (3, 2), (2, 1), divisor_override=1)
    ones = functional.pad(torch.ones_like(x), (1, 0, 1, 1))
    mean = sums / functional.avg_pool2d(ones, (3, 2), (2, 1), divisor_override=1)
    padded = functional.pad(x, (1, 0, 1, 1), value=-torch.inf)
    # The addition sees the engine's operands, which decide what is clipped.
    real = [graph.by_name[name].output for name in graph.by_name[add].inputs]
    seen = sum(
        torch.tensor(np.moveaxis(values[name], 3, 1).astype(float) - t.zero_point) * t.scale
        for name, t in zip(graph.by_name[add].inputs, real, strict=True)
    )
    inside = (seen > 0.2 * (-128.5 - zero)) & (seen < 0.2 * (127.5 - zero)) & (total > 0)
    y = mean + functional.max_pool2d(padded, (3, 2), (2, 1))
    (y * weights * inside).sum().backward()
    assert 0.1 < inside.double().mean() < 1  # the clip cuts some
    torch.testing.assert_close(images.grad, x.grad, rtol=1e-12, atol=1e-12)


def test_gradient_of_an_unnamed_table_is_its_mean_slope():
    maker = GraphMaker(np.random.default_rng(2), FIXED, activation=IntFormat(4))
    maker.table(maker.input(1, 1, 16))
    entries = np.array([-8, -7, -7, -3, 0, 0, 1, 5, 5, 4, 3, 3, 7, 7, 7, 6])
    maker.nodes[-1] = dataclasses.replace(maker.last(), entries=entries)
    images = (torch.arange(-8, 8) * 0.05)[None].requires_grad_()
    EngineModule(maker.graph(), WIDE)(images).sum().backward()
    slope = [entries[min(i + 1, 15)] - entries[max(i - 1, 0)] for i in range(16)]
    expected = [s / (1 if i in (0, 15) else 2) * (1 / 128) / 0.05 for i, s in enumerate(slope)]
    assert images.grad[0].tolist() == pytest.approx(expected, rel=1e-6)  # float32


def test_outputs_that_overflow_changed_stop_the_gradient_unless_told_otherwise():
    """Two channels of K = 4, operands 100, in 14 bits os: 4 * 100 * 100 leaves -8192..8191, 4 * 100 * 10 does not."""
    maker = GraphMaker(np.random.default_rng(0), FIXED)
    maker.linear(maker.input(1, 1, 4), 2)
    node = dataclasses.replace(
        maker.last(),
        weight=np.repeat([[100], [10]], 4, axis=1),
        bias=np.zeros(2, dtype=np.int64),
        multiplier=maker.fixed(np.full(2, 2.0**-9)),  # 40,000 / 512 = 78 and 8,191 / 512 = 16: nothing is clipped
        output=dataclasses.replace(maker.last().output, zero_point=0),
        clip=(-128, 127),
    )
    maker.nodes[-1] = node
    graph = dataclasses.replace(maker.graph(), output_shape=(2,))
    images = torch.full((1, 4), 100 * 0.05)
    for arithmetic, through, wanted in (
        (narrow(14), False, [False, True]),
        (narrow(14), True, [True, True]),
        (narrow(20), False, [True, True]),
    ):
        module = EngineModule(graph, arithmetic, through_overflow=through)
        module(images).sum().backward()
        grad = module.layers.get_submodule(node.name).weight.grad
        assert (grad != 0).all(dim=1).tolist() == wanted
        assert grad[1].tolist() == pytest.approx([5.0] * 4)


def test_clamped_weights_and_inputs_have_no_gradient():
    graph = small_graph()
    module = EngineModule(graph, WIDE)
    layer = module.layers.get_submodule(graph.output)
    with torch.no_grad():
        layer.weight[0, 0] = 1e6
    images = (torch.rand(8, 3, 6, 6) * 10 - 5).requires_grad_()  # codes -100..100
    with torch.no_grad():
        images[0, 0, 0, 0] = 100.0  # beyond 127 * 0.05
    module(images).square().sum().backward()
    assert layer.weight.grad[0, 0] == 0
    assert images.grad[0, 0, 0, 0] == 0
    assert images.grad.count_nonzero() > 100


# --- a module like any other -------------------------------------------------------------------------------


def test_a_single_layer_stands_in_a_sequential_and_its_input_gets_a_gradient():
    torch.manual_seed(0)
    first, images = nn.Conv2d(1, 4, 3), torch.rand(30, 1, 8, 8)
    with torch.no_grad():
        seen = first(images)
    middle = EngineModule.from_module(nn.Conv2d(4, 6, 3), seen, INT8, narrow(16))
    assert list(dict(middle.named_parameters())) == ["layers.conv2d_1.weight", "layers.conv2d_1.bias"]
    model = nn.Sequential(first, middle, nn.Flatten(), nn.Linear(96, 3))
    model(images).square().sum().backward()
    assert first.weight.grad.count_nonzero() > 0
    assert EngineModule.from_module(nn.Linear(7, 2), np.random.default_rng(0).normal(size=(9, 7)), INT8, WIDE)(
        torch.rand(3, 7)
    ).shape == (3, 2)


def test_parameters_have_the_names_of_the_captured_models():
    model = network()
    module = EngineModule.from_module(model, torch.rand(9, 2, 6, 6), INT8, EDGE)
    assert list(module.layers.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        mine = module.layers.state_dict()[name]
        assert mine.shape == value.shape
        assert (mine - value).abs().max() <= 0.51 * value.abs().max() / 127  # half a step
    model.load_state_dict(module.layers.state_dict())


def test_state_dict_deepcopy_modes_and_repr():
    graph, images = small_graph(), torch.rand(4, 3, 6, 6) * 6
    module, other = EngineModule(graph, narrow(16)), EngineModule(graph, narrow(16))
    twin = copy.deepcopy(module)
    untouched = module(images)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)
    changed = module(images)
    assert not torch.equal(changed, untouched)
    assert torch.equal(twin(images), untouched)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(images), changed)
    assert torch.equal(EngineModule(module.to_graph(), narrow(16))(images), changed)
    assert torch.equal(module.eval()(images), module.train()(images))
    assert module(images).requires_grad
    with torch.no_grad():
        assert not module(images).requires_grad
    module.requires_grad_(False)
    assert not module(images).requires_grad
    assert "16-bit accumulator, saturate at every add" in repr(module)
    assert "conv2d, weight (4, 3, 3, 3) in 8 bits" in repr(module)


def test_a_frozen_layer_gets_no_gradient_and_the_others_do():
    module = EngineModule(small_graph(), narrow(16))
    first, last = module.layers.children()
    first.requires_grad_(False)
    module(torch.rand(4, 3, 6, 6) * 6).sum().backward()
    assert first.weight.grad is None
    assert last.weight.grad is not None


def test_the_machine_may_be_exchanged():
    module, images = EngineModule(small_graph(), WIDE), torch.rand(9, 3, 6, 6) * 6
    wide = module.codes(images)
    module.arithmetic = accelsim.load_hardware("edge_8x8", ["accumulator.width_bits=10"])
    assert module.arithmetic.width_bits == 10
    assert not torch.equal(module.codes(images), wide)


def test_it_holds_biases_that_float32_does_not_in_float64_and_says_so():
    """Odd numbers beyond 2**24 are not float32's."""
    graph = small_graph()
    node = dataclasses.replace(graph.nodes[2], bias=np.full(5, 2**30 + 1))
    graph = dataclasses.replace(graph, nodes=(*graph.nodes[:2], node))
    assert refusal(EngineModule, graph, WIDE) == (
        "random: linear2: torch.float32 does not hold its weights and biases; use dtype = torch.float64"
    )
    assert EngineModule(graph, WIDE, dtype=torch.float64).to_graph().nodes[2].bias.tolist() == [2**30 + 1] * 5


def test_what_cannot_be_run_is_refused_in_one_line():
    graph, images = small_graph(), torch.rand(2, 3, 6, 6)
    module = EngineModule(graph, WIDE)
    assert refusal(module, images.numpy()) == "input: is ndarray; give a torch tensor"
    assert refusal(module, images.double()) == (
        "layers.conv1.weight: is torch.float32 and the input torch.float64; convert one with .to()"
    )
    assert refusal(module, images.half()) == "input: is torch.float16; use torch.float32 or torch.float64"
    assert refusal(module, images.to("meta")) == "input: is on meta; the engine runs on the CPU, so move it there"
    assert refusal(module, images[:, :2]).startswith("input: shape (2, 2, 6, 6) is not (batch, C, H, W)")
    assert refusal(module, images * torch.nan) == "input: holds NaN or infinite values; remove them"
    assert "and N of at least 1" in refusal(module, images[:0])
    assert refusal(copy.deepcopy(module).half(), images).startswith("layers.conv1.weight: is torch.float16")
    with torch.no_grad():
        module.layers.linear2.bias[3] = 1e30
    assert refusal(module, images).startswith("random: linear2: bias of channel 3 is ")
    with torch.no_grad():
        module.layers.linear2.bias[3] = torch.nan
    assert refusal(module.to_graph) == "random: linear2: bias holds NaN or infinite values; lower the learning rate"


def test_what_cannot_be_wrapped_is_refused_in_one_line():
    graph = small_graph()
    with pytest.raises(InputError, match=r"^dtype = torch.float16 is not torch.float32 or torch.float64$"):
        EngineModule(graph, WIDE, dtype=torch.float16)
    conv, linear = graph.nodes[1:]
    wide = dataclasses.replace(
        graph, nodes=(graph.nodes[0], conv, dataclasses.replace(linear, accumulator_width_bits=40))
    )
    assert refusal(EngineModule, wide, WIDE) == (
        "random: linear2: accumulator_width_bits = 40 exceeds the hardware's 32; use a wider accumulator"
    )
    odd = dataclasses.replace(linear, name="train")
    odd = dataclasses.replace(graph, nodes=(graph.nodes[0], conv, odd), output="train")
    assert refusal(EngineModule, odd, WIDE) == (
        "graph random: node name 'train' cannot be a path of modules in PyTorch; rename the node"
    )
    zero = dataclasses.replace(linear.multiplier, real=np.zeros(5))
    unreal = dataclasses.replace(graph, nodes=(graph.nodes[0], conv, dataclasses.replace(linear, multiplier=zero)))
    assert refusal(EngineModule, unreal, WIDE) == (
        "random: linear2: real multipliers 0.0..0.0 must be positive and finite"
    )
    assert refusal(EngineModule.from_module, nn.Linear(3, 2), np.zeros(3), INT8, WIDE) == (
        "calibration: float64 (3,) must hold real numbers (N, C, H, W) or (N, K), N >= 1"
    )
